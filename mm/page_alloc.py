"""The page allocator: requests with GFP flags, served from zones in order of preference.

A request goes down its zonelist. A zone serves it if that leaves more than a watermark free
(request.py), and for order > 0 if some free block is large enough. The parts, each in a file of
its own:

    alloc_pages, free_pages            many single pages (page_runs.py)
        |                                  |
    pcp.py: orders 0 to 3                  |        page_prep.py: struct pages of blocks that
        |                                  |        leave and come back, and the checks of them
    buddy.py: the free lists of the zones -+

A request that may block (__GFP_DIRECT_RECLAIM) and still got nothing drains the per-CPU
lists, runs the shrinkers, compacts the zones if its order is above 0, and tries again for
as long as that frees something; __GFP_NORETRY tries once, a costly order too unless
__GFP_RETRY_MAYFAIL. Then it fails: None and a report in ``kernel.messages``, or OutOfMemory
for __GFP_NOFAIL.

Everything is in RAM; this object only keeps addresses. Source: Linux mm/page_alloc.c
(__alloc_pages, get_page_from_freelist, __alloc_pages_slowpath, ___free_pages).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from emu.ram import PAGE_SIZE
from mm.addrspace import Space
from mm.buddy import Buddy
from mm.errors import BadAddress, GfpError, OutOfMemory
from mm.gfp import (
    ALLOC_NO_WATERMARKS,
    ALLOC_WMARK_LOW,
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
    PG_HEAD,
    W_TYPE_REF,
)
from mm.page_ext import PageAllocInfo
from mm.page_owner import PageOwner
from mm.page_prep import PagePrep
from mm.page_runs import PageRuns, Runs
from mm.pcp import PerCpuLists
from mm.request import Request, has_free_block, zone_watermark_left
from mm.show_mem import warn_alloc
from mm.vmscan import MAX_RECLAIM_RETRIES, Reclaim
from mm.zone import (
    MAX_PAGE_ORDER,
    PAGE_ALLOC_COSTLY_ORDER,
    Zone,
    build_zonelist,
)
from mm.zone_index import ZoneIndex

_M = MigrateType.MOVABLE

# (zone, order): move pages until a block of that order is free; whether there is one.
Compactor = Callable[[Zone, int], bool]
Printk = Callable[[str], None]


class PageAllocator:
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
        self.space = space
        self.zones = zones
        self.info = info
        self.printk = printk
        self.buddy = Buddy(space, lists, zones, pageblock_pa)
        self.pcp = PerCpuLists(self.buddy)
        self.prep = PagePrep(self.buddy, info, printk)
        self.runs = PageRuns(self, self.buddy, self.prep)
        self.reclaim = Reclaim()
        self.compactor: Compactor | None = None
        # Fault injection: (gfp, order) -> fail this one.
        self.should_fail: Callable[[int, int], bool] | None = None
        self._u64 = space.ram.u64
        self._requests: dict[int, Request] = {}

    @property
    def page_owner(self) -> PageOwner | None:
        """Who allocated which frame, on a machine that was booted to know."""
        return self.prep.page_owner

    # the state of memory

    @property
    def mobility_disabled(self) -> bool:
        """Whether there is too little memory to keep pages apart by mobility."""
        return self.buddy.mobility_disabled

    def nr_free_pages(self) -> int:
        """Free pages of all zones (NR_FREE_PAGES), without those of the per-CPU lists."""
        return self.buddy.nr_free_pages()

    def nr_pcp_pages(self) -> int:
        """Pages on the per-CPU lists of all zones: free, but not in nr_free_pages."""
        return self.pcp.nr_pcp_pages()

    def drain_all_pages(self) -> int:
        """Empty every per-CPU list into the buddy lists; the pages given back."""
        return self.pcp.drain_all_pages()

    def page_zone(self, pfn: int) -> Zone:
        """The zone of frame ``pfn``. Raises BadPage if it is in none."""
        return self.buddy.page_zone(pfn)

    def get_pageblock_migratetype(self, pfn: int) -> MigrateType:
        """The migratetype of the pageblock (2 MiB) of frame ``pfn``. Raises CorruptionError."""
        return self.buddy.get_pageblock_migratetype(pfn)

    # requests

    def request(self, gfp: int) -> Request:
        """What ``gfp`` asks for. Raises GfpError."""
        return self._requests.get(gfp) or self._request(gfp)

    def _request(self, gfp: int) -> Request:
        check_gfp(gfp)
        mt = gfp_migratetype(gfp)
        highest = gfp_zone(gfp, [zone.number for zone in self.buddy.index])
        zonelist = [self.buddy.index_of(z) for z in build_zonelist(self.zones, highest)]
        request = Request(gfp, int(highest), zonelist, _M if self.mobility_disabled else mt)
        self._requests[gfp] = request
        return request

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
        pfn = self._get_page_from_freelist(request, gfp, order, ALLOC_WMARK_LOW)
        return self._alloc_pages_slowpath(gfp, order, request) if pfn is None else pfn

    def alloc_page(self, gfp: int = GFP_KERNEL) -> int | None:
        """One frame: its PFN, or None."""
        return self.alloc_pages(gfp, 0)

    def _get_page_from_freelist(
        self, request: Request, gfp: int, order: int, alloc_flags: int
    ) -> int | None:
        """A block of the first zone that may give one, made ready for its user: its PFN."""
        u64 = self._u64
        for zone in request.zonelist:
            left = zone_watermark_left(u64, zone, request.highest, alloc_flags)
            if left < 1 << order or (order and not has_free_block(u64, zone, order)):
                continue
            pfn = None
            if order <= PAGE_ALLOC_COSTLY_ORDER:
                pfn = self.pcp.pop(zone, order, request.pcp_type)
            if pfn is None:
                taken = self.buddy.rmqueue(zone, order, request.migratetype, 0)
                if taken is None:
                    continue
                pfn = taken[0]
            self.prep.prep_new_page(zone, pfn, order, gfp, request.owner)
            return pfn
        return None

    def _alloc_pages_slowpath(self, gfp: int, order: int, request: Request) -> int | None:
        """__alloc_pages_slowpath. OutOfMemory for __GFP_NOFAIL when nothing can be freed."""
        flags = gfp_to_alloc_flags(gfp)
        if self.reclaim.active:
            flags |= ALLOC_NO_WATERMARKS
        found = self._get_page_from_freelist(request, gfp, order, flags)
        if found is not None:
            return found
        if flags & ALLOC_NO_WATERMARKS and self.drain_all_pages():
            found = self._get_page_from_freelist(request, gfp, order, flags)
        elif gfp & GFP_DIRECT_RECLAIM and not self.reclaim.active:
            for _ in range(MAX_RECLAIM_RETRIES):
                progress = self.try_to_free_pages()
                found = self._get_page_from_freelist(request, gfp, order, flags)
                if found is None and order and self._compact(request, order):
                    found = self._get_page_from_freelist(request, gfp, order, flags)
                if found is not None or not progress or gfp & GFP_NORETRY:
                    break
                if order > PAGE_ALLOC_COSTLY_ORDER and not gfp & (GFP_RETRY_MAYFAIL | GFP_NOFAIL):
                    break
        if found is None:
            found = self.nopage(gfp, order, request)
        return found

    def nopage(self, gfp: int, order: int, request: Request) -> int | None:
        """The end of the slow path: __GFP_NOFAIL takes the reserves or gives up loudly."""
        if gfp & GFP_NOFAIL:
            found = self._get_page_from_freelist(request, gfp, order, ALLOC_NO_WATERMARKS)
            if found is not None:
                return found
        if not gfp & GFP_NOWARN:
            for line in warn_alloc(self, self.info.current_comm, gfp, order):
                self.printk(line)
        if gfp & GFP_NOFAIL:
            raise OutOfMemory(f"__GFP_NOFAIL of order {order}: nothing is left that could be freed")
        return None

    def try_to_free_pages(self) -> int:
        """Pages that reclaim could free: the per-CPU lists' and the shrinkers'."""
        freed = self.drain_all_pages()
        freed += self.reclaim.shrink()
        self.drain_all_pages()  # what the shrinkers freed lies there
        return freed

    def _compact(self, request: Request, order: int) -> bool:
        """try_to_compact_pages: zone by zone until one has such a block; whether one has."""
        if self.compactor is None:
            return False
        return any(self.compactor(zone.zone, order) for zone in request.zonelist)

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
        self.prep.split_page(pfn, order)
        if count < 1 << order:
            self.runs.free_page_runs([(pfn + count, (1 << order) - count)])
        return self.space.pfn_to_virt(pfn)

    def free_pages_exact(self, va: int, size: int) -> None:
        """``free_pages_exact``: free what alloc_pages_exact of ``size`` bytes gave at ``va``.

        Raises BadAddress for no page of the direct map, BadPage, nothing changed.
        """
        if va % PAGE_SIZE or size <= 0:
            raise BadAddress(va, f"free_pages_exact of {size} bytes: no such allocation")
        self.runs.free_page_runs([(self.space.virt_to_pfn(va), -(-size // PAGE_SIZE))])

    # freeing

    def free_pages(self, pfn: int, order: int) -> None:
        """``__free_pages``: drop the reference of alloc_pages; the last one frees the block.

        While others hold the head of a block that is not compound, its tails, which nobody
        can hold, are freed, and the head is a single page from then on. Raises BadPage,
        nothing changed, when no block of that order was allocated at ``pfn`` (free already, a
        tail, reserved, foreign), or when one of its pages is still in use (mapped, typed,
        locked, a tail with a reference); the report is in the kernel's messages too. Other
        flags do not matter and are cleared.
        """
        self.put_page(pfn, order, True)

    def put_page(self, pfn: int, order: int, pcp: bool) -> None:
        """free_pages; ``pcp``: to the per-CPU lists, if they take it."""
        prep = self.prep
        zone = prep.plain_zone(pfn, order)
        if zone is None:
            i = self.space.page_index(pfn)
            if self.space.pfn_valid(pfn) and self._u64[i + W_TYPE_REF] >> 32 > 1:
                zone = prep.check_head(pfn, order)
                if order and not self._u64[i] & PG_HEAD:
                    self._free_tails(zone, pfn, order)
                count_down(self._u64, i + W_TYPE_REF, 1 << 32, "page._refcount")
                return
            zone = prep.check_free(pfn, order)
            prep.clear_flags(zone, pfn, order)
        if prep.debug:
            prep.debug_free(pfn, 1 << order)
        if pcp and order <= PAGE_ALLOC_COSTLY_ORDER and self._u64[zone.pcp_batch]:
            self.pcp.push(zone, pfn, order)
            return
        prep.release(zone, pfn, 1 << order)
        self.buddy.free_one_page(zone, pfn, order, self.buddy.list_type(pfn))

    def _free_tails(self, zone: ZoneIndex, pfn: int, order: int) -> None:
        """Free all but the head of a block that is not compound: as blocks, the upper half
        first (the loop of ___free_pages)."""
        self.prep.check_tails(zone, pfn, order)
        self.prep.make_single(pfn)
        for half in reversed(range(order)):
            self.prep.make_head(pfn, pfn + (1 << half), half)
            self.put_page(pfn + (1 << half), half, True)

    def free_page(self, pfn: int) -> None:
        """Free one frame. Raises BadPage."""
        self.put_page(pfn, 0, True)

    def get_page(self, pfn: int) -> None:
        """Take one more reference on an allocated head. Raises BadPage if it has none."""
        i = self.space.page_index(pfn)
        if not self.space.pfn_valid(pfn) or not self._u64[i + W_TYPE_REF] >> 32:
            raise self.prep.bad_page(pfn, "get_page of a page without a reference")
        count_up(self._u64, i + W_TYPE_REF, 1 << 32, "page._refcount")

    def split_page(self, pfn: int, order: int) -> None:
        """Turn an allocated block that is not compound into 2^order single frames.

        Raises BadPage when ``pfn`` does not head such a block of exactly that order.
        """
        self.prep.split_page(pfn, order)

    # many single pages

    def alloc_page_runs(self, gfp: int, count: int) -> Runs | None:
        """See PageRuns.alloc_page_runs."""
        return self.runs.alloc_page_runs(gfp, count)

    def alloc_pages_bulk(self, gfp: int, count: int) -> list[int]:
        """See PageRuns.alloc_pages_bulk."""
        return self.runs.alloc_pages_bulk(gfp, count)

    def free_page_runs(self, runs: Iterable[tuple[int, int]]) -> None:
        """See PageRuns.free_page_runs."""
        self.runs.free_page_runs(runs)
