/* The buddy system: a block, its buddy one bit away, and the merge when both are free. */
#include <linux/gfp.h>
#include <linux/module.h>

#define ORDER 5 /* above the per-CPU lists, so that each call reaches the buddy */

static unsigned long free_blocks(unsigned int order)
{
    unsigned long blocks = 0;
    for (unsigned long i = 0; i < vmcore->nr_zones; i++)
        blocks += vmcore->zones[i].free_area[order].nr_free;
    return blocks;
}

static int __init buddy_init(void)
{
    struct page *big = alloc_pages(GFP_KERNEL, ORDER + 1);
    if (!big)
        return -ENOMEM;
    unsigned long pfn = page_to_pfn(big);
    __free_pages(big, ORDER + 1);

    struct page *low = alloc_pages(GFP_KERNEL, ORDER);
    struct page *high = alloc_pages(GFP_KERNEL, ORDER);
    if (!low || !high)
        return -ENOMEM;
    unsigned long buddy = page_to_pfn(low) ^ 1ul << ORDER;
    printk("buddy: block of order %d at pfn %lx, its buddy is %lx, the next one given is %lx\n",
           ORDER, page_to_pfn(low), buddy, page_to_pfn(high));
    int wrong = page_to_pfn(low) & ((1ul << ORDER) - 1);
    unsigned long before = free_blocks(ORDER);
    __free_pages(high, ORDER);
    __free_pages(low, ORDER);
    printk("buddy: free blocks of order %d: %lu before, %lu after freeing both; %lx was whole\n",
           ORDER, before, free_blocks(ORDER), pfn);
    if (buddy == page_to_pfn(high))
        wrong |= free_blocks(ORDER) > before;
    return wrong ? -EINVAL : 0;
}

static void __exit buddy_exit(void)
{
}

module_init(buddy_init);
module_exit(buddy_exit);
MODULE_LICENSE("MIT");
