/* Text to numbers, and sscanf. */
#include <linux/ctype.h>
#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/string.h>

static int digit_value(char c)
{
    return isdigit(c) ? c - '0' : isxdigit(c) ? (c | 0x20) - 'a' + 10 : 16;
}

/* Steps over 0x, and finds the base where it was not given. */
static const char *find_base(const char *text, unsigned int *base)
{
    bool is_hex = text[0] == '0' && (text[1] | 0x20) == 'x' && isxdigit(text[2]);
    if (*base == 0)
        *base = is_hex ? 16 : text[0] == '0' ? 8 : 10;
    return *base == 16 && is_hex ? text + 2 : text;
}

/* Reads digits; whether they overflowed. `text` moves behind them, `size` at most. */
static bool read_digits(const char **text, size_t size, unsigned int base, unsigned long long *result)
{
    bool overflow = false;
    *result = 0;
    for (; size && (unsigned int)digit_value(**text) < base; size--) {
        unsigned long long digit = (unsigned long long)digit_value(*(*text)++);
        overflow |= __builtin_mul_overflow(*result, base, result);
        overflow |= __builtin_add_overflow(*result, digit, result);
    }
    return overflow;
}

static int parse(const char *text, unsigned int base, unsigned long long *result)
{
    text = find_base(text, &base);
    const char *at = text;
    bool overflow = read_digits(&at, SIZE_MAX, base, result);
    if (at == text)
        return -EINVAL;
    if (overflow)
        return -ERANGE;
    if (*at == '\n')
        at++;
    return *at ? -EINVAL : 0;
}

int kstrtoull(const char *text, unsigned int base, unsigned long long *result)
{
    unsigned long long value;
    int error = parse(text[0] == '+' ? text + 1 : text, base, &value);
    if (!error)
        *result = value;
    return error;
}

int kstrtoll(const char *text, unsigned int base, long long *result)
{
    unsigned long long value;
    bool negative = text[0] == '-';
    int error = negative ? parse(text + 1, base, &value) : kstrtoull(text, base, &value);
    if (error)
        return error;
    if (negative ? value > 1ull << 63 : value >> 63)
        return -ERANGE;
    *result = negative ? (long long)(0 - value) : (long long)value;
    return 0;
}

#define NARROWER(name, type, wide, wider)                                                     \
    int name(const char *text, unsigned int base, type *result)                               \
    {                                                                                         \
        wide value;                                                                           \
        int error = wider(text, base, &value);                                                \
        if (error)                                                                            \
            return error;                                                                     \
        if (value != (wide)(type)value)                                                       \
            return -ERANGE;                                                                   \
        *result = (type)value;                                                                \
        return 0;                                                                             \
    }
NARROWER(kstrtoul, unsigned long, unsigned long long, kstrtoull)
NARROWER(kstrtol, long, long long, kstrtoll)
NARROWER(kstrtouint, unsigned int, unsigned long long, kstrtoull)
NARROWER(kstrtoint, int, long long, kstrtoll)
NARROWER(kstrtou16, u16, unsigned long long, kstrtoull)
NARROWER(kstrtos16, s16, long long, kstrtoll)
NARROWER(kstrtou8, u8, unsigned long long, kstrtoull)
NARROWER(kstrtos8, s8, long long, kstrtoll)

int kstrtobool(const char *text, bool *result)
{
    if (!text)
        return -EINVAL;
    switch (text[0]) {
    case 'y':
    case 'Y':
    case 't':
    case 'T':
    case '1':
        *result = true;
        return 0;
    case 'n':
    case 'N':
    case 'f':
    case 'F':
    case '0':
        *result = false;
        return 0;
    case 'o':
    case 'O': /* on, off */
        if ((text[1] | 0x20) == 'n' || (text[1] | 0x20) == 'f') {
            *result = (text[1] | 0x20) == 'n';
            return 0;
        }
    }
    return -EINVAL;
}

unsigned long long simple_strtoull(const char *text, char **end, unsigned int base)
{
    unsigned long long value;
    text = find_base(text, &base);
    read_digits(&text, SIZE_MAX, base, &value);
    if (end)
        *end = (char *)text;
    return value;
}

