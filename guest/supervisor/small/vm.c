/* Sv39 page tables (privileged specification, 12.4): the kernel's, and one for each process.
 *
 *   kernel    VA = PA: devices RW-, text R-X, the rest of RAM RW-
 *             below FRAME: each process's kernel stack, with a hole under it
 *   process   from USER_BASE: text R-XU, rodata R--U, data, stack and heap RW-U
 *             FRAME: its registers RW-
 *   both      TRAMPOLINE R-X: the code that changes satp, so it must be in the same place
 */
#include "small.h"

#define FLAGS 1023
#define SATP_SV39 (8ul << 60)

extern char text_end[];
pte_t *kernel_root;

static void *address_of(pte_t pte)
{
    return (void *)(pte >> 10 << 12);
}

/* The leaf's PTE for `va`. A table that is missing is made, or NULL returned. */
static pte_t *walk(pte_t *table, unsigned long va, int make)
{
    for (int level = 2; level > 0; level--) {
        pte_t *pte = &table[va >> (12 + 9 * level) & 511];
        if (!(*pte & V)) {
            void *made = make ? page_alloc() : NULL;
            if (!made)
                return NULL;
            *pte = (pte_t)made >> 12 << 10 | V;
        }
        table = address_of(*pte);
    }
    return &table[va >> 12 & 511];
}

/* 0, or -1 when memory is out: what was mapped by then stays. */
int vm_map(pte_t *root, unsigned long va, unsigned long pa, unsigned long size, pte_t flags)
{
    for (unsigned long end = va + size; va < end; va += PAGE_SIZE, pa += PAGE_SIZE) {
        pte_t *pte = walk(root, va, 1);
        if (!pte)
            return -1;
        *pte = pa >> 12 << 10 | flags | A | D | V;
    }
    return 0;
}

unsigned long satp_of(const pte_t *root)
{
    return SATP_SV39 | (unsigned long)root >> 12;
}

void vm_init(void)
{
    pte_t *root = kernel_root = page_alloc();
    unsigned long text_size = (unsigned long)text_end - RAM;
    vm_map(root, FINISHER, FINISHER, PAGE_SIZE, R | W);
    vm_map(root, PLIC, PLIC, 0x400000, R | W);
    vm_map(root, UART, UART, PAGE_SIZE, R | W);
    vm_map(root, DISK, DISK, PAGE_SIZE, R | W);
    vm_map(root, RAM, RAM, text_size, R | X);
    vm_map(root, RAM + text_size, RAM + text_size, RAM_END - RAM - text_size, R | W);
    vm_map(root, TRAMPOLINE, (unsigned long)trampoline, PAGE_SIZE, R | X);
    __asm__ volatile("sfence.vma" ::: "memory");
    csr_write(satp, satp_of(root));
    __asm__ volatile("sfence.vma" ::: "memory");
}

/* An address space with nothing of the user's in it, or NULL. */
pte_t *vm_create(struct frame *frame)
{
    pte_t *root = page_alloc();
    if (root && (vm_map(root, TRAMPOLINE, (unsigned long)trampoline, PAGE_SIZE, R | X) ||
                 vm_map(root, FRAME, (unsigned long)frame, PAGE_SIZE, R | W))) {
        vm_destroy(root, 0);
        return NULL;
    }
    return root;
}

static void free_table(pte_t *table, int level)
{
    for (int i = 0; i < 512 && level > 0; i++)
        if (table[i] & V)
            free_table(address_of(table[i]), level - 1);
    page_free(table);
}

/* Frees `size` bytes of user memory and all tables; what FRAME shows is not the table's own. */
void vm_destroy(pte_t *root, unsigned long size)
{
    vm_resize(root, size, 0);
    free_table(root, 2);
}

/* Gives or takes pages so that user memory has `to` bytes instead of `from`. Returns the size. */
unsigned long vm_resize(pte_t *root, unsigned long from, unsigned long to)
{
    unsigned long last = (from + PAGE_SIZE - 1) / PAGE_SIZE, next = (to + PAGE_SIZE - 1) / PAGE_SIZE;
    for (unsigned long page = last; page < next; page++) {
        void *memory = page_alloc();
        if (!memory || vm_map(root, USER_BASE + page * PAGE_SIZE, (unsigned long)memory, PAGE_SIZE,
                              R | W | U)) {
            if (memory)
                page_free(memory);
            return vm_resize(root, page * PAGE_SIZE, from);
        }
    }
    for (unsigned long page = next; page < last; page++) {
        pte_t *pte = walk(root, USER_BASE + page * PAGE_SIZE, 0);
        page_free(address_of(*pte));
        *pte = 0;
    }
    __asm__ volatile("sfence.vma" ::: "memory");
    return to;
}

/* The program's image from `from` to `to`, into user memory that is there, mapped as `flags`. */
void vm_load(pte_t *root, const char *image, unsigned long from, unsigned long to, pte_t flags)
{
    for (; from < to; from += PAGE_SIZE) {
        pte_t *pte = walk(root, USER_BASE + from, 0);
        memcpy(address_of(*pte), image + from, PAGE_SIZE);
        *pte = (*pte & ~(pte_t)(R | W | X)) | flags;
    }
}

/* For fork: `size` bytes of user memory, copied. 0, or -1 with nothing left in `to`. */
int vm_copy(pte_t *to, pte_t *from, unsigned long size)
{
    for (unsigned long done = 0; done < size; done += PAGE_SIZE) {
        pte_t *old = walk(from, USER_BASE + done, 0);
        void *page = page_alloc();
        if (page)
            memcpy(page, address_of(*old), PAGE_SIZE);
        if (!page || vm_map(to, USER_BASE + done, (unsigned long)page, PAGE_SIZE, *old & FLAGS)) {
            if (page)
                page_free(page);
            vm_resize(to, done, 0);
            return -1;
        }
    }
    return 0;
}

/* Where the kernel finds what the current process has at `va`, if it may do that with it. */
static char *user_address(unsigned long va, pte_t flags)
{
    pte_t *pte = va < FRAME ? walk(current->root, va, 0) : NULL;
    if (!pte || (*pte & (flags | U | V)) != (flags | U | V))
        return NULL;
    return (char *)address_of(*pte) + va % PAGE_SIZE;
}

int user_read(void *to, unsigned long va, size_t size)
{
    for (char *p = to; size--; va++) {
        char *from = user_address(va, R);
        if (!from)
            return -1;
        *p++ = *from;
    }
    return 0;
}

int user_write(unsigned long va, const void *from, size_t size)
{
    for (const char *p = from; size--; va++) {
        char *to = user_address(va, W);
        if (!to)
            return -1;
        *to = *p++;
    }
    return 0;
}
