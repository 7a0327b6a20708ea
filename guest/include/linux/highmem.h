/* kmap, see pagewalk/pages.h. */
#ifndef _LINUX_HIGHMEM_H
#define _LINUX_HIGHMEM_H

#include <linux/mm.h>
#include <linux/string.h>


static inline void clear_highpage(struct page *page)
{
    memset(kmap(page), 0, PAGE_SIZE);
    kunmap(page);
}

#define clear_page(address) memset(address, 0, PAGE_SIZE)
#define copy_page(to, from) memcpy(to, from, PAGE_SIZE)

#endif
