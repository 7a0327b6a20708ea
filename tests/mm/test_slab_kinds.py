"""What is SLAB's and SLOB's own; merging, bulk, destroying; attach; kmalloc's corners."""

from __future__ import annotations

import pytest

import mm
from emu.ram import Ram
from mm.errors import BadFree, CheckError, GfpError, SlabError
from mm.gfp import GFP_DMA, GFP_DMA32, GFP_KERNEL, ZoneType
from mm.kmalloc import ZERO_SIZE_PTR
from mm.slab import SLAB_ACCOUNT, SLAB_HWCACHE_ALIGN, SLAB_NO_MERGE
from mm.slab.slab import SlabCache
from mm.slab.slab_caches import Slab, array_cache_limit
from mm.slab.slab_debug import RED_ACTIVE, RED_INACTIVE
from mm.slab.slob import PAGE_UNITS, Slob
from mm.slab.slub import SlubCache
from mm.slab.structs import FREELIST_IN_OBJECT, FREELIST_OFF_SLAB, FREELIST_ON_SLAB

KINDS = pytest.mark.parametrize("kind", ["slub", "slab", "slob"])


def need(value: int | None) -> int:
    assert value is not None
    return value


def machine(kind: str = "slub", mib: int = 8, **config: object) -> mm.Kernel:
    return mm.boot(Ram(mib << 20), mm.Config(slab=kind, **config))  # type: ignore[arg-type]


def slab_cache(k: mm.Kernel, size: int, **options: object) -> SlabCache:
    cache = k.slab.create("thing", size, flags=SLAB_NO_MERGE, **options)  # type: ignore[arg-type]
    assert isinstance(cache, SlabCache)
    return cache


# the interface, whoever stands behind it


@KINDS
def test_attach_goes_on_alike(kind: str) -> None:
    k = machine(kind)
    objects = [need(k.kmalloc(s)) for s in range(1, 5000, 61)]
    for va in objects[::3]:
        k.kfree(va)
    copy = Ram(8 << 20)
    copy.write(copy.base, k.ram.read(k.ram.base, k.ram.size))
    other = mm.attach(copy)
    assert type(other.slab) is type(k.slab)
    assert copy.read(copy.base, copy.size) == k.ram.read(k.ram.base, k.ram.size)
    for kernel in (k, other):
        for s in range(1, 9000, 97):
            kernel.kmalloc(s)
        for va in objects[1::3]:
            kernel.kfree(va)
        more = kernel.slab.create("more", 72)
        assert all([more.alloc() for _ in range(9)])
    assert copy.read(copy.base, copy.size) == k.ram.read(k.ram.base, k.ram.size)
    assert [c.info() for c in other.slab.caches()] == [c.info() for c in k.slab.caches()]


def test_unknown_allocator_is_refused() -> None:
    with pytest.raises(ValueError, match="one of slub, slab, slob"):
        machine("sloob")


@KINDS
def test_constructor_and_destructor(kind: str) -> None:
    k = machine(kind)
    made: list[int] = []
    ended: list[int] = []
    cache = k.slab.create("cd", 500, ctor=made.append, dtor=ended.append)
    va = need(cache.alloc())
    assert va in made
    cache.free(va)
    cache.shrink()
    assert sorted(ended) == sorted(made)
    cache.destroy()


@KINDS
def test_destroy_is_refused_and_names_objects(kind: str) -> None:
    k = machine(kind)
    cache = k.slab.create("held", 200, flags=SLAB_NO_MERGE)
    objects = [need(cache.alloc()) for _ in range(3)]
    cache.free(objects[1])
    with pytest.raises(SlabError, match="Objects remaining in held on __kmem_cache_shutdown"):
        cache.destroy()
    text = "\n".join(k.messages)
    assert "BUG held (Not tainted): Objects remaining in held on __kmem_cache_shutdown()" in text
    for va in objects:
        named = f"Object {va:#018x} @offset={va & 0xFFF}" in text
        assert named == (kind != "slob" and va != objects[1])
    assert "kmem_cache_destroy held: Slab cache still has objects" in text
    mm.check(k)
    cache.free(objects[2])
    cache.free(objects[0])
    cache.destroy()
    mm.check(k)


