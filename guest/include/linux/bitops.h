/* Bits of words: set_bit and its kin are atomic (amoor, amoand, amoxor), __set_bit is not. */
#ifndef _LINUX_BITOPS_H
#define _LINUX_BITOPS_H

#include <linux/bits.h>

static inline void set_bit(unsigned long nr, volatile unsigned long *words)
{
    __atomic_fetch_or(&words[BIT_WORD(nr)], BIT_MASK(nr), __ATOMIC_RELAXED);
}

static inline void clear_bit(unsigned long nr, volatile unsigned long *words)
{
    __atomic_fetch_and(&words[BIT_WORD(nr)], ~BIT_MASK(nr), __ATOMIC_RELAXED);
}

static inline void change_bit(unsigned long nr, volatile unsigned long *words)
{
    __atomic_fetch_xor(&words[BIT_WORD(nr)], BIT_MASK(nr), __ATOMIC_RELAXED);
}

static inline bool test_bit(unsigned long nr, const volatile unsigned long *words)
{
    return words[BIT_WORD(nr)] >> (nr % BITS_PER_LONG) & 1;
}

static inline bool test_and_set_bit(unsigned long nr, volatile unsigned long *words)
{
    unsigned long mask = BIT_MASK(nr);
    return __atomic_fetch_or(&words[BIT_WORD(nr)], mask, __ATOMIC_SEQ_CST) & mask;
}

static inline bool test_and_clear_bit(unsigned long nr, volatile unsigned long *words)
{
    unsigned long mask = BIT_MASK(nr);
    return __atomic_fetch_and(&words[BIT_WORD(nr)], ~mask, __ATOMIC_SEQ_CST) & mask;
}

static inline bool test_and_change_bit(unsigned long nr, volatile unsigned long *words)
{
    unsigned long mask = BIT_MASK(nr);
    return __atomic_fetch_xor(&words[BIT_WORD(nr)], mask, __ATOMIC_SEQ_CST) & mask;
}

#define test_and_set_bit_lock(nr, words) test_and_set_bit(nr, words)
#define clear_bit_unlock(nr, words) clear_bit(nr, words)

static inline void __set_bit(unsigned long nr, volatile unsigned long *words)
{
    words[BIT_WORD(nr)] |= BIT_MASK(nr);
}

static inline void __clear_bit(unsigned long nr, volatile unsigned long *words)
{
    words[BIT_WORD(nr)] &= ~BIT_MASK(nr);
}

static inline void __change_bit(unsigned long nr, volatile unsigned long *words)
{
    words[BIT_WORD(nr)] ^= BIT_MASK(nr);
}

static inline bool __test_and_set_bit(unsigned long nr, volatile unsigned long *words)
{
    bool was = test_bit(nr, words);
    __set_bit(nr, words);
    return was;
}

static inline bool __test_and_clear_bit(unsigned long nr, volatile unsigned long *words)
{
    bool was = test_bit(nr, words);
    __clear_bit(nr, words);
    return was;
}

static inline void assign_bit(unsigned long nr, volatile unsigned long *words, bool value)
{
    if (value)
        set_bit(nr, words);
    else
        clear_bit(nr, words);
}

/* Counted from 1, 0 when there is none. */
static inline int ffs(int word)
{
    return __builtin_ffs(word);
}

static inline int fls(unsigned int word)
{
    return word ? 32 - __builtin_clz(word) : 0;
}

static inline int fls64(u64 word)
{
    return word ? 64 - __builtin_clzll(word) : 0;
}

#define fls_long(word) fls64(word)

/* Counted from 0; there must be one. */
static inline unsigned long __ffs(unsigned long word)
{
    return (unsigned long)__builtin_ctzl(word);
}

static inline unsigned long __fls(unsigned long word)
{
    return (unsigned long)(63 - __builtin_clzl(word));
}

#define ffz(word) __ffs(~(word))

static inline unsigned int hweight64(u64 word)
{
    return (unsigned int)__builtin_popcountll(word);
}

#define hweight8(word) hweight64((u8)(word))
#define hweight16(word) hweight64((u16)(word))
#define hweight32(word) hweight64((u32)(word))
#define hweight_long(word) hweight64(word)

static inline u8 rol8(u8 word, unsigned int by)
{
    return (u8)(word << (by & 7) | word >> (-by & 7));
}

static inline u8 ror8(u8 word, unsigned int by)
{
    return (u8)(word >> (by & 7) | word << (-by & 7));
}

static inline u16 rol16(u16 word, unsigned int by)
{
    return (u16)(word << (by & 15) | word >> (-by & 15));
}

static inline u16 ror16(u16 word, unsigned int by)
{
    return (u16)(word >> (by & 15) | word << (-by & 15));
}

static inline u32 rol32(u32 word, unsigned int by)
{
    return word << (by & 31) | word >> (-by & 31);
}

static inline u32 ror32(u32 word, unsigned int by)
{
    return word >> (by & 31) | word << (-by & 31);
}

static inline u64 rol64(u64 word, unsigned int by)
{
    return word << (by & 63) | word >> (-by & 63);
}

static inline u64 ror64(u64 word, unsigned int by)
{
    return word >> (by & 63) | word << (-by & 63);
}

static inline s32 sign_extend32(u32 value, int sign_bit)
{
    return (s32)(value << (31 - sign_bit)) >> (31 - sign_bit);
}

static inline s64 sign_extend64(u64 value, int sign_bit)
{
    return (s64)(value << (63 - sign_bit)) >> (63 - sign_bit);
}

/* The first bit from `from` on that is set, once `invert` was xored in; `size` when none is. */
static inline unsigned long find_bit(const unsigned long *words, unsigned long size,
                                     unsigned long from, unsigned long invert)
{
    for (unsigned long at = from; at < size; at = (at | (BITS_PER_LONG - 1)) + 1) {
        unsigned long word = (words[BIT_WORD(at)] ^ invert) & ~0ul << (at % BITS_PER_LONG);
        if (word) {
            at = BIT_WORD(at) * BITS_PER_LONG + __ffs(word);
            return at < size ? at : size;
        }
    }
    return size;
}

static inline unsigned long find_next_bit(const unsigned long *words, unsigned long size,
                                          unsigned long from)
{
    return find_bit(words, size, from, 0);
}

static inline unsigned long find_next_zero_bit(const unsigned long *words, unsigned long size,
                                               unsigned long from)
{
    return find_bit(words, size, from, ~0ul);
}

#define find_first_bit(words, size) find_next_bit(words, size, 0)
#define find_first_zero_bit(words, size) find_next_zero_bit(words, size, 0)

/* `size` when none is set. */
static inline unsigned long find_last_bit(const unsigned long *words, unsigned long size)
{
    for (unsigned long at = size; at--;)
        if (test_bit(at, words))
            return at;
    return size;
}

#define for_each_set_bit(bit, words, size)                                                    \
    for ((bit) = find_first_bit(words, size); (bit) < (size);                                 \
         (bit) = find_next_bit(words, size, (bit) + 1))
#define for_each_set_bit_from(bit, words, size)                                               \
    for ((bit) = find_next_bit(words, size, bit); (bit) < (size);                             \
         (bit) = find_next_bit(words, size, (bit) + 1))
#define for_each_clear_bit(bit, words, size)                                                  \
    for ((bit) = find_first_zero_bit(words, size); (bit) < (size);                            \
         (bit) = find_next_zero_bit(words, size, (bit) + 1))

#endif
