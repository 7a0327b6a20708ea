"""SLUB and kmalloc: Linux's orders and sizes, errors, and a model of live objects."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import mm
from mm.errors import BadFree, BadPage, GfpError, SlabError
from mm.gfp import GFP_HIGHUSER
from mm.kmalloc import KMALLOC_SIZES, ZERO_SIZE_PTR
from mm.slab import SLAB_HWCACHE_ALIGN, SLAB_NO_MERGE
from mm.slab.slub import SlubCache
from mm.slab.slub_sizes import (
    calculate_cpu_partial,
    calculate_min_partial,
    calculate_order,
    order_objects,
)


@pytest.mark.parametrize(
    ("size", "order", "objects"),
    [
        (8, 0, 512), (16, 0, 256), (32, 0, 128), (64, 0, 64), (96, 0, 42), (128, 0, 32),
        (192, 0, 21), (256, 0, 16), (512, 0, 8), (1024, 1, 8), (2048, 2, 8), (4096, 3, 8),
        (8192, 3, 4),
    ],
)  # fmt: skip
def test_calculate_order_for_one_cpu(size: int, order: int, objects: int) -> None:
    assert calculate_order(size) == order
    assert order_objects(order, size) == objects


def test_partial_limits() -> None:
    assert [calculate_min_partial(s) for s in (8, 1024, 4096, 1 << 20)] == [5, 5, 6, 10]
    assert [calculate_cpu_partial(s) for s in (4096, 1024, 256, 64)] == [6, 24, 52, 120]


def test_the_cache_of_caches_is_its_own(kernel: mm.Kernel) -> None:
    first = kernel.slab.caches()[0]
    assert first.name == "kmem_cache" and first.struct.refcount == -1
    assert kernel.slab.cache_of(first.va) is first
    names = [c.name for c in kernel.slab.caches()]
    assert names[1:14] == [
        f"kmalloc-{s}" if s < 1024 else f"kmalloc-{s // 1024}k" for s in KMALLOC_SIZES
    ]
    with pytest.raises(SlabError):
        first.destroy()


def test_free_pointer_is_in_the_middle(kernel: mm.Kernel) -> None:
    cache = kernel.slab.create("middle", 100)
    assert (cache.struct.offset, cache.size) == (48, 104)
    with_ctor = kernel.slab.create("ctor", 100, ctor=lambda va: None)
    assert with_ctor.struct.offset == 104
    lined = kernel.slab.create("lined", 100, flags=SLAB_HWCACHE_ALIGN)
    assert lined.size == 128


def test_constructor_runs_once_an_object_and_survives(kernel: mm.Kernel) -> None:
    seen: list[int] = []

    def ctor(va: int) -> None:
        seen.append(va)
        kernel.ram.write64(kernel.pa(va), 0x1234)

    cache = kernel.slab.create("things", 64, ctor=ctor)
    va = cache.alloc()
    assert va is not None
    assert len(seen) == len(set(seen)) == cache.objects_per_slab
    cache.free(va)
    assert cache.alloc() == va and kernel.ram.read64(kernel.pa(va)) == 0x1234


def need(value: int | None) -> int:
    assert value is not None
    return value


def eight(kernel: mm.Kernel) -> SlubCache:
    """A cache with eight objects a slab."""
    cache = kernel.slab.create("eight", 512, flags=SLAB_NO_MERGE)
    assert isinstance(cache, SlubCache)
    return cache


def test_full_slabs_leave_and_enter_the_partial_list(kernel: mm.Kernel) -> None:
    cache = eight(kernel)
    objects = [need(cache.alloc()) for _ in range(8)]
    assert (cache.nr_slabs, cache.nr_partial) == (1, 0)
    more = need(cache.alloc())  # the first slab is full now, the second the cpu's
    assert (cache.nr_slabs, cache.nr_partial, cache.cpu_partial_slabs()) == (2, 0, [])
    cache.free(objects[3])
    assert cache.cpu_partial_slabs() == [kernel.space.virt_to_pfn(objects[0])]
    assert cache.alloc() == more + 512  # the cpu slab first
    cache.flush()
    assert [kernel.space.pfn_to_virt(p) for p in cache.partial_slabs()] == [more, objects[0]]
    assert cache.alloc() == more + 1024
    mm.check(kernel)


def test_empty_slabs_beyond_min_partial_are_discarded(kernel: mm.Kernel) -> None:
    cache = eight(kernel)
    assert cache.struct.cpu_partial_slabs == 13
    free = kernel.page_alloc.nr_free_pages()
    objects = [need(cache.alloc()) for _ in range(160)]
    assert cache.nr_slabs == 20
    for va in objects:
        cache.free(va)
    # 13 slabs fill the cpu's list, the 14th moves them to the node, which keeps 5 empty ones;
    # the cpu slab is the 20th.
    assert cache.nr_partial == 5 and len(cache.cpu_partial_slabs()) == 6
    assert cache.nr_slabs == 12
    assert cache.shrink() == 12
    assert kernel.page_alloc.nr_free_pages() == free
    mm.check(kernel)


def test_destroy(kernel: mm.Kernel) -> None:
    cache = kernel.slab.create("gone", 64, flags=SLAB_NO_MERGE)
    va = cache.alloc()
    assert va is not None
    with pytest.raises(SlabError, match="1 objects"):
        cache.destroy()
    text = "\n".join(kernel.messages)
    assert "BUG gone (Not tainted): Objects remaining in gone on __kmem_cache_shutdown()" in text
    assert f"Object {va:#018x} @offset={va % 4096}" in text
    assert "kmem_cache_destroy gone: Slab cache still has objects" in text
    cache.free(va)
    cache.destroy()
    assert "gone" not in [c.name for c in kernel.slab.caches()]
    kernel.slab.create("gone", 128)
    mm.check(kernel)


def test_create_refuses(kernel: mm.Kernel) -> None:
    for args in (("", 64), ("x" * 32, 64), ("a", 0), ("a", 5 << 20), ("kmalloc-8", 8)):
        with pytest.raises(ValueError):
            kernel.slab.create(*args)
    with pytest.raises(ValueError):
        kernel.slab.create("a", 64, align=3)
    with pytest.raises(ValueError):
        kernel.slab.create("a", 64, flags=1)
    with pytest.raises(GfpError):
        kernel.slab.caches()[0].alloc(GFP_HIGHUSER)


def test_bad_frees_change_nothing(kernel: mm.Kernel) -> None:
    k = kernel
    a, b = k.kmalloc(64), k.kmalloc(64)
    big = k.kmalloc(20000)
    raw = k.alloc_page()
    assert a and b and big and raw
    gone = k.kmalloc(20000)
    assert gone
    k.kfree(gone)
    k.kfree(b)
    image = k.ram.read(k.ram.base, k.ram.size)
    for va in (b, a + 8, a + 1, big + 4096, gone, 0x1000, k.space.pfn_to_virt(raw), 24,
               k.va(k.ram.base), k.space.vmemmap):  # fmt: skip
        with pytest.raises((BadFree, BadPage)) as e:
            k.kfree(va)
        assert isinstance(e.value, BadPage) or f"{va:#018x}" in str(e.value)
    with pytest.raises(BadFree, match="double free"):
        k.kfree(b)
    with pytest.raises(BadFree, match="not an object of cache kmalloc-96"):
        k.kmalloc_caches.cache_for(96).free(a)
    assert k.ram.read(k.ram.base, k.ram.size) == image


def test_kmalloc_sizes_and_alignment(kernel: mm.Kernel) -> None:
    k = kernel
    for size in (1, 8, 9, 64, 65, 96, 97, 128, 129, 192, 193, 4096, 8192, 8193, 100_000, 4 << 20):
        va = k.kmalloc(size)
        if size == 4 << 20 and va is None:
            continue
        assert va is not None
        usable = k.ksize(va)
        assert usable >= size
        if size <= 8192:
            assert usable == min(s for s in KMALLOC_SIZES if s >= size)
            cache = k.slab.cache_of(va)
            assert isinstance(cache, SlubCache) and cache.object_size == usable
        if usable & (usable - 1) == 0:
            assert va % min(usable, 4096) == 0 and k.pa(va) % min(usable, 4 << 20) == 0
        k.kfree(va)
    assert k.kmalloc(0) == ZERO_SIZE_PTR and k.ksize(ZERO_SIZE_PTR) == 0
    k.kfree(ZERO_SIZE_PTR)
    k.kfree(0)
    assert k.kmalloc((4 << 20) + 1) is None
    with pytest.raises(ValueError):
        k.kmalloc(-1)
    with pytest.raises(GfpError):
        k.kmalloc(20000, GFP_HIGHUSER)
    mm.check(k)


def test_kzalloc_zeroes(kernel: mm.Kernel) -> None:
    for size in (96, 20000):
        va = kernel.kmalloc(size)
        assert va is not None
        kernel.ram.fill(kernel.pa(va), size, 0x55)
        kernel.kfree(va)
        assert kernel.kzalloc(size) == va
        assert not any(kernel.ram.read(kernel.pa(va), size))


def test_corrupt_freelist_is_an_error_not_a_hang(kernel: mm.Kernel) -> None:
    va = need(kernel.kmalloc(64))
    cache = kernel.kmalloc_caches.cache_for(64)
    kernel.kfree(va)
    pa = kernel.pa(va)
    kernel.ram.write64(pa + 32, va)  # points to itself
    for walk in (cache.shrink, cache.live_objects, cache.active_objects):
        with pytest.raises(SlabError, match="cycle"):
            walk()
    for wild in (0xDEAD, va + 4, va + (1 << 20), kernel.space.vmemmap, (1 << 64) - 8):
        kernel.ram.write64(pa + 32, wild)
        assert kernel.kmalloc(64) == va
        for action in (lambda: kernel.kmalloc(64), cache.alloc, cache.shrink):
            with pytest.raises(SlabError, match="no object"):
                action()
        cache.struct.cpu.freelist = va
    cache.struct.cpu.slab = 0x1234
    with pytest.raises(SlabError, match="no struct slab"):
        kernel.kmalloc(64)


Booter = Callable[..., mm.Kernel]


def test_out_of_memory_is_none(boot: Booter) -> None:
    k = boot(8)
    held = []
    while (va := k.kmalloc(4096)) is not None:
        held.append(va)
    while (pfn := k.alloc_page()) is not None:
        held.append(k.space.pfn_to_virt(pfn))
    assert k.kmalloc(4096) is None and k.kmalloc(20000) is None
    mm.check(k)
