/* The printf of every runtime. */
#ifndef PAGEWALK_FORMAT_H
#define PAGEWALK_FORMAT_H

#include <stdarg.h>
#include <stddef.h>

/* Formats through `buffer` of `size` bytes: `flush` takes what is in it whenever it is full,
 * and at the end. Returns the number of characters. */
int format_text(char *buffer, size_t size, void (*flush)(const char *text, size_t size),
                const char *format, va_list arguments);

#endif
