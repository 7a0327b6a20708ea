/* The S-mode module runtime: the kernel log, and text. The kernel formats, see guest/kernel/vsprintf.py;
 * a va_list is a pointer to 8-byte words, and it is told where they are. */
#include <linux/err.h>
#include <linux/module.h>
#include <linux/utsname.h>
#include <generated/utsrelease.h>

#include "module.h"

static int log_text(const char *format, va_list arguments, long is_bug)
{
    return (int)kernel_call5(CALL_PRINTK, (long)format, (long)arguments, is_bug, 0, 0).value;
}

int vprintk(const char *format, va_list arguments)
{
    return log_text(format, arguments, 0);
}

int printk(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int count = log_text(format, arguments, 0);
    va_end(arguments);
    return count;
}

int report_bug(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int count = log_text(format, arguments, 1);
    va_end(arguments);
    return count;
}

int vsnprintf(char *buffer, size_t size, const char *format, va_list arguments)
{
    struct kernel_result result = kernel_call5(CALL_VSNPRINTF, (long)buffer, (long)size,
                                               (long)format, (long)arguments, 0);
    if (result.error) /* where the kernel could not store: the fault is the caller's */
        *(volatile char *)result.value = 0;
    return (int)result.value;
}

int snprintf(char *buffer, size_t size, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int count = vsnprintf(buffer, size, format, arguments);
    va_end(arguments);
    return count;
}

int vscnprintf(char *buffer, size_t size, const char *format, va_list arguments)
{
    int count = vsnprintf(buffer, size, format, arguments);
    return (size_t)count < size ? count : size ? (int)size - 1 : 0;
}

int scnprintf(char *buffer, size_t size, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int count = vscnprintf(buffer, size, format, arguments);
    va_end(arguments);
    return count;
}

int vsprintf(char *buffer, const char *format, va_list arguments)
{
    return vsnprintf(buffer, INT_MAX, format, arguments);
}

int sprintf(char *buffer, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int count = vsprintf(buffer, format, arguments);
    va_end(arguments);
    return count;
}

char *kvasprintf(gfp_t flags, const char *format, va_list arguments)
{
    va_list again;
    va_copy(again, arguments);
    int count = vsnprintf(NULL, 0, format, again);
    va_end(again);
    char *text = kmalloc((size_t)count + 1, flags);
    if (text)
        vsnprintf(text, (size_t)count + 1, format, arguments);
    return text;
}

char *kasprintf(gfp_t flags, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *text = kvasprintf(flags, format, arguments);
    va_end(arguments);
    return text;
}

struct uts_namespace init_uts_ns = {.name = {.sysname = "Linux",
                                             .nodename = "pagewalk",
                                             .release = UTS_RELEASE,
                                             .version = "#1 pagewalk",
                                             .machine = "riscv64",
                                             .domainname = "(none)"}};

/* The words behind the module's name, put here when it is loaded: as they were typed, and apart,
 * for parameters that point into them. */
char module_args[1024];
__attribute__((used, retain)) char module_param_strings[1024];
