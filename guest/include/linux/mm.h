/* Frames, their struct page and addresses, see pagewalk/page.h. */
#ifndef _LINUX_MM_H
#define _LINUX_MM_H

#include <linux/gfp.h>
#include <linux/math.h>
#include <linux/types.h>
#include <pagewalk/page.h>
#include <pagewalk/vmalloc.h>

#define PAGE_MASK (~(PAGE_SIZE - 1))
#define PAGE_ALIGN(address) ALIGN(address, PAGE_SIZE)
#define PAGE_ALIGNED(address) IS_ALIGNED((unsigned long)(address), PAGE_SIZE)
#define offset_in_page(pointer) ((unsigned long)(pointer) & ~PAGE_MASK)
#define PFN_UP(pa) (((pa) + PAGE_SIZE - 1) >> PAGE_SHIFT)
#define PFN_DOWN(pa) ((pa) >> PAGE_SHIFT)
#define PFN_PHYS(pfn) ((phys_addr_t)(pfn) << PAGE_SHIFT)
#define PAGE_OFFSET (vmcore->page_offset)
#define page_to_phys(page) PFN_PHYS(page_to_pfn(page))
#define phys_to_page(pa) pfn_to_page(PFN_DOWN(pa))
#define virt_to_phys(address) __pa(address)
#define phys_to_virt(pa) __va(pa)
#define page_to_virt(page) page_address(page)
#define virt_to_pfn(address) PFN_DOWN(__pa(address))
#define page_count(page) READ_ONCE((page)->_refcount)
#define page_ref_count(page) page_count(page)
#define totalram_pages() vmcore_managed_pages()

static inline unsigned long vmcore_managed_pages(void)
{
    unsigned long pages = 0;
    for (unsigned long i = 0; i < vmcore->nr_zones; i++)
        pages += vmcore->zones[i].managed_pages;
    return pages;
}

/* The order of the smallest block that holds `size` bytes. */
static inline int get_order(unsigned long size)
{
    int order = 0;
    while (PAGE_SIZE << order < size)
        order++;
    return order;
}

static inline bool is_vmalloc_addr(const void *address)
{
    unsigned long va = (unsigned long)address;
    return va >= vmcore->vmalloc_start && va < vmcore->vmalloc_end;
}

/* An address of the direct map, with RAM behind it. */
static inline bool virt_addr_valid(const void *address)
{
    return (unsigned long)address - vmcore->page_offset < vmcore->ram_size;
}

#endif
