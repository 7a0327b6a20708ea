/* Page tables: walks its own, level by level, and compares with the direct map's arithmetic. */
#include <linux/module.h>
#include <linux/slab.h>

#define PTE_V 1ul
#define PTE_LEAF 0xaul /* R or X */

static unsigned long walk(unsigned long va)
{
    unsigned long satp;
    __asm__ volatile("csrr %0, satp" : "=r"(satp));
    int level = (int)(satp >> 60) - 6; /* mode 8 has levels 2, 1, 0 */
    unsigned long table = (satp & ((1ul << 44) - 1)) << PAGE_SHIFT;
    for (; level >= 0; level--) {
        int shift = PAGE_SHIFT + 9 * level;
        unsigned long pte = ((unsigned long *)__va(table))[va >> shift & 511];
        printk("page_walk: level %d, PTE %lx: %lx\n", level, va >> shift & 511, pte);
        if (!(pte & PTE_V))
            return 0;
        table = pte >> 10 << PAGE_SHIFT;
        if (pte & PTE_LEAF)
            return table + (va & ((1ul << shift) - 1));
    }
    return 0;
}

static int __init walk_init(void)
{
    char *object = kmalloc(64, GFP_KERNEL);
    if (!object)
        return -ENOMEM;
    unsigned long pa = walk((unsigned long)object);
    printk("page_walk: VA %px is PA %lx, __pa says %lx\n", (void *)object, pa, __pa(object));
    int wrong = pa != __pa(object);
    kfree(object);
    return wrong ? -EINVAL : 0;
}

static void __exit walk_exit(void)
{
}

module_init(walk_init);
module_exit(walk_exit);
MODULE_LICENSE("MIT");
