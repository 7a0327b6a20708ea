"""What an allocation asks for, and how deep it may reach into a zone.

A zone serves a request if, after it, more than a watermark would be free:
``free - (2^order - 1) > mark + lowmem_reserve[highest zone of the request]``. What mark:

| | |
|---|---|
| first try | low |
| slow path | min; __GFP_HIGH: half of it; that and not able to block: 3/8 of it |
| __GFP_MEMALLOC, allocations made by reclaim itself | none |

Source: Linux mm/page_alloc.c (__zone_watermark_ok).
"""

from __future__ import annotations

from mm.gfp import (
    ALLOC_MIN_RESERVE,
    ALLOC_NO_WATERMARKS,
    ALLOC_NON_BLOCK,
    ALLOC_WMARK_MASK,
)
from mm.mmzone import MigrateType
from mm.page_prep import NO_REASON
from mm.zone_index import ZoneIndex


class Request:
    """What a gfp mask asks for: derived from it and the zones, kept for speed.

    ``zonelist``: best first; ``highest``: the number of the highest zone it may have;
    ``owner``: page_owner's word of a page of order 0.
    """

    __slots__ = ("highest", "migratetype", "owner", "pcp_type", "zonelist")

    def __init__(self, gfp: int, highest: int, zonelist: list[ZoneIndex], mt: MigrateType) -> None:
        self.zonelist = zonelist
        self.migratetype = mt
        self.pcp_type = int(mt)  # the same, faster to count with
        self.highest = highest
        self.owner = gfp << 32 | NO_REASON


def zone_watermark_left(u64: memoryview, zone: ZoneIndex, highest: int, alloc_flags: int) -> int:
    """How many single pages the zone may still give before it is at the mark of
    ``alloc_flags`` for a request up to zone ``highest``; 0 or less: none. ``u64``: the words
    of RAM."""
    free = u64[zone.free_word]
    if alloc_flags & ALLOC_NO_WATERMARKS:
        return free
    mark = u64[zone.wmark_word + (alloc_flags & ALLOC_WMARK_MASK)]
    if alloc_flags & ALLOC_MIN_RESERVE:
        mark -= mark // 2
        if alloc_flags & ALLOC_NON_BLOCK:
            mark -= mark // 4
    return free - mark - u64[zone.reserve_word + highest]


def has_free_block(u64: memoryview, zone: ZoneIndex, order: int) -> bool:
    """Whether the zone has a free block of at least ``order``: what __zone_watermark_ok asks
    besides for orders above 0."""
    return any(u64[word] for word in zone.area[order:])
