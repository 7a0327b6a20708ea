/* A module whose exit function does nothing but call the kernel, `module_args` times. */
#include <pagewalk/module.h>

static int __init call_loop_init(void)
{
    return 0;
}

static void __exit call_loop_exit(void)
{
    for (long i = 0; i < 200000; i++)
        kernel_call(CALL_NOP, 0, 0);
}

module_init(call_loop_init);
module_exit(call_loop_exit);
