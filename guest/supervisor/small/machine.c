/* M-mode: what only it may do, done once, and then down to S-mode for good. */
#include "small.h"

#define TIMEBASE_DEFAULT 10000000 /* Hz, where no device tree tells */
#define MSTATUS_MIE (1ul << 3)
#define MSTATUS_MPP (3ul << 11)
#define MSTATUS_MPP_S (1ul << 11)
#define MIE_MTIE (1ul << 7)
#define SIE_ALL (1ul << 9 | 1ul << 5 | 1ul << 1) /* external, timer, software */
#define MENVCFG_STCE (1ul << 63)
#define MCOUNTEREN_TM 2ul
#define MTIMECMP (CLINT + 0x4000)
#define MTIME (CLINT + 0xbff8)

struct timer {
    unsigned long a1, a2, mtimecmp, interval; /* for timer_entry, in start.S */
} machine_timer;
extern char timer_entry[];
void kernel_main(int has_sstc, unsigned long timebase);

/* menvcfg came with version 1.12 of the specification: on a hart without it the access traps, and
 * the trap goes on behind it. By number: assemblers know the name since 2022. */
static int try_sstc(void)
{
    unsigned long found = 0;
    __asm__ volatile("la t0, 1f\n csrw mtvec, t0\n"
                     "csrs 0x30a, %1\n csrr %0, 0x30a\n"
                     ".balign 4\n 1:"
                     : "+r"(found) : "r"(MENVCFG_STCE) : "t0", "memory");
    return (found & MENVCFG_STCE) != 0;
}

static void start_clint_timer(unsigned long interval)
{
    volatile unsigned long *mtimecmp = (volatile unsigned long *)MTIMECMP;
    machine_timer.mtimecmp = MTIMECMP;
    machine_timer.interval = interval;
    *mtimecmp = *(volatile unsigned long *)MTIME + interval;
    csr_write(mscratch, &machine_timer);
    csr_write(mtvec, timer_entry);
    csr_set(mie, MIE_MTIE);
}

void machine_main(const void *fdt)
{
    const void *property = fdt_property(fdt, "timebase-frequency");
    unsigned long timebase = property ? big_endian(property) : TIMEBASE_DEFAULT;
    const char *arguments = fdt_property(fdt, "bootargs");
    int has_sstc = !(arguments && starts_with(arguments, "clint")) && try_sstc();

    csr_write(pmpaddr0, ~0ul >> 10); /* one region, all of memory, for S and U: R, W, X, NAPOT */
    csr_write(pmpcfg0, 0x1f);
    csr_write(satp, 0);
    csr_write(medeleg, 0xffff);
    csr_write(mideleg, 0xffff);
    csr_write(sie, SIE_ALL);
    if (has_sstc)
        csr_set(mcounteren, MCOUNTEREN_TM); /* without it stimecmp stays M-mode's */
    else
        start_clint_timer(timebase / TICKS_PER_SECOND);

    csr_write(mstatus, (csr_read(mstatus) & ~(MSTATUS_MPP | MSTATUS_MIE)) | MSTATUS_MPP_S);
    csr_write(mepc, kernel_main);
    register long a0 __asm__("a0") = has_sstc;
    register unsigned long a1 __asm__("a1") = timebase;
    __asm__ volatile("mret" ::"r"(a0), "r"(a1) : "memory"); /* interrupts of M are on from here */
    __builtin_unreachable();
}
