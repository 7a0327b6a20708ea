/* __init, __initdata and the rest, pr_fmt, and a file name with a dash in it.
 * init: guest: number 3
 * init: guest: listed: 2, 3, 5
 * exit: guest: bye
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/init.h>
#include <linux/module.h>

static int number __initdata = 3;
static const int primes[] __initconst = {2, 3, 5};
static char last[] __exitdata = "bye";

static int __init sections_init(void)
{
    pr_info("number %d\n", number);
    pr_debug("nobody asked for this\n");
    pr_info("listed: %d", primes[0]);
    for (size_t i = 1; i < ARRAY_SIZE(primes); i++)
        pr_cont(", %d", primes[i]);
    pr_cont("\n");
    return 0;
}

static void __exit sections_exit(void)
{
    pr_info("%s\n", last);
}

module_init(sections_init);
module_exit(sections_exit);
MODULE_LICENSE("Dual BSD/GPL");
MODULE_AUTHOR("one author");
MODULE_AUTHOR("and another");
MODULE_DESCRIPTION("sections");
MODULE_VERSION("1.0");
MODULE_ALIAS("other-name");
