"""Zones, watermarks, GFP flags: golden numbers from Linux."""

from collections.abc import Callable

import pytest

import mm
from emu.ram import Ram
from mm.errors import GfpError
from mm.gfp import (
    GFP_ATOMIC,
    GFP_HIGHUSER,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_USER,
    MigrateType,
    ZoneType,
    check_gfp,
    format_gfp,
    gfp_migratetype,
    gfp_zone,
)
from mm.zone import (
    DEFAULT_ZONES,
    Zone,
    build_zonelist,
    min_free_kbytes,
    setup_per_zone_lowmem_reserve,
    setup_per_zone_wmarks,
    zone_ranges,
)

MIB = 1 << 20


def make_zones(*managed: tuple[ZoneType, int]) -> list[Zone]:
    ram = Ram(1 << 16)
    zones = []
    for i, (kind, pages) in enumerate(managed):
        zone = Zone(ram, ram.base + i * Zone.SIZE)
        zone.zone_idx, zone.managed_pages = kind, pages
        zones.append(zone)
    return zones


@pytest.mark.parametrize(
    ("mib", "min_free", "marks"),
    [
        (16, 512, [128, 160, 192, 224]),
        (64, 1024, [256, 320, 384, 448]),
        (128, 1448, [362, 452, 542, 632]),
        (256, 2048, [512, 640, 768, 896]),
        (1024, 4096, [1024, 1286, 1548, 1810]),
        (4096, 8192, [2048, 3096, 4144, 5192]),
    ],
)
def test_watermark_table(mib: int, min_free: int, marks: list[int]) -> None:
    pages = mib * MIB >> 12
    assert min_free_kbytes(pages) == min_free
    (zone,) = make_zones((ZoneType.NORMAL, pages))
    setup_per_zone_wmarks([zone])
    assert [zone._watermark[i] for i in range(4)] == marks


def test_watermarks_of_movable_are_clamped() -> None:
    zones = make_zones((ZoneType.NORMAL, 262144), (ZoneType.MOVABLE, 1 << 20))
    setup_per_zone_wmarks(zones)
    # 2^20 / 1024 = 1024, clamped to 128; distance max(share / 4, managed / 1000).
    assert zones[1]._watermark[0] == 128
    assert zones[1]._watermark[1] == 128 + max(1024 * 4 // 4, 1048)


def test_lowmem_reserve() -> None:
    zones = make_zones((ZoneType.DMA32, 524288), (ZoneType.NORMAL, 1 << 20), (ZoneType.MOVABLE, 64))
    setup_per_zone_lowmem_reserve(zones)
    reserve = [[z.lowmem_reserve[j] for j in range(5)] for z in zones]
    assert reserve[0] == [0, 0, (1 << 20) // 256, (1 << 20) // 256, ((1 << 20) + 64) // 256]
    assert reserve[1] == [0, 0, 0, 0, 64 // 32]
    assert reserve[2] == [0] * 5


def test_zone_ranges() -> None:
    ranges = zone_ranges(DEFAULT_ZONES, 0x80000, 0x200000)
    assert ranges == [
        (ZoneType.DMA32, 0x80000, 0x100000),
        (ZoneType.NORMAL, 0x100000, 0x200000),
        (ZoneType.MOVABLE, 0x200000, 0x200000),
    ]
    with pytest.raises(ValueError, match="lowest first"):
        zone_ranges(((ZoneType.NORMAL, None), (ZoneType.DMA, None)), 0, 10)
    with pytest.raises(ValueError, match="RAM at"):
        zone_ranges(((ZoneType.DMA, 0x400000),), 0, 0x1000)
    with pytest.raises(ValueError, match="max-order"):
        zone_ranges(((ZoneType.DMA, 0x401000), (ZoneType.NORMAL, None)), 0, 0x1000)


def test_fallback_order() -> None:
    zones = make_zones(*((z, 100) for z in ZoneType))
    assert [z.type.name for z in build_zonelist(zones, ZoneType.MOVABLE)] == [
        "MOVABLE", "HIGHMEM", "NORMAL", "DMA32", "DMA"
    ]  # fmt: skip
    assert [z.type.name for z in build_zonelist(zones, ZoneType.DMA32)] == ["DMA32", "DMA"]


def test_requests_go_down_the_zones_and_never_up(boot: Callable[..., mm.Kernel]) -> None:
    split = 0x8000_0000 + 8 * MIB
    k = boot(16, zones=((ZoneType.DMA, split), (ZoneType.NORMAL, None)))
    dma, normal = k.zones
    first = k.alloc_page(GFP_KERNEL)
    assert first is not None and first << 12 >= split
    while normal.nr_free_pages:
        assert k.alloc_page(GFP_KERNEL) is not None
    below = k.alloc_page(GFP_KERNEL)
    assert below is not None and below << 12 < split
    while dma.nr_free_pages:
        assert k.alloc_page(0x1) is not None
    k.free_page(first)
    assert k.alloc_page(0x1) is None
    assert k.alloc_page(GFP_KERNEL) == first
    mm.check(k)


def test_gfp_zone_and_migratetype() -> None:
    assert gfp_zone(GFP_KERNEL) is ZoneType.NORMAL
    assert gfp_zone(GFP_HIGHUSER) is ZoneType.HIGHMEM
    assert gfp_zone(GFP_HIGHUSER_MOVABLE) is ZoneType.MOVABLE
    assert gfp_zone(GFP_KERNEL | 8) is ZoneType.NORMAL
    assert gfp_zone(GFP_KERNEL | 1) is ZoneType.DMA
    assert gfp_migratetype(GFP_KERNEL) is MigrateType.UNMOVABLE
    assert gfp_migratetype(GFP_HIGHUSER_MOVABLE) is MigrateType.MOVABLE
    assert gfp_migratetype(0x10) is MigrateType.RECLAIMABLE


def test_gfp_combinations_without_meaning() -> None:
    with pytest.raises(GfpError, match="GFP_DMA and GFP_DMA32"):
        gfp_zone(0x5)
    with pytest.raises(GfpError, match="__GFP_HIGHMEM"):
        gfp_zone(0x3)
    with pytest.raises(GfpError, match="__GFP_MOVABLE and __GFP_RECLAIMABLE"):
        gfp_migratetype(0x18)
    with pytest.raises(GfpError, match="0x200"):
        check_gfp(0x200)


def test_gfp_names() -> None:
    assert format_gfp(GFP_KERNEL) == "GFP_KERNEL"
    assert format_gfp(GFP_ATOMIC | 0x100) == "GFP_ATOMIC|__GFP_ZERO"
    assert format_gfp(GFP_USER | 0x40000) == "GFP_USER|__GFP_COMP"
    assert format_gfp(GFP_HIGHUSER_MOVABLE) == "GFP_HIGHUSER_MOVABLE"
    assert format_gfp(0) == "none"
    assert format_gfp(0x1000000) == "0x1000000"
