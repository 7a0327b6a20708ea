/* Spinlocks, with and without interrupts, and what they say about the context.
 * init: free: atomic 0 irqs off 0
 * init: held: atomic 1 irqs off 0 locked 1 again 0
 * init: irqsave: atomic 1 irqs off 1
 * init: nested: irqs off 1 1 0
 * init: bh: softirq 1
 * init: readers 2, a writer 0, then 1
 * init: after: atomic 0 irqs off 0
 */
#include <linux/interrupt.h>
#include <linux/module.h>
#include <linux/spinlock.h>

static DEFINE_SPINLOCK(fixed);
static spinlock_t made;
static DEFINE_RWLOCK(shared);

static int __init spin_init(void)
{
    unsigned long flags, outer;
    int a, b;
    spin_lock_init(&made);
    pr_info("free: atomic %d irqs off %d\n", in_atomic(), irqs_disabled());
    spin_lock(&fixed);
    pr_info("held: atomic %d irqs off %d locked %d again %d\n", in_atomic(), irqs_disabled(),
            spin_is_locked(&fixed), spin_trylock(&fixed));
    spin_unlock(&fixed);
    spin_lock_irqsave(&made, flags);
    pr_info("irqsave: atomic %d irqs off %d\n", in_atomic(), irqs_disabled());
    spin_unlock_irqrestore(&made, flags);
    local_irq_save(outer);
    spin_lock_irqsave(&made, flags);
    a = irqs_disabled();
    spin_unlock_irqrestore(&made, flags);
    b = irqs_disabled();
    local_irq_restore(outer);
    pr_info("nested: irqs off %d %d %d\n", a, b, irqs_disabled());
    spin_lock_bh(&fixed);
    pr_info("bh: softirq %d\n", in_softirq() != 0);
    spin_unlock_bh(&fixed);
    read_lock(&shared);
    read_lock(&shared);
    a = write_trylock(&shared);
    pr_info("readers %u, a writer %d, ", shared.slock, a);
    read_unlock(&shared);
    read_unlock(&shared);
    a = write_trylock(&shared);
    pr_cont("then %d\n", a);
    write_unlock(&shared);
    pr_info("after: atomic %d irqs off %d\n", in_atomic(), irqs_disabled());
    return 0;
}

static void __exit spin_exit(void)
{
}

module_init(spin_init);
module_exit(spin_exit);
MODULE_LICENSE("GPL");
