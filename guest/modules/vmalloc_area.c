/* vmalloc and vmap: addresses that follow each other, over frames that do not. */
#include <linux/highmem.h>
#include <linux/module.h>
#include <linux/vmalloc.h>

#define PAGES 16

static int __init area_init(void)
{
    /* A block of frames, of which every second one is mapped: none next to another. */
    struct page *block = alloc_pages(GFP_KERNEL, 5), *scattered[PAGES];
    if (!block)
        return -ENOMEM;
    for (int i = 0; i < PAGES; i++)
        scattered[i] = block + 2 * (PAGES - 1 - i);
    char *area = vmap(scattered, PAGES), *whole = vmalloc(PAGES * PAGE_SIZE);
    if (!area || !whole)
        return -ENOMEM;
    int wrong = 0;
    for (int i = 0; i < PAGES; i++) {
        area[i * PAGE_SIZE] = (char)i;
        whole[i * PAGE_SIZE] = (char)i;
        wrong |= vmalloc_to_pfn(area + i * PAGE_SIZE) != page_to_pfn(scattered[i]);
        wrong |= *(char *)page_address(scattered[i]) != (char)i;
    }
    for (int i = 0; i < PAGES; i++) { /* its frames may be high memory */
        struct page *page = pfn_to_page(vmalloc_to_pfn(whole + i * PAGE_SIZE));
        char *at = kmap(page);
        wrong |= !at || *at != (char)i;
        kunmap(page);
    }
    printk("vmalloc_area: vmap at %px: frames %lx, %lx, %lx ... backwards\n", (void *)area,
           page_to_pfn(scattered[0]), page_to_pfn(scattered[1]), page_to_pfn(scattered[2]));
    printk("vmalloc_area: vmalloc at %px, one guard page behind the other\n", (void *)whole);
    vfree(whole);
    vunmap(area);
    __free_pages(block, 5);
    return wrong ? -EINVAL : 0;
}

static void __exit area_exit(void)
{
}

module_init(area_init);
module_exit(area_exit);
MODULE_LICENSE("MIT");
