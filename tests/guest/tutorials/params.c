/* Every type of parameter.
 * args: small=-7 & count=0x20 & big=-5000000000 & title=two words & flag & off=1 & list=4,5,6 & text=abc & real-name=9 & u=65535 & b=255 & ul=18446744073709551615
 * init: small -7 count 32 big -5000000000 title two words flag 1 off 0
 * init: list 4 5 6 0, 3 of them; text abc; other 9
 * init: u 65535 b 255 ul 18446744073709551615 untouched 42
 */
#include <linux/init.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/stat.h>

static short small = 1;
static int count = 2;
static long big = 3;
static char *title = "none";
static bool flag, off = true;
static int list[4];
static int listed;
static char text[4] = "xyz";
static unsigned int other, untouched = 42;
static unsigned short u;
static unsigned char b;
static unsigned long ul;

module_param(small, short, 0);
MODULE_PARM_DESC(small, "a short");
module_param(count, int, S_IRUGO | S_IWUSR);
module_param(big, long, 0444);
module_param(title, charp, 0000);
module_param(flag, bool, 0);
module_param(off, invbool, 0);
module_param_array(list, int, &listed, 0);
module_param_string(text, text, sizeof(text), 0);
module_param_named(real_name, other, uint, 0);
module_param(untouched, uint, 0);
module_param(u, ushort, 0);
module_param(b, byte, 0);
module_param(ul, ulong, 0);

static int __init params_init(void)
{
    pr_info("small %hd count %d big %ld title %s flag %d off %d\n", small, count, big, title, flag,
            off);
    pr_info("list %d %d %d %d, %d of them; text %s; other %u\n", list[0], list[1], list[2],
            list[3], listed, text, other);
    pr_info("u %hu b %hhu ul %lu untouched %u\n", u, b, ul, untouched);
    return 0;
}

static void __exit params_exit(void)
{
}

module_init(params_init);
module_exit(params_exit);
MODULE_LICENSE("GPL");
