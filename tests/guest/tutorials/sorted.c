/* Sorting and searching: arrays with and without a swap of one's own, and a list.
 * init: -3 0 2 5 8 13, found 1, not found 1
 * init: swaps were counted: 1
 * init: a1 a2 b3 c4
 */
#include <linux/bsearch.h>
#include <linux/list.h>
#include <linux/list_sort.h>
#include <linux/module.h>
#include <linux/sort.h>

struct entry {
    char letter;
    int order;
    struct list_head link;
};

static int swaps;

static int compare(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static void swap_two(void *a, void *b, int size)
{
    swap(*(int *)a, *(int *)b);
    swaps++;
}

static int by_letter(void *priv, const struct list_head *a, const struct list_head *b)
{
    return list_entry(a, struct entry, link)->letter - list_entry(b, struct entry, link)->letter;
}

static int __init sorted_init(void)
{
    int numbers[] = {5, -3, 13, 0, 8, 2}, again[] = {3, 2, 1}, key = 8;
    LIST_HEAD(head);
    struct entry entries[] = {{'c', 4, {}}, {'a', 1, {}}, {'b', 3, {}}, {'a', 2, {}}}, *entry;
    sort(numbers, ARRAY_SIZE(numbers), sizeof(int), compare, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        i ? pr_cont(" %d", numbers[i]) : pr_info("%d", numbers[i]);
    int *found = bsearch(&key, numbers, ARRAY_SIZE(numbers), sizeof(int), compare);
    key = 7;
    pr_cont(", found %d, not found %d\n", found == &numbers[4],
            !bsearch(&key, numbers, ARRAY_SIZE(numbers), sizeof(int), compare));
    sort(again, 3, sizeof(int), compare, swap_two);
    pr_info("swaps were counted: %d\n", swaps > 0 && again[0] == 1 && again[2] == 3);
    for (size_t i = 0; i < ARRAY_SIZE(entries); i++)
        list_add_tail(&entries[i].link, &head);
    list_sort(NULL, &head, by_letter);
    int first = 1;
    list_for_each_entry(entry, &head, link) {
        printk("%s%c%d", first ? KERN_INFO : KERN_CONT " ", entry->letter, entry->order);
        first = 0;
    }
    pr_cont("\n");
    return 0;
}

static void __exit sorted_exit(void)
{
}

module_init(sorted_init);
module_exit(sorted_exit);
MODULE_LICENSE("GPL");
