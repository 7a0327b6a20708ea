/* Page frames: from the kernel's end to RAM_END, on one list. */
#include "small.h"

union page {
    union page *next; /* while it is free */
    unsigned long words[PAGE_SIZE / sizeof(unsigned long)];
};

static union page *free_list;
long pages_free;
extern char kernel_end[];

static void put(union page *page)
{
    unsigned long before = interrupts_off();
    page->next = free_list;
    free_list = page;
    pages_free++;
    interrupts_restore(before);
}

static void fill(union page *page, unsigned long word)
{
    for (unsigned long *at = page->words; at < (page + 1)->words; at += 8)
        at[0] = at[1] = at[2] = at[3] = at[4] = at[5] = at[6] = at[7] = word;
}

void page_init(void)
{
    for (char *page = (char *)RAM_END; page > kernel_end; )
        put((union page *)(page -= PAGE_SIZE));
}

/* What was freed is filled with junk: whoever still uses it notices. */
void page_free(void *page)
{
    fill(page, 0xdeadbeefdeadbeef);
    put(page);
}

void *page_alloc(void)
{
    unsigned long before = interrupts_off();
    union page *page = free_list;
    if (page) {
        free_list = page->next;
        pages_free--;
    }
    interrupts_restore(before);
    if (page)
        fill(page, 0);
    return page;
}
