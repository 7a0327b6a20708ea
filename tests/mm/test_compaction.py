"""Compaction: user pages move out of the way, and nobody notices but the page tables."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import mm
from emu.ram import Ram
from mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_NOWARN
from mm.hart import Recorder
from mm.page import PG_LOCKED
from mm.pgtable import MmStruct
from mm.vma import VM_EXEC, VM_READ, VM_WRITE

Booter = Callable[..., mm.Kernel]
START = 0x10_0000
PAGE = 4096


def pfn_of(k: mm.Kernel, space: MmStruct, va: int) -> int:
    found = k.pgtable.lookup(space, va)
    assert found is not None
    return found[2] >> 10 & (1 << 44) - 1


def fragmented(k: mm.Kernel, flags: int = VM_READ | VM_WRITE) -> tuple[MmStruct, list[int]]:
    """Nearly all of memory in one address space, then every other page unmapped."""
    space = k.mm_alloc()
    pages = (k.page_alloc.nr_free_pages() - 200) & ~1
    k.mmap_region(space, START, pages * PAGE, flags)
    vas = sorted(range(START, START + pages * PAGE, PAGE), key=lambda va: pfn_of(k, space, va))
    for i, va in enumerate(vas):
        pa = pfn_of(k, space, va) << 12
        k.ram.write(pa, (va + i).to_bytes(8, "little") * 512)
    keep = []
    for va in vas:
        if pfn_of(k, space, va) & 1:
            k.munmap(space, va, PAGE)
        else:
            keep.append(va)
    return space, keep


@pytest.mark.parametrize("pcp", [False, True])
def test_order_9_after_fragmentation(boot: Booter, pcp: bool) -> None:
    k = boot(24, pcp=pcp)
    space, keep = fragmented(k)
    before = {va: k.copy_from_user(space, va, PAGE) for va in keep}
    where = {va: pfn_of(k, space, va) for va in keep}
    assert not any(k.zones[0].free_area[o].nr_free for o in range(9, 11))
    assert k.alloc_pages(GFP_KERNEL & ~0x400 | GFP_NOWARN, 9) is None  # who may not wait
    hart = k.hart
    assert isinstance(hart, Recorder)
    hart.take()
    pfn = k.alloc_pages(GFP_KERNEL, 9)
    assert pfn is not None and pfn % 512 == 0
    mm.check(k)
    assert {va: k.copy_from_user(space, va, PAGE) for va in keep} == before
    moved = [va for va in keep if pfn_of(k, space, va) != where[va]]
    assert moved and all(not pfn <= pfn_of(k, space, va) < pfn + 512 for va in keep)
    assert {c for c in hart.take() if c[0] == "page"} == {("page", va, space.asid) for va in moved}
    # And it can be written through all over.
    k.ram.fill(pfn << 12, PAGE << 9, 0xEE)
    assert {va: k.copy_from_user(space, va, PAGE) for va in keep} == before
    k.free_pages(pfn, 9)
    k.mmdrop(space)
    mm.check(mm.attach(k.ram))


def test_moved_code_is_told(boot: Booter) -> None:
    k = boot(24)
    space, keep = fragmented(k, VM_READ | VM_EXEC)
    hart = k.hart
    assert isinstance(hart, Recorder)
    where = {va: pfn_of(k, space, va) for va in keep}
    hart.take()
    assert k.alloc_pages(GFP_KERNEL, 9) is not None
    calls = hart.take()
    moved = {va for va in keep if pfn_of(k, space, va) != where[va]}
    new = {("icache", pfn_of(k, space, va), 1) for va in moved}
    old = {("icache", where[va], 1) for va in moved}
    assert moved and {c for c in calls if c[0] == "icache"} == new | old


def test_what_is_pinned_stays(boot: Booter) -> None:
    """A second reference, a flag, a mapping of another kind: the page may not move."""
    k = boot(24)
    space, keep = fragmented(k)
    pinned = keep[::64]
    for i, va in enumerate(pinned):
        pfn = pfn_of(k, space, va)
        if i % 2:
            k.page_alloc.get_page(pfn)
        else:
            k.page(pfn).flags |= PG_LOCKED
    where = {va: pfn_of(k, space, va) for va in pinned}
    assert k.alloc_pages(GFP_KERNEL | GFP_NOWARN, 9) is None  # one in each 128 frames stays
    assert {va: pfn_of(k, space, va) for va in pinned} == where
    assert k.alloc_pages(GFP_KERNEL, 5) is not None
    mm.check(k)


def test_a_shared_page_moves_for_all(boot: Booter) -> None:
    k = boot(24)
    space, keep = fragmented(k)
    other = k.mm_alloc()
    shared = keep[:40]
    vma = k.mmap_region(other, START, len(shared) * PAGE, VM_READ | VM_WRITE)
    k.page_alloc.free_page_runs(k.pgtable.unmap_range(other, START, len(shared) * PAGE))
    frames = [pfn_of(k, space, va) for va in shared]
    for pfn in frames:
        k.page_alloc.get_page(pfn)
    k.pgtable.map_pages(other, START, frames, vma.vm_page_prot)
    before = [k.copy_from_user(other, START + i * PAGE, PAGE) for i in range(len(shared))]
    assert k.alloc_pages(GFP_KERNEL, 9) is not None
    assert [pfn_of(k, space, va) for va in shared] != frames
    for i, va in enumerate(shared):
        assert pfn_of(k, space, va) == pfn_of(k, other, START + i * PAGE)
        assert k.copy_from_user(other, START + i * PAGE, PAGE) == before[i]
    mm.check(k)


def test_kernel_pages_do_not_move(boot: Booter) -> None:
    k = boot(24)
    pages = k.alloc_pages_bulk(GFP_HIGHUSER_MOVABLE, 1 << 20)
    for pfn in pages:
        if pfn & 1:
            k.free_page(pfn)
    image = k.ram.read(k.ram.base, k.ram.size)
    assert k.alloc_pages(GFP_KERNEL | GFP_NOWARN, 9) is None
    assert k.alloc_pages(GFP_KERNEL | GFP_NOWARN, 1) is None
    now = k.ram.read(k.ram.base, k.ram.size)
    mm.check(k)
    assert sum(a != b for a, b in zip(image[::8], now[::8], strict=True)) < 20000


def test_page_owner_and_poison_follow(boot: Booter) -> None:
    k = boot(32, page_owner=True, page_poison=True)
    space, keep = fragmented(k)
    where = {va: pfn_of(k, space, va) for va in keep}
    assert k.alloc_pages(GFP_KERNEL, 9) is not None
    mm.check(k)
    assert not k.messages
    va = next(va for va in keep if pfn_of(k, space, va) != where[va])
    owner = k.page_alloc.page_owner
    assert owner is not None
    lines = list(owner.dump(pfn_of(k, space, va)))
    assert lines[0] == "page_owner tracks the page as allocated"
    assert lines[-1] == "page has been migrated, last migrate reason: compaction"


def test_too_little_memory_is_not_compacted() -> None:
    k = mm.boot(Ram(24 << 20))
    space, _ = fragmented(k)
    k.alloc_pages_bulk(GFP_KERNEL | GFP_NOWARN, 1 << 20)
    where = list(k.pgtable.leaves(k.pgtable.root(space), user_only=True))
    assert k.alloc_pages(GFP_KERNEL | GFP_NOWARN, 9) is None
    assert list(k.pgtable.leaves(k.pgtable.root(space), user_only=True)) == where
