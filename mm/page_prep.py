"""The struct pages of blocks that leave the page allocator and of those that come back.

A block that leaves gets a reference, and its gfp and order are written down; one that comes
back is looked at first: whoever frees what is not his, or still in use, gets BadPage, Linux's
report is printed, and nothing has changed. page_owner and page_poison hang in here.

Source: Linux mm/page_alloc.c (prep_new_page, free_pages_prepare, free_page_is_bad, bad_page,
split_page).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from emu.ram import PAGE_SHIFT, PAGE_SIZE
from mm.buddy import ZERO_PAGE_WORDS, Buddy
from mm.errors import BadPage
from mm.gfp import GFP_COMP, GFP_ZERO
from mm.layout import count_up
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
    W_MAPPING,
    W_OWNER,
    W_TYPE_REF,
)
from mm.page_dump import dump_page
from mm.page_ext import PageAllocInfo
from mm.page_owner import PageOwner
from mm.page_poison import PagePoison
from mm.zone import MAX_ORDER_NR_PAGES
from mm.zone_index import ZoneIndex

_LOW32 = (1 << 32) - 1
NO_REASON = 0xFFFF << 16  # page_owner's last_migrate_reason -1
_ZERO_FRAME = bytes(PAGE_SIZE)
_POISON_REASON = "pagealloc: corrupted page details"


@lru_cache(maxsize=256)
def _repeat(word: int, count: int) -> memoryview:
    """``count`` times ``word``: faster than numpy to store or compare for a block's pages."""
    return memoryview(word.to_bytes(8, "little") * count).cast("Q")


