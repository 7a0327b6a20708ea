"""HighMem: frames without an address, and the window that gives them one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import mm
from emu.ram import Ram
from emu.spec.paging import SV39, SV48, SV57, PagingMode
from emu.spec.walk import Access, Translation, walk
from mm.errors import BadAddress, CheckError, OutOfMemory
from mm.gfp import GFP_HIGHUSER, GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_NOWARN, ZoneType
from mm.hart import Recorder
from mm.vma import VM_READ, VM_WRITE

Booter = Callable[..., mm.Kernel]
MIB = 1 << 20
BASE = 0x8000_0000
HIGH = BASE + 24 * MIB
ZONES = ((ZoneType.NORMAL, HIGH), (ZoneType.HIGHMEM, None))
MODES = pytest.mark.parametrize("mode", [SV39, SV48, SV57], ids=lambda m: m.name)


def load(k: mm.Kernel, va: int) -> int | None:
    """What a load of the hart's would see: through the tables only."""
    found = walk(k.ram, k.mode, k.pgtable.root(k.init_mm), va, Access.READ)
    return k.ram.read64(found.pa) if isinstance(found, Translation) else None


def high_page(k: mm.Kernel) -> int:
    pfn = k.alloc_page(GFP_HIGHUSER)
    assert pfn is not None and pfn << 12 >= HIGH
    return pfn


@MODES
def test_no_address_until_kmap(boot: Booter, mode: PagingMode) -> None:
    k = boot(32, zones=ZONES, paging=mode)
    mm.check(k)
    pfn = high_page(k)
    pa = pfn << 12
    k.ram.write64(pa + 8, 0x1234)
    assert k.page_address(pfn) is None
    with pytest.raises(BadAddress, match="HighMem"):
        k.va(pa)
    assert load(k, k.layout.page_offset + pa - BASE) is None  # the direct map ends below
    assert load(k, k.layout.page_offset + HIGH - 8 - BASE) is not None
    va = k.kmap(pfn)
    assert k.layout.pkmap_base <= va < k.layout.pkmap_base + (2 << 20)
    assert load(k, va + 8) == 0x1234 and k.page_address(pfn) == va == k.kmap(pfn)
    # Every address space sees it.
    space = k.mm_alloc()
    found = walk(k.ram, mode, k.pgtable.root(space), va, Access.WRITE)
    assert isinstance(found, Translation) and found.pa == pa
    mm.check(k)
    k.kunmap(pfn)
    k.kunmap(pfn)
    with pytest.raises(BadAddress, match="not mapped"):
        k.kunmap(pfn)
    mm.check(k)


def test_only_who_asks_for_it_gets_it(boot: Booter) -> None:
    k = boot(32, zones=ZONES)
    normal, high = k.zones
    total = high.nr_free_pages
    low = k.alloc_pages_bulk(GFP_KERNEL | GFP_NOWARN, 1 << 20)
    assert high.nr_free_pages == total and max(low) << 12 < HIGH
    taken = k.alloc_pages_bulk(GFP_HIGHUSER_MOVABLE, total)
    assert min(taken) << 12 >= HIGH and high.nr_free_pages == 0
    # Down the zones when HighMem is empty, but not into what Normal keeps from such requests.
    reserve = normal.lowmem_reserve[ZoneType.HIGHMEM]
    for pfn in low[: reserve + 1]:
        k.free_page(pfn)
    assert k.alloc_page(GFP_HIGHUSER | GFP_NOWARN) is not None
    assert k.alloc_page(GFP_HIGHUSER | GFP_NOWARN) is None and normal.nr_free_pages == reserve
    mm.check(k)


def test_watermarks_of_highmem(boot: Booter) -> None:
    k = boot(32, zones=ZONES, min_free_kbytes=None)
    normal, high = k.zones
    assert high._watermark[0] == 32  # clamp(managed / 1024, 32, 128)
    assert normal.lowmem_reserve[ZoneType.HIGHMEM] == high.managed_pages // 32


def test_low_frames_keep_their_address(boot: Booter) -> None:
    k = boot(32, zones=ZONES)
    pfn = k.alloc_page(GFP_KERNEL)
    assert pfn is not None
    assert k.kmap(pfn) == k.va(pfn << 12) == k.page_address(pfn)
    k.kunmap(pfn)
    plain = boot(16)
    pfn = plain.alloc_page(GFP_HIGHUSER)
    assert pfn is not None and plain.kmap(pfn) == plain.va(pfn << 12)
    assert plain.vmcoreinfo.page_alloc.pkmap == 0
    with pytest.raises(BadAddress):
        plain.page_address(5)


