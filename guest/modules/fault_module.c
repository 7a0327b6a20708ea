/* A kernel module that faults in the way that its argument names. */
#include <pagewalk/module.h>


static int is(const char *name)
{
    const char *p = module_args;
    while (*name && *p == *name)
        p++, name++;
    return !*name && !*p;
}

static int overflow(int n)
{
    volatile char frame[256];
    frame[0] = (char)n;
    return overflow(n + 1) + frame[0];
}

static int __init fault_init(void)
{
    /* Sv39, Sv48 and Sv57 are modes 8 to 10: user space is the lower half of 39 + 9 n bits. */
    unsigned long task_size = 1ul << (38 + 9 * (vmcore->satp_mode - 8));
    if (is("user")) /* a U page from S, with SUM clear: the user stack of this process */
        return *(volatile int *)(task_size - 64);
    if (is("null"))
        return *(volatile int *)0;
    if (is("write-code")) /* a module's code is not writable */
        *(volatile int *)(unsigned long)fault_init = 0;
    if (is("execute")) { /* the heap is not executable */
        int *code = kmalloc(64, GFP_KERNEL);
        code[0] = 0x00008067; /* ret */
        ((void (*)(void))code)();
    }
    if (is("vmcoreinfo")) /* read-only data */
        *(volatile unsigned long *)&vmcore->magic = 0;
    if (is("guard"))
        return overflow(0);
    printk("fault_module: usage: user|null|write-code|execute|vmcoreinfo|guard\n");
    return -EINVAL;
}

static void __exit fault_exit(void)
{
}

module_init(fault_init);
module_exit(fault_exit);
MODULE_LICENSE("MIT");
