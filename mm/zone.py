"""Zones: ranges of frames with their own free lists, counters and watermarks.

A machine has the zones of its configuration; riscv64's default is DMA32 below 4 GiB,
Normal above, Movable empty. Zone numbers are always those of ``ZoneType``.

**Deferred blocks.** Boot must not touch the struct page of every block of a huge machine.
The last large free range of a zone, in whole max-order blocks, stays implicit: it is
``[first_deferred_pfn, deferred_end_pfn)``, its struct pages are zero, yet it is counted in
nr_free_pages and in free_area[10].nr_free. Eager boot would have put those blocks, in
ascending order, at the tail of the order-10 Movable list, and nothing but boot ever adds
to a tail there; so listing them when that list runs dry (Linux's deferred_grow_zone) gives
the very order of allocations that an eager boot gives.

Watermarks, lowmem_reserve and the sizes of the per-CPU lists are computed here by Linux's
formulas (__setup_per_zone_wmarks, setup_per_zone_lowmem_reserve, zone_batchsize,
zone_highsize).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isqrt

from emu.ram import PAGE_SHIFT
from mm.addrspace import Space
from mm.errors import CorruptionError
from mm.layout import ListHead, Struct, array_of, chars, nested, s32, u64, u64_array
from mm.mmzone import MAX_NR_ZONES, MIGRATE_TYPES, ZoneType

MAX_PAGE_ORDER = 10
NR_PAGE_ORDERS = MAX_PAGE_ORDER + 1
MAX_ORDER_NR_PAGES = 1 << MAX_PAGE_ORDER
PAGEBLOCK_ORDER = 9
PAGEBLOCK_NR_PAGES = 1 << PAGEBLOCK_ORDER
PAGE_ALLOC_COSTLY_ORDER = 3
MIGRATE_PCPTYPES = 3  # Unmovable, Movable, Reclaimable
NR_PCP_LISTS = MIGRATE_PCPTYPES * (PAGE_ALLOC_COSTLY_ORDER + 1)
MIN_PERCPU_PAGELIST_HIGH_FRACTION = 8  # high_max is at most 1/8 of a zone
LISTED_AT_BOOT_PAGES = 128 << 20 >> PAGE_SHIFT  # the part of a zone that boot lists

WMARK_MIN, WMARK_LOW, WMARK_HIGH, WMARK_PROMO = range(4)

LOWMEM_RESERVE_RATIO = {
    ZoneType.DMA: 256,
    ZoneType.DMA32: 256,
    ZoneType.NORMAL: 32,
    ZoneType.HIGHMEM: 0,
    ZoneType.MOVABLE: 0,
}
ZONE_NAMES = {
    ZoneType.DMA: "DMA",
    ZoneType.DMA32: "DMA32",
    ZoneType.NORMAL: "Normal",
    ZoneType.HIGHMEM: "HighMem",
    ZoneType.MOVABLE: "Movable",
}


class FreeArea(Struct, c_name="free_area"):
    """The free blocks of one order."""

    free_list = array_of(ListHead, MIGRATE_TYPES)
    nr_free = u64()


class PerCpuPages(Struct, c_name="per_cpu_pages"):
    """The pages that a CPU keeps of a zone (see mm/pcp.py). Counts in pages; batch 0: off."""

    count = u64()
    high = u64()
    high_min = u64()
    high_max = u64()
    batch = u64()
    debug = u64()  # not 0: poisoning or page_owner is on, guest code must not pop or push
    lists = array_of(ListHead, NR_PCP_LISTS)  # index 3 * order + migratetype


class Zone(Struct, c_name="zone"):
    """One zone. PFNs and counts in pages."""

    _watermark = u64_array(4)
    watermark_boost = u64()
    lowmem_reserve = u64_array(MAX_NR_ZONES)
    zone_idx = s32()
    node = s32()
    zone_start_pfn = u64()
    spanned_pages = u64()
    present_pages = u64()
    managed_pages = u64()
    nr_free_pages = u64()  # vm_stat[NR_FREE_PAGES]
    first_deferred_pfn = u64()
    deferred_end_pfn = u64()
    name = chars(8)
    free_area = array_of(FreeArea, NR_PAGE_ORDERS)
    per_cpu_pageset = nested(PerCpuPages)

    def problem(self, space: Space) -> str | None:
        start, end = self.zone_start_pfn, self.zone_end_pfn
        if not space.start_pfn <= start <= end <= space.end_pfn:
            return f"zone_start_pfn {start:#x}, spanned_pages {self.spanned_pages:#x}: not in RAM"
        if not 0 <= self.zone_idx < MAX_NR_ZONES:
            return f"zone_idx {self.zone_idx}"
        first, last = self.first_deferred_pfn, self.deferred_end_pfn
        if first > last or (last and not start <= first <= last <= end):
            return f"first_deferred_pfn {first:#x}, deferred_end_pfn {last:#x}: not in the zone"
        if (first | last) & (MAX_ORDER_NR_PAGES - 1):
            return f"first_deferred_pfn {first:#x}, deferred_end_pfn {last:#x}: whole blocks"
        return None

    @property
    def zone_end_pfn(self) -> int:
        """The PFN after the zone's last."""
        return self.zone_start_pfn + self.spanned_pages

    @property
    def type(self) -> ZoneType:
        number = self.zone_idx
        if not 0 <= number < MAX_NR_ZONES:
            raise CorruptionError(self.C_NAME, self.pa, f"zone_idx {number}")
        return ZoneType(number)


