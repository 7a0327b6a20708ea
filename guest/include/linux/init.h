/* Where a module begins and ends. Nothing of it is given back after init. */
#ifndef _LINUX_INIT_H
#define _LINUX_INIT_H

#include <linux/compiler.h>
#include <linux/types.h>

/* `used`: the function keeps its own name, beside init_module. */
#define __init __attribute__((__used__))
#define __exit __attribute__((__used__))
#define __initdata
#define __initconst
#define __exitdata
#define __ref
#define __refdata
#define __devinit
#define __devexit
#define __meminit

typedef int (*initcall_t)(void);
typedef void (*exitcall_t)(void);

/* By the names that a module without these macros uses itself. */
#define module_init(function) int init_module(void) __attribute__((alias(#function)));
#define module_exit(function) void cleanup_module(void) __attribute__((alias(#function)));
#define device_initcall(function) module_init(function)
#define late_initcall(function) module_init(function)

#endif
