/* Sorting: arrays by heapsort, which needs no memory and no luck, lists by merging. */
#include <linux/list_sort.h>
#include <linux/sort.h>

static void swap_bytes(void *a, void *b, int size)
{
    for (char *p = a, *q = b; size--; p++, q++) {
        char byte = *p;
        *p = *q;
        *q = byte;
    }
}

void sort(void *base, size_t count, size_t size, int (*compare)(const void *, const void *),
          void (*swap_two)(void *, void *, int))
{
    char *array = base;
    if (!swap_two)
        swap_two = swap_bytes;
    /* First a heap from the back, then its largest goes behind what is left of it. */
    size_t start = count / 2, end = count;
    while (end > 1) {
        if (start)
            start--;
        else
            swap_two(array, array + --end * size, (int)size);
        for (size_t node = start, child; (child = 2 * node + 1) < end; node = child) {
            char *larger = array + child * size;
            if (child + 1 < end && compare(larger, larger + size) < 0) {
                larger += size;
                child++;
            }
            if (compare(array + node * size, larger) >= 0)
                break;
            swap_two(array + node * size, larger, (int)size);
        }
    }
}

/* Runs of 1, 2, 4 ... entries are merged; only `next` counts until the end. */
void list_sort(void *priv, struct list_head *head, list_cmp_func_t compare)
{
    if (list_empty(head))
        return;
    struct list_head *list = head->next;
    head->prev->next = NULL;
    for (size_t run = 1, merges = 2; merges > 1; run *= 2) {
        struct list_head *rest = list, **tail = &list;
        for (merges = 0; rest; merges++) {
            struct list_head *a = rest, *b = rest;
            size_t left = 0, right = run;
            for (; left < run && b; left++)
                b = b->next;
            while (left || (right && b)) {
                struct list_head **from = &a;
                if (!left || (right && b && compare(priv, a, b) > 0)) {
                    from = &b;
                    right--;
                } else {
                    left--;
                }
                *tail = *from;
                *from = (*from)->next;
                tail = &(*tail)->next;
            }
            rest = b;
        }
        *tail = NULL;
    }
    struct list_head *before = head;
    for (; list; before = list, list = list->next) {
        before->next = list;
        list->prev = before;
    }
    before->next = head;
    head->prev = before;
}
