/* A red-black tree of 200 numbers, in and out; the first and the last, and the order.
 * init: 200 nodes from 0 to 199, sorted 1, deep at most 12: 1
 * init: found 77: 1, 200: 0
 * init: 100 left from 1 to 199, sorted 1; postorder 100
 */
#include <linux/module.h>
#include <linux/rbtree.h>
#include <linux/slab.h>

struct number {
    struct rb_node node;
    int value;
};

static struct rb_root root = RB_ROOT;

static void insert(struct number *number)
{
    struct rb_node **link = &root.rb_node, *parent = NULL;
    while (*link) {
        parent = *link;
        if (number->value < rb_entry(parent, struct number, node)->value)
            link = &parent->rb_left;
        else
            link = &parent->rb_right;
    }
    rb_link_node(&number->node, parent, link);
    rb_insert_color(&number->node, &root);
}

static struct number *search(int value)
{
    for (struct rb_node *node = root.rb_node; node;) {
        struct number *number = rb_entry(node, struct number, node);
        if (value == number->value)
            return number;
        node = value < number->value ? node->rb_left : node->rb_right;
    }
    return NULL;
}

static int depth(struct rb_node *node)
{
    return node ? 1 + max(depth(node->rb_left), depth(node->rb_right)) : 0;
}

static bool is_sorted(int *first, int *last, int *count)
{
    bool sorted = true;
    int before = -1;
    *count = 0;
    for (struct rb_node *node = rb_first(&root); node; node = rb_next(node)) {
        int value = rb_entry(node, struct number, node)->value;
        sorted &= value > before;
        before = value;
        ++*count;
    }
    *first = rb_entry(rb_first(&root), struct number, node)->value;
    *last = rb_entry(rb_last(&root), struct number, node)->value;
    return sorted;
}

static int __init tree_init(void)
{
    int first, last, count;
    for (int i = 0; i < 200; i++) {
        struct number *number = kmalloc(sizeof(*number), GFP_KERNEL);
        if (!number)
            return -ENOMEM;
        number->value = i * 77 % 200; /* 77 and 200 have no common divisor */
        insert(number);
    }
    bool sorted = is_sorted(&first, &last, &count);
    pr_info("%d nodes from %d to %d, sorted %d, deep at most 12: %d\n", count, first, last, sorted,
            depth(root.rb_node) <= 12);
    pr_info("found 77: %d, 200: %d\n", search(77) != NULL, search(200) != NULL);
    for (int i = 0; i < 200; i += 2) {
        struct number *number = search(i);
        rb_erase(&number->node, &root);
        kfree(number);
    }
    sorted = is_sorted(&first, &last, &count);
    struct number *number, *following;
    int freed = 0;
    pr_info("%d left from %d to %d, sorted %d; ", count, first, last, sorted);
    rbtree_postorder_for_each_entry_safe(number, following, &root, node) {
        kfree(number);
        freed++;
    }
    pr_cont("postorder %d\n", freed);
    return 0;
}

static void __exit tree_exit(void)
{
}

module_init(tree_init);
module_exit(tree_exit);
MODULE_LICENSE("GPL");
