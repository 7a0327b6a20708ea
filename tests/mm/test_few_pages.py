"""Mapping and unmapping a few pages goes a short way: it must come to the same as the long one."""

from __future__ import annotations

import random

import pytest

import mm
from emu.ram import Ram
from mm import pgtable_change, pgtable_map
from mm.errors import MappingExists, OutOfMemory, PageTableError
from mm.gfp import GFP_KERNEL
from mm.hart import Recorder
from mm.pgtable import PAGE_EXEC, PAGE_READ, PAGE_WRITE, MmStruct

_MIB2 = 2 << 20
# At the start, within and at the end of a table; in a table of its own; next to a superpage.
PLACES = (0x10000, 0x1FE000, 0x1FF000, 0x40000000, _MIB2 * 3, _MIB2 * 4 - 0x1000)


def life(seed: int) -> tuple[bytes, list[object]]:
    """RAM, and all that was returned, raised and flushed, after some mappings came and went."""
    rng = random.Random(seed)
    hart = Recorder()
    k = mm.boot(Ram(16 << 20), mm.Config(min_free_kbytes=0), hart)
    frames = k.alloc_pages_bulk(GFP_KERNEL, 64)
    (block,) = k.page_alloc.alloc_page_runs(GFP_KERNEL, 512) or [(0, 0)]
    spaces: list[MmStruct] = [k.mm_alloc(), k.mm_alloc()]
    k.pgtable.map_range(spaces[0], _MIB2 * 2, block[0] << 12, _MIB2, PAGE_READ)
    seen: list[object] = []
    for _ in range(300):
        space, va = rng.choice(spaces), rng.choice(PLACES) + (rng.randrange(4) << 12)
        pages = rng.choice((1, 1, 2, 3, 8, 9))
        prot = rng.choice((PAGE_READ, PAGE_WRITE, PAGE_EXEC))
        first = rng.randrange(40)
        try:
            which = rng.randrange(4)
            if which == 0:
                k.pgtable.map_range(space, va, frames[first] << 12, pages << 12, prot)
            elif which == 1:
                k.pgtable.map_pages(space, va, rng.sample(frames, pages), prot)
            else:
                seen.append(k.pgtable.unmap_range(space, va, pages << 12))
        except (MappingExists, OutOfMemory) as e:
            seen.append(str(e))
        seen += hart.take()
    seen.append([list(k.pgtable.leaves(k.pgtable.root(space), True)) for space in spaces])
    for space in spaces:  # what was mapped is no VMA's, which is all that mm.check would say
        k.pgtable.unmap_range(space, 0, 1 << 38)
    mm.check(k)
    return k.ram.read(k.ram.base, k.ram.size), seen


@pytest.mark.parametrize("seed", range(6))
def test_a_few_pages_come_to_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ram, seen = life(seed)
    monkeypatch.setattr(pgtable_map, "FEW_PAGES", 0)
    monkeypatch.setattr(pgtable_change, "FEW_PAGES", 0)
    long_ram, long_seen = life(seed)
    assert seen == long_seen
    assert ram == long_ram


def test_a_page_in_the_way_is_named_and_nothing_changed() -> None:
    k = mm.boot(Ram(16 << 20))
    space, (a, b, c) = k.mm_alloc(), k.alloc_pages_bulk(GFP_KERNEL, 3)
    k.pgtable.map_pages(space, 0x12000, [c], PAGE_READ)
    with pytest.raises(MappingExists) as e:
        k.pgtable.map_pages(space, 0x10000, [a, b, c], PAGE_READ)
    assert e.value.va == 0x12000
    assert [va for va, _, _ in k.pgtable.leaves(k.pgtable.root(space), True)] == [0x12000]


def test_a_clobbered_pte_is_not_unmapped() -> None:
    k = mm.boot(Ram(16 << 20))
    space, (a,) = k.mm_alloc(), k.alloc_pages_bulk(GFP_KERNEL, 1)
    k.pgtable.map_pages(space, 0x10000, [a], PAGE_READ)
    found = k.pgtable.lookup(space, 0x10000)
    assert found is not None
    for bad in (found[2] | 1 << 60, found[2] & ~1):
        k.ram.write64(found[1], bad)
        with pytest.raises(PageTableError):
            k.pgtable.unmap_range(space, 0x10000, 4096)
        assert k.ram.read64(found[1]) == bad
