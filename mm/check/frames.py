"""mm.check's rules for frames: the memory map, zones, free lists, struct pages, slabs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from emu.spec.paging import PAGE_SHIFT
from mm.errors import BadAddress, CheckError, ListCorruption, MmError
from mm.gfp import MIGRATE_TYPES, MigrateType, ZoneType
from mm.kernel import Kernel
from mm.kmemleak import MAX_OBJECTS
from mm.page import (
    BUDDY_WORD,
    PAGE_TYPE_SLAB,
    PAGE_WORDS,
    PCP_WORD,
    PG_HEAD,
    PG_RESERVED,
    TAIL_WORD,
    W_FLAGS,
    W_LRU_NEXT,
    W_MAPPING,
    W_OWNER,
    W_PRIVATE,
    W_TYPE_REF,
    ZONES_PGSHIFT,
)
from mm.page_ext import LAST_PKMAP
from mm.pgtable import runs_of
from mm.slab.check import check_slab, check_slob, check_slub
from mm.slab.slab_caches import Slab
from mm.slab.slob import Slob
from mm.slab.slub_caches import Slub
from mm.zone import (
    MAX_PAGE_ORDER,
    MIGRATE_PCPTYPES,
    NR_PAGE_ORDERS,
    NR_PCP_LISTS,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    Zone,
    lowmem_reserves,
    zone_watermarks,
)

Array = npt.NDArray[Any]
_LOW32 = np.uint64(0xFFFFFFFF)

# States of a frame.
UNSEEN, FREE, ALLOCATED, RESERVED, PCP = range(5)


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


@dataclass
class Block:
    """A stretch of frames whose struct pages are read: ``[start, end)``, as rows of words."""

    start: int
    end: int
    pages: Array
    state: Array
    is_head: Array


class Frames:
    """The state of every frame, found by reading the structures that say it."""

    def __init__(self, kernel: Kernel) -> None:
        self.k = kernel
        self.ram = kernel.ram
        self.space = kernel.space
        self.u64 = kernel.ram.u64
        self.report = Report()
        self.blocks: list[Block] = []
        self.slab_inuse: dict[int, set[int]] = {}

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
            problem = zone.problem(self.space)
            if problem is not None:
                raise CheckError("zone", zone.pa, problem)
        if at != self.space.end_pfn:
            raise CheckError("zone", self.k.zones[-1].pa, "the zones cover RAM")
        holes = [(z.first_deferred_pfn, z.deferred_end_pfn) for z in self.k.zones]
        holes.append(self.k.memmap_implicit())
        at = self.space.start_pfn
        for start, end in sorted(h for h in holes if h[0] < h[1]):
            self._add_stretch(at, start)
            at = end
        self._add_stretch(at, self.space.end_pfn)
        self._pageblocks()
        for zone in self.k.zones:
            self._free_lists(zone)
            self._pcp_lists(zone)
        self._marks()

    def _pageblocks(self) -> None:
        """The byte of each pageblock is a migratetype (xor 1)."""
        types = self._pageblock_types()
        bad = types ^ np.uint8(MigrateType.MOVABLE) >= MIGRATE_TYPES
        if bad.any():
            i = int(bad.argmax())
            raise CheckError(
                "pageblock",
                self.k.page_alloc.buddy.pageblock_pa + i,
                f"pageblock {i} from the start of RAM is of a migratetype: {int(types[i]):#x}",
            )

    def _pageblock_types(self) -> Array:
        first = self.space.start_pfn >> PAGEBLOCK_ORDER
        last = (self.space.end_pfn - 1) >> PAGEBLOCK_ORDER
        return self.ram.array(self.k.page_alloc.buddy.pageblock_pa, last - first + 1, np.uint8)

    def _marks(self) -> None:
        """What is computed of the zones' sizes: watermarks and reserves, by Linux's formulas."""
        zones = self.k.zones
        kbytes = self.k.vmcoreinfo.page_alloc.min_free_kbytes
        marks, reserves = zone_watermarks(zones, kbytes), lowmem_reserves(zones)
        for zone, mark, reserve in zip(zones, marks, reserves, strict=True):
            if [zone._watermark[i] for i in range(4)] != mark:
                raise CheckError(
                    "zone", zone.pa, f"_watermark is that of {kbytes} min_free_kbytes: {mark}"
                )
            if [zone.lowmem_reserve[j] for j in ZoneType] != reserve:
                raise CheckError(
                    "zone", zone.pa, f"lowmem_reserve is that of the zones above: {reserve}"
                )

    def _add_stretch(self, start: int, end: int) -> None:
        if start < end:
            n = end - start
            pages = self.ram.array(self.space.page_pa(start), n * 8).reshape(n, 8)
            zeros = np.zeros(n, np.uint8)
            self.blocks.append(Block(start, end, pages, zeros, zeros.astype(bool)))

    def stretch(self, pfn: int) -> Block | None:
        for block in self.blocks:
            if block.start <= pfn < block.end:
                return block
        return None

    def page_error(self, pfn: int, rule: str, structure: str = "page") -> CheckError:
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
                    self._list_type(order, mt, self._free_blocks(zone, order, links))
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

    def _list_type(self, order: int, mt: int, pfns: Array) -> None:
        """A free block is on the list of its pageblocks' type."""
        blocks = [pfns, pfns + PAGEBLOCK_NR_PAGES] if order > PAGEBLOCK_ORDER else [pfns]
        first = self.space.start_pfn >> PAGEBLOCK_ORDER
        types = self._pageblock_types() ^ np.uint8(MigrateType.MOVABLE)
        if self.k.page_alloc.mobility_disabled:
            types = np.full_like(types, MigrateType.MOVABLE)
        for each in blocks:
            wrong = types[(each >> PAGEBLOCK_ORDER) - first] != mt
            if wrong.any():
                i = int(wrong.argmax())
                name = MigrateType(mt).name.capitalize()
                raise self.page_error(
                    int(pfns[i]), f"a block on the list {name} is of such a pageblock", "free_list"
                )

    def _free_blocks(self, zone: Zone, order: int, links: list[int]) -> Array:
        """The blocks of one free list: heads as they should be, marked as covered; the PFNs."""
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
                raise self.page_error(int(pfns[int(broken.argmax())]), rule)
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
                    raise self.page_error(int(mine[int(broken.argmax())]), rule)
            self._cover(block, at, size, FREE)
            if order < MAX_PAGE_ORDER:
                self._missed_merges(block, zone, mine, order)
        return pfns

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
        block = self.stretch(pfn)
        if block is None or pfn & ((1 << order) - 1):
            raise self.page_error(pfn, f"a per-CPU block of order {order} is aligned to its size")
        if not zone.zone_start_pfn <= pfn < zone.zone_end_pfn:
            raise self.page_error(pfn, "a per-CPU page lies in the zone that lists it")
        at = pfn - block.start
        self._cover(block, np.array([at]), 1 << order, PCP)
        rows = block.pages[at : at + (1 << order)]
        head, tails = rows[0].tolist(), rows[1:]
        flags = zone.zone_idx << ZONES_PGSHIFT
        if head[W_TYPE_REF] != PCP_WORD:
            raise self.page_error(pfn, "a page on a per-CPU list has no type and _refcount 0")
        if head[W_FLAGS] != flags or (tails[:, W_FLAGS] != flags).any():
            raise self.page_error(pfn, "a per-CPU page has the zone in its flags and no flag set")
        if any(head[W_MAPPING : W_PRIVATE + 1]):
            raise self.page_error(pfn, "mapping, index and private of a per-CPU page are 0")
        if (tails[:, W_TYPE_REF] != TAIL_WORD).any() or tails[:, W_LRU_NEXT].any():
            raise self.page_error(pfn, "the tails of a per-CPU block are those of no compound")

    def page_poison(self) -> None:
        """Frames that were filled when they were freed hold the pattern."""
        poison = self.k.page_alloc.prep.page_poison
        for block in self.blocks if poison else ():
            free = (block.state == FREE) | (block.state == PCP)
            for start, count in runs_of(free.nonzero()[0] + block.start):
                bad = poison.corrupted(start, count) if poison else []
                if bad:
                    raise CheckError(
                        "frame", bad[0] << PAGE_SHIFT, "a free frame holds the poison 0xaa"
                    )

    def pkmap(self) -> None:
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

    def _cover(self, block: Block, at: Array, size: int, state: int) -> None:
        """Mark frames ``[at, at + size)`` of a stretch; CheckError if one is marked already."""
        over = at + size > len(block.state)
        if over.any():
            pfn = block.start + int(at[int(over.argmax())])
            raise self.page_error(pfn, "a block runs into frames that have no state")
        index = at if size == 1 else (at[:, None] + np.arange(size)).ravel()
        again = np.sort(index)[1:][np.diff(np.sort(index)) == 0]
        again = np.concatenate((again, index[block.state[index] != UNSEEN]))
        if len(again):
            pfn = block.start + int(again[0])
            raise self.page_error(pfn, "a frame belongs to one block, this one to two")
        block.state[index] = state
        block.is_head[at] = True

    def _missed_merges(self, block: Block, zone: Zone, pfns: Array, order: int) -> None:
        buddies = pfns ^ (1 << order)
        inside = (buddies >= max(zone.zone_start_pfn, block.start)) & (
            buddies < min(zone.zone_end_pfn, block.end)
        )
        pages = block.pages[(buddies[inside] - block.start)]
        both = (pages[:, W_TYPE_REF] == BUDDY_WORD) & (pages[:, W_PRIVATE] == order)
        if both.any():
            pfn = int(pfns[inside][int(both.argmax())])
            raise self.page_error(pfn, f"buddies of order {order} are both free and not merged")

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
                raise self.page_error(
                    low + int(clear.argmax()), "a frame that memblock has reserved is PG_reserved"
                )
            if block.state[at].any():
                raise self.page_error(
                    low + int((block.state[at] != UNSEEN).argmax()), "a reserved frame is free"
                )
            block.state[at] = RESERVED
            self.report.reserved += high - low

    def _none(self, block: Block, broken: Array, rule: str, frames: Array | None = None) -> None:
        """CheckError for the first frame of a stretch for which ``broken`` holds; ``frames``:
        which frames it tells of, if not all."""
        if broken.any():
            first = int(broken.argmax())
            raise self.page_error(
                block.start + (first if frames is None else int(frames[first])), rule
            )

    def _allocated(self, block: Block) -> None:
        """What is neither free nor reserved is part of an allocated block."""
        pages, state = block.pages, block.state
        reserved = (pages[:, W_FLAGS] & np.uint64(PG_RESERVED)) != 0
        for rule, broken in (
            ("PG_reserved on a frame memblock has not reserved", reserved & (state != RESERVED)),
            (
                "struct pages inside of a free block are zero",
                (state == FREE) & ~block.is_head & pages.any(axis=1),
            ),
            (
                "a page of type buddy is on a free list",
                (pages[:, W_TYPE_REF] == BUDDY_WORD) & (state != FREE),
            ),
        ):
            self._none(block, broken, rule)
        refs = pages[:, W_TYPE_REF] >> np.uint64(32)
        heads = ((state != RESERVED) & (refs != 0)).nonzero()[0]
        orders = (pages[heads, W_OWNER] & np.uint64(0xFFFF)).astype(np.int64)
        for rule, broken in (
            ("a free frame has _refcount 0", state[heads] == FREE),
            ("_refcount is negative", refs[heads] >= 1 << 31),
            ("page_owner's order is at most MAX_PAGE_ORDER", orders > MAX_PAGE_ORDER),
        ):
            self._none(block, broken, rule, heads)
        for order in np.unique(orders).tolist():
            at = heads[orders == order]
            misaligned = (at + block.start) & ((1 << order) - 1) != 0
            rule = f"an allocated block of order {order} is aligned to its size"
            self._none(block, misaligned, rule, at)
            self._cover(block, at, 1 << order, ALLOCATED)
            if order:
                self._tails(block, at, order)
        self._none(
            block, state == UNSEEN, "every frame is free, reserved, or part of an allocated block"
        )
        self._right_zones(block)
        self.report.allocated += int((state == ALLOCATED).sum())

    def _right_zones(self, block: Block) -> None:
        zone_bits = block.pages[:, W_FLAGS] >> np.uint64(ZONES_PGSHIFT) & np.uint64(7)
        frames = np.arange(block.start, block.end)
        for zone in self.k.zones:
            inside = (frames >= zone.zone_start_pfn) & (frames < zone.zone_end_pfn)
            wrong = inside & (block.state == ALLOCATED) & (zone_bits != zone.zone_idx)
            self._none(block, wrong, "the zone in the flags is the zone of the frame")

    def _tails(self, block: Block, heads: Array, order: int) -> None:
        tails = (heads[:, None] + np.arange(1, 1 << order)).ravel()
        wrong = block.pages[tails, W_TYPE_REF] != TAIL_WORD
        if wrong.any():
            raise self.page_error(
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
            raise self.page_error(
                block.start + int(tails[int(wrong.argmax())]),
                "compound_head of a tail points to its head, and is 0 if not compound",
                "page_tail",
            )
        first = block.pages[heads + 1, W_FLAGS] & np.uint64(0xFF)
        wrong = compound & (first != order)
        if wrong.any():
            raise self.page_error(
                block.start + int(heads[int(wrong.argmax())]) + 1,
                "the second page of a compound block holds its order",
                "page_tail",
            )

    def state_of(self, pfn: int) -> int:
        """UNSEEN for a frame in the deferred range or outside of RAM."""
        block = self.stretch(pfn)
        if block is not None:
            return int(block.state[pfn - block.start])
        low, high = self.k.memmap_implicit()
        return RESERVED if low <= pfn < high else UNSEEN

    def states(self, pfns: Array) -> Array:
        """state_of, of many."""
        states = np.full(len(pfns), UNSEEN, np.uint8)
        for block in self.blocks:
            mine = (pfns >= block.start) & (pfns < block.end)
            states[mine] = block.state[pfns[mine] - block.start]
        low, high = self.k.memmap_implicit()
        states[(pfns >= low) & (pfns < high)] = RESERVED
        return states

    def struct_pages(self, pfns: Array) -> Array:
        """The struct pages of frames of RAM, as rows of words."""
        memmap = self.ram.array(
            self.space.memmap_pa, (self.space.end_pfn - self.space.start_pfn) * PAGE_WORDS
        )
        rows: Array = memmap.reshape(-1, PAGE_WORDS)[pfns - self.space.start_pfn]
        return rows

    def typed(self, page_type: int) -> list[int]:
        found: list[int] = []
        for block in self.blocks:
            types = block.pages[:, W_TYPE_REF] & _LOW32
            at = ((types == page_type) & block.is_head & (block.state == ALLOCATED)).nonzero()[0]
            found.extend((at + block.start).tolist())
        return found

    # slabs

    def slabs(self) -> None:
        slabs = self.typed(PAGE_TYPE_SLAB)
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
