/* Time: jiffies, delays, ktime.
 * init: HZ 250, 10 ms are 3 jiffies, 3 jiffies are 12 ms
 * init: waited 1 1 1
 * init: order 1 1 0 1
 * init: ns 1500000000, us 1500000, 2 to 1: 1
 */
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/timekeeping.h>

static int __init clocks_init(void)
{
    ktime_t start = ktime_get(), t;
    unsigned long before = jiffies;
    pr_info("HZ %d, 10 ms are %lu jiffies, %d jiffies are %u ms\n", HZ, msecs_to_jiffies(10), 3,
            jiffies_to_msecs(3));
    udelay(200);
    s64 us = ktime_us_delta(ktime_get(), start);
    mdelay(9);
    msleep(4);
    schedule_timeout_interruptible(1);
    pr_info("waited %d %d %d\n", us >= 200, ktime_ms_delta(ktime_get(), start) >= 13,
            time_after(jiffies, before + 2));
    pr_info("order %d %d %d %d\n", time_before(before, jiffies), time_after_eq(2, 2),
            time_after(-1ul, 0), time_after(1, -1ul));
    t = ktime_add_ms(ktime_set(1, 0), 500);
    pr_info("ns %lld, us %lld, 2 to 1: %d\n", ktime_to_ns(t), ktime_to_us(t), ktime_compare(2, 1));
    return 0;
}

static void __exit clocks_exit(void)
{
}

module_init(clocks_init);
module_exit(clocks_exit);
MODULE_LICENSE("GPL");
