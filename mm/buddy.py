"""The page allocator: the binary buddy system over struct page and the zones' free lists.

A free block of order k is 2^k frames, aligned to its size; the struct page of its first
frame carries page_type buddy, the order in ``private``, and the link of
``free_area[k].free_list[migratetype]``. Allocation takes the smallest listed block that
fits and lists the upper halves it does not need (``expand``); freeing merges with the
buddy ``pfn ^ (1 << k)`` for as long as that is a free block of the same order in the same
zone. A merged block goes to the head of its list, or to the tail when its next-order buddy
is free, so that it stays around to be merged once more.

Which list: that of the block's pageblock (one byte for every 2 MiB, 0 meaning Movable, in
an array in RAM). A request that finds nothing of its own migratetype falls back to the
others, largest block first; taking at least a pageblock makes it its own.

Everything is in RAM; this object only keeps addresses. Source: Linux mm/page_alloc.c
(__free_one_page, expand, __rmqueue, prep_new_page, split_page, deferred_grow_zone).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from emu.ram import PAGE_SHIFT, PAGE_SIZE
from mm.addrspace import Space
from mm.errors import BadPage, ListCorruption
from mm.gfp import (
    GFP_COMP,
    GFP_KERNEL,
    GFP_ZERO,
    MIGRATE_TYPES,
    MigrateType,
    check_gfp,
    gfp_migratetype,
    gfp_zone,
)
from mm.lists import Lists
from mm.page import (
    ALLOCATED_WORD,
    BUDDY_WORD,
    PAGE_FLAGS_CHECK_AT_FREE,
    PAGE_TYPE_NONE,
    PAGE_WORDS,
    PG_HEAD,
    PG_RESERVED,
    TAIL_WORD,
    W_FLAGS,
    W_LRU_NEXT,
    W_LRU_PREV,
    W_MAPPING,
    W_OWNER,
    W_PRIVATE,
    W_TYPE_REF,
    zone_flags,
)
from mm.zone import (
    LISTED_AT_BOOT_PAGES,
    MAX_ORDER_NR_PAGES,
    MAX_PAGE_ORDER,
    NR_PAGE_ORDERS,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    FreeArea,
    Zone,
    build_zonelist,
)

Words = npt.NDArray[np.uint64]

_LOW32 = (1 << 32) - 1
_NO_REASON = 0xFFFF << 16  # page_owner's last_migrate_reason -1
_ZERO_WORDS = memoryview(bytes(PAGE_WORDS * 8)).cast("Q")
_ZERO_FRAME = bytes(PAGE_SIZE)
_U, _M, _R, _H = MigrateType
FALLBACKS = {_U: (_R, _M), _M: (_R, _U), _R: (_U, _M), _H: ()}


class _ZoneIndex:
    """Where a zone's words are in ram.u64: derived from RAM, never changing."""

    __slots__ = ("area", "end", "flags", "free_word", "heads", "number", "start", "zone")

    def __init__(self, zone: Zone, space: Space) -> None:
        self.zone = zone
        self.number = zone.zone_idx
        self.start = zone.zone_start_pfn
        self.end = zone.zone_end_pfn
        self.flags = zone_flags(self.number)
        first = zone.pa + Zone.offset_of("free_area")
        self.area = [
            (first + order * FreeArea.SIZE + FreeArea.offset_of("nr_free") - space.ram.base) >> 3
            for order in range(NR_PAGE_ORDERS)
        ]
        self.heads = [
            [space.va(first + order * FreeArea.SIZE + mt * 16) for mt in range(MIGRATE_TYPES)]
            for order in range(NR_PAGE_ORDERS)
        ]
        self.free_word = (zone.pa + Zone.offset_of("nr_free_pages") - space.ram.base) >> 3


