"""SLUB, SLAB and SLOB against one independent model of live objects.

The model knows addresses, sizes and fill bytes, nothing of slabs. After every rule the
checker runs; in between, "guest code" uses the fast path in RAM, and the kernel is found
anew by attach. In the end everything is freed and the counters are those of the start.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import mm
from emu.ram import Ram
from mm.errors import BadFree, BadPage
from mm.gfp import GFP_KERNEL
from mm.kmalloc import ZERO_SIZE_PTR
from mm.slab import SLAB_HWCACHE_ALIGN, SLAB_NO_MERGE, KmemCache

SIZES = st.one_of(
    st.integers(1, 300), st.sampled_from([512, 1000, 1024, 4000, 4090, 4096, 8192, 8193, 40000])
)


class SlabModel(RuleBasedStateMachine):
    config = mm.Config(pcp=False, min_free_kbytes=0)

    def __init__(self) -> None:
        super().__init__()
        k = self.k = mm.boot(Ram(8 << 20), self.config)
        self.ctor_calls = 0
        k.slab.create("m_ctor", 40, ctor=self.ctor)
        k.slab.create("m_line", 100, flags=SLAB_HWCACHE_ALIGN | SLAB_NO_MERGE)
        k.slab.create("m_page", 3000, align=512, flags=SLAB_NO_MERGE)
        self.settle()
        self.free_pages = k.page_alloc.nr_free_pages()
        self.active = self.counters()
        self.starts: list[int] = []  # sorted
        self.live: dict[int, tuple[int, int, str]] = {}  # size, fill, cache ("": kmalloc)
        self.turn = 0

    def ctor(self, va: int) -> None:
        self.ctor_calls += 1
        self.k.ram.write64(self.k.pa(va), 0xC0C0)

    def settle(self) -> None:
        for cache in self.k.slab.caches() * 2:  # SLAB's index arrays are objects themselves
            cache.shrink()

    def counters(self) -> list[tuple[str, int]]:
        return [(c.name, c.active_objects()) for c in self.k.slab.caches()]

    def cache(self, name: str) -> KmemCache:
        return next(c for c in self.k.slab.caches() if c.name == name)

    # the model

    def born(self, va: int, size: int, usable: int, align: int, owner: str) -> None:
        k = self.k
        assert usable >= size and va % align == 0 and k.ram.contains(k.pa(va), usable)
        at = bisect_left(self.starts, va)
        if at:
            before = self.starts[at - 1]
            assert before + self.live[before][0] <= va
        assert at == len(self.starts) or va + usable <= self.starts[at]
        self.turn = self.turn % 255 + 1
        k.ram.fill(k.pa(va), usable, self.turn)
        self.starts.insert(at, va)
        self.live[va] = usable, self.turn, owner

    def gone(self, va: int) -> str:
        size, fill, owner = self.live.pop(va)
        del self.starts[bisect_left(self.starts, va)]
        assert self.k.ram.read(self.k.pa(va), size) == bytes([fill]) * size
        if owner == "m_ctor":  # a free object is as the constructor left it
            self.k.ram.write64(self.k.pa(va), 0xC0C0)
        return owner

    def pick(self, n: int, owner: str | None = None) -> int | None:
        known = [v for v in self.starts if owner is None or self.live[v][2] == owner]
        return known[n % len(known)] if known else None

    # rules

    @rule(size=SIZES, zero=st.booleans(), times=st.sampled_from([1, 1, 3, 40]))
    def kmalloc(self, size: int, zero: bool, times: int) -> None:
        k = self.k
        for _ in range(min(times, max(1, 40_000 // size))):
            va = k.kzalloc(size) if zero else k.kmalloc(size)
            if va is None:
                return
            if zero:
                assert not any(k.ram.read(k.pa(va), size))
            align = size if size & (size - 1) == 0 and size <= 4096 else 8
            self.born(va, size, k.ksize(va), align, "")

    @rule(n=st.integers(0, 1 << 20), times=st.sampled_from([1, 1, 10, 60]))
    def kfree(self, n: int, times: int) -> None:
        for _ in range(times):
            va = self.pick(n, "")
            if va is None:
                return
            self.gone(va)
            self.k.kfree(va)

    @rule(n=st.integers(0, 1 << 20), size=SIZES)
    def krealloc(self, n: int, size: int) -> None:
        va = self.pick(n, "")
        if va is None:
            return
        old, fill, _ = self.live[va]
        new = self.k.krealloc(va, size)
        if new is None:
            return
        assert new != va or size <= old
        assert self.k.ram.read(self.k.pa(new), min(old, size)) == bytes([fill]) * min(old, size)
        del self.live[va], self.starts[bisect_left(self.starts, va)]
        self.born(new, size, self.k.ksize(new), 8, "")

    @rule(name=st.sampled_from(["m_ctor", "m_line", "m_page"]), count=st.integers(1, 30))
    def cache_alloc(self, name: str, count: int) -> None:
        cache = self.cache(name)
        for _ in range(count):
            va = cache.alloc()
            if va is None:
                return
            self.from_cache(cache, va)

    def from_cache(self, cache: KmemCache, va: int) -> None:
        align = {"m_ctor": 8, "m_line": 64, "m_page": 512}[cache.name]
        if cache.name == "m_ctor":
            assert self.k.ram.read64(self.k.pa(va)) == 0xC0C0
        self.born(va, cache.object_size, cache.object_size, align, cache.name)

    @rule(
        name=st.sampled_from(["m_ctor", "m_line", "m_page"]),
        n=st.integers(0, 1 << 20),
        count=st.integers(1, 40),
    )
    def cache_free(self, name: str, n: int, count: int) -> None:
        for _ in range(count):
            va = self.pick(n, name)
            if va is None:
                return
            self.gone(va)
            self.cache(name).free(va)

    @rule(name=st.sampled_from(["m_ctor", "m_line", "m_page"]), count=st.integers(1, 100))
    def cache_alloc_many(self, name: str, count: int) -> None:
        cache = self.cache(name)
        for _ in range(count):
            va = cache.alloc()
            if va is None:
                return
            self.from_cache(cache, va)

    @rule(
        name=st.sampled_from(["m_ctor", "m_line", "m_page"]),
        n=st.integers(0, 1 << 20),
        count=st.integers(1, 100),
        step=st.sampled_from([1, -1, 2]),
    )
    def cache_free_many(self, name: str, n: int, count: int, step: int) -> None:
        mine = [v for v in self.starts if self.live[v][2] == name]
        some = mine[n % (len(mine) + 1) :][:count][::step]
        for va in some:
            self.gone(va)
            self.cache(name).free(va)

    @rule(n=st.integers(0, 1 << 20), offset=st.sampled_from([1, 2, 3, 5]))
    def free_wrongly(self, n: int, offset: int) -> None:
        va = self.pick(n)
        if va is not None:
            with pytest.raises((BadFree, BadPage)):
                self.k.kfree(va + offset)
            self.k.messages.clear()  # with slub_debug it was reported

    @rule()
    def shrink(self) -> None:
        self.settle()

    @rule()
    def attach(self) -> None:
        k = self.k = mm.attach(self.k.ram)
        k.slab.set_ctor(self.cache("m_ctor"), self.ctor)

    @precondition(lambda self: self.k.slab.KIND == "slub")
    @rule(
        size=st.sampled_from([8, 64, 200, 2000]), pops=st.integers(0, 9), pushes=st.integers(0, 9)
    )
    def guest(self, size: int, pops: int, pushes: int) -> None:
        """What an inline kmalloc and kfree in C do."""
        k = self.k
        cache = k.kmalloc_caches.cache_for(size)
        c, offset = cache.struct.cpu, cache.struct.offset
        for _ in range(pops):
            va = c.freelist
            if not va:
                break  # would trap
            c.freelist = k.ram.read64(k.pa(va) + offset)
            c.tid += 1
            self.born(va, size, cache.object_size, 8, "")
        for va in [v for v in self.starts if self.live[v][2] == ""][:pushes]:
            pfn = k.slab.slab_pfn(va)
            if pfn is not None and c.slab == k.space.page_va(pfn):
                self.gone(va)
                k.ram.write64(k.pa(va) + offset, c.freelist)
                c.freelist = va
                c.tid += 1

    @invariant()
    def consistent(self) -> None:
        mm.check(self.k)

    def teardown(self) -> None:
        for va in list(self.starts):
            owner = self.gone(va)
            if owner:
                self.cache(owner).free(va)
            else:
                self.k.kfree(va)
        self.settle()
        report = mm.check(self.k)
        assert self.k.page_alloc.nr_free_pages() == self.free_pages, report
        assert self.counters() == self.active
        assert not self.k.messages


def machine(**config: object) -> type:
    class Machine(SlabModel):
        pass

    Machine.config = mm.Config(pcp=False, min_free_kbytes=0, **config)  # type: ignore[arg-type]
    Machine.TestCase.settings = settings(
        derandomize=True, deadline=None, max_examples=25, stateful_step_count=20,
        phases=[Phase.generate],  # shrinking takes minutes
    )  # fmt: skip
    return Machine.TestCase


TestSlub = machine()
TestSlubDebug = machine(slub_debug="FZPU")
TestSlubHardened = pytest.mark.slow(machine(slab_freelist_hardened=True))
TestSlab = machine(slab="slab")
TestSlabDebug = pytest.mark.slow(machine(slab="slab", slub_debug="FZPU"))
TestSlob = machine(slab="slob")
TestKmemleakRecords = pytest.mark.slow(machine(slab="slob", kmemleak=True))


def test_zero_size_pointer() -> None:
    for kind in ("slub", "slab", "slob"):
        k = mm.boot(Ram(8 << 20), mm.Config(slab=kind))
        assert k.kmalloc(0, GFP_KERNEL) == ZERO_SIZE_PTR and k.ksize(ZERO_SIZE_PTR) == 0


def test_the_model_finds_overlap() -> None:
    model = SlabModel()
    va = model.k.kmalloc(64)
    assert va is not None
    model.born(va, 64, 64, 8, "")
    with pytest.raises(AssertionError):
        model.born(va + 32, 8, 8, 8, "")
    assert bisect_right(model.starts, va) == 1
