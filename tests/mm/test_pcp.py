"""Per-CPU page lists: exact behaviour, guest-style use of them, a model, corruption."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

import mm
from emu.ram import Ram
from mm.errors import BadPage, CheckError, ListCorruption
from mm.gfp import (
    GFP_COMP,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_NOWARN,
    GFP_ZERO,
    ZoneType,
)
from mm.page import PG_HEAD
from mm.pgtable import runs_of
from mm.zone import PerCpuPages, Zone

Booter = Callable[..., mm.Kernel]
MIB = 1 << 20
ALLOCATED = 0x1_FFFF_FFFF
LISTED = 0xFFFF_FFFF


def lists(k: mm.Kernel, zone: int = 0) -> list[list[int]]:
    """The PFNs on each list of a zone, from RAM."""
    pcp = k.zones[zone].per_cpu_pageset
    return [
        [k.space.page_to_pfn(link - 8) for link in k.lists.walk(k.va(pcp.lists[i].pa), 1 << 20)]
        for i in range(12)
    ]


class Guest:
    """What inline C code does on the lists: loads and stores of RAM, as mm/pcp.py says."""

    def __init__(self, k: mm.Kernel, zone: Zone) -> None:
        self.k, self.ram, self.zone = k, k.ram, zone
        self.pcp = zone.pa + Zone.offset_of("per_cpu_pageset")

    def load(self, va: int) -> int:
        return self.ram.read64(self.k.pa(va))

    def store(self, va: int, value: int) -> None:
        self.ram.write64(self.k.pa(va), value)

    def head(self, order: int, mt: int) -> int:
        offset = PerCpuPages.offset_of("lists") + 16 * (3 * order + mt)
        return self.k.va(self.pcp + offset)

    def add_count(self, pages: int) -> None:
        at = self.pcp + PerCpuPages.offset_of("count")
        self.ram.write64(at, self.ram.read64(at) + pages)

    def pop(self, order: int, mt: int, gfp: int) -> int | None:
        head = self.head(order, mt)
        link = self.load(head)
        if link == head:
            return None
        next_, prev = self.load(link), self.load(link + 8)
        self.store(next_ + 8, prev)
        self.store(prev, next_)
        page = link - 8
        self.store(page + 8, 0)
        self.store(page + 16, 0)
        self.add_count(-(1 << order))
        self.store(page + 48, ALLOCATED)
        self.store(page + 56, gfp << 32 | 0xFFFF0000 | order)
        return self.k.space.page_to_pfn(page)

    def push(self, pfn: int, order: int) -> bool:
        page = self.k.space.page_va(pfn)
        pcp = PerCpuPages(self.ram, self.pcp)
        if (
            self.load(page + 48) != ALLOCATED
            or self.load(page + 56) & 0xFFFF != order
            or self.load(page + 24)
            or self.load(page + 8) & 1
            or self.load(page) != self.zone.zone_idx << 55
            or pcp.count + (1 << order) >= pcp.high
        ):
            return False
        info = self.k.vmcoreinfo
        block = (pfn >> 9) - (info.start_pfn >> 9)
        head = self.head(order, self.ram.read8(info.pageblock_pa + block) ^ 1)
        for offset in (24, 32, 40):
            self.store(page + offset, 0)
        self.store(page + 48, LISTED)
        first = self.load(head)
        self.store(page + 8, first)
        self.store(page + 16, head)
        self.store(first + 8, page + 8)
        self.store(head, page + 8)
        self.add_count(1 << order)
        return True


def test_struct_per_cpu_pages_of_the_golden_machines() -> None:
    """batch by the table; high_min = low, high_max = managed / 8, at least 4 batches."""
    for mib in (16, 64, 256, 1024):
        k = mm.boot(Ram(mib * MIB))
        zone = k.zones[0]
        pcp = zone.per_cpu_pageset
        assert pcp.batch == {16: 1, 64: 3, 256: 15, 1024: 63}[mib]
        assert pcp.high == pcp.high_min == max(zone._watermark[1], 4 * pcp.batch)
        assert pcp.high_max == max(zone.managed_pages // 8, 4 * pcp.batch)
        assert pcp.debug == 0
        empty = k.zones[1].per_cpu_pageset
        assert (empty.batch, empty.high, empty.count) == (0, 0, 0)


def test_refill_pop_push_and_drain(boot: Booter) -> None:
    k = boot(256, pcp=True)
    assert k.page_alloc.drain_all_pages() >= 0
    free = k.page_alloc.nr_free_pages()
    first = k.alloc_page(GFP_KERNEL)
    assert first is not None
    # One batch of 15 came, in ascending order; one of them was popped.
    assert lists(k)[0] == list(range(first + 1, first + 15)) and k.page_alloc.nr_pcp_pages() == 14
    assert k.page_alloc.nr_free_pages() == free - 15
    k.free_page(first)
    assert lists(k)[0][:2] == [first, first + 1]  # to the head, used next
    assert k.alloc_page(GFP_KERNEL) == first
    k.free_page(first)
    mm.check(k)
    # Higher orders: max(batch >> order, 2) blocks.
    for order, blocks in ((1, 7), (2, 3), (3, 2)):
        pfn = k.alloc_pages(GFP_KERNEL, order)
        assert pfn is not None and len(lists(k)[3 * order]) == blocks - 1
        mm.check(k)
        k.free_pages(pfn, order)
    assert k.alloc_pages(GFP_KERNEL, 4) is not None  # not through the lists
    assert k.alloc_page(GFP_HIGHUSER_MOVABLE) is not None
    assert len(lists(k)[1]) == 14
    report = mm.check(k)
    assert report.pcp == k.page_alloc.nr_pcp_pages() > 0
    assert k.page_alloc.drain_all_pages() == report.pcp and k.page_alloc.nr_pcp_pages() == 0
    assert mm.check(k).pcp == 0


def test_too_many_pages_go_back_a_batch_at_a_time(boot: Booter) -> None:
    k = boot(256, pcp=True)
    pcp = k.zones[0].per_cpu_pageset
    pages = k.alloc_pages_bulk(GFP_KERNEL, 1000)
    for pfn in pages[:-1]:
        k.free_page(pfn)
        assert pcp.count < pcp.high
    kept = lists(k)
    assert sum(map(len, kept)) == pcp.count >= pcp.high - pcp.batch
    mm.check(k)


def test_compound_blocks_lose_their_head(boot: Booter) -> None:
    k = boot(64, pcp=True)
    for order in (1, 2, 3):
        pfn = k.alloc_pages(GFP_KERNEL | GFP_COMP | GFP_ZERO, order)
        assert pfn is not None and k.page(pfn).flags & PG_HEAD
        mm.check(k)
        k.free_pages(pfn, order)
        mm.check(k)
        assert lists(k)[3 * order][0] == pfn
        assert k.alloc_pages(GFP_KERNEL, order) == pfn and not k.page(pfn).flags & PG_HEAD
        mm.check(k)


def test_double_free_of_a_listed_page(boot: Booter) -> None:
    k = boot(64, pcp=True)
    pfn = k.alloc_page()
    assert pfn is not None
    k.free_page(pfn)
    with pytest.raises(BadPage, match="_refcount is 0"):
        k.free_page(pfn)
    mm.check(k)


def test_last_pages_are_drained_before_a_failure(boot: Booter) -> None:
    k = boot(16, pcp=True, min_free_kbytes=0)
    pages = k.alloc_pages_bulk(GFP_KERNEL, 1 << 20)
    for pfn in pages[:3]:
        k.free_page(pfn)  # on the lists, none in the buddy's
    assert k.page_alloc.nr_free_pages() == 0 and k.page_alloc.nr_pcp_pages() == 3
    assert k.alloc_page(GFP_KERNEL | GFP_NOWARN) is not None
    assert len(k.alloc_pages_bulk(GFP_HIGHUSER_MOVABLE, 5)) == 2
    assert k.alloc_page(GFP_KERNEL | GFP_NOWARN) is None
    mm.check(k)


def test_attach_goes_on_alike(boot: Booter) -> None:
    k = boot(64, pcp=True)
    held = [k.alloc_pages(GFP_KERNEL, i % 4) for i in range(100)]
    for i, pfn in list(enumerate(held))[::3]:
        assert pfn is not None
        k.free_pages(pfn, i % 4)
    copy = Ram(k.ram.size)
    copy.write(copy.base, k.ram.read(k.ram.base, k.ram.size))
    other = mm.attach(copy)
    assert mm.check(other) == mm.check(k)
    for kernel in (k, other):
        for i in range(200):
            kernel.alloc_pages(GFP_HIGHUSER_MOVABLE if i % 3 else GFP_KERNEL, i % 5)
        kernel.page_alloc.drain_all_pages()
    assert copy.read(copy.base, copy.size) == k.ram.read(k.ram.base, k.ram.size)


CORRUPTIONS: list[tuple[str, str, Callable[[mm.Kernel, int], None]]] = [
    ("per_cpu_pages", "count is", lambda k, p: _count(k, 1)),
    ("per_cpu_pages", "list is corrupt", lambda k, p: setattr(k.page(p).lru, "prev", 8)),
    ("page", "no type and _refcount 0", lambda k, p: setattr(k.page(p), "_refcount", 1)),
    ("page", "no flag set", lambda k, p: setattr(k.page(p), "flags", k.page(p).flags | 1)),
    ("page", "mapping, index and private", lambda k, p: setattr(k.page(p), "private", 3)),
]


def _count(k: mm.Kernel, n: int) -> None:
    k.zones[0].per_cpu_pageset.count += n


@pytest.mark.parametrize(("structure", "rule_", "corrupt"), CORRUPTIONS)
def test_corruption_is_named(
    boot: Booter, structure: str, rule_: str, corrupt: Callable[[mm.Kernel, int], None]
) -> None:
    k = boot(64, pcp=True)
    pfn = k.alloc_page()
    assert pfn is not None
    k.free_page(pfn)
    corrupt(k, pfn)
    with pytest.raises(CheckError, match=rule_) as e:
        mm.check(k)
    assert e.value.structure == structure


def test_a_wild_link_raises_and_does_not_spread(boot: Booter) -> None:
    k = boot(64, pcp=True)
    k.free_page(k.alloc_page() or 0)
    k.ram.write64(k.zones[0].per_cpu_pageset.lists[0].pa, 0x1234)
    with pytest.raises(ListCorruption):
        k.alloc_page()


SPLIT = 0x80C0_0000


class PcpModel(RuleBasedStateMachine):
    """Guest code and the kernel on the same lists, against a set of frames.

    The model knows which frames are handed out, and by Linux's rules alone whether a
    request must succeed: free pages of a zone above the mark, else what draining gives.
    """

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        zones = ((ZoneType.DMA32, SPLIT), (ZoneType.NORMAL, None))
        self.k = mm.boot(Ram(24 * MIB), mm.Config(zones=zones))
        self.guests = [Guest(self.k, zone) for zone in self.k.zones]
        self.live: dict[int, int] = {}
        self.frames: set[int] = set()
        self.managed = self.total()

    def total(self) -> int:
        return self.k.page_alloc.nr_free_pages() + self.k.page_alloc.nr_pcp_pages()

    def take(self, pfn: int, order: int) -> tuple[int, int]:
        new = set(range(pfn, pfn + (1 << order)))
        assert pfn % (1 << order) == 0 and not new & self.frames
        self.frames |= new
        self.live[pfn] = order
        for frame in new:  # what the owner may do with them
            self.k.ram.write64(frame << 12, frame)
        return pfn, order

    def drop(self, pfn: int, order: int) -> None:
        for frame in range(pfn, pfn + (1 << order)):
            assert self.k.ram.read64(frame << 12) == frame
        self.frames -= set(range(pfn, pfn + (1 << order)))
        del self.live[pfn]

    def may_fail(self, gfp: int) -> bool:
        """Whether every zone is near its low mark even with everything drained."""
        highest = 1 if gfp & 4 else 4
        return all(
            z.nr_free_pages + z.per_cpu_pageset.count
            <= z._watermark[0] + z.lowmem_reserve[highest] + 1024
            for z in self.k.zones
            if z.zone_idx <= highest
        )

    @rule(
        target=held,
        order=st.sampled_from([0, 0, 0, 1, 2, 3, 4, 9]),
        gfp=st.sampled_from(
            [GFP_KERNEL, GFP_HIGHUSER_MOVABLE, GFP_KERNEL | 0x10, GFP_KERNEL | 4,
             GFP_KERNEL | GFP_COMP, 0x820]
        ),
    )  # fmt: skip
    def alloc(self, order: int, gfp: int) -> tuple[int, int] | None:
        pfn = self.k.alloc_pages(gfp | GFP_NOWARN, order)
        if pfn is None:
            assert order or self.may_fail(gfp)
            return None
        assert pfn < SPLIT >> 12 or not gfp & 4
        return self.take(pfn, order)

    @rule(target=held, zone=st.integers(0, 1), order=st.integers(0, 3), mt=st.integers(0, 2))
    def guest_pop(self, zone: int, order: int, mt: int) -> tuple[int, int] | None:
        gfp = GFP_KERNEL | mt << 3
        pfn = self.guests[zone].pop(order, mt, gfp)
        return None if pfn is None else self.take(pfn, order)

    @rule(block=consumes(held), guest=st.booleans())
    def free(self, block: tuple[int, int] | None, guest: bool) -> None:
        if block is None:
            return
        pfn, order = block
        self.drop(pfn, order)
        owner = self.guests[pfn >= SPLIT >> 12]
        if not (guest and order <= 3 and owner.push(pfn, order)):
            self.k.free_pages(pfn, order)
        with pytest.raises(BadPage):
            self.k.free_pages(pfn, order)

    @rule(target=held, count=st.integers(1, 200))
    def bulk(self, count: int) -> tuple[int, int] | None:
        pages = self.k.alloc_pages_bulk(GFP_KERNEL | GFP_NOWARN, count)
        assert len(pages) == count or self.may_fail(GFP_KERNEL)
        for pfn in pages:
            self.take(pfn, 0)
        for pfn in pages[1:]:
            self.drop(pfn, 0)
            self.k.free_page(pfn)
        return (pages[0], 0) if pages else None

    @rule(keep=st.integers(0, 600))
    def hog(self, keep: int) -> None:
        """Take nearly everything for a moment: the reserves and the drain come into play."""
        pages = self.k.alloc_pages_bulk(
            GFP_KERNEL | GFP_NOWARN, max(0, self.k.page_alloc.nr_free_pages() - keep)
        )
        pfn = self.k.alloc_page(GFP_KERNEL | GFP_NOWARN)
        for zone in self.k.zones:
            assert zone.nr_free_pages >= zone._watermark[0] - zone.per_cpu_pageset.batch
        if pfn is not None:
            self.k.free_page(pfn)
        self.k.page_alloc.free_page_runs(runs_of(pages))

    @rule()
    def drain(self) -> None:
        self.k.page_alloc.drain_all_pages()
        assert self.k.page_alloc.nr_pcp_pages() == 0

    @invariant()
    def consistent(self) -> None:
        assert self.total() == self.managed - len(self.frames)
        report = mm.check(self.k)
        assert report.pcp == self.k.page_alloc.nr_pcp_pages()


TestPcpModel = PcpModel.TestCase
TestPcpModel.settings = settings(
    derandomize=True, deadline=None, max_examples=12, stateful_step_count=25
)
