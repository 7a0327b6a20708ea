/* A timer-driven S-mode kernel with Sv39 and two tasks, to read in one sitting: start here. */
#include "format.h"
#include "tiny.h"

#define TIMEBASE_DEFAULT 10000000 /* Hz of `time`, where no device tree tells */

/* From start.S: S-mode, translation and interrupts off, the device tree at the PA `fdt`. */
void kernel_main(unsigned long hart, const void *fdt)
{
    const void *timebase = fdt_property(fdt, "timebase-frequency");
    unsigned long hz = timebase ? big_endian(timebase) : TIMEBASE_DEFAULT;
    int tasks = TASKS - 1;
    for (const char *at = fdt_property(fdt, "bootargs"); at && *at; at++)
        if (starts_with(at, "bad"))
            tasks = TASKS;

    vm_init(); /* from here on only what is mapped exists: the device tree does not */
    printf("tiny: hart %lu, Sv39, time at %lu Hz, %ld pages free\n", hart, hz, pages_free);
    for (int number = 0; number < tasks; number++)
        task_create(number);
    timer_start(hz);
    resume(schedule());
}

void printf(const char *format, ...)
{
    char line[160];
    va_list arguments;
    va_start(arguments, format);
    console_write(line, format_text(line, sizeof line, format, arguments));
    va_end(arguments);
}

int starts_with(const char *text, const char *word)
{
    while (*word && *text == *word)
        text++, word++;
    return !*word;
}

/* C compilers call these two also where the source does not. */
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
