"""The buddy system: the free lists of the zones, splitting, merging, and migratetypes.

A free block of order k is 2^k frames, aligned to its size; the struct page of its first
frame carries page_type buddy, the order in ``private``, and the link of
``free_area[k].free_list[migratetype]``. Allocation takes the smallest listed block that
fits and lists the upper halves it does not need (``expand``); freeing merges with the
buddy ``pfn ^ (1 << k)`` for as long as that is a free block of the same order in the same
zone. A merged block goes to the head of its list, or to the tail when its next-order buddy
is free, so that it stays around to be merged once more.

Which list: that of the block's pageblock (one byte for every 2 MiB, 0 meaning Movable, in
an array in RAM). A request that finds nothing of its own migratetype steals, the largest
block first, in the order of FALLBACKS:

* A block of a pageblock or more is taken, and its pageblocks change type.
* From half the pageblock order up, and at any order if the request is not Movable, the
  pageblock is claimed when at least half of it is free or alike: its free blocks change
  lists. When it is not, the frames are taken and nothing else.
* A Movable request that finds only smaller blocks takes the smallest that fits.

With less than 2048 pages of memory mobility is off and every list but Movable stays empty.
This is the part that knows no watermarks and no requests; page_alloc.py stands on it.

Source: Linux mm/page_alloc.c (_free_one_page, expand, __rmqueue, __rmqueue_fallback,
steal_suitable_fallback, move_freepages_block, deferred_grow_zone).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mm.addrspace import Space
from mm.errors import BadPage, CorruptionError, ListCorruption
from mm.layout import count_down, count_up
from mm.lists import Lists
from mm.mmzone import MIGRATE_TYPES, MigrateType
from mm.page import (
    BUDDY_WORD,
    PAGE_WORDS,
    W_FLAGS,
    W_LRU_NEXT,
    W_LRU_PREV,
    W_OWNER,
    W_PRIVATE,
    W_TYPE_REF,
)
from mm.zone import (
    LISTED_AT_BOOT_PAGES,
    MAX_ORDER_NR_PAGES,
    MAX_PAGE_ORDER,
    NR_PAGE_ORDERS,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    Zone,
)
from mm.zone_index import ZoneIndex

Words = npt.NDArray[np.uint64]

ZERO_PAGE_WORDS = memoryview(bytes(PAGE_WORDS * 8)).cast("Q")
_U, _M, _R, _H = MigrateType
_MIGRATE_TYPES = tuple(MigrateType)
FALLBACKS = {_U: (_R, _M), _M: (_R, _U), _R: (_U, _M), _H: ()}
_GFP_MOVABLE_BIT = 8 << 32  # __GFP_MOVABLE in page_owner's word


class Buddy:
    """The free lists of ``zones`` (views of struct zone).

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
        # The byte of pageblock n lies at types_offset + n, in bytes from the start of RAM.
        self.types_offset = pageblock_pa - space.ram.base - (space.start_pfn >> PAGEBLOCK_ORDER)
        self._u64 = space.ram.u64
        self._memmap = space.memmap_index
        self._start = space.start_pfn
        self.index = [ZoneIndex(z, space) for z in zones]
        managed = sum(z.managed_pages for z in zones)
        # Below this much memory Linux does not group pages by mobility.
        self.mobility_disabled = managed < PAGEBLOCK_NR_PAGES * MIGRATE_TYPES

    # boot

    def init_lists(self) -> None:
        """Empty free lists and per-CPU lists in every zone (zone_init_free_lists)."""
        for zone in self.index:
            for order in range(NR_PAGE_ORDERS):
                self._u64[zone.area[order]] = 0
                for head in zone.heads[order]:
                    self.lists.init(head)
            for head, _ in zone.pcp_lists:
                self.lists.init(head)

    def free_boot_range(self, zone_number: int, start: int, end: int, defer: bool) -> None:
        """Give frames ``[start, end)`` (PFN) of one zone to the allocator, at boot.

        Blocks of order min(10, ffs(pfn)) that fit, ascending, each to the tail of the
        Movable list (memblock's __free_pages_memory). ``defer``: all but the first
        LISTED_AT_BOOT_PAGES of whole max-order blocks become the zone's deferred range;
        right only for the last range of the zone that has such blocks.
        """
        zone = self.zone_numbered(zone_number)
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
                count_up(
                    self._u64,
                    zone.area[MAX_PAGE_ORDER],
                    (last - listed) // MAX_ORDER_NR_PAGES,
                    "free_area.nr_free",
                )
            self._append_max_order(zone, first, listed)
            count_up(
                self._u64,
                zone.area[MAX_PAGE_ORDER],
                (listed - first) // MAX_ORDER_NR_PAGES,
                "free_area.nr_free",
            )
            self._free_ascending(zone, last, end)
        count_up(self._u64, zone.free_word, end - start, "zone.nr_free_pages")

    def _free_ascending(self, zone: ZoneIndex, pfn: int, end: int) -> None:
        while pfn < end:
            order = min(MAX_PAGE_ORDER, (pfn & -pfn).bit_length() - 1)
            while pfn + (1 << order) > end:
                order -= 1
            self.free_one_page(zone, pfn, order, _M, to_tail=True)
            pfn += 1 << order

    def _append_max_order(self, zone: ZoneIndex, start: int, end: int) -> None:
        """List max-order blocks ``[start, end)`` at the tail of the Movable list, at once."""
        head = zone.heads[MAX_PAGE_ORDER][_M]
        head_index = self.space.index(head)
        old_tail = self._u64[head_index + 1]
        old_tail_index = self.space.index(old_tail)
        if self._u64[old_tail_index] != head:
            raise ListCorruption(old_tail, "the last entry does not point to the head")
        pages = self.struct_pages(start, end - start)[::MAX_ORDER_NR_PAGES]
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
        zone.trust(self.space)
        stop = min(end, first + count)
        self._append_max_order(self.index_of(zone), first, stop)
        zone.first_deferred_pfn = stop
        return True

    # lookups

    def struct_pages(self, pfn: int, count: int) -> Words:
        """The struct pages of ``count`` frames as rows of eight words."""
        array: Words = self.ram.array(self.space.page_pa(pfn), count * PAGE_WORDS)
        return array.reshape(count, PAGE_WORDS)

    def zone_numbered(self, number: int) -> ZoneIndex:
        for zone in self.index:
            if zone.number == number:
                return zone
        raise ValueError(f"this machine has no zone {number}")

    def index_of(self, zone: Zone) -> ZoneIndex:
        """The index of one of ``zones``, whatever is in its fields by now."""
        return next(index for index in self.index if index.zone == zone)

    def zone_of(self, pfn: int) -> ZoneIndex | None:
        for zone in self.index:
            if zone.start <= pfn < zone.end:
                return zone
        return None

    def page_zone(self, pfn: int) -> Zone:
        """The zone of frame ``pfn``. Raises BadPage if it is in none."""
        zone = self.zone_of(pfn)
        if zone is None:
            raise BadPage(pfn, "no such page frame")
        return zone.zone

    def get_pageblock_migratetype(self, pfn: int) -> MigrateType:
        """The migratetype of the pageblock (2 MiB) of frame ``pfn``. Raises CorruptionError."""
        migratetype = self.pageblock_byte(pfn) ^ _M
        if migratetype >= MIGRATE_TYPES:
            pa = self._pageblock(pfn)
            raise CorruptionError("pageblock", pa, f"{migratetype} is no migratetype")
        return _MIGRATE_TYPES[migratetype]

    def pageblock_byte(self, pfn: int) -> int:
        """What RAM has for the pageblock of frame ``pfn``: its migratetype ^ 1, if all is well."""
        at = self.types_offset + (pfn >> PAGEBLOCK_ORDER)
        return self._u64[at >> 3] >> ((at & 7) << 3) & 0xFF

    def set_pageblock_migratetype(self, pfn: int, migratetype: MigrateType) -> None:
        """Make the pageblock of frame ``pfn`` one of ``migratetype``."""
        self.ram.write8(self._pageblock(pfn), migratetype ^ _M)

    def _pageblock(self, pfn: int) -> int:
        return self.pageblock_pa + (pfn >> PAGEBLOCK_ORDER) - (self._start >> PAGEBLOCK_ORDER)

    def nr_free_pages(self) -> int:
        """Free pages of all zones (NR_FREE_PAGES)."""
        return sum(self._u64[z.free_word] for z in self.index)

    # free lists

    def add_block(
        self, zone: ZoneIndex, pfn: int, order: int, mt: int, to_tail: bool = False
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
        count_up(u64, zone.area[order], 1, "free_area.nr_free")

    def del_block(self, zone: ZoneIndex, pfn: int, order: int) -> None:
        """Off its list; its struct page becomes that of any frame inside of a free block."""
        self.lists.delete(self.space.page_va(pfn) + 8 * W_LRU_NEXT)
        i = self._memmap + ((pfn - self._start) << 3)
        self._u64[i : i + PAGE_WORDS] = ZERO_PAGE_WORDS
        count_down(self._u64, zone.area[order], 1, "free_area.nr_free")

    def _is_buddy(self, zone: ZoneIndex, pfn: int, order: int) -> bool:
        """page_is_buddy: a free block of that order, in that zone, with refcount 0."""
        if not zone.start <= pfn < zone.end:
            return False
        i = self._memmap + ((pfn - self._start) << 3)
        return self._u64[i + W_TYPE_REF] == BUDDY_WORD and self._u64[i + W_PRIVATE] == order

    def free_one_page(
        self, zone: ZoneIndex, pfn: int, order: int, mt: MigrateType, to_tail: bool = False
    ) -> None:
        """_free_one_page: merge as far as it goes, then list. Does not count the pages."""
        while order < MAX_PAGE_ORDER:
            buddy = pfn ^ (1 << order)
            if not self._is_buddy(zone, buddy, order):
                break
            self.del_block(zone, buddy, order)
            if order >= PAGEBLOCK_ORDER and self.get_pageblock_migratetype(buddy) != mt:
                # The halves that expand() will make of this block belong on one list.
                self.set_pageblock_migratetype(buddy, mt)
            pfn &= buddy
            order += 1
        if not to_tail and order < MAX_PAGE_ORDER - 1:
            # buddy_merge_likely: if only our buddy comes free, two orders merge.
            above = pfn & ~(1 << order)
            to_tail = self._is_buddy(zone, above ^ (1 << (order + 1)), order + 1)
        self.add_block(zone, pfn, order, mt, to_tail)

    def _first_block(self, zone: ZoneIndex, order: int, mt: int) -> int | None:
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

    def _expand(self, zone: ZoneIndex, pfn: int, low: int, high: int, mt: int) -> None:
        """Of the block of order ``high`` keep the low 2^low frames, list the rest at the heads."""
        while high > low:
            high -= 1
            self.add_block(zone, pfn + (1 << high), high, mt)

    def list_type(self, pfn: int) -> MigrateType:
        """Whose list a block at ``pfn`` belongs on when it comes free."""
        return _M if self.mobility_disabled else self.get_pageblock_migratetype(pfn)

    def rmqueue_smallest(
        self, zone: ZoneIndex, order: int, mt: int, most: int
    ) -> tuple[int, int] | None:
        for current in range(order, NR_PAGE_ORDERS):
            pfn = self._first_block(zone, current, mt)
            if pfn is not None:
                low = max(order, min(current, most.bit_length() - 1))
                return self._take(zone, pfn, low, current, mt)
        return None

    def _take(self, zone: ZoneIndex, pfn: int, low: int, high: int, mt: int) -> tuple[int, int]:
        """The low 2^low frames of the listed block of order ``high``; the rest is listed."""
        self.del_block(zone, pfn, high)
        self._expand(zone, pfn, low, high, mt)
        count_down(self._u64, zone.free_word, 1 << low, "zone.nr_free_pages")
        return pfn, low

    def rmqueue(
        self, zone: ZoneIndex, order: int, mt: MigrateType, most: int
    ) -> tuple[int, int] | None:
        """__rmqueue: take one block off the lists: ``(pfn, order)``, or None.

        Its order is at least ``order``, and more when ``most`` (pages) allows it and single
        requests of ``order`` would have been served with the very same frames in sequence.
        """
        found = self.rmqueue_smallest(zone, order, mt, most)
        return found if found is not None else self._rmqueue_fallback(zone, order, mt, most)

    # stealing

    def _find_suitable_fallback(
        self, zone: ZoneIndex, order: int, mt: MigrateType
    ) -> tuple[int, MigrateType] | None:
        """The first free block of ``order`` of another type: ``(pfn, type)``."""
        if not self._u64[zone.area[order]]:
            return None
        for other in FALLBACKS[mt]:
            pfn = self._first_block(zone, order, other)
            if pfn is not None:
                return pfn, other
        return None

    def _rmqueue_fallback(
        self, zone: ZoneIndex, order: int, mt: MigrateType, most: int
    ) -> tuple[int, int] | None:
        """__rmqueue_fallback: from the largest block of another type, or, for a Movable
        request that may not claim a pageblock, from the smallest."""
        for current in reversed(range(order, NR_PAGE_ORDERS)):
            found = self._find_suitable_fallback(zone, current, mt)
            if found is None:
                continue
            whole = can_steal_fallback(current, mt)
            if not whole:
                # At the latest it finds again what was found above.
                for smaller in range(order, current + 1):
                    smallest = self._find_suitable_fallback(zone, smaller, mt)
                    if smallest is not None:
                        return self._steal(zone, smallest, smaller, order, mt, whole, most)
            return self._steal(zone, found, current, order, mt, whole, most)
        return None

    def _steal(
        self,
        zone: ZoneIndex,
        found: tuple[int, MigrateType],
        current: int,
        order: int,
        mt: MigrateType,
        whole: bool,
        most: int,
    ) -> tuple[int, int] | None:
        """steal_suitable_fallback."""
        pfn, other = found
        if current >= PAGEBLOCK_ORDER:
            for block in range(pfn, pfn + (1 << current), PAGEBLOCK_NR_PAGES):
                self.set_pageblock_migratetype(block, mt)
            low = max(order, min(current, most.bit_length() - 1))
            return self._take(zone, pfn, low, current, mt)
        if whole and self._claim_pageblock(zone, pfn, other, mt):
            return self.rmqueue_smallest(zone, order, mt, most)
        return self._take(zone, pfn, order, current, other)

    def _claim_pageblock(
        self, zone: ZoneIndex, pfn: int, other: MigrateType, mt: MigrateType
    ) -> bool:
        """Make the pageblock of ``pfn`` one of ``mt`` if at least half of it is free or alike."""
        start = pfn & -PAGEBLOCK_NR_PAGES
        if start < zone.start or start + PAGEBLOCK_NR_PAGES > zone.end:
            return False  # it straddles zones
        pages = self.struct_pages(start, PAGEBLOCK_NR_PAGES)
        heads = (pages[:, W_TYPE_REF] == BUDDY_WORD).nonzero()[0].tolist()
        blocks = [(start + i, int(pages[i, W_PRIVATE])) for i in heads]
        free = sum(1 << o for _, o in blocks)
        used = pages[:, W_TYPE_REF] >> np.uint64(32) != 0
        asked_movable = pages[:, W_OWNER] & np.uint64(_GFP_MOVABLE_BIT) != 0
        orders = pages[used & asked_movable, W_OWNER] & np.uint64(0xFFFF)
        movable = sum(1 << o for o in orders.tolist())
        if mt == _M:
            alike = movable
        elif other == _M:  # all that is not movable suits Unmovable and Reclaimable alike
            alike = PAGEBLOCK_NR_PAGES - (free + movable)
        else:
            alike = 0
        if free + alike < PAGEBLOCK_NR_PAGES // 2:
            return False
        for block, order in blocks:
            self._move_block(zone, block, order, mt)
        self.set_pageblock_migratetype(start, mt)
        return True

    def _move_block(self, zone: ZoneIndex, pfn: int, order: int, mt: int) -> None:
        """move_to_free_list: to the tail of the list of ``mt``."""
        link = self.space.page_va(pfn) + 8 * W_LRU_NEXT
        self.lists.delete(link)
        self.lists.add_tail(link, zone.heads[order][mt])


def can_steal_fallback(order: int, mt: MigrateType) -> bool:
    """Whether a request of type ``mt`` that finds a block of ``order`` may claim its whole
    pageblock: pages that cannot move must not spread (Linux's can_steal_fallback)."""
    return order >= PAGEBLOCK_ORDER // 2 or mt in (_R, _U)
