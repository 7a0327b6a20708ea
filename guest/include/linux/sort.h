#ifndef _LINUX_SORT_H
#define _LINUX_SORT_H

#include <linux/types.h>

/* In place; equal elements may change their order. `swap` may be NULL. */
void sort(void *base, size_t count, size_t size, int (*compare)(const void *, const void *),
          void (*swap)(void *, void *, int size));

#endif
