/* Waiting. The first three spin; the others may sleep, and say so where that is not allowed. */
#ifndef _LINUX_DELAY_H
#define _LINUX_DELAY_H

#include <asm/timex.h>
#include <linux/kernel.h>

static inline void delay_ticks(unsigned long ticks)
{
    for (cycles_t start = get_cycles(); get_cycles() - start < ticks;)
        barrier();
}

#define ndelay(ns) delay_ticks(DIV_ROUND_UP((unsigned long)(ns), 1000000000ul / riscv_timebase))
#define udelay(us) delay_ticks((unsigned long)(us) * (riscv_timebase / 1000000))
#define mdelay(ms) delay_ticks((unsigned long)(ms) * (riscv_timebase / 1000))

static inline void usleep_range(unsigned long min, unsigned long max)
{
    might_sleep();
    udelay(min);
}

static inline void msleep(unsigned int ms)
{
    might_sleep();
    mdelay(ms);
}

/* What was left of the time: nothing, nobody can wake the one task. */
static inline unsigned long msleep_interruptible(unsigned int ms)
{
    msleep(ms);
    return 0;
}

static inline void ssleep(unsigned int seconds)
{
    msleep(seconds * 1000);
}

#define fsleep(us) usleep_range(us, us)

#endif
