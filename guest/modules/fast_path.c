/* How fast: kmalloc and kfree in the guest, against the same two calls by trap. */
#include <linux/module.h>
#include <linux/slab.h>

#define FAST 10000000ul
#define TRAPS 50000ul
#define TICKS_PER_SECOND 10000000ul

static unsigned long ticks(void)
{
    unsigned long now;
    __asm__ volatile("rdtime %0" : "=r"(now));
    return now;
}

static int __init fast_init(void)
{
    kfree(kmalloc(64, GFP_KERNEL));
    const struct kmem_cache *cache = vmcore->kmalloc_caches[kmalloc_index(64)];
    if (!cache || !cache->cpu_slab->freelist) {
        printk("fast_path: none here: another allocator than SLUB, or debugging\n");
        return 0;
    }
    unsigned long start = ticks();
    for (unsigned long i = 0; i < FAST; i++) {
        void *object = kmalloc(64, GFP_KERNEL);
        __asm__ volatile("" ::"r"(object) : "memory");
        kfree(object);
    }
    unsigned long fast = ticks() - start;
    start = ticks();
    for (unsigned long i = 0; i < TRAPS; i++) {
        void *object = (void *)kernel_call(CALL_KMALLOC, 64, GFP_KERNEL).value;
        kernel_call(CALL_KFREE, (long)object, 0);
    }
    unsigned long trap = ticks() - start;
    unsigned long fast_rate = FAST * TICKS_PER_SECOND / (fast ? fast : 1);
    unsigned long trap_rate = TRAPS * TICKS_PER_SECOND / (trap ? trap : 1);
    printk("fast_path: %lu pairs a second in the guest, %lu by trap: %lu times\n", fast_rate,
           trap_rate, fast_rate / (trap_rate ? trap_rate : 1));
    return 0;
}

static void __exit fast_exit(void)
{
}

module_init(fast_init);
module_exit(fast_exit);
MODULE_LICENSE("MIT");
