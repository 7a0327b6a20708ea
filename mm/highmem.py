"""HighMem: frames that the direct map does not show, and the window that shows some.

``kmap`` gives such a frame a page of the window at ``layout.pkmap_base``: 512 pages, one
table. ``struct pkmap`` in RAM counts the users of each: 0 free, 1 mapped but unused, n + 1
used n times. ``kunmap`` only counts; a mapping stays until the search for a free page has
gone round, and then all unused ones are cleared with one flush (flush_all_zero_pkmaps).
A frame that is mapped already keeps its page; which one is read back from the PTEs.

Source: Linux mm/highmem.c. VAs in bytes.
"""

from __future__ import annotations

from emu.ram import PAGE_SHIFT, PAGE_SIZE
from emu.spec.paging import pte_pfn
from mm.addrspace import Space
from mm.errors import BadAddress, OutOfMemory
from mm.page_ext import LAST_PKMAP, PageAllocInfo, Pkmap
from mm.pgtable import PAGE_KERNEL, MmStruct, PageTables


class Highmem:
    """The kmap window of a kernel; without HighMem every frame has its address."""

    def __init__(
        self, space: Space, pgtable: PageTables, init_mm: MmStruct, info: PageAllocInfo
    ) -> None:
        self.space = space
        self.pgtable = pgtable
        self.init_mm = init_mm
        self.base = space.layout.pkmap_base
        self.pkmap = Pkmap(space.ram, info.pkmap_pa) if info.pkmap else None
        self._slots: dict[int, int] = {}  # derived: PFN -> slot
        self._loaded = False

    def _load(self) -> dict[int, int]:
        """The index, from the PTEs of the slots that are in use."""
        if not self._loaded:
            self._loaded = True
            for slot in range(LAST_PKMAP) if self.pkmap else ():
                found = self.slot_pfn(slot)
                if found is not None:
                    self._slots[found] = slot
        return self._slots

    def slot_pfn(self, slot: int) -> int | None:
        """The frame that a slot's PTE maps, None if none."""
        found = self.pgtable.lookup(self.init_mm, self.base + (slot << PAGE_SHIFT))
        return None if found is None else pte_pfn(found[2])

    def is_highmem(self, pfn: int) -> bool:
        """Whether frame ``pfn`` has no address in the direct map."""
        return pfn << PAGE_SHIFT >= self.space.high_memory

    def page_address(self, pfn: int) -> int | None:
        """``page_address``: the VA of a frame, None for HighMem that is not mapped.

        Raises BadAddress if ``pfn`` is no frame of RAM.
        """
        if not self.is_highmem(pfn):
            return self.space.va(pfn << PAGE_SHIFT)
        if not self.space.pfn_valid(pfn):
            raise BadAddress(pfn << PAGE_SHIFT, "not a physical address of RAM")
        slot = self._load().get(pfn)
        return None if slot is None else self.base + (slot << PAGE_SHIFT)

    def in_use(self, pfn: int) -> bool:
        """Whether somebody has kmapped frame ``pfn`` of HighMem."""
        if self.pkmap is None or not self.is_highmem(pfn):
            return False
        slot = self._load().get(pfn)
        return slot is not None and self.pkmap.count[slot] > 1

    def kmap(self, pfn: int) -> int:
        """``kmap``: a VA at which the kernel, guest code too, sees frame ``pfn``.

        Raises BadAddress for no frame of RAM, OutOfMemory when all 512 pages of the window
        are in use (Linux would wait) or a table is missing.
        """
        va = self.page_address(pfn)
        if self.pkmap is None or not self.is_highmem(pfn):
            assert va is not None
            return va
        if va is None:
            slot = self._free_slot()
            va = self.base + (slot << PAGE_SHIFT)
            self.pgtable.map_range(self.init_mm, va, pfn << PAGE_SHIFT, PAGE_SIZE, PAGE_KERNEL)
            self._slots[pfn] = slot
            self.pkmap.count[slot] = 1
        self.pkmap.count[(va - self.base) >> PAGE_SHIFT] += 1
        return va

    def kunmap(self, pfn: int) -> None:
        """``kunmap``: end one kmap of frame ``pfn``. Raises BadAddress if there is none."""
        if self.pkmap is None or not self.is_highmem(pfn):
            return
        slot = self._load().get(pfn)
        if slot is None or self.pkmap.count[slot] < 2:
            raise BadAddress(pfn << PAGE_SHIFT, "kunmap of a frame that is not mapped")
        self.pkmap.count[slot] -= 1

    def flush(self, pfn: int) -> None:
        """Clear the unused mapping of a frame, if it has one."""
        if self.pkmap is not None and (slot := self._load().get(pfn)) is not None:
            assert self.pkmap.count[slot] == 1
            self._clear([slot])

    def _free_slot(self) -> int:
        assert self.pkmap is not None
        for _ in range(LAST_PKMAP):
            slot = (self.pkmap.last_nr + 1) % LAST_PKMAP
            self.pkmap.last_nr = slot
            if not slot:
                self.flush_all_zero_pkmaps()
            if not self.pkmap.count[slot]:
                return slot
        self.flush_all_zero_pkmaps()
        for slot in range(LAST_PKMAP):
            if not self.pkmap.count[slot]:
                self.pkmap.last_nr = slot
                return slot
        raise OutOfMemory(f"kmap: all {LAST_PKMAP} pages of the window are in use")

    def flush_all_zero_pkmaps(self) -> int:
        """Unmap every unused page of the window; how many."""
        if self.pkmap is None:
            return 0
        unused = [slot for slot in range(LAST_PKMAP) if self.pkmap.count[slot] == 1]
        self._clear(unused)
        return len(unused)

    def _clear(self, slots: list[int]) -> None:
        assert self.pkmap is not None
        index = self._load()
        for slot in slots:
            pfn = self.slot_pfn(slot)
            if pfn is not None:
                index.pop(pfn, None)
            self.pgtable.unmap_range(self.init_mm, self.base + (slot << PAGE_SHIFT), PAGE_SIZE)
            self.pkmap.count[slot] = 0
