/* VMAs: the areas of every process's address space, read from the kernel's own lists. */
#include <linux/list.h>
#include <linux/module.h>

static int __init vmas_init(void)
{
    struct mm_struct *mm;
    struct vm_area_struct *vma;
    int areas = 0;
    list_for_each_entry(mm, vmcore_list(mmlist), mmlist) {
        unsigned long last = 0;
        printk("vmas: an mm_struct with ASID %lu\n", (unsigned long)mm->asid);
        list_for_each_entry(vma, &mm->mmap, list) {
            printk("vmas: %08lx-%08lx %s%s%s %s\n", vma->vm_start, vma->vm_end,
                   vma->vm_flags & VM_READ ? "r" : "-", vma->vm_flags & VM_WRITE ? "w" : "-",
                   vma->vm_flags & VM_EXEC ? "x" : "-", vma->name);
            if (vma->vm_start < last || vma->vm_start >= vma->vm_end)
                return -EINVAL;
            last = vma->vm_end;
            areas++;
        }
    }
    return areas ? 0 : -EINVAL;
}

static void __exit vmas_exit(void)
{
}

module_init(vmas_init);
module_exit(vmas_exit);
MODULE_LICENSE("MIT");
