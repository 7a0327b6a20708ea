/* Time in nanoseconds since the machine began, 100 ns at a time. There is no date. */
#ifndef _LINUX_KTIME_H
#define _LINUX_KTIME_H

#include <asm/timex.h>
#include <linux/limits.h>
#include <linux/time64.h>
#include <linux/types.h>

#define KTIME_MAX S64_MAX

static inline u64 ktime_get_ns(void)
{
    return get_cycles() * (NSEC_PER_SEC / riscv_timebase);
}

#define ktime_get() ((ktime_t)ktime_get_ns())
#define ktime_get_boottime() ktime_get()
#define ktime_get_raw() ktime_get()
#define ktime_get_raw_ns() ktime_get_ns()
#define ktime_get_boottime_ns() ktime_get_ns()
#define ktime_get_seconds() ((time64_t)(ktime_get_ns() / NSEC_PER_SEC))
#define ktime_get_boottime_seconds() ktime_get_seconds()
#define sched_clock() ktime_get_ns()
#define local_clock() ktime_get_ns()

static inline ktime_t ktime_set(s64 seconds, unsigned long ns)
{
    return seconds * NSEC_PER_SEC + (s64)ns;
}

#define ktime_add(a, b) ((a) + (b))
#define ktime_sub(a, b) ((a) - (b))
#define ktime_add_ns(a, ns) ((a) + (s64)(ns))
#define ktime_sub_ns(a, ns) ((a) - (s64)(ns))
#define ktime_add_us(a, us) ((a) + (s64)(us)*1000)
#define ktime_add_ms(a, ms) ((a) + (s64)(ms)*1000000)
#define ktime_to_ns(a) (a)
#define ktime_to_us(a) ((a) / 1000)
#define ktime_to_ms(a) ((a) / 1000000)
#define ns_to_ktime(ns) ((ktime_t)(ns))
#define us_to_ktime(us) ((ktime_t)(us)*1000)
#define ms_to_ktime(ms) ((ktime_t)(ms)*1000000)
#define ktime_us_delta(a, b) ktime_to_us(ktime_sub(a, b))
#define ktime_ms_delta(a, b) ktime_to_ms(ktime_sub(a, b))
#define ktime_compare(a, b) (((a) > (b)) - ((a) < (b)))
#define ktime_after(a, b) ((a) > (b))
#define ktime_before(a, b) ((a) < (b))

static inline struct timespec64 ktime_to_timespec64(ktime_t t)
{
    return (struct timespec64){t / NSEC_PER_SEC, (long)(t % NSEC_PER_SEC)};
}

#define ktime_get_ts64(result) (*(result) = ktime_to_timespec64(ktime_get()))

#endif
