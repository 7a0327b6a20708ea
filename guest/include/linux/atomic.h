/* Atomic integers: one AMO each, or a loop of lr and sc. */
#ifndef _LINUX_ATOMIC_H
#define _LINUX_ATOMIC_H

#include <asm/barrier.h>
#include <linux/types.h>

#define ATOMIC_INIT(value) {(value)}
#define ATOMIC64_INIT(value) {(value)}
#define ATOMIC_LONG_INIT(value) {(value)}

#define xchg(pointer, value) __atomic_exchange_n(pointer, value, __ATOMIC_SEQ_CST)
#define cmpxchg(pointer, old, new)                                                            \
    ({                                                                                        \
        __typeof__(*(pointer)) cmpxchg_old = (old);                                           \
        __atomic_compare_exchange_n(pointer, &cmpxchg_old, new, false, __ATOMIC_SEQ_CST,      \
                                    __ATOMIC_SEQ_CST);                                        \
        cmpxchg_old;                                                                          \
    })
#define try_cmpxchg(pointer, old, new)                                                        \
    __atomic_compare_exchange_n(pointer, old, new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)

/* fetch_op and op_return of an operation, with the three weaker orders that Linux names. */
#define ATOMIC_FETCH(name, type, integer, op, suffix, order)                                  \
    static inline integer name##_fetch_##op##suffix(integer i, type *v)                       \
    {                                                                                         \
        return __atomic_fetch_##op(&v->counter, i, order);                                    \
    }
#define ATOMIC_RETURN(name, type, integer, op, suffix, order)                                 \
    static inline integer name##_##op##_return##suffix(integer i, type *v)                    \
    {                                                                                         \
        return __atomic_##op##_fetch(&v->counter, i, order);                                  \
    }
#define ATOMIC_ALL_ORDERS(make, name, type, integer, op)                                      \
    make(name, type, integer, op, , __ATOMIC_SEQ_CST)                                         \
    make(name, type, integer, op, _relaxed, __ATOMIC_RELAXED)                                 \
    make(name, type, integer, op, _acquire, __ATOMIC_ACQUIRE)                                 \
    make(name, type, integer, op, _release, __ATOMIC_RELEASE)
#define ATOMIC_OP(name, type, integer, op)                                                    \
    static inline void name##_##op(integer i, type *v)                                        \
    {                                                                                         \
        __atomic_fetch_##op(&v->counter, i, __ATOMIC_RELAXED);                                \
    }                                                                                         \
    ATOMIC_ALL_ORDERS(ATOMIC_FETCH, name, type, integer, op)

