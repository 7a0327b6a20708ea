/* The four functions that a C compiler may call without being asked. */
#include <stddef.h>

void *memset(void *to, int byte, size_t size)
{
    unsigned char *p = to;
    while (size--)
        *p++ = (unsigned char)byte;
    return to;
}

void *memcpy(void *to, const void *from, size_t size)
{
    unsigned char *p = to;
    const unsigned char *q = from;
    while (size--)
        *p++ = *q++;
    return to;
}

void *memmove(void *to, const void *from, size_t size)
{
    unsigned char *p = to;
    const unsigned char *q = from;
    if (p <= q)
        return memcpy(to, from, size);
    while (size--)
        p[size] = q[size];
    return to;
}

int memcmp(const void *a, const void *b, size_t size)
{
    const unsigned char *p = a, *q = b;
    for (; size--; p++, q++)
        if (*p != *q)
            return *p - *q;
    return 0;
}
