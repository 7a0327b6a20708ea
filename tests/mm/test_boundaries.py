"""Numbers and ends of lists where one off changes nothing that a user sees, only when: each
value by hand from Linux's source."""

from __future__ import annotations

import pytest

import mm
from emu.ram import Ram
from mm.hart import Recorder
from mm.pgtable import PAGE_KERNEL_READ, PAGE_READ, PAGE_WRITE
from mm.slab import SLAB_NO_MERGE, KmemCache
from mm.slab.slab import SlabCache
from mm.slab.slub import SlubCache


@pytest.mark.parametrize("pages", [1, 63, 64, 65, 66])
@pytest.mark.parametrize("of_kernel", [True, False])
def test_tlb_flush_all_threshold(pages: int, of_kernel: bool) -> None:
    """arch/riscv/mm/tlbflush.c: tlb_flush_all_threshold is 64, and a range is flushed page by
    page up to and including that many."""
    hart = Recorder()
    k = mm.boot(Ram(64 << 20), mm.Config(), hart)
    space = k.init_mm if of_kernel else k.mm_alloc()
    va = k.layout.vmalloc_start if of_kernel else 0x10000
    read = PAGE_KERNEL_READ if of_kernel else PAGE_READ
    write = read | PAGE_WRITE if not of_kernel else read | 4
    asid = -1 if of_kernel else space.asid
    # Two pages more, so that unmapping leaves no table empty.
    runs = k.page_alloc.alloc_page_runs(0xCC0, pages + 2)
    assert runs is not None
    k.pgtable.map_runs(space, va, runs, write)
    each = [("page", va + (i << 12), asid) for i in range(pages)]
    every = [("all",) if of_kernel else ("mm", asid)]
    hart.take()
    assert k.pgtable.protect_range(space, va, pages << 12, read) == pages
    assert hart.take() == (each if pages <= 64 else every)
    k.pgtable.unmap_range(space, va, pages << 12)
    assert hart.take() == (each if pages <= 64 else every)


def one_free_in_each(k: mm.Kernel, size: int, slabs: int) -> tuple[KmemCache, list[list[int]]]:
    """A cache with ``slabs`` full slabs, and their objects slab by slab in order of age."""
    cache = k.kmem_cache_create("boundary", size, flags=SLAB_NO_MERGE)
    by_slab: dict[int, list[int]] = {}
    for _ in range(slabs * cache.objects_per_slab):
        va = cache.alloc()
        assert va is not None
        by_slab.setdefault(k.slab.slab_index(va), []).append(va)
    assert [len(objects) for objects in by_slab.values()] == [cache.objects_per_slab] * slabs
    return cache, list(by_slab.values())


@pytest.mark.parametrize(
    # Objects of 256 bytes: 16 a slab, cpu_partial 52, so 2 * 52 / 16 rounded up = 7 slabs;
    # of 1024 bytes: 8 a slab, cpu_partial 24, so 6.
    ("size", "cpu_partial_slabs", "moved"),
    [(256, 7, 4), (1024, 6, 4)],
)
def test_slub_get_partial_node(size: int, cpu_partial_slabs: int, moved: int) -> None:
    """mm/slub.c get_partial_node: the first slab is the CPU's, more move to its partial list
    until ``++partial_slabs > cpu_partial_slabs / 2``: 4 for 7 as for 6."""
    k = mm.boot(Ram(32 << 20))
    cache, slabs = one_free_in_each(k, size, 10)
    assert isinstance(cache, SlubCache)
    assert cache.struct.cpu_partial_slabs == cpu_partial_slabs
    for objects in slabs:
        cache.free(objects[0])
    cache.flush()
    before = list(cache.partial_slabs())
    assert len(before) == 10
    assert cache.alloc() is not None
    assert k.space.page_to_pfn(cache.cpu_slab.slab) == before[0]
    assert cache.cpu_partial_slabs() == before[1 : 1 + moved][::-1]  # each put at the front
    assert list(cache.partial_slabs()) == before[1 + moved :]
    mm.check(k)


def test_slub_without_a_cpu_partial_list_takes_one_slab() -> None:
    k = mm.boot(Ram(32 << 20), mm.Config(slab_freelist_hardened=True))
    cache, slabs = one_free_in_each(k, 256, 10)
    assert isinstance(cache, SlubCache) and cache.struct.cpu_partial_slabs == 0
    for objects in slabs:
        cache.free(objects[0])
    before = list(cache.partial_slabs())
    assert cache._get_partial() == k.space.page_index(before[0])
    assert list(cache.partial_slabs()) == before[1:]


def slab_cache(slabs: int) -> tuple[mm.Kernel, SlabCache, list[list[int]]]:
    """SLAB, objects of 512 bytes, 8 a slab; the CPU's stack is empty, every slab is full."""
    k = mm.boot(Ram(32 << 20), mm.Config(slab="slab"))
    cache, by_slab = one_free_in_each(k, 512, slabs)
    assert isinstance(cache, SlabCache)
    taken = cache.array_entries()
    assert not taken and not list(cache.partial_slabs())
    return k, cache, by_slab


def pfns(k: mm.Kernel, slabs: list[list[int]]) -> list[int]:
    found = [k.slab.slab_pfn(objects[0]) for objects in slabs]
    return [pfn for pfn in found if pfn is not None]


def test_slab_free_block_appends_to_slabs_partial() -> None:
    """mm/slab.c free_block: "Unconditionally move a slab to the end of the partial list on
    free - maximum time for the other objects to be freed, too." """
    k, cache, slabs = slab_cache(4)
    assert list(cache.full_slabs()) == pfns(k, slabs)[::-1]  # list_add: at the head
    for objects in slabs:
        cache.free(objects[0])
    cache.flush()
    assert list(cache.partial_slabs()) == pfns(k, slabs)
    cache.free(slabs[1][1])  # moves from the middle to the end
    cache.flush()
    assert list(cache.partial_slabs()) == pfns(k, [slabs[0], slabs[2], slabs[3], slabs[1]])
    mm.check(k)


def test_slab_refill_puts_a_slab_with_room_first() -> None:
    """mm/slab.c fixup_slab_list: list_add to slabs_partial (or slabs_full), at the head; and
    cache_alloc_refill takes the first partial slab."""
    k, cache, slabs = slab_cache(2)
    cache._batchcount = 3
    for objects in slabs:
        for va in objects[:5]:
            cache.free(va)
    cache.flush()
    first, second = pfns(k, slabs)
    assert list(cache.partial_slabs()) == [first, second]
    assert k.slab.slab_pfn(cache.alloc() or 0) == first
    assert len(cache.array_entries()) == 2
    assert list(cache.partial_slabs()) == [first, second]  # still first, with 2 objects left
    for _ in range(2):
        cache.alloc()
    assert k.slab.slab_pfn(cache.alloc() or 0) == second  # on top: the last that was taken
    assert next(cache.full_slabs()) == first
    assert list(cache.partial_slabs()) == [second]
    mm.check(k)


def test_slab_frees_the_oldest_free_slab_first() -> None:
    """mm/slab.c: an empty slab goes to the head of slabs_free (list_add), drain_freelist takes
    from its tail."""
    k, cache, slabs = slab_cache(3)
    for objects in slabs:
        for va in objects:
            cache.free(va)
    cache.flush()
    newest_first = pfns(k, slabs)[::-1]
    assert list(cache.free_slabs()) == newest_first
    cache._trim(cache.struct.node.free_objects - 1)
    assert list(cache.free_slabs()) == newest_first[:2]
    mm.check(k)
