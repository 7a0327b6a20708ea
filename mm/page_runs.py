"""Many single pages at once, as runs ``(pfn, count)`` of adjacent frames.

They go past the per-CPU lists, from the buddy lists and back to them block by block: a few
large blocks cost no more than a few pages. Source: Linux mm/page_alloc.c (alloc_pages_bulk,
release_pages).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Protocol

from mm.buddy import Buddy
from mm.errors import OutOfMemory
from mm.gfp import (
    ALLOC_NO_WATERMARKS,
    ALLOC_WMARK_LOW,
    GFP_DIRECT_RECLAIM,
    GFP_NOFAIL,
    gfp_to_alloc_flags,
)
from mm.page import W_TYPE_REF
from mm.page_prep import PagePrep
from mm.request import Request, zone_watermark_left
from mm.vmscan import MAX_RECLAIM_RETRIES, Reclaim
from mm.zone import MAX_PAGE_ORDER, PAGEBLOCK_ORDER

_WHOLE_BLOCK_MIN = 16  # pages
Runs = list[tuple[int, int]]


class Source(Protocol):
    """What runs need of the page allocator that they are a part of."""

    should_fail: Callable[[int, int], bool] | None
    reclaim: Reclaim

    def request(self, gfp: int) -> Request: ...
    def drain_all_pages(self) -> int: ...
    def try_to_free_pages(self) -> int: ...
    def nopage(self, gfp: int, order: int, request: Request) -> int | None: ...
    def put_page(self, pfn: int, order: int, pcp: bool) -> None: ...


class PageRuns:
    """Runs of single pages of ``source``, whose parts ``buddy`` and ``prep`` are."""

    def __init__(self, source: Source, buddy: Buddy, prep: PagePrep) -> None:
        self.source = source
        self.buddy = buddy
        self.prep = prep
        self.space = buddy.space
        self._u64 = buddy.ram.u64

    # many single pages

    def alloc_page_runs(self, gfp: int, count: int) -> Runs | None:
        """``count`` single frames as runs ``(pfn, count)``, each freeable alone: for 16 and
        more whole blocks first, else those that alloc_page would return without per-CPU
        lists, in that order. None: not enough, and nothing was taken. Raises GfpError,
        OutOfMemory for __GFP_NOFAIL when even the reserves do not do.
        """
        if self.source.should_fail is not None and self.source.should_fail(gfp, 0):
            return None
        runs, left = self._alloc_runs(gfp, count)
        if left > 0 and gfp & GFP_NOFAIL:  # as nopage: the reserves
            left = self._take_runs(self.source.request(gfp), gfp, ALLOC_NO_WATERMARKS, left, runs)
        if left > 0:
            self.free_page_runs(runs)
            self.source.nopage(gfp & ~GFP_NOFAIL, 0, self.source.request(gfp))
            if gfp & GFP_NOFAIL:
                raise OutOfMemory(f"__GFP_NOFAIL of {count} pages: they are not there")
            return None
        return runs

    def alloc_pages_bulk(self, gfp: int, count: int) -> list[int]:
        """Up to ``count`` single frames: PFNs, fewer when memory runs out (Linux's
        alloc_pages_bulk likewise returns how many it got). Raises GfpError."""
        if self.source.should_fail is not None and self.source.should_fail(gfp, 0):
            return []
        runs, _ = self._alloc_runs(gfp, count)
        if len(runs) == 1:
            return list(range(runs[0][0], runs[0][0] + runs[0][1]))
        return [pfn for start, n in runs for pfn in range(start, start + n)]

    def _alloc_runs(self, gfp: int, count: int) -> tuple[Runs, int]:
        """Runs of as many of ``count`` frames as there are, and how many are missing."""
        request = self.source.request(gfp)
        runs: Runs = []
        left = self._take_runs(request, gfp, ALLOC_WMARK_LOW, count, runs)
        if left <= 0:
            return runs, left
        flags = gfp_to_alloc_flags(gfp)
        if self.source.reclaim.active:
            flags |= ALLOC_NO_WATERMARKS
        left = self._take_runs(request, gfp, flags, left, runs)
        if gfp & GFP_DIRECT_RECLAIM and not self.source.reclaim.active:
            for _ in range(MAX_RECLAIM_RETRIES):
                if left <= 0 or not self.source.try_to_free_pages():
                    break
                left = self._take_runs(request, gfp, flags, left, runs)
        elif left > 0 and self.source.drain_all_pages():
            left = self._take_runs(request, gfp, flags, left, runs)
        return runs, left

    def _take_runs(
        self,
        request: Request,
        gfp: int,
        alloc_flags: int,
        left: int,
        runs: Runs,
    ) -> int:
        """Append runs of single frames, down to the mark; how many of ``left`` are missing."""
        for zone in request.zonelist:
            allowed = min(left, zone_watermark_left(self._u64, zone, request.highest, alloc_flags))
            while allowed > 0:
                taken = None
                if allowed >= _WHOLE_BLOCK_MIN:
                    # One block for all of them beats many scraps.
                    fits = min(allowed.bit_length() - 1, MAX_PAGE_ORDER)
                    taken = self.buddy.rmqueue_smallest(zone, fits, request.migratetype, 0)
                if taken is None:
                    taken = self.buddy.rmqueue(zone, 0, request.migratetype, allowed)
                if taken is None:
                    break
                pfn, order = taken
                self.prep.prep_new_singles(zone, pfn, 1 << order, gfp, request.owner)
                if runs and runs[-1][0] + runs[-1][1] == pfn:
                    runs[-1] = runs[-1][0], runs[-1][1] + (1 << order)
                else:
                    runs.append((pfn, 1 << order))
                allowed -= 1 << order
                left -= 1 << order
            if left <= 0:
                break
        return left

    # freeing

    def free_page_runs(self, runs: Iterable[tuple[int, int]]) -> None:
        """Free single frames given as runs ``(pfn, count)``: the fast path for many, and past
        the per-CPU lists.

        All are checked first: BadPage, nothing changed, if one of them may not be freed.
        Frames with further references only lose one. The same blocks come free as if each
        were freed alone; their order in the lists may differ.
        """
        runs = list(runs)
        plain = self._check_runs(runs)
        for (pfn, count), is_plain in zip(runs, plain, strict=True):
            if is_plain:
                self._free_run(pfn, count)
            else:
                for single in range(pfn, pfn + count):
                    self.source.put_page(single, 0, False)

    def _check_runs(self, runs: Runs) -> list[bool]:
        """Whether each run can be freed as a whole. Raises BadPage for a frame that may not be
        freed, or comes twice."""
        prep = self.prep
        plain: list[bool] = []
        seen: Runs = []
        for pfn, count in runs:
            plain.append(count > 8 and prep.all_plain(pfn, count))
            if plain[-1]:
                seen.append((pfn, count))
                continue
            for single in range(pfn, pfn + count):
                i = self.space.page_index(single)
                if prep.plain_zone(single, 0) is not None:
                    seen.append((single, 1))
                elif self.space.pfn_valid(single) and self._u64[i + W_TYPE_REF] >> 32 > 1:
                    prep.check_head(single, 0)
                else:
                    prep.check_free(single, 0)
                    seen.append((single, 1))
        seen.sort()
        for (a, n), (b, _) in pairwise(seen):
            if a + n > b:
                raise prep.bad_page(b, "freed twice in one call")
        return plain

    def _free_run(self, pfn: int, count: int) -> None:
        zone = self.buddy.zone_of(pfn)
        if zone is None:
            raise self.prep.bad_page(pfn, "no such page frame")
        if self.prep.debug:
            self.prep.debug_free(pfn, count)
        self.prep.release(zone, pfn, count)
        end = pfn + count
        while pfn < end:
            order = min(MAX_PAGE_ORDER, (pfn & -pfn).bit_length() - 1)
            while pfn + (1 << order) > end:
                order -= 1
            # Blocks above a pageblock could span two types; lists are per pageblock.
            order = min(order, PAGEBLOCK_ORDER)
            self.buddy.free_one_page(zone, pfn, order, self.buddy.list_type(pfn))
            pfn += 1 << order
