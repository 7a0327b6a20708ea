/* Bytes as hexadecimal text. */
#include <linux/ctype.h>
#include <linux/kernel.h>
#include <linux/string.h>

const char hex_asc[] = "0123456789abcdef";
const char hex_asc_upper[] = "0123456789ABCDEF";

int hex_to_bin(unsigned char digit)
{
    return isdigit(digit) ? digit - '0' : isxdigit(digit) ? (digit | 0x20) - 'a' + 10 : -1;
}

int hex2bin(u8 *to, const char *from, size_t count)
{
    for (; count--; from += 2) {
        int high = hex_to_bin((u8)from[0]), low = high < 0 ? -1 : hex_to_bin((u8)from[1]);
        if (low < 0)
            return -EINVAL;
        *to++ = (u8)(high << 4 | low);
    }
    return 0;
}

char *bin2hex(char *to, const void *from, size_t count)
{
    for (const u8 *byte = from; count--; byte++) {
        *to++ = hex_asc[*byte >> 4];
        *to++ = hex_asc[*byte & 15];
    }
    return to;
}

/* Groups of bytes as numbers, little-endian, then, from one column on, the characters. */
int hex_dump_to_buffer(const void *bytes, size_t count, int rowsize, int groupsize, char *line,
                       size_t size, bool ascii)
{
    const u8 *byte = bytes;
    size_t used = 0;
    if (rowsize != 16 && rowsize != 32)
        rowsize = 16;
    count = min(count, (size_t)rowsize);
    if (groupsize != 2 && groupsize != 4 && groupsize != 8)
        groupsize = 1;
    if (count % (size_t)groupsize)
        groupsize = 1;
#define PUT(c)                                                                                \
    do {                                                                                      \
        if (used + 1 < size)                                                                  \
            line[used] = (c);                                                                 \
        used++;                                                                               \
    } while (0)
    for (size_t i = 0; i < count; i += (size_t)groupsize) {
        if (i)
            PUT(' ');
        for (int j = groupsize; j--;) {
            PUT(hex_asc[byte[i + (size_t)j] >> 4]);
            PUT(hex_asc[byte[i + (size_t)j] & 15]);
        }
    }
    if (ascii && count) {
        size_t column = (size_t)(rowsize * 2 + rowsize / groupsize + 1);
        while (used < column)
            PUT(' ');
        for (size_t i = 0; i < count; i++)
            PUT(isprint(byte[i]) ? (char)byte[i] : '.');
    }
#undef PUT
    if (size)
        line[min(used, size - 1)] = 0;
    return (int)used;
}

void print_hex_dump(const char *level, const char *prefix, int prefix_type, int rowsize,
                    int groupsize, const void *bytes, size_t count, bool ascii)
{
    char line[32 * 3 + 2 + 32 + 1];
    if (rowsize != 16 && rowsize != 32)
        rowsize = 16;
    for (size_t at = 0; at < count; at += (size_t)rowsize) {
        const u8 *row = (const u8 *)bytes + at;
        hex_dump_to_buffer(row, count - at, rowsize, groupsize, line, sizeof line, ascii);
        if (prefix_type == DUMP_PREFIX_ADDRESS)
            printk("%s%s%p: %s\n", level, prefix, (const void *)row, line);
        else if (prefix_type == DUMP_PREFIX_OFFSET)
            printk("%s%s%.8x: %s\n", level, prefix, (unsigned int)at, line);
        else
            printk("%s%s%s\n", level, prefix, line);
    }
}
