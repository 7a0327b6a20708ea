"""How fragmented a zone's free memory is, in thousandths (Linux mm/vmstat.c).

``extfrag_index`` says why a request of an order would fail: towards 0 for want of memory,
towards 1000 because of fragmentation; -1000 when it would not fail. ``unusable_index`` is
the part of free memory that lies in blocks too small for the order.
"""

from __future__ import annotations

from mm.zone import MAX_PAGE_ORDER, NR_PAGE_ORDERS, Zone


def _contig_page_info(zone: Zone, order: int) -> tuple[int, int, int]:
    """fill_contig_page_info: free pages, free blocks, and how many blocks of ``order`` the
    large enough ones make."""
    pages = blocks = suitable = 0
    for at in range(NR_PAGE_ORDERS):
        count = zone.free_area[at].nr_free
        blocks += count
        pages += count << at
        if at >= order:
            suitable += count << (at - order)
    return pages, blocks, suitable


def extfrag_index(zone: Zone, order: int) -> int:
    """__fragmentation_index: -1000, or 0 to 1000; 0 also for an order that nothing has."""
    if not 0 <= order <= MAX_PAGE_ORDER:
        return 0
    pages, blocks, suitable = _contig_page_info(zone, order)
    if not blocks:
        return 0
    if suitable:
        return -1000
    return 1000 - (1000 + pages * 1000 // (1 << order)) // blocks


def unusable_index(zone: Zone, order: int) -> int:
    """unusable_free_index: 0 to 1000; no free memory counts as all unusable."""
    pages, _, suitable = _contig_page_info(zone, order)
    if not pages:
        return 1000
    return (pages - (suitable << order)) * 1000 // pages
