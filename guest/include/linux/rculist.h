/* Lists that are read under RCU: on one hart the plain ones, with the order of the stores kept. */
#ifndef _LINUX_RCULIST_H
#define _LINUX_RCULIST_H

#include <linux/list.h>
#include <linux/rcupdate.h>

static inline void list_add_rcu(struct list_head *entry, struct list_head *head)
{
    entry->next = head->next;
    entry->prev = head;
    smp_store_release(&head->next, entry);
    entry->next->prev = entry;
}

static inline void list_add_tail_rcu(struct list_head *entry, struct list_head *head)
{
    entry->next = head;
    entry->prev = head->prev;
    smp_store_release(&head->prev->next, entry);
    head->prev = entry;
}

/* Readers that stand on the entry go on from it: `next` stays. */
static inline void list_del_rcu(struct list_head *entry)
{
    __list_del_entry(entry);
    entry->prev = LIST_POISON2;
}

#define list_for_each_entry_rcu(position, head, member, ...)                                  \
    list_for_each_entry(position, head, member)
#define hlist_add_head_rcu(node, head) hlist_add_head(node, head)
#define hlist_del_rcu(node) __hlist_del(node)
#define hlist_for_each_entry_rcu(position, head, member, ...)                                 \
    hlist_for_each_entry(position, head, member)

#endif
