"""Which zone serves a request, how hard it is tried, and when the trying ends."""

from __future__ import annotations

import pytest

import mm
from emu.ram import RAM_BASE, Ram
from mm.errors import OutOfMemory
from mm.gfp import (
    GFP_DMA,
    GFP_DMA32,
    GFP_HIGHUSER,
    GFP_KERNEL,
    GFP_NOFAIL,
    GFP_NOWARN,
    ZoneType,
    gfp_zone,
)
from mm.slab import SLAB_CACHE_DMA
from mm.zone import Zone, ZoneConfig

MIB = 1 << 20


def test_zones_that_are_not_configured() -> None:
    """GFP_ZONE_TABLE: OPT_ZONE_DMA, OPT_ZONE_DMA32 and OPT_ZONE_HIGHMEM are ZONE_NORMAL."""
    riscv = (ZoneType.DMA32, ZoneType.NORMAL, ZoneType.MOVABLE)
    x86 = (ZoneType.DMA, *riscv)
    small = (ZoneType.DMA, ZoneType.NORMAL)
    rows = (
        (GFP_KERNEL | GFP_DMA, riscv, ZoneType.NORMAL),
        (GFP_KERNEL | GFP_DMA, x86, ZoneType.DMA),
        (GFP_KERNEL | GFP_DMA32, riscv, ZoneType.DMA32),
        (GFP_KERNEL | GFP_DMA32, small, ZoneType.NORMAL),
        (GFP_HIGHUSER, riscv, ZoneType.NORMAL),
        (GFP_HIGHUSER, (*riscv, ZoneType.HIGHMEM), ZoneType.HIGHMEM),
    )
    for gfp, configured, zone in rows:
        assert gfp_zone(gfp, configured) is zone


def test_gfp_dma_on_a_machine_without_zone_dma() -> None:
    k = mm.boot(Ram(64 * MIB))  # all of it is DMA32
    pfn = k.alloc_pages(GFP_KERNEL | GFP_DMA, 0)
    assert pfn is not None and k.page_alloc.page_zone(pfn).name == "DMA32"
    cache = k.kmem_cache_create("for_dma", 64, flags=SLAB_CACHE_DMA)
    assert cache.alloc() is not None
    assert k.kmalloc(64, GFP_KERNEL | GFP_DMA) is not None
    assert k.kmalloc(20000, GFP_KERNEL | GFP_DMA) is not None
    assert not k.messages
    mm.check(k)


def test_gfp_dma32_on_a_machine_without_zone_dma32() -> None:
    zones: ZoneConfig = ((ZoneType.DMA, RAM_BASE + 16 * MIB), (ZoneType.NORMAL, None))
    k = mm.boot(Ram(64 * MIB), mm.Config(zones=zones))
    pfn = k.alloc_pages(GFP_KERNEL | GFP_DMA32, 0)
    assert pfn is not None and k.page_alloc.page_zone(pfn).name == "Normal"
    pfn = k.alloc_pages(GFP_KERNEL | GFP_DMA, 0)
    assert pfn is not None and k.page_alloc.page_zone(pfn).name == "DMA"
    mm.check(k)


@pytest.mark.parametrize("works_in", ["Normal", "DMA32", ""])
def test_compaction_ends_at_the_first_zone_that_has_a_block(works_in: str) -> None:
    zones: ZoneConfig = ((ZoneType.DMA32, RAM_BASE + 32 * MIB), (ZoneType.NORMAL, None))
    k = mm.boot(Ram(64 * MIB), mm.Config(zones=zones))
    asked = []

    def compactor(zone: Zone, order: int) -> bool:
        asked.append(zone.name)
        return zone.name == works_in

    k.page_alloc.compactor = compactor
    assert k.page_alloc._compact(k.page_alloc._request(GFP_KERNEL), 3) == bool(works_in)
    assert asked == (["Normal"] if works_in == "Normal" else ["Normal", "DMA32"])


def exhausted() -> mm.Kernel:
    k = mm.boot(Ram(16 * MIB))
    while k.alloc_pages(GFP_KERNEL | GFP_NOWARN, 0) is not None:
        pass
    return k


def test_nofail_reaches_the_reserves_page_by_page_and_in_runs() -> None:
    k = exhausted()
    reserve = k.page_alloc.nr_free_pages()
    assert reserve > 64  # the min watermark
    assert k.page_alloc.alloc_page_runs(GFP_KERNEL | GFP_NOWARN, 1) is None
    assert k.alloc_pages(GFP_KERNEL | GFP_NOFAIL, 0) is not None
    runs = k.page_alloc.alloc_page_runs(GFP_KERNEL | GFP_NOFAIL, reserve - 1)
    assert runs is not None and sum(n for _, n in runs) == reserve - 1
    assert k.page_alloc.nr_free_pages() == 0
    mm.check(k)
    k.page_alloc.free_page_runs(runs)
    mm.check(k)


def test_nofail_runs_that_cannot_be_take_nothing() -> None:
    k = exhausted()
    reserve = k.page_alloc.nr_free_pages()
    with pytest.raises(OutOfMemory):
        k.page_alloc.alloc_page_runs(GFP_KERNEL | GFP_NOFAIL, reserve + 1)
    assert k.page_alloc.nr_free_pages() == reserve
    mm.check(k)


def test_nofail_vmalloc_never_answers_none() -> None:
    k = exhausted()
    assert k.vmalloc(4096, GFP_KERNEL | GFP_NOWARN) is None
    with pytest.raises(OutOfMemory):
        k.vmalloc((k.page_alloc.nr_free_pages() + 1) << 12, GFP_KERNEL | GFP_NOFAIL)
    with pytest.raises(OutOfMemory):
        k.vmalloc(1 << 40, GFP_KERNEL | GFP_NOFAIL)
    mm.check(k)
