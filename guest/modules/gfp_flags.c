/* GFP flags: clearing, context, sizes that are too large or zero, and what is refused. */
#include <linux/gfp.h>
#include <linux/module.h>
#include <linux/slab.h>

static int __init gfp_init(void)
{
    int wrong = 0;
    unsigned char *object = kmalloc(256, GFP_KERNEL);
    if (!object)
        return -ENOMEM;
    memset(object, 0xff, 256);
    kfree(object);
    object = kmalloc(256, GFP_KERNEL | __GFP_ZERO);
    for (int i = 0; i < 256; i++)
        wrong |= object[i];
    printk("gfp_flags: __GFP_ZERO gives %s\n", wrong ? "old bytes" : "zeros");
    kfree(object);

    object = kmalloc(64, GFP_ATOMIC);
    wrong |= !object;
    kfree(object);
    void *nothing = kmalloc(0, GFP_KERNEL), *huge = kmalloc(8ul << 20, GFP_KERNEL | __GFP_NOWARN);
    printk("gfp_flags: kmalloc(0) = %px, kmalloc(8 MiB) = %px\n", nothing, huge);
    wrong |= nothing != ZERO_SIZE_PTR || huge != NULL;
    kfree(nothing);
    wrong |= alloc_pages(GFP_KERNEL | __GFP_DMA | __GFP_DMA32, 0) != NULL;
    return wrong ? -EINVAL : 0;
}

static void __exit gfp_exit(void)
{
}

module_init(gfp_init);
module_exit(gfp_exit);
MODULE_LICENSE("MIT");
