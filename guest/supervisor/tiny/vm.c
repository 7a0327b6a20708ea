/* Page frames and Sv39 page tables (privileged specification, section 12.4).
 *
 *   VA           0x80200000                        USER_BASE              USER_STACK_TOP
 *   kernel       text R-X, rodata R--, data RW-    -                      -
 *   a task       the same table: shared            text R-XU, rodata R--U, stack RW-U
 *                                                  data RW-U (its own copy)
 *
 * The kernel is mapped where it lies, VA = PA: a pointer to a page table is what satp and the
 * PTEs hold, and turning translation on moves nothing. Every task's root shares the kernel's
 * entry, without U, so a trap needs no change of satp. Nothing is writable and executable. */
#include "tiny.h"

enum { V = 1, R = 2, W = 4, X = 8, U = 16, A = 64, D = 128 };
#define SATP_SV39 (8ul << 60)
#define POOL_PAGES 64

/* From tiny.ld. The user_ ones say where the program's image lies, not where it runs. */
extern char text_start[], text_end[], rodata_start[], rodata_end[], data_start[], data_end[];
extern char bss_start[], bss_end[], user_text[], user_rodata[], user_data[], user_end[];

static union page {
    union page *next; /* while it is free */
    char bytes[PAGE_SIZE];
} pool[POOL_PAGES] __attribute__((aligned(4096)));
static union page *free_list;
long pages_free;
static pte_t *kernel_root;

static void page_free(void *address)
{
    union page *page = address;
    page->next = free_list;
    free_list = page;
    pages_free++;
}

static void *page_alloc(void) /* filled with zeros */
{
    union page *page = free_list;
    if (!page)
        panic("out of pages\n");
    free_list = page->next;
    pages_free--;
    return memset(page, 0, PAGE_SIZE);
}

static void *pte_address(pte_t pte)
{
    return (void *)(pte >> 10 << 12);
}

static int index_of(unsigned long va, int level)
{
    return va >> (12 + 9 * level) & 511;
}

/* The leaf's PTE for `va`; where a table is missing, it is made, or NULL returned. */
static pte_t *walk(pte_t *table, unsigned long va, int make)
{
    for (int level = 2; level > 0; level--) {
        pte_t *pte = &table[index_of(va, level)];
        if (!(*pte & V)) {
            if (!make)
                return NULL;
            *pte = (pte_t)page_alloc() >> 12 << 10 | V;
        }
        table = pte_address(*pte);
    }
    return &table[index_of(va, 0)];
}

/* A and D are set at once: a hart may fault instead of setting them, and we need neither. */
static void map(pte_t *root, unsigned long va, const char *from, const char *to, pte_t flags)
{
    for (; from < to; from += PAGE_SIZE, va += PAGE_SIZE)
        *walk(root, va, 1) = (pte_t)from >> 12 << 10 | flags | A | D | V;
}

void vm_switch(pte_t *root)
{
    csr_write(satp, SATP_SV39 | (pte_t)(root ? root : kernel_root) >> 12);
    __asm__ volatile("sfence.vma" ::: "memory"); /* all tasks use ASID 0 */
}

void vm_init(void)
{
    for (int i = POOL_PAGES; i--;)
        page_free(&pool[i]);
    kernel_root = page_alloc();
    map(kernel_root, (pte_t)text_start, text_start, text_end, R | X);
    map(kernel_root, (pte_t)rodata_start, rodata_start, rodata_end, R);
    map(kernel_root, (pte_t)data_start, data_start, data_end, R | W);
    map(kernel_root, (pte_t)bss_start, bss_start, bss_end, R | W); /* the page below: a guard */
    vm_switch(NULL);
}

/* An address space: the program's text and rodata, a copy of its data, an empty stack. */
pte_t *vm_create(void)
{
    pte_t *root = page_alloc();
    root[index_of((pte_t)text_start, 2)] = kernel_root[index_of((pte_t)text_start, 2)];
    map(root, USER_BASE, user_text, user_rodata, R | X | U);
    map(root, USER_BASE + (pte_t)(user_rodata - user_text), user_rodata, user_data, R | U);
    for (char *from = user_data; from < user_end; from += PAGE_SIZE) {
        char *page = memcpy(page_alloc(), from, PAGE_SIZE);
        map(root, USER_BASE + (pte_t)(from - user_text), page, page + PAGE_SIZE, R | W | U);
    }
    char *stack = page_alloc();
    map(root, USER_STACK_TOP - PAGE_SIZE, stack, stack + PAGE_SIZE, R | W | U);
    return root;
}

static void free_table(pte_t *table, int level)
{
    for (int i = 0; i < 512; i++) {
        if (table[i] & V && level > 0)
            free_table(pte_address(table[i]), level - 1);
        else if (table[i] & W) /* what can be written is the task's own; the rest is shared */
            page_free(pte_address(table[i]));
    }
    page_free(table);
}

/* Gives back all that vm_create took. `root` must not be in satp any more. */
void vm_destroy(pte_t *root)
{
    free_table(pte_address(root[index_of(USER_BASE, 2)]), 1);
    page_free(root);
}

void *vm_readable(pte_t *root, unsigned long va)
{
    pte_t *pte = va >> 38 ? NULL : walk(root, va, 0); /* bit 38 up: not a user's address */
    if (!pte || (*pte & (V | U | R)) != (V | U | R))
        return NULL;
    return (char *)pte_address(*pte) + va % PAGE_SIZE;
}
