/* Lists beyond list_add: reverse, moves, splices, cuts, hlist.
 * init: 0 1 2 3 4 back 4 3 2 1 0, 5 of them
 * init: rotated 1 2 3 4 0, tail 2 -> 1 3 4 0 2
 * init: cut 1 3 and 4 0 2; spliced 4 0 2 1 3, singular 0
 * init: hlist b a, after deletion a, unhashed 1
 */
#include <linux/list.h>
#include <linux/module.h>

struct item {
    int n;
    struct list_head link;
};

struct letter {
    char c;
    struct hlist_node node;
};

static void show(struct list_head *head)
{
    struct item *item;
    list_for_each_entry(item, head, link)
        pr_cont(" %d", item->n);
}

static int __init more_init(void)
{
    LIST_HEAD(head);
    LIST_HEAD(cut);
    HLIST_HEAD(letters);
    struct item item[5], *at;
    struct letter a = {'a', {}}, b = {'b', {}}, *letter;
    for (int i = 0; i < 5; i++) {
        item[i].n = i;
        list_add_tail(&item[i].link, &head);
    }
    pr_info("0");
    at = &item[0];
    list_for_each_entry_continue(at, &head, link)
        pr_cont(" %d", at->n);
    pr_cont(" back");
    list_for_each_entry_reverse(at, &head, link)
        pr_cont(" %d", at->n);
    pr_cont(", %zu of them\n", list_count_nodes(&head));
    list_rotate_left(&head);
    pr_info("rotated");
    show(&head);
    list_move_tail(&item[2].link, &head);
    pr_cont(", tail 2 ->");
    show(&head);
    pr_cont("\n");
    list_cut_position(&cut, &head, &item[3].link);
    pr_info("cut");
    show(&cut);
    pr_cont(" and");
    show(&head);
    list_splice_tail_init(&cut, &head);
    pr_cont("; spliced");
    show(&head);
    pr_cont(", singular %d\n", list_is_singular(&head));
    hlist_add_head(&a.node, &letters);
    hlist_add_head(&b.node, &letters);
    pr_info("hlist");
    hlist_for_each_entry(letter, &letters, node)
        pr_cont(" %c", letter->c);
    hlist_del_init(&b.node);
    pr_cont(", after deletion");
    hlist_for_each_entry(letter, &letters, node)
        pr_cont(" %c", letter->c);
    pr_cont(", unhashed %d\n", hlist_unhashed(&b.node));
    return 0;
}

static void __exit more_exit(void)
{
}

module_init(more_init);
module_exit(more_exit);
MODULE_LICENSE("GPL");
