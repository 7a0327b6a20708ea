/* Linux's <linux/mm_types.h>: everything that a module can use is in pagewalk/module.h. */
#include <pagewalk/module.h>
