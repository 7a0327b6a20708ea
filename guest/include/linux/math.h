#ifndef _LINUX_MATH_H
#define _LINUX_MATH_H

#include <linux/types.h>

/* `y` is a power of two. */
#define round_up(x, y) ((((x)-1) | ((__typeof__(x))(y)-1)) + 1)
#define round_down(x, y) ((x) & ~((__typeof__(x))(y)-1))
#define ALIGN(x, a) (((x) + (__typeof__(x))(a)-1) & ~((__typeof__(x))(a)-1))
#define ALIGN_DOWN(x, a) round_down(x, a)
#define IS_ALIGNED(x, a) (((x) & ((__typeof__(x))(a)-1)) == 0)

#define roundup(x, y) ((((x) + (y)-1) / (y)) * (y))
#define rounddown(x, y) ((x) - (x) % (y))
#define DIV_ROUND_DOWN_ULL(n, d) ((unsigned long long)(n) / (d))
#define DIV_ROUND_UP_ULL(n, d) (((unsigned long long)(n) + (d)-1) / (d))
#define DIV_ROUND_CLOSEST(n, d)                                                               \
    ({                                                                                        \
        __typeof__(n) closest_n = (n);                                                        \
        __typeof__(d) closest_d = (d);                                                        \
        ((closest_n > 0) == (closest_d > 0)) ? (closest_n + closest_d / 2) / closest_d        \
                                             : (closest_n - closest_d / 2) / closest_d;       \
    })
#define mult_frac(x, n, d) ((x) / (d) * (n) + (x) % (d) * (n) / (d))
#define abs(x)                                                                                \
    ({                                                                                        \
        __typeof__(x) abs_x = (x);                                                            \
        abs_x < 0 ? -abs_x : abs_x;                                                           \
    })
#define abs_diff(a, b)                                                                        \
    ({                                                                                        \
        __typeof__(a) diff_a = (a), diff_b = (b);                                             \
        diff_a > diff_b ? diff_a - diff_b : diff_b - diff_a;                                  \
    })

/* The largest integer whose square is at most x. */
static inline unsigned long int_sqrt(unsigned long x)
{
    unsigned long root = 0;
    for (unsigned long bit = 1ul << 31; bit; bit >>= 1)
        if ((root | bit) <= x / (root | bit))
            root |= bit;
    return root;
}

static inline u64 int_pow(u64 base, unsigned int exponent)
{
    u64 power = 1;
    for (; exponent; exponent >>= 1, base *= base)
        if (exponent & 1)
            power *= base;
    return power;
}

static inline unsigned long gcd(unsigned long a, unsigned long b)
{
    while (b) {
        unsigned long rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static inline unsigned long lcm(unsigned long a, unsigned long b)
{
    return a && b ? a / gcd(a, b) * b : 0;
}

#endif
