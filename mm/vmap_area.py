"""The areas of the kernel's virtual address space: which there are, where one fits, and the lazy
way in which their addresses come free (see vmalloc.py).

For lookups Python keeps a GapTree of all areas, lazy ones too: built from the list when the
kernel is attached.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from emu.ram import PAGE_SHIFT, PAGE_SIZE
from mm.errors import CorruptionError
from mm.gaptree import GapTree, Node
from mm.gfp import (
    GFP_KERNEL,
    GFP_ZERO,
)
from mm.layout import IntArray
from mm.page import PAGE_WORDS
from mm.pgtable import PageTables, runs_of
from mm.slab import KmemCache
from mm.vm_struct import MAX_AREAS, PMD_SIZE, VM_LAZY_FREE, VmStruct

_PURGE = VmStruct.offset_of("purge_list")


def lazy_max_pages(nr_cpus: int = 1) -> int:
    """Lazily freed pages that may pile up before a purge (Linux's lazy_max_pages)."""
    return nr_cpus.bit_length() * (32 << 20) // PAGE_SIZE


class VmapAreas:
    """The areas of one kernel.

    ``cache``: what vm_structs are from; ``vmap_area_list`` and ``purge_list`` are the VAs of the
    heads of the lists of areas and of lazily freed areas, ``lazy_nr`` the word of RAM that
    counts the pages of the latter.
    """

    def __init__(
        self,
        pgtable: PageTables,
        cache: KmemCache,
        vmap_area_list: int,
        purge_list: int,
        lazy_nr: IntArray,
    ) -> None:
        self.space = pgtable.space
        self.ram = pgtable.ram
        self.pgtable = pgtable
        self.lists = pgtable.lists
        self.cache = cache
        self.vmap_area_list = vmap_area_list
        self.purge_list = purge_list
        self._lazy_nr = lazy_nr
        self._tree: GapTree[VmStruct | None] = GapTree(None, PAGE_SIZE)  # derived
        for link in self.lists.walk(vmap_area_list, MAX_AREAS):
            area = VmStruct.at(self.space, link)
            try:
                self._tree.insert(area.addr, area.addr + area.size, area)
            except ValueError as e:
                raise CorruptionError("vm_struct", link, f"it overlaps another: {e}") from e

    # looking

    @property
    def areas(self) -> list[VmStruct]:
        """The areas in use, by address."""
        return [a for a in self.all_areas() if not a.flags & VM_LAZY_FREE]

    def all_areas(self) -> list[VmStruct]:
        """The areas by address, those that wait for a purge among them."""
        return [self._area(node) for node in self._tree if node.item is not None]

    def _area(self, node: Node[VmStruct | None]) -> VmStruct:
        """The area of a node of the tree. Raises CorruptionError when it has moved since."""
        area = node.item
        assert area is not None  # only the sentinel has none
        area.trust(self.space)
        if area.addr != node.start or area.size != node.end - node.start:
            raise CorruptionError(
                area.C_NAME,
                self.space.va(area.pa),
                f"addr {area.addr:#x}, size {area.size:#x}: it was made at "
                f"{node.start:#x}, of {node.end - node.start:#x} bytes",
            )
        return area

    def lazy_areas(self) -> list[VmStruct]:
        """The areas that wait for a purge, in the order in which they were freed."""
        return [
            VmStruct.at(self.space, link - _PURGE)
            for link in self.lists.walk(self.purge_list, MAX_AREAS)
        ]

    @property
    def lazy_pages(self) -> int:
        """Pages of address space, guard pages included, that wait for a purge."""
        return self._lazy_nr[0]

    def nr_pages(self) -> int:
        """Frames that vmalloc holds (vmalloc_nr_pages)."""
        return sum(area.nr_pages for area in self.areas)

    def find_vm_area(self, va: int) -> VmStruct | None:
        """The area whose pages (not guard page) contain ``va``; log time."""
        node = self._tree.at_or_below(va)
        if node is None or va >= node.end - PAGE_SIZE:
            return None
        area = self._area(node)
        return None if area.flags & VM_LAZY_FREE else area

    def find_area_or_guard(self, va: int) -> VmStruct | None:
        """As find_vm_area, but guard pages and areas that wait for a purge count too."""
        node = self._tree.at_or_below(va)
        return self._area(node) if node is not None and va < node.end else None

    def array_runs(self, area: VmStruct) -> list[tuple[int, int]]:
        """Where the area's page array lies: ``(PA, words)``. Raises CorruptionError."""
        count = area.nr_pages
        if not count:
            return []
        if self.space.page_offset <= area.pages < self.space.direct_end:
            if area.pages + 8 * count > self.space.direct_end:
                raise CorruptionError(
                    area.C_NAME, self.space.va(area.pa), f"nr_pages {count} of pages is too many"
                )
            return [(self.space.pa(area.pages), count)]
        holder = self.find_vm_area(area.pages)
        if holder is None or holder.addr != area.pages or holder.nr_pages * 512 < count:
            raise CorruptionError(
                area.C_NAME,
                self.space.va(area.pa),
                f"pages {area.pages:#x} is no array of {count} pages",
            )
        pieces = []
        for pfn, n in runs_of(self.pfns_of(holder)):
            words = min(count, n << PAGE_SHIFT - 3)
            pieces.append((pfn << PAGE_SHIFT, words))
            count -= words
            if not count:
                break
        return pieces

    def pfns_of(self, area: VmStruct) -> npt.NDArray[Any]:
        """pages_of, as an array."""
        pieces = [self.ram.array(pa, words) for pa, words in self.array_runs(area)]
        if not pieces:
            return np.zeros(0, np.int64)
        pointers = np.concatenate(pieces) - np.uint64(self.space.vmemmap)
        bad = (pointers >= np.uint64(self.space.vmemmap_end - self.space.vmemmap)) | (
            (pointers & np.uint64(8 * PAGE_WORDS - 1)) != 0
        )
        if bad.any():
            va = int(pointers[int(bad.argmax())]) + self.space.vmemmap & (1 << 64) - 1
            raise CorruptionError(
                area.C_NAME,
                self.space.va(area.pa),
                f"pages[{int(bad.argmax())}] {va:#x} is no struct page",
            )
        return (pointers >> np.uint64(6)).astype(np.int64) + self.space.start_pfn

    def pages_of(self, area: VmStruct) -> list[int]:
        """PFNs of the frames of an area, in order. Raises CorruptionError if they are no pages."""
        pfns: list[int] = self.pfns_of(area).tolist()
        return pfns

    # address space

    def get_vm_area(
        self, size: int, align: int, start: int, end: int, flags: int, caller: str
    ) -> VmStruct | None:
        """An area of ``size`` bytes and its guard page at the lowest address that fits
        (_get_vm_area_node). None without addresses or memory, even after a purge."""
        struct_va = self.cache.alloc(GFP_KERNEL | GFP_ZERO)
        if struct_va is None and self.purge():
            struct_va = self.cache.alloc(GFP_KERNEL | GFP_ZERO)
        if struct_va is None:
            return None
        va = self._tree.lowest_fit(size + PAGE_SIZE, start, end, align)
        if va is None and self.purge():
            va = self._tree.lowest_fit(size + PAGE_SIZE, start, end, align)
        if va is None:
            self.cache.free(struct_va)
            return None
        area = VmStruct(self.ram, self.space.pa(struct_va))
        area.addr, area.size, area.flags, area.caller = va, size + PAGE_SIZE, flags, caller
        node = self._tree.insert(va, va + size + PAGE_SIZE, area)
        above = self._tree.at_or_above(node.end)
        next_ = above.item
        head = self.vmap_area_list if next_ is None else self.space.va(next_.pa)
        self.lists.add_tail(struct_va, head)  # before the next area, or the head
        return area

    def forget(self, area: VmStruct) -> None:
        """Free an area's addresses and struct. No TLB may know anything of it."""
        node = self._tree.at_or_below(area.addr)
        if node is None or node.item != area:
            raise CorruptionError(
                area.C_NAME, self.space.va(area.pa), f"addr {area.addr:#x}: it was made elsewhere"
            )
        self._tree.remove(node)
        struct_va = self.space.va(area.pa)
        self.lists.delete(struct_va)
        self.cache.free(struct_va)

    def make_lazy(self, area: VmStruct) -> None:
        """The area has no PTEs and no frames any more: it waits for the next purge."""
        area.pages = area.nr_pages = 0
        area.flags |= VM_LAZY_FREE
        self.lists.add_tail(self.space.va(area.pa) + _PURGE, self.purge_list)
        self._lazy_nr[0] += area.size >> PAGE_SHIFT

    def purge(self) -> int:
        """Flush once for all lazily freed areas and free what they kept (their addresses,
        structs and page tables); the number of pages of address space that came free."""
        areas = self.lazy_areas()
        if not areas:
            return 0
        span = PMD_SIZE
        merged: list[list[int]] = []
        for start, size in sorted((a.addr, a.size) for a in areas):
            low, high = start // span * span, -(-(start + size) // span) * span
            if merged and low <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], high)
            else:
                merged.append([low, high])
        tables: list[int] = []
        for low, high in merged:
            tables += self.pgtable.unlink_empty_tables(low, high)
        self.pgtable.hart.flush_tlb_all()
        self.pgtable.free_tables(tables)
        for area in areas:
            self.lists.delete(self.space.va(area.pa) + _PURGE)
            self.forget(area)
        pages, self._lazy_nr[0] = self._lazy_nr[0], 0
        return pages
