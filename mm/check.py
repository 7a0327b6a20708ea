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
from mm.errors import BadAddress, CheckError, ListCorruption, MmError, PageTableError, SlabError
from mm.gfp import MIGRATE_TYPES
from mm.kernel import Kernel
from mm.page import (
    BUDDY_WORD,
    PAGE_TYPE_SLAB,
    PAGE_TYPE_TABLE,
    PG_HEAD,
    PG_RESERVED,
    TAIL_WORD,
    W_FLAGS,
    W_LRU_NEXT,
    W_OWNER,
    W_PRIVATE,
    W_PT_MM,
    W_TYPE_REF,
    ZONES_PGSHIFT,
)
from mm.pgtable import MAX_MMS, MmStruct, runs_of
from mm.slab.slub import (
    MAX_CACHES,
    W_COUNTERS,
    W_FREELIST,
    W_SLAB_CACHE,
    KmemCacheNode,
    KmemCacheStruct,
)
from mm.vma import MAX_MAP_COUNT, VM_EXEC, VM_READ, VM_WRITE, VmArea, vm_get_page_prot
from mm.vmalloc import MAX_AREAS, VmStruct
from mm.zone import MAX_PAGE_ORDER, NR_PAGE_ORDERS, Zone

Array = npt.NDArray[Any]
_PPN = np.uint64((1 << 44) - 1)
_LOW32 = np.uint64(0xFFFFFFFF)

# States of a frame.
UNSEEN, FREE, ALLOCATED, RESERVED = range(4)


@dataclass
class Report:
    """What was checked: counts, for a verdict line."""

    frames: int = 0
    free: int = 0
    deferred: int = 0
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
        slub = self.k.slab
        head = slub.slab_caches
        self.walk("kmem_cache", head, MAX_CACHES)
        caches = slub.caches()
        by_va = {cache.va: cache for cache in caches}
        partial: dict[int, int] = {}
        for cache in caches:
            s = cache.struct
            limit = self.space.end_pfn - self.space.start_pfn
            links = self.walk("kmem_cache_node", cache.va + _partial_offset(), limit)
            if len(links) != s.node.nr_partial:
                raise CheckError(
                    "kmem_cache_node",
                    cache.va,
                    f"{s.name}: nr_partial is {s.node.nr_partial}, {len(links)} are listed",
                )
            for link in links:
                partial[self.space.page_to_pfn(link - 16)] = cache.va
        slabs = self._typed(PAGE_TYPE_SLAB)
        count = dict.fromkeys(by_va, 0)
        objects = dict.fromkeys(by_va, 0)
        for pfn in slabs:
            i = self.space.page_index(pfn)
            page_pa = self.space.page_pa(pfn)
            owner = self.u64[i + W_SLAB_CACHE]
            if owner not in by_va:
                raise CheckError("slab", page_pa, f"slab_cache {owner:#x} is no cache of the list")
            cache = by_va[owner]
            counters = self.u64[i + W_COUNTERS]
            inuse, total = counters & 0xFFFF, counters >> 16 & 0x7FFF
            if total != cache.objects_per_slab or self.u64[i + W_OWNER] & 0xFFFF != cache.order:
                raise CheckError(
                    "slab", page_pa, f"{cache.name}: order and objects are those of the cache"
                )
            try:
                free = cache.free_objects(pfn)
            except SlabError as e:
                raise CheckError("slab", page_pa, f"freelist: {e}") from e
            if inuse != total - len(free):
                raise CheckError(
                    "slab",
                    page_pa,
                    f"{cache.name}: inuse is {inuse}, "
                    f"{total - len(free)} of {total} objects are not on the freelist",
                )
            listed = partial.pop(pfn, None)
            if (listed is not None) != bool(self.u64[i + W_FREELIST]):
                raise CheckError(
                    "slab", page_pa, f"{cache.name}: a slab is on the partial list iff it has room"
                )
            if listed is not None and listed != owner:
                raise CheckError("slab", page_pa, "a slab is on the list of its own cache")
            count[owner] += 1
            objects[owner] += total
            self.report.objects += inuse
        if partial:
            pfn = next(iter(partial))
            raise self._page_error(pfn, "an entry of a partial list is a slab", "slab")
        for va, cache in by_va.items():
            node = cache.struct.node
            if (node.nr_slabs, node.total_objects) != (count[va], objects[va]):
                raise CheckError(
                    "kmem_cache_node",
                    va,
                    f"{cache.name}: nr_slabs and total_objects are {node.nr_slabs} and "
                    f"{node.total_objects}, there are {count[va]} and {objects[va]}",
                )
        self.report.caches, self.report.slabs = len(caches), len(slabs)

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
        bad = (states == FREE) | (states == UNSEEN)
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
            ("a user page maps a free frame", states == FREE),
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
        at = 0
        root = k.init_mm
        for link in self.walk("vm_struct", k.vmalloc_areas.vmap_area_list, MAX_AREAS):
            area = VmStruct(self.ram, k.lists.resolve(link))
            if area.addr < at:
                raise CheckError("vm_struct", link, "areas are sorted and do not overlap")
            at = area.addr + area.size
            if area.size != (area.nr_pages + 1) << PAGE_SHIFT or area.addr & 0xFFF:
                raise CheckError("vm_struct", link, "size is that of the pages and one guard page")
            pfns = k.vmalloc_areas.pages_of(area)
            for i, pfn in enumerate(pfns):
                va = area.addr + (i << PAGE_SHIFT)
                found = k.pgtable.lookup(root, va)
                if found is None or found[2] >> PTE_PPN_SHIFT & int(_PPN) != pfn:
                    raise CheckError("vm_struct", link, f"{va:#x} maps pages[{i}]")
            if k.pgtable.lookup(root, at - 1) is not None:
                raise CheckError("vm_struct", link, "the guard page is not mapped")
            self.report.vm_areas += 1


def _expected_prot(vma: VmArea) -> int:
    try:
        return vm_get_page_prot(vma.vm_flags)
    except ValueError as e:
        bad = vma.vm_flags & (VM_READ | VM_WRITE | VM_EXEC)
        raise CheckError("vm_area_struct", vma.vm_start, f"vm_flags {bad:#x}: {e}") from e


def _partial_offset() -> int:
    return KmemCacheStruct.offset_of("node") + KmemCacheNode.offset_of("partial")
