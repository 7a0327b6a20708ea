"""SLUB's fast paths, in Python and in guest code, must come to what the slow ones come to."""

from __future__ import annotations

import random

import pytest

import mm
from emu.ram import Ram
from mm.errors import BadFree, SlabError
from mm.kmalloc import KMALLOC_SIZES
from mm.slab.slub import SlubCache

SIZES = (8, 40, 64, 100, 192, 700, 3000, 8192)


def life(seed: int, fast: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[list[object], bytes]:
    """What kmalloc and kfree gave and raised, and RAM after it."""
    with monkeypatch.context() as patch:
        if not fast:
            patch.setattr(SlubCache, "alloc_from_cpu", lambda cache: 0)
            patch.setattr(SlubCache, "free_to_cpu", lambda cache, va: False)
        k = mm.boot(Ram(16 << 20))
        rng = random.Random(seed)
        live: list[int] = []
        seen: list[object] = []
        for _ in range(3000):
            if not live or rng.random() < 0.55:
                live.append(k.kmalloc(rng.choice(SIZES)) or 0)
                seen.append(live[-1])
                continue
            va = live.pop(rng.randrange(len(live)))
            wrong = rng.random() < 0.02
            try:
                k.kfree(va)
                if wrong:
                    k.kfree(va)
            except BadFree as e:
                seen.append(str(e))
        mm.check(k)
        return seen, k.ram.read(k.ram.base, k.ram.size)


@pytest.mark.parametrize("seed", range(3))
def test_with_and_without(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, ram = life(seed, True, monkeypatch)
    slow_seen, slow_ram = life(seed, False, monkeypatch)
    assert any(isinstance(x, str) for x in seen)  # double frees were among them
    assert seen == slow_seen
    assert ram == slow_ram


def test_another_kernel_in_the_same_ram_changes_the_cpu_slab() -> None:
    """Where the cpu slab is, is derived: RAM says which one it is by now."""
    ram = Ram(16 << 20)
    one = mm.boot(ram)
    two = mm.attach(ram)
    mine = [one.kmalloc(64) or 0 for _ in range(10)]
    others = [two.kmalloc(64) or 0 for _ in range(200)]  # some slabs on
    more = [one.kmalloc(64) or 0 for _ in range(200)]
    assert len({*mine, *others, *more}) == 410
    for kernel, objects in ((two, mine), (one, others), (two, more)):
        for va in objects:
            kernel.kfree(va)
    mm.check(one)
    mm.check(two)


def test_a_freelist_that_leaves_the_slab_is_refused() -> None:
    k = mm.boot(Ram(16 << 20))
    va = k.kmalloc(64) or 0
    cache = k.kmalloc_caches.cache_for(64)
    assert isinstance(cache, SlubCache)
    for wild in (va + (1 << 20), va + 4, k.space.vmemmap, 8):
        cache.struct.cpu.freelist = wild
        with pytest.raises(SlabError):
            k.kmalloc(64)


def test_guest_code_knows_where_the_free_pointer_is() -> None:
    """guest/include/pagewalk/slab.h kmalloc_offset: in the middle, on a word, of each class."""
    k = mm.boot(Ram(16 << 20))
    for size in KMALLOC_SIZES:
        cache = k.kmalloc_caches.cache_for(size)
        assert cache.struct.offset == size // 2 & ~7
        assert cache.struct.cpu_slab == k.va(cache.struct.cpu.pa)  # which it does not read
