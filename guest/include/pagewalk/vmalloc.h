/* vmalloc: contiguous addresses over scattered frames. */
#ifndef PAGEWALK_VMALLOC_H
#define PAGEWALK_VMALLOC_H

#include <stddef.h>

#include <pagewalk/call.h>
#include <pagewalk/page.h>
#include <pagewalk/task.h>

static inline void *vmalloc(unsigned long size)
{
    might_block();
    return (void *)kernel_call(CALL_VMALLOC, (long)size, 0).value;
}

static inline void *vzalloc(unsigned long size)
{
    might_block();
    return (void *)kernel_call(CALL_VMALLOC, (long)size, __GFP_ZERO).value;
}

static inline void vfree(const void *address)
{
    kernel_call(CALL_VFREE, (long)address, 0);
}

/* Map `count` pages, in the order given, at addresses that follow each other. */
static inline void *vmap(struct page **pages, unsigned int count)
{
    might_block();
    return (void *)kernel_call(CALL_VMAP, (long)pages, count).value;
}

static inline void vunmap(const void *address)
{
    kernel_call(CALL_VUNMAP, (long)address, 0);
}

/* The frame behind a vmalloc address. */
static inline unsigned long vmalloc_to_pfn(const void *address)
{
    return (unsigned long)kernel_call(CALL_VMALLOC_TO_PFN, (long)address, 0).value;
}

#endif
