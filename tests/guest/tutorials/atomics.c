/* atomic_t and atomic64_t.
 * init: 0: 49, 51, 50
 * init: 1: dec and test 0 1, unless 5: 0 1
 * init: 2: xchg 6 cmpxchg 9 9 -> 3
 * init: 3: and 8 or c xor 5 andnot 4
 * init: 4: 4294967296 4294967299
 * init: 5: positive 0 -1
 */
#include <linux/atomic.h>
#include <linux/interrupt.h>
#include <linux/module.h>

static atomic_t count = ATOMIC_INIT(50);
static atomic64_t wide = ATOMIC64_INIT(1ll << 32);

static int __init atomics_init(void)
{
    int a = atomic_dec_return(&count), b;
    atomic_add(2, &count);
    b = atomic_read(&count);
    atomic_dec(&count);
    pr_info("0: %d, %d, %d\n", a, b, atomic_read(&count));
    atomic_set(&count, 2);
    a = atomic_dec_and_test(&count);
    b = atomic_dec_and_test(&count);
    atomic_set(&count, 5);
    pr_info("1: dec and test %d %d, unless 5: %d %d\n", a, b, atomic_add_unless(&count, 1, 5),
            atomic_add_unless(&count, 1, 4));
    a = atomic_xchg(&count, 9);
    b = atomic_cmpxchg(&count, 8, 1);
    pr_info("2: xchg %d cmpxchg %d %d -> %d\n", a, b, atomic_cmpxchg(&count, 9, 3),
            atomic_read(&count));
    atomic_set(&count, 12);
    atomic_and(10, &count);
    a = atomic_read(&count);
    b = atomic_fetch_or(4, &count);
    b = atomic_read(&count);
    atomic_xor(9, &count);
    pr_info("3: and %x or %x xor %x ", a, b, atomic_read(&count));
    atomic_andnot(1, &count);
    pr_cont("andnot %x\n", atomic_read(&count));
    s64 was = atomic64_fetch_add(3, &wide);
    pr_info("4: %lld %lld\n", was, atomic64_read(&wide));
    atomic_set(&count, 1);
    a = atomic_dec_if_positive(&count);
    pr_info("5: positive %d %d\n", a, atomic_dec_if_positive(&count));
    return 0;
}

static void __exit atomics_exit(void)
{
}

module_init(atomics_init);
module_exit(atomics_exit);
MODULE_LICENSE("GPL");
