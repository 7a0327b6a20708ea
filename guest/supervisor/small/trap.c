/* What comes out of a trap: the timer, devices by way of the PLIC, system calls, faults. */
#include "small.h"

#define INTERRUPT (1ul << 63)
#define SOFTWARE (INTERRUPT | 1) /* from timer_entry, in start.S */
#define TIMER (INTERRUPT | 5)    /* Sstc's own */
#define EXTERNAL (INTERRUPT | 9)
#define ECALL_FROM_U 8
#define SIP_SSIP 2ul
#define SSTATUS_SPIE (1ul << 5)
#define SSTATUS_SPP (1ul << 8)
#define PLIC_PRIORITY(irq) (*(volatile uint32_t *)(PLIC + 4 * (irq)))
#define PLIC_ENABLE (*(volatile uint32_t *)(PLIC + 0x2080)) /* of context 1: hart 0 in S-mode */
#define PLIC_THRESHOLD (*(volatile uint32_t *)(PLIC + 0x201000))
#define PLIC_CLAIM (*(volatile uint32_t *)(PLIC + 0x201004))

volatile unsigned long ticks;
static unsigned long interval; /* ticks of `time` between two timer interrupts; 0: M-mode's are used */

static void set_stimecmp(void)
{
    __asm__ volatile("csrw 0x14d, %0" ::"r"(csr_read(time) + interval));
}

void trap_init(unsigned long sstc_interval)
{
    csr_write(stvec, kernel_entry);
    PLIC_PRIORITY(UART_IRQ) = PLIC_PRIORITY(DISK_IRQ) = 1;
    PLIC_ENABLE = 1 << UART_IRQ | 1 << DISK_IRQ;
    PLIC_THRESHOLD = 0;
    interval = sstc_interval;
    if (interval)
        set_stimecmp();
}

static void external(void)
{
    uint32_t irq = PLIC_CLAIM;
    if (irq == UART_IRQ)
        uart_interrupt();
    else if (irq == DISK_IRQ)
        disk_interrupt();
    else if (irq)
        printf("small: interrupt %lu\n", (unsigned long)irq);
    if (irq)
        PLIC_CLAIM = irq;
}

/* Whether `cause` was an interrupt; a tick is told by `ticks`. */
static int interrupt(unsigned long cause)
{
    if (cause == EXTERNAL) {
        external();
    } else if (cause == TIMER || cause == SOFTWARE) {
        ticks++;
        wake_up(&ticks);
        if (cause == TIMER)
            set_stimecmp();
        else
            csr_clear(sip, SIP_SSIP);
    } else {
        return 0;
    }
    return 1;
}

static const char *const faults[16] = {
    "instruction address misaligned", "instruction access fault", "illegal instruction",
    "breakpoint", "load address misaligned", "load access fault", "store address misaligned",
    "store access fault", [12] = "instruction page fault", "load page fault",
    [15] = "store page fault",
};

/* From kernel_entry: an interrupt of a process that was in the kernel, or of the scheduler. */
void kernel_trap(void)
{
    unsigned long pc = csr_read(sepc), status = csr_read(sstatus), cause = csr_read(scause);
    unsigned long before = ticks;
    if (!interrupt(cause)) {
        printf("small: scause %lu, stval %p, sepc %p\n", cause, (void *)csr_read(stval), (void *)pc);
        panic("a trap in the kernel");
    }
    if (ticks != before && current && current->state == RUNNING)
        yield();
    csr_write(sepc, pc); /* others may have trapped meanwhile */
    csr_write(sstatus, status);
}

/* From user_entry, by frame->handler. */
static void user_trap(void)
{
    csr_write(stvec, kernel_entry);
    unsigned long cause = csr_read(scause), before = ticks;
    if (cause == ECALL_FROM_U) {
        current->frame->pc += 4;
        interrupts_restore(SSTATUS_SIE);
        system_call();
    } else if (!interrupt(cause)) {
        printf("small: process %ld killed: %s at %p\n", (long)current->pid, faults[cause % 16],
               (void *)csr_read(stval));
        current->killed = 1;
    }
    if (current->killed)
        process_exit(-1);
    if (cause != ECALL_FROM_U && ticks != before)
        yield();
    user_resume();
}

/* To user mode, with the registers in the current process's frame. */
void user_resume(void)
{
    interrupts_off(); /* from here on stvec is for traps from user mode */
    csr_write(stvec, TRAMPOLINE + (user_entry - trampoline));
    struct frame *frame = current->frame;
    frame->kernel_satp = csr_read(satp);
    frame->kernel_sp = current->stack_top;
    frame->handler = (unsigned long)user_trap;
    csr_write(sstatus, (csr_read(sstatus) & ~SSTATUS_SPP) | SSTATUS_SPIE);
    void (*go)(unsigned long satp) = (void *)(TRAMPOLINE + (user_return - trampoline));
    go(satp_of(current->root));
    __builtin_unreachable();
}
