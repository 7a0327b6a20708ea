#ifndef _LINUX_LIST_SORT_H
#define _LINUX_LIST_SORT_H

#include <linux/list.h>

typedef int (*list_cmp_func_t)(void *priv, const struct list_head *a, const struct list_head *b);

/* Equal entries keep their order. */
void list_sort(void *priv, struct list_head *head, list_cmp_func_t compare);

#endif
