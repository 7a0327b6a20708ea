/* The smallest kernel module: says hello when it is loaded and goodbye when it is unloaded. */
#include <pagewalk/module.h>

static int __init hello_init(void)
{
    printk("hello_module: in S-mode, init at %px\n", (void *)hello_init);
    return 0;
}

static void __exit hello_exit(void)
{
    printk("hello_module: goodbye\n");
}

module_init(hello_init);
module_exit(hello_exit);
MODULE_LICENSE("MIT");
