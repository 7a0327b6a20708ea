/* Red-black trees. Whoever inserts finds the place by himself and links the node there; the tree
 * is then balanced by rb_insert_color. */
#ifndef _LINUX_RBTREE_H
#define _LINUX_RBTREE_H

#include <linux/compiler.h>
#include <linux/stddef.h>
#include <linux/types.h>

struct rb_node {
    unsigned long __rb_parent_color; /* the parent's address; bit 0: black */
    struct rb_node *rb_right;
    struct rb_node *rb_left;
} __aligned(sizeof(long));

struct rb_root {
    struct rb_node *rb_node;
};

struct rb_root_cached {
    struct rb_root rb_root;
    struct rb_node *rb_leftmost;
};

#define RB_ROOT (struct rb_root){NULL}
#define RB_ROOT_CACHED (struct rb_root_cached){{NULL}, NULL}
#define rb_parent(node) ((struct rb_node *)((node)->__rb_parent_color & ~3ul))
#define rb_entry(pointer, type, member) container_of(pointer, type, member)
#define rb_entry_safe(pointer, type, member)                                                  \
    ({                                                                                        \
        __typeof__(pointer) rb_entry_at = (pointer);                                          \
        rb_entry_at ? rb_entry(rb_entry_at, type, member) : NULL;                             \
    })
#define RB_EMPTY_ROOT(root) (READ_ONCE((root)->rb_node) == NULL)
#define RB_EMPTY_NODE(node) ((node)->__rb_parent_color == (unsigned long)(node))
#define RB_CLEAR_NODE(node) ((node)->__rb_parent_color = (unsigned long)(node))

void rb_insert_color(struct rb_node *node, struct rb_root *root);
void rb_erase(struct rb_node *node, struct rb_root *root);
void rb_replace_node(struct rb_node *old, struct rb_node *node, struct rb_root *root);
struct rb_node *rb_next(const struct rb_node *node);
struct rb_node *rb_prev(const struct rb_node *node);
struct rb_node *rb_first(const struct rb_root *root);
struct rb_node *rb_last(const struct rb_root *root);
/* Children before their parents. */
struct rb_node *rb_first_postorder(const struct rb_root *root);
struct rb_node *rb_next_postorder(const struct rb_node *node);

static inline void rb_link_node(struct rb_node *node, struct rb_node *parent,
                                struct rb_node **link)
{
    node->__rb_parent_color = (unsigned long)parent;
    node->rb_left = node->rb_right = NULL;
    *link = node;
}

#define rb_first_cached(root) ((root)->rb_leftmost)

static inline void rb_insert_color_cached(struct rb_node *node, struct rb_root_cached *root,
                                          bool leftmost)
{
    if (leftmost)
        root->rb_leftmost = node;
    rb_insert_color(node, &root->rb_root);
}

static inline void rb_erase_cached(struct rb_node *node, struct rb_root_cached *root)
{
    if (root->rb_leftmost == node)
        root->rb_leftmost = rb_next(node);
    rb_erase(node, &root->rb_root);
}

static inline void rb_add(struct rb_node *node, struct rb_root *root,
                          bool (*less)(struct rb_node *, const struct rb_node *))
{
    struct rb_node **link = &root->rb_node, *parent = NULL;
    while (*link) {
        parent = *link;
        link = less(node, parent) ? &parent->rb_left : &parent->rb_right;
    }
    rb_link_node(node, parent, link);
    rb_insert_color(node, root);
}

static inline struct rb_node *rb_find(const void *key, const struct rb_root *root,
                                      int (*compare)(const void *key, const struct rb_node *))
{
    for (struct rb_node *node = root->rb_node; node;) {
        int order = compare(key, node);
        if (!order)
            return node;
        node = order < 0 ? node->rb_left : node->rb_right;
    }
    return NULL;
}

#define rbtree_postorder_for_each_entry_safe(object, following, root, member)                 \
    for (object = rb_entry_safe(rb_first_postorder(root), __typeof__(*object), member);       \
         object && ({                                                                         \
             following = rb_entry_safe(rb_next_postorder(&object->member),                    \
                                       __typeof__(*object), member);                          \
             1;                                                                               \
         });                                                                                  \
         object = following)

#endif
