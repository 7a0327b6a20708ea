/* The helpers that everybody uses. */
#ifndef _LINUX_KERNEL_H
#define _LINUX_KERNEL_H

#include <linux/bitops.h>
#include <linux/bug.h>
#include <linux/compiler.h>
#include <linux/errno.h>
#include <linux/kstrtox.h>
#include <linux/limits.h>
#include <linux/log2.h>
#include <linux/math.h>
#include <linux/minmax.h>
#include <linux/printk.h>
#include <linux/sprintf.h>
#include <linux/stddef.h>
#include <linux/types.h>

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define PTR_ALIGN(pointer, to) ((__typeof__(pointer))ALIGN((unsigned long)(pointer), (to)))
#define upper_32_bits(n) ((u32)(((n) >> 16) >> 16))
#define lower_32_bits(n) ((u32)((n)&0xffffffff))
#define REPEAT_BYTE(byte) ((~0ul / 0xff) * (byte))
#define typecheck(type, x)                                                                    \
    ({                                                                                        \
        type typecheck_a;                                                                     \
        __typeof__(x) typecheck_b;                                                            \
        (void)(&typecheck_a == &typecheck_b);                                                 \
        1;                                                                                    \
    })

/* Whoever calls this may sleep: not with a spinlock held, nor with interrupts off. */
void __might_sleep(const char *file, int line);
#define might_sleep() __might_sleep(__FILE__, __LINE__)
#define might_sleep_if(condition)                                                             \
    do {                                                                                      \
        if (condition)                                                                        \
            might_sleep();                                                                    \
    } while (0)

void panic(const char *format, ...) __printf(1, 2) __noreturn;
void dump_stack(void);

extern const char hex_asc[], hex_asc_upper[];
int hex_to_bin(unsigned char digit);
int hex2bin(u8 *to, const char *from, size_t count);
char *bin2hex(char *to, const void *from, size_t count);

#define trace_printk(...) printk(__VA_ARGS__)

#endif
