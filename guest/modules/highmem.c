/* HighMem: frames without an address, until kmap gives them one (--append highmem_start=32M). */
#include <linux/highmem.h>
#include <linux/module.h>

static int __init highmem_init(void)
{
    struct page *page = alloc_page(GFP_HIGHUSER);
    if (!page)
        return -ENOMEM;
    volatile long *mapped = kmap(page);
    if (!mapped)
        return -ENOMEM;
    *mapped = 0x6869676820;
    printk("highmem: pfn %lx is at %px, %s the direct map\n", page_to_pfn(page), (void *)mapped,
           (void *)mapped == page_address(page) ? "in" : "outside of");
    kunmap(page);
    mapped = kmap(page);
    int wrong = *mapped != 0x6869676820;
    kunmap(page);
    __free_page(page);

    char *exact = alloc_pages_exact(5 * PAGE_SIZE, GFP_KERNEL);
    if (!exact)
        return -ENOMEM;
    memset(exact, 1, 5 * PAGE_SIZE);
    free_pages_exact(exact, 5 * PAGE_SIZE);
    return wrong ? -EINVAL : 0;
}

static void __exit highmem_exit(void)
{
}

module_init(highmem_init);
module_exit(highmem_exit);
MODULE_LICENSE("MIT");
