/* kmalloc's size classes: what was asked, what was given, and what that wastes. */
#include <linux/module.h>
#include <linux/slab.h>

static int __init sizes_init(void)
{
    static const unsigned short sizes[] = {1, 8, 9, 33, 65, 97, 129, 193, 300, 1025, 5000, 9000};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *object = kmalloc(sizes[i], GFP_KERNEL);
        if (!object)
            return -ENOMEM;
        unsigned long given = ksize(object);
        printk("kmalloc_sizes: %5u bytes asked, %5lu given at %px\n", sizes[i], given,
               (void *)object);
        if (given < sizes[i])
            return -EINVAL;
        memset(object, 0x55, given);
        kfree(object);
    }
    return 0;
}

static void __exit sizes_exit(void)
{
}

module_init(sizes_init);
module_exit(sizes_exit);
MODULE_LICENSE("MIT");
