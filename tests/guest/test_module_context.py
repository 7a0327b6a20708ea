"""What a module may not do where: sleeping in atomic context, BUG, WARN, locks, interrupts."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from guest_kit import Kernel, load

from emu.stop import Stop, StopReason
from guest import build

Machines = Callable[..., Kernel]
SLEEPING = r"BUG: sleeping function called from invalid context at .*:\d+"


def module(body: str, above: str = "") -> str:
    return f"""
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
static DEFINE_SPINLOCK(lock);
static DEFINE_MUTEX(mutex);
static unsigned long flags;
{above}
static noinline int __init guilty(void)
{{
    {body}
    return 0;
}}
module_init(guilty);
MODULE_LICENSE("GPL");
"""


def run(k: Kernel, body: str, above: str = "") -> Stop:
    return k.insert(load(build.MODULE, module(body, above)))


def found(k: Kernel, pattern: str) -> int:
    return sum(bool(re.fullmatch(pattern, line)) for line in k.log)


SLEEPS = {
    "kmalloc": "kfree(kmalloc(64, GFP_KERNEL));",
    "kzalloc": "kfree(kzalloc(64, GFP_KERNEL));",
    "page": "__free_page(alloc_page(GFP_KERNEL));",
    "vmalloc": "vfree(vmalloc(100));",
    "cache": 'kmem_cache_destroy(kmem_cache_create("mine", 64, 0, 0, NULL));',
    "mutex": "mutex_lock(&mutex); mutex_unlock(&mutex);",
    "msleep": "msleep(1);",
    "might_sleep": "might_sleep();",
    "rcu": "synchronize_rcu();",
}
CONTEXTS = {
    "spinlock": ("spin_lock(&lock);", "spin_unlock(&lock);", (1, 0)),
    "irqs": ("local_irq_save(flags);", "local_irq_restore(flags);", (0, 1)),
    "both": ("spin_lock_irqsave(&lock, flags);", "spin_unlock_irqrestore(&lock, flags);", (1, 1)),
    "bh": ("local_bh_disable();", "local_bh_enable();", (1, 0)),
}


@pytest.mark.parametrize("context", CONTEXTS)
def test_sleeping_in_atomic_context_is_reported(machines: Machines, context: str) -> None:
    enter, leave, (atomic, off) = CONTEXTS[context]
    above = "".join(
        f"static noinline void do_{name}(void) {{ {body} barrier(); }}\n"
        for name, body in SLEEPS.items()
    )
    calls = "".join(f'pr_info("{name}\\n"); do_{name}();\n' for name in SLEEPS)
    k = machines()
    assert run(k, f"{calls} {enter} {calls} {leave} {calls}", above).value == 0
    # First outside: nothing. Then inside: one report at least for each. Then nothing again.
    names = list(SLEEPS)
    assert k.log[: len(names)] == names and k.log[-len(names) :] == names
    inside = k.log[len(names) : -len(names)]
    starts = [inside.index(name) for name in names]
    for name, start, end in zip(names, starts, [*starts[1:], len(inside)], strict=True):
        part = inside[start + 1 : end]
        assert re.fullmatch(SLEEPING, part[0]), (name, part)
        assert part[1] == (
            f"in_atomic(): {atomic}, irqs_disabled(): {off}, non_block: 0, pid: 0, name: swapper"
        )
        assert any(re.search(rf"do_{name}\+0x[0-9a-f]+/0x[0-9a-f]+ \[", line) for line in part)
    assert len(k.system.bugs) >= len(names)
    assert all(re.fullmatch(SLEEPING, bug) for bug in k.system.bugs)


def test_what_does_not_sleep_is_no_bug(machines: Machines) -> None:
    k = machines()
    body = """
    spin_lock_irqsave(&lock, flags);
    void *object = kmalloc(64, GFP_ATOMIC), *other = kmalloc(64, GFP_NOWAIT);
    struct page *page = alloc_page(GFP_ATOMIC);
    mdelay(1);
    udelay(1);
    kfree(object);
    kfree(other);
    __free_page(page);
    if (!mutex_trylock(&mutex))
        return -EINVAL;
    mutex_unlock(&mutex);
    spin_unlock_irqrestore(&lock, flags);
    rcu_read_lock();
    rcu_read_unlock();
    """
    assert run(k, body).value == 0
    assert k.log == [] and k.system.bugs == []


def test_interrupts_are_masked_while_they_are_off(machines: Machines) -> None:
    """A software interrupt that is pending waits for the lock to be given back, no longer."""
    k = machines()
    body = """
    spin_lock_irqsave(&lock, flags);
    __asm__ volatile("csrs sie, %0; csrs sip, %0" ::"r"(2ul)); /* SSIE, SSIP */
    pr_info("pending, and not taken\\n");
    spin_unlock_irqrestore(&lock, flags);
    pr_info("never\\n");
    """
    stop = run(k, body)
    assert k.log == ["pending, and not taken"]
    assert stop.reason is StopReason.FAULT and stop.trap is not None
    assert stop.trap.interrupt and stop.trap.cause == 1
    # Whoever takes it away before is not interrupted at all.
    k = machines()
    done = body.replace(
        "    spin_unlock", '    __asm__ volatile("csrc sip, %0" ::"r"(2ul));\n    spin_unlock'
    )
    assert run(k, done).value == 0
    assert k.log == ["pending, and not taken", "never"]


def test_bug_ends_the_machine_where_it_is(machines: Machines) -> None:
    k = machines()
    stop = run(k, "BUG_ON(1 + 1 == 2);")
    assert stop.reason is StopReason.FAULT and stop.trap is not None
    assert stop.trap.cause == 3  # breakpoint: ebreak, as in Linux on RISC-V
    assert k.log[0] == "------------[ cut here ]------------"
    assert re.fullmatch(r"kernel BUG at .*guest\.c:\d+!", k.log[1])
    assert any("guilty+0x" in line for line in k.log)
    assert k.system.bugs == [k.log[1]]


def test_warn_goes_on(machines: Machines) -> None:
    k = machines()
    body = """
    for (int i = 0; i < 3; i++) {
        if (!WARN_ONCE(i >= 1, "i is %d\\n", i) != (i < 1))
            return -EINVAL;
    }
    if (WARN_ON(0) || !WARN_ON(2) || WARN(0, "no\\n"))
        return -EINVAL;
    """
    assert run(k, body).value == 0
    assert found(k, "i is 1") == 1
    warnings = [line for line in k.log if line.startswith("WARNING: ")]
    pattern = r"WARNING: CPU: 0 PID: 0 at .*guest\.c:\d+ guilty\+0x[0-9a-f]+/0x[0-9a-f]+ \[\w+\]"
    assert len(warnings) == 2 and all(re.fullmatch(pattern, line) for line in warnings), warnings
    assert k.system.bugs == warnings
    assert k.log.count("---[ end trace 0000000000000000 ]---") == 2


def test_panic(machines: Machines) -> None:
    k = machines()
    stop = run(k, 'panic("no %s", "more");')
    assert stop.reason is StopReason.FAULT
    assert k.log[0] == "Kernel panic - not syncing: no more"
    assert k.system.bugs == k.log[:1]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("spin_lock(&lock); spin_lock(&lock); spin_unlock(&lock); preempt_enable();", "recursion"),
        ("preempt_disable(); spin_unlock(&lock);", "already unlocked"),
        (
            "spinlock_t *zero = kzalloc(sizeof(*zero), GFP_KERNEL); spin_lock(zero); "
            "zero->magic = SPINLOCK_MAGIC; spin_unlock(zero); kfree(zero);",
            "bad magic",
        ),
    ],
)
def test_misused_spinlocks(machines: Machines, body: str, what: str) -> None:
    k = machines()
    assert run(k, body).value == 0
    assert k.system.bugs == [f"BUG: spinlock {what} on CPU#0, swapper/0"]
    assert found(k, r" lock: (lock\+0x0/0x[0-9a-f]+ \[\w+\]|0x[0-9a-f]+), \.magic: [0-9a-f]{8}, .*")


def test_a_mutex_taken_twice_is_the_end(machines: Machines) -> None:
    k = machines()
    stop = run(k, "mutex_lock(&mutex); mutex_lock(&mutex);")
    assert stop.reason is StopReason.FAULT
    assert len(k.system.bugs) == 1
    assert re.fullmatch(
        r"INFO: task swapper:0 blocked for good: mutex_lock\(mutex\+0x0/0x\w+ \[\w+\]\) waits for "
        "what the task itself holds",
        k.system.bugs[0],
    )


def test_a_lock_that_init_keeps_is_said_and_put_right(machines: Machines) -> None:
    k = machines()
    assert run(k, "spin_lock_irqsave(&lock, flags);").value == 0
    assert len(k.system.bugs) == 1
    assert re.fullmatch(
        r"WARNING: initcall guilty\+0x0/0x\w+ \[\w+\] returned with preemption imbalance "
        "disabled interrupts ",
        k.system.bugs[0],
    )
    # The next one begins with a clean slate.
    assert run(k, "might_sleep();").value == 0
    assert len(k.system.bugs) == 1


def test_current_is_the_program_that_loads_it(machines: Machines) -> None:
    from guest_kit import guest

    k = machines()
    process = k.load(guest("insmod"))
    body = 'pr_info("%s %d %lu\\n", current->comm, current->pid, (unsigned long)current->mm->asid);'
    assert run(k, body).value == 0
    assert k.log == [f"insmod {process.pid} {process.mm.asid}"]


def test_reference_counts_that_go_wrong_are_said(machines: Machines) -> None:
    k = machines()
    body = """
    refcount_t r = REFCOUNT_INIT(0);
    refcount_inc(&r);
    """
    assert run(k, body, "#include <linux/refcount.h>").value == 0
    assert k.log[1] == "refcount_t: addition on 0; use-after-free."
    assert len(k.system.bugs) == 1
