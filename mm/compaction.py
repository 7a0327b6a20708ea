"""Compaction: make room for a large block by moving pages that can move.

    zone start                                                        zone end
    | migrate scanner ->                                 <- free scanner      |
    | takes allocated pages that can move                takes free frames    |

Two scanners go through the zone pageblock by pageblock and towards each other. The contents
of each movable page that the one finds go to a free frame that the other found; the old
frame comes free and merges with its neighbours. It ends when a free block of the wanted
order is there, or when the scanners meet.

Movable are the pages of user address spaces: single frames with as many references as page
tables that map them, and nothing else about them. Who maps a frame is found by reading the
tables of every address space (the reverse map; struct page does not hold it). Each PTE gets
the new frame, its translation is flushed, and code is told of its new place.

Source: Linux mm/compaction.c (compact_zone, isolate_migratepages_block,
isolate_freepages, compaction_suitable), mm/migrate.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from emu.ram import PAGE_SHIFT, PAGE_SIZE
from emu.spec.paging import PTE_PPN_SHIFT, PTE_X, PTES_PER_TABLE
from mm.fragmentation import extfrag_index
from mm.gfp import MigrateType
from mm.hart import HartOps
from mm.highmem import Highmem
from mm.layout import count_down, count_up
from mm.page import (
    BUDDY_WORD,
    PAGE_TYPE_NONE,
    PAGE_WORDS,
    W_FLAGS,
    W_MAPPING,
    W_OWNER,
    W_PRIVATE,
    W_TYPE_REF,
)
from mm.page_alloc import PageAllocator
from mm.pgtable import MmStruct, PageTables
from mm.vma import AddressSpaces
from mm.zone import (
    PAGE_ALLOC_COSTLY_ORDER,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    WMARK_LOW,
    WMARK_MIN,
    Zone,
)
from mm.zone_index import ZoneIndex

EXTFRAG_THRESHOLD = 500  # sysctl_extfrag_threshold
_PPN_MASK = (1 << 44) - 1
_LOW32 = np.uint64((1 << 32) - 1)
_REASON_MASK = 0xFFFF << 16  # last_migrate_reason in word 7; 0 is MR_COMPACTION


@dataclass
class _Rmap:
    """Who maps the frames of user address spaces: parallel arrays, sorted by PFN."""

    pfns: npt.NDArray[Any]
    vas: npt.NDArray[Any]
    owners: npt.NDArray[Any]  # index into mms
    mms: list[MmStruct]

    def mappers(self, pfn: int) -> list[tuple[MmStruct, int]]:
        """``(mm, va)`` of every mapping of frame ``pfn``."""
        low, high = np.searchsorted(self.pfns, [pfn, pfn + 1]).tolist()
        return [(self.mms[int(self.owners[i])], int(self.vas[i])) for i in range(low, high)]


class Compaction:
    """Compaction of the zones of one kernel."""

    def __init__(
        self,
        page_alloc: PageAllocator,
        pgtable: PageTables,
        spaces: AddressSpaces,
        hart: HartOps,
        highmem: Highmem,
    ) -> None:
        self.page_alloc = page_alloc
        self.buddy = page_alloc.buddy
        self.prep = page_alloc.prep
        self.ram = self.buddy.ram
        self.pgtable = pgtable
        self.spaces = spaces
        self.hart = hart
        self.highmem = highmem

    def compact_zone(self, zone: Zone, order: int) -> bool:
        """Move pages until the zone has a free block of ``order``; whether it has one."""
        buddy = self.buddy
        self.page_alloc.drain_all_pages()
        index = buddy.index_of(zone)
        if self._has_block(index, order):
            return True
        if not self._suitable(zone, order):
            return False
        rmap = self._reverse_map(index)
        targets: list[int] = []
        migrate = index.start & -PAGEBLOCK_NR_PAGES
        free = (index.end - 1) & -PAGEBLOCK_NR_PAGES
        try:
            while migrate < free:
                for pfn in self._isolate_migratepages(index, migrate, rmap):
                    while not targets and free > migrate:
                        self._isolate_freepages(index, free, targets)
                        if not targets:
                            free -= PAGEBLOCK_NR_PAGES
                    if not targets:
                        return self._has_block(index, order)
                    self._migrate(index, pfn, targets.pop(0), rmap)
                if self._has_block(index, order):
                    return True
                migrate += PAGEBLOCK_NR_PAGES
        finally:
            for pfn in targets:
                count_up(buddy.ram.u64, index.free_word, 1, "zone.nr_free_pages")
                buddy.free_one_page(index, pfn, 0, buddy.list_type(pfn))
        return self._has_block(index, order)

    def _has_block(self, zone: ZoneIndex, order: int) -> bool:
        return any(self.buddy.ram.u64[word] for word in zone.area[order:])

    def _suitable(self, zone: Zone, order: int) -> bool:
        """compaction_suitable: enough frames are free, and fragmentation is to blame."""
        costly = order > PAGE_ALLOC_COSTLY_ORDER
        mark = zone._watermark[WMARK_LOW if costly else WMARK_MIN] + (2 << order)
        if zone.nr_free_pages <= mark:
            return False
        return not costly or not 0 <= extfrag_index(zone, order) <= EXTFRAG_THRESHOLD

    # the migrate scanner

    def _reverse_map(self, zone: ZoneIndex) -> _Rmap:
        """All 4 KiB user mappings of frames of the zone, from the page tables."""
        mms = self.spaces.mms()
        pfns, vas, owners = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)], []
        owners.append(np.zeros(0, np.int64))
        for number, mm in enumerate(mms):
            root = self.pgtable.root(mm)
            for at, level, ptes in self.pgtable.leaf_arrays(root, 0, PTES_PER_TABLE // 2 - 1):
                frames = (ptes >> np.uint64(PTE_PPN_SHIFT) & np.uint64(_PPN_MASK)).astype(np.int64)
                inside = (frames >= zone.start) & (frames < zone.end)
                if level or not inside.any():
                    continue
                pfns.append(frames[inside])
                vas.append(at[inside])
                owners.append(np.full(int(inside.sum()), number))
        frames = np.concatenate(pfns)
        order = frames.argsort(kind="stable")
        return _Rmap(frames[order], np.concatenate(vas)[order], np.concatenate(owners)[order], mms)

    def _isolate_migratepages(self, zone: ZoneIndex, block: int, rmap: _Rmap) -> list[int]:
        """The PFNs of the pages of one pageblock that can move, ascending."""
        start, end = max(block, zone.start), min(block + PAGEBLOCK_NR_PAGES, zone.end)
        pages = self.buddy.struct_pages(start, end - start)
        refs = (pages[:, W_TYPE_REF] >> np.uint64(32)).astype(np.int64)
        frames = np.arange(start, end)
        mapped = np.searchsorted(rmap.pfns, frames, side="right")
        mapped -= np.searchsorted(rmap.pfns, frames, side="left")
        good = (
            (refs != 0)
            & (refs == mapped)
            & ((pages[:, W_TYPE_REF] & _LOW32) == PAGE_TYPE_NONE)
            & ((pages[:, W_OWNER] & np.uint64(0xFFFF)) == 0)
            & (pages[:, W_FLAGS] == zone.flags)
            & (pages[:, W_MAPPING] == 0)
        )
        found: list[int] = frames[good].tolist()
        return [pfn for pfn in found if not self.highmem.in_use(pfn)]

    # the free scanner

    def _isolate_freepages(self, zone: ZoneIndex, block: int, targets: list[int]) -> None:
        """Take the free frames of a Movable pageblock off the lists, unless they are one
        block of it already; append their PFNs."""
        buddy = self.buddy
        if buddy.get_pageblock_migratetype(block) != MigrateType.MOVABLE:
            return
        start, end = max(block, zone.start), min(block + PAGEBLOCK_NR_PAGES, zone.end)
        pages = buddy.struct_pages(start, end - start)
        for i in (pages[:, W_TYPE_REF] == BUDDY_WORD).nonzero()[0].tolist():
            order = int(pages[i, W_PRIVATE])
            if order >= PAGEBLOCK_ORDER:
                return
            buddy.del_block(zone, start + i, order)
            count_down(buddy.ram.u64, zone.free_word, 1 << order, "zone.nr_free_pages")
            targets.extend(range(start + i, start + i + (1 << order)))

    def _migrate(self, zone: ZoneIndex, old: int, new: int, rmap: _Rmap) -> None:
        """migrate_folio: bytes, struct page, PTEs, flushes; then the old frame is free."""
        buddy, u64 = self.buddy, self.buddy.ram.u64
        self.highmem.flush(old)
        self.prep.debug_migrate(old, new)
        self.ram.write(new << PAGE_SHIFT, self.ram.read(old << PAGE_SHIFT, PAGE_SIZE))
        i, j = buddy.space.page_index(old), buddy.space.page_index(new)
        u64[j : j + PAGE_WORDS] = u64[i : i + PAGE_WORDS]
        u64[j + W_OWNER] &= ~_REASON_MASK
        code = False
        for mm, va in rmap.mappers(old):
            found = self.pgtable.lookup(mm, va)
            assert found is not None, "the reverse map is of these very tables"
            _, pte_pa, pte = found
            pte = pte & ~(_PPN_MASK << PTE_PPN_SHIFT) | new << PTE_PPN_SHIFT
            self.ram.write64(pte_pa, pte)
            self.hart.flush_tlb_page(va, mm.asid)
            code = code or bool(pte & PTE_X)
        if code:
            self.hart.flush_icache(old, 1)
            self.hart.flush_icache(new, 1)
        if self.prep.debug:
            self.prep.debug_free(old, 1)
        self.prep.release(zone, old, 1)
        buddy.free_one_page(zone, old, 0, buddy.list_type(old))