class PagePrep:
    """Struct pages at the door of ``buddy``; ``printk`` gets the lines of reports."""

    def __init__(self, buddy: Buddy, info: PageAllocInfo, printk: Callable[[str], None]) -> None:
        self.buddy = buddy
        self.space = buddy.space
        self.ram = buddy.ram
        self.info = info
        self.printk = printk
        self.page_owner = PageOwner(buddy.space, info) if info.page_owner else None
        self.page_poison = PagePoison(buddy.space, info) if info.page_poison else None
        self.debug = bool(self.page_owner or self.page_poison)
        self._u64 = buddy.ram.u64
        self._memmap = buddy.space.memmap_index
        self._start = buddy.space.start_pfn
        self._end = buddy.space.end_pfn
        self._by_flags = {z.flags: z for z in buddy.index}

    # struct pages of new blocks

    def _zero_frames(self, pfn: int, count: int) -> None:
        pa = pfn << PAGE_SHIFT
        if count == 1:
            self.ram.write(pa, _ZERO_FRAME)
        else:
            self.ram.fill(pa, count << PAGE_SHIFT)

    def prep_new_page(self, zone: ZoneIndex, pfn: int, order: int, gfp: int, owner: int) -> None:
        """prep_new_page: the struct pages of a block that leaves the allocator."""
        u64 = self._u64
        i = self._memmap + ((pfn - self._start) << 3)
        u64[i] = zone.flags
        u64[i + W_TYPE_REF] = ALLOCATED_WORD
        u64[i + W_OWNER] = owner | order
        if order:
            tails = self.buddy.struct_pages(pfn + 1, (1 << order) - 1)
            tails[:, W_FLAGS] = zone.flags
            tails[:, W_TYPE_REF] = TAIL_WORD
            if gfp & GFP_COMP:
                u64[i] |= PG_HEAD
                tails[:, W_LRU_NEXT] = self.space.page_va(pfn) | 1
                u64[i + PAGE_WORDS] |= order
        if self.debug:
            self._debug_alloc(pfn, 1 << order, order, gfp)
        if gfp & GFP_ZERO:
            self._zero_frames(pfn, 1 << order)

    def prep_new_singles(self, zone: ZoneIndex, pfn: int, count: int, gfp: int, owner: int) -> None:
        if count == 1:
            self.prep_new_page(zone, pfn, 0, gfp, owner)
            return
        i = self._memmap + ((pfn - self._start) << 3)
        end = i + (count << 3)
        u64 = self._u64
        u64[i:end:PAGE_WORDS] = _repeat(zone.flags, count)
        u64[i + W_TYPE_REF : end : PAGE_WORDS] = _repeat(ALLOCATED_WORD, count)
        u64[i + W_OWNER : end : PAGE_WORDS] = _repeat(owner, count)
        if self.debug:
            self._debug_alloc(pfn, count, 0, gfp)
        if gfp & GFP_ZERO:
            self._zero_frames(pfn, count)

    def _debug_alloc(self, pfn: int, count: int, order: int, gfp: int) -> None:
        """Poison is looked at, the owner written down."""
        if self.page_poison:
            self._check_poison(pfn, count)
        if self.page_owner:
            self.page_owner.set_page_owner(pfn, count, order, gfp)

    def _check_poison(self, pfn: int, count: int) -> None:
        assert self.page_poison is not None
        for bad in self.page_poison.unpoison_pages(pfn, count):
            for line in (*self.page_poison.report(bad), *self._dump(bad, _POISON_REASON)):
                self.printk(line)

    def debug_migrate(self, old: int, new: int) -> None:
        """The free frame ``new`` takes the place of ``old``, which becomes free."""
        if self.page_poison:
            self._check_poison(new, 1)
        if self.page_owner:
            self.page_owner.copy_owner(old, new)

    def debug_free(self, pfn: int, count: int) -> None:
        if self.page_owner:
            self.page_owner.reset_page_owner(pfn, count)
        if self.page_poison:
            self.page_poison.poison_pages(pfn, count)

    def split_page(self, pfn: int, order: int) -> None:
        """Turn an allocated block that is not compound into 2^order single frames.

        Raises BadPage when ``pfn`` does not head such a block of exactly that order.
        """
        self.check_head(pfn, order)
        i = self.space.page_index(pfn)
        if self._u64[i] & PG_HEAD:
            raise self.bad_page(pfn, "split_page of a compound page")
        owner = self._u64[i + W_OWNER] & ~_LOW32 | NO_REASON
        pages = self.buddy.struct_pages(pfn, 1 << order)
        pages[1:, W_TYPE_REF] = ALLOCATED_WORD
        pages[:, W_OWNER] = owner
        if self.page_owner:
            self.page_owner.split_page_owner(pfn, 1 << order)

    def make_single(self, pfn: int) -> None:
        """An allocated head stands for its first frame alone from now on."""
        self._u64[self.space.page_index(pfn) + W_OWNER] &= ~0xFFFF
        if self.page_owner:
            self.page_owner.split_page_owner(pfn, 1)

    def make_head(self, head: int, pfn: int, order: int) -> None:
        """A tail of the single frame's block at ``head`` becomes an allocated head of its own."""
        u64 = self._u64
        i = self.space.page_index(pfn)
        u64[i + W_TYPE_REF] = ALLOCATED_WORD
        u64[i + W_OWNER] = u64[self.space.page_index(head) + W_OWNER] | order

    # freeing

    def _dump(self, pfn: int, reason: str) -> list[str]:
        """dump_page, with page_owner's record."""
        if not self.space.pfn_valid(pfn):
            return [f"page dumped because: {reason}"]
        lines = list(dump_page(self.space, pfn, reason))
        if self.page_owner:
            lines += self.page_owner.dump(pfn)
        return lines

    def bad_page(self, pfn: int, reason: str) -> BadPage:
        """bad_page: print Linux's report; the error to raise."""
        error = BadPage(pfn, reason, self.info.current_comm, self._dump(pfn, reason))
        for line in str(error).splitlines():
            self.printk(line)
        return error

    def check_head(self, pfn: int, order: int) -> ZoneIndex:
        """The zone of an allocated head that was allocated with ``order``; else BadPage."""
        zone = self.buddy.zone_of(pfn)
        if zone is None:
            raise self.bad_page(pfn, "no such page frame")
        i = self.space.page_index(pfn)
        flags, word = self._u64[i], self._u64[i + W_TYPE_REF]
        if flags & PG_RESERVED:
            raise self.bad_page(pfn, "PAGE_FLAGS_CHECK_AT_FREE flag(s) set (reserved)")
        if self._u64[i + W_LRU_NEXT] & 1:
            raise self.bad_page(pfn, "it is a tail of a compound page")
        if not word >> 32:
            why = "a free block" if word == BUDDY_WORD else "no allocated block starts here"
            raise self.bad_page(pfn, f"_refcount is 0: {why} (freed twice?)")
        allocated = self._u64[i + W_OWNER] & 0xFFFF
        if order != allocated:
            raise self.bad_page(pfn, f"freed with order {order}, allocated with order {allocated}")
        return zone

    def check_free(self, pfn: int, order: int) -> ZoneIndex:
        """The zone of a block that may be freed now; else BadPage. Tails are checked as well."""
        zone = self.check_head(pfn, order)
        self._free_page_is_bad(pfn)
        if order:
            self.check_tails(zone, pfn, order)
        return zone

    def _free_page_is_bad(self, pfn: int, flags: int = PAGE_FLAGS_CHECK_AT_FREE) -> None:
        """free_page_is_bad: raise BadPage for a page that is still in use by its looks."""
        i = self.space.page_index(pfn)
        word = self._u64[i + W_TYPE_REF]
        if word & _LOW32 != PAGE_TYPE_NONE:
            why = f"nonzero mapcount (or a page_type: {word & _LOW32:#x})"
            raise self.bad_page(pfn, why)
        if self._u64[i + W_MAPPING]:
            raise self.bad_page(pfn, "non-NULL mapping")
        if self._u64[i] & flags:
            raise self.bad_page(pfn, "PAGE_FLAGS_CHECK_AT_FREE flag(s) set")

    def check_tails(self, zone: ZoneIndex, pfn: int, order: int) -> None:
        """free_tail_page_prepare and free_page_is_bad of every tail; BadPage for the first
        that is not as the block's allocation left it."""
        u64 = self._u64
        i = self.space.page_index(pfn)
        end = pfn + (1 << order)
        if end > zone.end:
            raise self.bad_page(pfn, f"a block of order {order} runs out of zone {zone.zone.name}")
        compound = u64[i] & PG_HEAD
        if compound and u64[i + PAGE_WORDS] & 0xFF != order:
            raise self.bad_page(pfn + 1, "the first tail of a compound page holds another order")
        link = self.space.page_va(pfn) | 1 if compound else 0
        for tail in range(pfn + 1, end):
            i += PAGE_WORDS
            if compound and not u64[i + W_LRU_NEXT] & 1:
                raise self.bad_page(tail, "PageTail not set")
            if compound and u64[i + W_LRU_NEXT] != link:
                raise self.bad_page(tail, "compound_head not consistent")
            if not compound and u64[i + W_LRU_NEXT] & 1:
                raise self.bad_page(tail, "it is a tail of a compound page")
            if u64[i + W_TYPE_REF] >> 32:
                raise self.bad_page(tail, "nonzero _refcount")
            order_byte = 0xFF if compound and tail == pfn + 1 else 0
            self._free_page_is_bad(tail, PAGE_FLAGS_CHECK_AT_FREE & ~order_byte)

    def _tails_plain(self, zone: ZoneIndex, i: int, order: int) -> bool:
        """Whether the tails of the block at word ``i`` are just as they were allocated."""
        u64 = self._u64
        first, end, count = i + PAGE_WORDS, i + (PAGE_WORDS << order), (1 << order) - 1
        if end > len(u64):
            return False
        link = flags = 0
        if u64[i] & PG_HEAD:
            link = self.space.page_va(self._start + ((i - self._memmap) >> 3)) | 1
            flags = order
        if u64[first] != zone.flags | flags:
            return False
        return all(
            u64[start:end:PAGE_WORDS].tobytes() == _repeat(value, n).obj
            for start, value, n in (
                (first + W_TYPE_REF, TAIL_WORD, count),
                (first + W_LRU_NEXT, link, count),
                (first + W_MAPPING, 0, count),
                (first + PAGE_WORDS, zone.flags, count - 1),
            )
            if n
        )

    def clear_flags(self, zone: ZoneIndex, pfn: int, order: int) -> None:
        """The end of free_pages_prepare: of the flags of a block's pages only the zone stays
        (and what makes it a compound page, which is undone by whoever lists it)."""
        u64 = self._u64
        i = self.space.page_index(pfn)
        compound = order and u64[i] & PG_HEAD
        end = i + (PAGE_WORDS << order)
        u64[i:end:PAGE_WORDS] = _repeat(zone.flags, 1 << order)
        if compound:
            u64[i] |= PG_HEAD
            u64[i + PAGE_WORDS] |= order

    def plain_zone(self, pfn: int, order: int) -> ZoneIndex | None:
        """The zone of a block that may be freed at a glance, None if it needs a closer look."""
        if not self._start <= pfn < self._end:
            return None
        u64 = self._u64
        i = self._memmap + ((pfn - self._start) << 3)
        zone = self._by_flags.get(u64[i] & ~PG_HEAD if order else u64[i])
        if (
            zone is None
            or not zone.start <= pfn < zone.end
            or u64[i + W_TYPE_REF] != ALLOCATED_WORD
            or u64[i + W_OWNER] & 0xFFFF != order
            or u64[i + W_MAPPING]
            or u64[i + W_LRU_NEXT] & 1
            or (order and not self._tails_plain(zone, i, order))
        ):
            return None
        return zone

    def release(self, zone: ZoneIndex, pfn: int, count: int) -> None:
        i = self._memmap + ((pfn - self._start) << 3)
        if count == 1:
            self._u64[i : i + PAGE_WORDS] = ZERO_PAGE_WORDS
        elif count <= MAX_ORDER_NR_PAGES:
            self._u64[i : i + (count << 3)] = _repeat(0, count << 3)
        else:
            self.buddy.struct_pages(pfn, count)[:] = 0
        count_up(self._u64, zone.free_word, count, "zone.nr_free_pages")

    def all_plain(self, pfn: int, count: int) -> bool:
        """Whether these frames are all single, allocated once and unused."""
        zone = self.buddy.zone_of(pfn)
        if zone is None or pfn + count > zone.end:
            return False
        i = self._memmap + ((pfn - self._start) << 3)
        end = i + (count << 3)
        u64 = self._u64
        owner = u64[i + W_OWNER]
        if count <= MAX_ORDER_NR_PAGES and all(
            u64[i + word : end : PAGE_WORDS].tobytes() == _repeat(value, count).obj
            for word, value in (
                (W_TYPE_REF, ALLOCATED_WORD),
                (W_FLAGS, zone.flags),
                (W_MAPPING, 0),
                (W_OWNER, owner),
                (W_LRU_NEXT, 0),
            )
        ):
            return not owner & 0xFFFF
        pages = self.buddy.struct_pages(pfn, count)
        return (
            bool((pages[:, W_TYPE_REF] == ALLOCATED_WORD).all())
            and not (pages[:, W_OWNER] & 0xFFFF).any()
            and not pages[:, W_MAPPING].any()
            and bool((pages[:, W_FLAGS] == zone.flags).all())
            and not (pages[:, W_LRU_NEXT] & 1).any()
        )