#define ATOMIC_TYPE(name, type, integer)                                                      \
    static inline integer name##_read(const type *v)                                          \
    {                                                                                         \
        return READ_ONCE(v->counter);                                                         \
    }                                                                                         \
    static inline void name##_set(type *v, integer i)                                         \
    {                                                                                         \
        WRITE_ONCE(v->counter, i);                                                            \
    }                                                                                         \
    static inline integer name##_read_acquire(const type *v)                                  \
    {                                                                                         \
        return __atomic_load_n(&v->counter, __ATOMIC_ACQUIRE);                                \
    }                                                                                         \
    static inline void name##_set_release(type *v, integer i)                                 \
    {                                                                                         \
        __atomic_store_n(&v->counter, i, __ATOMIC_RELEASE);                                   \
    }                                                                                         \
    ATOMIC_OP(name, type, integer, add)                                                       \
    ATOMIC_OP(name, type, integer, sub)                                                       \
    ATOMIC_OP(name, type, integer, and)                                                       \
    ATOMIC_OP(name, type, integer, or)                                                        \
    ATOMIC_OP(name, type, integer, xor)                                                       \
    ATOMIC_ALL_ORDERS(ATOMIC_RETURN, name, type, integer, add)                                \
    ATOMIC_ALL_ORDERS(ATOMIC_RETURN, name, type, integer, sub)                                \
    static inline void name##_andnot(integer i, type *v)                                      \
    {                                                                                         \
        name##_and(~i, v);                                                                    \
    }                                                                                         \
    static inline integer name##_fetch_andnot(integer i, type *v)                             \
    {                                                                                         \
        return name##_fetch_and(~i, v);                                                       \
    }                                                                                         \
    static inline void name##_inc(type *v)                                                    \
    {                                                                                         \
        name##_add(1, v);                                                                     \
    }                                                                                         \
    static inline void name##_dec(type *v)                                                    \
    {                                                                                         \
        name##_sub(1, v);                                                                     \
    }                                                                                         \
    static inline integer name##_inc_return(type *v)                                          \
    {                                                                                         \
        return name##_add_return(1, v);                                                       \
    }                                                                                         \
    static inline integer name##_dec_return(type *v)                                          \
    {                                                                                         \
        return name##_sub_return(1, v);                                                       \
    }                                                                                         \
    static inline integer name##_fetch_inc(type *v)                                           \
    {                                                                                         \
        return name##_fetch_add(1, v);                                                        \
    }                                                                                         \
    static inline integer name##_fetch_dec(type *v)                                           \
    {                                                                                         \
        return name##_fetch_sub(1, v);                                                        \
    }                                                                                         \
    static inline bool name##_sub_and_test(integer i, type *v)                                \
    {                                                                                         \
        return name##_sub_return(i, v) == 0;                                                  \
    }                                                                                         \
    static inline bool name##_dec_and_test(type *v)                                           \
    {                                                                                         \
        return name##_dec_return(v) == 0;                                                     \
    }                                                                                         \
    static inline bool name##_inc_and_test(type *v)                                           \
    {                                                                                         \
        return name##_inc_return(v) == 0;                                                     \
    }                                                                                         \
    static inline bool name##_add_negative(integer i, type *v)                                \
    {                                                                                         \
        return name##_add_return(i, v) < 0;                                                   \
    }                                                                                         \
    static inline integer name##_xchg(type *v, integer new)                                   \
    {                                                                                         \
        return xchg(&v->counter, new);                                                        \
    }                                                                                         \
    static inline integer name##_cmpxchg(type *v, integer old, integer new)                   \
    {                                                                                         \
        return cmpxchg(&v->counter, old, new);                                                \
    }                                                                                         \
    static inline bool name##_try_cmpxchg(type *v, integer *old, integer new)                 \
    {                                                                                         \
        return try_cmpxchg((integer *)&v->counter, old, new);                                 \
    }                                                                                         \
    /* Adds unless it is `unless`; what it was. */                                            \
    static inline integer name##_fetch_add_unless(type *v, integer i, integer unless)         \
    {                                                                                         \
        integer was = name##_read(v);                                                         \
        while (was != unless && !name##_try_cmpxchg(v, &was, was + i))                        \
            ;                                                                                 \
        return was;                                                                           \
    }                                                                                         \
    static inline bool name##_add_unless(type *v, integer i, integer unless)                  \
    {                                                                                         \
        return name##_fetch_add_unless(v, i, unless) != unless;                               \
    }                                                                                         \
    static inline bool name##_inc_not_zero(type *v)                                           \
    {                                                                                         \
        return name##_add_unless(v, 1, 0);                                                    \
    }                                                                                         \
    /* What it would be; it does not fall below 0. */                                         \
    static inline integer name##_dec_if_positive(type *v)                                     \
    {                                                                                         \
        integer was = name##_read(v);                                                         \
        while (was > 0 && !name##_try_cmpxchg(v, &was, was - 1))                              \
            ;                                                                                 \
        return was - 1;                                                                       \
    }

ATOMIC_TYPE(atomic, atomic_t, int)
ATOMIC_TYPE(atomic64, atomic64_t, s64)
typedef atomic64_t atomic_long_t;
ATOMIC_TYPE(atomic_long, atomic_long_t, long)

#endif
