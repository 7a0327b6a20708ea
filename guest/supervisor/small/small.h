/* What the files of the kernel share. In the kernel VA = PA, but for stacks and the trampoline. */
#ifndef SMALL_H
#define SMALL_H

#include "layout.h"

#include <stddef.h>
#include <stdint.h>

typedef unsigned long pte_t; /* a page table is 512 of them */
enum { V = 1, R = 2, W = 4, X = 8, U = 16, A = 64, D = 128 }; /* its low bits */

/* The registers of a process that was interrupted in user mode, in a page of its own. entry.S
 * relies on this order: pc, x1 to x31, and what it needs to get into the kernel. */
struct frame {
    unsigned long pc, ra, sp, gp, tp, t0, t1, t2, s0, s1, a0, a1, a2, a3, a4, a5, a6, a7;
    unsigned long s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, t3, t4, t5, t6;
    unsigned long kernel_satp, kernel_sp, handler;
};

/* What a C function may expect to find again: enough where a switch is a call (entry.S). */
struct context {
    unsigned long ra, sp, s[12];
};

struct process {
    enum { UNUSED, READY, RUNNING, SLEEPING, ZOMBIE } state;
    int pid, status, killed;
    struct process *parent;
    const volatile void *channel; /* what it sleeps on */
    pte_t *root;
    unsigned long size; /* bytes of user memory from USER_BASE on */
    unsigned long stack_top; /* of its kernel stack */
    struct frame *frame;
    struct context context;
};

#define csr_read(name) ({ unsigned long v; __asm__ volatile("csrr %0, " #name : "=r"(v)); v; })
#define csr_write(name, value) __asm__ volatile("csrw " #name ", %0" ::"r"(value) : "memory")
#define csr_set(name, bits) __asm__ volatile("csrs " #name ", %0" ::"r"(bits) : "memory")
#define csr_clear(name, bits) __asm__ volatile("csrc " #name ", %0" ::"r"(bits) : "memory")

#define SSTATUS_SIE 2ul

/* One hart: nothing comes between where interrupts are off. Gives what interrupts_restore takes. */
static inline unsigned long interrupts_off(void)
{
    unsigned long before;
    __asm__ volatile("csrrci %0, sstatus, 2" : "=r"(before)::"memory");
    return before & SSTATUS_SIE;
}

static inline void interrupts_restore(unsigned long before)
{
    csr_set(sstatus, before);
}

/* kernel.c */
void printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
void panic(const char *why) __attribute__((noreturn));
void halt(unsigned code) __attribute__((noreturn));
void *memset(void *to, int byte, size_t size);
void *memcpy(void *to, const void *from, size_t size);

/* fdt.c */
const void *fdt_property(const void *fdt, const char *name);
uint32_t big_endian(const void *word);
int starts_with(const char *text, const char *word);

/* page.c, vm.c */
extern long pages_free;
void page_init(void);
void *page_alloc(void); /* zeros; NULL when there is none */
void page_free(void *page);
void vm_init(void);
extern pte_t *kernel_root;
int vm_map(pte_t *root, unsigned long va, unsigned long pa, unsigned long size, pte_t flags);
pte_t *vm_create(struct frame *frame);
void vm_destroy(pte_t *root, unsigned long size);
unsigned long vm_resize(pte_t *root, unsigned long from, unsigned long to);
void vm_load(pte_t *root, const char *image, unsigned long from, unsigned long to, pte_t flags);
int vm_copy(pte_t *to, pte_t *from, unsigned long size);
int user_read(void *to, unsigned long va, size_t size);
int user_write(unsigned long va, const void *from, size_t size);
unsigned long satp_of(const pte_t *root);

/* process.c */
extern struct process *current; /* NULL in the scheduler */
void process_init(void);
void schedule(void) __attribute__((noreturn));
void yield(void);
void sleep_on(const volatile void *channel); /* interrupts are off, and are when it returns */
void wake_up(const volatile void *channel);
int process_fork(void);
void process_exit(int status) __attribute__((noreturn));
int process_wait(int *status);
int process_kill(int pid);
long process_grow(long bytes);

/* trap.c, entry.S */
extern volatile unsigned long ticks;
extern char trampoline[], user_entry[], user_return[], kernel_entry[];
void trap_init(unsigned long sstc_interval);
void user_resume(void) __attribute__((noreturn));
void switch_context(struct context *from, struct context *to);

/* syscall.c */
void system_call(void);

/* uart.c */
void uart_init(void);
void uart_put_now(char byte);
void uart_write(const char *bytes, size_t size); /* sleeps */
void uart_interrupt(void);
size_t console_read(char *line, size_t size); /* sleeps until there is a line */

/* disk.c */
void disk_init(void);
int disk_move(unsigned long sector, void *buffer, int write); /* sleeps; -1: no such sector */
void disk_interrupt(void);

#endif
