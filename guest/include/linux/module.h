/* A kernel module: S-mode code on the kernel's page tables. The kernel is Python; modules call it
 * with ecall. As in Linux this header brings most of the others. */
#ifndef _LINUX_MODULE_H
#define _LINUX_MODULE_H

#include <linux/atomic.h>
#include <linux/bitops.h>
#include <linux/bug.h>
#include <linux/cache.h>
#include <linux/err.h>
#include <linux/errno.h>
#include <linux/export.h>
#include <linux/gfp.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/preempt.h>
#include <linux/printk.h>
#include <linux/rbtree.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/stat.h>
#include <linux/string.h>
#include <linux/types.h>
#include <linux/vmalloc.h>

#ifndef KBUILD_MODNAME
#define KBUILD_MODNAME "module"
#endif

int init_module(void);
void cleanup_module(void);

#define MODULE_LICENSE(text) MODULE_INFO(license, text)
#define MODULE_AUTHOR(text) MODULE_INFO(author, text)
#define MODULE_DESCRIPTION(text) MODULE_INFO(description, text)
#define MODULE_VERSION(text) MODULE_INFO(version, text)
#define MODULE_ALIAS(text) MODULE_INFO(alias, text)
#define MODULE_SOFTDEP(text) MODULE_INFO(softdep, text)
#define MODULE_FIRMWARE(text) MODULE_INFO(firmware, text)
#define MODULE_IMPORT_NS(space) MODULE_INFO(import_ns, __stringify(space))
#define MODULE_SUPPORTED_DEVICE(text)
#define MODULE_DEVICE_TABLE(type, table)

struct module {
    const char *name;
};

static struct module __this_module __maybe_unused = {KBUILD_MODNAME};
#define THIS_MODULE (&__this_module)
#define module_name(module) ((module)->name)
#define try_module_get(module) true
#define __module_get(module) (void)(module)
#define module_put(module) (void)(module)

/* The words behind the module's name on the command line, as they were typed. */
extern char module_args[] __attribute__((visibility("hidden")));

#endif
