/* kmalloc and kmem_cache.
 *
 * SLUB's fast path runs here, without a trap: an object is popped off the CPU's freelist and
 * pushed back on it, in the same structures that the kernel uses. Only an empty freelist, an
 * object of another slab, and whatever needs the kernel's eyes (debugging, hardened pointers,
 * another allocator) trap. The kernel leaves the CPU's freelist empty where it wants every
 * call to trap, so that there is nothing to ask here.
 */
#ifndef PAGEWALK_SLAB_H
#define PAGEWALK_SLAB_H

#include <stddef.h>

#include <pagewalk/call.h>
#include <pagewalk/page.h>
#include <pagewalk/task.h>

#define KMALLOC_MAX_CACHE_SIZE 8192
/* Other caches (DMA), or what the kernel refuses. */
#define GFP_SLAB_SLOW (__GFP_DMA | __GFP_DMA32 | __GFP_HIGHMEM)

void *memset(void *to, int byte, size_t size);
void *memcpy(void *to, const void *from, size_t size);

/* The index into vmcore->kmalloc_caches; folds to a number where the size is one. */
static inline __attribute__((always_inline)) unsigned int kmalloc_index(size_t size)
{
    return size <= 8      ? 0
           : size <= 16   ? 1
           : size <= 32   ? 2
           : size <= 64   ? 3
           : size <= 96   ? 4
           : size <= 128  ? 5
           : size <= 192  ? 6
           : size <= 256  ? 7
           : size <= 512  ? 8
           : size <= 1024 ? 9
           : size <= 2048 ? 10
           : size <= 4096 ? 11
                          : 12;
}

/* Where in a free object of a size class the next one's address is: in the middle. */
static inline __attribute__((always_inline)) unsigned int kmalloc_offset(unsigned int index)
{
    unsigned int size = index == 4 ? 96 : index == 6 ? 192 : index < 4 ? 8u << index
                        : index == 5                 ? 128
                                                     : 2u << index;
    return size / 2 & ~7u;
}

/* The CPU's part of a cache. With one CPU it lies in the cache, where cpu_slab points to;
 * other allocators than SLUB leave it NULL, and what is NULL traps. */
static inline __attribute__((always_inline)) struct kmem_cache_cpu *
this_cpu_slab(const struct kmem_cache *cache)
{
    return (struct kmem_cache_cpu *)&cache->cpu;
}

/* Pops an object off the CPU's freelist; NULL when it is empty. */
static inline __attribute__((always_inline)) void *slab_pop(const struct kmem_cache *cache,
                                                            unsigned int offset)
{
    struct kmem_cache_cpu *cpu = this_cpu_slab(cache);
    char *object = cpu->freelist;
    if (likely(object))
        cpu->freelist = *(void **)(object + offset);
    return object;
}

/* Pushes an object of the CPU's own slab; 0 when it is not of that slab. */
static inline __attribute__((always_inline)) int slab_push(const struct kmem_cache *cache,
                                                           const struct slab *slab, void *object)
{
    struct kmem_cache_cpu *cpu = this_cpu_slab(cache);
    if (unlikely(cpu->slab != slab || cpu->freelist == object))
        return 0;
    *(void **)((char *)object + cache->offset) = cpu->freelist;
    cpu->freelist = object;
    return 1;
}

static inline __attribute__((always_inline)) void *kmalloc(size_t size, gfp_t flags)
{
    might_alloc(flags);
    if (likely(size - 1 < KMALLOC_MAX_CACHE_SIZE && !(flags & GFP_SLAB_SLOW))) {
        const struct kmem_cache *cache = vmcore->kmalloc_caches[kmalloc_index(size)];
        /* With debugging it is elsewhere, but then there is no object to pop. */
        void *object = !cache                       ? NULL
                       : __builtin_constant_p(size) ? slab_pop(cache, kmalloc_offset(kmalloc_index(size)))
                                                    : slab_pop(cache, cache->offset);
        if (likely(object)) {
            if (flags & __GFP_ZERO)
                memset(object, 0, size);
            return object;
        }
    }
    return (void *)kernel_call(CALL_KMALLOC, (long)size, (long)flags).value;
}

