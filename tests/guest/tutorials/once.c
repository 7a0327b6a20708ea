/* Messages that are said once, and those that are not said too often; a hex dump.
 * init: only once
 * init: limited
 * init: limited
 * init: limited
 * init: limited
 * init: limited
 * init: limited
 * init: limited
 * init: limited
 * init: limited
 * init: limited
 * init: the first of its kind
 * init: dump 00000000: 30 31 32 33 34 35 36 37 38 39 0a ff              0123456789\.\.
 * init: debug was asked for
 * init: build checks held
 */
#define DEBUG
#include <linux/build_bug.h>
#include <linux/module.h>
#include <linux/printk.h>
#include <linux/ratelimit.h>

static DEFINE_RATELIMIT_STATE(hourly, 3600 * HZ, 10);

static int __init once_init(void)
{
    BUILD_BUG_ON(sizeof(long) != 8);
    for (int i = 0; i < 3; i++)
        pr_info_once("only once\n");
    for (int i = 0; i < 15; i++)
        if (__ratelimit(&hourly))
            pr_info("limited\n");
    pr_info_ratelimited("the first of its kind\n");
    print_hex_dump(KERN_INFO, "dump ", DUMP_PREFIX_OFFSET, 16, 1, "0123456789\n\xff", 12, true);
    pr_debug("debug was asked for\n");
    if (WARN_ON(0) || WARN_ONCE(0, "never\n"))
        return -EINVAL;
    BUG_ON(0);
    pr_info("build checks held\n");
    return 0;
}

static void __exit once_exit(void)
{
}

module_init(once_init);
module_exit(once_exit);
MODULE_LICENSE("GPL");
