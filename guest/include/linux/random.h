/* Random numbers: the same in every run, as everything here. */
#ifndef _LINUX_RANDOM_H
#define _LINUX_RANDOM_H

#include <linux/types.h>
#include <pagewalk/call.h>

static inline u64 get_random_u64(void)
{
    return (u64)kernel_call(CALL_RANDOM, 0, 0).value;
}

#define get_random_u32() ((u32)get_random_u64())
#define get_random_u16() ((u16)get_random_u64())
#define get_random_u8() ((u8)get_random_u64())
#define get_random_long() ((unsigned long)get_random_u64())
#define get_random_int() get_random_u32()
#define prandom_u32() get_random_u32()

/* Below `ceiling`, each as likely as the others. */
static inline u32 get_random_u32_below(u32 ceiling)
{
    return (u32)((u64)get_random_u32() * ceiling >> 32);
}

#define prandom_u32_max(ceiling) get_random_u32_below(ceiling)
#define get_random_u32_inclusive(low, high) ((low) + get_random_u32_below((high) - (low) + 1))

static inline void get_random_bytes(void *to, size_t count)
{
    for (u8 *byte = to; count--;)
        *byte++ = get_random_u8();
}

#endif
