/* Linux's lists: circular ones over the generated struct list_head, and hlist, whose head is one
 * pointer. */
#ifndef _LINUX_LIST_H
#define _LINUX_LIST_H

#include <linux/poison.h>
#include <linux/stddef.h>
#include <linux/types.h>

#define LIST_HEAD_INIT(name) {&(name), &(name)}
#define LIST_HEAD(name) struct list_head name = LIST_HEAD_INIT(name)

static inline void INIT_LIST_HEAD(struct list_head *list)
{
    list->next = list;
    list->prev = list;
}

static inline void __list_add(struct list_head *entry, struct list_head *prev,
                              struct list_head *next)
{
    next->prev = entry;
    entry->next = next;
    entry->prev = prev;
    prev->next = entry;
}

static inline void list_add(struct list_head *entry, struct list_head *head)
{
    __list_add(entry, head, head->next);
}

static inline void list_add_tail(struct list_head *entry, struct list_head *head)
{
    __list_add(entry, head->prev, head);
}

static inline void __list_del(struct list_head *prev, struct list_head *next)
{
    next->prev = prev;
    prev->next = next;
}

static inline void __list_del_entry(struct list_head *entry)
{
    __list_del(entry->prev, entry->next);
}

static inline void list_del(struct list_head *entry)
{
    __list_del_entry(entry);
    entry->next = LIST_POISON1;
    entry->prev = LIST_POISON2;
}

static inline void list_del_init(struct list_head *entry)
{
    __list_del_entry(entry);
    INIT_LIST_HEAD(entry);
}

static inline void list_replace(struct list_head *old, struct list_head *entry)
{
    __list_add(entry, old->prev, old->next);
}

static inline void list_replace_init(struct list_head *old, struct list_head *entry)
{
    list_replace(old, entry);
    INIT_LIST_HEAD(old);
}

static inline void list_move(struct list_head *entry, struct list_head *head)
{
    __list_del_entry(entry);
    list_add(entry, head);
}

static inline void list_move_tail(struct list_head *entry, struct list_head *head)
{
    __list_del_entry(entry);
    list_add_tail(entry, head);
}

static inline void list_swap(struct list_head *a, struct list_head *b)
{
    struct list_head *before = b->prev;
    list_del(b);
    list_replace(a, b);
    if (before == a)
        before = b;
    list_add(a, before);
}

static inline int list_empty(const struct list_head *head)
{
    return READ_ONCE(head->next) == head;
}

#define list_empty_careful(head) list_empty(head)

static inline int list_is_first(const struct list_head *entry, const struct list_head *head)
{
    return entry->prev == head;
}

static inline int list_is_last(const struct list_head *entry, const struct list_head *head)
{
    return entry->next == head;
}

static inline int list_is_head(const struct list_head *entry, const struct list_head *head)
{
    return entry == head;
}

static inline int list_is_singular(const struct list_head *head)
{
    return !list_empty(head) && head->next == head->prev;
}

static inline void list_rotate_left(struct list_head *head)
{
    if (!list_empty(head))
        list_move_tail(head->next, head);
}

static inline size_t list_count_nodes(struct list_head *head)
{
    size_t count = 0;
    for (struct list_head *entry = head->next; entry != head; entry = entry->next)
        count++;
    return count;
}

/* All entries of `list`, which is left as it is, between two neighbours. */
static inline void __list_splice(const struct list_head *list, struct list_head *prev,
                                 struct list_head *next)
{
    list->next->prev = prev;
    prev->next = list->next;
    list->prev->next = next;
    next->prev = list->prev;
}

static inline void list_splice(const struct list_head *list, struct list_head *head)
{
    if (!list_empty(list))
        __list_splice(list, head, head->next);
}

static inline void list_splice_tail(struct list_head *list, struct list_head *head)
{
    if (!list_empty(list))
        __list_splice(list, head->prev, head);
}

static inline void list_splice_init(struct list_head *list, struct list_head *head)
{
    list_splice(list, head);
    INIT_LIST_HEAD(list);
}

static inline void list_splice_tail_init(struct list_head *list, struct list_head *head)
{
    list_splice_tail(list, head);
    INIT_LIST_HEAD(list);
}

/* The entries up to `entry`, itself included, become those of `list`. */
static inline void list_cut_position(struct list_head *list, struct list_head *head,
                                     struct list_head *entry)
{
    INIT_LIST_HEAD(list);
    if (list_empty(head) || entry == head)
        return;
    struct list_head *rest = entry->next;
    list->next = head->next;
    list->next->prev = list;
    list->prev = entry;
    entry->next = list;
    head->next = rest;
    rest->prev = head;
}

#define list_entry(pointer, type, member) container_of(pointer, type, member)
#define list_first_entry(head, type, member) list_entry((head)->next, type, member)
#define list_last_entry(head, type, member) list_entry((head)->prev, type, member)
#define list_first_entry_or_null(head, type, member)                                          \
    (list_empty(head) ? NULL : list_first_entry(head, type, member))
#define list_next_entry(position, member)                                                     \
    list_entry((position)->member.next, __typeof__(*(position)), member)
