/* For sources that know this name: everything that a module can use. */
#include <linux/delay.h>
#include <linux/highmem.h>
#include <linux/module.h>