class Buddy:
    """The page allocator over ``zones`` (views of struct zone).

    ``pageblock_pa``: PA of the byte array of pageblock types, one a pageblock of RAM.
    """

    def __init__(
        self, space: Space, lists: Lists, zones: Sequence[Zone], pageblock_pa: int
    ) -> None:
        self.space = space
        self.ram = space.ram
        self.lists = lists
        self.zones = zones
        self.pageblock_pa = pageblock_pa
        self._u64 = space.ram.u64
        self._memmap = space.memmap_index
        self._start = space.start_pfn
        self._index = [_ZoneIndex(z, space) for z in zones]
        self._requests: dict[int, tuple[list[_ZoneIndex], MigrateType]] = {}
        managed = sum(z.managed_pages for z in zones)
        # Below this much memory Linux does not group pages by mobility.
        self.mobility_disabled = managed < PAGEBLOCK_NR_PAGES * MIGRATE_TYPES

    # boot

    def init_lists(self) -> None:
        """Empty free lists in every zone (zone_init_free_lists)."""
        for zone in self._index:
            for order in range(NR_PAGE_ORDERS):
                self._u64[zone.area[order]] = 0
                for head in zone.heads[order]:
                    self.lists.init(head)

    def free_boot_range(self, zone_number: int, start: int, end: int, defer: bool) -> None:
        """Give frames ``[start, end)`` (PFN) of one zone to the allocator, at boot.

        Blocks of order min(10, ffs(pfn)) that fit, ascending, each to the tail of the
        Movable list (memblock's __free_pages_memory). ``defer``: all but the first
        LISTED_AT_BOOT_PAGES of whole max-order blocks become the zone's deferred range;
        right only for the last range of the zone that has such blocks.
        """
        zone = self._zone_number(zone_number)
        first = -(-start // MAX_ORDER_NR_PAGES) * MAX_ORDER_NR_PAGES
        last = end // MAX_ORDER_NR_PAGES * MAX_ORDER_NR_PAGES
        if first >= last:
            first = last = end
        self._free_ascending(zone, start, min(first, end))
        if first < last:
            listed = last
            if defer and last - first > LISTED_AT_BOOT_PAGES:
                listed = first + LISTED_AT_BOOT_PAGES
                zone.zone.first_deferred_pfn = listed
                zone.zone.deferred_end_pfn = last
                self._u64[zone.area[MAX_PAGE_ORDER]] += (last - listed) // MAX_ORDER_NR_PAGES
            self._append_max_order(zone, first, listed)
            self._u64[zone.area[MAX_PAGE_ORDER]] += (listed - first) // MAX_ORDER_NR_PAGES
            self._free_ascending(zone, last, end)
        self._u64[zone.free_word] += end - start
        self._requests.clear()

    def _free_ascending(self, zone: _ZoneIndex, pfn: int, end: int) -> None:
        while pfn < end:
            order = min(MAX_PAGE_ORDER, (pfn & -pfn).bit_length() - 1)
            while pfn + (1 << order) > end:
                order -= 1
            self._free_one_page(zone, pfn, order, _M, to_tail=True)
            pfn += 1 << order

    def _append_max_order(self, zone: _ZoneIndex, start: int, end: int) -> None:
        """List max-order blocks ``[start, end)`` at the tail of the Movable list, at once."""
        head = zone.heads[MAX_PAGE_ORDER][_M]
        head_index = self.space.index(head)
        old_tail = self._u64[head_index + 1]
        old_tail_index = self.space.index(old_tail)
        if self._u64[old_tail_index] != head:
            raise ListCorruption(old_tail, "the last entry does not point to the head")
        pages = self._pages(start, end - start)[::MAX_ORDER_NR_PAGES]
        links = np.arange(start, end, MAX_ORDER_NR_PAGES, dtype=np.uint64)
        links -= np.uint64(self._start)
        links <<= np.uint64(6)
        links += np.uint64(self.space.vmemmap + 8 * W_LRU_NEXT)
        pages[:, W_FLAGS] = zone.flags
        pages[:-1, W_LRU_NEXT] = links[1:]
        pages[-1, W_LRU_NEXT] = head
        pages[1:, W_LRU_PREV] = links[:-1]
        pages[0, W_LRU_PREV] = old_tail
        pages[:, W_PRIVATE] = MAX_PAGE_ORDER
        pages[:, W_TYPE_REF] = BUDDY_WORD
        self._u64[old_tail_index] = int(links[0])
        self._u64[head_index + 1] = int(links[-1])

    def deferred_grow_zone(self, zone: Zone, count: int = LISTED_AT_BOOT_PAGES) -> bool:
        """List the next ``count`` pages of the zone's deferred range; False if there is none."""
        first, end = zone.first_deferred_pfn, zone.deferred_end_pfn
        if first >= end:
            return False
        stop = min(end, first + count)
        self._append_max_order(self._zone_number(zone.zone_idx), first, stop)
        zone.first_deferred_pfn = stop
        return True

    # lookups

    def _pages(self, pfn: int, count: int) -> Words:
        """The struct pages of ``count`` frames as rows of eight words."""
        array: Words = self.ram.array(self.space.page_pa(pfn), count * PAGE_WORDS)
        return array.reshape(count, PAGE_WORDS)

    def _zone_number(self, number: int) -> _ZoneIndex:
        for zone in self._index:
            if zone.number == number:
                return zone
        raise ValueError(f"this machine has no zone {number}")

    def _zone_of(self, pfn: int) -> _ZoneIndex | None:
        for zone in self._index:
            if zone.start <= pfn < zone.end:
                return zone
        return None

    def page_zone(self, pfn: int) -> Zone:
        """The zone of frame ``pfn``. Raises BadPage if it is in none."""
        zone = self._zone_of(pfn)
        if zone is None:
            raise BadPage(pfn, "no such page frame")
        return zone.zone

    def get_pageblock_migratetype(self, pfn: int) -> MigrateType:
        """The migratetype of the pageblock (2 MiB) of frame ``pfn``."""
        return MigrateType(self.ram.read8(self._pageblock(pfn)) ^ _M)

    def set_pageblock_migratetype(self, pfn: int, migratetype: MigrateType) -> None:
        """Make the pageblock of frame ``pfn`` one of ``migratetype``."""
        self.ram.write8(self._pageblock(pfn), migratetype ^ _M)

    def _pageblock(self, pfn: int) -> int:
        return self.pageblock_pa + (pfn >> PAGEBLOCK_ORDER) - (self._start >> PAGEBLOCK_ORDER)

    def nr_free_pages(self) -> int:
        """Free pages of all zones (NR_FREE_PAGES)."""
        return sum(self._u64[z.free_word] for z in self._index)

    # free lists

    def _add_block(
        self, zone: _ZoneIndex, pfn: int, order: int, mt: int, to_tail: bool = False
    ) -> None:
        i = self._memmap + ((pfn - self._start) << 3)
        u64 = self._u64
        link = self.space.page_va(pfn) + 8 * W_LRU_NEXT
        if to_tail:
            self.lists.add_tail(link, zone.heads[order][mt])
        else:
            self.lists.add(link, zone.heads[order][mt])
        u64[i] = zone.flags
        u64[i + W_PRIVATE] = order
        u64[i + W_TYPE_REF] = BUDDY_WORD
        u64[zone.area[order]] += 1

    def _del_block(self, zone: _ZoneIndex, pfn: int, order: int) -> None:
        """Off its list; its struct page becomes that of any frame inside of a free block."""
        self.lists.delete(self.space.page_va(pfn) + 8 * W_LRU_NEXT)
        i = self._memmap + ((pfn - self._start) << 3)
        self._u64[i : i + PAGE_WORDS] = _ZERO_WORDS
        self._u64[zone.area[order]] -= 1

    def _is_buddy(self, zone: _ZoneIndex, pfn: int, order: int) -> bool:
        """page_is_buddy: a free block of that order, in that zone, with refcount 0."""
        if not zone.start <= pfn < zone.end:
            return False
        i = self._memmap + ((pfn - self._start) << 3)
        return self._u64[i + W_TYPE_REF] == BUDDY_WORD and self._u64[i + W_PRIVATE] == order

    def _free_one_page(
        self, zone: _ZoneIndex, pfn: int, order: int, mt: MigrateType, to_tail: bool = False
    ) -> None:
        """__free_one_page: merge as far as it goes, then list. Does not count the pages."""
        while order < MAX_PAGE_ORDER:
            buddy = pfn ^ (1 << order)
            if not self._is_buddy(zone, buddy, order):
                break
            self._del_block(zone, buddy, order)
            if order >= PAGEBLOCK_ORDER and self.get_pageblock_migratetype(buddy) != mt:
                # The halves that expand() will make of this block belong on one list.
                self.set_pageblock_migratetype(buddy, mt)
            pfn &= buddy
            order += 1
        if not to_tail and order < MAX_PAGE_ORDER - 1:
            # buddy_merge_likely: if only our buddy comes free, two orders merge.
            above = pfn & ~(1 << order)
            to_tail = self._is_buddy(zone, above ^ (1 << (order + 1)), order + 1)
        self._add_block(zone, pfn, order, mt, to_tail)

    def _first_block(self, zone: _ZoneIndex, order: int, mt: int) -> int | None:
        """The PFN of the first listed block, None if there is none. Grows the deferred range."""
        head = zone.heads[order][mt]
        link = self.lists.first(head)
        if not link and order == MAX_PAGE_ORDER and mt == _M and self.deferred_grow_zone(zone.zone):
            link = self.lists.first(head)
        if not link:
            return None
        pfn = self.space.page_to_pfn(link - 8 * W_LRU_NEXT)
        if not self._is_buddy(zone, pfn, order):
            raise ListCorruption(link, f"an entry of a free list is no free block of order {order}")
        return pfn

    def _expand(self, zone: _ZoneIndex, pfn: int, low: int, high: int, mt: int) -> None:
        """Of the block of order ``high`` keep the low 2^low frames, list the rest at the heads."""
        while high > low:
            high -= 1
            self._add_block(zone, pfn + (1 << high), high, mt)

    def _rmqueue(
        self, zone: _ZoneIndex, order: int, mt: MigrateType, most: int
    ) -> tuple[int, int] | None:
        """Take one block off the lists: ``(pfn, order)``, or None.

        Its order is at least ``order``, and more when ``most`` (pages) allows it and single
        requests of ``order`` would have been served with the very same frames in sequence.
        """
        for current in range(order, NR_PAGE_ORDERS):
            pfn = self._first_block(zone, current, mt)
            if pfn is not None:
                low = max(order, min(current, most.bit_length() - 1))
                self._del_block(zone, pfn, current)
                self._expand(zone, pfn, low, current, mt)
                self._u64[zone.free_word] -= 1 << low
                return pfn, low
        return self._rmqueue_fallback(zone, order, mt, most)

    def _rmqueue_fallback(
        self, zone: _ZoneIndex, order: int, mt: MigrateType, most: int
    ) -> tuple[int, int] | None:
        """__rmqueue_fallback without the search for pageblocks to claim (next issue)."""
        for current in reversed(range(order, NR_PAGE_ORDERS)):
            for other in FALLBACKS[mt]:
                pfn = self._first_block(zone, current, other)
                if pfn is None:
                    continue
                self._del_block(zone, pfn, current)
                low, rest = order, other
                if current >= PAGEBLOCK_ORDER:
                    for block in range(pfn, pfn + (1 << current), PAGEBLOCK_NR_PAGES):
                        self.set_pageblock_migratetype(block, mt)
                    low, rest = max(order, min(current, most.bit_length() - 1)), mt
                self._expand(zone, pfn, low, current, rest)
                self._u64[zone.free_word] -= 1 << low
                return pfn, low
        return None

    # allocation

    def _request(self, gfp: int) -> tuple[list[_ZoneIndex], MigrateType]:
        found = self._requests.get(gfp)
        if found is None:
            check_gfp(gfp)
            zonelist = build_zonelist(self.zones, gfp_zone(gfp))
            by_number = {z.number: z for z in self._index}
            mt = gfp_migratetype(gfp)
            if self.mobility_disabled:
                mt = _M
            found = [by_number[z.zone_idx] for z in zonelist], mt
            self._requests[gfp] = found
        return found

    def alloc_pages(self, gfp: int, order: int) -> int | None:
        """``alloc_pages``: 2^order frames, aligned to their size; the first one's PFN.

        None when no zone of the request has such a block, or ``order`` > MAX_PAGE_ORDER.
        __GFP_ZERO clears the frames, __GFP_COMP makes them one compound page; otherwise
        the frames are not zeroed. Raises GfpError, ValueError for a negative order.
        """
        zonelist, mt = self._request(gfp)
        if not 0 <= order <= MAX_PAGE_ORDER:
            if order < 0:
                raise ValueError(f"alloc_pages of order {order}")
            return None
        for zone in zonelist:
            taken = self._rmqueue(zone, order, mt, 0)
            if taken is not None:
                self._prep_new_page(zone, taken[0], order, gfp)
                return taken[0]
        return None

    def alloc_page(self, gfp: int = GFP_KERNEL) -> int | None:
        """One frame: its PFN, or None."""
        return self.alloc_pages(gfp, 0)

    def alloc_page_runs(self, gfp: int, count: int) -> list[tuple[int, int]] | None:
        """``count`` single frames as runs ``(pfn, count)``: those that ``count`` calls of
        alloc_page would return, in that order, each freeable alone. None: not enough, and
        nothing was taken. Raises GfpError.
        """
        zonelist, mt = self._request(gfp)
        runs: list[tuple[int, int]] = []
        left = count
        for zone in zonelist:
            while left > 0:
                taken = self._rmqueue(zone, 0, mt, left)
                if taken is None:
                    break
                pfn, order = taken
                self._prep_new_singles(zone, pfn, 1 << order, gfp)
                if runs and runs[-1][0] + runs[-1][1] == pfn:
                    runs[-1] = runs[-1][0], runs[-1][1] + (1 << order)
                else:
                    runs.append((pfn, 1 << order))
                left -= 1 << order
        if left > 0:
            self.free_page_runs(runs)
            return None
        return runs

    def alloc_pages_bulk(self, gfp: int, count: int) -> list[int]:
        """Up to ``count`` single frames: PFNs, fewer when memory runs out (Linux's
        alloc_pages_bulk likewise returns how many it got). Raises GfpError."""
        runs = self.alloc_page_runs(gfp, count)
        if runs is None:
            pfns: list[int] = []
            while (pfn := self.alloc_pages(gfp, 0)) is not None:
                pfns.append(pfn)
            return pfns
        return [pfn for start, n in runs for pfn in range(start, start + n)]

    def _zero_frames(self, pfn: int, count: int) -> None:
        pa = pfn << PAGE_SHIFT
        if count == 1:
            self.ram.write(pa, _ZERO_FRAME)
        else:
            self.ram.fill(pa, count << PAGE_SHIFT)

    def _prep_new_page(self, zone: _ZoneIndex, pfn: int, order: int, gfp: int) -> None:
        """prep_new_page: the struct pages of a block that leaves the allocator."""
        u64 = self._u64
        i = self._memmap + ((pfn - self._start) << 3)
        u64[i] = zone.flags
        u64[i + W_TYPE_REF] = ALLOCATED_WORD
        u64[i + W_OWNER] = gfp << 32 | _NO_REASON | order
        if order:
            tails = self._pages(pfn + 1, (1 << order) - 1)
            tails[:, W_FLAGS] = zone.flags
            tails[:, W_TYPE_REF] = TAIL_WORD
            if gfp & GFP_COMP:
                u64[i] |= PG_HEAD
                tails[:, W_LRU_NEXT] = self.space.page_va(pfn) | 1
                u64[i + PAGE_WORDS] |= order
        if gfp & GFP_ZERO:
            self._zero_frames(pfn, 1 << order)

    def _prep_new_singles(self, zone: _ZoneIndex, pfn: int, count: int, gfp: int) -> None:
        if count == 1:
            self._prep_new_page(zone, pfn, 0, gfp)
            return
        pages = self._pages(pfn, count)
        pages[:, W_FLAGS] = zone.flags
        pages[:, W_TYPE_REF] = ALLOCATED_WORD
        pages[:, W_OWNER] = gfp << 32 | _NO_REASON
        if gfp & GFP_ZERO:
            self._zero_frames(pfn, count)

    def split_page(self, pfn: int, order: int) -> None:
        """Turn an allocated block that is not compound into 2^order single frames.

        Raises BadPage when ``pfn`` does not head such a block of exactly that order.
        """
        self._check_head(pfn, order)
        i = self.space.page_index(pfn)
        if self._u64[i] & PG_HEAD:
            raise BadPage(pfn, "split_page of a compound page")
        owner = self._u64[i + W_OWNER] & ~_LOW32 | _NO_REASON
        pages = self._pages(pfn, 1 << order)
        pages[1:, W_TYPE_REF] = ALLOCATED_WORD
        pages[:, W_OWNER] = owner

    # freeing

    def _check_head(self, pfn: int, order: int) -> _ZoneIndex:
        """The zone of an allocated head that was allocated with ``order``; else BadPage."""
        zone = self._zone_of(pfn)
        if zone is None:
            raise BadPage(pfn, "no such page frame")
        i = self.space.page_index(pfn)
        flags, word = self._u64[i], self._u64[i + W_TYPE_REF]
        if flags & PG_RESERVED:
            raise BadPage(pfn, "PAGE_FLAGS_CHECK_AT_FREE flag(s) set (reserved)")
        if self._u64[i + W_LRU_NEXT] & 1:
            raise BadPage(pfn, "it is a tail of a compound page")
        if not word >> 32:
            why = "a free block" if word == BUDDY_WORD else "no allocated block starts here"
            raise BadPage(pfn, f"_refcount is 0: {why} (freed twice?)")
        allocated = self._u64[i + W_OWNER] & 0xFFFF
        if order != allocated:
            raise BadPage(pfn, f"freed with order {order}, allocated with order {allocated}")
        return zone

    def _check_free(self, pfn: int, order: int) -> _ZoneIndex:
        """free_page_is_bad: the zone of a head that may be freed now; else BadPage."""
        zone = self._check_head(pfn, order)
        i = self.space.page_index(pfn)
        word = self._u64[i + W_TYPE_REF]
        if word & _LOW32 != PAGE_TYPE_NONE:
            raise BadPage(pfn, f"nonzero mapcount (or a page_type: {word & _LOW32:#x})")
        if self._u64[i + W_MAPPING]:
            raise BadPage(pfn, "non-NULL mapping")
        if self._u64[i] & PAGE_FLAGS_CHECK_AT_FREE:
            raise BadPage(pfn, "PAGE_FLAGS_CHECK_AT_FREE flag(s) set")
        return zone

    def free_pages(self, pfn: int, order: int) -> None:
        """``__free_pages``: drop the reference of alloc_pages; the last one frees the block.

        Raises BadPage, nothing changed, when no block of that order was allocated at
        ``pfn`` (free already, a tail, reserved, foreign), or when it is still in use
        (mapped, typed, locked).
        """
        i = self.space.page_index(pfn)
        if self.space.pfn_valid(pfn) and self._u64[i + W_TYPE_REF] >> 32 > 1:
            self._check_head(pfn, order)
            self._u64[i + W_TYPE_REF] -= 1 << 32
            return
        zone = self._check_free(pfn, order)
        self._release(zone, pfn, 1 << order)
        self._free_one_page(zone, pfn, order, self._list_type(pfn))

    def _list_type(self, pfn: int) -> MigrateType:
        return _M if self.mobility_disabled else self.get_pageblock_migratetype(pfn)

    def _release(self, zone: _ZoneIndex, pfn: int, count: int) -> None:
        i = self._memmap + ((pfn - self._start) << 3)
        if count == 1:
            self._u64[i : i + PAGE_WORDS] = _ZERO_WORDS
        else:
            self._pages(pfn, count)[:] = 0
        self._u64[zone.free_word] += count

    def free_page(self, pfn: int) -> None:
        """Free one frame. Raises BadPage."""
        self.free_pages(pfn, 0)

    def get_page(self, pfn: int) -> None:
        """Take one more reference on an allocated head. Raises BadPage if it has none."""
        i = self.space.page_index(pfn)
        if not self.space.pfn_valid(pfn) or not self._u64[i + W_TYPE_REF] >> 32:
            raise BadPage(pfn, "get_page of a page without a reference")
        self._u64[i + W_TYPE_REF] += 1 << 32

    def free_page_runs(self, runs: Iterable[tuple[int, int]]) -> None:
        """Free single frames given as runs ``(pfn, count)``: the fast path for many.

        All are checked first: BadPage, nothing changed, if one of them may not be freed.
        Frames with further references only lose one. The same blocks come free as if each
        were freed alone; their order in the lists may differ.
        """
        runs = list(runs)
        plain = []
        seen: list[tuple[int, int]] = []
        for pfn, count in runs:
            plain.append(count > 8 and self._all_plain(pfn, count))
            if plain[-1]:
                seen.append((pfn, count))
                continue
            for single in range(pfn, pfn + count):
                i = self.space.page_index(single)
                if self.space.pfn_valid(single) and self._u64[i + W_TYPE_REF] >> 32 > 1:
                    self._check_head(single, 0)
                else:
                    self._check_free(single, 0)
                    seen.append((single, 1))
        seen.sort()
        for (a, n), (b, _) in pairwise(seen):
            if a + n > b:
                raise BadPage(b, "freed twice in one call")
        for (pfn, count), is_plain in zip(runs, plain, strict=True):
            if is_plain:
                self._free_run(pfn, count)
            else:
                for single in range(pfn, pfn + count):
                    self.free_pages(single, 0)

    def _all_plain(self, pfn: int, count: int) -> bool:
        """Whether these frames are all single, allocated once and unused."""
        zone = self._zone_of(pfn)
        if zone is None or pfn + count > zone.end:
            return False
        pages = self._pages(pfn, count)
        return (
            bool((pages[:, W_TYPE_REF] == ALLOCATED_WORD).all())
            and not (pages[:, W_OWNER] & 0xFFFF).any()
            and not pages[:, W_MAPPING].any()
            and bool((pages[:, W_FLAGS] == zone.flags).all())
            and not (pages[:, W_LRU_NEXT] & 1).any()
        )

    def _free_run(self, pfn: int, count: int) -> None:
        zone = self._zone_of(pfn)
        if zone is None:
            raise BadPage(pfn, "no such page frame")
        self._release(zone, pfn, count)
        end = pfn + count
        while pfn < end:
            order = min(MAX_PAGE_ORDER, (pfn & -pfn).bit_length() - 1)
            while pfn + (1 << order) > end:
                order -= 1
            # Blocks above a pageblock could span two types; lists are per pageblock.
            order = min(order, PAGEBLOCK_ORDER)
            self._free_one_page(zone, pfn, order, self._list_type(pfn))
            pfn += 1 << order
