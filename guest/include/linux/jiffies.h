/* Jiffies, made of the time CSR: they begin five minutes before 32 bits of them wrap, as Linux's do. */
#ifndef _LINUX_JIFFIES_H
#define _LINUX_JIFFIES_H

#include <asm/param.h>
#include <asm/timex.h>
#include <linux/limits.h>
#include <linux/types.h>

#define INITIAL_JIFFIES ((unsigned long)(unsigned int)(-300 * HZ))

static inline unsigned long jiffies_now(void)
{
    return INITIAL_JIFFIES + get_cycles() / (riscv_timebase / HZ);
}

#define jiffies jiffies_now()
#define get_jiffies_64() ((u64)jiffies_now())
#define jiffies_64 get_jiffies_64()

#define time_after(a, b) ((long)((b) - (a)) < 0)
#define time_before(a, b) time_after(b, a)
#define time_after_eq(a, b) ((long)((a) - (b)) >= 0)
#define time_before_eq(a, b) time_after_eq(b, a)
#define time_in_range(a, b, c) (time_after_eq(a, b) && time_before_eq(a, c))
#define time_after64(a, b) time_after(a, b)
#define time_before64(a, b) time_before(a, b)
#define time_is_before_jiffies(a) time_after(jiffies, a)
#define time_is_after_jiffies(a) time_before(jiffies, a)
#define MAX_JIFFY_OFFSET ((LONG_MAX >> 1) - 1)

static inline unsigned int jiffies_to_msecs(unsigned long j)
{
    return (unsigned int)(j * (1000 / HZ));
}

static inline unsigned int jiffies_to_usecs(unsigned long j)
{
    return (unsigned int)(j * (1000000 / HZ));
}

static inline u64 jiffies_to_nsecs(unsigned long j)
{
    return j * (1000000000ull / HZ);
}

/* Rounded up: who waits that long has waited long enough. */
static inline unsigned long msecs_to_jiffies(unsigned int ms)
{
    return (int)ms < 0 ? MAX_JIFFY_OFFSET : (ms + 1000ul / HZ - 1) / (1000 / HZ);
}

static inline unsigned long usecs_to_jiffies(unsigned int us)
{
    return (us + 1000000ul / HZ - 1) / (1000000 / HZ);
}

static inline unsigned long nsecs_to_jiffies(u64 ns)
{
    return ns / (1000000000ull / HZ);
}

#endif
