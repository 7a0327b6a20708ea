"""Per-CPU page lists: small blocks that a CPU allocates and frees without the buddy lists.

Each zone has one ``struct per_cpu_pages`` in RAM (one CPU), with a list for each order 0 to
3 and each of Unmovable, Movable, Reclaimable: ``lists[3 * order + migratetype]``. An empty
list is refilled with ``batch`` pages (max(batch >> order, 2) blocks), in ascending order;
a freed block goes to the head; once ``count`` reaches ``high``, ``batch`` pages go back to
the buddy, from the tails, the list just freed to first. ``batch`` 0: the lists are off.

Nothing about them is kept in Python. **Guest code pops and pushes them itself**, in the
same RAM, whenever ``debug`` is 0; this is all it has to write (words are 8 bytes of struct
page, counted from 0; ``zone->flags`` is ``(uint64_t)zone_idx << ZONES_PGSHIFT``):

| pop a block of order o | |
|---|---|
| list | ``pcp->lists[3 * o + mt]``, mt from the gfp; empty: trap (alloc_pages refills) |
| unlink | next->prev = prev, prev->next = next; words 1 and 2 of the page = 0 |
| count | ``pcp->count -= 1 << o`` |
| struct page | word 6 = 0x1ffffffff (_refcount 1, no type), word 7 = gfp << 32 | 0xffff0000 | o |

With __GFP_COMP and o > 0 also: PG_head set in word 0; in each tail word 1 = page | 1; in the
first tail word 0 |= o. With __GFP_ZERO the frames are cleared.

| push a block of order o <= 3 | |
|---|---|
| checks, else trap | word 6 == 0x1ffffffff, word 7 & 0xffff == o, word 3 == 0, bit 0 of word 1 clear, word 0 == zone->flags (or with PG_head), ``pcp->count + (1 << o) < pcp->high``; of each tail word 6 == 0xffffffff, words 1 and 3 == 0, word 0 == zone->flags (compound: see above) |
| list | ``pcp->lists[3 * o + mt]``, mt = pageblock byte ^ 1 (above 2: trap) |
| struct page | words 3, 4, 5 = 0, word 6 = 0xffffffff (_refcount 0) |
| if PG_head | word 0 = zone->flags; each tail: words 0 = zone->flags, 1 = 0 |
| link | at the head of the list: words 1 and 2, head->next->prev, head->next |
| count | ``pcp->count += 1 << o`` |

The tails of a block on a list are as those of an allocated block that is not compound, so
a block that is not compound needs no work on them. ``nr_free_pages`` does not count these
pages, and the watermarks are not asked: they guard the buddy lists.

Source: Linux mm/page_alloc.c (rmqueue_pcplist, rmqueue_bulk, free_unref_page_commit,
free_pcppages_bulk, drain_pages_zone). ``high`` stays at high_min: no auto-tuning.
"""  # noqa: E501

from __future__ import annotations

import numpy as np

from mm.buddy import ZERO_PAGE_WORDS, Buddy
from mm.errors import ListCorruption
from mm.layout import count_down, count_up
from mm.mmzone import MigrateType
from mm.page import (
    PAGE_WORDS,
    PCP_WORD,
    PG_HEAD,
    TAIL_WORD,
    W_FLAGS,
    W_LRU_NEXT,
    W_LRU_PREV,
    W_PRIVATE,
    W_PT_MM,
    W_TYPE_REF,
)
from mm.zone import MIGRATE_PCPTYPES, NR_PCP_LISTS, PAGEBLOCK_ORDER
from mm.zone_index import ZoneIndex

_MOVABLE = int(MigrateType.MOVABLE)
_VECTOR_MIN = 8  # from here on numpy beats a loop


