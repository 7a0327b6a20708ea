/* Frames, their numbers, their struct page and their addresses: arithmetic on vmcoreinfo. */
#ifndef PAGEWALK_PAGE_H
#define PAGEWALK_PAGE_H

#include <linux/types.h>

/* The kernel's root structure, at one address in every paging mode. */
#define vmcore ((const struct vmcoreinfo *)KERNEL_LINK_ADDR)

/* A list head in it. The kernel links lists through the direct map, where vmcoreinfo has a
 * second address, and a list's end is known by that one. */
#define vmcore_list(member)                                                                   \
    (&((struct vmcoreinfo *)(vmcore->page_offset + KERNEL_IMAGE_OFFSET))->member)

static inline unsigned long page_to_pfn(const struct page *page)
{
    return (unsigned long)(page - vmcore->vmemmap) + vmcore->start_pfn;
}

static inline struct page *pfn_to_page(unsigned long pfn)
{
    return vmcore->vmemmap + (pfn - vmcore->start_pfn);
}

static inline unsigned long __pa(const void *address)
{
    return (unsigned long)address - vmcore->page_offset + vmcore->ram_base;
}

static inline void *__va(unsigned long pa)
{
    return (void *)(pa - vmcore->ram_base + vmcore->page_offset);
}

/* NULL for a page of HighMem: see kmap. */
static inline void *page_address(const struct page *page)
{
    if (unlikely(page_to_pfn(page) << PAGE_SHIFT >= vmcore->page_alloc.high_memory))
        return NULL;
    return (void *)(vmcore->page_offset + ((unsigned long)(page - vmcore->vmemmap) << PAGE_SHIFT));
}

static inline struct page *virt_to_page(const void *address)
{
    return vmcore->vmemmap + (((unsigned long)address - vmcore->page_offset) >> PAGE_SHIFT);
}

/* The head of a compound page, for any of its pages. */
static inline struct page *compound_head(struct page *page)
{
    unsigned long head = ((const struct page_tail *)page)->compound_head;
    return unlikely(head & 1) ? (struct page *)(head - 1) : page;
}

#endif
