"""Address spaces: ``mm_struct``, and the ``vm_area_struct``s that say what is mapped where.

Both lie in RAM, from caches of their own: every mm on the mm list, every VMA on its mm's
list, by address. For lookup Python keeps, for each mm, the sorted start addresses; that
index is rebuilt from the list when it is not there. Memory is allocated when it is mapped:
a VMA's frames are all there, or the VMA is not.

Source: Linux mm/mmap.c, kernel/fork.c (mm_alloc, exit_mmap). VAs and sizes in bytes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise

from emu.ram import PAGE_SHIFT, PAGE_SIZE
from emu.spec.paging import SATP_ASID_MASK
from mm.addrspace import Space
from mm.errors import CorruptionError, OutOfMemory, VmaError
from mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_ZERO
from mm.layout import IntArray, ListHead, Struct, chars, nested, ptr, u64
from mm.page_alloc import PageAllocator
from mm.pgtable import (
    MAX_MMS,
    PAGE_EXEC,
    PAGE_EXEC_ONLY,
    PAGE_READ,
    PAGE_WRITE,
    MmStruct,
    PageTables,
)
from mm.slab import KmemCache

VM_READ = 0x1
VM_WRITE = 0x2
VM_EXEC = 0x4
VM_GROWSDOWN = 0x100
_VM_ACCESS = VM_READ | VM_WRITE | VM_EXEC
MAX_MAP_COUNT = 65530  # sysctl_max_map_count
STACK_GUARD_GAP = 256 * PAGE_SIZE

_VMAS = MmStruct.offset_of("mmap")
_LINK = 0  # vm_area_struct.list


class VmArea(Struct, c_name="vm_area_struct"):
    """``[vm_start, vm_end)`` of one address space, with one set of permissions."""

    list = nested(ListHead)
    vm_start = u64()
    vm_end = u64()
    vm_mm = ptr("struct mm_struct")
    vm_flags = u64()
    vm_page_prot = u64()
    vm_pgoff = u64()
    name = chars(32)

    def problem(self, space: Space) -> str | None:
        start, end = self.vm_start, self.vm_end
        if not start < end <= space.layout.task_size or (start | end) & (PAGE_SIZE - 1):
            return f"vm_start {start:#x}, vm_end {end:#x}: one or more whole pages of user space"
        try:
            vm_get_page_prot(self.vm_flags)
        except ValueError as e:
            return f"vm_flags {self.vm_flags:#x}: {e}"
        return None


def vm_get_page_prot(vm_flags: int) -> int:
    """The PTE permissions of VM_READ, VM_WRITE, VM_EXEC (riscv's protection_map).

    Raises ValueError for W and X together, and for no access at all.
    """
    access = vm_flags & _VM_ACCESS
    if access & VM_WRITE:
        if access & VM_EXEC:
            raise ValueError("W^X: a mapping is writable or executable, not both")
        return PAGE_WRITE
    if access & VM_EXEC:
        return PAGE_EXEC if access & VM_READ else PAGE_EXEC_ONLY
    if access & VM_READ:
        return PAGE_READ
    raise ValueError("a mapping without any access needs no memory")


def _alike(low: VmArea, high: VmArea) -> bool:
    """Whether two VMAs that touch could be one (is_mergeable_vma)."""
    pages = (low.vm_end - low.vm_start) >> PAGE_SHIFT
    return (
        low.vm_flags == high.vm_flags
        and low.vm_pgoff + pages == high.vm_pgoff
        and low.name == high.name
    )


@dataclass
class _Index:
    starts: list[int]
    vmas: list[VmArea]


class AddressSpaces:
    """All address spaces of a kernel; ``mmlist`` is the VA of the head of their list.

    ``asid_next``: a word of RAM that remembers where the search for a free ASID starts.
    """

    def __init__(
        self,
        page_alloc: PageAllocator,
        pgtable: PageTables,
        mm_cache: KmemCache,
        vma_cache: KmemCache,
        mmlist: int,
        asid_next: IntArray,
    ) -> None:
        self.space = pgtable.space
        self.ram = pgtable.ram
        self.lists = pgtable.lists
        self.page_alloc = page_alloc
        self.pgtable = pgtable
        self.hart = pgtable.hart
        self.mm_cache = mm_cache
        self.vma_cache = vma_cache
        self.mmlist = mmlist
        self._asid_next = asid_next
        self._index: dict[int, _Index] = {}  # derived, by PA of the mm
        self._asids: set[int] | None = None  # derived

    # address spaces

    def mms(self) -> list[MmStruct]:
        """All address spaces but the kernel's own, oldest first."""
        found = [MmStruct.at(self.space, x) for x in self.lists.walk(self.mmlist, MAX_MMS)]
        if self.pgtable.init_mm in found:
            raise CorruptionError("mm_struct", self.mmlist, "mmlist: init_mm is on it")
        return found

    def _used_asids(self) -> set[int]:
        """The ASIDs that are given out: read off the mm list once, then kept up to date, so
        that one more address space costs the same however many there are."""
        if self._asids is None:
            self._asids = {mm.asid for mm in self.mms()}
        return self._asids

    def _alloc_asid(self) -> int:
        """A free ASID, 1 to 65535, taken in turn; 0 is the kernel's. OutOfMemory: all taken."""
        used = self._used_asids()
        asid = self._asid_next[0] or 1
        for _ in range(SATP_ASID_MASK):
            if asid not in used:
                used.add(asid)
                self._asid_next[0] = asid % SATP_ASID_MASK + 1
                return asid
            asid = asid % SATP_ASID_MASK + 1
        raise OutOfMemory("every ASID is taken")

    def mm_alloc(self) -> MmStruct:
        """An empty address space with a root table and an ASID. Raises OutOfMemory."""
        va = self.mm_cache.alloc(GFP_KERNEL | GFP_ZERO)
        if va is None:
            raise OutOfMemory("no memory for an mm_struct")
        mm = MmStruct(self.ram, self.space.pa(va))
        try:
            mm.asid = self._alloc_asid()
            self.pgtable.pgd_alloc(mm)
        except OutOfMemory:
            self._used_asids().discard(mm.asid)
            self.mm_cache.free(va)
            raise
        self.lists.init(va + _VMAS)
        mm.mm_users = 1
        mm.task_size = self.space.layout.task_size
        self.lists.add_tail(va, self.mmlist)
        return mm

    def exit_mmap(self, mm: MmStruct) -> None:
        """Unmap everything of ``mm`` and free its frames; the mm itself stays."""
        for vma in list(self._load(mm).vmas):
            self._remove(mm, vma)

    def mmdrop(self, mm: MmStruct) -> None:
        """End an address space: its mappings, tables, ASID and struct."""
        va = self.space.va(mm.pa)
        self.exit_mmap(mm)
        self.lists.delete(va)
        # The ASID may be given out again: nothing of it may survive in a TLB.
        self.hart.flush_tlb_mm(mm.asid)
        self.pgtable.pgd_free(mm)
        self._index.pop(mm.pa, None)
        self._used_asids().discard(mm.asid)
        self.mm_cache.free(va)

    # VMAs

    def _load(self, mm: MmStruct) -> _Index:
        index = self._index.get(mm.pa)
        if index is None:
            head = self.space.va(mm.pa) + _VMAS
            vmas = [VmArea.at(self.space, link) for link in self.lists.walk(head, MAX_MAP_COUNT)]
            for low, high in pairwise(vmas):
                if low.vm_end > high.vm_start:
                    raise self._misplaced(high)
            index = self._index[mm.pa] = _Index([v.vm_start for v in vmas], vmas)
        return index

    def vmas(self, mm: MmStruct) -> list[VmArea]:
        """The VMAs of ``mm`` by address. Raises CorruptionError."""
        return [vma.trust(self.space) for vma in self._load(mm).vmas]

    def _place(self, index: _Index, vma: VmArea) -> int:
        """Where in the index a VMA is. Raises CorruptionError for one that has moved."""
        i = bisect_left(index.starts, vma.trust(self.space).vm_start)
        if i == len(index.vmas) or index.vmas[i] != vma:
            raise self._misplaced(vma)
        if i + 1 < len(index.starts) and vma.vm_end > index.starts[i + 1]:
            raise self._misplaced(vma)
        return i

    def _misplaced(self, vma: VmArea) -> CorruptionError:
        return CorruptionError(
            vma.C_NAME,
            self.space.va(vma.pa),
            f"vm_start {vma.vm_start:#x}, vm_end {vma.vm_end:#x}: it is not between its neighbours",
        )

    def find_vma(self, mm: MmStruct, va: int) -> VmArea | None:
        """The first VMA that ends above ``va`` (Linux's find_vma): it may start above it too."""
        index = self._load(mm)
        i = max(0, bisect_right(index.starts, va) - 1)
        for vma in index.vmas[i : i + 2]:
            self._place(index, vma)
            if va < vma.vm_end:
                return vma
        return None

    def vma_lookup(self, mm: MmStruct, va: int) -> VmArea | None:
        """The VMA that contains ``va``."""
        vma = self.find_vma(mm, va)
        return vma if vma is not None and vma.vm_start <= va else None

    def mmap_region(
        self, mm: MmStruct, start: int, size: int, vm_flags: int, name: str = ""
    ) -> VmArea:
        """Map zeroed memory at ``[start, start + size)``: a VMA, its frames, its PTEs.

        ``name`` is what maps shows ("[heap]", a file). The VMA that holds the range: neighbours
        with the same access and name become one with it (vma_merge). Raises VmaError when it
        overlaps a VMA or there are too many, OutOfMemory (nothing changed), ValueError for a
        range outside of user space, a bad alignment or W with X.
        """
        prot = vm_get_page_prot(vm_flags)
        end = self.pgtable.check_range(mm, start, size)
        index = self._load(mm)
        i = bisect_left(index.starts, start)
        for near in index.vmas[max(i - 1, 0) : i + 1]:
            self._place(index, near)
        if (i and index.vmas[i - 1].vm_end > start) or (
            i < len(index.starts) and index.starts[i] < end
        ):
            raise VmaError(f"{start:#x}-{end:#x} overlaps a mapping")
        if mm.map_count >= MAX_MAP_COUNT:
            raise VmaError(f"more than {MAX_MAP_COUNT} mappings")
        pages = size >> PAGE_SHIFT
        if pages > sum(zone.managed_pages for zone in self.page_alloc.zones):
            raise OutOfMemory(f"no {pages} frames for {start:#x}-{end:#x}")
        va = self.vma_cache.alloc(GFP_KERNEL | GFP_ZERO)
        gfp = GFP_HIGHUSER_MOVABLE | GFP_ZERO
        runs = self.page_alloc.alloc_page_runs(gfp, pages) if va else None
        try:
            if va is None or runs is None:
                raise OutOfMemory(f"no {pages} frames for {start:#x}-{end:#x}")
            self.pgtable.map_runs(mm, start, runs, prot)
        except Exception:
            if runs is not None:
                self.page_alloc.free_page_runs(runs)
            if va is not None:
                self.vma_cache.free(va)
            raise
        vma = VmArea(self.ram, self.space.pa(va))
        vma.vm_start, vma.vm_end, vma.vm_flags = start, end, vm_flags
        vma.vm_mm = self.space.va(mm.pa)
        vma.vm_page_prot = prot
        vma.vm_pgoff = start >> PAGE_SHIFT
        vma.name = name
        self._insert(mm, vma)
        mm.total_vm += pages
        self._merge(mm, start, end)
        return self._load(mm).vmas[bisect_right(index.starts, start) - 1]

    def _insert(self, mm: MmStruct, vma: VmArea) -> None:
        index = self._load(mm)
        i = bisect_left(index.starts, vma.vm_start)
        after = (
            self.space.va(index.vmas[i].pa) if i < len(index.vmas) else self.space.va(mm.pa) + _VMAS
        )
        self.lists.add_tail(self.space.va(vma.pa), after)
        index.starts.insert(i, vma.vm_start)
        index.vmas.insert(i, vma)
        mm.map_count += 1

    def _remove(self, mm: MmStruct, vma: VmArea) -> None:
        """Unmap a whole VMA, free its frames and its struct."""
        i = self._place(self._load(mm), vma)
        size = vma.vm_end - vma.vm_start
        self.page_alloc.free_page_runs(self.pgtable.unmap_range(mm, vma.vm_start, size))
        index = self._load(mm)
        del index.starts[i], index.vmas[i]
        self._free_vma(mm, vma)
        mm.total_vm -= size >> PAGE_SHIFT

    def _split(self, mm: MmStruct, vma: VmArea, at: int) -> VmArea:
        """split_vma: cut at ``at``; the upper part. Raises OutOfMemory."""
        va = self.vma_cache.alloc(GFP_KERNEL | GFP_ZERO)
        if va is None:
            raise OutOfMemory("no memory for a vm_area_struct")
        upper = VmArea(self.ram, self.space.pa(va))
        self.ram.write(upper.pa, self.ram.read(vma.pa, VmArea.SIZE))
        upper.vm_start = at
        upper.vm_pgoff = vma.vm_pgoff + ((at - vma.vm_start) >> PAGE_SHIFT)
        vma.vm_end = at
        self._insert(mm, upper)
        return upper

    def _merge(self, mm: MmStruct, start: int, end: int) -> None:
        """vma_merge: make one of alike neighbours, for every border in ``[start, end]``."""
        index = self._load(mm)
        first = max(bisect_left(index.starts, start), 1)
        for i in reversed(range(first, bisect_right(index.starts, end))):
            low, high = index.vmas[i - 1], index.vmas[i]
            if low.vm_end != high.vm_start or not _alike(low, high):
                continue
            low.vm_end = high.vm_end
            del index.starts[i], index.vmas[i]
            self._free_vma(mm, high)

    def _free_vma(self, mm: MmStruct, vma: VmArea) -> None:
        """Off the list, and its struct back to the cache; the index is the caller's."""
        self.lists.delete(self.space.va(vma.pa))
        self.vma_cache.free(self.space.va(vma.pa))
        mm.map_count -= 1

    def _isolate(self, mm: MmStruct, start: int, end: int) -> list[VmArea]:
        """The VMAs that make up what is mapped in ``[start, end)``, cut to that range; all or
        none are cut (OutOfMemory)."""
        try:
            for edge in (start, end):
                vma = self.vma_lookup(mm, edge)
                if vma is not None and vma.vm_start < edge:
                    self._split(mm, vma, edge)
        except OutOfMemory:
            self._merge(mm, start, start)
            raise
        index = self._load(mm)
        low, high = bisect_left(index.starts, start), bisect_left(index.starts, end)
        return index.vmas[low:high]

    def munmap(self, mm: MmStruct, start: int, size: int) -> None:
        """Unmap ``[start, start + size)``; holes in it do not matter. Frames are freed.

        Raises ValueError for a bad range, OutOfMemory when a VMA cannot be cut in two.
        """
        end = self.pgtable.check_range(mm, start, size)
        for vma in self._isolate(mm, start, end):
            self._remove(mm, vma)

    def mprotect(self, mm: MmStruct, start: int, size: int, vm_flags: int) -> None:
        """Change the access of ``[start, start + size)``, all of which must be mapped.

        VMAs are cut where access changes, and merged where it no longer does. Raises VmaError
        for a hole, ValueError for a bad range or W with X, OutOfMemory.
        """
        prot = vm_get_page_prot(vm_flags)
        end = self.pgtable.check_range(mm, start, size)
        at = start
        while at < end:
            vma = self.vma_lookup(mm, at)
            if vma is None:
                raise VmaError(f"mprotect: {at:#x} is not mapped")
            at = vma.vm_end
        parts = self._isolate(mm, start, end)
        self.pgtable.protect_range(mm, start, size, prot)
        for vma in parts:
            vma.vm_flags = vma.vm_flags & ~_VM_ACCESS | vm_flags & _VM_ACCESS
            vma.vm_page_prot = prot
        self._merge(mm, start, end)
