"""The page allocator: requests with GFP flags, served from zones in order of preference.

A request goes down its zonelist. A zone serves it if, after it, more than a watermark would
be free: ``free - (2^order - 1) > mark + lowmem_reserve[highest zone of the request]``, and
for order > 0 if some free block is large enough. What mark:

| | |
|---|---|
| first try | low |
| slow path | min; __GFP_HIGH: half of it; that and not able to block: 3/8 of it |
| __GFP_MEMALLOC, allocations made by reclaim itself | none |

A request that may block (__GFP_DIRECT_RECLAIM) and still got nothing drains the per-CPU
lists, runs the shrinkers, compacts the zones if its order is above 0, and tries again for
as long as that frees something; __GFP_NORETRY tries once, a costly order too unless
__GFP_RETRY_MAYFAIL. Then it fails: None and a report in ``kernel.messages``, or OutOfMemory
for __GFP_NOFAIL.

Orders 0 to 3 go through the per-CPU lists (pcp.py), many single pages at once (runs, bulk)
do not: they come from the buddy lists (buddy.py) and go back there, block by block.

Everything is in RAM; this object only keeps addresses. Source: Linux mm/page_alloc.c
(__alloc_pages, get_page_from_freelist, __zone_watermark_ok, __alloc_pages_slowpath,
prep_new_page, free_page_is_bad, split_page).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise

from emu.ram import PAGE_SHIFT, PAGE_SIZE
from mm.addrspace import Space
from mm.buddy import ZERO_PAGE_WORDS, ZoneIndex
from mm.errors import BadAddress, BadPage, GfpError, OutOfMemory
from mm.gfp import (
    ALLOC_MIN_RESERVE,
    ALLOC_NO_WATERMARKS,
    ALLOC_NON_BLOCK,
    ALLOC_WMARK_LOW,
    ALLOC_WMARK_MASK,
    GFP_COMP,
    GFP_DIRECT_RECLAIM,
    GFP_HIGHMEM,
    GFP_KERNEL,
    GFP_NOFAIL,
    GFP_NORETRY,
    GFP_NOWARN,
    GFP_RETRY_MAYFAIL,
    GFP_ZERO,
    MigrateType,
    check_gfp,
    gfp_migratetype,
    gfp_to_alloc_flags,
    gfp_zone,
)
from mm.layout import count_down, count_up
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
    W_MAPPING,
    W_OWNER,
    W_TYPE_REF,
    ZONES_MASK,
    ZONES_PGSHIFT,
)
from mm.page_dump import dump_page
from mm.page_ext import PageAllocInfo
from mm.page_owner import PageOwner
from mm.page_poison import PagePoison
from mm.pcp import PerCpuLists
from mm.show_mem import warn_alloc
from mm.vmscan import MAX_RECLAIM_RETRIES, Reclaim
from mm.zone import (
    MAX_ORDER_NR_PAGES,
    MAX_PAGE_ORDER,
    PAGE_ALLOC_COSTLY_ORDER,
    PAGEBLOCK_ORDER,
    Zone,
    build_zonelist,
)

_LOW32 = (1 << 32) - 1
_NO_REASON = 0xFFFF << 16  # page_owner's last_migrate_reason -1
_ZERO_FRAME = bytes(PAGE_SIZE)
_WHOLE_BLOCK_MIN = 16  # pages
_M = MigrateType.MOVABLE
_POISON_REASON = "pagealloc: corrupted page details"

# (zone, order): move pages until a block of that order is free; whether there is one.
Compactor = Callable[[Zone, int], bool]
Printk = Callable[[str], None]


@lru_cache(maxsize=256)
def _repeat(word: int, count: int) -> memoryview:
    """``count`` times ``word``: faster than numpy to store or compare for a block's pages."""
    return memoryview(word.to_bytes(8, "little") * count).cast("Q")


class _Request:
    """What a gfp mask asks for: derived from it and the zones, kept for speed."""

    __slots__ = ("highest", "migratetype", "owner", "zonelist")

    def __init__(self, gfp: int, highest: int, zonelist: list[ZoneIndex], mt: MigrateType) -> None:
        self.zonelist = zonelist
        self.migratetype = mt
        self.highest = highest
        self.owner = gfp << 32 | _NO_REASON


