/* The time CSR. */
#ifndef _ASM_TIMEX_H
#define _ASM_TIMEX_H

#define riscv_timebase 10000000ul /* ticks a second */

typedef unsigned long cycles_t;

static inline cycles_t get_cycles(void)
{
    cycles_t now;
    __asm__ volatile("rdtime %0" : "=r"(now));
    return now;
}

#endif
