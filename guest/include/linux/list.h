/* Linux's circular doubly linked lists, over the generated struct list_head. */
#ifndef _LINUX_LIST_H
#define _LINUX_LIST_H

#include <pagewalk/module.h>

#define container_of(pointer, type, member)                                                   \
    ((type *)((char *)(pointer)-__builtin_offsetof(type, member)))

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

static inline void list_del(struct list_head *entry)
{
    entry->next->prev = entry->prev;
    entry->prev->next = entry->next;
    entry->next = (struct list_head *)0x100;
    entry->prev = (struct list_head *)0x122;
}

static inline int list_empty(const struct list_head *head)
{
    return head->next == head;
}

static inline void list_move(struct list_head *entry, struct list_head *head)
{
    entry->next->prev = entry->prev;
    entry->prev->next = entry->next;
    list_add(entry, head);
}

#define list_entry(pointer, type, member) container_of(pointer, type, member)
#define list_first_entry(head, type, member) list_entry((head)->next, type, member)
#define list_last_entry(head, type, member) list_entry((head)->prev, type, member)
#define list_next_entry(position, member)                                                     \
    list_entry((position)->member.next, __typeof__(*(position)), member)

#define list_for_each(position, head)                                                         \
    for (position = (head)->next; position != (head); position = position->next)

#define list_for_each_entry(position, head, member)                                           \
    for (position = list_first_entry(head, __typeof__(*position), member);                    \
         &position->member != (head); position = list_next_entry(position, member))

#define list_for_each_entry_safe(position, following, head, member)                           \
    for (position = list_first_entry(head, __typeof__(*position), member),                    \
        following = list_next_entry(position, member);                                        \
         &position->member != (head);                                                         \
         position = following, following = list_next_entry(following, member))

#endif
