/* The fast paths against the trapping ones: prints, five times each, the name, ticks of
 * `time` and number of pairs of both. */
#include <pagewalk/module.h>

#define FAST 2000000ul
#define TRAPS 20000ul

static unsigned long ticks(void)
{
    unsigned long now;
    __asm__ volatile("rdtime %0" : "=r"(now));
    return now;
}

/* `pointer` may be used by anyone from here on: nothing before is left out. */
#define used(pointer) __asm__ volatile("" ::"r"(pointer) : "memory")

static unsigned long slab_fast(void)
{
    unsigned long start = ticks();
    for (unsigned long i = 0; i < FAST; i++) {
        void *object = kmalloc(64, GFP_KERNEL);
        used(object);
        kfree(object);
    }
    return ticks() - start;
}

static unsigned long slab_trap(void)
{
    unsigned long start = ticks();
    for (unsigned long i = 0; i < TRAPS; i++) {
        long object = kernel_call(CALL_KMALLOC, 64, GFP_KERNEL).value;
        kernel_call(CALL_KFREE, object, 0);
    }
    return ticks() - start;
}

static unsigned long page_fast(void)
{
    unsigned long start = ticks();
    for (unsigned long i = 0; i < FAST; i++) {
        struct page *page = alloc_page(GFP_KERNEL);
        used(page);
        __free_page(page);
    }
    return ticks() - start;
}

static unsigned long page_trap(void)
{
    unsigned long start = ticks();
    for (unsigned long i = 0; i < TRAPS; i++) {
        long page = kernel_call(CALL_ALLOC_PAGES, GFP_KERNEL, 0).value;
        kernel_call(CALL_FREE_PAGES, page, 0);
    }
    return ticks() - start;
}

static void print(const char *name, unsigned long fast, unsigned long trap)
{
    printk("%s %lu %lu %lu %lu\n", name, fast, FAST, trap, TRAPS);
}

static int __init fast_path_init(void)
{
    for (int round = 0; round < 5; round++) {
        print("kmalloc", slab_fast(), slab_trap());
        print("page", page_fast(), page_trap());
    }
    return 0;
}

static void __exit fast_path_exit(void)
{
}

module_init(fast_path_init);
module_exit(fast_path_exit);
