/* kmalloc and kmem_cache, see pagewalk/slab.h. */
#ifndef _LINUX_SLAB_H
#define _LINUX_SLAB_H

#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/string.h>
#include <linux/types.h>
#include <pagewalk/slab.h>

/* What makes no difference here. */
#define SLAB_TYPESAFE_BY_RCU 0u
#define SLAB_MEM_SPREAD 0u
#define SLAB_NOTRACK 0u
#define SLAB_TEMPORARY SLAB_RECLAIM_ACCOUNT

#define KMALLOC_MAX_SIZE (1ul << (PAGE_SHIFT + MAX_PAGE_ORDER))
#define ARCH_KMALLOC_MINALIGN 8
#define KMEM_CACHE(type, flags)                                                               \
    kmem_cache_create(#type, sizeof(struct type), __alignof__(struct type), flags, NULL)
#define kmem_cache_zalloc(cache, flags) kmem_cache_alloc(cache, (flags) | __GFP_ZERO)
#define kmem_cache_size(cache) ((cache)->object_size)
#define kmem_cache_alloc_node(cache, flags, node) kmem_cache_alloc(cache, flags)
#define kmalloc_node(size, flags, node) kmalloc(size, flags)
#define kzalloc_node(size, flags, node) kzalloc(size, flags)
#define krealloc_array(object, n, size, flags) krealloc(object, array_size(n, size), flags)
#define ZERO_OR_NULL_PTR(pointer) ((unsigned long)(pointer) <= (unsigned long)ZERO_SIZE_PTR)

static inline void kfree_sensitive(const void *object)
{
    if (!ZERO_OR_NULL_PTR(object))
        memset((void *)object, 0, ksize(object));
    kfree(object);
}

#define kzfree(object) kfree_sensitive(object)

/* From kmalloc where that can, else from vmalloc. */
static inline void *kvmalloc(size_t size, gfp_t flags)
{
    void *object = kmalloc(size, size > PAGE_SIZE ? flags | __GFP_NOWARN : flags);
    if (object || size <= PAGE_SIZE)
        return object;
    return flags & __GFP_ZERO ? vzalloc(size) : vmalloc(size);
}

#define kvzalloc(size, flags) kvmalloc(size, (flags) | __GFP_ZERO)
#define kvmalloc_array(n, size, flags) kvmalloc(array_size(n, size), flags)
#define kvcalloc(n, size, flags) kvmalloc_array(n, size, (flags) | __GFP_ZERO)

static inline void kvfree(const void *object)
{
    if (is_vmalloc_addr(object))
        vfree(object);
    else
        kfree(object);
}

#endif
