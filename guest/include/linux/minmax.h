#ifndef _LINUX_MINMAX_H
#define _LINUX_MINMAX_H

#include <linux/compiler.h>

#define min_max_as(type, x, y, op)                                                            \
    ({                                                                                        \
        type min_max_x = (x), min_max_y = (y);                                                \
        min_max_x op min_max_y ? min_max_x : min_max_y;                                       \
    })
#define min(x, y) min_max_as(__typeof__(1 ? (x) : (y)), x, y, <)
#define max(x, y) min_max_as(__typeof__(1 ? (x) : (y)), x, y, >)
#define min3(x, y, z) min(min(x, y), z)
#define max3(x, y, z) max(max(x, y), z)
#define min_t(type, x, y) min_max_as(type, x, y, <)
#define max_t(type, x, y) min_max_as(type, x, y, >)
#define min_not_zero(x, y)                                                                    \
    ({                                                                                        \
        __typeof__(x) not_zero_x = (x);                                                       \
        __typeof__(y) not_zero_y = (y);                                                       \
        !not_zero_x ? not_zero_y : !not_zero_y ? not_zero_x : min(not_zero_x, not_zero_y);    \
    })
#define clamp(value, low, high) min((__typeof__(value))max(value, low), high)
#define clamp_t(type, value, low, high) min_t(type, max_t(type, value, low), high)
#define clamp_val(value, low, high) clamp_t(__typeof__(value), value, low, high)
#define in_range(value, start, length) ((value) - (start) < (length))

#define swap(a, b)                                                                            \
    do {                                                                                      \
        __typeof__(a) swap_a = (a);                                                           \
        (a) = (b);                                                                            \
        (b) = swap_a;                                                                         \
    } while (0)

#endif
