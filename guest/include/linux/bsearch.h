#ifndef _LINUX_BSEARCH_H
#define _LINUX_BSEARCH_H

#include <linux/types.h>

/* An element of a sorted array that equals the key, or NULL. */
static inline void *bsearch(const void *key, const void *base, size_t count, size_t size,
                            int (*compare)(const void *key, const void *element))
{
    for (const char *low = base; count;) {
        const char *middle = low + count / 2 * size;
        int order = compare(key, middle);
        if (!order)
            return (void *)middle;
        if (order > 0) {
            low = middle + size;
            count--;
        }
        count /= 2;
    }
    return NULL;
}

#endif