@pytest.mark.parametrize("kind", ["slub", "slab"])
def test_merging(kind: str) -> None:
    k = machine(kind)
    first = k.slab.create("first", 1000, flags=SLAB_ACCOUNT)
    count = len(k.slab.caches())
    assert k.slab.create("second", 996, flags=SLAB_ACCOUNT) is first
    assert first.struct.refcount == 2 and first.aliases == 1 and first.name == "first"
    assert len(k.slab.caches()) == count
    assert k.slab.create("third", 990, flags=SLAB_ACCOUNT) is not first  # 8 bytes less
    assert k.slab.create("fourth", 1000, ctor=lambda va: None) is not first
    assert k.slab.create("fifth", 1000) is not first  # other flags
    assert k.slab.create("sixth", 1000, flags=SLAB_ACCOUNT | SLAB_NO_MERGE) is not first
    assert k.slab.create("seventh", 1000, align=64, flags=SLAB_ACCOUNT) is not first
    va = need(first.alloc())
    first.destroy()
    assert first in k.slab.caches() and first.struct.refcount == 1
    first.free(va)
    first.destroy()
    assert "first" not in [c.name for c in k.slab.caches()]
    plain = machine(kind, slab_nomerge=True)
    assert plain.slab.create("a", 64) is not plain.kmalloc_caches.cache_for(64)
    assert k.slab.create("a", 64) is k.kmalloc_caches.cache_for(64)


@KINDS
def test_kmalloc_family(kind: str) -> None:
    k = machine(kind)
    assert k.kcalloc(1 << 40, 1 << 40) is None and k.kmalloc_array(1 << 62, 8) is None
    with pytest.raises(ValueError):
        k.kmalloc_array(-1, 8)
    dirty = need(k.kmalloc(320))
    k.ram.fill(k.pa(dirty), 320, 0xFF)
    k.kfree(dirty)
    va = need(k.kcalloc(10, 32))
    assert k.ram.read(k.pa(va), 320) == bytes(320)
    k.ram.write(k.pa(va), b"abc")
    bigger = need(k.krealloc(va, 6000))
    assert k.ram.read(k.pa(bigger), 3) == b"abc"
    assert k.krealloc(bigger, 10) == bigger
    assert k.krealloc(bigger, 0) == ZERO_SIZE_PTR
    assert k.kmalloc(0) == ZERO_SIZE_PTR
    assert need(k.krealloc(0, 8)) and need(k.krealloc(ZERO_SIZE_PTR, 8))
    for bad in (GFP_DMA32, 2):
        with pytest.raises(GfpError):
            k.kmalloc(64, GFP_KERNEL | bad)
    big = need(k.kmalloc(1 << 20))
    assert k.ksize(big) == 1 << 20 and big % (1 << 20) == k.va(k.ram.base) % (1 << 20)
    k.kfree(big)
    assert k.kmalloc((4 << 20) + 1) is None
    mm.check(k)


@pytest.mark.parametrize("kind", ["slub", "slab"])
def test_dma_caches(kind: str) -> None:
    zones = ((ZoneType.DMA, 0x80000000 + (4 << 20)), (ZoneType.NORMAL, None))
    k = machine(kind, 16, zones=zones)
    va = need(k.kmalloc(100, GFP_KERNEL | GFP_DMA))
    cache = k.slab.cache_of(va)
    assert cache is not None and cache.name == "dma-kmalloc-128"
    assert k.pa(va) < 0x80000000 + (4 << 20)
    assert k.pa(need(k.kmalloc(100))) >= 0x80000000 + (4 << 20)
    assert k.vmcoreinfo.slab_root.kmalloc_dma_caches[5] == cache.va
    again = mm.attach(k.ram)
    found = again.slab.cache_of(need(again.kmalloc(8, GFP_KERNEL | GFP_DMA)))
    assert found is not None and found.name == "dma-kmalloc-8"
    k = machine(kind)  # without a DMA zone
    found = k.slab.cache_of(need(k.kmalloc(100, GFP_KERNEL | GFP_DMA)))
    assert found is not None and found.name == "kmalloc-128"
    mm.check(k)


