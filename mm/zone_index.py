"""Where a zone's words are in ``ram.u64``: what hot paths go by instead of views."""

from __future__ import annotations

from mm.addrspace import Space
from mm.mmzone import MIGRATE_TYPES
from mm.page import zone_flags
from mm.zone import (
    NR_PAGE_ORDERS,
    NR_PCP_LISTS,
    FreeArea,
    PerCpuPages,
    Zone,
)


class ZoneIndex:
    """Where a zone's words are in ram.u64: derived from RAM, never changing."""

    __slots__ = (
        "area",
        "end",
        "flags",
        "free_word",
        "heads",
        "number",
        "pcp_batch",
        "pcp_count",
        "pcp_high",
        "pcp_lists",
        "reserve_word",
        "start",
        "wmark_word",
        "zone",
    )  # fmt: skip

    def __init__(self, zone: Zone, space: Space) -> None:
        self.zone = zone
        self.number = zone.zone_idx
        self.start = zone.zone_start_pfn
        self.end = zone.zone_end_pfn
        self.flags = zone_flags(self.number)
        base = (zone.pa - space.ram.base) >> 3
        first = zone.pa + Zone.offset_of("free_area")
        self.area = [
            (first + order * FreeArea.SIZE + FreeArea.offset_of("nr_free") - space.ram.base) >> 3
            for order in range(NR_PAGE_ORDERS)
        ]
        self.heads = [
            [space.va(first + order * FreeArea.SIZE + mt * 16) for mt in range(MIGRATE_TYPES)]
            for order in range(NR_PAGE_ORDERS)
        ]
        self.free_word = base + Zone.word_of("nr_free_pages")
        self.wmark_word = base + Zone.word_of("_watermark")
        self.reserve_word = base + Zone.word_of("lowmem_reserve")
        pcp = base + Zone.word_of("per_cpu_pageset")
        self.pcp_count = pcp + PerCpuPages.word_of("count")
        self.pcp_high = pcp + PerCpuPages.word_of("high")
        self.pcp_batch = pcp + PerCpuPages.word_of("batch")
        lists = zone.pa + Zone.offset_of("per_cpu_pageset") + PerCpuPages.offset_of("lists")
        # The head of each list: its VA, and its word.
        self.pcp_lists = [
            (space.va(pa), (pa - space.ram.base) >> 3)
            for pa in range(lists, lists + 16 * NR_PCP_LISTS, 16)
        ]
