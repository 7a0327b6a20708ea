/* Page allocation.
 *
 * Blocks of order 0 to 3 come off the zone's per-CPU lists here, without a trap, and go back
 * to them, as mm/pcp.py describes it word by word. An empty list, a full one, and anything
 * unusual trap; the kernel then refills or drains a batch.
 */
#ifndef PAGEWALK_PAGES_H
#define PAGEWALK_PAGES_H

#include <pagewalk/call.h>
#include <pagewalk/page.h>
#include <pagewalk/task.h>

#define PAGE_ALLOC_COSTLY_ORDER 3
#define MIGRATE_PCPTYPES 3

#define PAGE_LISTED 0x00000000fffffffful    /* word 6 of a listed page: _refcount 0 */
#define PAGE_ALLOCATED 0x00000001fffffffful /* and of an allocated one: 1 */

void *memset(void *to, int byte, size_t size);

/* The zone that an allocation without zone modifiers tries first. */
static inline struct zone *preferred_zone(void)
{
    static struct zone *zone;
    if (unlikely(!zone)) {
        for (unsigned long i = 0; i < vmcore->nr_zones; i++)
            if (vmcore->zones[i].zone_idx <= ZONE_NORMAL && vmcore->zones[i].managed_pages)
                zone = &vmcore->zones[i];
    }
    return zone;
}

static inline struct page *pcp_pop(struct zone *zone, gfp_t flags, unsigned int order)
{
    struct per_cpu_pages *pcp = &zone->per_cpu_pageset;
    unsigned int type = flags >> 3 & 3;
    if (unlikely(type >= MIGRATE_PCPTYPES || pcp->debug))
        return NULL;
    struct list_head *head = &pcp->lists[MIGRATE_PCPTYPES * order + type];
    struct list_head *entry = head->next;
    if (unlikely(entry == head))
        return NULL;
    struct page *page = (struct page *)((char *)entry - __builtin_offsetof(struct page, lru));
    head->next = entry->next;
    entry->next->prev = head;
    pcp->count -= 1ul << order;
    uint64_t *word = (uint64_t *)page;
    word[1] = word[2] = 0;
    word[6] = PAGE_ALLOCATED;
    word[7] = (uint64_t)flags << 32 | 0xffff0000ul | order;
    return page;
}

static inline int pcp_push(struct zone *zone, struct page *page, unsigned int order)
{
    struct per_cpu_pages *pcp = &zone->per_cpu_pageset;
    uint64_t *word = (uint64_t *)page;
    unsigned long pfn = page_to_pfn(page);
    uint64_t zone_flags = (uint64_t)zone->zone_idx << ZONES_PGSHIFT;
    if (unlikely(pfn - zone->zone_start_pfn >= zone->spanned_pages || pcp->debug ||
                 word[6] != PAGE_ALLOCATED || (word[7] & 0xffff) != order || word[3] ||
                 word[1] & 1 || word[0] != zone_flags ||
                 pcp->count + (1ul << order) >= pcp->high))
        return 0;
    for (unsigned int tail = 1; tail < 1u << order; tail++) {
        uint64_t *of = word + 8 * tail;
        if (unlikely(of[6] != PAGE_LISTED || of[0] != zone_flags || of[1] || of[3]))
            return 0; /* the kernel has a closer look, and reports what it finds */
    }
    unsigned long block = (pfn >> pageblock_order) - (vmcore->start_pfn >> pageblock_order);
    unsigned int type = vmcore->pageblock_flags[block] ^ 1;
    if (unlikely(type >= MIGRATE_PCPTYPES))
        return 0;
    struct list_head *head = &pcp->lists[MIGRATE_PCPTYPES * order + type];
    word[3] = word[4] = word[5] = 0;
    word[6] = PAGE_LISTED;
    page->lru.next = head->next;
    page->lru.prev = head;
    head->next->prev = &page->lru;
    head->next = &page->lru;
    pcp->count += 1ul << order;
    return 1;
}

/* Zone modifiers and compound pages are the kernel's. */
#define GFP_PCP_SLOW (__GFP_DMA | __GFP_DMA32 | __GFP_HIGHMEM | __GFP_COMP)

static inline struct page *alloc_pages(gfp_t flags, unsigned int order)
{
    might_alloc(flags);
    if (likely(order <= PAGE_ALLOC_COSTLY_ORDER && !(flags & GFP_PCP_SLOW))) {
        struct page *page = pcp_pop(preferred_zone(), flags, order);
        if (likely(page)) {
            if (flags & __GFP_ZERO)
                memset(page_address(page), 0, PAGE_SIZE << order);
            return page;
        }
    }
    return (struct page *)kernel_call(CALL_ALLOC_PAGES, (long)flags, (long)order).value;
}

static inline void __free_pages(struct page *page, unsigned int order)
{
    if (likely(order <= PAGE_ALLOC_COSTLY_ORDER && page) &&
        likely(pcp_push(preferred_zone(), page, order)))
        return;
    kernel_call(CALL_FREE_PAGES, (long)page, (long)order);
}

#define alloc_page(flags) alloc_pages(flags, 0)
#define __free_page(page) __free_pages(page, 0)

static inline unsigned long __get_free_pages(gfp_t flags, unsigned int order)
{
    struct page *page = alloc_pages(flags, order);
    return page ? (unsigned long)page_address(page) : 0;
}

static inline unsigned long get_zeroed_page(gfp_t flags)
{
    return __get_free_pages(flags | __GFP_ZERO, 0);
}

static inline void free_pages(unsigned long address, unsigned int order)
{
    if (address)
        __free_pages(virt_to_page((void *)address), order);
}

#define free_page(address) free_pages(address, 0)

/* An allocated block becomes single pages, each freed on its own. */
static inline void split_page(struct page *page, unsigned int order)
{
    kernel_call(CALL_SPLIT_PAGE, (long)page, (long)order);
}

/* Whole pages for `size` bytes: the rest of the block that they come from is given back. */
static inline void *alloc_pages_exact(size_t size, gfp_t flags)
{
    size_t pages = (size + PAGE_SIZE - 1) >> PAGE_SHIFT;
    unsigned int order = 0;
    while (pages && (1ul << order) < pages)
        order++;
    struct page *page = pages ? alloc_pages(flags, order) : NULL;
    if (!page)
        return NULL;
    split_page(page, order);
    for (size_t i = pages; i < 1ul << order; i++)
        __free_page(page + i);
    return page_address(page);
}

static inline void free_pages_exact(void *address, size_t size)
{
    for (size_t i = 0; i < (size + PAGE_SIZE - 1) >> PAGE_SHIFT; i++)
        free_page((unsigned long)address + i * PAGE_SIZE);
}

/* An address for a page of HighMem, which has none of its own; others keep theirs. */
static inline void *kmap(struct page *page)
{
    return (void *)kernel_call(CALL_KMAP, (long)page, 0).value;
}

static inline void kunmap(struct page *page)
{
    kernel_call(CALL_KUNMAP, (long)page, 0);
}

#endif
