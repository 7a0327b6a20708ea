/* A cache of one's own, as examples make them.
 * init: two objects, 64 apart or more: 1, sizes 40 40
 * init: zeroed 1
 * exit: given back
 */
#include <linux/init.h>
#include <linux/module.h>
#include <linux/slab.h>

struct record {
    int id;
    char name[36];
};

static struct kmem_cache *cache;
static struct record *one, *two;

static int __init caches_init(void)
{
    cache = kmem_cache_create("records", sizeof(struct record), 0,
                              SLAB_HWCACHE_ALIGN | SLAB_RECLAIM_ACCOUNT | SLAB_PANIC, NULL);
    if (!cache)
        return -ENOMEM;
    one = kmem_cache_alloc(cache, GFP_KERNEL);
    two = kmem_cache_zalloc(cache, GFP_KERNEL);
    if (!one || !two)
        return -ENOMEM;
    long apart = (char *)one - (char *)two;
    pr_info("two objects, 64 apart or more: %d, sizes %zu %u\n", abs(apart) >= 40, sizeof(*one),
            kmem_cache_size(cache));
    pr_info("zeroed %d\n", !memchr_inv(two, 0, sizeof(*two)));
    return 0;
}

static void __exit caches_exit(void)
{
    kmem_cache_free(cache, one);
    kmem_cache_free(cache, two);
    kmem_cache_destroy(cache);
    pr_info("given back\n");
}

module_init(caches_init);
module_exit(caches_exit);
MODULE_LICENSE("GPL");
