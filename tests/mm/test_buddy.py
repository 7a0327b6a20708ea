"""The buddy allocator: exact behaviour, errors, and a model that shares no code with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

import mm
from emu.ram import Ram
from mm.errors import BadPage, GfpError
from mm.gfp import GFP_COMP, GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_ZERO, ZoneType
from mm.page import PG_HEAD, PGTY_BUDDY, Page
from mm.zone import MAX_PAGE_ORDER, FreeArea

Booter = Callable[..., mm.Kernel]


def free_blocks(kernel: mm.Kernel) -> set[tuple[int, int]]:
    """``(pfn, order)`` of every free block, from struct pages alone, deferred ones included."""
    ram, space = kernel.ram, kernel.space
    count = space.end_pfn - space.start_pfn
    pages = ram.array(space.memmap_pa, count, Page.dtype())
    heads = (pages["page_type"] >> 24 == PGTY_BUDDY).nonzero()[0]
    found = {(space.start_pfn + int(i), int(pages["private"][i])) for i in heads}
    for zone in kernel.zones:
        for pfn in range(zone.first_deferred_pfn, zone.deferred_end_pfn, 1024):
            found.add((pfn, 10))
    return found


def test_expand_returns_the_low_half_and_merging_undoes_it(kernel: mm.Kernel) -> None:
    before = free_blocks(kernel)
    k = kernel
    a = k.alloc_pages(GFP_KERNEL, 3)
    b = k.alloc_pages(GFP_KERNEL, 3)
    assert a is not None and b is not None
    assert b == a + 8 or not (a & 8)  # consecutive halves once a larger block was split
    k.free_pages(a, 3)
    k.free_pages(b, 3)
    assert free_blocks(k) == before
    mm.check(k)


def test_struct_page_of_an_allocation(kernel: mm.Kernel) -> None:
    pfn = kernel.alloc_pages(GFP_KERNEL | GFP_COMP, 2)
    assert pfn is not None
    head = kernel.page(pfn)
    assert (head._refcount, head._mapcount, head.order) == (1, -1, 2)
    assert head.gfp_mask == GFP_KERNEL | GFP_COMP and head.last_migrate_reason == -1
    assert head.flags & PG_HEAD
    assert kernel.page(pfn + 1).flags & 0xFF == 2
    for tail in range(pfn + 1, pfn + 4):
        assert kernel.page(tail).lru.next == kernel.space.page_va(pfn) | 1
        assert kernel.page(tail)._refcount == 0
    mm.check(kernel)
    kernel.free_pages(pfn, 2)
    mm.check(kernel)


def test_zero(kernel: mm.Kernel) -> None:
    for order in (0, 3):
        pfn = kernel.alloc_pages(GFP_KERNEL, order)
        assert pfn is not None
        kernel.ram.fill(pfn << 12, 4096 << order, 0xAA)
        kernel.free_pages(pfn, order)
        again = kernel.alloc_pages(GFP_KERNEL | GFP_ZERO, order)
        assert again == pfn
        assert not kernel.ram.array(pfn << 12, 512 << order).any()


def test_tail_placement_when_the_next_order_buddy_is_free(kernel: mm.Kernel) -> None:
    """A freed block whose merged form would merge on goes to the tail (buddy_merge_likely)."""
    k = kernel
    order9 = k.alloc_pages(GFP_KERNEL, 9)
    assert order9 is not None
    k.page_alloc.split_page(order9, 9)
    # Another page's free list entry first: pages 0, 4..7 free, then 2: its buddy 3 is taken,
    # the order-1 block {2,3}'s buddy {0,1} is not free as order 1.
    p = order9 + 64
    for i in (4, 5):  # order-1 block {4, 5}
        k.free_page(p + i)
    k.free_page(p + 0)
    k.free_page(p + 6)  # buddy 7 taken; the order-1 buddy of {6, 7} is {4, 5}, free: tail
    head = k.zones[0].free_area[0].free_list[0]
    order0 = list(k.lists.walk(k.va(head.pa), 1000))
    pfns = [k.space.page_to_pfn(link - 8) for link in order0]
    assert pfns[0] == p and pfns[-1] == p + 6
    mm.check(k)


@pytest.mark.parametrize("order", [0, 4])
def test_double_free_changes_nothing(kernel: mm.Kernel, order: int) -> None:
    pfn = kernel.alloc_pages(GFP_KERNEL, order)
    assert pfn is not None
    kernel.free_pages(pfn, order)
    image = kernel.ram.read(kernel.ram.base, kernel.ram.size)
    with pytest.raises(BadPage) as e:
        kernel.free_pages(pfn, order)
    assert str(e.value).startswith(f"BUG: Bad page state in process swapper  pfn:{pfn:05x}")
    assert kernel.ram.read(kernel.ram.base, kernel.ram.size) == image


def test_bad_frees(kernel: mm.Kernel) -> None:
    k = kernel
    pfn = k.alloc_pages(GFP_KERNEL, 2)
    comp = k.alloc_pages(GFP_KERNEL | GFP_COMP, 2)
    assert pfn is not None and comp is not None
    image = k.ram.read(k.ram.base, k.ram.size)
    for bad, order, why in (
        (pfn, 1, "allocated with order 2"),
        (pfn + 1, 0, "_refcount is 0"),
        (comp + 1, 0, "tail of a compound page"),
        (k.space.start_pfn, 0, "reserved"),
        (k.space.end_pfn, 0, "no such page frame"),
        (5, 0, "no such page frame"),
        (-1, 0, "no such page frame"),
        (k.init_mm.pgd - k.layout.page_offset + k.ram.base >> 12, 0, "mapcount"),
    ):
        with pytest.raises(BadPage, match=why):
            k.free_pages(bad, order)
    assert k.ram.read(k.ram.base, k.ram.size) == image
    k.page(pfn).mapping = 8
    with pytest.raises(BadPage, match="non-NULL mapping"):
        k.free_pages(pfn, 2)
    k.page(pfn).mapping = 0
    k.page(pfn).flags |= 1
    with pytest.raises(BadPage, match="flag"):
        k.free_pages(pfn, 2)


def test_references(kernel: mm.Kernel) -> None:
    pfn = kernel.alloc_page()
    assert pfn is not None
    kernel.page_alloc.get_page(pfn)
    kernel.free_page(pfn)
    assert kernel.page(pfn)._refcount == 1
    kernel.free_page(pfn)
    with pytest.raises(BadPage):
        kernel.page_alloc.get_page(pfn)


def test_limits(kernel: mm.Kernel) -> None:
    assert kernel.alloc_pages(GFP_KERNEL, MAX_PAGE_ORDER + 1) is None
    with pytest.raises(ValueError):
        kernel.alloc_pages(GFP_KERNEL, -1)
    with pytest.raises(GfpError):
        kernel.alloc_pages(0x3, 0)


def test_split_page(kernel: mm.Kernel) -> None:
    before = free_blocks(kernel)
    pfn = kernel.alloc_pages(GFP_KERNEL, 4)
    assert pfn is not None
    with pytest.raises(BadPage):
        kernel.page_alloc.split_page(pfn, 3)
    kernel.page_alloc.split_page(pfn, 4)
    mm.check(kernel)
    for i in range(16):
        kernel.free_page(pfn + (i * 7) % 16)
    assert free_blocks(kernel) == before


@pytest.mark.parametrize("gfp", [GFP_KERNEL, GFP_HIGHUSER_MOVABLE])
def test_bulk_is_what_single_calls_give(boot: Booter, gfp: int) -> None:
    a, b = boot(), boot()
    for k in (a, b):  # some holes to fill first
        pages = [k.alloc_page(gfp) for _ in range(40)]
        for p in pages[::3]:
            assert p is not None
            k.free_page(p)
    for count in (1, 7, 15, 3, 12):
        assert a.alloc_pages_bulk(gfp, count) == [b.alloc_page(gfp) for _ in range(count)]
        assert free_blocks(a) == free_blocks(b)
    assert a.ram.read(a.ram.base, a.ram.size) == b.ram.read(b.ram.base, b.ram.size)


def test_bulk_prefers_one_block(kernel: mm.Kernel) -> None:
    before = free_blocks(kernel)
    (first,) = kernel.alloc_pages_bulk(GFP_KERNEL, 1)
    runs = kernel.page_alloc.alloc_page_runs(GFP_KERNEL, 64)
    assert runs is not None and len(runs) == 1 and runs[0][0] % 64 == 0 and runs[0][1] == 64
    mm.check(kernel)
    kernel.page_alloc.free_page_runs(runs)
    kernel.free_page(first)
    assert free_blocks(kernel) == before
    pages = kernel.alloc_pages_bulk(GFP_KERNEL, 1000)
    assert len(set(pages)) == 1000
    mm.check(kernel)


def test_bulk_takes_what_there_is(kernel: mm.Kernel) -> None:
    free = kernel.page_alloc.nr_free_pages()
    assert len(set(kernel.alloc_pages_bulk(GFP_KERNEL, free + 10))) == free
    assert kernel.page_alloc.nr_free_pages() == 0
    assert kernel.alloc_page() is None
    assert kernel.page_alloc.alloc_page_runs(GFP_KERNEL, 1) is None


def test_free_page_runs_checks_before_it_frees(kernel: mm.Kernel) -> None:
    runs = kernel.page_alloc.alloc_page_runs(GFP_KERNEL, 100)
    assert runs is not None
    image = kernel.ram.read(kernel.ram.base, kernel.ram.size)
    for bad in ([*runs, (5, 1)], [*runs, runs[0]]):
        with pytest.raises(BadPage):
            kernel.page_alloc.free_page_runs(bad)
        assert kernel.ram.read(kernel.ram.base, kernel.ram.size) == image
    kernel.page_alloc.free_page_runs(runs)
    mm.check(kernel)


def test_fallback_claims_whole_pageblocks(boot: Booter) -> None:
    k = boot(64)
    a = k.alloc_page(GFP_KERNEL)
    b = k.alloc_page(GFP_KERNEL)
    assert a is not None and b is not None
    assert a >> 9 == b >> 9 and k.page_alloc.get_pageblock_migratetype(a) == 0
    movable = k.alloc_page(GFP_HIGHUSER_MOVABLE)
    assert movable is not None and k.page_alloc.get_pageblock_migratetype(movable) == 1


@pytest.mark.parametrize("order", [0, 6, 9, 10])
@pytest.mark.parametrize("gfp", [GFP_KERNEL, GFP_HIGHUSER_MOVABLE])
def test_deferred_and_eager_boot_allocate_alike(boot: Booter, order: int, gfp: int) -> None:
    lazy, eager = boot(320), boot(320, eager=True)
    assert lazy.zones[0].first_deferred_pfn and not eager.zones[0].first_deferred_pfn
    counts = [[a.nr_free for a in _areas(k)] for k in (lazy, eager)]
    assert counts[0] == counts[1] and free_blocks(lazy) == free_blocks(eager)
    held: list[tuple[int, int]] = []
    rng = np.random.default_rng(order)
    steps = 0
    while True:
        pfn = lazy.alloc_pages(gfp, order)
        assert pfn == eager.alloc_pages(gfp, order)
        steps += 1
        if pfn is None or steps > 3000:
            break
        held.append((pfn, order))
        if rng.random() < 0.3:
            back = held.pop(int(rng.integers(len(held))))
            lazy.free_pages(*back)
            eager.free_pages(*back)
        if steps % 50 == 0:
            assert [a.nr_free for a in _areas(lazy)] == [a.nr_free for a in _areas(eager)]
    assert free_blocks(lazy) == free_blocks(eager)
    mm.check(lazy)
    mm.check(eager)


def _areas(kernel: mm.Kernel) -> list[FreeArea]:
    return [z.free_area[o] for z in kernel.zones for o in range(11)]


SPLIT = 0x8080_0000 >> 12  # the model's two zones meet here


class BuddyModel(RuleBasedStateMachine):
    """Free memory as a set of ``(pfn, order)``, merged naively until nothing merges."""

    blocks = Bundle("blocks")

    def __init__(self) -> None:
        super().__init__()
        zones = ((ZoneType.DMA, SPLIT << 12), (ZoneType.NORMAL, None))
        self.k = mm.boot(Ram(16 << 20), mm.Config(zones=zones, pcp=False, min_free_kbytes=0))
        self.free = free_blocks(self.k)
        self.held: set[tuple[int, int]] = set()

    def take(self, pfn: int, order: int) -> None:
        ((p, o),) = (b for b in self.free if b[0] <= pfn < b[0] + 2 ** b[1])
        assert o >= order and pfn + 2**order <= p + 2**o
        self.free.remove((p, o))
        while o > order:  # halve; keep the half that the allocation is in
            o -= 1
            low, high = p, p + 2**o
            self.free.add((high, o) if pfn < high else (low, o))
            p = low if pfn < high else high
        assert p == pfn
        assert not any(a < pfn + 2**order and pfn < a + 2**b for a, b in self.held)
        self.held.add((pfn, order))

    def give(self, pfn: int, order: int) -> None:
        self.held.remove((pfn, order))
        self.free.add((pfn, order))
        merged = True
        while merged:
            merged = False
            for p, o in list(self.free):
                size = 2**o
                if o < 10 and p % (2 * size) == 0 and (p + size, o) in self.free:
                    if p + size == SPLIT:
                        continue
                    self.free -= {(p, o), (p + size, o)}
                    self.free.add((p, o + 1))
                    merged = True
                    break

    @rule(
        target=blocks,
        gfp=st.sampled_from([GFP_KERNEL, GFP_HIGHUSER_MOVABLE, GFP_KERNEL | 0x10, 0x1, 0x40CC0]),
        order=st.integers(0, 10),
    )
    def alloc(self, gfp: int, order: int) -> tuple[int, int] | None:
        can = [b for b in self.free if b[1] >= order and (b[0] < SPLIT or not gfp & 1)]
        pfn = self.k.alloc_pages(gfp, order)
        if pfn is None:
            assert not can
            return None
        assert pfn % 2**order == 0
        assert pfn >= SPLIT or gfp & 1 or not any(p >= SPLIT for p, _ in can)
        self.take(pfn, order)
        return pfn, order

    @rule(target=blocks, count=st.integers(1, 30))
    def bulk(self, count: int) -> tuple[int, int] | None:
        pfns = self.k.alloc_pages_bulk(GFP_KERNEL, count)
        assert len(pfns) == min(count, sum(2**o for _, o in self.free))
        for pfn in pfns:
            self.take(pfn, 0)
        for pfn in pfns[1:]:
            self.k.free_page(pfn)
            self.give(pfn, 0)
        return (pfns[0], 0) if pfns else None

    @rule(block=consumes(blocks))
    def free_block(self, block: tuple[int, int] | None) -> None:
        if block is not None:
            self.k.free_pages(*block)
            self.give(*block)

    @rule(block=blocks, wrong=st.integers(0, 10))
    def free_wrongly(self, block: tuple[int, int] | None, wrong: int) -> None:
        if block is not None and (block[0], wrong) not in self.held:
            with pytest.raises(BadPage):
                self.k.free_pages(block[0], wrong)

    @invariant()
    def same(self) -> None:
        assert free_blocks(self.k) == self.free
        counts = [0] * 11
        for _, o in self.free:
            counts[o] += 1
        areas = [[z.free_area[o].nr_free for o in range(11)] for z in self.k.zones]
        assert [sum(a) for a in zip(*areas, strict=True)] == counts
        mm.check(self.k)


TestBuddyModel = BuddyModel.TestCase
TestBuddyModel.settings = settings(
    derandomize=True, deadline=None, max_examples=25, stateful_step_count=30
)
