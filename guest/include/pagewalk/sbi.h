/* Calls of the SBI (version 2.0) for S-mode kernels. */
#ifndef PAGEWALK_SBI_H
#define PAGEWALK_SBI_H

#include <stddef.h>

#define SBI_EXT_BASE 0x10
#define SBI_EXT_DBCN 0x4442434e
#define SBI_EXT_SRST 0x53525354

struct sbi_result {
    long error;
    long value;
};

static inline struct sbi_result sbi_call(long extension, long function, long arg0, long arg1,
                                         long arg2)
{
    register long a0 __asm__("a0") = arg0;
    register long a1 __asm__("a1") = arg1;
    register long a2 __asm__("a2") = arg2;
    register long a6 __asm__("a6") = function;
    register long a7 __asm__("a7") = extension;
    __asm__ volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(a2), "r"(a6), "r"(a7) : "memory");
    return (struct sbi_result){a0, a1};
}

/* Prints on the firmware's console. */
int printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Ends the machine: reason 0 is success. */
void shutdown(int failed) __attribute__((noreturn));

#endif
