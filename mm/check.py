"""One checker for every invariant of the memory manager, over RAM alone.

``check(kernel)`` reads what is in RAM and either returns counts or raises CheckError, which
names the structure, its address and the rule that it breaks. Nothing here trusts the code
that wrote RAM: sizes of blocks are recomputed, lists are walked both ways, page tables are
followed from their roots. Every walk is bounded.

Scans over all frames are numpy's; the struct pages of the deferred range and of the later
part of a huge memmap are known to be untouched by design and are not read, so that
checking a huge sparse machine stays cheap.

The address in an error is a PA for struct pages (the struct, not the frame), page tables and
PTEs, and a VA for what the kernel knows by VA (lists, slabs, VMAs, areas).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from emu.paging import PAGE_SHIFT, PTE_PPN_SHIFT, PTE_U, PTE_W, PTE_X, PTES_PER_TABLE
from mm.addrspace import MODULES_END, MODULES_VADDR
from mm.errors import BadAddress, CheckError, ListCorruption, MmError, PageTableError
from mm.gfp import MIGRATE_TYPES
from mm.kernel import Kernel
from mm.kmemleak import MAX_OBJECTS
from mm.page import (
    BUDDY_WORD,
    PAGE_TYPE_SLAB,
    PAGE_TYPE_TABLE,
    PCP_WORD,
    PG_HEAD,
    PG_RESERVED,
    TAIL_WORD,
    W_FLAGS,
    W_LRU_NEXT,
    W_MAPPING,
    W_OWNER,
    W_PRIVATE,
    W_PT_MM,
    W_TYPE_REF,
    ZONES_PGSHIFT,
)
from mm.page_ext import LAST_PKMAP
from mm.pgtable import MAX_MMS, MmStruct, runs_of
from mm.slab.check import check_slab, check_slob, check_slub
from mm.slab.slab import Slab
from mm.slab.slob import Slob
from mm.slab.slub import Slub
from mm.vma import MAX_MAP_COUNT, VM_EXEC, VM_READ, VM_WRITE, VmArea, vm_get_page_prot
from mm.vmalloc import (
    MAX_AREAS,
    VM_ALLOC,
    VM_LAZY_FREE,
    VM_MAP_PUT_PAGES,
    VM_UNINITIALIZED,
    VmStruct,
)
from mm.zone import (
    MAX_PAGE_ORDER,
    MIGRATE_PCPTYPES,
    NR_PAGE_ORDERS,
    NR_PCP_LISTS,
    Zone,
)

Array = npt.NDArray[Any]
_PPN = np.uint64((1 << 44) - 1)
_LOW32 = np.uint64(0xFFFFFFFF)

# States of a frame.
UNSEEN, FREE, ALLOCATED, RESERVED, PCP = range(5)
PURGE_LINK = VmStruct.offset_of("purge_list")


@dataclass
class Report:
    """What was checked: counts, for a verdict line."""

    frames: int = 0
    free: int = 0
    deferred: int = 0
    pcp: int = 0
    allocated: int = 0
    reserved: int = 0
    free_blocks: int = 0
    caches: int = 0
    slabs: int = 0
    objects: int = 0
    tables: int = 0
    leaves: int = 0
    mms: int = 0
    vmas: int = 0
    vm_areas: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{getattr(self, f.name)} {f.name}" for f in fields(self))


def check(kernel: Kernel) -> Report:
    """Check everything. Raises CheckError for the first rule that is broken."""
    return _Checker(kernel).run()


@dataclass
class _Block:
    """A stretch of frames whose struct pages are read: ``[start, end)``, as rows of words."""

    start: int
    end: int
    pages: Array
    state: Array
    is_head: Array


class _Checker:
    def __init__(self, kernel: Kernel) -> None:
        self.k = kernel
        self.ram = kernel.ram
        self.space = kernel.space
        self.u64 = kernel.ram.u64
        self.report = Report()
        self.blocks: list[_Block] = []
        self.slab_inuse: dict[int, set[int]] = {}

    def run(self) -> Report:
        try:
            self.memblock()
            self.zones()
            self.pages()
            self._page_poison()
            self._pkmap()
            self.slabs()
            self.page_tables()
            self.vm_areas()
        except ListCorruption as e:
            raise CheckError("list_head", e.va, str(e)) from e
        except PageTableError as e:
            raise CheckError("page table", 0, str(e)) from e
        except BadAddress as e:
            raise CheckError("pointer", e.va, str(e)) from e
        return self.report

    def walk(self, structure: str, head: int, limit: int) -> list[int]:
        """A list's entries; a corrupt one is blamed on ``structure``."""
        try:
            return list(self.k.lists.walk(head, limit))
        except ListCorruption as e:
            raise CheckError(structure, e.va, f"list is corrupt: {e}") from e

    # the memory map

    def memblock(self) -> None:
        map_ = self.k.memblock
        try:
            kinds = ((map_.head.memory, map_.memory), (map_.head.reserved, map_.reserved))
        except MmError as e:
            raise CheckError("memblock", map_.pa, str(e)) from e
        for kind, regions in kinds:
            name = f"memblock.{kind.name}"
            for a, b in pairwise(regions):
                if a.end > b.base:
                    raise CheckError(name, b.base, "regions are sorted and do not overlap")
                if a.end == b.base and a.flags == b.flags:
                    raise CheckError(name, b.base, "neighbours with the same flags are merged")
            for r in regions:
                if not self.ram.contains(r.base, r.end - r.base) or r.base >= r.end:
                    raise CheckError(name, r.base, "a region lies in RAM and is not empty")
            if kind.total_size != sum(r.end - r.base for r in regions):
                raise CheckError(name, kind.pa, "total_size is the sum of the regions")

    # zones and their free lists

    def zones(self) -> None:
        at = self.space.start_pfn
        for zone in self.k.zones:
            if zone.zone_start_pfn != at:
                raise CheckError("zone", zone.pa, "zones follow each other without a gap")
            at = zone.zone_end_pfn
            first, end = zone.first_deferred_pfn, zone.deferred_end_pfn
            if first > end or (end and not zone.zone_start_pfn <= first <= end <= at):
                raise CheckError("zone", zone.pa, "the deferred range lies in the zone")
            if (first | end) & ((1 << MAX_PAGE_ORDER) - 1):
                raise CheckError("zone", zone.pa, "the deferred range is of max-order blocks")
        if at != self.space.end_pfn:
            raise CheckError("zone", self.k.zones[-1].pa, "the zones cover RAM")
        holes = [(z.first_deferred_pfn, z.deferred_end_pfn) for z in self.k.zones]
        holes.append(self.k.memmap_implicit())
        at = self.space.start_pfn
        for start, end in sorted(h for h in holes if h[0] < h[1]):
            self._add_stretch(at, start)
            at = end
        self._add_stretch(at, self.space.end_pfn)
        for zone in self.k.zones:
            self._free_lists(zone)
            self._pcp_lists(zone)
            marks = [zone._watermark[i] for i in range(4)]
            if marks != sorted(marks):
                raise CheckError("zone", zone.pa, "watermarks ascend: min, low, high, promo")

    def _add_stretch(self, start: int, end: int) -> None:
        if start < end:
            n = end - start
            pages = self.ram.array(self.space.page_pa(start), n * 8).reshape(n, 8)
            zeros = np.zeros(n, np.uint8)
            self.blocks.append(_Block(start, end, pages, zeros, zeros.astype(bool)))

    def _stretch(self, pfn: int) -> _Block | None:
        for block in self.blocks:
            if block.start <= pfn < block.end:
                return block
        return None

    def _page_error(self, pfn: int, rule: str, structure: str = "page") -> CheckError:
        return CheckError(structure, self.space.page_pa(pfn), f"pfn {pfn:#x}: {rule}")

    def _free_lists(self, zone: Zone) -> None:
        free = 0
        for order in range(NR_PAGE_ORDERS):
            area = zone.free_area[order]
            listed = 0
            limit = zone.spanned_pages >> order
            for mt in range(MIGRATE_TYPES):
                head = self.space.va(area.pa) + 16 * mt
                links = self.walk("free_list", head, limit)
                listed += len(links)
                if links:
                    self._free_blocks(zone, order, links)
            if order == MAX_PAGE_ORDER:
                deferred = zone.deferred_end_pfn - zone.first_deferred_pfn
                listed += deferred >> MAX_PAGE_ORDER
                self.report.deferred += deferred
            if area.nr_free != listed:
                raise CheckError(
                    "free_area", area.pa, f"nr_free is {area.nr_free}, {listed} blocks are there"
                )
            free += listed << order
            self.report.free_blocks += listed
        if zone.nr_free_pages != free:
            raise CheckError(
                "zone", zone.pa, f"nr_free_pages is {zone.nr_free_pages}, {free} pages are free"
            )
        self.report.free += free

    def _free_blocks(self, zone: Zone, order: int, links: list[int]) -> None:
        """The blocks of one free list: heads as they should be, marked as covered."""
        array = np.array(links, dtype=np.uint64) - np.uint64(self.space.vmemmap + 8)
        bad = ((array & np.uint64(63)) != 0) | (
            array >= np.uint64(self.space.vmemmap_end - self.space.vmemmap)
        )
        if bad.any():
            raise CheckError("free_list", links[int(bad.argmax())], "an entry is no struct page")
        pfns = (array >> np.uint64(6)).astype(np.int64) + self.space.start_pfn
        size = 1 << order
        for rule, broken in (
            (f"a free block of order {order} is aligned to its size", pfns & (size - 1) != 0),
            (
                "a free block lies in the zone that lists it",
                (pfns < zone.zone_start_pfn) | (pfns + size > zone.zone_end_pfn),
            ),
            (
                "a listed block is not in the deferred range",
                (pfns + size > zone.first_deferred_pfn) & (pfns < zone.deferred_end_pfn),
            ),
        ):
            if broken.any():
                raise self._page_error(int(pfns[int(broken.argmax())]), rule)
        for block in self.blocks:
            mine = pfns[(pfns >= block.start) & (pfns < block.end)]
            if not len(mine):
                continue
            at = mine - block.start
            heads = block.pages[at]
            for rule, broken in (
                (
                    "a free block's head has page_type buddy and _refcount 0",
                    heads[:, W_TYPE_REF] != BUDDY_WORD,
                ),
                (
                    f"private of a block on the list of order {order} is its order",
                    heads[:, W_PRIVATE] != order,
                ),
                (
                    "a free block's head has the zone in its flags and no flag set",
                    heads[:, W_FLAGS] != (zone.zone_idx << ZONES_PGSHIFT),
                ),
            ):
                if broken.any():
                    raise self._page_error(int(mine[int(broken.argmax())]), rule)
            self._cover(block, at, size, FREE)
            if order < MAX_PAGE_ORDER:
                self._missed_merges(block, zone, mine, order)

    def _pcp_lists(self, zone: Zone) -> None:
        """The per-CPU lists: blocks as guest code and Python leave them, and their count."""
        pcp = zone.per_cpu_pageset
        pages = 0
        for index in range(NR_PCP_LISTS):
            order = index // MIGRATE_PCPTYPES
            head = self.space.va(pcp.lists[index].pa)
            limit = zone.spanned_pages >> order
            for link in self.walk("per_cpu_pages", head, limit):
                try:
                    pfn = self.space.page_to_pfn(link - 8)
                except BadAddress as e:
                    raise CheckError("per_cpu_pages", link, "an entry is no struct page") from e
                self._pcp_block(zone, pfn, order)
                pages += 1 << order
        if pcp.count != pages:
            raise CheckError(
                "per_cpu_pages", pcp.pa, f"count is {pcp.count}, {pages} pages are listed"
            )
        if pcp.count and not pcp.batch:
            raise CheckError("per_cpu_pages", pcp.pa, "lists that are off are empty")
        self.report.pcp += pages

    def _pcp_block(self, zone: Zone, pfn: int, order: int) -> None:
        block = self._stretch(pfn)
        if block is None or pfn & ((1 << order) - 1):
            raise self._page_error(pfn, f"a per-CPU block of order {order} is aligned to its size")
        if not zone.zone_start_pfn <= pfn < zone.zone_end_pfn:
            raise self._page_error(pfn, "a per-CPU page lies in the zone that lists it")
        at = pfn - block.start
        self._cover(block, np.array([at]), 1 << order, PCP)
        rows = block.pages[at : at + (1 << order)]
        head, tails = rows[0].tolist(), rows[1:]
        flags = zone.zone_idx << ZONES_PGSHIFT
        if head[W_TYPE_REF] != PCP_WORD:
            raise self._page_error(pfn, "a page on a per-CPU list has no type and _refcount 0")
        if head[W_FLAGS] != flags or (tails[:, W_FLAGS] != flags).any():
            raise self._page_error(pfn, "a per-CPU page has the zone in its flags and no flag set")
        if any(head[W_MAPPING : W_PRIVATE + 1]):
            raise self._page_error(pfn, "mapping, index and private of a per-CPU page are 0")
        if (tails[:, W_TYPE_REF] != TAIL_WORD).any() or tails[:, W_LRU_NEXT].any():
            raise self._page_error(pfn, "the tails of a per-CPU block are those of no compound")

    def _page_poison(self) -> None:
        """Frames that were filled when they were freed hold the pattern."""
        poison = self.k.buddy.page_poison
        for block in self.blocks if poison else ():
            free = (block.state == FREE) | (block.state == PCP)
            for start, count in runs_of(free.nonzero()[0] + block.start):
                bad = poison.corrupted(start, count) if poison else []
                if bad:
                    raise CheckError(
                        "frame", bad[0] << PAGE_SHIFT, "a free frame holds the poison 0xaa"
                    )

    def _pkmap(self) -> None:
        """The kmap window: every slot maps a HighMem frame iff its count is not 0."""
        highmem = self.k.highmem
        if highmem.pkmap is None:
            return
        seen: set[int] = set()
        for slot in range(LAST_PKMAP):
            pfn, count = highmem.slot_pfn(slot), highmem.pkmap.count[slot]
            va = highmem.base + (slot << PAGE_SHIFT)
            if (pfn is not None) != bool(count):
                raise CheckError("pkmap", va, f"slot {slot} is mapped iff its count is not 0")
            if pfn is None:
                continue
            if not highmem.is_highmem(pfn) or pfn in seen:
                raise CheckError("pkmap", va, "a slot maps a frame of HighMem, no other does")
            seen.add(pfn)
            if count > 1 and self.state_of(pfn) not in (ALLOCATED, RESERVED):
                raise CheckError("pkmap", va, f"frame {pfn:#x} is free and kmapped")

    def _cover(self, block: _Block, at: Array, size: int, state: int) -> None:
        """Mark frames ``[at, at + size)`` of a stretch; CheckError if one is marked already."""
        over = at + size > len(block.state)
        if over.any():
            pfn = block.start + int(at[int(over.argmax())])
            raise self._page_error(pfn, "a block runs into frames that have no state")
        index = at if size == 1 else (at[:, None] + np.arange(size)).ravel()
        again = np.sort(index)[1:][np.diff(np.sort(index)) == 0]
        again = np.concatenate((again, index[block.state[index] != UNSEEN]))
        if len(again):
            pfn = block.start + int(again[0])
            raise self._page_error(pfn, "a frame belongs to one block, this one to two")
        block.state[index] = state
        block.is_head[at] = True

    def _missed_merges(self, block: _Block, zone: Zone, pfns: Array, order: int) -> None:
        buddies = pfns ^ (1 << order)
        inside = (buddies >= max(zone.zone_start_pfn, block.start)) & (
            buddies < min(zone.zone_end_pfn, block.end)
        )
        pages = block.pages[(buddies[inside] - block.start)]
        both = (pages[:, W_TYPE_REF] == BUDDY_WORD) & (pages[:, W_PRIVATE] == order)
        if both.any():
            pfn = int(pfns[inside][int(both.argmax())])
            raise self._page_error(pfn, f"buddies of order {order} are both free and not merged")

    # struct pages

    def pages(self) -> None:
        reserved = self.k.reserved_pfn_ranges()
        for start, end in reserved:
            self._reserved(start, end)
        low, high = self.k.memmap_implicit()
        self.report.reserved += high - low
        for block in self.blocks:
            self._allocated(block)
        self.report.frames = self.space.end_pfn - self.space.start_pfn
        for zone in self.k.zones:
            taken = sum(
                max(0, min(e, zone.zone_end_pfn) - max(s, zone.zone_start_pfn))
                for s, e in [*reserved, (low, high)]
            )
            if zone.present_pages != zone.spanned_pages or (
                zone.managed_pages != zone.present_pages - taken
            ):
                raise CheckError(
                    "zone", zone.pa, "managed_pages are those present less those reserved"
                )

    def _reserved(self, start: int, end: int) -> None:
        for block in self.blocks:
            low, high = max(start, block.start), min(end, block.end)
            if low >= high:
                continue
            at = slice(low - block.start, high - block.start)
            clear = (block.pages[at, W_FLAGS] & np.uint64(PG_RESERVED)) == 0
            if clear.any():
                raise self._page_error(
                    low + int(clear.argmax()), "a frame that memblock has reserved is PG_reserved"
                )
            if block.state[at].any():
                raise self._page_error(
                    low + int((block.state[at] != UNSEEN).argmax()), "a reserved frame is free"
                )
            block.state[at] = RESERVED
            self.report.reserved += high - low

    def _allocated(self, block: _Block) -> None:
        pages, state = block.pages, block.state
        stray = ((pages[:, W_FLAGS] & np.uint64(PG_RESERVED)) != 0) & (state != RESERVED)
        if stray.any():
            raise self._page_error(
                block.start + int(stray.argmax()),
                "PG_reserved on a frame memblock has not reserved",
            )
        inner = (state == FREE) & ~block.is_head & pages.any(axis=1)
        if inner.any():
            raise self._page_error(
                block.start + int(inner.argmax()), "struct pages inside of a free block are zero"
            )
        buddy = (pages[:, W_TYPE_REF] == BUDDY_WORD) & (state != FREE)
        if buddy.any():
            raise self._page_error(
                block.start + int(buddy.argmax()), "a page of type buddy is on a free list"
            )
        refs = pages[:, W_TYPE_REF] >> np.uint64(32)
        heads = ((state != RESERVED) & (refs != 0)).nonzero()[0]
        in_free = state[heads] == FREE
        if in_free.any():
            raise self._page_error(
                block.start + int(heads[int(in_free.argmax())]), "a free frame has _refcount 0"
            )
        negative = refs[heads] >= 1 << 31
        if negative.any():
            raise self._page_error(
                block.start + int(heads[int(negative.argmax())]), "_refcount is negative"
            )
        orders = (pages[heads, W_OWNER] & np.uint64(0xFFFF)).astype(np.int64)
        if (orders > MAX_PAGE_ORDER).any():
            pfn = block.start + int(heads[int((orders > MAX_PAGE_ORDER).argmax())])
            raise self._page_error(pfn, "page_owner's order is at most MAX_PAGE_ORDER")
        for order in np.unique(orders).tolist():
            at = heads[orders == order]
            misaligned = (at + block.start) & ((1 << order) - 1) != 0
            if misaligned.any():
                raise self._page_error(
                    block.start + int(at[int(misaligned.argmax())]),
                    f"an allocated block of order {order} is aligned to its size",
                )
            self._cover(block, at, 1 << order, ALLOCATED)
            if order:
                self._tails(block, at, order)
        lost = state == UNSEEN
        if lost.any():
            raise self._page_error(
                block.start + int(lost.argmax()),
                "every frame is free, reserved, or part of an allocated block",
            )
        zone_bits = pages[:, W_FLAGS] >> np.uint64(ZONES_PGSHIFT) & np.uint64(7)
        allocated = state == ALLOCATED
        for zone in self.k.zones:
            low = max(zone.zone_start_pfn, block.start) - block.start
            high = min(zone.zone_end_pfn, block.end) - block.start
            if low < high:
                wrong = allocated[low:high] & (zone_bits[low:high] != zone.zone_idx)
                if wrong.any():
                    raise self._page_error(
                        block.start + low + int(wrong.argmax()),
                        "the zone in the flags is the zone of the frame",
                    )
        self.report.allocated += int(allocated.sum())

    def _tails(self, block: _Block, heads: Array, order: int) -> None:
        tails = (heads[:, None] + np.arange(1, 1 << order)).ravel()
        wrong = block.pages[tails, W_TYPE_REF] != TAIL_WORD
        if wrong.any():
            raise self._page_error(
                block.start + int(tails[int(wrong.argmax())]),
                "a tail has _mapcount -1 and _refcount 0",
            )
        compound = (block.pages[heads, W_FLAGS] & np.uint64(PG_HEAD)) != 0
        owners = (heads << 6).astype(np.uint64)
        owners += np.uint64(self.space.page_va(block.start) + 1)
        wanted = np.where(compound, owners, np.uint64(0))
        expected = np.repeat(wanted, (1 << order) - 1)
        wrong = block.pages[tails, W_LRU_NEXT] != expected
        if wrong.any():
            raise self._page_error(
                block.start + int(tails[int(wrong.argmax())]),
                "compound_head of a tail points to its head, and is 0 if not compound",
                "page_tail",
            )
        first = block.pages[heads + 1, W_FLAGS] & np.uint64(0xFF)
        wrong = compound & (first != order)
        if wrong.any():
            raise self._page_error(
                block.start + int(heads[int(wrong.argmax())]) + 1,
                "the second page of a compound block holds its order",
                "page_tail",
            )

    def state_of(self, pfn: int) -> int:
        """UNSEEN for a frame in the deferred range or outside of RAM."""
        block = self._stretch(pfn)
        if block is not None:
            return int(block.state[pfn - block.start])
        low, high = self.k.memmap_implicit()
        return RESERVED if low <= pfn < high else UNSEEN

    def _typed(self, page_type: int) -> list[int]:
        found: list[int] = []
        for block in self.blocks:
            types = block.pages[:, W_TYPE_REF] & _LOW32
            at = ((types == page_type) & block.is_head & (block.state == ALLOCATED)).nonzero()[0]
            found.extend((at + block.start).tolist())
        return found

    # slabs

    def slabs(self) -> None:
        slabs = self._typed(PAGE_TYPE_SLAB)
        slab = self.k.slab
        if isinstance(slab, Slub):
            used = check_slub(slab, slabs)
        elif isinstance(slab, Slab):
            used = check_slab(slab, slabs)
        else:
            assert isinstance(slab, Slob)
            used = check_slob(slab, slabs)
        caches = slab.caches()
        self.report.caches, self.report.slabs = len(caches), len(slabs)
        self.report.objects = sum(used.values())
        if isinstance(slab, Slob):
            self.report.objects = sum(cache.active_objects() for cache in caches)
        if self.k.vmcoreinfo.slab_root.kmemleak_cachep:
            self.walk("kmemleak_object", self.k.kmemleak.head, MAX_OBJECTS)

    # page tables and address spaces

    def page_tables(self) -> None:
        k = self.k
        owned: set[int] = set()
        half = PTES_PER_TABLE // 2
        self._tables(k.init_mm, half, PTES_PER_TABLE - 1, owned)
        self._kernel_leaves()
        head = self.k.address_spaces.mmlist
        asids = {k.init_mm.asid}
        kernel_half = self._half(k.init_mm)
        for link in self.walk("mm_struct", head, MAX_MMS):
            mm = MmStruct(self.ram, self.k.lists.resolve(link))
            if mm.asid in asids:
                raise CheckError("mm_struct", link, f"ASID {mm.asid} is its own")
            asids.add(mm.asid)
            if (self._half(mm) != kernel_half).any():
                raise CheckError("mm_struct", link, "the kernel half of the root is init_mm's")
            self._tables(mm, 0, half - 1, owned)
            self._user_leaves(mm, self._vmas(mm))
            self.report.mms += 1
        for pfn in self._typed(PAGE_TYPE_TABLE):
            if pfn not in owned:
                raise self._page_error(
                    pfn, "a page table hangs on some root, this one leaked", "ptdesc"
                )
        self.report.tables = len(owned)

    def _half(self, mm: MmStruct) -> Array:
        half = PTES_PER_TABLE // 2
        return self.ram.array(self.k.pgtable.root(mm) + 8 * half, half)

    def _tables(self, mm: MmStruct, first: int, last: int, owned: set[int]) -> None:
        """Every table below root entries ``first..last``: marked, owned once, by ``mm``."""
        owner = self.space.va(mm.pa)
        count = 0
        for table, _, _ in self.k.pgtable.tables(self.k.pgtable.root(mm), first, last):
            pfn = table >> PAGE_SHIFT
            if pfn in owned:
                raise CheckError("page table", table, "a table belongs to one place in one tree")
            owned.add(pfn)
            i = self.space.page_index(pfn)
            if self.u64[i + W_TYPE_REF] & 0xFFFFFFFF != PAGE_TYPE_TABLE:
                raise self._page_error(pfn, "a page table has page_type table", "ptdesc")
            if self.u64[i + W_PT_MM] != owner:
                raise self._page_error(pfn, "pt_mm is the mm whose tree holds the table", "ptdesc")
            if self.state_of(pfn) != ALLOCATED:
                raise self._page_error(pfn, "a page table is an allocated frame", "ptdesc")
            count += 1
        if mm.pgtables_bytes != count << PAGE_SHIFT:
            raise CheckError(
                "mm_struct", owner, f"pgtables_bytes is {mm.pgtables_bytes}, {count} tables exist"
            )

    def _kernel_leaves(self) -> None:
        k, layout = self.k, self.space.layout
        half = PTES_PER_TABLE // 2
        writable: list[tuple[Array, Array]] = []
        code: list[tuple[int, int, int]] = []
        root = k.pgtable.root(k.init_mm)
        for vas, level, ptes in k.pgtable.leaf_arrays(root, half):
            self.report.leaves += len(ptes)
            self._wx(vas, ptes)
            user = (ptes & np.uint64(PTE_U)) != 0
            if user.any():
                raise CheckError("pte", int(vas[int(user.argmax())]), "kernel pages have U=0")
            pages = layout.mode.span(level) >> PAGE_SHIFT
            pfns = ((ptes >> np.uint64(PTE_PPN_SHIFT)) & _PPN).astype(np.int64)
            w = (ptes & np.uint64(PTE_W)) != 0
            writable.append((pfns[w], pfns[w] + pages))
            for i in ((ptes & np.uint64(PTE_X)) != 0).nonzero()[0].tolist():
                code.append((int(pfns[i]), int(pfns[i]) + pages, int(vas[i])))
            # The direct map and vmemmap show RAM as it is; all else maps what it owns.
            # The kmap window may keep a frame that is free (see _pkmap).
            own = (vas < np.uint64(layout.page_offset)) & (
                vas >= np.uint64(layout.vmalloc_start)
            ) | (vas >= np.uint64(layout.page_offset + layout.direct_map_size))
            self._not_free(vas[own], pfns[own], pages)
        starts = np.concatenate([w[0] for w in writable]) if writable else np.zeros(0, np.int64)
        ends = np.concatenate([w[1] for w in writable]) if writable else np.zeros(0, np.int64)
        order = starts.argsort(kind="stable")
        starts, reach = starts[order], np.maximum.accumulate(ends[order])
        for low, high, va in code:
            i = int(np.searchsorted(starts, high, side="left")) - 1
            if i >= 0 and int(reach[i]) > low:
                raise CheckError(
                    "pte", va, f"W^X: frame {low:#x} is executable here and writable elsewhere"
                )

    def _wx(self, vas: Array, ptes: Array) -> None:
        both = np.uint64(PTE_W | PTE_X)
        broken = (ptes & both) == both
        if broken.any():
            raise CheckError("pte", int(vas[int(broken.argmax())]), "W^X: writable and executable")

    def _not_free(self, vas: Array, pfns: Array, pages: int) -> None:
        frames = (pfns[:, None] + np.arange(pages)).ravel()
        states = np.full(len(frames), UNSEEN)
        for block in self.blocks:
            mine = (frames >= block.start) & (frames < block.end)
            states[mine] = block.state[frames[mine] - block.start]
        low, high = self.k.memmap_implicit()
        states[(frames >= low) & (frames < high)] = RESERVED
        bad = (states == FREE) | (states == UNSEEN) | (states == PCP)
        if bad.any():
            i = int(bad.argmax())
            raise CheckError(
                "pte", int(vas[i // pages]), f"maps frame {int(frames[i]):#x}, which is free"
            )

    def _vmas(self, mm: MmStruct) -> list[VmArea]:
        head = self.space.va(mm.pa) + MmStruct.offset_of("mmap")
        links = self.walk("vm_area_struct", head, MAX_MAP_COUNT)
        vmas = [VmArea(self.ram, self.k.lists.resolve(link)) for link in links]
        at = 0
        for link, vma in zip(links, vmas, strict=True):
            if vma.vm_start < at:
                raise CheckError("vm_area_struct", link, "VMAs are sorted and do not overlap")
            if vma.vm_start >= vma.vm_end or (vma.vm_start | vma.vm_end) & 0xFFF:
                raise CheckError("vm_area_struct", link, "a VMA is one or more whole pages")
            if vma.vm_end > self.space.layout.task_size:
                raise CheckError("vm_area_struct", link, "a VMA lies in user space")
            if vma.vm_mm != self.space.va(mm.pa):
                raise CheckError("vm_area_struct", link, "vm_mm is the mm whose list holds it")
            at = vma.vm_end
        if mm.map_count != len(vmas):
            raise CheckError("mm_struct", self.space.va(mm.pa), "map_count counts the VMAs")
        if mm.total_vm != sum(v.vm_end - v.vm_start for v in vmas) >> PAGE_SHIFT:
            raise CheckError("mm_struct", self.space.va(mm.pa), "total_vm counts the pages")
        self.report.vmas += len(vmas)
        return vmas

    def _user_leaves(self, mm: MmStruct, vmas: list[VmArea]) -> None:
        starts = np.array([v.vm_start for v in vmas], dtype=np.uint64)
        ends = np.array([v.vm_end for v in vmas], dtype=np.uint64)
        prots = np.array([_expected_prot(v) for v in vmas], dtype=np.uint64)
        mask = np.uint64(0x1E)  # R W X U
        span = self.space.layout.mode.span
        root = self.k.pgtable.root(mm)
        for vas, level, ptes in self.k.pgtable.leaf_arrays(root, 0, PTES_PER_TABLE // 2 - 1):
            self.report.leaves += len(ptes)
            self._wx(vas, ptes)
            pages = span(level) >> PAGE_SHIFT
            pfns = ((ptes >> np.uint64(PTE_PPN_SHIFT)) & _PPN).astype(np.int64)
            for pfn, count in runs_of(pfns) if level == 0 else [(p, pages) for p in pfns.tolist()]:
                self._user_frames(int(vas[int((pfns == pfn).argmax())]), pfn, count)
            at = np.searchsorted(starts, vas, side="right") - 1
            outside = at < 0
            if len(vmas):
                outside |= vas + np.uint64(span(level)) > ends[np.maximum(at, 0)]
            if outside.any():
                raise CheckError(
                    "pte", int(vas[int(outside.argmax())]), "a user page lies inside of a VMA"
                )
            wrong = (ptes & mask) != (prots[at] & mask)
            if wrong.any():
                raise CheckError(
                    "pte", int(vas[int(wrong.argmax())]), "permissions are those of the VMA"
                )

    def _user_frames(self, va: int, pfn: int, count: int) -> None:
        """Frames mapped for a user: allocated, and nothing of the kernel's."""
        block = self._stretch(pfn)
        if block is None or pfn + count > block.end:
            raise CheckError("pte", va, f"a user page maps frame {pfn:#x}, which is not allocated")
        at = slice(pfn - block.start, pfn - block.start + count)
        states = block.state[at]
        types = block.pages[at, W_TYPE_REF] & _LOW32
        for rule, broken in (
            ("a user page maps a free frame", (states == FREE) | (states == PCP)),
            ("a user page maps a reserved frame", states == RESERVED),
            ("a user page maps a page table", types == PAGE_TYPE_TABLE),
            ("a user page maps a slab", types == PAGE_TYPE_SLAB),
        ):
            if broken.any():
                i = int(broken.argmax())
                raise CheckError("pte", va + (i << PAGE_SHIFT), f"{rule}: {pfn + i:#x}")

    # vmalloc

    def vm_areas(self) -> None:
        k = self.k
        v = k.vmalloc_areas
        links = self.walk("vm_struct", v.vmap_area_list, MAX_AREAS)
        lazy = {n - PURGE_LINK for n in self.walk("vm_struct", v.purge_list, MAX_AREAS)}
        vas, pfns = self._area_leaves()
        at, done, lazy_pages = 0, 0, 0
        owned: list[Array] = []
        for link in links:
            area = VmStruct(self.ram, k.lists.resolve(link))
            if area.addr < at:
                raise CheckError("vm_struct", link, "areas are sorted and do not overlap")
            at = area.addr + area.size
            pages = (area.size >> PAGE_SHIFT) - 1
            if area.addr & 0xFFF or area.size & 0xFFF or pages < 1:
                raise CheckError("vm_struct", link, "size is that of the pages and one guard page")
            if not any(low <= area.addr and at <= high for low, high in self._area_ranges()):
                raise CheckError("vm_struct", link, "an area lies in vmalloc's or modules' range")
            low, guard, high = (
                int(np.searchsorted(vas, np.uint64(x)))
                for x in (area.addr, at - (1 << PAGE_SHIFT), at)
            )
            self._in_no_area(vas[done:low])
            done = high
            if guard < high:
                raise CheckError("vm_struct", link, "the guard page is not mapped")
            is_lazy = bool(area.flags & VM_LAZY_FREE)
            if is_lazy != (link in lazy):
                raise CheckError("vm_struct", link, "VM_LAZY_FREE iff it is on the purge list")
            if is_lazy:
                lazy_pages += pages + 1
                if low < high or area.pages or area.nr_pages:
                    raise CheckError("vm_struct", link, "a lazily freed area maps and owns nothing")
                continue
            if area.flags & VM_UNINITIALIZED:
                raise CheckError("vm_struct", link, "an area is not left half made")
            if area.flags & VM_ALLOC or area.flags & VM_MAP_PUT_PAGES:
                if area.nr_pages != pages:
                    raise CheckError(
                        "vm_struct", link, "size is that of the pages and one guard page"
                    )
                own = np.array(v.pages_of(area), dtype=np.int64)
                owned.append(own)
                expected = np.uint64(area.addr) + (
                    np.arange(pages, dtype=np.uint64) << np.uint64(PAGE_SHIFT)
                )
                if guard - low != pages or (pfns[low:guard] != own).any():
                    mapped = dict(zip(vas[low:guard].tolist(), pfns[low:guard], strict=True))
                    i = next(i for i in range(pages) if mapped.get(int(expected[i])) != own[i])
                    raise CheckError("vm_struct", link, f"{int(expected[i]):#x} maps pages[{i}]")
            elif guard - low != pages:
                raise CheckError("vm_struct", link, "every page of an area is mapped")
            self.report.vm_areas += 1
        self._in_no_area(vas[done:])
        if lazy - set(links):
            raise CheckError("vm_struct", min(lazy - set(links)), "it waits for a purge, unlisted")
        if v.lazy_pages != lazy_pages:
            raise CheckError(
                "vmcoreinfo",
                k.vmcoreinfo.pa,
                f"vmap_lazy_nr is {v.lazy_pages}, {lazy_pages} pages wait for a purge",
            )
        frames = np.sort(np.concatenate(owned)) if owned else np.zeros(0, np.int64)
        twice = frames[1:][np.diff(frames) == 0]
        if len(twice):
            raise self._page_error(int(twice[0]), "a frame belongs to one area of vmalloc")

    def _area_ranges(self) -> tuple[tuple[int, int], tuple[int, int]]:
        layout = self.space.layout
        return (layout.vmalloc_start, layout.vmalloc_end), (MODULES_VADDR, MODULES_END)

    def _area_leaves(self) -> tuple[Array, Array]:
        """Every page mapped in the vmalloc and modules ranges: VAs, sorted, and PFNs."""
        k = self.k
        all_vas, all_pfns = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        root = k.pgtable.root(k.init_mm)
        for vas, level, ptes in k.pgtable.leaf_arrays(root, PTES_PER_TABLE // 2):
            mine = np.zeros(len(vas), dtype=bool)
            for low, high in self._area_ranges():
                mine |= (vas >= np.uint64(low)) & (vas < np.uint64(high))
            if not mine.any():
                continue
            pages = self.space.layout.mode.span(level) >> PAGE_SHIFT
            pfns = ((ptes[mine] >> np.uint64(PTE_PPN_SHIFT)) & _PPN).astype(np.int64)
            step = np.arange(pages, dtype=np.int64)
            offsets = step.astype(np.uint64) << np.uint64(PAGE_SHIFT)
            all_vas.append((vas[mine][:, None] + offsets).ravel())
            all_pfns.append((pfns[:, None] + step).ravel())
        vas, pfns = np.concatenate(all_vas), np.concatenate(all_pfns)
        order = vas.argsort()
        return vas[order], pfns[order]

    def _in_no_area(self, vas: Array) -> None:
        if len(vas):
            raise CheckError("pte", int(vas[0]), "a page of vmalloc's ranges lies in an area")


def _expected_prot(vma: VmArea) -> int:
    try:
        return vm_get_page_prot(vma.vm_flags)
    except ValueError as e:
        bad = vma.vm_flags & (VM_READ | VM_WRITE | VM_EXEC)
        raise CheckError("vm_area_struct", vma.vm_start, f"vm_flags {bad:#x}: {e}") from e