#define list_prev_entry(position, member)                                                     \
    list_entry((position)->member.prev, __typeof__(*(position)), member)
#define list_entry_is_head(position, head, member) (&(position)->member == (head))

#define list_for_each(position, head)                                                         \
    for (position = (head)->next; position != (head); position = position->next)
#define list_for_each_prev(position, head)                                                    \
    for (position = (head)->prev; position != (head); position = position->prev)
#define list_for_each_safe(position, following, head)                                         \
    for (position = (head)->next, following = position->next; position != (head);             \
         position = following, following = position->next)
#define list_for_each_prev_safe(position, following, head)                                    \
    for (position = (head)->prev, following = position->prev; position != (head);             \
         position = following, following = position->prev)

#define list_for_each_entry(position, head, member)                                           \
    for (position = list_first_entry(head, __typeof__(*position), member);                    \
         &position->member != (head); position = list_next_entry(position, member))
#define list_for_each_entry_reverse(position, head, member)                                   \
    for (position = list_last_entry(head, __typeof__(*position), member);                     \
         &position->member != (head); position = list_prev_entry(position, member))
#define list_for_each_entry_continue(position, head, member)                                  \
    for (position = list_next_entry(position, member); &position->member != (head);           \
         position = list_next_entry(position, member))
#define list_for_each_entry_from(position, head, member)                                      \
    for (; &position->member != (head); position = list_next_entry(position, member))
#define list_for_each_entry_safe(position, following, head, member)                           \
    for (position = list_first_entry(head, __typeof__(*position), member),                    \
        following = list_next_entry(position, member);                                        \
         &position->member != (head);                                                         \
         position = following, following = list_next_entry(following, member))
#define list_for_each_entry_safe_reverse(position, following, head, member)                   \
    for (position = list_last_entry(head, __typeof__(*position), member),                     \
        following = list_prev_entry(position, member);                                        \
         &position->member != (head);                                                         \
         position = following, following = list_prev_entry(following, member))

/* hlist: each node points at its successor, and at the pointer that points at it. */

#define HLIST_HEAD_INIT {.first = NULL}
#define HLIST_HEAD(name) struct hlist_head name = HLIST_HEAD_INIT
#define INIT_HLIST_HEAD(head) ((head)->first = NULL)

static inline void INIT_HLIST_NODE(struct hlist_node *node)
{
    node->next = NULL;
    node->pprev = NULL;
}

static inline int hlist_unhashed(const struct hlist_node *node)
{
    return !node->pprev;
}

static inline int hlist_empty(const struct hlist_head *head)
{
    return !READ_ONCE(head->first);
}

static inline void __hlist_del(struct hlist_node *node)
{
    *node->pprev = node->next;
    if (node->next)
        node->next->pprev = node->pprev;
}

static inline void hlist_del(struct hlist_node *node)
{
    __hlist_del(node);
    node->next = LIST_POISON1;
    node->pprev = LIST_POISON2;
}

static inline void hlist_del_init(struct hlist_node *node)
{
    if (!hlist_unhashed(node)) {
        __hlist_del(node);
        INIT_HLIST_NODE(node);
    }
}

static inline void hlist_add_at(struct hlist_node *node, struct hlist_node **link)
{
    node->next = *link;
    if (node->next)
        node->next->pprev = &node->next;
    *link = node;
    node->pprev = link;
}

static inline void hlist_add_head(struct hlist_node *node, struct hlist_head *head)
{
    hlist_add_at(node, &head->first);
}

static inline void hlist_add_before(struct hlist_node *node, struct hlist_node *following)
{
    hlist_add_at(node, following->pprev);
}

static inline void hlist_add_behind(struct hlist_node *node, struct hlist_node *before)
{
    hlist_add_at(node, &before->next);
}

static inline void hlist_move_list(struct hlist_head *old, struct hlist_head *head)
{
    head->first = old->first;
    if (head->first)
        head->first->pprev = &head->first;
    old->first = NULL;
}

#define hlist_entry(pointer, type, member) container_of(pointer, type, member)
#define hlist_entry_safe(pointer, type, member)                                               \
    ({                                                                                        \
        __typeof__(pointer) hlist_entry_at = (pointer);                                       \
        hlist_entry_at ? hlist_entry(hlist_entry_at, type, member) : NULL;                    \
    })
#define hlist_for_each(position, head)                                                        \
    for (position = (head)->first; position; position = position->next)
#define hlist_for_each_safe(position, following, head)                                        \
    for (position = (head)->first; position && ({ following = position->next; 1; });          \
         position = following)
#define hlist_for_each_entry(position, head, member)                                          \
    for (position = hlist_entry_safe((head)->first, __typeof__(*(position)), member);         \
         position;                                                                            \
         position = hlist_entry_safe((position)->member.next, __typeof__(*(position)), member))
#define hlist_for_each_entry_safe(position, following, head, member)                          \
    for (position = hlist_entry_safe((head)->first, __typeof__(*(position)), member);         \
         position && ({ following = (position)->member.next; 1; });                           \
         position = hlist_entry_safe(following, __typeof__(*(position)), member))

#endif