def test_the_window_is_bounded_and_reused_with_one_flush_a_round(boot: Booter) -> None:
    k = boot(48, zones=ZONES)
    pages = k.alloc_pages_bulk(GFP_HIGHUSER, 600)
    vas = {k.kmap(pfn) for pfn in pages[:512]}
    assert len(vas) == 512
    with pytest.raises(OutOfMemory, match="512"):
        k.kmap(pages[512])
    mm.check(k)
    for pfn in pages[:500]:
        k.kunmap(pfn)
    hart = k.hart
    assert isinstance(hart, Recorder)
    hart.take()
    va = k.kmap(pages[512])
    assert va in vas and hart.take()
    assert load(k, va) == k.ram.read64(pages[512] << 12)
    assert k.page_address(pages[0]) is None and k.page_address(pages[505]) is not None
    mm.check(k)


def test_a_stale_mapping_is_not_an_error_a_live_one_of_a_free_frame_is(boot: Booter) -> None:
    k = boot(32, zones=ZONES)
    pfn = high_page(k)
    k.kmap(pfn)
    k.kunmap(pfn)
    k.free_page(pfn)
    mm.check(k)
    pfn = high_page(k)
    k.kmap(pfn)
    k.free_page(pfn)
    with pytest.raises(CheckError, match="free and kmapped"):
        mm.check(k)


def test_check_knows_the_counts(boot: Booter) -> None:
    k = boot(32, zones=ZONES)
    k.kmap(high_page(k))
    assert k.highmem.pkmap is not None
    k.highmem.pkmap.count[1] = 0
    with pytest.raises(CheckError, match="iff its count"):
        mm.check(k)


def test_user_pages_live_there_and_attach_finds_the_slots(boot: Booter) -> None:
    k = boot(32, zones=ZONES, pcp=True)
    space = k.mm_alloc()
    k.mmap_region(space, 0x10000, 64 * 4096, VM_READ | VM_WRITE)
    k.copy_to_user(space, 0x10000, b"far away")
    found = k.pgtable.lookup(space, 0x10000)
    assert found is not None
    pfn = found[2] >> 10 & (1 << 44) - 1
    assert pfn << 12 >= HIGH
    va = k.kmap(pfn)
    assert load(k, va) == int.from_bytes(b"far away", "little")
    copy = Ram(k.ram.size)
    copy.write(copy.base, k.ram.read(k.ram.base, k.ram.size))
    other = mm.attach(copy)
    assert other.page_address(pfn) == va and mm.check(other) == mm.check(k)
    for kernel in (k, other):
        kernel.kunmap(pfn)
        kernel.kmap(high_page(kernel))
        kernel.mmdrop(kernel.address_spaces.mms()[0])
    assert copy.read(copy.base, copy.size) == k.ram.read(k.ram.base, k.ram.size)


def test_a_kmapped_page_does_not_move(boot: Booter) -> None:
    k = boot(48, zones=ZONES)
    space = k.mm_alloc()
    high = k.zones[1]
    pages = high.nr_free_pages
    k.mmap_region(space, 0x100000, pages * 4096, VM_READ | VM_WRITE)
    frames = {}
    for va in range(0x100000, 0x100000 + pages * 4096, 4096):
        found = k.pgtable.lookup(space, va)
        assert found is not None
        frames[found[2] >> 10 & (1 << 44) - 1] = va
    keep = [pfn for pfn in sorted(frames) if pfn % 2 == 0 and pfn << 12 >= HIGH]
    for pfn in sorted(frames):
        if pfn % 2:
            k.munmap(space, frames[pfn], 4096)
    pinned = keep[5]
    va = k.kmap(pinned)
    k.kmap(keep[6])
    k.kunmap(keep[6])  # a stale mapping moves, and is flushed
    assert k.compaction.compact_zone(high, 9)
    assert k.page_address(pinned) == va
    found = k.pgtable.lookup(space, frames[pinned])
    assert found is not None and found[2] >> 10 & (1 << 44) - 1 == pinned
    assert k.page_address(keep[6]) is None
    mm.check(k)


def test_bad_configurations() -> None:
    for config, why in (
        (mm.Config(direct_map_end=BASE + 16 * MIB), "reaches above"),
        (mm.Config(zones=((ZoneType.NORMAL, BASE + 4 * MIB), (ZoneType.HIGHMEM, None))), "8 MiB"),
    ):
        with pytest.raises(ValueError, match=why):
            mm.boot(Ram(32 * MIB), config)
    zones = ((ZoneType.NORMAL, BASE + 16 * MIB), (ZoneType.MOVABLE, None))
    k = mm.boot(Ram(32 * MIB), mm.Config(zones=zones, direct_map_end=BASE + 16 * MIB))
    pfn = k.alloc_page(GFP_HIGHUSER_MOVABLE)
    assert pfn is not None and k.page_address(pfn) is None
    mm.check(k)
