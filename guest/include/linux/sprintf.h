#ifndef _LINUX_SPRINTF_H
#define _LINUX_SPRINTF_H

#include <linux/types.h>

/* The length that the whole text has; the scn ones: that was stored. */
int vsnprintf(char *buffer, size_t size, const char *format, va_list arguments) __printf(3, 0);
int snprintf(char *buffer, size_t size, const char *format, ...) __printf(3, 4);
int vscnprintf(char *buffer, size_t size, const char *format, va_list arguments) __printf(3, 0);
int scnprintf(char *buffer, size_t size, const char *format, ...) __printf(3, 4);
int vsprintf(char *buffer, const char *format, va_list arguments) __printf(2, 0);
int sprintf(char *buffer, const char *format, ...) __printf(2, 3);
char *kvasprintf(gfp_t flags, const char *format, va_list arguments) __printf(2, 0);
char *kasprintf(gfp_t flags, const char *format, ...) __printf(2, 3);

/* %d %i %u %o %x %X %c %s %n %[set] %%, with *, a width, and hh h l ll z. */
int vsscanf(const char *text, const char *format, va_list arguments);
int sscanf(const char *text, const char *format, ...) __attribute__((format(scanf, 2, 3)));

#endif
