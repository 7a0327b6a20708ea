/* kmalloc, and what Python wrote into struct page about it, read through the generated header. */
#include <pagewalk/module.h>

static int wrong;

static void expect(const char *what, unsigned long found, unsigned long wanted)
{
    if (found != wanted) {
        printk("page_struct: %s is %lx, not %lx\n", what, found, wanted);
        wrong++;
    }
}

static int __init page_struct_init(void)
{
    /* A block of four pages, as one compound page. */
    struct page *page = alloc_pages(GFP_KERNEL | __GFP_COMP, 2);
    if (!page)
        return -ENOMEM;
    unsigned long pfn = page_to_pfn(page);
    printk("page_struct: order 2 at pfn %lx, struct page at %px\n", pfn, (void *)page);
    expect("alignment", pfn & 3, 0);
    expect("_refcount", (unsigned long)page->_refcount, 1);
    expect("head flag", page->flags >> PG_head & 1, 1);
    expect("order", page[1].flags & 0xff, 2);
    expect("compound_head", ((struct page_tail *)page)[3].compound_head, (unsigned long)page + 1);
    memset(page_address(page), 0x5a, 4 * PAGE_SIZE);
    __free_pages(page, 2);
    expect("_refcount after free", (unsigned long)page->_refcount, 0);

    /* A slab object: its page says slab, and names the cache. */
    char *object = kmalloc(64, GFP_KERNEL);
    if (!object)
        return -ENOMEM;
    for (int i = 0; i < 64; i++)
        object[i] = (char)i;
    struct slab *slab = (struct slab *)virt_to_page(object);
    struct kmem_cache *cache = slab->slab_cache;
    if (!cache) { /* SLOB has no caches behind kmalloc */
        kfree(object);
        return wrong ? -EINVAL : 0;
    }
    printk("page_struct: kmalloc(64) = %px from cache %s\n", (void *)object, cache->name);
    expect("page_type", virt_to_page(object)->page_type >> 24, PGTY_slab);
    expect("object_size", cache->object_size, 64);
    /* SLUB: a frozen slab belongs to the CPU and counts all of its objects as in use. */
    if (slab->counters >> 31 & 1)
        expect("inuse", slab->counters & 0xffff, slab->counters >> 16 & 0x7fff);
    kfree(object);
    printk("page_struct: %s\n", wrong ? "WRONG" : "as Python wrote it");
    return wrong ? -EINVAL : 0;
}

static void __exit page_struct_exit(void)
{
}

module_init(page_struct_init);
module_exit(page_struct_exit);
MODULE_LICENSE("MIT");