static inline __attribute__((always_inline)) void kfree(const void *object)
{
    if (likely((unsigned long)object - vmcore->page_offset < vmcore->ram_size)) {
        struct slab *slab = (struct slab *)compound_head(virt_to_page(object));
        const struct kmem_cache *cache = slab->slab_cache;
        if (likely(slab->page_type >> 24 == PGTY_slab && cache) &&
            likely(slab_push(cache, slab, (void *)object)))
            return;
    }
    kernel_call(CALL_KFREE, (long)object, 0);
}

static inline void *kzalloc(size_t size, gfp_t flags)
{
    return kmalloc(size, flags | __GFP_ZERO);
}

static inline void *kmalloc_array(size_t n, size_t size, gfp_t flags)
{
    size_t bytes;
    return __builtin_mul_overflow(n, size, &bytes) ? NULL : kmalloc(bytes, flags);
}

static inline void *kcalloc(size_t n, size_t size, gfp_t flags)
{
    return kmalloc_array(n, size, flags | __GFP_ZERO);
}

static inline void *krealloc(const void *object, size_t size, gfp_t flags)
{
    might_alloc(flags);
    return (void *)kernel_call5(CALL_KREALLOC, (long)object, (long)size, (long)flags, 0, 0).value;
}

static inline size_t ksize(const void *object)
{
    return (size_t)kernel_call(CALL_KSIZE, (long)object, 0).value;
}

/* The constructor runs on each object of a new slab. Flags: SLAB_ of mm/slab/flags.py. */
static inline struct kmem_cache *kmem_cache_create(const char *name, unsigned int size,
                                                   unsigned int align, unsigned long flags,
                                                   void (*ctor)(void *))
{
    might_block();
    return (struct kmem_cache *)kernel_call5(CALL_KMEM_CACHE_CREATE, (long)name, size, align,
                                             (long)flags, (long)ctor)
        .value;
}

static inline void kmem_cache_destroy(struct kmem_cache *cache)
{
    might_block();
    if (cache)
        kernel_call(CALL_KMEM_CACHE_DESTROY, (long)cache, 0);
}

static inline void *kmem_cache_alloc(struct kmem_cache *cache, gfp_t flags)
{
    might_alloc(flags);
    void *object = slab_pop(cache, cache->offset);
    if (likely(object)) {
        if (flags & __GFP_ZERO)
            memset(object, 0, cache->object_size);
        return object;
    }
    return (void *)kernel_call(CALL_KMEM_CACHE_ALLOC, (long)cache, (long)flags).value;
}

static inline void kmem_cache_free(struct kmem_cache *cache, void *object)
{
    struct slab *slab = (struct slab *)compound_head(virt_to_page(object));
    if (unlikely(slab->slab_cache != cache || !slab_push(cache, slab, object)))
        kernel_call(CALL_KMEM_CACHE_FREE, (long)cache, (long)object);
}

/* Give back the slabs that hold nothing; how many pages that was. */
static inline unsigned long kmem_cache_shrink(struct kmem_cache *cache)
{
    return (unsigned long)kernel_call(CALL_KMEM_CACHE_SHRINK, (long)cache, 0).value;
}

static inline void kmem_cache_free_bulk(struct kmem_cache *cache, size_t count, void **objects)
{
    while (count--)
        kmem_cache_free(cache, objects[count]);
}

/* All of them or none: the number of objects. */
static inline size_t kmem_cache_alloc_bulk(struct kmem_cache *cache, gfp_t flags, size_t count,
                                           void **objects)
{
    for (size_t i = 0; i < count; i++)
        if (!(objects[i] = kmem_cache_alloc(cache, flags))) {
            kmem_cache_free_bulk(cache, i, objects);
            return 0;
        }
    return count;
}

#endif
