/* See pagewalk/vmalloc.h. */
#ifndef _LINUX_VMALLOC_H
#define _LINUX_VMALLOC_H

#include <linux/mm.h>
#include <linux/types.h>
#include <pagewalk/vmalloc.h>

#define vmalloc_to_page(address) pfn_to_page(vmalloc_to_pfn(address))
#define vmalloc_node(size, node) vmalloc(size)
#define vzalloc_node(size, node) vzalloc(size)

#endif
