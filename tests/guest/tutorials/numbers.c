/* Arithmetic helpers, byte order, random numbers.
 * init: min 2 max 7 clamp 5 swap 2 1 abs 3
 * init: up 12 down 8 div 4 closest 3 sqrt 9 gcd 6 pow 81
 * init: do_div 33 rest 1, overflow 1, size 1
 * init: swapped 3412 78563412, unaligned 2010
 * init: random below 10: 1, not all alike: 1
 */
#include <asm/byteorder.h>
#include <asm/unaligned.h>
#include <linux/gcd.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/overflow.h>
#include <linux/random.h>

static int __init numbers_init(void)
{
    int a = 1, b = 2, sum;
    swap(a, b);
    pr_info("min %d max %d clamp %d swap %d %d abs %d\n", min(2, 7), max(2, 7), clamp(9, 1, 5), a,
            b, abs(-3));
    pr_info("up %d down %d div %d closest %d sqrt %lu gcd %lu pow %llu\n", roundup(10, 4),
            rounddown(10, 4), DIV_ROUND_UP(10, 3), DIV_ROUND_CLOSEST(10, 3), int_sqrt(99),
            gcd(18, 24), int_pow(3, 4));
    u64 n = 100;
    u32 rest = do_div(n, 3);
    pr_info("do_div %llu rest %u, overflow %d, size %d\n", n, rest,
            check_add_overflow(INT_MAX, 1, &sum), array_size(SIZE_MAX, 2) == SIZE_MAX);
    u8 bytes[] = {0, 0x10, 0x20};
    pr_info("swapped %x %x, unaligned %x\n", cpu_to_be16(0x1234), htonl(0x12345678),
            get_unaligned((u16 *)(bytes + 1)));
    bool below = true;
    u8 filled[32];
    get_random_bytes(filled, sizeof(filled));
    for (int i = 0; i < 100; i++)
        below &= get_random_u32_below(10) < 10;
    pr_info("random below 10: %d, not all alike: %d\n", below, memchr_inv(filled, filled[0], 32) != NULL);
    return 0;
}

static void __exit numbers_exit(void)
{
}

module_init(numbers_init);
module_exit(numbers_exit);
MODULE_LICENSE("GPL");
