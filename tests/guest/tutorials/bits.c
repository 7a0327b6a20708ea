/* Bit operations and bitmaps.
 * init: word 28, was 1 0 1
 * init: ffs 4 fls 6 __ffs 3 ffz 0 fls64 33 weight 2 24
 * init: first 70 next 71 zero 0 last 99 weight 5
 * init: each 70 71 72 73 99
 * init: area 3, empty 1 full 0, 70-73,99
 * init: rol 2 sign -1 mask 3c pow2 1 0 log 6 up 128 down 64
 */
#include <linux/bitmap.h>
#include <linux/bitops.h>
#include <linux/log2.h>
#include <linux/module.h>

static DECLARE_BITMAP(map, 100);

static int __init bits_init(void)
{
    unsigned long word = 0;
    int a, b, c;
    set_bit(3, &word);
    set_bit(5, &word);
    a = test_and_set_bit(3, &word);
    b = test_and_clear_bit(7, &word);
    c = test_bit(5, &word);
    pr_info("word %lx, was %d %d %d\n", word, a, b, c);
    pr_info("ffs %d fls %d __ffs %lu ffz %lu fls64 %d weight %u %u\n", ffs(0x28), fls(0x28),
            __ffs(0x28), ffz(0x28ul), fls64(1ull << 32), hweight8(0x128), hweight32(0x00ffffff));
    bitmap_set(map, 70, 4);
    __set_bit(99, map);
    pr_info("first %lu next %lu zero %lu last %lu weight %u\n", find_first_bit(map, 100),
            find_next_bit(map, 100, 71), find_first_zero_bit(map, 100), find_last_bit(map, 100),
            bitmap_weight(map, 100));
    unsigned long bit;
    pr_info("each");
    for_each_set_bit(bit, map, 100)
        pr_cont(" %lu", bit);
    pr_cont("\n");
    unsigned long small = 0x5;
    pr_info("area %lu, empty %d full %d, %*pbl\n", bitmap_find_next_zero_area(&small, 64, 0, 2, 0),
            bitmap_empty(&(unsigned long){0}, 64), bitmap_full(map, 100), 100, map);
    pr_info("rol %x sign %d mask %lx pow2 %d %d log %d up %lu down %lu\n", rol32(1, 1),
            sign_extend32(0xff, 7), GENMASK(5, 2), is_power_of_2(64), is_power_of_2(65),
            ilog2(100), roundup_pow_of_two(100), rounddown_pow_of_two(100));
    return 0;
}

static void __exit bits_exit(void)
{
}

module_init(bits_init);
module_exit(bits_exit);
MODULE_LICENSE("GPL");
