/* Hash tables: an array, a power of two long, of hlist_head. */
#ifndef _LINUX_HASHTABLE_H
#define _LINUX_HASHTABLE_H

#include <linux/hash.h>
#include <linux/kernel.h>
#include <linux/list.h>

#define DECLARE_HASHTABLE(name, bits) struct hlist_head name[1 << (bits)]
#define DEFINE_HASHTABLE(name, bits) DECLARE_HASHTABLE(name, bits) = {}
#define HASH_SIZE(table) ARRAY_SIZE(table)
#define HASH_BITS(table) ilog2(HASH_SIZE(table))
#define hash_min(value, bits) (sizeof(value) <= 4 ? hash_32(value, bits) : hash_long(value, bits))
#define hash_bucket(table, key) (&(table)[hash_min(key, HASH_BITS(table))])

#define hash_init(table)                                                                      \
    do {                                                                                      \
        for (size_t hash_i = 0; hash_i < HASH_SIZE(table); hash_i++)                          \
            INIT_HLIST_HEAD(&(table)[hash_i]);                                                \
    } while (0)
#define hash_add(table, node, key) hlist_add_head(node, hash_bucket(table, key))
#define hash_add_rcu(table, node, key) hash_add(table, node, key)
#define hash_hashed(node) (!hlist_unhashed(node))
#define hash_del(node) hlist_del_init(node)
#define hash_del_rcu(node) hlist_del_init(node)
#define hash_empty(table)                                                                     \
    ({                                                                                        \
        bool hash_none = true;                                                                \
        for (size_t hash_i = 0; hash_i < HASH_SIZE(table); hash_i++)                          \
            hash_none &= hlist_empty(&(table)[hash_i]);                                       \
        hash_none;                                                                            \
    })
#define hash_for_each(table, bucket, object, member)                                          \
    for ((bucket) = 0, object = NULL; !object && (bucket) < (int)HASH_SIZE(table); (bucket)++) \
        hlist_for_each_entry(object, &(table)[bucket], member)
#define hash_for_each_safe(table, bucket, following, object, member)                          \
    for ((bucket) = 0, object = NULL; !object && (bucket) < (int)HASH_SIZE(table); (bucket)++) \
        hlist_for_each_entry_safe(object, following, &(table)[bucket], member)
#define hash_for_each_rcu(table, bucket, object, member)                                      \
    hash_for_each(table, bucket, object, member)
#define hash_for_each_possible(table, object, member, key)                                    \
    hlist_for_each_entry(object, hash_bucket(table, key), member)
#define hash_for_each_possible_safe(table, object, following, member, key)                    \
    hlist_for_each_entry_safe(object, following, hash_bucket(table, key), member)

#endif
