/* Writes into an object that it has freed: run it with --append slub_debug to see it caught. */
#include <linux/module.h>
#include <linux/slab.h>

static int __init use_init(void)
{
    volatile char *object = kmalloc(128, GFP_KERNEL);
    if (!object)
        return -ENOMEM;
    kfree((void *)object);
    object[10] = 'X';
    void *again[64]; /* the object is given out again, and found changed */
    for (int i = 0; i < 64; i++)
        again[i] = kmalloc(128, GFP_KERNEL);
    for (int i = 0; i < 64; i++)
        kfree(again[i]);
    return 0;
}

static void __exit use_exit(void)
{
}

module_init(use_init);
module_exit(use_exit);
MODULE_LICENSE("MIT");
