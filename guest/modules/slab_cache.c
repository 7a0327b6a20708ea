/* A cache of its own, with a constructor: objects come constructed and keep their state. */
#include <linux/module.h>
#include <linux/slab.h>

struct thing {
    long magic;
    long used;
    char rest[80];
};

static int constructed;

static void construct(void *object)
{
    struct thing *thing = object;
    thing->magic = 0x7468696e67;
    thing->used = 0;
    constructed++;
}

static int __init cache_init(void)
{
    struct kmem_cache *cache = kmem_cache_create("thing", sizeof(struct thing), 0, 0, construct);
    struct thing *thing[40];
    int wrong = 0;
    if (!cache)
        return -ENOMEM;
    for (int i = 0; i < 40; i++) {
        thing[i] = kmem_cache_alloc(cache, GFP_KERNEL);
        if (!thing[i])
            return -ENOMEM;
        wrong |= thing[i]->magic != 0x7468696e67;
        thing[i]->used = i;
    }
    printk("slab_cache: %d objects constructed for 40 used, %u bytes apart\n", constructed,
           cache->size);
    wrong |= constructed < 40;
    for (int i = 0; i < 40; i++)
        wrong |= thing[i]->used != i;
    for (int i = 0; i < 40; i++)
        kmem_cache_free(cache, thing[i]);
    kmem_cache_destroy(cache);
    return wrong ? -EINVAL : 0;
}

static void __exit cache_exit(void)
{
}

module_init(cache_init);
module_exit(cache_exit);
MODULE_LICENSE("MIT");
