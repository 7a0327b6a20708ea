/* Pages, vmalloc, and addresses of both kinds.
 * init: order 2 for 9000 bytes, aligned 1, same page 1
 * init: vmalloc 1 0, its page is there 1, both freed
 * init: up 8192 down 4096, offset 16
 */
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

static int __init pages_init(void)
{
    int order = get_order(9000);
    unsigned long block = __get_free_pages(GFP_KERNEL | __GFP_ZERO, order);
    if (!block)
        return -ENOMEM;
    pr_info("order %d for 9000 bytes, aligned %d, same page %d\n", order, PAGE_ALIGNED(block),
            pfn_to_page(PFN_DOWN(virt_to_phys((void *)block))) == virt_to_page((void *)block));
    free_pages(block, order);
    char *area = vzalloc(3 * PAGE_SIZE), *either = kvmalloc(64, GFP_KERNEL);
    if (!area || !either)
        return -ENOMEM;
    area[PAGE_SIZE] = 'x';
    struct page *page = vmalloc_to_page(area + PAGE_SIZE);
    pr_info("vmalloc %d %d, its page is there %d, ", is_vmalloc_addr(area),
            is_vmalloc_addr(either), *(char *)page_address(page) == 'x');
    kvfree(area);
    kvfree(either);
    pr_cont("both freed\n");
    pr_info("up %lu down %lu, offset %lu\n", PAGE_ALIGN(4097ul), 8191 & PAGE_MASK,
            offset_in_page((void *)0x5010));
    return 0;
}

static void __exit pages_exit(void)
{
}

module_init(pages_init);
module_exit(pages_exit);
MODULE_LICENSE("GPL");
