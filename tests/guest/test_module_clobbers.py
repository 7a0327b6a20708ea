"""Modules that break the kernel's own structures, or call it with what is odd: a line that
names the structure, and never the end of the machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from guest_kit import Kernel, load

from guest import build
from mm.errors import CheckError
from mm.vmalloc import VmStruct

Machines = Callable[..., Kernel]

SMASHED = """
#include <linux/module.h>
#include <linux/vmalloc.h>
#include <pagewalk/page.h>
static int __init clobber(void)
{
    void *area = vmalloc(8192);
    /* Areas lie by address, and the first one is ours or a neighbour of ours. */
    struct list_head *at = vmcore->vmap_area_list.next;
    for (int i = 0; i < 3; i++, at = at->next)
        if (((struct vm_struct *)at)->addr == area)
            ((struct vm_struct *)at)->nr_pages = 1ul << 40;
    vfree(area);
    printk("still here: %d\\n", vmalloc(4096) != 0);
    return 0;
}
module_init(clobber);
MODULE_LICENSE("GPL");
"""

ODD = """
#include <linux/module.h>
#include <linux/slab.h>
static int calls;
static void construct(void *object) { *(long *)object = 0x7a; calls++; }
static int __init odd(void)
{
    void (*ctor)(void *) = (void (*)(void *))((unsigned long)construct + 1);
    struct kmem_cache *cache = kmem_cache_create("odd", 96, 0, 0, ctor);
    long *object = kmem_cache_alloc(cache, GFP_KERNEL);
    printk("constructed: %d, %lx\\n", calls > 0, *object);
    return 0;
}
module_init(odd);
MODULE_LICENSE("GPL");
"""


def test_a_smashed_vm_struct_is_one_line_that_names_it(machines: Machines) -> None:
    k = machines()
    with pytest.raises(CheckError, match="vm_struct"):  # the kit's own look afterwards
        k.insert(load(build.MODULE, SMASHED))
    named = [line for line in k.log if "vm_struct" in line]
    assert len(named) == 1
    assert "is corrupt: nr_pages 0x10000000000 is not that of size 0x3000" in named[0]
    assert "still here: 1" in k.log
    for link in k.mm.lists.walk(k.mm.vmalloc_areas.vmap_area_list, 100):
        area = VmStruct(k.mm.ram, k.mm.pa(link))
        if area.nr_pages == 1 << 40:
            area.nr_pages = 2  # and all is well again
            k.mm.vfree(area.addr)


def test_bit_0_of_a_constructors_address_is_cleared(machines: Machines) -> None:
    """jalr on RV64GC: the target's lowest bit is set to zero, so the even address is called."""
    k = machines()
    k.insert(load(build.MODULE, ODD))
    assert k.log == ["constructed: 1, 7a"]
