"""vmalloc: memory that is contiguous in the kernel's VAs and scattered in RAM.

An area is a ``vm_struct`` in RAM, on a list by address headed in vmcoreinfo. Its frames are
recorded in an array of struct page pointers (kmalloc'ed, above one page vmalloc'ed: an area
of its own) and mapped by the tables of init_mm. Areas lie at the lowest address that fits,
each followed by one guard page, which is part of ``size`` as in Linux. The modules area is
served the same way.

    vmalloc_start                                                          vmalloc_end
    +--------------+---+- - - - - - - - - - +---+--------------------+---+----------- -
    | VM_ALLOC     | g | VM_LAZY_FREE       | g | VM_MAP (vmap)      | g | free
    +--------------+---+- - - - - - - - - - +---+--------------------+---+----------- -
      frames, array     no PTE, no frame;        the caller's frames
                        TLBs may still know it

**Lazy unmapping.** vfree clears the PTEs and frees the frames, but flushes nothing: the area
goes on the purge list and its addresses stay taken. Once more than lazy_max_pages() are
there, or addresses or frames run out, or on vm_unmap_aliases(), all are purged with one
flush_tlb_all, and only then their addresses, empty page tables and structs are free again.
Until then a stale translation may reach a frame that has a new owner, as in Linux: whoever
uses memory after vfree gets what he deserves. Areas that ever had other permissions than
read-write (VM_FLUSH_RESET_PERMS) are purged at once, before their frames are freed.

**Huge mappings.** vmalloc_huge takes 2 MiB blocks and maps each with one leaf; when there
are no such blocks it falls back to single frames.

**Permissions.** Making an area read-only or executable (``set_memory``) also makes its
frames read-only in the direct map, so that no frame is writable at one address and
executable at another; vfree gives the frames their direct-map permissions back.

Which areas there are: vmap_area.py. Source: Linux mm/vmalloc.c, arch/riscv/mm/pageattr.c. Sizes
and VAs in bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from emu.ram import PAGE_SHIFT, PAGE_SIZE
from emu.spec.paging import PTE_W, PTE_X
from mm.addrspace import MODULES_END, MODULES_VADDR
from mm.errors import BadFree, OutOfMemory, VmaError
from mm.gfp import __GFP_NOWARN as GFP_NOWARN
from mm.gfp import (
    GFP_DMA,
    GFP_DMA32,
    GFP_HIGHMEM,
    GFP_KERNEL,
    GFP_NOFAIL,
    GFP_ZERO,
)
from mm.kmalloc import Kmalloc
from mm.page_alloc import PageAllocator
from mm.pgtable import PAGE_KERNEL, PAGE_KERNEL_READ, MmStruct, Runs, runs_of
from mm.vm_struct import (
    PMD_ORDER,
    PMD_SIZE,
    VM_ALLOC,
    VM_ALLOW_HUGE_VMAP,
    VM_FLUSH_RESET_PERMS,
    VM_MAP,
    VM_MAP_PUT_PAGES,
    VM_UNINITIALIZED,
    VmStruct,
)
from mm.vmap_area import VmapAreas, lazy_max_pages


def _caller() -> str:
    """The function that called the function that asks (Linux: __builtin_return_address)."""
    return sys._getframe(2).f_code.co_qualname.rpartition("<locals>.")[2]


class Vmalloc:
    """vmalloc, vmap and their like in the ``areas`` of one kernel."""

    def __init__(self, areas: VmapAreas, page_alloc: PageAllocator, kmalloc: Kmalloc) -> None:
        self.vmap_areas = areas
        self.space = areas.space
        self.ram = areas.ram
        self.pgtable = areas.pgtable
        self.init_mm: MmStruct = areas.pgtable.init_mm
        self.page_alloc = page_alloc
        self.kmalloc = kmalloc
        self.vmap_area_list = areas.vmap_area_list
        self.purge_list = areas.purge_list
        self.lazy_max = lazy_max_pages()
        self._mapping = False
        self.all_areas = areas.all_areas
        self.lazy_areas = areas.lazy_areas
        self.nr_pages = areas.nr_pages
        self.find_vm_area = areas.find_vm_area
        self.find_area_or_guard = areas.find_area_or_guard
        self.pages_of = areas.pages_of
        self.purge = areas.purge

    @property
    def areas(self) -> list[VmStruct]:
        """The areas in use, by address."""
        return self.vmap_areas.areas

    @property
    def lazy_pages(self) -> int:
        """Pages of address space, guard pages included, that wait for a purge."""
        return self.vmap_areas.lazy_pages

    def shrink(self) -> int:
        """A shrinker: purge; the pages (of page tables, of slabs) that came free by it.

        While an area is being mapped nothing is purged: its tables are planned already.
        """
        if self._mapping:
            return 0
        before = self.page_alloc.nr_free_pages() + self.page_alloc.nr_pcp_pages()
        self.purge()
        return max(self.page_alloc.nr_free_pages() + self.page_alloc.nr_pcp_pages() - before, 0)

    def vm_unmap_aliases(self) -> None:
        """After this no TLB knows a translation that vfree or vunmap has taken away."""
        self.purge()

    # making areas

    def vmalloc_range(
        self,
        size: int,
        start: int,
        end: int,
        gfp: int = GFP_KERNEL,
        prot: int = PAGE_KERNEL,
        flags: int = 0,
        caller: str | None = None,
    ) -> int | None:
        """``size`` bytes, rounded up to pages, somewhere in ``[start, end)``: their VA.

        The guard page must fit too. ``flags``: VM_ALLOW_HUGE_VMAP rounds sizes from 2 MiB
        on up to 2 MiB and maps such pages, if there are any. ``caller`` is what vmallocinfo
        shows (default: the calling function). None without memory or without addresses, for
        __GFP_NOFAIL OutOfMemory. Raises ValueError for a size of 0 or a bad protection,
        GfpError. Linux: __vmalloc_node_range.
        """
        if size <= 0:
            raise ValueError(f"vmalloc of {size} bytes")
        self.pgtable.check_prot(self.init_mm, prot)
        caller = caller or _caller()
        va = None
        if -(-size // PAGE_SIZE) <= sum(zone.managed_pages for zone in self.page_alloc.zones):
            va = self._vmalloc_any_order(size, start, end, gfp, prot, flags, caller)
        if va is None and gfp & GFP_NOFAIL:
            raise OutOfMemory(f"__GFP_NOFAIL of vmalloc, {size} bytes: they are not there")
        return va

    def _vmalloc_any_order(
        self, size: int, start: int, end: int, gfp: int, prot: int, flags: int, caller: str
    ) -> int | None:
        if not gfp & (GFP_DMA | GFP_DMA32):
            gfp |= GFP_HIGHMEM
        if flags & VM_ALLOW_HUGE_VMAP and size >= PMD_SIZE and prot == PAGE_KERNEL:
            va = self._vmalloc_order(size, PMD_ORDER, start, end, gfp, prot, flags, caller)
            if va is not None:
                return va
        va = self._vmalloc_order(size, 0, start, end, gfp, prot, flags, caller)
        if va is None and self.purge():  # its page tables may be what is missing
            va = self._vmalloc_order(size, 0, start, end, gfp, prot, flags, caller)
        return va

    def _vmalloc_order(
        self,
        size: int,
        order: int,
        start: int,
        end: int,
        gfp: int,
        prot: int,
        flags: int,
        caller: str,
    ) -> int | None:
        """vmalloc_range with blocks of one order; None, nothing changed, if it cannot be."""
        block = PAGE_SIZE << order
        total = -(-size // block) * block
        area = self.vmap_areas.get_vm_area(
            total, block, start, end, VM_ALLOC | VM_UNINITIALIZED | flags, caller
        )
        if area is None:
            return None
        area.requested_size = size
        area.page_order = order
        runs: Runs | None = None
        array: int | None = None
        try:
            array = self._alloc_array(total >> PAGE_SHIFT, gfp, caller)
            if array is not None:
                runs = self._alloc_frames(total >> PAGE_SHIFT, order, gfp)
            if array is None or runs is None:
                raise OutOfMemory("vmalloc")
            area.pages, area.nr_pages = array, total >> PAGE_SHIFT
            self._fill_array(area, runs)
            if not prot & PTE_W:
                self._protect_alias(area, area.addr, area.nr_pages, PAGE_KERNEL_READ)
            self._map(area.addr, runs, order, prot)
        except BaseException as e:
            if area.flags & VM_FLUSH_RESET_PERMS:
                self._protect_alias(area, area.addr, area.nr_pages, PAGE_KERNEL)
            area.pages = area.nr_pages = 0
            self.vmap_areas.forget(area)
            self.page_alloc.free_page_runs(runs or [])
            if array is not None:
                self._free_array(array)
            if not isinstance(e, OutOfMemory):
                raise
            return None
        area.flags &= ~VM_UNINITIALIZED
        return area.addr

    def _alloc_array(self, pages: int, gfp: int, caller: str) -> int | None:
        """Room for ``pages`` pointers: from kmalloc, or above one page an area of its own."""
        size = 8 * pages
        if size <= PAGE_SIZE:
            return self.kmalloc.kmalloc(size, GFP_KERNEL)
        layout = self.space.layout
        return self.vmalloc_range(
            size, layout.vmalloc_start, layout.vmalloc_end, GFP_KERNEL, caller=caller
        )

    def _free_array(self, va: int) -> None:
        if self.space.page_offset <= va < self.space.direct_end:
            self.kmalloc.kfree(va)
        else:
            self.vfree(va)

    def _alloc_frames(self, pages: int, order: int, gfp: int) -> Runs | None:
        """``pages`` frames, each freeable alone, as runs; None, nothing taken, without."""
        if not order:
            return self.page_alloc.alloc_page_runs(gfp, pages)
        runs: Runs = []
        for _ in range(pages >> order):
            pfn = self.page_alloc.alloc_pages(gfp | GFP_NOWARN, order)
            if pfn is None:
                self.page_alloc.free_page_runs(runs)
                return None
            self.page_alloc.split_page(pfn, order)
            runs.append((pfn, 1 << order))
        return runs

    def _fill_array(self, area: VmStruct, runs: Runs) -> None:
        pfns = np.concatenate([np.arange(p, p + n, dtype=np.uint64) for p, n in runs])
        pointers = ((pfns - np.uint64(self.space.start_pfn)) << np.uint64(6)) + np.uint64(
            self.space.vmemmap
        )
        at = 0
        for pa, words in self.vmap_areas.array_runs(area):
            self.ram.array(pa, words)[:] = pointers[at : at + words]
            at += words

    def _map(self, va: int, runs: Runs, order: int, prot: int) -> None:
        """Map all of ``runs`` from ``va`` on, or nothing (OutOfMemory)."""
        self._mapping = True
        at = va
        try:
            if not order:
                self.pgtable.map_runs(self.init_mm, va, runs, prot)
                return
            for pfn, count in runs:
                size = count << PAGE_SHIFT
                self.pgtable.map_range(self.init_mm, at, pfn << PAGE_SHIFT, size, prot, 1)
                at += size
        except OutOfMemory:
            if at > va:
                self.pgtable.unmap_range(self.init_mm, va, at - va)
            raise
        finally:
            self._mapping = False

    def vmalloc(self, size: int, gfp: int = GFP_KERNEL, caller: str | None = None) -> int | None:
        """Writable memory in the vmalloc area: its VA, None without memory."""
        layout = self.space.layout
        return self.vmalloc_range(
            size, layout.vmalloc_start, layout.vmalloc_end, gfp, caller=caller or _caller()
        )

    def vzalloc(self, size: int, caller: str | None = None) -> int | None:
        """vmalloc of zeroed memory."""
        return self.vmalloc(size, GFP_KERNEL | GFP_ZERO, caller or _caller())

    def vmalloc_huge(
        self, size: int, gfp: int = GFP_KERNEL, caller: str | None = None
    ) -> int | None:
        """vmalloc with 2 MiB pages where ``size`` is at least that; then it is rounded up
        to 2 MiB. Falls back to single frames when there are no free blocks of 2 MiB."""
        layout = self.space.layout
        return self.vmalloc_range(
            size,
            layout.vmalloc_start,
            layout.vmalloc_end,
            gfp,
            flags=VM_ALLOW_HUGE_VMAP,
            caller=caller or _caller(),
        )

    def module_alloc(self, size: int, caller: str | None = None) -> int | None:
        """Zeroed writable memory in the modules area, to be made executable by set_memory."""
        return self.vmalloc_range(
            size,
            MODULES_VADDR,
            MODULES_END,
            GFP_KERNEL | GFP_ZERO,
            caller=caller or _caller(),
        )

    def vmap(
        self,
        pfns: Sequence[int],
        flags: int = VM_MAP,
        prot: int = PAGE_KERNEL,
        caller: str | None = None,
    ) -> int | None:
        """Map frames of the caller's (PFNs, any order, repeats allowed) one after another.

        The VA; None without memory or addresses. With VM_MAP_PUT_PAGES the frames are the
        area's from then on and vfree frees them. Raises ValueError for no frames, a PFN that
        is none of RAM, other flags, or an executable mapping, whose frames would stay
        writable elsewhere (module_alloc and set_memory make code).
        """
        if not len(pfns) or not all(self.space.pfn_valid(pfn) for pfn in pfns):
            raise ValueError("vmap: one or more frames of RAM")
        if flags & ~(VM_MAP | VM_MAP_PUT_PAGES):
            raise ValueError(f"vmap: flags {flags:#x} are not VM_MAP or VM_MAP_PUT_PAGES")
        if prot & PTE_X:
            raise ValueError("W^X: vmap of executable pages that are writable elsewhere")
        self.pgtable.check_prot(self.init_mm, prot)
        caller = caller or _caller()
        layout = self.space.layout
        size = len(pfns) << PAGE_SHIFT
        area = self.vmap_areas.get_vm_area(
            size, PAGE_SIZE, layout.vmalloc_start, layout.vmalloc_end, flags | VM_MAP, caller
        )
        if area is None:
            return None
        array: int | None = None
        try:
            if flags & VM_MAP_PUT_PAGES:
                array = self._alloc_array(len(pfns), GFP_KERNEL, caller)
                if array is None:
                    raise OutOfMemory("vmap")
                area.pages, area.nr_pages = array, len(pfns)
                self._fill_array(area, [(pfn, 1) for pfn in pfns])
            self._map(area.addr, [(pfn, 1) for pfn in pfns], 0, prot)
        except BaseException as e:
            area.pages = area.nr_pages = 0
            self.vmap_areas.forget(area)
            if array is not None:
                self._free_array(array)
            if not isinstance(e, OutOfMemory):
                raise
            return None
        area.requested_size = size
        return area.addr

    # taking them down

    def vfree(self, va: int | None) -> None:
        """Free what vmalloc gave; 0 and None are NULL, and fine. Raises BadFree, nothing changed.

        No flush: see "Lazy unmapping" above.
        """
        if not va:
            return
        area = self.find_vm_area(va)
        if area is None or area.addr != va:
            raise BadFree(va, "vfree: no area of vmalloc starts here")
        if area.flags & VM_MAP and not area.flags & VM_MAP_PUT_PAGES:
            raise BadFree(va, "vfree of an area that vmap made: vunmap takes it down")
        self._remove(area)

    def vunmap(self, va: int | None) -> None:
        """Take down what vmap made; the frames stay the caller's. 0 and None are NULL, and fine.

        Raises BadFree, nothing changed, for any other address.
        """
        if not va:
            return
        area = self.find_vm_area(va)
        if area is None or area.addr != va:
            raise BadFree(va, "vunmap: no area starts here")
        if not area.flags & VM_MAP or area.flags & VM_MAP_PUT_PAGES:
            raise BadFree(va, "vunmap of an area that owns its frames: vfree frees them")
        self._remove(area)

    def _remove(self, area: VmStruct) -> None:
        """Unmap an area, free its frames and their array; its addresses wait for a purge."""
        pfns = self.vmap_areas.pfns_of(area)
        array = area.pages
        self.pgtable.vunmap_range_noflush(area.addr, area.size - PAGE_SIZE)
        if area.flags & VM_FLUSH_RESET_PERMS:  # vm_reset_perms
            # The code is flushed away before its frames are writable anywhere again.
            self.vmap_areas.make_lazy(area)
            self.purge()
            self._protect_frames(pfns, PAGE_KERNEL)
        else:
            self.vmap_areas.make_lazy(area)
        self.page_alloc.free_page_runs(runs_of(np.sort(pfns)))  # long runs are freed faster
        if array:
            self._free_array(array)
        if self.lazy_pages > self.lazy_max:
            self.purge()

    # permissions

    def set_memory(self, va: int, size: int, prot: int) -> None:
        """Give pages of one area the permissions ``prot`` (set_memory_ro, _rox, _rw).

        Their direct-map aliases become read-only, or writable again, to match. Raises
        VmaError when the range is not inside of one area of vmalloc, ValueError for a bad
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
        if not area.nr_pages:
            raise VmaError(f"set_memory: the frames at {va:#x} are not vmalloc's (vmap)")
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
        first = (va - area.addr) >> PAGE_SHIFT
        if not prot & PTE_W:
            area.flags |= VM_FLUSH_RESET_PERMS
        self._protect_frames(self.vmap_areas.pfns_of(area)[first : first + pages], prot)

    def _protect_frames(self, pfns: npt.NDArray[Any], prot: int) -> None:
        assert not prot & PTE_X
        # Frames above the direct map (HighMem) have no alias.
        end_pfn = self.space.start_pfn + (
            (self.space.direct_end - self.space.page_offset) >> PAGE_SHIFT
        )
        for pfn, count in runs_of(pfns[pfns < end_pfn]):
            va = self.space.pfn_to_virt(pfn)
            self.pgtable.protect_range(self.init_mm, va, count << PAGE_SHIFT, prot)
