/* What a kernel module can use: Linux's names. A module runs in S-mode on the kernel's page
 * tables; it calls the kernel, which is Python, with ecall. */
#ifndef PAGEWALK_MODULE_H
#define PAGEWALK_MODULE_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <pagewalk/call.h>
#include <pagewalk/page.h>
#include <pagewalk/pages.h>
#include <pagewalk/slab.h>
#include <pagewalk/vmalloc.h>

#define module_init(function) int init_module(void) { return function(); }
#define module_exit(function) void cleanup_module(void) { function(); }
#define MODULE_LICENSE(text) MODULE_INFO(license, text)
#define MODULE_AUTHOR(text) MODULE_INFO(author, text)
#define MODULE_DESCRIPTION(text) MODULE_INFO(description, text)
#define MODULE_INFO(tag, text)                                                                \
    static const char tag##_info[] __attribute__((section(".modinfo"), used)) = #tag "=" text

#define __init
#define __exit

#define ENOENT 2
#define ENOMEM 12
#define EINVAL 22

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

/* The words behind the module's name on the command line. */
extern char module_args[];

/* Linux's printk; the conversions of pagewalk/user.h's printf. */
int printk(const char *format, ...) __attribute__((format(printf, 1, 2)));
#define KERN_INFO ""
#define KERN_ERR ""
#define pr_info(...) printk(__VA_ARGS__)
#define pr_err(...) printk(__VA_ARGS__)

#endif
