/* What the parts of the module runtime share. Compiled as sections of their own: a module keeps
 * those that it uses. */
#ifndef PAGEWALK_RUNTIME_MODULE_H
#define PAGEWALK_RUNTIME_MODULE_H

#include <linux/kernel.h>

/* printk, of a bug: the kernel keeps a list of those. */
int report_bug(const char *format, ...) __printf(1, 2);

#endif
