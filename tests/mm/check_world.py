"""A kernel with some of everything, for the tests of mm.check to break."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

import mm
from emu.ram import Ram
from mm.errors import CheckError, MmError
from mm.gfp import GFP_COMP, GFP_KERNEL
from mm.pgtable import PAGE_KERNEL_EXEC, MmStruct
from mm.vma import VM_READ, VM_WRITE

Break = Callable[["World"], int | None]  # returns the address that must be blamed, if exact


class World:
    """A kernel with some of everything, and where its parts are."""

    def __init__(self) -> None:
        config = mm.Config(pcp=False)  # see also test_pcp.py
        k = self.k = mm.boot(Ram(16 << 20), config)
        self.ram = k.ram
        self.single = self.need(k.alloc_page())
        self.block = self.need(k.alloc_pages(GFP_KERNEL, 3))
        self.comp = self.need(k.alloc_pages(GFP_KERNEL | GFP_COMP, 3))
        self.object = self.need(k.kmalloc(64))
        self.mm = k.mm_alloc()
        self.vma = k.mmap_region(self.mm, 0x10000, 0x3000, VM_READ | VM_WRITE)
        self.vma2 = k.mmap_region(self.mm, 0x20000, 0x1000, VM_READ)
        self.area = self.need(k.vmalloc(8192))
        self.module = self.need(k.module_alloc(4096))
        k.set_memory(self.module, 4096, PAGE_KERNEL_EXEC)
        self.slab = self.need(k.slab.slab_pfn(self.object))
        mm.check(k)

    @staticmethod
    def need(value: int | None) -> int:
        assert value is not None
        return value

    def page_pa(self, pfn: int) -> int:
        return self.k.space.page_pa(pfn)

    def free_head(self, order: int | None = None) -> int:
        """The PFN of some listed free block."""
        for o in range(11) if order is None else [order]:
            for mt in range(4):
                head = self.k.zones[0].free_area[o].free_list[mt]
                if head.next != self.k.va(head.pa):
                    return self.k.space.page_to_pfn(head.next - 8)
        raise AssertionError("no free block")

    def pte(self, mm_: MmStruct, va: int) -> tuple[int, int]:
        found = self.k.pgtable.lookup(mm_, va)
        assert found is not None
        return found[1], found[2]

    def set_pte(self, mm_: MmStruct, va: int, change: Callable[[int], int]) -> int:
        pa, pte = self.pte(mm_, va)
        self.ram.write64(pa, change(pte))
        return va


class Cases:
    """Ways to break one rule each: the structure and the words of the rule that must be named."""

    def __init__(self) -> None:
        self.cases: list[tuple[str, str, str, Break]] = []

    def __call__(self, structure: str, rule: str) -> Callable[[Break], Break]:
        """A decorator of the function that breaks it."""

        def keep(function: Break) -> Break:
            self.cases.append((function.__name__, structure, rule, function))
            return function

        return keep

    def each(self) -> pytest.MarkDecorator:
        """For a test of (structure, rule, corrupt)."""
        return pytest.mark.parametrize(
            ("structure", "rule", "corrupt"),
            [c[1:] for c in self.cases],
            ids=[c[0] for c in self.cases],
        )


def names_the_broken_rule(structure: str, rule: str, corrupt: Break) -> None:
    """mm.check does, of the kernel at hand and of one attached to its RAM, if that can be."""
    world = World()
    blame = corrupt(world)
    with pytest.raises(CheckError) as e:
        mm.check(world.k)
    assert e.value.structure == structure, str(e.value)
    assert re.search(rule, e.value.rule), str(e.value)
    if blame is not None:
        assert e.value.address == blame, str(e.value)
    try:
        again = mm.attach(world.ram)
    except MmError:
        return  # even attaching is refused
    with pytest.raises(CheckError):
        mm.check(again)
