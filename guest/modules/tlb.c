/* The TLB: one address, two frames in turn. A stale translation would show the first frame. */
#include <linux/module.h>
#include <linux/vmalloc.h>

static int __init tlb_init(void)
{
    struct page *page[2];
    void *last = NULL;
    int wrong = 0;
    for (int i = 0; i < 2; i++) {
        page[i] = alloc_page(GFP_KERNEL);
        if (!page[i])
            return -ENOMEM;
        *(volatile long *)page_address(page[i]) = 100 + i;
    }
    for (int i = 0; i < 2; i++) {
        volatile long *mapped = vmap(&page[i], 1);
        if (!mapped)
            return -ENOMEM;
        printk("tlb: pfn %lx at %px reads %ld%s\n", page_to_pfn(page[i]), (void *)mapped, *mapped,
               mapped == last ? ", the same address as before" : "");
        wrong |= *mapped != 100 + i;
        *mapped = 200 + i;
        wrong |= *(volatile long *)page_address(page[i]) != 200 + i;
        last = (void *)mapped;
        vunmap((void *)mapped);
    }
    __free_page(page[0]);
    __free_page(page[1]);
    return wrong ? -EINVAL : 0;
}

static void __exit tlb_exit(void)
{
}

module_init(tlb_init);
module_exit(tlb_exit);
MODULE_LICENSE("MIT");
