"""The fast path on the hart: what C pops and pushes itself, against an independent model.

One module serves all tests: Python writes addresses into its `slots`, calls its functions
on the hart, and reads the slots. What is alive, where, and with which bytes, is known to a
model of dicts alone.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache

import pytest
from guest_kit import Kernel, load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mm
from emu.stop import StopReason
from guest import build
from guest.image.elf import Elf
from guest.kernel.abi import KERNEL_EXTENSION, Call
from mm.errors import CheckError, SlabError
from mm.gfp import GFP_KERNEL, GFP_ZERO

Machines = Callable[..., Kernel]
SIZES = (8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192)  # mm/slab_common.c
SLOTS = 512
PAGE = 4096
RAM = 128 << 20  # so that a batch of the per-CPU lists is several pages

SOURCE = """
#include <linux/gfp.h>
#include <linux/module.h>
#include <linux/slab.h>

void *slots[512];

int do_kmalloc(unsigned n, unsigned long size, unsigned flags, int trap)
{
    for (unsigned i = 0; i < n; i++)
        slots[i] = trap ? (void *)kernel_call(CALL_KMALLOC, (long)size, flags).value
                        : kmalloc(size, flags);
    return 0;
}

int do_kfree(unsigned n, int trap)
{
    for (unsigned i = 0; i < n; i++)
        if (trap)
            kernel_call(CALL_KFREE, (long)slots[i], 0);
        else
            kfree(slots[i]);
    return 0;
}

int do_alloc_pages(unsigned n, unsigned order, unsigned flags, int trap)
{
    for (unsigned i = 0; i < n; i++) {
        struct page *page = trap
            ? (struct page *)kernel_call(CALL_ALLOC_PAGES, flags, order).value
            : alloc_pages(flags, order);
        slots[i] = page ? page_address(page) : NULL;
    }
    return 0;
}

int do_free_pages(unsigned n, unsigned order, int trap)
{
    for (unsigned i = 0; i < n; i++)
        if (trap)
            kernel_call(CALL_FREE_PAGES, (long)virt_to_page(slots[i]), order);
        else
            free_pages((unsigned long)slots[i], order);
    return 0;
}

static unsigned char byte_at(const void *object, unsigned long i)
{
    return (unsigned char)(((unsigned long)object >> 3) * 31 + i * 7 + (i >> 8));
}

int fill(unsigned n, unsigned long size)
{
    for (unsigned k = 0; k < n; k++)
        for (unsigned long i = 0; i < size; i++)
            ((unsigned char *)slots[k])[i] = byte_at(slots[k], i);
    return 0;
}

/* How many bytes are not as fill() left them, or with `zero` not 0. */
int wrong(unsigned n, unsigned long size, int zero)
{
    int bad = 0;
    for (unsigned k = 0; k < n; k++)
        for (unsigned long i = 0; i < size; i++)
            bad += ((unsigned char *)slots[k])[i] != (zero ? 0 : byte_at(slots[k], i));
    return bad;
}

int kmalloc_pairs(unsigned n, unsigned long size)
{
    for (unsigned i = 0; i < n; i++) {
        unsigned char *object = kmalloc(size, GFP_KERNEL);
        if (!object)
            return -ENOMEM;
        object[0] = object[size - 1] = (unsigned char)i;
        kfree(object);
    }
    return 0;
}

int page_pairs(unsigned n, unsigned order)
{
    for (unsigned i = 0; i < n; i++) {
        unsigned long page = __get_free_pages(GFP_KERNEL, order);
        if (!page)
            return -ENOMEM;
        *(volatile char *)page = 1;
        free_pages(page, order);
    }
    return 0;
}

int cache_pairs(unsigned n)
{
    struct kmem_cache *cache = kmem_cache_create("pairs", 72, 0, 0x1000000, NULL);
    for (unsigned i = 0; cache && i < n; i++) {
        void *object = kmem_cache_alloc(cache, GFP_KERNEL);
        if (!object)
            return -ENOMEM;
        kmem_cache_free(cache, object);
    }
    kmem_cache_destroy(cache);
    return cache ? 0 : -ENOMEM;
}

/* The word where SLUB keeps the next pointer of the free object in slot 0. */
int clobber(unsigned long offset, unsigned long value)
{
    *(volatile unsigned long *)((char *)slots[0] + offset) = value;
    return 0;
}

