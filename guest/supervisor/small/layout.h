/* Where things are: the board (QEMU's virt), and both halves of the address space. */
#ifndef LAYOUT_H
#define LAYOUT_H

#define FINISHER 0x100000
#define CLINT 0x2000000
#define PLIC 0xc000000
#define UART 0x10000000
#define DISK 0x10001000 /* the first virtio slot */
#define UART_IRQ 10
#define DISK_IRQ 1
#define RAM 0x80000000
#define RAM_END 0x80400000 /* 4 MiB are enough; the device tree lies above */

#define PAGE_SIZE 4096
#define TRAMPOLINE 0x3ffffff000     /* the last page of the lower half, in every address space */
#define FRAME (TRAMPOLINE - PAGE_SIZE) /* a process's registers, below it */
#define USER_BASE 0x1000            /* the page below it is never mapped: a null pointer traps */
#define STACK_PAGES 2               /* of each process's stack in the kernel, and a hole */

#define PROCESSES 16
#define TICKS_PER_SECOND 100
#define SECTOR 512

/* System calls: the number in a7, arguments from a0 on, the result in a0, negative for an error.
 * Linux's numbers where it has one that does the same. */
#define SYS_read 63
#define SYS_write 64
#define SYS_exit 93
#define SYS_sleep 101 /* ticks */
#define SYS_kill 129
#define SYS_reboot 142 /* the end: status */
#define SYS_times 153  /* ticks since boot */
#define SYS_getpid 172
#define SYS_sbrk 214
#define SYS_fork 220
#define SYS_wait 260
#define SYS_read_sector 1000
#define SYS_write_sector 1001

#endif