# SLAB


def test_limits() -> None:
    sizes = (8, 256, 257, 1024, 1025, 4096, 4097, 131072, 131073)
    assert [array_cache_limit(s) for s in sizes] == [120, 120, 54, 54, 24, 24, 8, 8, 1]


@pytest.mark.parametrize(
    ("size", "num", "order", "colours", "kind"),
    [
        (8, 240, 0, 0, FREELIST_ON_SLAB),
        (32, 124, 0, 0, FREELIST_ON_SLAB),
        (64, 64, 0, 0, FREELIST_IN_OBJECT),
        (96, 42, 0, 1, FREELIST_IN_OBJECT),
        (192, 21, 0, 1, FREELIST_IN_OBJECT),
        (704, 5, 0, 9, FREELIST_IN_OBJECT),
        (1024, 4, 0, 0, FREELIST_IN_OBJECT),
        (4096, 1, 0, 0, FREELIST_IN_OBJECT),
        (8192, 1, 1, 0, FREELIST_IN_OBJECT),
    ],
)
def test_slab_geometry(size: int, num: int, order: int, colours: int, kind: int) -> None:
    s = slab_cache(machine("slab"), size).struct
    assert (s.num, s.min, s.colour, s.freelist_kind) == (num, order, colours, kind)


def test_freelist_kinds_with_a_constructor() -> None:
    k = machine("slab")
    assert slab_cache(k, 1024, ctor=lambda va: None).struct.freelist_kind == FREELIST_OFF_SLAB
    other = k.slab.create("b", 200, ctor=lambda va: None)
    assert other.struct.freelist_kind == FREELIST_ON_SLAB  # 96 bytes left: they fit behind
    big = k.slab.create("c", 256, ctor=lambda va: None)
    assert big.struct.freelist_kind == FREELIST_OFF_SLAB
    before = k.kmalloc_caches.cache_for(16).active_objects()
    va = need(big.alloc())
    assert k.kmalloc_caches.cache_for(16).active_objects() == before + 1
    big.free(va)
    big.shrink()
    assert k.kmalloc_caches.cache_for(16).active_objects() == before
    mm.check(k)


def test_colours_cycle() -> None:
    k = machine("slab")
    cache = slab_cache(k, 704)
    starts = []
    for _ in range(20):
        objects = [need(cache.alloc()) for _ in range(5)]
        starts.append(min(objects) & 0xFFF)
    order = [*range(1, 9), 0]
    assert starts == [64 * order[n % 9] for n in range(20)]
    mm.check(k)


def test_array_cache_refills_and_flushes() -> None:
    k = machine("slab")
    cache = slab_cache(k, 64)
    first = need(cache.alloc())
    # A cache that was idle is refilled with 16 objects; the last of them goes first.
    assert cache.array_cache.avail == 15 and first & 0xFFF == 15 * 64
    objects = [first] + [need(cache.alloc()) for _ in range(15)]
    need(cache.alloc())
    assert cache.array_cache.avail == 47  # 60, as far as the slab went: 64 - 16 = 48
    more = [need(cache.alloc()) for _ in range(400)]
    for va in more:
        cache.free(va)
    assert cache.array_cache.avail <= 120
    assert cache.struct.node.free_objects <= cache.struct.node.free_limit == 120 + 64
    for va in objects:
        cache.free(va)
    mm.check(k)
    cache.shrink()
    assert cache.nr_slabs == 1 and cache.active_objects() == 1


