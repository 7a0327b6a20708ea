/* The S-mode module runtime: printk. The rest is inline in pagewalk/module.h. */
#include <pagewalk/module.h>

#include "format.h"

static void flush(const char *text, size_t size)
{
    kernel_call(CALL_PRINTK, (long)text, (long)size);
}

int printk(const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int count = format_text(line, sizeof line, flush, format, arguments);
    va_end(arguments);
    return count;
}

/* The words behind the module's name on the command line, put here when it is loaded. */
__attribute__((visibility("default"))) char module_args[256];
