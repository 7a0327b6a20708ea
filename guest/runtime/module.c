/* The S-mode module runtime: printk. The rest is inline in pagewalk/module.h. */
#include <pagewalk/module.h>

#include "format.h"

int printk(const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int count = format_text(line, sizeof line, format, arguments);
    va_end(arguments);
    kernel_call(CALL_PRINTK, (long)line, count);
    return count;
}

/* The words behind the module's name on the command line, put here when it is loaded. */
__attribute__((visibility("default"))) char module_args[256];
