/* The printf of both sides: kernel and program can't call each other, so each has a copy. */
#ifndef FORMAT_H
#define FORMAT_H

#include <stdarg.h>
#include <stddef.h>

/* Knows %s %ld %lu %lx %p. Writes what fits; returns how much that is. Adds no zero at the end. */
static size_t format_text(char *buffer, size_t size, const char *format, va_list arguments)
{
    size_t used = 0;
    for (; *format && used < size; format++) {
        char digits[24] = "", *text = &digits[sizeof digits - 1];
        if (*format != '%') {
            *--text = *format;
        } else if (*++format == 's') {
            text = va_arg(arguments, char *);
        } else {
            format += *format == 'l';
            int base = *format == 'd' || *format == 'u' ? 10 : 16;
            unsigned long value = va_arg(arguments, unsigned long);
            int negative = *format == 'd' && (long)value < 0;
            if (negative)
                value = -value;
            do
                *--text = "0123456789abcdef"[value % base];
            while (value /= base);
            if (base == 16)
                *--text = 'x', *--text = '0';
            if (negative)
                *--text = '-';
        }
        while (*text && used < size)
            buffer[used++] = *text++;
    }
    return used;
}

#endif