def test_slab_red_words_and_poison() -> None:
    k = machine("slab", slub_debug="FZPU")
    cache = slab_cache(k, 64)
    assert cache.size == 64 + 16 + 8
    va = need(cache.alloc())
    pa = k.pa(va)
    assert (k.ram.read64(pa - 8), k.ram.read64(pa + 64)) == (RED_ACTIVE, RED_ACTIVE)
    k.ram.write64(pa + 64, 0x41)
    cache.free(va)
    name = "slab error in verify_redzone_free(): cache `thing': "
    assert k.messages[0] == name + "memory outside object was overwritten"
    assert k.messages[1] == f"{va - 8:016x}: redzone 1:{RED_ACTIVE:#x}, redzone 2:0x41"
    k.messages.clear()
    with pytest.raises(BadFree, match="double free"):
        cache.free(va)
    assert (k.ram.read64(pa - 8), k.ram.read64(pa + 64)) == (RED_INACTIVE, RED_INACTIVE)
    other = need(cache.alloc())
    assert other == va
    cache.free(va)
    k.messages.clear()
    k.ram.write8(pa + 5, 1)
    k.ram.write64(pa - 8, 3)
    assert cache.validate() == 2
    assert k.messages[0].startswith("Slab corruption (Tainted: G    B")
    assert f": thing start={va:016x}, len=64" in k.messages[0]
    assert "000: 6b 6b 6b 6b 6b 01 6b" in "\n".join(k.messages)
    assert need(cache.alloc()) == va
    with pytest.raises(BadFree, match="double free"):
        cache.free(va)
        cache.free(va)
    assert "double free detected" in k.messages[-2]
    mm.check(k)


@pytest.mark.parametrize(
    ("what", "rule"),
    [
        ("avail", "at most limit"), ("entry", "array_cache"), ("active", "free_objects"),
        ("freelist", "freelist"), ("colour", "not the start of an object"),
        ("free_objects", "free_objects"), ("twice", "once"),
    ],
)  # fmt: skip
def test_check_names_slabs_structures(what: str, rule: str) -> None:
    k = machine("slab")
    cache = slab_cache(k, 96)
    va = need(cache.alloc())
    page = k.page(need(k.slab.slab_pfn(va)))
    ac = cache.array_cache
    if what == "avail":
        ac.avail = 200
    elif what == "entry":
        k.ram.write64(ac.pa + ac.SIZE, va + 8)
    elif what == "active":
        page.private += 1 << 32
    elif what == "freelist":
        k.ram.write8(cache.freelist_pa(k.space.page_index(k.slab.slab_pfn(va) or 0)) + 20, 99)
    elif what == "colour":
        page.private += 32
    elif what == "twice":
        k.ram.write64(ac.pa + ac.SIZE + 8, k.ram.read64(ac.pa + ac.SIZE))
    else:
        cache.struct.node.free_objects += 1
    for kernel in (k, mm.attach(k.ram)):
        with pytest.raises(CheckError) as e:
            mm.check(kernel)
        assert rule in str(e.value)


def test_slab_double_free_and_corrupt_stack() -> None:
    k = machine("slab")
    cache = slab_cache(k, 96)
    va = need(cache.alloc())
    cache.free(va)
    with pytest.raises(BadFree, match="double free"):
        cache.free(va)
    ac = cache.array_cache
    k.ram.write64(ac.pa + ac.SIZE + 8 * (ac.avail - 1), 0x123)
    for action in (cache.alloc, cache.shrink):
        with pytest.raises(SlabError):
            action()
    assert isinstance(k.slab, Slab)


# SLOB


def slob_of(k: mm.Kernel) -> Slob:
    assert isinstance(k.slab, Slob)
    return k.slab


def test_slob_blocks_as_linux_encodes_them() -> None:
    k = machine("slob")
    slob = slob_of(k)
    va = need(slob.alloc(200, GFP_KERNEL, 0, 0))
    page = need(slob.slab_pfn(va))
    base = page << 12
    assert va & 0xFFF == 0 and slob.free_blocks(page) == [(100, PAGE_UNITS - 100)]
    assert (k.ram.read16(base + 200), k.ram.read16(base + 202)) == (1948, 2048)
    big = need(slob.alloc(1024, GFP_KERNEL, 0, 0))  # another list
    assert big >> 12 != va >> 12
    other = need(slob.alloc(202, GFP_KERNEL, 0, 0))
    third = need(slob.alloc(199, GFP_KERNEL, 0, 0))  # 100 units as well
    i = slob.slab_index(va)
    slob.free_block(i, other, 202)
    assert slob.free_blocks(page) == [(100, 101), (301, 1747)]
    fill = need(slob.alloc(200, GFP_KERNEL, 0, 0))
    assert fill == other  # first fit, and one unit is left
    assert slob.free_blocks(page) == [(200, 1), (301, 1747)]
    assert k.ram.read16(base + 400) == 0x10000 - 301
    slob.free_block(i, third, 199)
    assert slob.free_blocks(page) == [(200, 1848)]
    slob.free_block(i, fill, 200)
    assert slob.free_blocks(page) == [(100, 1948)]
    free = k.page_alloc.nr_free_pages() + sum(z.per_cpu_pageset.count for z in k.zones)
    slob.free_block(i, va, 200)
    assert slob.slab_pfn(va) is None
    assert k.page_alloc.nr_free_pages() + sum(z.per_cpu_pageset.count for z in k.zones) == free + 1
    mm.check(k)


