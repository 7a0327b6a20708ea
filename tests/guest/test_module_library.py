"""The library that modules are linked with, each function against what C and Linux say of it.

The checks are C in one module: a failing one returns its line.
"""

from __future__ import annotations

import pytest
from guest_kit import Kernel, load

from emu.stop import StopReason
from guest import build

SOURCE = r"""
#include <linux/bitmap.h>
#include <linux/ctype.h>
#include <linux/kstrtox.h>
#include <linux/list_sort.h>
#include <linux/module.h>
#include <linux/rbtree.h>
#include <linux/sort.h>
#include <linux/string.h>

#define CHECK(condition)                                                                      \
    do {                                                                                      \
        if (!(condition))                                                                     \
            return __LINE__;                                                                  \
    } while (0)

static u32 state = 1;

static u32 next(void)
{
    state = state * 1664525 + 1013904223;
    return state >> 8;
}

/* red-black trees */

struct node {
    struct rb_node rb;
    int key;
    bool in;
};

#define NODES 300
static struct node nodes[NODES];
static struct rb_root root;

/* The number of black nodes on every way down, -1 where a rule is broken. */
static int black_height(struct rb_node *node, struct rb_node *parent, int *count)
{
    if (!node)
        return 0;
    bool red = !(node->__rb_parent_color & 1);
    if (rb_parent(node) != parent || (red && parent && !(parent->__rb_parent_color & 1)))
        return -1;
    int left = black_height(node->rb_left, node, count);
    int right = black_height(node->rb_right, node, count);
    ++*count;
    return left < 0 || left != right ? -1 : left + !red;
}

static bool less(struct rb_node *a, const struct rb_node *b)
{
    return rb_entry(a, struct node, rb)->key < rb_entry(b, struct node, rb)->key;
}

static bool is_good(int expected)
{
    int count = 0, before = -1, forward = 0, backward = 0, last = 0;
    bool good = !root.rb_node || root.rb_node->__rb_parent_color & 1;
    good &= black_height(root.rb_node, NULL, &count) >= 0 && count == expected;
    for (struct rb_node *n = rb_first(&root); n; n = rb_next(n), forward++) {
        int key = rb_entry(n, struct node, rb)->key;
        good &= key >= before;
        before = key;
    }
    last = before;
    for (struct rb_node *n = rb_last(&root); n; n = rb_prev(n), backward++) {
        int key = rb_entry(n, struct node, rb)->key;
        good &= key <= last;
        last = key;
    }
    return good && forward == expected && backward == expected;
}

int trees(void)
{
    int alive = 0;
    for (int round = 0; round < 3000; round++) {
        struct node *node = &nodes[next() % NODES];
        if (node->in) {
            rb_erase(&node->rb, &root);
            alive--;
        } else {
            node->key = (int)(next() % 100);
            rb_add(&node->rb, &root, less);
            alive++;
        }
        node->in = !node->in;
        CHECK(is_good(alive));
    }
    struct node other = nodes[0], *old = rb_entry(rb_first(&root), struct node, rb);
    other.key = old->key;
    rb_replace_node(&old->rb, &other.rb, &root);
    CHECK(rb_first(&root) == &other.rb && is_good(alive));
    rb_erase(&other.rb, &root);
    old->in = false;
    alive--;
    struct node *node, *following;
    int seen = 0;
    rbtree_postorder_for_each_entry_safe(node, following, &root, rb) {
        CHECK(!node->rb.rb_left || !rb_entry(node->rb.rb_left, struct node, rb)->in);
        node->in = false;
        seen++;
    }
    CHECK(seen == alive);
    for (int i = 0; i < NODES; i++)
        CHECK(!nodes[i].in);
    return 0;
}

/* sorting */

struct pair {
    u8 key;
    u16 order;
    struct list_head link;
};

static int by_key(const void *a, const void *b)
{
    return ((const struct pair *)a)->key - ((const struct pair *)b)->key;
}

static int by_link(void *priv, const struct list_head *a, const struct list_head *b)
{
    ++*(int *)priv;
    return list_entry(a, struct pair, link)->key - list_entry(b, struct pair, link)->key;
}

static struct pair pairs[257];

int sorts(void)
{
    for (size_t count = 0; count <= ARRAY_SIZE(pairs); count = count * 2 + 1) {
        LIST_HEAD(head);
        u32 sum = 0, after = 0;
        int compared = 0;
        for (size_t i = 0; i < count; i++) {
            pairs[i].key = (u8)(next() % 50);
            sum += pairs[i].key * 7u + 1;
        }
        sort(pairs, count, sizeof(struct pair), by_key, NULL);
        for (size_t i = 0; i < count; i++) {
            CHECK(!i || pairs[i - 1].key <= pairs[i].key);
            after += pairs[i].key * 7u + 1;
        }
        CHECK(sum == after);
        for (size_t i = 0; i < count; i++) {
            pairs[i].key = (u8)(next() % 10);
            pairs[i].order = (u16)i;
            list_add_tail(&pairs[i].link, &head);
        }
        list_sort(&compared, &head, by_link);
        struct pair *at, *before = NULL;
        size_t seen = 0;
        list_for_each_entry(at, &head, link) {
            CHECK(!before || before->key < at->key ||
                  (before->key == at->key && before->order < at->order)); /* stable */
            CHECK(at->link.prev == (before ? &before->link : &head));
            before = at;
            seen++;
        }
        CHECK(seen == count && (count < 2 || compared > 0));
    }
    return 0;
}

/* text to numbers */

#define PARSE(function, type, text, base, error, wanted)                                      \
    do {                                                                                      \
        type parsed = 77;                                                                     \
        CHECK(function(text, base, &parsed) == (error));                                      \
        CHECK(parsed == ((error) ? 77 : (type)(wanted)));                                     \
    } while (0)

int numbers(void)
{
    PARSE(kstrtoint, int, "0", 10, 0, 0);
    PARSE(kstrtoint, int, "+5", 10, 0, 5);
    PARSE(kstrtoint, int, "-2147483648", 10, 0, INT_MIN);
    PARSE(kstrtoint, int, "-2147483649", 10, -ERANGE, 0);
    PARSE(kstrtoint, int, "2147483648", 10, -ERANGE, 0);
    PARSE(kstrtoint, int, "12\n", 10, 0, 12);
    PARSE(kstrtoint, int, "12\n\n", 10, -EINVAL, 0);
    PARSE(kstrtoint, int, " 12", 10, -EINVAL, 0);
    PARSE(kstrtoint, int, "", 10, -EINVAL, 0);
    PARSE(kstrtoint, int, "-", 10, -EINVAL, 0);
    PARSE(kstrtoint, int, "--1", 10, -EINVAL, 0);
    PARSE(kstrtoint, int, "0x1f", 0, 0, 31);
    PARSE(kstrtoint, int, "0x1f", 16, 0, 31);
    PARSE(kstrtoint, int, "0x1f", 10, -EINVAL, 0);
    PARSE(kstrtoint, int, "017", 0, 0, 15);
    PARSE(kstrtoint, int, "08", 0, -EINVAL, 0);
    PARSE(kstrtoint, int, "-0x10", 0, 0, -16);
    PARSE(kstrtouint, unsigned int, "-1", 0, -EINVAL, 0);
    PARSE(kstrtoull, unsigned long long, "18446744073709551615", 0, 0, ULLONG_MAX);
    PARSE(kstrtoull, unsigned long long, "18446744073709551616", 0, -ERANGE, 0);
    PARSE(kstrtoll, long long, "-9223372036854775808", 0, 0, LLONG_MIN);
    PARSE(kstrtoll, long long, "9223372036854775808", 0, -ERANGE, 0);
    PARSE(kstrtou8, u8, "255", 0, 0, 255);
    PARSE(kstrtos8, s8, "-128", 0, 0, -128);
    PARSE(kstrtos8, s8, "128", 0, -ERANGE, 0);
    PARSE(kstrtou16, u16, "65536", 0, -ERANGE, 0);
    PARSE(kstrtos16, s16, "-32769", 0, -ERANGE, 0);
    bool on = false;
    CHECK(!kstrtobool("on", &on) && on && !kstrtobool("off", &on) && !on);
    CHECK(!kstrtobool("Y", &on) && on && kstrtobool("o", &on) == -EINVAL && on);
    CHECK(kstrtobool("", &on) == -EINVAL && kstrtobool(NULL, &on) == -EINVAL);
    char *end;
    CHECK(simple_strtoul("0x10rest", &end, 0) == 16 && *end == 'r');
    CHECK(simple_strtol("-12", NULL, 10) == -12);
    return 0;
}

int scans(void)
{
    int a, b, n;
    unsigned char byte;
    unsigned long wide;
    char word[8], set[8], c;
    CHECK(sscanf("10 -20", "%d %d", &a, &b) == 2 && a == 10 && b == -20);
    CHECK(sscanf("10,x", "%d,%d", &a, &b) == 1);
    CHECK(sscanf("", "%d", &a) == 0);
    CHECK(sscanf("12345", "%2d%d", &a, &b) == 2 && a == 12 && b == 345);
    CHECK(sscanf("0x1f 1f 17 017", "%i %x %o %i", &a, &b, &n, (int *)&wide) == 4);
    CHECK(a == 31 && b == 31 && n == 15 && (int)wide == 15);
    CHECK(sscanf("300", "%hhu", &byte) == 1 && byte == 44);
    CHECK(sscanf("4294967296", "%lu", &wide) == 1 && wide == 1ul << 32);
    CHECK(sscanf("key=value;", "%3s=%[a-z]%c", word, set, &c) == 3);
    CHECK(!strcmp(word, "key") && !strcmp(set, "value") && c == ';');
    CHECK(sscanf("skip 7 x", "%*s %d%n", &a, &n) == 1 && a == 7 && n == 6);
    CHECK(sscanf("a%b", "a%%%c", &c) == 1 && c == 'b');
    CHECK(sscanf("to]end", "%[^]]]end", set) == 1 && !strcmp(set, "to"));
    return 0;
}

/* strings */

int strings(void)
{
    char to[8];
    CHECK(strlen("") == 0 && strnlen("abc", 2) == 2);
    CHECK(strcmp("a", "b") < 0 && strcmp("b", "a") > 0 && !strcmp("x", "x"));
    CHECK(strcmp("\xff", "a") > 0 && strncmp("abc", "abd", 2) == 0 && strncmp("a", "b", 0) == 0);
    CHECK(strcasecmp("HeLLo", "hEllO") == 0 && strncasecmp("ABc", "abd", 3) < 0);
    memset(to, 'x', sizeof to);
    strncpy(to, "ab", 5);
    CHECK(!memcmp(to, "ab\0\0\0xxx", 8));
    CHECK(strscpy(to, "abcdefgh", 8) == -E2BIG && !strcmp(to, "abcdefg"));
    CHECK(strscpy(to, "abcdefg", 8) == 7 && strscpy(to, "a", 0) == -E2BIG);
    CHECK(strlcpy(to, "abcdefghij", 4) == 10 && !strcmp(to, "abc"));
    CHECK(strlcat(to, "defghij", 8) == 10 && !strcmp(to, "abcdefg"));
    strcpy(to, "ab");
    CHECK(!strcmp(strncat(to, "cdef", 2), "abcd"));
    const char *text = "one/two/three";
    CHECK(strchr(text, '/') == text + 3 && strrchr(text, '/') == text + 7);
    CHECK(!strchr(text, 'z') && strchr(text, 0) == text + 13 && strrchr(text, 0) == text + 13);
    CHECK(strchrnul(text, 'z') == text + 13 && !strnchr(text, 3, '/'));
    CHECK(strstr(text, "two") == text + 4 && strstr(text, "") == text && !strstr(text, "four"));
    CHECK(!strnstr(text, "two", 6) && strnstr(text, "two", 7) == text + 4);
    CHECK(strspn("aab", "a") == 2 && strcspn("aab", "b") == 2 && strpbrk("xyz", "zy")[0] == 'y');
    CHECK(!strpbrk("xyz", "a") && *skip_spaces(" \t\n.") == '.');
    CHECK(memchr("abc", 'b', 3) && !memchr("abc", 'c', 2) && !memchr_inv("aaa", 'a', 3));
    CHECK(sysfs_streq("a\n", "a") && !sysfs_streq("a\nb", "a") && !sysfs_streq("ab", "a"));
    char overlap[] = "abcdef";
    memmove(overlap + 2, overlap, 4);
    CHECK(!strcmp(overlap, "ababcd"));
    memmove(overlap, overlap + 2, 4);
    CHECK(!strcmp(overlap, "abcdcd"));
    u32 words[3];
    memset32(words, 0x01020304, 3);
    CHECK(words[2] == 0x01020304);
    for (int ch = 0; ch < 256; ch++)
        CHECK(!isalnum(ch) == !(isalpha(ch) || isdigit(ch)) && !isupper(tolower(ch)));
    return 0;
}

/* bitmaps, against one bit at a time */

int bitmaps(void)
{
    DECLARE_BITMAP(a, 200);
    DECLARE_BITMAP(b, 200);
    DECLARE_BITMAP(c, 200);
    for (unsigned int bits = 1; bits <= 200; bits += 13) {
        bitmap_zero(a, bits);
        bitmap_zero(b, bits);
        for (unsigned int i = 0; i < bits; i++) {
            assign_bit(i, a, next() & 1);
            assign_bit(i, b, next() & 1);
        }
        unsigned int weight = 0, both = 0, first = bits, last = bits, zero = bits;
        for (unsigned int i = bits; i--;) {
            weight += test_bit(i, a);
            both += test_bit(i, a) && test_bit(i, b);
            if (test_bit(i, a))
                first = i;
            else
                zero = i;
            if (test_bit(i, a) && last == bits)
                last = i;
        }
        CHECK(bitmap_weight(a, bits) == weight && find_first_bit(a, bits) == first);
        CHECK(find_first_zero_bit(a, bits) == zero && find_last_bit(a, bits) == last);
        CHECK(bitmap_and(c, a, b, bits) == (both != 0) && bitmap_weight(c, bits) == both);
        CHECK(bitmap_subset(c, a, bits) && bitmap_intersects(a, b, bits) == (both != 0));
        bitmap_or(c, a, b, bits);
        CHECK(bitmap_weight(c, bits) == weight + bitmap_weight(b, bits) - both);
        CHECK(bitmap_empty(a, bits) == !weight && bitmap_full(a, bits) == (weight == bits));
        unsigned long bit, count = 0;
        for_each_set_bit(bit, a, bits)
            count++;
        CHECK(count == weight);
        for_each_clear_bit(bit, a, bits)
            count++;
        CHECK(count == bits);
    }
    return 0;
}

int arithmetic(void)
{
    for (unsigned long n = 0; n < 2000; n++) {
        unsigned long root_n = int_sqrt(n);
        CHECK(root_n * root_n <= n && (root_n + 1) * (root_n + 1) > n);
    }
    CHECK(int_sqrt(ULONG_MAX) == 0xffffffff);
    CHECK(round_up(13, 8) == 16 && round_up(16, 8) == 16 && round_down(13, 8) == 8);
    CHECK(DIV_ROUND_CLOSEST(7, 2) == 4 && DIV_ROUND_CLOSEST(-7, 2) == -4);
    CHECK(min_t(u8, 300, 50) == 44 && max3(1, 3, 2) == 3 && clamp(-5, 0, 9) == 0);
    CHECK(roundup_pow_of_two(1) == 1 && roundup_pow_of_two(5) == 8 && order_base_2(9) == 4);
    CHECK(ilog2(1) == 0 && ilog2(1ul << 63) == 63 && !is_power_of_2(0));
    CHECK(fls(0) == 0 && ffs(0) == 0 && fls(1u << 31) == 32 && ffs(1 << 31) == 32);
    CHECK(GENMASK(63, 0) == ~0ul && GENMASK(7, 4) == 0xf0 && sign_extend64(0x80, 7) == -128);
    CHECK(hweight64(~0ull) == 64 && rol8(0x81, 1) == 3 && ror64(1, 1) == 1ull << 63);
    CHECK(get_order(1) == 0 && get_order(PAGE_SIZE) == 0 && get_order(PAGE_SIZE + 1) == 1);
    return 0;
}

static int __init nothing(void) { return 0; }
module_init(nothing);
MODULE_LICENSE("GPL");
"""
FUNCTIONS = ("trees", "sorts", "numbers", "scans", "strings", "bitmaps", "arithmetic")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_library(kernel: Kernel, function: str) -> None:
    elf = load(build.MODULE, SOURCE)
    module, stop = kernel.system.load_module(elf)
    assert stop.value == 0
    offset = elf.symbol(function)
    assert offset is not None
    stop = kernel.system.call(module.base + offset)
    assert stop.reason is StopReason.EXIT, stop
    line = stop.value
    assert line == 0, SOURCE.splitlines()[line - 1]