class PageAllocator(PerCpuLists):
    """The page allocator over ``zones`` (views of struct zone).

    ``pageblock_pa``: PA of the byte array of pageblock types; ``info``: its other state in
    RAM; ``printk`` gets the lines that Linux prints.
    """

    def __init__(
        self,
        space: Space,
        lists: Lists,
        zones: Sequence[Zone],
        pageblock_pa: int,
        info: PageAllocInfo,
        printk: Printk,
    ) -> None:
        super().__init__(space, lists, zones, pageblock_pa)
        self.info = info
        self.printk = printk
        self.reclaim = Reclaim()
        self.compactor: Compactor | None = None
        # Fault injection: (gfp, order) -> fail this one.
        self.should_fail: Callable[[int, int], bool] | None = None
        self._by_number = {z.number: z for z in self._index}
        self._requests: dict[int, _Request] = {}
        self.page_owner = PageOwner(space, info) if info.page_owner else None
        self.page_poison = PagePoison(space, info) if info.page_poison else None
        self._debug = bool(self.page_owner or self.page_poison)

    def free_boot_range(self, zone_number: int, start: int, end: int, defer: bool) -> None:
        super().free_boot_range(zone_number, start, end, defer)
        self._requests.clear()

    # requests and watermarks

    def _request(self, gfp: int) -> _Request:
        check_gfp(gfp)
        mt = gfp_migratetype(gfp)
        highest = gfp_zone(gfp, self._by_number)
        of_zone = {z.zone.pa: z for z in self._index}
        zonelist = [of_zone[z.pa] for z in build_zonelist(self.zones, highest)]
        request = _Request(gfp, int(highest), zonelist, _M if self.mobility_disabled else mt)
        self._requests[gfp] = request
        return request

    def zone_watermark_left(self, zone: ZoneIndex, highest: int, alloc_flags: int) -> int:
        """How many single pages the zone may still give before it is at the mark of
        ``alloc_flags`` for a request up to zone ``highest``; 0 or less: none
        (__zone_watermark_ok)."""
        u64 = self._u64
        free = u64[zone.free_word]
        if alloc_flags & ALLOC_NO_WATERMARKS:
            return free
        mark = u64[zone.wmark_word + (alloc_flags & ALLOC_WMARK_MASK)]
        if alloc_flags & ALLOC_MIN_RESERVE:
            mark -= mark // 2
            if alloc_flags & ALLOC_NON_BLOCK:
                mark -= mark // 4
        return free - mark - u64[zone.reserve_word + highest]

    def zone_watermark_ok(
        self, zone: ZoneIndex, order: int, highest: int, alloc_flags: int
    ) -> bool:
        """Whether the zone may give a block of ``order``, and has one (__zone_watermark_ok)."""
        if self.zone_watermark_left(zone, highest, alloc_flags) < 1 << order:
            return False
        if not order:
            return True
        u64 = self._u64
        return any(u64[word] for word in zone.area[order:])

    # allocation

    def alloc_pages(self, gfp: int, order: int) -> int | None:
        """``alloc_pages``: 2^order frames, aligned to their size; the first one's PFN.

        None when no zone of the request may give such a block, or ``order`` >
        MAX_PAGE_ORDER. __GFP_ZERO clears the frames, __GFP_COMP makes them one compound
        page; otherwise the frames are not zeroed. Raises GfpError, ValueError for a
        negative order, OutOfMemory for __GFP_NOFAIL.
        """
        request = self._requests.get(gfp) or self._request(gfp)
        if not 0 <= order <= MAX_PAGE_ORDER:
            if order < 0:
                raise ValueError(f"alloc_pages of order {order}")
            return None
        if self.should_fail is not None and self.should_fail(gfp, order):
            return None
        found = self._get_page_from_freelist(request, order, ALLOC_WMARK_LOW)
        if found is None:
            found = self._alloc_pages_slowpath(gfp, order, request)
            if found is None:
                return None
        zone, pfn = found
        self._prep_new_page(zone, pfn, order, gfp, request.owner)
        return pfn

    def alloc_page(self, gfp: int = GFP_KERNEL) -> int | None:
        """One frame: its PFN, or None."""
        return self.alloc_pages(gfp, 0)

    def _get_page_from_freelist(
        self, request: _Request, order: int, alloc_flags: int
    ) -> tuple[ZoneIndex, int] | None:
        for zone in request.zonelist:
            if not self.zone_watermark_ok(zone, order, request.highest, alloc_flags):
                continue
            mt = request.migratetype
            if order <= PAGE_ALLOC_COSTLY_ORDER:
                pfn = self._pcp_pop(zone, order, mt)
                if pfn is not None:
                    return zone, pfn
            taken = self._rmqueue(zone, order, mt, 0)
            if taken is not None:
                return zone, taken[0]
        return None

    def _alloc_pages_slowpath(
        self, gfp: int, order: int, request: _Request
    ) -> tuple[ZoneIndex, int] | None:
        """__alloc_pages_slowpath. OutOfMemory for __GFP_NOFAIL when nothing can be freed."""
        flags = gfp_to_alloc_flags(gfp)
        if self.reclaim.active:
            flags |= ALLOC_NO_WATERMARKS
        found = self._get_page_from_freelist(request, order, flags)
        if found is not None:
            return found
        if flags & ALLOC_NO_WATERMARKS and self.drain_all_pages():
            found = self._get_page_from_freelist(request, order, flags)
        elif gfp & GFP_DIRECT_RECLAIM and not self.reclaim.active:
            for _ in range(MAX_RECLAIM_RETRIES):
                progress = self._try_to_free_pages()
                found = self._get_page_from_freelist(request, order, flags)
                if found is None and order and self._compact(request, order):
                    found = self._get_page_from_freelist(request, order, flags)
                if found is not None or not progress or gfp & GFP_NORETRY:
                    break
                if order > PAGE_ALLOC_COSTLY_ORDER and not gfp & (GFP_RETRY_MAYFAIL | GFP_NOFAIL):
                    break
        if found is None:
            found = self._nopage(gfp, order, request)
        return found

    def _nopage(self, gfp: int, order: int, request: _Request) -> tuple[ZoneIndex, int] | None:
        """The end of the slow path: __GFP_NOFAIL takes the reserves or gives up loudly."""
        if gfp & GFP_NOFAIL:
            found = self._get_page_from_freelist(request, order, ALLOC_NO_WATERMARKS)
            if found is not None:
                return found
        if not gfp & GFP_NOWARN:
            for line in warn_alloc(self, self.info.current_comm, gfp, order):
                self.printk(line)
        if gfp & GFP_NOFAIL:
            raise OutOfMemory(f"__GFP_NOFAIL of order {order}: nothing is left that could be freed")
        return None

    def _try_to_free_pages(self) -> int:
        """Pages that reclaim could free: the per-CPU lists' and the shrinkers'."""
        freed = self.drain_all_pages()
        freed += self.reclaim.shrink()
        self.drain_all_pages()  # what the shrinkers freed lies there
        return freed

    def _compact(self, request: _Request, order: int) -> bool:
        """try_to_compact_pages: zone by zone until one has such a block; whether one has."""
        if self.compactor is None:
            return False
        return any(self.compactor(zone.zone, order) for zone in request.zonelist)

    # many single pages

    def alloc_page_runs(self, gfp: int, count: int) -> list[tuple[int, int]] | None:
        """``count`` single frames as runs ``(pfn, count)``, each freeable alone: for 16 and
        more whole blocks first, else those that alloc_page would return without per-CPU
        lists, in that order. None: not enough, and nothing was taken. Raises GfpError,
        OutOfMemory for __GFP_NOFAIL when even the reserves do not do.
        """
        if self.should_fail is not None and self.should_fail(gfp, 0):
            return None
        runs, left = self._alloc_runs(gfp, count)
        if left > 0 and gfp & GFP_NOFAIL:  # as _nopage: the reserves
            left = self._take_runs(self._requests[gfp], gfp, ALLOC_NO_WATERMARKS, left, runs)
        if left > 0:
            self.free_page_runs(runs)
            self._nopage(gfp & ~GFP_NOFAIL, 0, self._requests[gfp])
            if gfp & GFP_NOFAIL:
                raise OutOfMemory(f"__GFP_NOFAIL of {count} pages: they are not there")
            return None
        return runs

    def alloc_pages_bulk(self, gfp: int, count: int) -> list[int]:
        """Up to ``count`` single frames: PFNs, fewer when memory runs out (Linux's
        alloc_pages_bulk likewise returns how many it got). Raises GfpError."""
        if self.should_fail is not None and self.should_fail(gfp, 0):
            return []
        runs, _ = self._alloc_runs(gfp, count)
        if len(runs) == 1:
            return list(range(runs[0][0], runs[0][0] + runs[0][1]))
        return [pfn for start, n in runs for pfn in range(start, start + n)]

    def _alloc_runs(self, gfp: int, count: int) -> tuple[list[tuple[int, int]], int]:
        """Runs of as many of ``count`` frames as there are, and how many are missing."""
        request = self._requests.get(gfp) or self._request(gfp)
        runs: list[tuple[int, int]] = []
        left = self._take_runs(request, gfp, ALLOC_WMARK_LOW, count, runs)
        if left <= 0:
            return runs, left
        flags = gfp_to_alloc_flags(gfp)
        if self.reclaim.active:
            flags |= ALLOC_NO_WATERMARKS
        left = self._take_runs(request, gfp, flags, left, runs)
        if gfp & GFP_DIRECT_RECLAIM and not self.reclaim.active:
            for _ in range(MAX_RECLAIM_RETRIES):
                if left <= 0 or not self._try_to_free_pages():
                    break
                left = self._take_runs(request, gfp, flags, left, runs)
        elif left > 0 and self.drain_all_pages():
            left = self._take_runs(request, gfp, flags, left, runs)
        return runs, left

    def _take_runs(
        self,
        request: _Request,
        gfp: int,
        alloc_flags: int,
        left: int,
        runs: list[tuple[int, int]],
    ) -> int:
        """Append runs of single frames, down to the mark; how many of ``left`` are missing."""
        for zone in request.zonelist:
            allowed = min(left, self.zone_watermark_left(zone, request.highest, alloc_flags))
            while allowed > 0:
                taken = None
                if allowed >= _WHOLE_BLOCK_MIN:
                    # One block for all of them beats many scraps.
                    fits = min(allowed.bit_length() - 1, MAX_PAGE_ORDER)
                    taken = self._rmqueue_smallest(zone, fits, request.migratetype, 0)
                if taken is None:
                    taken = self._rmqueue(zone, 0, request.migratetype, allowed)
                if taken is None:
                    break
                pfn, order = taken
                self._prep_new_singles(zone, pfn, 1 << order, gfp, request.owner)
                if runs and runs[-1][0] + runs[-1][1] == pfn:
                    runs[-1] = runs[-1][0], runs[-1][1] + (1 << order)
                else:
                    runs.append((pfn, 1 << order))
                allowed -= 1 << order
                left -= 1 << order
            if left <= 0:
                break
        return left

    # addresses

    def get_free_pages(self, gfp: int, order: int) -> int | None:
        """``__get_free_pages``: the direct map VA of 2^order frames, None if there are none.

        Raises GfpError for __GFP_HIGHMEM: such frames may have no address.
        """
        if gfp & GFP_HIGHMEM:
            raise GfpError(f"gfp {gfp:#x}: __GFP_HIGHMEM frames need not have an address")
        pfn = self.alloc_pages(gfp, order)
        return None if pfn is None else self.space.pfn_to_virt(pfn)

    def get_zeroed_page(self, gfp: int = GFP_KERNEL) -> int | None:
        """``get_zeroed_page``: the VA of one zeroed frame, or None. Raises GfpError."""
        return self.get_free_pages(gfp | GFP_ZERO, 0)

    def alloc_pages_exact(self, size: int, gfp: int = GFP_KERNEL) -> int | None:
        """``alloc_pages_exact``: the VA of just enough frames for ``size`` bytes, adjacent.

        The rest of the block goes back at once. Raises GfpError for __GFP_HIGHMEM and
        __GFP_COMP, ValueError for a size below 1.
        """
        if size <= 0:
            raise ValueError(f"alloc_pages_exact of {size} bytes")
        if gfp & (GFP_COMP | GFP_HIGHMEM):
            raise GfpError(f"gfp {gfp:#x}: neither __GFP_COMP nor __GFP_HIGHMEM can be exact")
        count = -(-size // PAGE_SIZE)
        order = (count - 1).bit_length()
        pfn = self.alloc_pages(gfp, order)
        if pfn is None:
            return None
        self.split_page(pfn, order)
        if count < 1 << order:
            self.free_page_runs([(pfn + count, (1 << order) - count)])
        return self.space.pfn_to_virt(pfn)

    def free_pages_exact(self, va: int, size: int) -> None:
        """``free_pages_exact``: free what alloc_pages_exact of ``size`` bytes gave at ``va``.

        Raises BadAddress for no page of the direct map, BadPage, nothing changed.
        """
        if va % PAGE_SIZE or size <= 0:
            raise BadAddress(va, f"free_pages_exact of {size} bytes: no such allocation")
        self.free_page_runs([(self.space.virt_to_pfn(va), -(-size // PAGE_SIZE))])

    # struct pages of new blocks

    def _zero_frames(self, pfn: int, count: int) -> None:
        pa = pfn << PAGE_SHIFT
        if count == 1:
            self.ram.write(pa, _ZERO_FRAME)
        else:
            self.ram.fill(pa, count << PAGE_SHIFT)

    def _prep_new_page(self, zone: ZoneIndex, pfn: int, order: int, gfp: int, owner: int) -> None:
        """prep_new_page: the struct pages of a block that leaves the allocator."""
        u64 = self._u64
        i = self._memmap + ((pfn - self._start) << 3)
        u64[i] = zone.flags
        u64[i + W_TYPE_REF] = ALLOCATED_WORD
        u64[i + W_OWNER] = owner | order
        if order:
            tails = self._pages(pfn + 1, (1 << order) - 1)
            tails[:, W_FLAGS] = zone.flags
            tails[:, W_TYPE_REF] = TAIL_WORD
            if gfp & GFP_COMP:
                u64[i] |= PG_HEAD
                tails[:, W_LRU_NEXT] = self.space.page_va(pfn) | 1
                u64[i + PAGE_WORDS] |= order
        if self._debug:
            self._debug_alloc(pfn, 1 << order, order, gfp)
        if gfp & GFP_ZERO:
            self._zero_frames(pfn, 1 << order)

    def _prep_new_singles(
        self, zone: ZoneIndex, pfn: int, count: int, gfp: int, owner: int
    ) -> None:
        if count == 1:
            self._prep_new_page(zone, pfn, 0, gfp, owner)
            return
        i = self._memmap + ((pfn - self._start) << 3)
        end = i + (count << 3)
        u64 = self._u64
        u64[i:end:PAGE_WORDS] = _repeat(zone.flags, count)
        u64[i + W_TYPE_REF : end : PAGE_WORDS] = _repeat(ALLOCATED_WORD, count)
        u64[i + W_OWNER : end : PAGE_WORDS] = _repeat(owner, count)
        if self._debug:
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

    def _debug_migrate(self, old: int, new: int) -> None:
        """The free frame ``new`` takes the place of ``old``, which becomes free."""
        if self.page_poison:
            self._check_poison(new, 1)
        if self.page_owner:
            self.page_owner.copy_owner(old, new)

    def _debug_free(self, pfn: int, count: int) -> None:
        if self.page_owner:
            self.page_owner.reset_page_owner(pfn, count)
        if self.page_poison:
            self.page_poison.poison_pages(pfn, count)

    def split_page(self, pfn: int, order: int) -> None:
        """Turn an allocated block that is not compound into 2^order single frames.

        Raises BadPage when ``pfn`` does not head such a block of exactly that order.
        """
        self._check_head(pfn, order)
        i = self.space.page_index(pfn)
        if self._u64[i] & PG_HEAD:
            raise self._bad_page(pfn, "split_page of a compound page")
        owner = self._u64[i + W_OWNER] & ~_LOW32 | _NO_REASON
        pages = self._pages(pfn, 1 << order)
        pages[1:, W_TYPE_REF] = ALLOCATED_WORD
        pages[:, W_OWNER] = owner
        if self.page_owner:
            self.page_owner.split_page_owner(pfn, 1 << order)

    # freeing

    def _dump(self, pfn: int, reason: str) -> list[str]:
        """dump_page, with page_owner's record."""
        if not self.space.pfn_valid(pfn):
            return [f"page dumped because: {reason}"]
        lines = list(dump_page(self.space, pfn, reason))
        if self.page_owner:
            lines += self.page_owner.dump(pfn)
        return lines

    def _bad_page(self, pfn: int, reason: str) -> BadPage:
        """bad_page: print Linux's report; the error to raise."""
        error = BadPage(pfn, reason, self.info.current_comm, self._dump(pfn, reason))
        for line in str(error).splitlines():
            self.printk(line)
        return error

    def _check_head(self, pfn: int, order: int) -> ZoneIndex:
        """The zone of an allocated head that was allocated with ``order``; else BadPage."""
        zone = self._zone_of(pfn)
        if zone is None:
            raise self._bad_page(pfn, "no such page frame")
        i = self.space.page_index(pfn)
        flags, word = self._u64[i], self._u64[i + W_TYPE_REF]
        if flags & PG_RESERVED:
            raise self._bad_page(pfn, "PAGE_FLAGS_CHECK_AT_FREE flag(s) set (reserved)")
        if self._u64[i + W_LRU_NEXT] & 1:
            raise self._bad_page(pfn, "it is a tail of a compound page")
        if not word >> 32:
            why = "a free block" if word == BUDDY_WORD else "no allocated block starts here"
            raise self._bad_page(pfn, f"_refcount is 0: {why} (freed twice?)")
        allocated = self._u64[i + W_OWNER] & 0xFFFF
        if order != allocated:
            raise self._bad_page(pfn, f"freed with order {order}, allocated with order {allocated}")
        return zone

    def _check_free(self, pfn: int, order: int) -> ZoneIndex:
        """The zone of a block that may be freed now; else BadPage. Tails are checked as well."""
        zone = self._check_head(pfn, order)
        self._free_page_is_bad(pfn)
        if order:
            self._check_tails(zone, pfn, order)
        return zone

    def _free_page_is_bad(self, pfn: int, flags: int = PAGE_FLAGS_CHECK_AT_FREE) -> None:
        """free_page_is_bad: raise BadPage for a page that is still in use by its looks."""
        i = self.space.page_index(pfn)
        word = self._u64[i + W_TYPE_REF]
        if word & _LOW32 != PAGE_TYPE_NONE:
            why = f"nonzero mapcount (or a page_type: {word & _LOW32:#x})"
            raise self._bad_page(pfn, why)
        if self._u64[i + W_MAPPING]:
            raise self._bad_page(pfn, "non-NULL mapping")
        if self._u64[i] & flags:
            raise self._bad_page(pfn, "PAGE_FLAGS_CHECK_AT_FREE flag(s) set")

    def _check_tails(self, zone: ZoneIndex, pfn: int, order: int) -> None:
        """free_tail_page_prepare and free_page_is_bad of every tail; BadPage for the first
        that is not as the block's allocation left it."""
        u64 = self._u64
        i = self.space.page_index(pfn)
        end = pfn + (1 << order)
        if end > zone.end:
            raise self._bad_page(pfn, f"a block of order {order} runs out of zone {zone.zone.name}")
        compound = u64[i] & PG_HEAD
        if compound and u64[i + PAGE_WORDS] & 0xFF != order:
            raise self._bad_page(pfn + 1, "the first tail of a compound page holds another order")
        link = self.space.page_va(pfn) | 1 if compound else 0
        for tail in range(pfn + 1, end):
            i += PAGE_WORDS
            if compound and not u64[i + W_LRU_NEXT] & 1:
                raise self._bad_page(tail, "PageTail not set")
            if compound and u64[i + W_LRU_NEXT] != link:
                raise self._bad_page(tail, "compound_head not consistent")
            if not compound and u64[i + W_LRU_NEXT] & 1:
                raise self._bad_page(tail, "it is a tail of a compound page")
            if u64[i + W_TYPE_REF] >> 32:
                raise self._bad_page(tail, "nonzero _refcount")
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

    def _clear_flags(self, zone: ZoneIndex, pfn: int, order: int) -> None:
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

    def _plain_zone(self, pfn: int, order: int) -> ZoneIndex | None:
        """The zone of a block that may be freed at a glance, None if it needs a closer look."""
        if not self._start <= pfn < self.space.end_pfn:
            return None
        u64 = self._u64
        i = self._memmap + ((pfn - self._start) << 3)
        flags = u64[i]
        if (
            u64[i + W_TYPE_REF] != ALLOCATED_WORD
            or u64[i + W_OWNER] & 0xFFFF != order
            or u64[i + W_MAPPING]
            or u64[i + W_LRU_NEXT] & 1
        ):
            return None
        zone = self._by_number.get(flags >> ZONES_PGSHIFT & ZONES_MASK)
        if zone is None or not zone.start <= pfn < zone.end:
            return None
        if order:
            plain = flags & ~PG_HEAD == zone.flags and self._tails_plain(zone, i, order)
        else:
            plain = flags == zone.flags
        return zone if plain else None

    def free_pages(self, pfn: int, order: int) -> None:
        """``__free_pages``: drop the reference of alloc_pages; the last one frees the block.

        While others hold the head of a block that is not compound, its tails, which nobody
        can hold, are freed, and the head is a single page from then on. Raises BadPage,
        nothing changed, when no block of that order was allocated at ``pfn`` (free already, a
        tail, reserved, foreign), or when one of its pages is still in use (mapped, typed,
        locked, a tail with a reference); the report is in the kernel's messages too. Other
        flags do not matter and are cleared.
        """
        self._put_page(pfn, order, True)

    def _put_page(self, pfn: int, order: int, pcp: bool) -> None:
        zone = self._plain_zone(pfn, order)
        if zone is None:
            i = self.space.page_index(pfn)
            if self.space.pfn_valid(pfn) and self._u64[i + W_TYPE_REF] >> 32 > 1:
                zone = self._check_head(pfn, order)
                if order and not self._u64[i] & PG_HEAD:
                    self._free_tails(zone, pfn, order)
                count_down(self._u64, i + W_TYPE_REF, 1 << 32, "page._refcount")
                return
            zone = self._check_free(pfn, order)
            self._clear_flags(zone, pfn, order)
        if self._debug:
            self._debug_free(pfn, 1 << order)
        if pcp and order <= PAGE_ALLOC_COSTLY_ORDER and self._u64[zone.pcp_batch]:
            compound = self._u64[self._memmap + ((pfn - self._start) << 3)] & PG_HEAD
            self._pcp_push(zone, pfn, order, bool(order and compound))
            return
        self._release(zone, pfn, 1 << order)
        self._free_one_page(zone, pfn, order, self._list_type(pfn))

    def _free_tails(self, zone: ZoneIndex, pfn: int, order: int) -> None:
        """Free all but the head of a block that is not compound: as blocks, the upper half
        first (the loop of ___free_pages)."""
        self._check_tails(zone, pfn, order)
        i = self.space.page_index(pfn)
        owner = self._u64[i + W_OWNER] & ~0xFFFF
        self._u64[i + W_OWNER] = owner
        if self.page_owner:
            self.page_owner.split_page_owner(pfn, 1)
        for half in reversed(range(order)):
            at = i + (PAGE_WORDS << half)
            self._u64[at + W_TYPE_REF] = ALLOCATED_WORD
            self._u64[at + W_OWNER] = owner | half
            self._put_page(pfn + (1 << half), half, True)

    def _release(self, zone: ZoneIndex, pfn: int, count: int) -> None:
        i = self._memmap + ((pfn - self._start) << 3)
        if count == 1:
            self._u64[i : i + PAGE_WORDS] = ZERO_PAGE_WORDS
        elif count <= MAX_ORDER_NR_PAGES:
            self._u64[i : i + (count << 3)] = _repeat(0, count << 3)
        else:
            self._pages(pfn, count)[:] = 0
        count_up(self._u64, zone.free_word, count, "zone.nr_free_pages")

    def free_page(self, pfn: int) -> None:
        """Free one frame. Raises BadPage."""
        self.free_pages(pfn, 0)

    def get_page(self, pfn: int) -> None:
        """Take one more reference on an allocated head. Raises BadPage if it has none."""
        i = self.space.page_index(pfn)
        if not self.space.pfn_valid(pfn) or not self._u64[i + W_TYPE_REF] >> 32:
            raise self._bad_page(pfn, "get_page of a page without a reference")
        count_up(self._u64, i + W_TYPE_REF, 1 << 32, "page._refcount")

    def free_page_runs(self, runs: Iterable[tuple[int, int]]) -> None:
        """Free single frames given as runs ``(pfn, count)``: the fast path for many, and past
        the per-CPU lists.

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
                if self._plain_zone(single, 0) is not None:
                    seen.append((single, 1))
                elif self.space.pfn_valid(single) and self._u64[i + W_TYPE_REF] >> 32 > 1:
                    self._check_head(single, 0)
                else:
                    self._check_free(single, 0)
                    seen.append((single, 1))
        seen.sort()
        for (a, n), (b, _) in pairwise(seen):
            if a + n > b:
                raise self._bad_page(b, "freed twice in one call")
        for (pfn, count), is_plain in zip(runs, plain, strict=True):
            if is_plain:
                self._free_run(pfn, count)
            else:
                for single in range(pfn, pfn + count):
                    self._put_page(single, 0, False)

    def _all_plain(self, pfn: int, count: int) -> bool:
        """Whether these frames are all single, allocated once and unused."""
        zone = self._zone_of(pfn)
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
            raise self._bad_page(pfn, "no such page frame")
        if self._debug:
            self._debug_free(pfn, count)
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
