/* What a kernel module can use: Linux's names. A module runs in S-mode on the kernel's page
 * tables; it calls the kernel, which is Python, with ecall. */
#ifndef PAGEWALK_MODULE_H
#define PAGEWALK_MODULE_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <pagewalk/abi.h>
#include <pagewalk/mm_types.h>

typedef unsigned int gfp_t;

/* The kernel's root structure, at one address in every paging mode. */
#define vmcore ((const struct vmcoreinfo *)KERNEL_LINK_ADDR)

#define module_init(function) int init_module(void) { return function(); }
#define module_exit(function) void cleanup_module(void) { function(); }
#define MODULE_LICENSE(text) MODULE_INFO(license, text)
#define MODULE_DESCRIPTION(text) MODULE_INFO(description, text)
#define MODULE_INFO(tag, text)                                                        \
    static const char tag##_info[] __attribute__((section(".modinfo"), used)) =       \
        #tag "=" text

#define __init
#define __exit

#define EINVAL 22
#define ENOMEM 12

struct kernel_result {
    long error;
    long value;
};

static inline struct kernel_result kernel_call(long function, long arg0, long arg1)
{
    register long a0 __asm__("a0") = arg0;
    register long a1 __asm__("a1") = arg1;
    register long a6 __asm__("a6") = function;
    register long a7 __asm__("a7") = KERNEL_EXTENSION;
    __asm__ volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(a6), "r"(a7) : "memory");
    return (struct kernel_result){a0, a1};
}

static inline void *kmalloc(size_t size, gfp_t flags)
{
    return (void *)kernel_call(CALL_KMALLOC, (long)size, (long)flags).value;
}

static inline void *kzalloc(size_t size, gfp_t flags)
{
    return kmalloc(size, flags | __GFP_ZERO);
}

static inline void kfree(const void *object)
{
    kernel_call(CALL_KFREE, (long)object, 0);
}

static inline struct page *alloc_pages(gfp_t flags, unsigned int order)
{
    return (struct page *)kernel_call(CALL_ALLOC_PAGES, (long)flags, (long)order).value;
}

static inline void __free_pages(struct page *page, unsigned int order)
{
    kernel_call(CALL_FREE_PAGES, (long)page, (long)order);
}

/* PFN, struct page and direct map: arithmetic on what vmcoreinfo says. */
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

static inline void *page_address(const struct page *page)
{
    return __va(page_to_pfn(page) << PAGE_SHIFT);
}

static inline struct page *virt_to_page(const void *address)
{
    return pfn_to_page(__pa(address) >> PAGE_SHIFT);
}

/* Linux's printk; the conversions of pagewalk/user.h's printf. */
int printk(const char *format, ...) __attribute__((format(printf, 1, 2)));
#define KERN_INFO ""
#define KERN_ERR ""
#define pr_info(...) printk(__VA_ARGS__)
#define pr_err(...) printk(__VA_ARGS__)

void *memset(void *to, int byte, size_t size);
void *memcpy(void *to, const void *from, size_t size);

#endif
