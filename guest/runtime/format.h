/* The printf of both runtimes: formats into a fixed buffer, cuts what does not fit. */
#ifndef PAGEWALK_FORMAT_H
#define PAGEWALK_FORMAT_H

#include <stdarg.h>
#include <stddef.h>

int format_text(char *to, size_t size, const char *format, va_list arguments);

#endif
