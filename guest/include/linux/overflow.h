#ifndef _LINUX_OVERFLOW_H
#define _LINUX_OVERFLOW_H

#include <linux/limits.h>
#include <linux/types.h>

#define check_add_overflow(a, b, result) __builtin_add_overflow(a, b, result)
#define check_sub_overflow(a, b, result) __builtin_sub_overflow(a, b, result)
#define check_mul_overflow(a, b, result) __builtin_mul_overflow(a, b, result)

/* Sizes that cannot be are SIZE_MAX: an allocation of that fails. */
static inline size_t size_mul(size_t a, size_t b)
{
    size_t size;
    return __builtin_mul_overflow(a, b, &size) ? SIZE_MAX : size;
}

static inline size_t size_add(size_t a, size_t b)
{
    size_t size;
    return __builtin_add_overflow(a, b, &size) ? SIZE_MAX : size;
}

#define array_size(n, size) size_mul(n, size)
#define array3_size(a, b, c) size_mul(size_mul(a, b), c)
#define struct_size(pointer, member, count)                                                   \
    size_add(sizeof(*(pointer)), size_mul(sizeof(*(pointer)->member), count))
#define flex_array_size(pointer, member, count) size_mul(sizeof(*(pointer)->member), count)

#endif
