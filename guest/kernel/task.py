"""The task that a module runs for: `struct task_struct`, at the top of the kernel stack.

    stack + STACK_SIZE   ------------------------
                         struct task_struct; tp points here (Linux: riscv_current_is_tp)
    sp at entry          ------------------------
                         the module's frames, downwards

It is what `current` points at, and where guest code counts what must not sleep: the preempt
count, and whether interrupts are off. Source: Linux include/linux/sched.h,
arch/riscv/include/asm/thread_info.h, include/linux/preempt.h.
"""

from __future__ import annotations

from mm.layout import Struct, chars, nested, ptr, s32, u32, u64
from mm.page_ext import TASK_COMM_LEN


class ThreadInfo(Struct, c_name="thread_info"):
    """What every lock touches. All of it 0: the task may sleep."""

    preempt_count = s32()  # preemption off in bits 0-7, softirqs 8-15, hardirqs 16-19
    hardirqs_disabled = u32()  # as lockdep notes it, at local_irq_disable
    flags = u64()


class TaskStruct(Struct, c_name="task_struct", size=128):
    """A task, as far as a module sees it."""

    thread_info = nested(ThreadInfo)
    state = u32()  # Linux: __state
    flags = u32()
    stack = ptr()
    mm = ptr("struct mm_struct")
    active_mm = ptr("struct mm_struct")
    prio = s32()
    static_prio = s32()
    normal_prio = s32()
    pid = s32()
    tgid = s32()
    exit_state = s32()
    group_leader = ptr("struct task_struct")
    start_time = u64()
    comm = chars(TASK_COMM_LEN)


_HEAD = """\
/* Generated from guest/kernel/task.py when the package is built. Do not edit. */
#ifndef PAGEWALK_TASK_H
#define PAGEWALK_TASK_H

#include <pagewalk/mm_types.h>

"""
_TAIL = """
register struct task_struct *current_task __asm__("tp");
#define current current_task
#define current_thread_info() (&current->thread_info)

/* Report whoever gets here with a lock held or interrupts off. */
void __might_sleep(const char *file, int line);

static inline int may_not_block(void)
{
    return *(const volatile uint64_t *)current_thread_info() != 0;
}

#define might_block() \\
    do { \\
        if (__builtin_expect(may_not_block(), 0)) \\
            __might_sleep(__FILE__, __LINE__); \\
    } while (0)
#define might_alloc(gfp) \\
    do { \\
        if ((gfp) & __GFP_DIRECT_RECLAIM) \\
            might_block(); \\
    } while (0)

#endif
"""


def c_header() -> str:
    """The text of pagewalk/task.h."""
    return _HEAD + ThreadInfo.c_definition() + TaskStruct.c_definition() + _TAIL
