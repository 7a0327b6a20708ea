/* Errors in pointers, reference counts, and what EXPORT_SYMBOL and THIS_MODULE do.
 * init: error -12 1 0, none 0
 * init: guest: -EINVAL, or null 1
 * init: released after 2 puts
 * init: added 10
 */
#include <linux/err.h>
#include <linux/export.h>
#include <linux/kref.h>
#include <linux/module.h>

static int released;

int add_ten(int n)
{
    return n + 10;
}
EXPORT_SYMBOL_GPL(add_ten);

static void release(struct kref *kref)
{
    released = 1;
}

static int __init errors_init(void)
{
    void *bad = ERR_PTR(-ENOMEM);
    struct kref kref;
    int puts = 0;
    pr_info("error %ld %d %d, none %d\n", PTR_ERR(bad), IS_ERR(bad), IS_ERR(&kref),
            PTR_ERR_OR_ZERO(&kref));
    pr_info("%s: %pe, or null %d\n", THIS_MODULE->name, ERR_PTR(-EINVAL), IS_ERR_OR_NULL(NULL));
    kref_init(&kref);
    kref_get(&kref);
    do
        puts++;
    while (!kref_put(&kref, release));
    pr_info("%s after %d puts\n", released ? "released" : "kept", puts);
    pr_info("added %d\n", add_ten(0));
    return 0;
}

static void __exit errors_exit(void)
{
}

module_init(errors_init);
module_exit(errors_exit);
MODULE_LICENSE("GPL");
