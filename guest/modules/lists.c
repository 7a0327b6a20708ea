/* Linux's lists: nodes from kmalloc, linked, reversed, and given back one by one. */
#include <linux/list.h>
#include <linux/module.h>
#include <linux/slab.h>

struct node {
    int value;
    struct list_head link;
};

static LIST_HEAD(nodes);

static int __init lists_init(void)
{
    for (int i = 0; i < 10; i++) {
        struct node *node = kmalloc(sizeof *node, GFP_KERNEL);
        if (!node)
            return -ENOMEM;
        node->value = i;
        list_add(&node->link, &nodes);
    }
    struct node *node;
    int expected = 9, wrong = 0;
    list_for_each_entry(node, &nodes, link)
        wrong |= node->value != expected--;
    printk("lists: ten nodes, last in first out: %s\n", wrong ? "WRONG" : "ok");
    return wrong ? -EINVAL : 0;
}

static void __exit lists_exit(void)
{
    struct node *node, *following;
    list_for_each_entry_safe(node, following, &nodes, link) {
        list_del(&node->link);
        kfree(node);
    }
    printk("lists: empty again: %s\n", list_empty(&nodes) ? "yes" : "no");
}

module_init(lists_init);
module_exit(lists_exit);
MODULE_LICENSE("MIT");
