/* Parameters with operations of their own, and an array of strings.
 * args: level=11 & names=red,green
 * init: level set to 11
 * init: clamped to 10, red then green of 2
 */
#include <linux/module.h>
#include <linux/moduleparam.h>

static int level;
static char *names[3];
static int nr_names;

static int set_level(const char *value, const struct kernel_param *kp)
{
    int error = param_set_int(value, kp);
    if (error)
        return error;
    pr_info("level set to %d\n", level);
    level = clamp(level, 0, 10);
    return 0;
}

static const struct kernel_param_ops level_ops = {
    .set = set_level,
    .get = param_get_int,
};

module_param_cb(level, &level_ops, &level, 0644);
module_param_array(names, charp, &nr_names, 0);

static int __init cb_init(void)
{
    pr_info("clamped to %d, %s then %s of %d\n", level, names[0], names[1], nr_names);
    return 0;
}

static void __exit cb_exit(void)
{
}

module_init(cb_init);
module_exit(cb_exit);
MODULE_LICENSE("GPL");