static int __init nothing(void) { return 0; }
module_init(nothing);
"""


@cache
def elf() -> Elf:
    return load(build.MODULE, SOURCE)


def pattern(va: int, size: int) -> bytes:
    """The bytes that fill() writes, worked out here."""
    return bytes((((va >> 3) * 31 + i * 7 + (i >> 8)) & 0xFF) for i in range(size))


class Guest:
    """The module in a machine, its traps counted."""

    def __init__(self, k: Kernel) -> None:
        self.k = k
        self.mm = k.mm
        self.module, stop = k.system.load_module(elf())
        assert (stop.reason, stop.value) == (StopReason.EXIT, 0)
        self.traps = 0
        table = k.system._sbi.extensions[KERNEL_EXTENSION]
        for number, function in list(table.items()):
            if number != Call.RETURN:
                table[number] = self._counted(function)
        area = self.mm.find_vm_area(self.module.base)
        assert area is not None
        self._frames = self.mm.vmalloc_areas.pages_of(area)
        self._slots = elf().symbol("slots") or 0
        mm.check(self.mm)

    def _counted(self, function: Callable[[], object]) -> Callable[[], object]:
        def call() -> object:
            self.traps += 1
            return function()

        return call

    def call(self, name: str, *arguments: int) -> int:
        offset = elf().symbol(name)
        assert offset is not None, name
        stop = self.k.system.call(self.module.base + offset, *arguments)
        assert stop.reason is StopReason.EXIT, stop
        assert isinstance(stop.value, int)
        return stop.value

    def _slot_pa(self, n: int) -> int:
        page, inside = divmod(self._slots + 8 * n, PAGE)
        return self._frames[page] * PAGE + inside

    def put(self, vas: list[int]) -> int:
        assert len(vas) <= SLOTS
        for n, va in enumerate(vas):
            self.k.ram.write64(self._slot_pa(n), va)
        return len(vas)

    def get(self, n: int) -> list[int]:
        return [self.k.ram.read64(self._slot_pa(i)) for i in range(n)]

    def held(self) -> tuple[int, int, int]:
        """(free frames, live objects, per-CPU frames after a drain): everything at rest."""
        self.mm.vm_unmap_aliases()
        for kmem_cache in self.mm.slab.caches():
            kmem_cache.shrink()
        self.mm.buddy.drain_all_pages()
        report = mm.check(self.mm)
        return self.mm.buddy.nr_free_pages(), report.objects, self.mm.buddy.nr_pcp_pages()


@pytest.fixture
def guest(machines: Machines) -> Iterator[Guest]:
    yield Guest(machines(ram_size=RAM))


# every size, every byte


@pytest.mark.parametrize("slab", ["slub", "slab", "slob"])
def test_every_byte_of_every_size_class(machines: Machines, slab: str) -> None:
    g = Guest(machines(ram_size=RAM, config={"slab": slab}))
    before = g.held()
    everything: list[tuple[list[int], int]] = []
    for size in SIZES:
        n = 40 if size <= 1024 else 10
        g.call("do_kmalloc", n, size, GFP_KERNEL, 0)
        vas = g.get(n)
        assert len(set(vas)) == n and all(vas)
        assert all(va % (size if not size & (size - 1) else 8) == 0 for va in vas) or slab == "slob"
        assert all(va % 8 == 0 for va in vas)
        g.call("fill", n, size)
        mm.check(g.mm)
        everything.append((vas, size))
    spans = sorted((va, va + size) for vas, size in everything for va in vas)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    for vas, size in everything:
        g.put(vas)
        assert g.call("wrong", len(vas), size, 0) == 0
        for va in vas[:3]:  # and the same bytes from Python
            assert g.k.ram.read(g.mm.pa(va), size) == pattern(va, size)
        g.call("do_kfree", len(vas), 0)
        mm.check(g.mm)
    assert g.k.log == []
    assert g.held() == before


@pytest.mark.parametrize("order", range(5))
def test_every_byte_of_pages_of_every_order(guest: Guest, order: int) -> None:
    before = guest.held()
    n, size = 12, PAGE << order
    guest.call("do_alloc_pages", n, order, GFP_KERNEL, 0)
    vas = guest.get(n)
    assert len(set(vas)) == n and all(va and va % size == 0 for va in vas)
    guest.call("fill", n, size)
    mm.check(guest.mm)
    for va in vas:
        page = guest.mm.page(guest.mm.pa(va) // PAGE)
        assert page._refcount == 1
    assert guest.call("wrong", n, size, 0) == 0
    assert guest.k.ram.read(guest.mm.pa(vas[-1]), 4096) == pattern(vas[-1], 4096)
    guest.call("do_free_pages", n, order, 0)
    mm.check(guest.mm)
    assert guest.k.log == []
    assert guest.held() == before


def test_zeroed_memory_is_zero_on_both_ways(guest: Guest) -> None:
    for size in SIZES:
        guest.call("do_kmalloc", 8, size, GFP_KERNEL, 0)
        guest.call("fill", 8, size)
        guest.call("do_kfree", 8, 0)
        for trap in (0, 1):
            guest.call("do_kmalloc", 8, size, GFP_KERNEL | GFP_ZERO, trap)
            assert guest.call("wrong", 8, size, 1) == 0
            guest.call("fill", 8, size)
            guest.call("do_kfree", 8, trap)
    for order in range(4):
        for trap in (0, 1):
            guest.call("do_alloc_pages", 2, order, GFP_KERNEL | GFP_ZERO, trap)
            assert guest.call("wrong", 2, PAGE << order, 1) == 0
            guest.call("fill", 2, PAGE << order)
            guest.call("do_free_pages", 2, order, trap)
    mm.check(guest.mm)


# interleavings


class Model:
    """What is alive: ``{va: (bytes, kind)}``; kind -1 is kmalloc, else the order."""

    def __init__(self, g: Guest, slob: bool) -> None:
        self.g = g
        self.slob = slob
        self.live: dict[int, tuple[int, int]] = {}

    def add(self, vas: list[int], size: int, kind: int) -> None:
        for va in vas:
            assert va and va % (8 if kind < 0 else size) == 0
            for other, (length, _) in self.live.items():
                assert va + size <= other or other + length <= va, f"{va:#x} overlaps {other:#x}"
            self.live[va] = size, kind
            if kind < 0 and not size & (size - 1) and not self.slob:
                assert va % min(size, PAGE) == 0

    def take(self, kind: int, seed: int, count: int) -> list[tuple[int, int]]:
        """Up to ``count`` live ones of a kind and of one size, any order: ``(va, size)``."""
        found = [(va, size) for va, (size, k) in self.live.items() if k == kind]
        rng = random.Random(seed)
        rng.shuffle(found)
        chosen = [f for f in found if f[1] == found[0][1]][:count]
        for va, _ in chosen:
            del self.live[va]
        return chosen

    def intact(self) -> None:
        by_size: dict[int, list[int]] = {}
        for va, (size, _) in self.live.items():
            by_size.setdefault(size, []).append(va)
        for size, vas in by_size.items():
            for i in range(0, len(vas), SLOTS):
                n = self.g.put(vas[i : i + SLOTS])
                assert self.g.call("wrong", n, size, 0) == 0


how = st.sampled_from(["fast", "trap", "python"])
kmallocs = st.tuples(
    st.just("kmalloc"), how, st.sampled_from(SIZES), st.integers(1, 40), st.booleans()
)
kfrees = st.tuples(st.just("kfree"), how, st.integers(0, 999), st.integers(1, 40))
pages = st.tuples(
    *(st.just("pages"), how, st.integers(0, 4), st.integers(1, 12), st.booleans()),
    st.sampled_from([0, 8, 16]),  # Unmovable, __GFP_MOVABLE, __GFP_RECLAIMABLE
)
frees = st.tuples(
    st.just("free_pages"), how, st.integers(0, 4), st.integers(0, 999), st.integers(1, 12)
)
others = st.tuples(st.sampled_from(["drain", "shrink", "flush"]))
steps = st.lists(
    st.one_of(kmallocs, kfrees, kmallocs, kfrees, pages, frees, others), min_size=4, max_size=30
)


def _step(m: Model, step: tuple[object, ...]) -> None:
    g, k = m.g, m.g.mm
    name, *arguments = step
    if name == "kmalloc":
        way, size, n, zero = arguments
        gfp = GFP_KERNEL | (GFP_ZERO if zero else 0)
        if way == "python":
            g.put([k.kmalloc(size, gfp) or 0 for _ in range(n)])
        else:
            g.call("do_kmalloc", n, size, gfp, int(way == "trap"))
        if zero:
            assert g.call("wrong", n, size, 1) == 0
        vas = g.get(n)
        m.add(vas, size, -1)
        assert all(k.ksize(va) == size for va in vas)
        g.call("fill", n, size)
    elif name == "pages":
        way, order, n, zero, mobility = arguments
        gfp = GFP_KERNEL | mobility | (GFP_ZERO if zero else 0)
        if way == "python":
            pfns = [k.alloc_pages(gfp, order) for _ in range(n)]
            g.put([k.va(pfn * PAGE) for pfn in pfns])
        else:
            g.call("do_alloc_pages", n, order, gfp, int(way == "trap"))
        if zero:
            assert g.call("wrong", n, PAGE << order, 1) == 0
        m.add(g.get(n), PAGE << order, order)
        g.call("fill", n, PAGE << order)
    elif name in ("kfree", "free_pages"):
        way, *where = arguments
        kind = -1 if name == "kfree" else where.pop(0)
        chosen = m.take(kind, *where)
        n = g.put([va for va, _ in chosen])
        if not n:
            return
        assert g.call("wrong", n, chosen[0][1], 0) == 0
        if way != "python":
            tail = (int(way == "trap"),)
            if kind < 0:
                g.call("do_kfree", n, *tail)
            else:
                g.call("do_free_pages", n, kind, *tail)
            return
        for va, _ in chosen:
            if kind < 0:
                k.kfree(va)
            else:
                k.free_pages(k.pa(va) // PAGE, kind)
    elif name == "drain":
        k.buddy.drain_all_pages()
        assert k.buddy.nr_pcp_pages() == 0
    elif name == "shrink":
        for kmem_cache in k.slab.caches():
            kmem_cache.shrink()
    else:
        k.slab.flush_all()


def _interleave(sequence: list[tuple[object, ...]], config: dict[str, object]) -> None:
    k = Kernel(ram_size=RAM, config=config)
    try:
        g = Guest(k)
        before = g.held()
        m = Model(g, config.get("slab") == "slob")
        for step in sequence:
            _step(m, step)
            mm.check(k.mm)
        m.intact()
        for kind in range(-1, 5):
            last = ("kfree", "fast") if kind < 0 else ("free_pages", "fast", kind)
            while any(found == kind for _, found in m.live.values()):
                _step(m, (*last, 1, SLOTS))
                mm.check(k.mm)
        assert k.log == []
        assert g.held() == before
    finally:
        k.close()


bounded = settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
@bounded
@given(steps)
def test_guest_traps_and_python_share_one_pool(sequence: list[tuple[object, ...]]) -> None:
    _interleave(sequence, {})


@pytest.mark.slow
@bounded
@given(
    steps,
    st.sampled_from(
        [
            {"slab": "slab"},
            {"slab": "slob"},
            {"slub_debug": "FZPU"},
            {"slab_freelist_hardened": True, "page_owner": True},
            {"page_poison": True, "kmemleak": True},
            {"pcp": False},
        ]
    ),
)
def test_they_share_it_in_every_configuration(
    sequence: list[tuple[object, ...]], config: dict[str, object]
) -> None:
    _interleave(sequence, config)


# traps, counted


def traps_of(g: Guest, name: str, *arguments: int) -> int:
    start = g.traps
    assert g.call(name, *arguments) == 0
    mm.check(g.mm)
    return g.traps - start


@pytest.mark.parametrize("size", SIZES)
def test_pairs_of_kmalloc_do_not_trap(guest: Guest, size: int) -> None:
    assert traps_of(guest, "kmalloc_pairs", 1000, size) <= 2
    assert traps_of(guest, "kmalloc_pairs", 1000, size) == 0


@pytest.mark.parametrize("order", range(4))
def test_pairs_of_pages_do_not_trap(guest: Guest, order: int) -> None:
    assert traps_of(guest, "page_pairs", 1000, order) <= 2
    assert traps_of(guest, "page_pairs", 1000, order) == 0


def test_what_the_lists_do_not_hold_traps(guest: Guest) -> None:
    assert traps_of(guest, "page_pairs", 50, 4) == 100  # above the per-CPU lists
    assert traps_of(guest, "kmalloc_pairs", 50, 8193) == 100  # above the caches
    guest.call("do_alloc_pages", 1, 0, GFP_KERNEL, 0)
    guest.call("do_free_pages", 1, 0, 0)
    guest.mm.buddy.drain_all_pages()
    assert traps_of(guest, "do_alloc_pages", 1, 0, GFP_KERNEL, 0) == 1  # a refill
    assert traps_of(guest, "do_free_pages", 1, 0, 0) == 0


def test_a_cache_of_its_own_does_not_trap(guest: Guest) -> None:
    # Create, the first slab, destroy.
    assert traps_of(guest, "cache_pairs", 1000) == 3


def test_a_batch_traps_once_for_each_slab(guest: Guest) -> None:
    guest.held()
    # A slab of kmalloc-64 is one frame of 64 objects, and 512 objects are eight.
    assert 7 <= traps_of(guest, "do_kmalloc", SLOTS, 64, GFP_KERNEL, 0) <= 9
    assert len(set(guest.get(SLOTS))) == SLOTS


@pytest.mark.parametrize(
    "config",
    [
        {"slub_debug": "FZPU"},
        {"slub_debug": "F"},
        {"slab_freelist_hardened": True},
        {"kmemleak": True},
        {"slab": "slab"},
        {"slab": "slob"},
    ],
    ids=str,
)
def test_kmalloc_always_traps_where_the_kernel_must_see_it(
    machines: Machines, config: dict[str, object]
) -> None:
    g = Guest(machines(ram_size=RAM, config=config))
    before = g.held()
    for size in (8, 64, 192, 4096):
        assert traps_of(g, "kmalloc_pairs", 100, size) == 200
    assert traps_of(g, "do_kmalloc", 50, 64, GFP_KERNEL, 0) == 50
    g.call("fill", 50, 64)
    assert g.call("wrong", 50, 64, 0) == 0
    assert traps_of(g, "do_kfree", 50, 0) == 50
    assert traps_of(g, "cache_pairs", 20) == 42
    assert g.k.log == []
    assert g.held() == before


@pytest.mark.parametrize("config", [{"page_owner": True}, {"page_poison": True}], ids=str)
def test_pages_always_trap_where_the_kernel_must_see_them(
    machines: Machines, config: dict[str, object]
) -> None:
    g = Guest(machines(ram_size=RAM, config=config))
    before = g.held()
    for order in range(4):
        assert traps_of(g, "page_pairs", 20, order) == 40
    assert traps_of(g, "do_alloc_pages", 20, 1, GFP_KERNEL, 0) == 20
    g.call("fill", 20, 2 * PAGE)
    assert g.call("wrong", 20, 2 * PAGE, 0) == 0
    assert traps_of(g, "do_free_pages", 20, 1, 0) == 20
    assert g.k.log == []
    assert g.held() == before


def test_fault_injection_sees_every_call(guest: Guest) -> None:
    assert traps_of(guest, "kmalloc_pairs", 100, 64) <= 2
    guest.mm.slab.set_failslab(lambda name, flags, gfp, size: True)
    guest.call("do_kmalloc", 5, 64, GFP_KERNEL, 0)
    assert guest.get(5) == [0] * 5
    guest.mm.slab.set_failslab(None)
    mm.check(guest.mm)
    assert traps_of(guest, "kmalloc_pairs", 100, 64) <= 2


def test_fault_injection_of_pages_sees_every_call(guest: Guest) -> None:
    guest.call("page_pairs", 1, 0)
    start = guest.traps
    guest.mm.fault_injection.set("fail_page_alloc", probability=100, times=3)
    guest.call("do_alloc_pages", 5, 0, GFP_KERNEL, 0)
    got = guest.get(5)
    assert [bool(va) for va in got] == [False, False, False, True, True]
    assert guest.traps - start == 5
    guest.mm.fault_injection.off()
    mm.check(guest.mm)
    guest.call("do_free_pages", guest.put([va for va in got if va]), 0, 0)
    assert traps_of(guest, "page_pairs", 100, 0) == 0


def test_a_batch_of_pages_traps_once_for_each_refill(guest: Guest) -> None:
    before = guest.held()
    batch = max(zone.per_cpu_pageset.batch for zone in guest.mm.zones)
    assert batch == 7  # zone_batchsize of 128 MiB: 32767 / 1024 / 4 * 1.5, to 2^n - 1
    assert traps_of(guest, "do_alloc_pages", 70 * batch, 0, GFP_KERNEL, 0) == 70
    high = max(zone.per_cpu_pageset.high for zone in guest.mm.zones)
    assert batch < high < 70 * batch
    # The first trap comes when the lists are full, then one for each batch that left them.
    full = -(-(70 * batch - high) // batch)
    assert full - 1 <= traps_of(guest, "do_free_pages", 70 * batch, 0, 0) <= full + 1
    assert high - batch <= guest.mm.buddy.nr_pcp_pages() < high
    assert guest.held() == before


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["unmovable", "movable", "reclaimable"])
@pytest.mark.parametrize("order", range(4))
def test_a_page_goes_back_to_the_list_of_its_pageblock(guest: Guest, order: int, kind: int) -> None:
    guest.held()
    gfp = GFP_KERNEL | kind << 3  # __GFP_MOVABLE, __GFP_RECLAIMABLE
    guest.call("do_alloc_pages", 1, order, gfp, 0)
    [va] = guest.get(1)
    pfn = guest.mm.pa(va) // PAGE
    block = (pfn >> 9) - (guest.mm.ram.base >> 21)
    assert guest.k.ram.read8(guest.mm.vmcoreinfo.pageblock_pa + block) ^ 1 == kind
    assert traps_of(guest, "do_free_pages", 1, order, 0) == 0
    zone = next(z for z in guest.mm.zones if z.zone_start_pfn <= pfn < z.zone_end_pfn)
    head = zone.per_cpu_pageset.lists[3 * order + kind]
    assert head.next == guest.mm.space.page_va(pfn) + 8  # page->lru
    for other in range(3):
        wanted = GFP_KERNEL | other << 3
        assert traps_of(guest, "do_alloc_pages", 1, order, wanted, 0) == (other != kind)
        assert (guest.get(1) == [va]) == (other == kind)
        guest.call("do_free_pages", 1, order, 0)
        if other != kind:  # as it was: only this page on the lists
            guest.mm.buddy.drain_all_pages()
            if other < kind:
                guest.call("do_alloc_pages", 1, order, gfp, 1)
                [va] = guest.get(1)
                guest.call("do_free_pages", 1, order, 0)
    mm.check(guest.mm)


@pytest.mark.parametrize("order", range(4))
def test_struct_page_is_the_same_on_every_way(guest: Guest, order: int) -> None:
    """A page that the guest popped, or freed, is word for word one that Python did."""

    def words(pfn: int) -> list[int]:
        pa = guest.mm.space.page_pa(pfn)
        return [guest.k.ram.read64(pa + 8 * i) for i in range(8 << order)]

    guest.held()
    first = guest.mm.alloc_pages(GFP_KERNEL, order)
    assert first is not None
    allocated = words(first)
    guest.mm.free_pages(first, order)
    freed = words(first)
    assert traps_of(guest, "do_alloc_pages", 1, order, GFP_KERNEL, 0) == 0
    [va] = guest.get(1)
    assert guest.mm.pa(va) // PAGE == first
    assert words(first) == allocated
    assert traps_of(guest, "do_free_pages", 1, order, 0) == 0
    assert words(first) == freed


def test_the_last_page(machines: Machines) -> None:
    """Memory runs out on the fast path: NULL, a report, and everything comes back."""
    g = Guest(machines(ram_size=8 << 20))
    before = g.held()
    taken: list[int] = []
    for _ in range(20):
        g.call("do_alloc_pages", SLOTS, 0, GFP_KERNEL, 0)
        taken += [va for va in g.get(SLOTS) if va]
        if 0 in g.get(SLOTS):
            break
    else:
        raise AssertionError("8 MiB never run out")
    assert len(set(taken)) == len(taken) <= 2048
    mm.check(g.mm)
    while taken:
        part, taken = taken[:SLOTS], taken[SLOTS:]
        g.call("do_free_pages", g.put(part), 0, 0)
        mm.check(g.mm)
    assert g.held() == before


# frees that are wrong, and memory that is clobbered


def test_a_second_kfree_in_a_row_is_refused(guest: Guest) -> None:
    for trap in (0, 1):
        guest.call("do_kmalloc", 1, 64, GFP_KERNEL, 0)
        [va] = guest.get(1)
        guest.put([va, va])
        guest.call("do_kfree", 2, trap)
        assert re.search(rf"kfree of {va:#018x}: .*(double free|free already)", guest.k.log[-1])
        mm.check(guest.mm)
    assert len(guest.k.log) == 2


def test_a_second_free_of_a_page_is_refused(guest: Guest) -> None:
    for order in range(4):
        guest.k.log.clear()
        guest.call("do_alloc_pages", 1, order, GFP_KERNEL, 0)
        [va] = guest.get(1)
        guest.put([va, va])
        guest.call("do_free_pages", 2, order, 0)
        pfn = guest.mm.pa(va) // PAGE
        assert guest.k.log[0] == f"BUG: Bad page state in process swapper  pfn:{pfn:05x}"
        mm.check(guest.mm)
    # A wrong order is another way to get it wrong.
    guest.k.log.clear()
    guest.call("do_alloc_pages", 1, 1, GFP_KERNEL, 0)
    guest.call("do_free_pages", 1, 2, 0)
    assert guest.k.log[0].startswith("BUG: Bad page state")
    mm.check(guest.mm)
    guest.call("do_free_pages", 1, 1, 0)
    mm.check(guest.mm)


def test_a_double_kfree_under_slub_debug_is_reported(machines: Machines) -> None:
    g = Guest(machines(ram_size=RAM, config={"slub_debug": "FZPU"}))
    g.call("do_kmalloc", 2, 64, GFP_KERNEL, 0)
    a, b = g.get(2)
    g.put([a, b, a])
    g.call("do_kfree", 3, 0)
    assert any(
        re.fullmatch(r"BUG kmalloc-64 \(.*\): Object already free", line) for line in g.k.log
    )
    mm.check(g.mm)
    g.call("do_kmalloc", 60, 64, GFP_KERNEL, 0)
    assert len(set(g.get(60))) == 60
    mm.check(g.mm)


def _freed(g: Guest, size: int = 64) -> tuple[list[int], int]:
    """Ten freed objects on the CPU's list, the last freed first; the next pointer's offset."""
    g.call("do_kmalloc", 10, size, GFP_KERNEL, 0)
    vas = g.get(10)
    g.call("do_kfree", 10, 0)
    mm.check(g.mm)
    return vas[::-1], g.mm.kmalloc_caches.cache_for(size).struct.offset


@pytest.mark.parametrize("what", ["outside", "between", "circle", "unmapped"])
def test_a_clobbered_freelist_is_found(what: str) -> None:
    k = Kernel(ram_size=RAM)
    g = Guest(k)
    vas, offset = _freed(g)
    g.put(vas)
    value = {
        "outside": g.mm.va(g.mm.ram.base + (3 << 20)),
        "between": vas[3] + 8,
        "circle": vas[0],
        "unmapped": 0x4141414141414141,
    }[what]
    # The object in the middle, so that the allocator meets it some pops later.
    g.put([vas[5], *vas[1:]])
    g.call("clobber", offset, value)
    with pytest.raises(CheckError) as found:
        mm.check(g.mm)
    assert found.value.structure == "slab"
    assert "cache kmalloc-64" in found.value.rule
    if what != "circle":
        assert f"{value:#x}" in found.value.rule
    # Python's allocator never follows it without end.
    seen: set[int] = set()
    got = 0
    with pytest.raises(SlabError, match="kmalloc-64") if what != "circle" else nullcontext():
        for _ in range(100):
            va = g.mm.kmalloc(64)
            assert va is not None
            got += 1
            seen.add(va)
    assert got == 100 if what == "circle" else got <= 6
    with pytest.raises(CheckError):
        mm.check(g.mm)
    k.system.machine.close()


def test_a_clobbered_freelist_met_by_the_guest_ends_its_run() -> None:
    k = Kernel(ram_size=RAM)
    g = Guest(k)
    vas, offset = _freed(g)
    g.put([vas[0]])
    g.call("clobber", offset, 0x4141414141414140)
    fault = k.system.call(g.module.base + (elf().symbol("do_kmalloc") or 0), 3, 64, GFP_KERNEL, 0)
    assert fault.reason is StopReason.FAULT and fault.trap is not None
    assert fault.trap.tval == 0x4141414141414140 + offset
    with pytest.raises(CheckError, match="kmalloc-64"):
        mm.check(g.mm)
    k.system.machine.close()
