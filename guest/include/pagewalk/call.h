/* How a module calls the kernel: an SBI extension of the kernel's own. */
#ifndef PAGEWALK_CALL_H
#define PAGEWALK_CALL_H

#include <pagewalk/abi.h>

struct kernel_result {
    long error; /* 0, or the kernel has logged what it refused */
    long value;
};

static inline struct kernel_result kernel_call5(long function, long arg0, long arg1, long arg2,
                                                long arg3, long arg4)
{
    register long a0 __asm__("a0") = arg0;
    register long a1 __asm__("a1") = arg1;
    register long a2 __asm__("a2") = arg2;
    register long a3 __asm__("a3") = arg3;
    register long a4 __asm__("a4") = arg4;
    register long a6 __asm__("a6") = function;
    register long a7 __asm__("a7") = KERNEL_EXTENSION;
    __asm__ volatile("ecall"
                     : "+r"(a0), "+r"(a1)
                     : "r"(a2), "r"(a3), "r"(a4), "r"(a6), "r"(a7)
                     : "memory");
    return (struct kernel_result){a0, a1};
}

static inline struct kernel_result kernel_call(long function, long arg0, long arg1)
{
    register long a0 __asm__("a0") = arg0;
    register long a1 __asm__("a1") = arg1;
    register long a6 __asm__("a6") = function;
    register long a7 __asm__("a7") = KERNEL_EXTENSION;
    __asm__ volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(a6), "r"(a7) : "memory");
    return (struct kernel_result){a0, a1};
}

#endif