class PerCpuLists:
    """The per-CPU lists of all zones, in front of ``buddy``."""

    def __init__(self, buddy: Buddy) -> None:
        self.buddy = buddy
        self.space = buddy.space
        self.lists = buddy.lists
        self._u64 = buddy.ram.u64
        self._memmap = buddy.space.memmap_index
        self._start = buddy.space.start_pfn
        self._one_type = buddy.mobility_disabled
        self._types = buddy.types_offset
        self._first_link = buddy.space.vmemmap + 8 * W_LRU_NEXT
        self._links_size = buddy.space.vmemmap_end - buddy.space.vmemmap

    def pop(self, zone: ZoneIndex, order: int, mt: int) -> int | None:
        """rmqueue_pcplist: a block off a list, refilled if it must be: its PFN.

        Its struct page is still that of a listed block, with the link cleared. None when the
        lists are off or the buddy has nothing. Raises ListCorruption.
        """
        u64, first_link = self._u64, self._first_link
        if not u64[zone.pcp_batch]:
            return None
        head, head_word = zone.pcp_lists[MIGRATE_PCPTYPES * order + mt]
        link = u64[head_word]
        if link == head:
            if not self._refill(zone, order, MigrateType(mt)):
                return None
            link = u64[head_word]
        offset = link - first_link
        if offset & 63 or not 0 <= offset < self._links_size:
            raise ListCorruption(link, "an entry of a per-CPU list is no struct page")
        i = self._memmap + (offset >> 3)
        if u64[i + W_TYPE_REF] != PCP_WORD:
            raise ListCorruption(link, "an entry of a per-CPU list is no free page")
        # list_del of the first entry, as guest code does it.
        next_ = u64[i + W_LRU_NEXT]
        at = next_ - first_link
        after = head_word if next_ == head else self._memmap + (at >> 3) + W_LRU_NEXT
        if (
            (next_ != head and (at & 63 or not 0 <= at < self._links_size))
            or u64[after + 1] != link
            or u64[i + W_LRU_PREV] != head
        ):
            self.lists.delete(link)  # it knows what is wrong
        else:
            u64[after + 1] = head
            u64[head_word] = next_
            u64[i + W_LRU_NEXT] = u64[i + W_LRU_PREV] = 0
        count = u64[zone.pcp_count] - (1 << order)
        if count < 0:
            count_down(u64, zone.pcp_count, 1 << order, "per_cpu_pages.count")
        u64[zone.pcp_count] = count
        return self._start + (offset >> 6)

    def _refill(self, zone: ZoneIndex, order: int, mt: MigrateType) -> bool:
        """rmqueue_bulk: one batch from the buddy to the tail of a list; False if none came."""
        batch = self._u64[zone.pcp_batch]
        blocks = batch if not order or batch == 1 else max(batch >> order, 2)
        head = zone.pcp_lists[MIGRATE_PCPTYPES * order + mt][0]
        left = blocks
        while left > 0:
            taken = self.buddy.rmqueue(zone, order, mt, 0 if order else left)
            if taken is None:
                break
            pfn, got = taken
            count = 1 << got - order
            self._list_run(zone, pfn, order, count, head)
            count_up(self._u64, zone.pcp_count, 1 << got, "per_cpu_pages.count")
            left -= count
        return left < blocks

    def _list_run(self, zone: ZoneIndex, pfn: int, order: int, count: int, head: int) -> None:
        """Adjacent blocks, off the buddy lists and all zero, to the tail of a per-CPU list."""
        u64, space = self._u64, self.space
        if order:
            tails = self.buddy.struct_pages(pfn, count << order)
            tails[:, W_FLAGS] = zone.flags
            tails[:, W_TYPE_REF] = TAIL_WORD
        if count < _VECTOR_MIN:
            for block in range(pfn, pfn + (count << order), 1 << order):
                i = self._memmap + ((block - self._start) << 3)
                u64[i] = zone.flags
                u64[i + W_TYPE_REF] = PCP_WORD
                self.lists.add_tail(space.page_va(block) + 8 * W_LRU_NEXT, head)
            return
        pages = self.buddy.struct_pages(pfn, count << order)[:: 1 << order]
        first = space.page_va(pfn) + 8 * W_LRU_NEXT
        step = 64 << order
        links = np.arange(first, first + step * count, step, dtype=np.uint64)
        head_index = space.index(head)
        old_tail = u64[head_index + 1]
        old_tail_index = space.index(old_tail)
        if u64[old_tail_index] != head:
            raise ListCorruption(old_tail, "the last entry does not point to the head")
        pages[:, W_FLAGS] = zone.flags
        pages[:, W_TYPE_REF] = PCP_WORD
        pages[:-1, W_LRU_NEXT] = links[1:]
        pages[-1, W_LRU_NEXT] = head
        pages[1:, W_LRU_PREV] = links[:-1]
        pages[0, W_LRU_PREV] = old_tail
        u64[old_tail_index] = first
        u64[head_index + 1] = first + step * (count - 1)

    def push(self, zone: ZoneIndex, pfn: int, order: int) -> None:
        """free_unref_page_commit: a block that passed the checks of freeing, to its list."""
        u64 = self._u64
        i = self._memmap + ((pfn - self._start) << 3)
        if order and u64[i] & PG_HEAD:
            u64[i] = zone.flags
            for tail in range(i + PAGE_WORDS, i + (PAGE_WORDS << order), PAGE_WORDS):
                u64[tail] = zone.flags
                u64[tail + W_LRU_NEXT] = 0
        u64[i + W_PT_MM] = u64[i + W_PRIVATE] = 0  # mapping is: that was checked
        u64[i + W_TYPE_REF] = PCP_WORD
        at = self._types + (pfn >> PAGEBLOCK_ORDER)
        mt = u64[at >> 3] >> ((at & 7) << 3) & 0xFF ^ _MOVABLE
        if mt >= MIGRATE_PCPTYPES or self._one_type:
            mt = _MOVABLE
        index = MIGRATE_PCPTYPES * order + mt
        head, head_word = zone.pcp_lists[index]
        link, first = self._first_link + ((pfn - self._start) << 6), u64[head_word]
        # list_add, as guest code does it.
        at = first - self._first_link
        after = head_word if first == head else self._memmap + (at >> 3) + W_LRU_NEXT
        if (first != head and (at & 63 or not 0 <= at < self._links_size)) or u64[
            after + 1
        ] != head:
            self.lists.add(link, head)  # it knows what is wrong
        else:
            u64[i + W_LRU_NEXT] = first
            u64[i + W_LRU_PREV] = head
            u64[head_word] = u64[after + 1] = link
        count = u64[zone.pcp_count] + (1 << order)
        u64[zone.pcp_count] = count
        if count >= u64[zone.pcp_high]:
            self._free_bulk(zone, u64[zone.pcp_batch], index)

    def _free_bulk(self, zone: ZoneIndex, count: int, index: int) -> int:
        """Give at least ``count`` pages (or all) back to the buddy, from the tails of the
        lists, list ``index`` first; the number given. Raises ListCorruption."""
        u64, space = self._u64, self.space
        count = min(count, u64[zone.pcp_count])
        freed = empty = 0
        while freed < count:
            head = zone.pcp_lists[index][0]
            link = u64[space.index(head) + 1]
            if link == head:
                empty += 1
                if empty == NR_PCP_LISTS:
                    raise ListCorruption(head, "per-CPU lists are empty, their count is not 0")
                index = (index + 1) % NR_PCP_LISTS
                continue
            empty = 0
            order = index // MIGRATE_PCPTYPES
            pfn = space.page_to_pfn(link - 8 * W_LRU_NEXT)
            i = self._memmap + ((pfn - self._start) << 3)
            if u64[i + W_TYPE_REF] != PCP_WORD:
                raise ListCorruption(link, "an entry of a per-CPU list is no free page")
            self.lists.delete(link)
            for page in range(i, i + (PAGE_WORDS << order), PAGE_WORDS):
                u64[page : page + PAGE_WORDS] = ZERO_PAGE_WORDS
            count_down(u64, zone.pcp_count, 1 << order, "per_cpu_pages.count")
            count_up(u64, zone.free_word, 1 << order, "zone.nr_free_pages")
            self.buddy.free_one_page(zone, pfn, order, self.buddy.list_type(pfn))
            freed += 1 << order
        return freed

    def drain_all_pages(self) -> int:
        """Empty every per-CPU list into the buddy; the pages given back (drain_all_pages)."""
        return sum(self._free_bulk(zone, self._u64[zone.pcp_count], 0) for zone in self.buddy.index)

    def nr_pcp_pages(self) -> int:
        """Pages on the per-CPU lists of all zones: free, but not in nr_free_pages."""
        return sum(self._u64[zone.pcp_count] for zone in self.buddy.index)
