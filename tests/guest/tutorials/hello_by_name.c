/* The oldest form: functions by the names that the loader looks for.
 * init: one, two
 * exit: gone
 */
#include <linux/kernel.h>
#include <linux/module.h>

int init_module(void)
{
    printk(KERN_INFO "one, ");
    printk(KERN_CONT "two\n");
    return 0;
}

void cleanup_module(void)
{
    printk(KERN_ALERT "gone\n");
}

MODULE_LICENSE("GPL");
