/* A hash table, and the hash functions' values for known arguments.
 * init: bits of 1: c3910c8d 61c88646
 * init: 20 in 8 buckets, key 7 has 2, empty 0
 * init: after deletion: 0 left, empty 1
 */
#include <linux/hash.h>
#include <linux/hashtable.h>
#include <linux/module.h>
#include <linux/slab.h>

struct item {
    int key;
    struct hlist_node node;
};

static DEFINE_HASHTABLE(table, 3);

static int __init hashed_init(void)
{
    struct item *item;
    struct hlist_node *following;
    int bucket, count = 0, sevens = 0;
    /* 2 * 0x61c88647 = 0xc3910c8e; a product's low word, and 0x61c8864680b583eb's top half. */
    pr_info("bits of 1: %x %x\n", hash_32(2, 32) - 1, hash_64(1, 32));
    hash_init(table);
    for (int i = 0; i < 20; i++) {
        item = kzalloc(sizeof(*item), GFP_KERNEL);
        if (!item)
            return -ENOMEM;
        item->key = i == 19 ? 7 : i;
        hash_add(table, &item->node, item->key);
    }
    hash_for_each(table, bucket, item, node)
        count++;
    hash_for_each_possible(table, item, node, 7)
        sevens += item->key == 7;
    pr_info("%d in %zu buckets, key 7 has %d, empty %d\n", count, HASH_SIZE(table), sevens,
            hash_empty(table));
    hash_for_each_safe(table, bucket, following, item, node) {
        hash_del(&item->node);
        kfree(item);
        count--;
    }
    pr_info("after deletion: %d left, empty %d\n", count, hash_empty(table));
    return 0;
}

static void __exit hashed_exit(void)
{
}

module_init(hashed_init);
module_exit(hashed_exit);
MODULE_LICENSE("GPL");
