/* Writes one byte behind its object: run it with --append slub_debug to see it caught. */
#include <linux/module.h>
#include <linux/slab.h>

static int __init overflow_init(void)
{
    volatile char *object = kmalloc(60, GFP_KERNEL);
    if (!object)
        return -ENOMEM;
    object[64] = 'X'; /* the object is 64 bytes long */
    kfree((void *)object);
    return 0;
}

static void __exit overflow_exit(void)
{
}

module_init(overflow_init);
module_exit(overflow_exit);
MODULE_LICENSE("MIT");
