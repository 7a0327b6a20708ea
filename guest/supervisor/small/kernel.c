/* A kernel that begins in M-mode: CLINT or Sstc, PLIC, UART, a virtio disk, processes, a shell. */
#include "format.h"
#include "small.h"

static unsigned long hz; /* of `time`, from the device tree */

/* In S-mode on the boot stack, translation off: what machine.c went to. The device tree is read
 * now: from vm_init on, only what is mapped exists. */
void kernel_main(int has_sstc, unsigned long timebase)
{
    hz = timebase;
    uart_init();
    page_init();
    vm_init();
    printf("small: Sv39, timer by %s, %ld pages free\n", has_sstc ? "Sstc" : "CLINT", pages_free);
    trap_init(has_sstc ? hz / TICKS_PER_SECOND : 0);
    disk_init();
    process_init();
    schedule();
}

/* Does not sleep, and so may be called from anywhere. */
void printf(const char *format, ...)
{
    char line[160];
    va_list arguments;
    va_start(arguments, format);
    size_t size = format_text(line, sizeof line, format, arguments);
    va_end(arguments);
    for (size_t i = 0; i < size; i++)
        uart_put_now(line[i]);
}

void panic(const char *why)
{
    interrupts_off();
    printf("small: panic: %s\n", why);
    halt(1);
}

/* Through the test finisher: 0x5555 is "pass", 0x3333 "fail" with a code above it. */
void halt(unsigned code)
{
    *(volatile uint32_t *)FINISHER = code ? code << 16 | 0x3333 : 0x5555;
    for (;;)
        ;
}

void *memset(void *to, int byte, size_t size)
{
    for (char *p = to; size--;)
        *p++ = (char)byte;
    return to;
}

void *memcpy(void *to, const void *from, size_t size)
{
    const char *q = from;
    for (char *p = to; size--;)
        *p++ = *q++;
    return to;
}
