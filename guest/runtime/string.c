/* Strings: what linux/string.h declares beyond memory.c. */
#include <linux/ctype.h>
#include <linux/kernel.h>
#include <linux/slab.h>
#include <linux/string.h>

void *memchr(const void *bytes, int byte, size_t size)
{
    for (const u8 *at = bytes; size--; at++)
        if (*at == (u8)byte)
            return (void *)at;
    return NULL;
}

void *memchr_inv(const void *bytes, int byte, size_t size)
{
    for (const u8 *at = bytes; size--; at++)
        if (*at != (u8)byte)
            return (void *)at;
    return NULL;
}

void *memscan(void *bytes, int byte, size_t size)
{
    u8 *at = bytes;
    while (size && *at != (u8)byte)
        at++, size--;
    return at;
}

void memzero_explicit(void *bytes, size_t size)
{
    memset(bytes, 0, size);
    barrier_data(bytes);
}

#define MEMSET_WORDS(name, type)                                                              \
    void *name(type *to, type value, size_t count)                                            \
    {                                                                                         \
        for (size_t i = 0; i < count; i++)                                                    \
            to[i] = value;                                                                    \
        return to;                                                                            \
    }
MEMSET_WORDS(memset16, u16)
MEMSET_WORDS(memset32, u32)
MEMSET_WORDS(memset64, u64)

size_t strnlen(const char *text, size_t size)
{
    size_t length = 0;
    while (length < size && text[length])
        length++;
    return length;
}

size_t strlen(const char *text)
{
    return strnlen(text, SIZE_MAX);
}

char *strcpy(char *to, const char *from)
{
    return memcpy(to, from, strlen(from) + 1);
}

char *strncpy(char *to, const char *from, size_t size)
{
    size_t length = strnlen(from, size);
    memcpy(to, from, length);
    memset(to + length, 0, size - length);
    return to;
}

char *strcat(char *to, const char *from)
{
    strcpy(to + strlen(to), from);
    return to;
}

char *strncat(char *to, const char *from, size_t size)
{
    char *end = to + strlen(to);
    size_t length = strnlen(from, size);
    memcpy(end, from, length);
    end[length] = 0;
    return to;
}

ssize_t sized_strscpy(char *to, const char *from, size_t size)
{
    if (!size)
        return -E2BIG;
    size_t length = strnlen(from, size - 1);
    memcpy(to, from, length);
    to[length] = 0;
    return from[length] ? -E2BIG : (ssize_t)length;
}

size_t strlcpy(char *to, const char *from, size_t size)
{
    sized_strscpy(to, from, size);
    return strlen(from);
}

size_t strlcat(char *to, const char *from, size_t size)
{
    size_t length = strnlen(to, size);
    if (length < size)
        sized_strscpy(to + length, from, size - length);
    return length + strlen(from);
}

int strncmp(const char *a, const char *b, size_t size)
{
    for (; size; a++, b++, size--)
        if (*a != *b || !*a)
            return (u8)*a < (u8)*b ? -1 : (u8)*a > (u8)*b;
    return 0;
}

int strcmp(const char *a, const char *b)
{
    return strncmp(a, b, SIZE_MAX);
}

int strncasecmp(const char *a, const char *b, size_t size)
{
    for (; size; a++, b++, size--) {
        int difference = tolower((u8)*a) - tolower((u8)*b);
        if (difference || !*a)
            return difference;
    }
    return 0;
}

int strcasecmp(const char *a, const char *b)
{
    return strncasecmp(a, b, SIZE_MAX);
}

char *strchrnul(const char *text, int c)
{
    while (*text && *text != (char)c)
        text++;
    return (char *)text;
}

char *strchr(const char *text, int c)
{
    text = strchrnul(text, c);
    return *text == (char)c ? (char *)text : NULL;
}

char *strrchr(const char *text, int c)
{
    const char *last = NULL;
    do {
        if (*text == (char)c)
            last = text;
    } while (*text++);
    return (char *)last;
}

char *strnchr(const char *text, size_t size, int c)
{
    for (; size--; text++) {
        if (*text == (char)c)
            return (char *)text;
        if (!*text)
            break;
    }
    return NULL;
}

char *strnstr(const char *text, const char *part, size_t size)
{
    size_t length = strlen(part);
    for (; size >= length; text++, size--) {
        if (!strncmp(text, part, length))
            return (char *)text;
        if (!*text)
            break;
    }
    return NULL;
}

char *strstr(const char *text, const char *part)
{
    return strnstr(text, part, SIZE_MAX);
}

size_t strspn(const char *text, const char *set)
{
    size_t count = 0;
    while (text[count] && strchr(set, text[count]))
        count++;
    return count;
}

size_t strcspn(const char *text, const char *set)
{
    size_t count = 0;
    while (text[count] && !strchr(set, text[count]))
        count++;
    return count;
}

char *strpbrk(const char *text, const char *set)
{
    text += strcspn(text, set);
    return *text ? (char *)text : NULL;
}

char *strsep(char **text, const char *set)
{
    char *part = *text;
    if (part) {
        char *end = strpbrk(part, set);
        if (end)
            *end++ = 0;
        *text = end;
    }
    return part;
}

char *skip_spaces(const char *text)
{
    while (isspace(*text))
        text++;
    return (char *)text;
}

char *strim(char *text)
{
    size_t length = strlen(text);
    while (length && isspace(text[length - 1]))
        length--;
    text[length] = 0;
    return skip_spaces(text);
}

char *strreplace(char *text, char old, char new)
{
    for (char *at = text; *at; at++)
        if (*at == old)
            *at = new;
    return text;
}

const char *kbasename(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* A newline at the end of either does not count. */
bool sysfs_streq(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    if (*a == *b)
        return true;
    return (!*a && *b == '\n' && !b[1]) || (*a == '\n' && !a[1] && !*b);
}

int match_string(const char *const *array, size_t count, const char *text)
{
    for (size_t i = 0; i < count && array[i]; i++)
        if (!strcmp(array[i], text))
            return (int)i;
    return -EINVAL;
}

int __sysfs_match_string(const char *const *array, size_t count, const char *text)
{
    for (size_t i = 0; i < count && array[i]; i++)
        if (sysfs_streq(array[i], text))
            return (int)i;
    return -EINVAL;
}

char *kmemdup_nul(const char *text, size_t size, gfp_t flags)
{
    char *copy = kmalloc(size + 1, flags);
    if (copy) {
        memcpy(copy, text, size);
        copy[size] = 0;
    }
    return copy;
}

char *kstrdup(const char *text, gfp_t flags)
{
    return text ? kmemdup_nul(text, strlen(text), flags) : NULL;
}

char *kstrndup(const char *text, size_t size, gfp_t flags)
{
    return text ? kmemdup_nul(text, strnlen(text, size), flags) : NULL;
}

void *kmemdup(const void *from, size_t size, gfp_t flags)
{
    void *copy = kmalloc(size, flags);
    return copy ? memcpy(copy, from, size) : NULL;
}
