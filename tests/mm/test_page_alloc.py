"""Requests: watermarks to the page, GFP contexts, reclaim, failures, exact sizes, stealing."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from work import lines_run

import mm
from emu.ram import Ram
from mm.buddy import FALLBACKS
from mm.errors import BadPage, CheckError, GfpError, OutOfMemory
from mm.fragmentation import extfrag_index, unusable_index
from mm.gfp import (
    GFP_ATOMIC,
    GFP_HIGH,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_MEMALLOC,
    GFP_NOFAIL,
    GFP_NOMEMALLOC,
    GFP_NORETRY,
    GFP_NOWAIT,
    GFP_NOWARN,
    GFP_RETRY_MAYFAIL,
    MigrateType,
    ZoneType,
    check_gfp,
)
from mm.page_ext import NR_STACK_RECORDS
from mm.zone import zone_batchsize

Booter = Callable[..., mm.Kernel]
MIB = 1 << 20
QUIET = GFP_NOWARN


def drain_to(k: mm.Kernel, free: int) -> list[int]:
    """Allocate until exactly ``free`` pages are free, past every watermark."""
    runs = k.page_alloc.alloc_page_runs(
        GFP_ATOMIC | GFP_MEMALLOC | QUIET, k.page_alloc.nr_free_pages() - free
    )
    assert runs is not None
    assert k.page_alloc.nr_free_pages() == free
    return [pfn for start, n in runs for pfn in range(start, start + n)]


@pytest.mark.parametrize(
    ("gfp", "left"),
    [
        # 16 MiB, one zone: of the marks that the machine has, `min` is the slow path's.
        (GFP_KERNEL, "min"),
        (GFP_NOWAIT, "min"),  # not __GFP_HIGH: non-blocking alone reaches no deeper
        (GFP_KERNEL | GFP_HIGH, "half"),
        (GFP_ATOMIC, "three eighths"),
        (GFP_ATOMIC | GFP_NOMEMALLOC, "half"),
        (GFP_KERNEL | GFP_MEMALLOC, "none"),
        (GFP_KERNEL | GFP_MEMALLOC | GFP_NOMEMALLOC, "min"),
    ],
)
def test_watermarks_are_enforced_to_the_page(boot: Booter, gfp: int, left: str) -> None:
    k = boot(16, min_free_kbytes=512)
    zone = k.zones[0]
    mark = zone._watermark[0]
    assert mark == 128 and k.vmcoreinfo.page_alloc.min_free_kbytes == 512
    expected = {"min": mark, "half": mark - mark // 2, "none": 0}.get(left)
    if expected is None:
        half = mark - mark // 2
        expected = half - half // 4
    held = drain_to(k, 300)
    while (pfn := k.alloc_page(gfp | QUIET)) is not None:
        held.append(pfn)
    assert (
        k.page_alloc.nr_free_pages()
        == expected
        == {"min": 128, "half": 64, "none": 0}.get(left, 48)
    )
    many = k.alloc_pages_bulk(gfp | QUIET, 10)
    assert many == []
    mm.check(k)
    for pfn in held:
        k.free_page(pfn)
    # Many at once stop at the same page.
    more = k.alloc_pages_bulk(gfp | QUIET, 1 << 20)
    assert k.page_alloc.nr_free_pages() == expected and len(more) > 3000
    mm.check(k)


def test_the_fast_path_stops_at_low(boot: Booter) -> None:
    """Above low nothing is asked; between min and low the slow path serves."""
    k = boot(16, min_free_kbytes=512)
    asked: list[int] = []
    zone = k.zones[0]
    low = zone._watermark[1]
    assert low == 160
    drain_to(k, low + 1)
    slow = k.page_alloc._alloc_pages_slowpath

    def counted(gfp: int, order: int, request: object) -> object:
        asked.append(k.page_alloc.nr_free_pages())
        return slow(gfp, order, request)  # type: ignore[arg-type]

    k.page_alloc._alloc_pages_slowpath = counted  # type: ignore[method-assign,assignment]
    assert k.alloc_page() is not None and asked == []
    assert k.alloc_page() is not None and asked == [low]


def test_order_above_zero_needs_a_block_and_counts_all_but_one(boot: Booter) -> None:
    k = boot(16, min_free_kbytes=512)
    held = sorted(drain_to(k, 0))
    for pfn in held[100:1100]:
        if pfn % 2 == 0:  # plenty of pages, no two adjacent
            k.free_page(pfn)
    assert k.page_alloc.nr_free_pages() == 500
    assert k.alloc_pages(GFP_KERNEL | QUIET, 1) is None
    assert k.alloc_page() is not None
    k = boot(16, min_free_kbytes=512)
    drain_to(k, 160)  # the last of them in one block
    # After it more than min must be free: 160 - (2^5 - 1) = 129 > 128, 160 - (2^6 - 1) is not.
    assert k.alloc_pages(GFP_KERNEL | QUIET, 6) is None
    assert k.alloc_pages(GFP_KERNEL | QUIET, 5) is not None
    assert k.page_alloc.nr_free_pages() == 128
    assert k.alloc_page(GFP_KERNEL | QUIET) is None


def test_lowmem_reserve_keeps_dma_for_dma(boot: Booter) -> None:
    split = 0x8000_0000 + 12 * MIB
    k = boot(32, zones=((ZoneType.DMA, split), (ZoneType.NORMAL, None)), min_free_kbytes=512)
    dma, normal = k.zones
    reserve = dma.lowmem_reserve[ZoneType.NORMAL]
    assert reserve == normal.managed_pages // 256 > 0
    while k.alloc_page(GFP_KERNEL | QUIET) is not None:
        pass
    assert normal.nr_free_pages == normal._watermark[0]
    assert dma.nr_free_pages == dma._watermark[0] + reserve
    while k.alloc_page(GFP_KERNEL | 1 | QUIET) is not None:
        pass
    assert dma.nr_free_pages == dma._watermark[0]
    mm.check(k)


def test_a_failure_is_reported_in_linux_words(boot: Booter) -> None:
    k = boot(16, min_free_kbytes=512)
    drain_to(k, 100)
    k.set_current(7, "sh")
    assert k.alloc_pages(GFP_KERNEL, 2) is None
    text = list(k.messages)
    assert text[0].startswith("sh: page allocation failure: order:2, mode:0xcc0(GFP_KERNEL)")
    assert "Mem-Info:" in text
    assert any(re.match(r"Node 0 DMA32 free:400kB boost:0kB min:512kB low:640kB", t) for t in text)
    assert any(re.match(r"Node 0 DMA32: \d+\*4kB .* = 400kB$", t) for t in text)
    count = len(text)
    assert k.alloc_pages(GFP_KERNEL | GFP_NOWARN, 2) is None and len(k.messages) == count
    with pytest.raises(OutOfMemory, match="__GFP_NOFAIL of order 10"):
        k.alloc_pages(GFP_KERNEL | GFP_NOFAIL, 10)
    assert k.alloc_page(GFP_KERNEL | GFP_NOFAIL) is not None  # the reserves are there for it


def test_reclaim_runs_for_who_may_wait(boot: Booter) -> None:
    k = boot(16, min_free_kbytes=512)
    drain_to(k, 200)
    spare = k.alloc_pages_bulk(GFP_KERNEL, 40)
    drain_to(k, 128)
    calls: list[int] = []

    def shrink() -> int:
        calls.append(len(spare))
        freed = [spare.pop() for _ in range(min(5, len(spare)))]
        for pfn in freed:
            k.free_page(pfn)
        return len(freed)

    k.register_shrinker(shrink)
    assert k.alloc_page(GFP_NOWAIT) is None and not calls
    assert k.alloc_page(GFP_KERNEL) is not None and calls == [40]
    assert len(k.alloc_pages_bulk(GFP_KERNEL, 30)) == 30 and len(spare) <= 10
    before = len(calls)
    while k.alloc_page(GFP_KERNEL | QUIET) is not None:
        pass
    assert len(calls) - before <= 2 + 16 and not spare
    mm.check(k)


def test_retry_flags(boot: Booter) -> None:
    k = boot(16, min_free_kbytes=0)
    k.alloc_pages_bulk(GFP_KERNEL, 1 << 20)
    calls = 0
    limit = 50

    def shrink() -> int:
        nonlocal calls
        calls += 1
        return int(calls < limit)

    k.register_shrinker(shrink)
    for gfp, order, expected in (
        (GFP_NORETRY, 0, 1),
        (0, 0, 16),
        (0, 4, 1),  # costly
        (GFP_RETRY_MAYFAIL, 4, 16),
    ):
        calls = 0
        assert k.alloc_pages(GFP_KERNEL | QUIET | gfp, order) is None
        assert calls == expected, (gfp, order)


def test_a_shrinker_may_allocate_from_the_reserves(boot: Booter) -> None:
    k = boot(16, min_free_kbytes=512)
    drain_to(k, 128)
    got: list[int | None] = []

    def shrink() -> int:
        got.append(k.alloc_page(GFP_KERNEL))
        return 0

    k.register_shrinker(shrink)
    assert k.alloc_page(GFP_KERNEL | QUIET) is None
    assert len(got) == 1 and got[0] is not None


def test_contradictions_are_refused_by_name() -> None:
    for gfp, words in (
        (GFP_ATOMIC | GFP_NOFAIL, "__GFP_NOFAIL needs __GFP_DIRECT_RECLAIM"),
        (GFP_KERNEL | GFP_NOFAIL | GFP_NORETRY, "__GFP_NOFAIL and __GFP_NORETRY"),
        (GFP_KERNEL | GFP_NOFAIL | GFP_RETRY_MAYFAIL, "__GFP_NOFAIL and __GFP_RETRY_MAYFAIL"),
        (GFP_KERNEL | GFP_NORETRY | GFP_RETRY_MAYFAIL, "__GFP_NORETRY and __GFP_RETRY_MAYFAIL"),
    ):
        with pytest.raises(GfpError, match=words):
            check_gfp(gfp)


def test_exact_sizes_and_addresses(boot: Booter) -> None:
    k = boot(16)
    free = k.page_alloc.nr_free_pages()
    va = k.alloc_pages_exact(5 * 4096 + 1)
    assert va is not None and k.page_alloc.nr_free_pages() == free - 6
    mm.check(k)
    k.free_pages_exact(va, 5 * 4096 + 1)
    assert k.page_alloc.nr_free_pages() == free
    with pytest.raises(BadPage):
        k.free_pages_exact(va, 4096)
    k.ram.fill(k.pa(va), 4096, 0x55)
    page = k.get_zeroed_page()
    assert page is not None and not k.ram.array(k.pa(page), 512).any()
    block = k.get_free_pages(GFP_KERNEL, 3)
    assert block is not None and block % (8 << 12) == 0
    with pytest.raises(GfpError, match="__GFP_HIGHMEM"):
        k.get_free_pages(2, 0)
    with pytest.raises(GfpError, match="__GFP_COMP"):
        k.alloc_pages_exact(4096, GFP_KERNEL | 0x40000)
    with pytest.raises(ValueError, match="0 bytes"):
        k.alloc_pages_exact(0)


def test_injected_failures_take_nothing(boot: Booter) -> None:
    k = boot(16)
    image = k.ram.read(k.ram.base, k.ram.size)
    k.page_alloc.should_fail = lambda gfp, order: order >= 0
    assert k.alloc_page() is None and k.alloc_pages(GFP_KERNEL, 3) is None
    assert k.alloc_pages_bulk(GFP_KERNEL, 5) == []
    assert k.page_alloc.alloc_page_runs(GFP_KERNEL, 5) is None
    assert k.ram.read(k.ram.base, k.ram.size) == image


# migratetypes


def test_unmovable_claims_a_pageblock_that_is_half_free(boot: Booter) -> None:
    k = boot(16)
    b = k.buddy
    movable = k.alloc_pages_bulk(GFP_HIGHUSER_MOVABLE, 1 << 20)  # everything
    block = [p for p in sorted(movable) if p >> 9 == sorted(movable)[1500] >> 9]
    assert len(block) == 512
    for pfn in block[:256]:
        k.free_page(pfn)  # exactly half, as one order-8 block
    taken = k.alloc_page(GFP_KERNEL)
    assert taken is not None and b.get_pageblock_migratetype(taken) == MigrateType.UNMOVABLE
    assert b.buddy.rmqueue_smallest(b.buddy.index[0], 0, MigrateType.MOVABLE, 0) is None
    mm.check(k)


def test_less_than_half_is_only_borrowed(boot: Booter) -> None:
    k = boot(16)
    b = k.buddy
    movable = sorted(k.alloc_pages_bulk(GFP_HIGHUSER_MOVABLE, 1 << 20))
    block = [p for p in movable if p >> 9 == movable[1500] >> 9]
    for pfn in block[:128]:
        k.free_page(pfn)  # order 7: a quarter, the rest is movable
    assert k.alloc_page(GFP_KERNEL) == block[0]
    assert b.get_pageblock_migratetype(block[0]) == MigrateType.MOVABLE
    assert [k.zones[0].free_area[o].nr_free for o in range(8)] == [1] * 7 + [0]
    mm.check(k)


def test_movable_takes_the_smallest_when_it_may_not_claim(boot: Booter) -> None:
    k = boot(16)
    b = k.buddy
    held = sorted(k.alloc_pages_bulk(GFP_KERNEL, 1 << 20))  # every pageblock is Unmovable now
    assert b.get_pageblock_migratetype(held[1500]) == MigrateType.UNMOVABLE
    base = next(p for p in held[1500:] if p % 512 == 0)
    for pfn in (base, base + 16, base + 17, base + 32, base + 33, base + 34, base + 35):
        k.free_page(pfn)  # one block each of order 0, 1, 2: all below pageblock_order / 2
    assert k.alloc_page(GFP_HIGHUSER_MOVABLE) == base
    # Unmovable itself would not ask the fallback; Reclaimable takes the largest.
    assert k.alloc_page(GFP_KERNEL | 0x10) == base + 32
    assert b.get_pageblock_migratetype(base) == MigrateType.UNMOVABLE
    mm.check(k)


def test_fallback_order() -> None:
    """Unmovable looks at Reclaimable before Movable, and so on (Linux's fallbacks[])."""
    u, m, r, h = MigrateType
    assert [FALLBACKS[mt] for mt in (u, m, r, h)] == [(r, m), (r, u), (u, m), ()]


def test_mobility_is_off_below_2048_pages(boot: Booter) -> None:
    k = boot(8)
    assert (
        k.page_alloc.mobility_disabled and k.vmcoreinfo.page_alloc.page_group_by_mobility_disabled
    )
    a, b = k.alloc_page(GFP_KERNEL), k.alloc_page(GFP_HIGHUSER_MOVABLE)
    assert a is not None and b is not None
    assert k.page_alloc.get_pageblock_migratetype(a) == MigrateType.MOVABLE
    mm.check(k)


# fragmentation


def test_fragmentation_indexes_by_hand(boot: Booter) -> None:
    k = boot(16)
    zone = k.zones[0]
    assert extfrag_index(zone, 3) == -1000 and extfrag_index(zone, 11) == 0
    held = sorted(k.alloc_pages_bulk(GFP_KERNEL, 1 << 20))
    assert extfrag_index(zone, 0) == 0 and unusable_index(zone, 0) == 1000
    base = next(p for p in held[1000:] if p % 64 == 0)
    for pfn in [base, base + 2, base + 4, base + 5]:  # two of order 0, one of order 1
        k.free_page(pfn)
    # 1000 - (1000 + 4 * 1000 / 8) / 3 blocks
    assert extfrag_index(zone, 3) == 1000 - (1000 + 500) // 3 == 500
    assert extfrag_index(zone, 1) == -1000
    assert unusable_index(zone, 0) == 0 and unusable_index(zone, 1) == 500
    assert unusable_index(zone, 2) == 1000


def test_batch_sizes_of_the_golden_table() -> None:
    for mib, batch in ((16, 1), (64, 3), (128, 7), (256, 15), (1024, 63), (4096, 63)):
        assert zone_batchsize(mib * MIB >> 12) == batch


# reports


def test_page_owner_names_who_allocated_and_who_freed(boot: Booter) -> None:
    k = boot(16, page_owner=True, pcp=True)
    k.set_current(42, "insmod")
    pfn = k.alloc_pages(GFP_KERNEL, 2)
    assert pfn is not None
    k.set_current(43, "rmmod")
    k.free_pages(pfn, 2)
    with pytest.raises(BadPage) as e:
        k.free_pages(pfn, 2)
    lines = str(e.value).splitlines()
    assert lines[0] == f"BUG: Bad page state in process rmmod  pfn:{pfn:05x}"
    assert lines[1].startswith("page: refcount:0 mapcount:0 mapping:0000000000000000 index:0x0")
    assert lines[2].startswith("flags: 0x80000000000000(node=0|zone=1)")
    assert any(re.fullmatch(r"raw:( [0-9a-f]{16}){4}", line) for line in lines)
    text = "\n".join(lines)
    assert "page dumped because: _refcount is 0" in text
    assert "page_owner tracks the page as freed" in text
    assert re.search(
        r"page last allocated via order 2, migratetype Unmovable, gfp_mask 0xcc0\(GFP_KERNEL\), "
        r"pid 42, tgid 42 \(insmod\), ts \d+, free_ts \d+",
        text,
    )
    assert "page last free pid 43 tgid 43 stack trace:" in text
    assert " test_page_owner_names_who_allocated_and_who_freed" in lines
    assert list(k.messages)[-len(lines) :] == lines
    other = mm.attach(k.ram)
    assert other.page_alloc.page_owner is not None
    assert (
        list(other.page_alloc.page_owner.dump(pfn))
        == lines[lines.index("page_owner tracks the page as freed") :]
    )


def test_page_owner_of_blocks_runs_and_splits(boot: Booter) -> None:
    k = boot(16, page_owner=True)
    owner = k.page_alloc.page_owner
    assert owner is not None
    before = set(owner.allocated())
    runs = k.page_alloc.alloc_page_runs(GFP_HIGHUSER_MOVABLE, 20)
    block = k.alloc_pages(GFP_KERNEL, 3)
    assert runs is not None and block is not None
    mine = set(owner.allocated()) - before
    assert mine == {p for a, n in runs for p in range(a, a + n)} | {block}
    k.split_page(block, 3)
    assert set(range(block, block + 8)) <= set(owner.allocated())
    lines = owner.lines(block, 0, k.page(block).flags)
    assert lines[0].startswith("Page allocated via order 0, mask 0xcc0(GFP_KERNEL), pid 0, tgid 0")
    assert re.fullmatch(
        rf"PFN {block:#x} type Unmovable Block {block >> 9} type Unmovable Flags 0x.*", lines[1]
    )
    k.page_alloc.free_page_runs([*runs, (block, 8)])
    assert set(owner.allocated()) == before
    assert k.vmcoreinfo.page_alloc.nr_stacks <= NR_STACK_RECORDS
    mm.check(k)


@pytest.mark.parametrize("pcp", [False, True])
def test_poison_finds_a_write_to_a_free_frame(boot: Booter, pcp: bool) -> None:
    k = boot(16, page_poison=True, pcp=pcp)
    for order in (0, 4):
        pfn = k.alloc_pages(GFP_KERNEL, order)
        assert pfn is not None
        k.free_pages(pfn, order)
        mm.check(k)
        k.ram.write(pfn * 4096 + 1000, b"use after free")
        with pytest.raises(CheckError, match="0xaa"):
            mm.check(k)
        assert k.alloc_pages(GFP_KERNEL, order) == pfn
        text = list(k.messages)
        assert text[0] == "pagealloc: memory corruption"
        row = " ".join(f"{b:02x}" for b in b"use after free")
        assert text[1] == f"{k.va(pfn * 4096 + 1000):016x}: {row:<49}use after free"
        assert "page dumped because: pagealloc: corrupted page details" in text
        k.messages.clear()
        k.free_pages(pfn, order)
    pfn = k.alloc_page()
    assert pfn is not None
    k.free_page(pfn)
    k.ram.write8(pfn * 4096, 0xAB)
    assert k.alloc_page() == pfn and k.messages[0] == "pagealloc: single bit error"


def test_debugging_machines_attach_and_check(boot: Booter) -> None:
    k = boot(16, page_poison=True, page_owner=True, pcp=True)
    held = [k.alloc_pages(GFP_KERNEL, i % 5) for i in range(60)]
    for i, pfn in list(enumerate(held))[::2]:
        assert pfn is not None
        k.free_pages(pfn, i % 5)
    report = mm.check(k)
    assert mm.check(mm.attach(k.ram)) == report and not k.messages
    assert k.zones[0].per_cpu_pageset.debug == 1


def test_growth() -> None:
    """One alloc and free is the same work in 64 GiB, and with many live allocations."""

    def cost(k: mm.Kernel) -> int:
        def pairs() -> None:
            for _ in range(200):
                k.free_pages(k.alloc_pages(GFP_KERNEL, 0) or 0, 0)

        pairs()  # what is done once is done
        return lines_run(pairs)

    small = cost(mm.boot(Ram(64 * MIB)))
    large = mm.boot(Ram(64 << 30))
    assert cost(large) < 1.1 * small
    large.alloc_pages_bulk(GFP_KERNEL, 1_000_000)
    assert cost(large) < 1.1 * small
