#include "format.h"

struct sink {
    char *buffer;
    size_t size, used;
    void (*flush)(const char *text, size_t size);
    int count;
};

static void put(struct sink *sink, char c)
{
    if (sink->used == sink->size) {
        sink->flush(sink->buffer, sink->used);
        sink->used = 0;
    }
    sink->buffer[sink->used++] = c;
    sink->count++;
}

static void put_padded(struct sink *sink, const char *text, int length, int width, char pad)
{
    for (; width > length; width--)
        put(sink, pad);
    while (length--)
        put(sink, *text++);
}

static void put_number(struct sink *sink, unsigned long value, int negative, unsigned base,
                       int width, char pad)
{
    char digits[24];
    int at = sizeof digits;
    do {
        digits[--at] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    if (negative && pad == '0') { /* the sign stands before the zeros */
        put(sink, '-');
        width--;
    } else if (negative) {
        digits[--at] = '-';
    }
    put_padded(sink, digits + at, (int)sizeof digits - at, width, pad);
}

int format_text(char *buffer, size_t size, void (*flush)(const char *text, size_t size),
                const char *format, va_list arguments)
{
    struct sink sink = {buffer, size, 0, flush, 0};
    for (; *format; format++) {
        if (*format != '%') {
            put(&sink, *format);
            continue;
        }
        char pad = ' ';
        int width = 0, is_long = 0;
        if (*++format == '0')
            pad = '0';
        while (*format >= '0' && *format <= '9')
            width = width * 10 + (*format++ - '0');
        while (*format == 'l' || *format == 'z') {
            is_long = 1;
            format++;
        }
        switch (*format) {
        case 'd': {
            long value = is_long ? va_arg(arguments, long) : va_arg(arguments, int);
            unsigned long size_of = value < 0 ? 0ul - (unsigned long)value : (unsigned long)value;
            put_number(&sink, size_of, value < 0, 10, width, pad);
            break;
        }
        case 'u':
        case 'x': {
            unsigned long value =
                is_long ? va_arg(arguments, unsigned long) : va_arg(arguments, unsigned);
            put_number(&sink, value, 0, *format == 'u' ? 10 : 16, width, pad);
            break;
        }
        case 'p':
            put(&sink, '0');
            put(&sink, 'x');
            put_number(&sink, (unsigned long)va_arg(arguments, void *), 0, 16, width, '0');
            break;
        case 's': {
            const char *text = va_arg(arguments, const char *);
            int length = 0;
            while (text[length])
                length++;
            put_padded(&sink, text, length, width, ' ');
            break;
        }
        case 'c':
            put(&sink, (char)va_arg(arguments, int));
            break;
        case 0:
            format--;
            break;
        default:
            put(&sink, *format);
        }
    }
    if (sink.used)
        flush(buffer, sink.used);
    return sink.count;
}
