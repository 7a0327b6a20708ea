/* The runtime of an S-mode kernel: the firmware's console and the end. */
#include <stdarg.h>

#include <pagewalk/sbi.h>

#include "format.h"

static void flush(const char *text, size_t size)
{
    sbi_call(SBI_EXT_DBCN, 0, (long)size, (long)text, 0);
}

int printf(const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int count = format_text(line, sizeof line, flush, format, arguments);
    va_end(arguments);
    return count;
}

void shutdown(int failed)
{
    for (;;)
        sbi_call(SBI_EXT_SRST, 0, 0, failed != 0, 0);
}