long long simple_strtoll(const char *text, char **end, unsigned int base)
{
    if (*text == '-')
        return (long long)(0 - simple_strtoull(text + 1, end, base));
    return (long long)simple_strtoull(text, end, base);
}

/* sscanf */

static void store(void *to, int size, unsigned long long value)
{
    switch (size) {
    case 1:
        *(u8 *)to = (u8)value;
        break;
    case 2:
        *(u16 *)to = (u16)value;
        break;
    case 4:
        *(u32 *)to = (u32)value;
        break;
    default:
        *(u64 *)to = value;
    }
}

/* %[set], with ranges and ^; `*format` moves behind the bracket. */
static bool in_set(const char *set, const char *end, char c)
{
    bool invert = *set == '^', found = false;
    for (set += invert; set < end; set++)
        if (set + 2 < end && set[1] == '-') {
            found |= c >= set[0] && c <= set[2];
            set += 2;
        } else {
            found |= c == *set;
        }
    return found != invert;
}

/* One conversion: `kind`, at most `width` characters (0: any), `to` or NULL to skip. Moves `*text`,
 * and `*format` to the end of a set; whether there was what it wants. */
static bool scan(const char **text, const char **format, size_t width, int size, void *to)
{
    char kind = **format, *out = to;
    if (kind == 'c') {
        for (width = width ? width : 1; width && **text; width--, ++*text)
            if (out)
                *out++ = **text;
        return true;
    }
    if (kind == 's' || kind == '[') {
        const char *set = *format + 1, *close = *format;
        if (kind == '[')
            for (close = set + (*set == '^') + 1; *close && *close != ']';)
                close++;
        else
            *text = skip_spaces(*text);
        const char *begin = *text;
        for (width = width ? width : SIZE_MAX; width && **text; width--, ++*text) {
            if (kind == '[' ? !in_set(set, close, **text) : isspace(**text))
                break;
            if (out)
                *out++ = **text;
        }
        if (kind == '[' && *text == begin)
            return false;
        if (out)
            *out = 0;
        *format = close;
        return true;
    }
    if (!kind || !strchr("diuxXo", kind))
        return false;
    unsigned int base = kind == 'i' ? 0 : kind == 'o' ? 8 : (kind | 0x20) == 'x' ? 16 : 10;
    *text = skip_spaces(*text);
    bool negative = **text == '-' && (kind == 'd' || kind == 'i');
    *text += negative;
    width = width ? width - negative : SIZE_MAX;
    const char *digits = width > 2 ? find_base(*text, &base) : *text;
    width -= (size_t)(digits - *text);
    *text = digits;
    unsigned long long value;
    read_digits(text, width, base ? base : 10, &value);
    if (*text == digits)
        return false;
    if (to)
        store(to, size, negative ? 0 - value : value);
    return true;
}

int vsscanf(const char *text, const char *format, va_list arguments)
{
    const char *start = text;
    int stored = 0;
    for (; *format; format++) {
        if (isspace(*format)) {
            text = skip_spaces(text);
            continue;
        }
        if (*format != '%' || format[1] == '%') {
            format += *format == '%';
            if (*text != *format)
                break;
            text++;
            continue;
        }
        bool skip = *++format == '*';
        format += skip;
        size_t width = 0;
        while (isdigit(*format))
            width = width * 10 + (size_t)(*format++ - '0');
        int size = 4;
        for (; *format == 'h' || *format == 'l' || *format == 'z' || *format == 'L'; format++)
            size = *format == 'h' ? size / 2 : 8;
        if (*format == 'n') {
            store(va_arg(arguments, void *), size, (unsigned long long)(text - start));
            continue;
        }
        if (!*text || !scan(&text, &format, width, size, skip ? NULL : va_arg(arguments, void *)))
            break;
        stored += !skip;
    }
    return stored;
}

int sscanf(const char *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int count = vsscanf(text, format, arguments);
    va_end(arguments);
    return count;
}
