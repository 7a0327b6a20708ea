/* The task that loads the module, and what the machine is called.
 * init: swapper, pid 0, tgid 0, not in an interrupt
 * init: Linux on riscv64: 1
 * init: version 6\.12: newer than 5\.4
 */
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/utsname.h>
#include <linux/version.h>

static int __init who_init(void)
{
    pr_info("%s, pid %i, tgid %d, %s\n", current->comm, task_pid_nr(current), current->tgid,
            in_interrupt() ? "in an interrupt" : "not in an interrupt");
    pr_info("%s on %s: %d\n", utsname()->sysname, utsname()->machine, num_online_cpus());
#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 4, 0)
    pr_info("version %d.%d: newer than 5.4\n", LINUX_VERSION_CODE >> 16,
            LINUX_VERSION_CODE >> 8 & 0xff);
#endif
    return 0;
}

static void __exit who_exit(void)
{
}

module_init(who_init);
module_exit(who_exit);
MODULE_LICENSE("GPL");
