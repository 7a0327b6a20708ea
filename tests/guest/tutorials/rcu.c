/* A pointer under RCU, replaced, and the old object freed after the readers.
 * init: read 1, then 2
 * exit: last 2
 */
#include <linux/module.h>
#include <linux/rculist.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

struct config {
    int value;
};

static struct config __rcu *active;
static DEFINE_SPINLOCK(lock);

static int read_value(void)
{
    struct config *config;
    int value;
    rcu_read_lock();
    config = rcu_dereference(active);
    value = config ? config->value : 0;
    rcu_read_unlock();
    return value;
}

static int update(int value)
{
    struct config *new = kmalloc(sizeof(*new), GFP_KERNEL), *old;
    if (!new)
        return -ENOMEM;
    new->value = value;
    spin_lock(&lock);
    old = rcu_dereference_protected(active, lockdep_is_held(&lock));
    rcu_assign_pointer(active, new);
    spin_unlock(&lock);
    synchronize_rcu();
    kfree(old);
    return 0;
}

static int __init rcu_init(void)
{
    int error = update(1), first = read_value();
    if (error || update(2))
        return -ENOMEM;
    pr_info("read %d, then %d\n", first, read_value());
    return 0;
}

static void __exit rcu_exit(void)
{
    pr_info("last %d\n", read_value());
    kfree(active);
}

module_init(rcu_init);
module_exit(rcu_exit);
MODULE_LICENSE("GPL");
