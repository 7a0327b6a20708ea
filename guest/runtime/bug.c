/* Reports: BUG, WARN, locks, and sleeping where nobody may. */
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/utsname.h>

#include "module.h"

static void where_from(const void *pc)
{
    printk(KERN_WARNING "CPU: 0 UID: 0 PID: %d Comm: %s %s %s\n", current->pid, current->comm,
           utsname()->release, utsname()->version);
    printk(KERN_WARNING "Call Trace:\n[<%016lx>] %pB\n", (unsigned long)pc, pc);
}

void dump_stack(void)
{
    where_from(__builtin_return_address(0));
}

void __bug(const char *file, int line)
{
    printk(KERN_WARNING "------------[ cut here ]------------\n");
    report_bug(KERN_CRIT "kernel BUG at %s:%d!\n", file, line);
    where_from(__builtin_return_address(0));
}

void __warn(const char *file, int line, const char *format, ...)
{
    const void *pc = __builtin_return_address(0);
    printk(KERN_WARNING "------------[ cut here ]------------\n");
    if (format) {
        va_list arguments;
        va_start(arguments, format);
        vprintk(format, arguments);
        va_end(arguments);
    }
    report_bug(KERN_WARNING "WARNING: CPU: 0 PID: %d at %s:%d %pB\n", current->pid, file, line, pc);
    where_from(pc);
    printk(KERN_WARNING "---[ end trace 0000000000000000 ]---\n");
}

void panic(const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    report_bug(KERN_EMERG "Kernel panic - not syncing: %s\n", text);
    where_from(__builtin_return_address(0));
    local_irq_disable();
    for (;;)
        __asm__ volatile("ebreak");
}

void __might_sleep(const char *file, int line)
{
    int off = irqs_disabled();
    if (!preempt_count() && !off)
        return;
    report_bug(KERN_ERR "BUG: sleeping function called from invalid context at %s:%d\n", file,
               line);
    printk(KERN_ERR "in_atomic(): %d, irqs_disabled(): %d, non_block: 0, pid: %d, name: %s\n",
           in_atomic(), off, current->pid, current->comm);
    printk(KERN_ERR "preempt_count: %x, expected: 0\n", preempt_count());
    where_from(__builtin_return_address(0));
}

void spin_bug(spinlock_t *lock, const char *what)
{
    struct task_struct *owner = lock->magic == SPINLOCK_MAGIC ? lock->owner : NULL;
    report_bug(KERN_EMERG "BUG: spinlock %s on CPU#0, %s/%d\n", what, current->comm, current->pid);
    printk(KERN_EMERG " lock: %pS, .magic: %08x, .owner: %s/%d, .owner_cpu: %d\n", lock,
           lock->magic, owner ? owner->comm : "<none>", owner ? owner->pid : -1, owner ? 0 : -1);
    where_from(__builtin_return_address(0));
}

void wait_forever(const char *what, const void *lock)
{
    report_bug(KERN_ERR "INFO: task %s:%d blocked for good: %s(%pS) waits for what the task itself holds\n",
               current->comm, current->pid, what, lock);
    where_from(__builtin_return_address(0));
    for (;;)
        __asm__ volatile("ebreak");
}

int ___ratelimit(struct ratelimit_state *state, const char *function)
{
    if (!state->begin || time_after(jiffies, state->begin + (unsigned long)state->interval)) {
        if (state->missed)
            printk(KERN_WARNING "%s: %d callbacks suppressed\n", function, state->missed);
        state->begin = jiffies;
        state->printed = state->missed = 0;
    }
    if (state->printed < state->burst) {
        state->printed++;
        return 1;
    }
    state->missed++;
    return 0;
}

/* The one task: nobody wakes it, and the time passes. */
long schedule_timeout(long timeout)
{
    might_sleep();
    for (unsigned long end = jiffies + (unsigned long)timeout; time_before(jiffies, end);)
        barrier();
    current->state = TASK_RUNNING;
    return 0;
}

long schedule_timeout_interruptible(long timeout)
{
    return schedule_timeout(timeout);
}

long schedule_timeout_uninterruptible(long timeout)
{
    return schedule_timeout(timeout);
}
