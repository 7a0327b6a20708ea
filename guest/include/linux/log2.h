#ifndef _LINUX_LOG2_H
#define _LINUX_LOG2_H

#include <linux/bitops.h>

#define ilog2(n) (63 - __builtin_clzll((unsigned long long)(n)))
#define is_power_of_2(n)                                                                      \
    ({                                                                                        \
        unsigned long power_n = (n);                                                          \
        power_n && !(power_n & (power_n - 1));                                                \
    })
#define roundup_pow_of_two(n) ((n) <= 1 ? 1ul : 1ul << (ilog2((n)-1) + 1))
#define rounddown_pow_of_two(n) (1ul << ilog2(n))
#define order_base_2(n) ((n) <= 1 ? 0 : ilog2((n)-1) + 1)

#endif
