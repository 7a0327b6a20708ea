/* What the board's own work costs a guest, in ticks of `time`. S-mode over the SBI; runs alike
 * on pagewalk and on `qemu-system-riscv64 -M virt -kernel`. Prints, five times each, a name, ticks and how many
 * operations they were. */
#include <pagewalk/sbi.h>

#define EXT_TIME 0x54494d45
#define UART_LSR ((volatile unsigned char *)0x10000005)
#define COUNT 20000ul
#define LATE_COUNT 200ul
#define AHEAD 5000ul /* ticks: 0.5 ms */
#define SIE_STIE 0x20ul
#define SSTATUS_SIE 2ul

static volatile unsigned long interrupts_left, rung;

static unsigned long ticks(void)
{
    unsigned long now;
    __asm__ volatile("rdtime %0" : "=r"(now));
    return now;
}

static void set_timer(unsigned long when)
{
    sbi_call(EXT_TIME, 0, (long)when, 0, 0);
}

/* The next one is due at once, until enough have come. */
__attribute__((interrupt("supervisor"), aligned(4))) static void on_timer(void)
{
    rung = ticks();
    unsigned long left = interrupts_left - 1;
    interrupts_left = left;
    set_timer(left ? 0 : -1ul);
}

static unsigned long calls(void)
{
    unsigned long start = ticks();
    for (unsigned long i = 0; i < COUNT; i++)
        sbi_call(SBI_EXT_BASE, 0, 0, 0, 0);
    return ticks() - start;
}

static unsigned long reads(void)
{
    unsigned long start = ticks();
    for (unsigned long i = 0; i < COUNT; i++)
        (void)*UART_LSR;
    return ticks() - start;
}

static unsigned long interrupts(void)
{
    interrupts_left = COUNT;
    unsigned long start = ticks();
    set_timer(0);
    while (interrupts_left)
        ;
    return ticks() - start;
}

/* How long after its time a busy hart is interrupted. */
static unsigned long late(void)
{
    unsigned long sum = 0;
    for (unsigned long i = 0; i < LATE_COUNT; i++) {
        interrupts_left = 1;
        unsigned long when = ticks() + AHEAD;
        set_timer(when);
        while (interrupts_left)
            ;
        sum += rung - when;
    }
    return sum;
}

int main(void)
{
    __asm__ volatile("csrw stvec, %0" ::"r"(on_timer));
    __asm__ volatile("csrs sie, %0" ::"r"(SIE_STIE));
    __asm__ volatile("csrs sstatus, %0" ::"r"(SSTATUS_SIE));
    for (int round = 0; round < 5; round++) {
        printf("call %lu %lu\n", calls(), COUNT);
        printf("mmio %lu %lu\n", reads(), COUNT);
        printf("timer %lu %lu\n", interrupts(), COUNT);
        printf("late %lu %lu\n", late(), LATE_COUNT);
    }
    return 0;
}
