#ifndef _LINUX_MATH64_H
#define _LINUX_MATH64_H

#include <linux/math.h>

static inline u64 div_u64_rem(u64 n, u32 d, u32 *rest)
{
    *rest = (u32)(n % d);
    return n / d;
}

static inline u64 div64_u64_rem(u64 n, u64 d, u64 *rest)
{
    *rest = n % d;
    return n / d;
}

static inline u64 div_u64(u64 n, u32 d)
{
    return n / d;
}

static inline s64 div_s64(s64 n, s32 d)
{
    return n / d;
}

static inline u64 div64_u64(u64 n, u64 d)
{
    return n / d;
}

static inline s64 div64_s64(s64 n, s64 d)
{
    return n / d;
}

#define div64_ul(n, d) div64_u64(n, d)
#define div64_long(n, d) div64_s64(n, d)

/* n becomes the quotient; the value is the remainder. */
#define do_div(n, d)                                                                          \
    ({                                                                                        \
        u32 do_div_d = (d), do_div_rest = (u32)((u64)(n) % do_div_d);                         \
        (n) = (u64)(n) / do_div_d;                                                            \
        do_div_rest;                                                                          \
    })

#endif
