"""The state of memory as Linux prints it when an allocation fails (mm/show_mem.c).

Sizes in kB, counts in pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from emu.ram import PAGE_SHIFT
from mm.addrspace import Space
from mm.gfp import MIGRATE_TYPES, format_gfp
from mm.zone import NR_PAGE_ORDERS, WMARK_HIGH, WMARK_LOW, WMARK_MIN, Zone

_TYPE_LETTERS = "UMEH"  # as Linux's show_migration_types


class Pages(Protocol):
    """What is shown of a page allocator."""

    space: Space
    zones: Sequence[Zone]

    def nr_free_pages(self) -> int: ...
    def nr_pcp_pages(self) -> int: ...


def _kb(pages: int) -> int:
    return pages << (PAGE_SHIFT - 10)


def show_free_areas(pages: Pages) -> Iterator[str]:
    """Linux's "Mem-Info:" lines: each zone's numbers, then its free blocks."""
    yield "Mem-Info:"
    yield f"free:{pages.nr_free_pages()} free_pcp:{pages.nr_pcp_pages()} free_cma:0"
    populated = [z for z in pages.zones if z.managed_pages]
    for zone in populated:
        pcp = zone.per_cpu_pageset.count
        yield (
            f"Node {zone.node} {zone.name} free:{_kb(zone.nr_free_pages)}kB "
            f"boost:{_kb(zone.watermark_boost)}kB min:{_kb(zone._watermark[WMARK_MIN])}kB "
            f"low:{_kb(zone._watermark[WMARK_LOW])}kB high:{_kb(zone._watermark[WMARK_HIGH])}kB "
            f"present:{_kb(zone.present_pages)}kB managed:{_kb(zone.managed_pages)}kB "
            f"free_pcp:{_kb(pcp)}kB local_pcp:{_kb(pcp)}kB free_cma:0kB"
        )
        reserve = " ".join(str(zone.lowmem_reserve[z.type]) for z in pages.zones)
        yield f"lowmem_reserve[]: {reserve}"
    for zone in populated:
        parts = []
        for order in range(NR_PAGE_ORDERS):
            area = zone.free_area[order]
            types = ""
            if area.nr_free:
                heads = [area.free_list[mt] for mt in range(MIGRATE_TYPES)]
                types = "".join(
                    letter
                    for letter, head in zip(_TYPE_LETTERS, heads, strict=True)
                    if head.next != pages.space.va(head.pa)
                )
                types = f" ({types})" if types else ""
            parts.append(f"{area.nr_free}*{_kb(1 << order)}kB{types}")
        yield f"Node {zone.node} {zone.name}: {' '.join(parts)} = {_kb(zone.nr_free_pages)}kB"


def warn_alloc(pages: Pages, comm: str, gfp: int, order: int) -> Iterator[str]:
    """What a failed allocation prints (mm/page_alloc.c warn_alloc)."""
    yield (
        f"{comm}: page allocation failure: order:{order}, mode:{gfp:#x}({format_gfp(gfp)}), "
        "nodemask=(null)"
    )
    yield from show_free_areas(pages)
