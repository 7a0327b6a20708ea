/* Reference counts that saturate: a count that would wrap is stuck, and reported. */
#ifndef _LINUX_REFCOUNT_H
#define _LINUX_REFCOUNT_H

#include <linux/atomic.h>
#include <linux/bug.h>

typedef struct {
    atomic_t refs;
} refcount_t;

#define REFCOUNT_INIT(n) {.refs = ATOMIC_INIT(n)}
#define REFCOUNT_SATURATED (-0x7fffffff - 1 + 0x40000000)

static inline void refcount_set(refcount_t *r, int n)
{
    atomic_set(&r->refs, n);
}

static inline unsigned int refcount_read(const refcount_t *r)
{
    return (unsigned int)atomic_read(&r->refs);
}

static inline void refcount_saturate(refcount_t *r, const char *why)
{
    atomic_set(&r->refs, REFCOUNT_SATURATED);
    WARN(1, "refcount_t: %s.\n", why);
}

static inline bool refcount_inc_not_zero(refcount_t *r)
{
    int was = atomic_fetch_add_unless(&r->refs, 1, 0);
    if (unlikely(was < 0 || was + 1 < 0))
        refcount_saturate(r, "saturated; leaking memory");
    return was != 0;
}

static inline void refcount_inc(refcount_t *r)
{
    int was = atomic_fetch_add(1, &r->refs);
    if (unlikely(!was))
        refcount_saturate(r, "addition on 0; use-after-free");
    else if (unlikely(was < 0 || was + 1 < 0))
        refcount_saturate(r, "saturated; leaking memory");
}

static inline bool refcount_dec_and_test(refcount_t *r)
{
    int was = atomic_fetch_sub(1, &r->refs);
    if (unlikely(was <= 0))
        refcount_saturate(r, "underflow; use-after-free");
    return was == 1;
}

static inline void refcount_dec(refcount_t *r)
{
    if (unlikely(atomic_fetch_sub(1, &r->refs) <= 1))
        refcount_saturate(r, "decrement hit 0; leaking memory");
}

#endif
