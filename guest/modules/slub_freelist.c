/* SLUB: the freelist is threaded through the free objects; this follows it. */
#include <linux/module.h>
#include <linux/slab.h>

static int __init freelist_init(void)
{
    void *object = kmalloc(192, GFP_KERNEL);
    if (!object)
        return -ENOMEM;
    struct slab *slab = (struct slab *)compound_head(virt_to_page(object));
    const struct kmem_cache *cache = slab->slab_cache;
    if (!cache || cache->cpu_slab->slab != slab) {
        printk("slub_freelist: not SLUB's CPU slab (another allocator, or debugging)\n");
        kfree(object);
        return 0;
    }
    unsigned int objects = slab->counters >> 16 & 0x7fff, free = 0;
    for (void *p = cache->cpu_slab->freelist; p && free <= objects;
         p = *(void **)((char *)p + cache->offset))
        free++;
    printk("slub_freelist: %s: %u objects of %u bytes a slab, %u free on the CPU's list\n",
           cache->name, objects, cache->size, free);
    printk("slub_freelist: the next pointer lies %u bytes into a free object\n", cache->offset);
    kfree(object);
    return free < objects ? 0 : -EINVAL;
}

static void __exit freelist_exit(void)
{
}

module_init(freelist_init);
module_exit(freelist_exit);
MODULE_LICENSE("MIT");
