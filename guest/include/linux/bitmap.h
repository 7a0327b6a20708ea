/* Arrays of bits. What lies behind the last bit in the last word is left alone or cleared. */
#ifndef _LINUX_BITMAP_H
#define _LINUX_BITMAP_H

#include <linux/bitops.h>
#include <linux/slab.h>
#include <linux/string.h>

#define BITMAP_FIRST_WORD_MASK(start) (~0ul << ((start) % BITS_PER_LONG))
#define BITMAP_LAST_WORD_MASK(bits) (~0ul >> (-(bits) % BITS_PER_LONG))

static inline void bitmap_zero(unsigned long *map, unsigned int bits)
{
    memset(map, 0, BITS_TO_LONGS(bits) * sizeof(long));
}

static inline void bitmap_fill(unsigned long *map, unsigned int bits)
{
    memset(map, 0xff, BITS_TO_LONGS(bits) * sizeof(long));
}

static inline void bitmap_copy(unsigned long *to, const unsigned long *from, unsigned int bits)
{
    memcpy(to, from, BITS_TO_LONGS(bits) * sizeof(long));
}

static inline void bitmap_set(unsigned long *map, unsigned int start, unsigned int count)
{
    for (unsigned int i = start; i < start + count; i++)
        __set_bit(i, map);
}

static inline void bitmap_clear(unsigned long *map, unsigned int start, unsigned int count)
{
    for (unsigned int i = start; i < start + count; i++)
        __clear_bit(i, map);
}

static inline unsigned int bitmap_weight(const unsigned long *map, unsigned int bits)
{
    unsigned int count = 0;
    for (unsigned int i = 0; i < bits / BITS_PER_LONG; i++)
        count += hweight64(map[i]);
    if (bits % BITS_PER_LONG)
        count += hweight64(map[bits / BITS_PER_LONG] & BITMAP_LAST_WORD_MASK(bits));
    return count;
}

static inline bool bitmap_empty(const unsigned long *map, unsigned int bits)
{
    return find_first_bit(map, bits) == bits;
}

static inline bool bitmap_full(const unsigned long *map, unsigned int bits)
{
    return find_first_zero_bit(map, bits) == bits;
}

#define BITMAP_COMBINE(name, expression)                                                      \
    static inline bool bitmap_##name(unsigned long *to, const unsigned long *a,               \
                                     const unsigned long *b, unsigned int bits)               \
    {                                                                                         \
        for (unsigned int i = 0; i < BITS_TO_LONGS(bits); i++)                                \
            to[i] = expression;                                                               \
        return !bitmap_empty(to, bits);                                                       \
    }
BITMAP_COMBINE(and, a[i] & b[i])
BITMAP_COMBINE(or, a[i] | b[i])
BITMAP_COMBINE(xor, a[i] ^ b[i])
BITMAP_COMBINE(andnot, a[i] & ~b[i])

static inline bool bitmap_equal(const unsigned long *a, const unsigned long *b, unsigned int bits)
{
    for (unsigned int i = 0; i < bits; i++)
        if (test_bit(i, a) != test_bit(i, b))
            return false;
    return true;
}

static inline bool bitmap_intersects(const unsigned long *a, const unsigned long *b,
                                     unsigned int bits)
{
    for (unsigned int i = 0; i < bits; i++)
        if (test_bit(i, a) && test_bit(i, b))
            return true;
    return false;
}

static inline bool bitmap_subset(const unsigned long *a, const unsigned long *b,
                                 unsigned int bits)
{
    for (unsigned int i = 0; i < bits; i++)
        if (test_bit(i, a) && !test_bit(i, b))
            return false;
    return true;
}

/* The first `count` clear bits in a row, from a bit whose number has no bit of align_mask. */
static inline unsigned long bitmap_find_next_zero_area(unsigned long *map, unsigned long size,
                                                       unsigned long start, unsigned int count,
                                                       unsigned long align_mask)
{
    for (;;) {
        start = (find_next_zero_bit(map, size, start) + align_mask) & ~align_mask;
        if (start + count > size)
            return start + count;
        unsigned long taken = find_next_bit(map, start + count, start);
        if (taken >= start + count)
            return start;
        start = taken + 1;
    }
}

static inline unsigned long *bitmap_alloc(unsigned int bits, gfp_t flags)
{
    return kmalloc_array(BITS_TO_LONGS(bits), sizeof(long), flags);
}

static inline unsigned long *bitmap_zalloc(unsigned int bits, gfp_t flags)
{
    return bitmap_alloc(bits, flags | __GFP_ZERO);
}

static inline void bitmap_free(const unsigned long *map)
{
    kfree(map);
}

#endif
