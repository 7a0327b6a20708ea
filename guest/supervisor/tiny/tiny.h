/* What the files of the kernel share. In the kernel VA = PA. */
#ifndef TINY_H
#define TINY_H

#include <stddef.h>
#include <stdint.h>

#define HZ 100                                /* timer interrupts a second */
#define TASKS 3                               /* the last one only with "bad" in the bootargs */
#define PAGE_SIZE 4096ul
#define USER_BASE 0x1000000000ul              /* VA where the program is linked, see tiny.ld */
#define USER_STACK_TOP (USER_BASE + 0x100000) /* a page of stack below it, nothing around it */

/* System calls: the number in a7, arguments from a0 on, the result in a0. Linux's numbers. */
enum { SYS_write = 64, SYS_exit = 93, SYS_sched_yield = 124, SYS_getticks = 153 /* times */ };
enum { EBADF = 9, EFAULT = 14, ENOSYS = 38 }; /* returned negative */

typedef unsigned long pte_t; /* a page table is 512 of them; the root is the address space */

/* The registers of a task that does not run. entry.S relies on this order: x1 to x31. */
struct frame {
    unsigned long pc, ra, sp, gp, tp, t0, t1, t2, s0, s1, a0, a1, a2, a3, a4, a5, a6, a7;
    unsigned long s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, t3, t4, t5, t6;
};

struct task {
    struct frame frame; /* sscratch points here while the task runs */
    pte_t *root;
    enum { UNUSED, READY, EXITED, KILLED } state;
    long number;
    unsigned long runs, preempted; /* times it was switched to; was sent away by the timer */
};

#define csr_read(name) ({ unsigned long v; __asm__ volatile("csrr %0, " #name : "=r"(v)); v; })
#define csr_write(name, value) __asm__ volatile("csrw " #name ", %0" ::"r"(value) : "memory")
#define panic(...) (printf("tiny: panic: " __VA_ARGS__), shutdown(1))

/* kernel.c */
void printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
int starts_with(const char *text, const char *word);
void *memset(void *to, int byte, size_t size);
void *memcpy(void *to, const void *from, size_t size);

/* task.c */
extern struct task *current;
extern unsigned long ticks; /* timer interrupts since boot */
void task_create(long number);
struct frame *schedule(void);      /* the next one's, who is `current` from now on */
struct frame *task_end(int state); /* of `current`; then schedule() */

/* trap.c, entry.S */
void timer_start(unsigned long timebase);
void resume(struct frame *frame) __attribute__((noreturn));

/* vm.c */
extern long pages_free;
void vm_init(void);
pte_t *vm_create(void);
void vm_destroy(pte_t *root);
void vm_switch(pte_t *root);                      /* NULL: the kernel's own */
void *vm_readable(pte_t *root, unsigned long va); /* PA of what the task may read, or NULL */

/* sbi.c */
void console_write(const char *text, size_t size);
void sbi_set_timer(unsigned long time);
void shutdown(int failed) __attribute__((noreturn));

/* fdt.c */
const void *fdt_property(const void *fdt, const char *name);
uint32_t big_endian(const void *word);

#endif
