/* What the firmware does for us: console, timer, end (RISC-V SBI specification 2.0). */
#include "tiny.h"

enum { LEGACY_PUTCHAR = 1, TIME = 0x54494d45, DBCN = 0x4442434e, SRST = 0x53525354 };

struct result {
    long error;
    unsigned long value;
};

static struct result call(long extension, long function, unsigned long arg0, unsigned long arg1,
                          unsigned long arg2)
{
    register unsigned long a0 __asm__("a0") = arg0;
    register unsigned long a1 __asm__("a1") = arg1;
    register unsigned long a2 __asm__("a2") = arg2;
    register long a6 __asm__("a6") = function;
    register long a7 __asm__("a7") = extension;
    __asm__ volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(a2), "r"(a6), "r"(a7) : "memory");
    return (struct result){(long)a0, a1};
}

/* The firmware takes a PA. */
void console_write(const char *text, size_t size)
{
    while (size) {
        struct result done = call(DBCN, 0, size, (unsigned long)text, 0);
        if (done.error) { /* firmware older than SBI 2.0: a call for each byte */
            call(LEGACY_PUTCHAR, 0, (unsigned char)*text, 0, 0);
            done.value = 1;
        }
        text += done.value; /* DBCN may take only a part */
        size -= done.value;
    }
}

/* Asks for one timer interrupt, when `time` gets there, and withdraws the one that is pending. */
void sbi_set_timer(unsigned long time)
{
    if (call(TIME, 0, time, 0, 0).error)
        panic("the firmware has no timer\n");
}

void shutdown(int failed)
{
    call(SRST, 0, 0, failed != 0, 0);
    for (;;)
        __asm__ volatile("wfi");
}