# (zone, PA after its last byte); None is "to the end of RAM". Empty zones are allowed.
ZoneConfig = tuple[tuple[ZoneType, int | None], ...]
DEFAULT_ZONES: ZoneConfig = (
    (ZoneType.DMA32, 4 << 30),
    (ZoneType.NORMAL, None),
    (ZoneType.MOVABLE, None),
)


def zone_ranges(config: ZoneConfig, start: int, end: int) -> list[tuple[ZoneType, int, int]]:
    """``(zone, start_pfn, end_pfn)`` of each configured zone over RAM ``[start, end)`` (PFN).

    Raises ValueError when zones are out of order, overlap, or leave RAM uncovered.
    """
    ranges = []
    at = start
    previous = -1
    for zone, limit_pa in config:
        if zone <= previous:
            raise ValueError(f"zones must be listed lowest first, each once: {zone.name}")
        previous = zone
        limit = end if limit_pa is None else min(end, max(at, limit_pa >> PAGE_SHIFT))
        if at < limit < end and limit % MAX_ORDER_NR_PAGES:
            raise ValueError(f"zone {zone.name} must end on a max-order block, not {limit_pa:#x}")
        ranges.append((zone, at, limit))
        at = limit
    if at != end:
        raise ValueError(f"the zones end at {at << PAGE_SHIFT:#x}, RAM at {end << PAGE_SHIFT:#x}")
    return ranges


def highmem_start(config: ZoneConfig, start: int, end: int) -> int:
    """The first PFN of zone HighMem, ``end`` where there is none. Raises as zone_ranges."""
    for zone, low, high in zone_ranges(config, start, end):
        if zone == ZoneType.HIGHMEM and low < high:
            return low
    return end


def min_free_kbytes(lowmem_pages: int) -> int:
    """calculate_min_free_kbytes, from the managed pages of all zones below HighMem (kB)."""
    return min(max(isqrt(lowmem_pages * 4 * 16), 128), 262144)


def zone_watermarks(zones: Iterable[Zone], min_free: int | None = None) -> list[list[int]]:
    """``_watermark[4]`` of every zone (__setup_per_zone_wmarks).

    ``min_free`` is vm.min_free_kbytes (kB); None is what Linux computes. 0: no reserves at
    all, the marks of HighMem and Movable included.
    """
    zones = list(zones)
    lowmem = sum(z.managed_pages for z in zones if z.type < ZoneType.HIGHMEM)
    pages_min = (min_free_kbytes(lowmem) if min_free is None else min_free) >> (PAGE_SHIFT - 10)
    marks = []
    for zone in zones:
        managed = zone.managed_pages
        share = pages_min * managed // lowmem if lowmem else 0
        # HighMem and Movable only need enough for the atomic copies through them.
        is_high = zone.type >= ZoneType.HIGHMEM
        minimum = min(max(managed // 1024, 32), 128) if is_high and pages_min else share
        distance = max(share // 4, managed * 10 // 10000)
        marks.append([minimum + mark * distance for mark in range(4)])
    return marks


def setup_per_zone_wmarks(zones: Sequence[Zone], min_free: int | None = None) -> None:
    """Set the watermarks of every zone to zone_watermarks()."""
    for zone, marks in zip(zones, zone_watermarks(zones, min_free), strict=True):
        for mark, pages in enumerate(marks):
            zone._watermark[mark] = pages


def lowmem_reserves(zones: Sequence[Zone]) -> list[list[int]]:
    """``lowmem_reserve[j]`` of every zone: what it keeps from requests that could use zone j
    (setup_per_zone_lowmem_reserve)."""
    managed = {z.type: z.managed_pages for z in zones}
    reserves = []
    for zone in zones:
        ratio = LOWMEM_RESERVE_RATIO[zone.type]
        above = 0
        row = [0] * MAX_NR_ZONES
        for j in ZoneType:
            if j > zone.type:
                above += managed.get(j, 0)
                row[j] = above // ratio if ratio and zone.managed_pages else 0
        reserves.append(row)
    return reserves


def setup_per_zone_lowmem_reserve(zones: Sequence[Zone]) -> None:
    """Set the reserves of every zone to lowmem_reserves()."""
    for zone, row in zip(zones, lowmem_reserves(zones), strict=True):
        for j, pages in enumerate(row):
            zone.lowmem_reserve[j] = pages


def build_zonelist(zones: Sequence[Zone], highest: int) -> list[Zone]:
    """The populated zones that a request up to ``highest`` may use, best first."""
    usable = [z for z in zones if z.zone_idx <= highest and z.managed_pages]
    return sorted(usable, key=lambda z: -z.zone_idx)


def zone_batchsize(managed: int) -> int:
    """The batch of the per-CPU lists of a zone of ``managed`` pages (zone_batchsize)."""
    batch = max(1, min(managed >> 10, (1 << 20) >> PAGE_SHIFT) // 4)
    return max(1, (1 << (batch + batch // 2).bit_length() - 1) - 1)


def setup_pageset(zone: Zone, enabled: bool, nr_cpus: int = 1) -> None:
    """Size the per-CPU lists of a zone from its watermarks (zone_set_pageset_high_and_batch).

    Not ``enabled``, or a zone without pages: batch and high are 0, every page goes straight
    to the buddy lists.
    """
    pcp, managed = zone.per_cpu_pageset, zone.managed_pages
    pcp.batch = pcp.high = pcp.high_min = pcp.high_max = 0
    if not enabled or not managed:
        return
    batch = zone_batchsize(managed)
    pcp.batch = batch
    pcp.high_min = max(zone._watermark[WMARK_LOW] // nr_cpus, 4 * batch)
    pcp.high_max = max(managed // MIN_PERCPU_PAGELIST_HIGH_FRACTION // nr_cpus, 4 * batch)
    pcp.high = pcp.high_min
