"""kmalloc's alignment, krealloc's zeroes, and destructors of a cache that was attached."""

from __future__ import annotations

import pytest

import mm
from emu.ram import Ram
from mm.errors import SlabError
from mm.gfp import GFP_KERNEL, GFP_ZERO

# The largest power of two that divides each size class.
ALIGNMENT = {8: 8, 16: 16, 32: 32, 64: 64, 96: 32, 128: 128, 192: 64, 256: 256, 512: 512,
             1024: 1024, 2048: 2048, 4096: 4096, 8192: 8192}  # fmt: skip


@pytest.mark.parametrize("kind", ["slub", "slab"])
@pytest.mark.parametrize("debug", [None, "FZPU", "Z", "P", "U"])
def test_alignment_of_size_classes(kind: str, debug: str | None) -> None:
    k = mm.boot(Ram(64 << 20), mm.Config(slab=kind, slub_debug=debug))
    for size, align in ALIGNMENT.items():
        for _ in range(8):
            va = k.kmalloc(size)
            assert va is not None and va % align == 0, (size, hex(va))
    mm.check(k)


def booted(debug: str | None) -> mm.Kernel:
    return mm.boot(Ram(16 << 20), mm.Config(slub_debug=debug))


def filled(k: mm.Kernel, size: int, fill: int) -> int:
    va = k.kmalloc(size, GFP_KERNEL | GFP_ZERO)
    assert va is not None
    k.ram.fill(k.pa(va), fill, 0xAA)
    return va


@pytest.mark.parametrize("kind", ["slub", "slab", "slob"])
def test_krealloc_zeroes_what_it_gives_up(kind: str) -> None:
    k = mm.boot(Ram(16 << 20), mm.Config(slab=kind))
    va = filled(k, 64, 64)
    assert k.krealloc(va, 10, GFP_KERNEL | GFP_ZERO) == va
    assert k.ram.read(k.pa(va), 64) == b"\xaa" * 10 + bytes(54)
    assert k.krealloc(va, 30, GFP_KERNEL | GFP_ZERO) == va
    assert k.ram.read(k.pa(va), 64) == b"\xaa" * 10 + bytes(54)
    mm.check(k)


def test_krealloc_without_the_flag_zeroes_nothing() -> None:
    k = booted(None)
    va = filled(k, 64, 64)
    assert k.krealloc(va, 10) == va
    assert k.ram.read(k.pa(va), 64) == b"\xaa" * 64


def test_krealloc_in_place_moves_the_red_zone() -> None:
    """With slub_debug=ZU the size that was asked for is known: growing zeroes just the new
    bytes, and what is behind them is a red zone (0xcc) again."""
    k = booted("ZU")
    va = filled(k, 20, 20)
    assert k.krealloc(va, 30, GFP_KERNEL | GFP_ZERO) == va
    assert k.ram.read(k.pa(va), 32) == b"\xaa" * 20 + bytes(10) + b"\xcc" * 2
    assert k.krealloc(va, 5, GFP_KERNEL | GFP_ZERO) == va
    assert k.ram.read(k.pa(va), 32) == b"\xaa" * 5 + b"\xcc" * 27
    cache = k.slab.cache_of(va)
    assert cache is not None and cache.validate() == 0
    k.kfree(va)
    assert not k.messages
    mm.check(k)


def test_krealloc_that_moves() -> None:
    k = booted("ZU")
    va = filled(k, 20, 20)
    new = k.krealloc(va, 100, GFP_KERNEL | GFP_ZERO)
    assert new is not None and new != va
    assert k.ram.read(k.pa(new), 100) == b"\xaa" * 20 + bytes(80)
    mm.check(k)


@pytest.mark.parametrize("kind", ["slub", "slab"])
@pytest.mark.parametrize("debug", [None, "FZPU"])
def test_a_destructor_that_attach_was_not_given(kind: str, debug: str | None) -> None:
    ram = Ram(16 << 20)
    k = mm.boot(ram, mm.Config(slab=kind, slub_debug=debug))
    cache = k.kmem_cache_create("with_dtor", 700, dtor=lambda va: None)
    objects = [cache.alloc() or 0 for _ in range(100)]
    later = mm.attach(ram)
    again = next(c for c in later.slab.caches() if c.name == "with_dtor")
    slabs = again.nr_slabs
    assert slabs >= 10
    for va in objects:
        again.free(va)
    assert again.nr_slabs == slabs  # they wait
    mm.check(later)
    for use in (again.shrink, again.destroy):
        with pytest.raises(SlabError, match="with_dtor: its destructor was not given to attach"):
            use()
        mm.check(later)
    gone: list[int] = []
    later.slab.set_ctor(again, None, gone.append)
    assert again.shrink() == slabs
    assert set(objects) <= set(gone) and len(gone) == slabs * again.objects_per_slab
    mm.check(later)
    again.destroy()
    mm.check(later)


@pytest.mark.parametrize("kind", ["slub", "slab", "slob"])
def test_a_constructor_that_attach_was_not_given(kind: str) -> None:
    ram = Ram(16 << 20)
    k = mm.boot(ram, mm.Config(slab=kind))
    k.kmem_cache_create("with_ctor", 700, ctor=lambda va: None)
    later = mm.attach(ram)
    again = next(c for c in later.slab.caches() if c.name == "with_ctor")
    free = later.page_alloc.nr_free_pages() + later.page_alloc.nr_pcp_pages()
    with pytest.raises(SlabError, match="with_ctor: its constructor was not given to attach"):
        again.alloc()
    assert later.page_alloc.nr_free_pages() + later.page_alloc.nr_pcp_pages() == free
    mm.check(later)
    made: list[int] = []
    later.slab.set_ctor(again, made.append)
    assert again.alloc() in made
    mm.check(later)


def test_slob_runs_the_destructor_at_each_free() -> None:
    ram = Ram(16 << 20)
    k = mm.boot(ram, mm.Config(slab="slob"))
    va = k.kmem_cache_create("with_dtor", 100, dtor=lambda va: None).alloc()
    assert va is not None
    later = mm.attach(ram)
    again = next(c for c in later.slab.caches() if c.name == "with_dtor")
    with pytest.raises(SlabError, match="destructor was not given"):
        again.free(va)
    mm.check(later)
    gone: list[int] = []
    later.slab.set_ctor(again, None, gone.append)
    again.free(va)
    assert gone == [va]
    mm.check(later)
