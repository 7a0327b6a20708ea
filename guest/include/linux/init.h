/* Linux's <linux/init.h>: everything that a module can use is in pagewalk/module.h. */
#include <pagewalk/module.h>
