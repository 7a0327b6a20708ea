/* What the kernel does when a task traps: timer, system calls, faults. */
#include "tiny.h"

#define SUPERVISOR_TIMER (1ul << 63 | 5) /* in scause: an interrupt, number 5 */
#define ECALL_FROM_U 8
#define SIE_STIE (1ul << 5)
#define SSTATUS_SPIE (1ul << 5) /* sret will enable interrupts */
#define SSTATUS_SPP (1ul << 8)  /* sret will stay in S-mode */
#define SSTATUS_FS (3ul << 13)  /* 0: floating-point instructions are illegal */

/* In the order of scause. Those left out do not come to S-mode, or are no causes. */
static const char *const exceptions[16] = {
    "instruction address misaligned", "instruction access fault", "illegal instruction",
    "breakpoint", "load address misaligned", "load access fault", "store address misaligned",
    "store access fault", [12] = "instruction page fault", "load page fault",
    [15] = "store page fault",
};

static unsigned long interval; /* ticks of `time` from one interrupt to the next */

/* Starts the timer. It interrupts user mode only: sstatus.SIE is clear, and stays so. As struct
 * frame has no floating-point registers, tasks may not use them. */
void timer_start(unsigned long timebase)
{
    interval = timebase / HZ;
    csr_write(sstatus, (csr_read(sstatus) & ~(SSTATUS_SPP | SSTATUS_FS)) | SSTATUS_SPIE);
    csr_write(sie, SIE_STIE);
    sbi_set_timer(csr_read(time) + interval);
}

/* The firmware wants a PA. So the text is found page by page, by walking the task's table as
 * the hart would: no address gets through that the task could not read itself. */
static long sys_write(long fd, unsigned long text, unsigned long size)
{
    if (fd != 1)
        return -EBADF;
    for (unsigned long done = 0, part; done < size; done += part) {
        const char *at = vm_readable(current->root, text + done);
        if (!at)
            return done ? (long)done : -EFAULT;
        part = PAGE_SIZE - (text + done) % PAGE_SIZE;
        part = part < size - done ? part : size - done;
        console_write(at, part);
    }
    return (long)size;
}

static struct frame *system_call(struct frame *task)
{
    task->pc += 4; /* behind the ecall */
    switch (task->a7) {
    case SYS_exit:
        printf("tiny: task %ld exits with %ld\n", current->number, (long)task->a0);
        return task_end(EXITED);
    case SYS_sched_yield:
        task->a0 = 0;
        return schedule();
    case SYS_write:
        task->a0 = (unsigned long)sys_write((long)task->a0, task->a1, task->a2);
        break;
    case SYS_getticks:
        task->a0 = ticks;
        break;
    default:
        task->a0 = (unsigned long)-ENOSYS;
    }
    return task;
}

/* From entry.S, with the registers of the task that trapped; returns those to go on with. */
struct frame *trap(struct frame *task)
{
    unsigned long cause = csr_read(scause);
    if (cause == SUPERVISOR_TIMER) {
        ticks++;
        sbi_set_timer(csr_read(time) + interval);
        struct task *before = current;
        task = schedule();
        before->preempted += before != current;
        return task;
    }
    if (cause == ECALL_FROM_U)
        return system_call(task);
    printf("tiny: task %ld killed: %s, scause %lu, stval %p, sepc %p\n", current->number,
           exceptions[cause % 16], cause, (void *)csr_read(stval), (void *)task->pc);
    return task_end(KILLED);
}

/* From entry.S: the kernel itself trapped, which is a bug. */
void kernel_fault(void)
{
    unsigned long cause = csr_read(scause);
    panic("%s, scause %lu, stval %p, sepc %p\n", exceptions[cause % 16], cause,
          (void *)csr_read(stval), (void *)csr_read(sepc));
}