def test_slob_next_fit_rotates_the_list() -> None:
    k = machine("slob")
    slob = slob_of(k)
    head = slob.list_for(2000)
    a, b, c = (need(slob.alloc(3000, GFP_KERNEL, 0, 0)) for _ in range(3))
    pages = list(slob.list_pages(head))
    assert pages == [slob.slab_index(v) for v in (c, b, a)]
    slob.free_block(slob.slab_index(b), b + 2000, 1000)
    assert need(slob.alloc(2000, GFP_KERNEL, 0, 0)) == b + 2000
    assert list(slob.list_pages(head)) == [slob.slab_index(v) for v in (b, a, c)]
    mm.check(k)


def test_slob_kmalloc_header_and_alignment() -> None:
    k = machine("slob")
    for size in (8, 16, 24, 64, 100, 256, 1024, 2048, 4087):
        va = need(k.kmalloc(size))
        assert k.ram.read64(k.pa(va) - 8) == size and k.ksize(va) == (size + 1) // 2 * 2
        assert va % (size if size & (size - 1) == 0 else 8) == 0
    page = need(k.kmalloc(4088))
    assert page & 0xFFF == 0 and k.slab.slab_pfn(page) is None and k.ksize(page) == 4096
    k.kfree(page)
    with pytest.raises(BadFree):
        k.kfree(page)
    va = need(k.kmalloc(64))
    k.kfree(va)
    with pytest.raises(BadFree):
        k.kfree(va)
    assert list(k.vmcoreinfo.kmalloc_caches[i] for i in range(13)) == [0] * 13
    mm.check(k)


@pytest.mark.parametrize("what", ["units", "touch", "order", "list", "flag"])
def test_check_names_slobs_structures(what: str) -> None:
    k = machine("slob")
    slob = slob_of(k)
    blocks = [need(slob.alloc(300, GFP_KERNEL, 0, 0)) for _ in range(5)]
    i = slob.slab_index(blocks[0])
    for va in blocks[1::2]:
        slob.free_block(i, va, 300)
    base = k.pa(blocks[0] & ~0xFFF)
    mm.check(k)
    page = k.page(base >> 12)
    at = slob.free_blocks(base >> 12)[0][0]
    if what == "units":
        page.private += 1
    elif what == "touch":
        k.ram.write16(base + 2 * at, 300)  # reaches to the next free block
        page.private += 150
    elif what == "order":
        k.ram.write16(base + 2 * at + 2, 1)
    elif what == "list":
        slob.lists.delete(slob._link(i))
    else:
        page.flags &= ~(1 << 14)
    with pytest.raises(CheckError) as e:
        mm.check(k)
    assert e.value.structure == "slob"


def test_slub_falls_back_to_the_least_order() -> None:
    k = machine(pcp=False, min_free_kbytes=0)
    cache = k.slab.create("big", 4000, flags=SLAB_NO_MERGE | SLAB_HWCACHE_ALIGN)
    assert isinstance(cache, SlubCache) and cache.order == 3
    held = []
    while (pfn := k.alloc_page()) is not None:
        held.append(pfn)
    for pfn in held[::2]:
        k.free_page(pfn)
    va = need(cache.alloc())
    assert cache.struct.node.total_objects == 1
    mm.check(k)
    cache.free(va)
    assert cache.shrink() == 1
    mm.check(k)
