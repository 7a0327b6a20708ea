"""vmalloc: memory that is contiguous in the kernel's VAs and scattered in RAM.

An area is a ``vm_struct`` in RAM, on a list by address headed in vmcoreinfo; its frames are
single pages, recorded in a kmalloc'ed array of struct page pointers and mapped by the
tables of init_mm. Areas lie at the lowest address that fits, each followed by one guard
page, which is part of ``size`` as in Linux. The modules area is served the same way.

Making an area read-only or executable (``set_memory``) also makes its frames read-only in
the direct map, so that no frame is writable at one address and executable at another; vfree
gives the frames their direct-map permissions back (VM_FLUSH_RESET_PERMS).

Source: Linux mm/vmalloc.c, arch/riscv/mm/pageattr.c. Sizes and VAs in bytes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np

from emu.paging import PTE_W, PTE_X
from emu.ram import PAGE_SHIFT, PAGE_SIZE
from mm.addrspace import MODULES_END, MODULES_VADDR, Space
from mm.buddy import Buddy
from mm.errors import BadFree, MappingExists, OutOfMemory, VmaError
from mm.gfp import GFP_KERNEL, GFP_ZERO
from mm.kmalloc import Kmalloc
from mm.layout import ListHead, Struct, nested, ptr, u64
from mm.lists import Lists
from mm.pgtable import PAGE_KERNEL, PAGE_KERNEL_READ, MmStruct, PageTables, runs_of
from mm.slab import KmemCache

VM_ALLOC = 0x2
VM_MAP = 0x4
VM_FLUSH_RESET_PERMS = 0x100
MAX_AREAS = 1 << 20


class VmStruct(Struct, c_name="vm_struct"):
    """One area. ``size`` includes the guard page."""

    list = nested(ListHead)
    addr = ptr()
    size = u64()
    flags = u64()
    pages = ptr("struct page *")
    nr_pages = u64()
    requested_size = u64()


class Vmalloc:
    """The vmalloc areas of a kernel; ``vmap_area_list`` is the VA of the head of their list."""

    def __init__(
        self,
        space: Space,
        lists: Lists,
        buddy: Buddy,
        pgtable: PageTables,
        kmalloc: Kmalloc,
        cache: KmemCache,
        vmap_area_list: int,
    ) -> None:
        self.space = space
        self.ram = space.ram
        self.lists = lists
        self.buddy = buddy
        self.pgtable = pgtable
        self.init_mm: MmStruct = pgtable.init_mm
        self.kmalloc = kmalloc
        self.cache = cache
        self.vmap_area_list = vmap_area_list
        self._starts: list[int] = []  # derived: addr of each area, sorted
        self._areas: list[VmStruct] = []  # and the areas in that order
        for link in lists.walk(vmap_area_list, MAX_AREAS):
            area = VmStruct(self.ram, lists.resolve(link))
            self._starts.append(area.addr)
            self._areas.append(area)

    @property
    def areas(self) -> list[VmStruct]:
        """All areas, by address."""
        return list(self._areas)

    def find_vm_area(self, va: int) -> VmStruct | None:
        """The area whose pages (not guard page) contain ``va``; log time."""
        i = bisect_right(self._starts, va) - 1
        if i < 0:
            return None
        area = self._areas[i]
        return area if va < area.addr + area.size - PAGE_SIZE else None

    def _find_hole(self, size: int, start: int, end: int) -> int | None:
        """The lowest page-aligned VA in ``[start, end)`` with ``size`` free bytes from it."""
        at = start
        i = bisect_right(self._starts, start) - 1
        if i >= 0:
            at = max(at, self._areas[i].addr + self._areas[i].size)
        for area in self._areas[i + 1 :]:
            if area.addr - at >= size:
                break
            at = area.addr + area.size
        return at if at + size <= end else None

    def vmalloc_range(
        self, size: int, start: int, end: int, gfp: int = GFP_KERNEL, prot: int = PAGE_KERNEL
    ) -> int | None:
        """``size`` bytes, rounded up to pages, somewhere in ``[start, end)``: their VA.

        The guard page must fit too. None without memory or without addresses. Raises
        ValueError for a size of 0 or a bad protection, GfpError.
        """
        if size <= 0:
            raise ValueError(f"vmalloc of {size} bytes")
        self.pgtable.check_prot(self.init_mm, prot)
        pages = -(-size // PAGE_SIZE)
        total = (pages + 1) * PAGE_SIZE
        va = self._find_hole(total, start, end)
        if va is None:
            return None
        # Refused before anything is counted on: the frames, their array, the struct, tables.
        if pages > self.buddy.nr_free_pages():
            return None
        array = self.kmalloc.kmalloc(8 * pages, GFP_KERNEL)
        if array is None:
            return None
        runs = self.buddy.alloc_page_runs(gfp, pages)
        struct_va = self.cache.alloc(GFP_KERNEL | GFP_ZERO) if runs is not None else None
        try:
            if runs is None or struct_va is None:
                raise OutOfMemory("vmalloc")
            self.pgtable.map_runs(self.init_mm, va, runs, prot)
        except (OutOfMemory, MappingExists) as e:
            if struct_va is not None:
                self.cache.free(struct_va)
            self.buddy.free_page_runs(runs or [])
            self.kmalloc.kfree(array)
            if isinstance(e, MappingExists):
                raise
            return None
        pfns = np.concatenate([np.arange(p, p + n, dtype=np.uint64) for p, n in runs])
        self.ram.array(self.space.pa(array), pages)[:] = (
            (pfns - np.uint64(self.space.start_pfn)) << np.uint64(6)
        ) + np.uint64(self.space.vmemmap)
        area = VmStruct(self.ram, self.space.pa(struct_va))
        area.addr, area.size, area.flags = va, total, VM_ALLOC
        area.pages, area.nr_pages, area.requested_size = array, pages, size
        self._insert(area)
        if not prot & PTE_W:
            try:
                self._protect_alias(area, va, pages, PAGE_KERNEL_READ)
            except OutOfMemory:
                self.vfree(va)
                return None
        return va

    def _insert(self, area: VmStruct) -> None:
        i = bisect_left(self._starts, area.addr)
        before = self._areas[i] if i < len(self._areas) else None
        head = self.space.va(before.pa) if before else self.vmap_area_list
        self.lists.add_tail(self.space.va(area.pa), head)  # before the next area, or the head
        self._starts.insert(i, area.addr)
        self._areas.insert(i, area)

    def vmalloc(self, size: int, gfp: int = GFP_KERNEL) -> int | None:
        """Writable memory in the vmalloc area: its VA, None without memory."""
        layout = self.space.layout
        return self.vmalloc_range(size, layout.vmalloc_start, layout.vmalloc_end, gfp)

    def vzalloc(self, size: int) -> int | None:
        """vmalloc of zeroed memory."""
        return self.vmalloc(size, GFP_KERNEL | GFP_ZERO)

    def module_alloc(self, size: int) -> int | None:
        """Zeroed writable memory in the modules area, to be made executable by set_memory."""
        return self.vmalloc_range(size, MODULES_VADDR, MODULES_END, GFP_KERNEL | GFP_ZERO)

    def pages_of(self, area: VmStruct) -> list[int]:
        """PFNs of the frames of an area, in order. Raises BadAddress if they are no pages."""
        pointers = self.ram.array(self.space.pa(area.pages), area.nr_pages).tolist()
        return [self.space.page_to_pfn(p) for p in pointers]

    def vfree(self, va: int) -> None:
        """Free what vmalloc gave; 0 is fine. Raises BadFree, nothing changed."""
        if va == 0:
            return
        area = self.find_vm_area(va)
        if area is None or area.addr != va:
            raise BadFree(va, "vfree: no area of vmalloc starts here")
        if area.flags & VM_FLUSH_RESET_PERMS:
            self._protect_alias(area, va, area.nr_pages, PAGE_KERNEL)
        runs = self.pgtable.unmap_range(self.init_mm, va, area.size - PAGE_SIZE)
        i = bisect_left(self._starts, va)
        del self._starts[i], self._areas[i]
        self.lists.delete(self.space.va(area.pa))
        self.buddy.free_page_runs(runs)
        self.kmalloc.kfree(area.pages)
        self.cache.free(self.space.va(area.pa))

    def set_memory(self, va: int, size: int, prot: int) -> None:
        """Give pages of one area the permissions ``prot`` (set_memory_ro, _rox, _rw).

        Their direct-map aliases become read-only, or writable again, to match. Raises
        VmaError when the range is not inside of one area, ValueError for a bad
        protection, OutOfMemory when a split of the direct map has no table: then the range
        is as it was, though some of its aliases may be read-only until vfree.
        """
        if va % PAGE_SIZE or size <= 0:
            raise ValueError(f"set_memory of {size} bytes at {va:#x}: not whole pages")
        self.pgtable.check_prot(self.init_mm, prot)
        size = -(-size // PAGE_SIZE) * PAGE_SIZE
        area = self.find_vm_area(va)
        if area is None or va + size > area.addr + area.size - PAGE_SIZE:
            raise VmaError(f"set_memory: {va:#x}-{va + size:#x} is not inside of one area")
        pages = size >> PAGE_SHIFT
        if prot & PTE_W:
            # Off with X before W appears anywhere: at no instant may both be there.
            self.pgtable.protect_range(self.init_mm, va, size, prot)
            self._protect_alias(area, va, pages, PAGE_KERNEL)
        else:
            self._protect_alias(area, va, pages, PAGE_KERNEL_READ)
            self.pgtable.protect_range(self.init_mm, va, size, prot)

    def _protect_alias(self, area: VmStruct, va: int, pages: int, prot: int) -> None:
        """Set the direct map's permissions of ``pages`` frames of the area from ``va`` on."""
        assert not prot & PTE_X
        first = (va - area.addr) >> PAGE_SHIFT
        if not prot & PTE_W:
            area.flags |= VM_FLUSH_RESET_PERMS
        for pfn, count in runs_of(self.pages_of(area)[first : first + pages]):
            self.pgtable.protect_range(
                self.init_mm, self.space.pfn_to_virt(pfn), count << PAGE_SHIFT, prot
            )
