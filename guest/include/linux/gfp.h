/* Page allocation, see pagewalk/pages.h. The flags come from mm/gfp.py. */
#ifndef _LINUX_GFP_H
#define _LINUX_GFP_H

#include <linux/types.h>
#include <pagewalk/pages.h>

#define gfpflags_allow_blocking(flags) (!!((flags)&__GFP_DIRECT_RECLAIM))
#define alloc_pages_node(node, flags, order) alloc_pages(flags, order)
#define __get_free_page(flags) __get_free_pages(flags, 0)
#define __get_dma_pages(flags, order) __get_free_pages((flags) | GFP_DMA, order)

#endif
