/* Red-black trees: no red node has a red child, and every way down from a node to a leaf passes
 * as many black ones. A node is red when it is linked. Source: Cormen et al., chapter 13. */
#include <linux/rbtree.h>

#define BLACK 1ul

static inline bool is_black(const struct rb_node *node)
{
    return !node || (node->__rb_parent_color & BLACK);
}

static inline void set_color(struct rb_node *node, unsigned long color)
{
    node->__rb_parent_color = (node->__rb_parent_color & ~BLACK) | color;
}

static inline void set_parent(struct rb_node *node, struct rb_node *parent)
{
    node->__rb_parent_color = (unsigned long)parent | (node->__rb_parent_color & BLACK);
}

/* `node` stands where `old` stood, as its parent sees it. */
static void replace_child(struct rb_node *old, struct rb_node *node, struct rb_node *parent,
                          struct rb_root *root)
{
    if (!parent)
        root->rb_node = node;
    else if (parent->rb_left == old)
        parent->rb_left = node;
    else
        parent->rb_right = node;
}

static struct rb_node **child(struct rb_node *node, bool right)
{
    return right ? &node->rb_right : &node->rb_left;
}

/* The child on the other side goes up, `node` down to `right`. */
static void rotate(struct rb_node *node, bool right, struct rb_root *root)
{
    struct rb_node *up = *child(node, !right), *parent = rb_parent(node);
    struct rb_node *middle = *child(up, right);
    *child(node, !right) = middle;
    if (middle)
        set_parent(middle, node);
    *child(up, right) = node;
    set_parent(up, parent);
    replace_child(node, up, parent, root);
    set_parent(node, up);
}

void rb_insert_color(struct rb_node *node, struct rb_root *root)
{
    struct rb_node *parent;
    while ((parent = rb_parent(node)) && !is_black(parent)) {
        struct rb_node *grand = rb_parent(parent);
        bool right = parent == grand->rb_right;
        struct rb_node *uncle = *child(grand, !right);
        if (!is_black(uncle)) {
            set_color(uncle, BLACK);
            set_color(parent, BLACK);
            set_color(grand, 0);
            node = grand;
            continue;
        }
        if (node == *child(parent, !right)) {
            rotate(parent, right, root);
            parent = node;
        }
        set_color(parent, BLACK);
        set_color(grand, 0);
        rotate(grand, !right, root);
        break;
    }
    set_color(root->rb_node, BLACK);
}

/* The ways through `node`, which may be NULL, below `parent` have one black too few. */
static void erase_color(struct rb_node *node, struct rb_node *parent, struct rb_root *root)
{
    while (parent && is_black(node)) {
        /* One black too few: the other side has at least one, and is not NULL. */
        bool right = node ? node == parent->rb_right : !parent->rb_right;
        struct rb_node *sibling = *child(parent, !right);
        if (!is_black(sibling)) {
            set_color(sibling, BLACK);
            set_color(parent, 0);
            rotate(parent, right, root);
            sibling = *child(parent, !right);
        }
        struct rb_node *near = *child(sibling, right), *far = *child(sibling, !right);
        if (is_black(near) && is_black(far)) {
            set_color(sibling, 0);
            node = parent;
            parent = rb_parent(node);
            continue;
        }
        if (is_black(far)) {
            set_color(near, BLACK);
            set_color(sibling, 0);
            rotate(sibling, !right, root);
            sibling = near;
            far = *child(sibling, !right);
        }
        set_color(sibling, parent->__rb_parent_color & BLACK);
        set_color(parent, BLACK);
        set_color(far, BLACK);
        rotate(parent, right, root);
        return;
    }
    if (node)
        set_color(node, BLACK);
}

void rb_erase(struct rb_node *node, struct rb_root *root)
{
    struct rb_node *rest, *parent; /* what moves up, and below whom */
    bool was_black;
    if (node->rb_left && node->rb_right) {
        struct rb_node *next = node->rb_right;
        while (next->rb_left)
            next = next->rb_left;
        was_black = is_black(next);
        rest = next->rb_right;
        parent = rb_parent(next);
        if (parent == node) {
            parent = next;
        } else {
            parent->rb_left = rest;
            if (rest)
                set_parent(rest, parent);
            next->rb_right = node->rb_right;
            set_parent(next->rb_right, next);
        }
        next->rb_left = node->rb_left;
        set_parent(next->rb_left, next);
        next->__rb_parent_color = node->__rb_parent_color;
        replace_child(node, next, rb_parent(node), root);
    } else {
        was_black = is_black(node);
        rest = node->rb_left ? node->rb_left : node->rb_right;
        parent = rb_parent(node);
        replace_child(node, rest, parent, root);
        if (rest)
            set_parent(rest, parent);
    }
    if (was_black)
        erase_color(rest, parent, root);
}

void rb_replace_node(struct rb_node *old, struct rb_node *node, struct rb_root *root)
{
    *node = *old;
    if (node->rb_left)
        set_parent(node->rb_left, node);
    if (node->rb_right)
        set_parent(node->rb_right, node);
    replace_child(old, node, rb_parent(old), root);
}

static struct rb_node *outermost(struct rb_node *node, bool right)
{
    while (node && *child(node, right))
        node = *child(node, right);
    return node;
}

static struct rb_node *neighbour(const struct rb_node *node, bool right)
{
    struct rb_node *at = (struct rb_node *)node, *parent;
    if (RB_EMPTY_NODE(node))
        return NULL;
    if (*child(at, right))
        return outermost(*child(at, right), !right);
    while ((parent = rb_parent(at)) && at == *child(parent, right))
        at = parent;
    return parent;
}

struct rb_node *rb_next(const struct rb_node *node)
{
    return neighbour(node, true);
}

struct rb_node *rb_prev(const struct rb_node *node)
{
    return neighbour(node, false);
}

struct rb_node *rb_first(const struct rb_root *root)
{
    return outermost(root->rb_node, false);
}

struct rb_node *rb_last(const struct rb_root *root)
{
    return outermost(root->rb_node, true);
}

static struct rb_node *leftmost_leaf(struct rb_node *node)
{
    while (node && (node->rb_left || node->rb_right))
        node = node->rb_left ? node->rb_left : node->rb_right;
    return node;
}

struct rb_node *rb_first_postorder(const struct rb_root *root)
{
    return leftmost_leaf(root->rb_node);
}

struct rb_node *rb_next_postorder(const struct rb_node *node)
{
    struct rb_node *parent = node ? rb_parent(node) : NULL;
    if (parent && node == parent->rb_left && parent->rb_right)
        return leftmost_leaf(parent->rb_right);
    return parent;
}
