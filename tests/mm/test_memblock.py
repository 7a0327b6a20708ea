"""memblock: regions as Linux keeps them, and top-down allocation."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.ram import Ram
from mm.errors import MemblockError
from mm.memblock import INIT_MEMBLOCK_REGIONS, MEMBLOCK_NOMAP, Memblock, Region

BASE = 0x8000_0000


def make(size: int = 1 << 20) -> Memblock:
    ram = Ram(size)
    return Memblock.create(ram, ram.base, 0xFFFF_FFD6_0000_0000)


def test_neighbours_merge_and_overlaps_fill_gaps() -> None:
    m = make()
    m.memblock_add(0x1000, 0x1000)
    m.memblock_add(0x3000, 0x1000)
    m.memblock_add(0x2000, 0x1000)
    assert m.memory == [Region(0x1000, 0x4000)]
    m.memblock_mark_nomap(0x1000, 0x1000)
    m.memblock_add(0x0, 0x8000)
    assert m.memory == [
        Region(0, 0x1000), Region(0x1000, 0x2000, MEMBLOCK_NOMAP), Region(0x2000, 0x8000)
    ]  # fmt: skip
    assert m.head.memory.total_size == 0x8000


def test_alloc_is_top_down_and_free_gives_back() -> None:
    m = make()
    m.memblock_add(0x10000, 0x10000)
    assert m.memblock_alloc(0x1000) == 0x1F000
    assert m.memblock_alloc(0x1000, 0x4000) == 0x1C000
    assert m.memblock_alloc(0x1000, limit=0x18000) == 0x17000
    m.memblock_free(0x1F000, 0x1000)
    assert m.memblock_alloc(0x1000) == 0x1F000
    with pytest.raises(MemblockError):
        m.memblock_alloc(1 << 30)
    with pytest.raises(ValueError):
        m.memblock_alloc(0)
    with pytest.raises(ValueError):
        m.memblock_alloc(8, 3)


def test_nomap_is_never_allocated() -> None:
    m = make()
    m.memblock_add(0, 0x4000)
    m.memblock_mark_nomap(0x2000, 0x2000)
    assert m.memblock_alloc(0x1000) == 0x1000


def test_table_full() -> None:
    m = make()
    for i in range(INIT_MEMBLOCK_REGIONS):
        m.memblock_reserve(i * 0x2000, 0x1000)
    with pytest.raises(MemblockError, match="128"):
        m.memblock_reserve(0x1000000, 0x1000)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(1, 20)), max_size=25))
def test_reserve_and_free_against_a_set_of_pages(steps: list[tuple[bool, int, int]]) -> None:
    m = make()
    m.memblock_add(0, 80 << 12)
    taken: set[int] = set()
    for reserve, page, count in steps:
        pages = set(range(page, page + count))
        if reserve:
            m.memblock_reserve(page << 12, count << 12)
            taken |= pages
        else:
            m.memblock_free(page << 12, count << 12)
            taken -= pages
        found = {p for r in m.reserved for p in range(r.base >> 12, r.end >> 12)}
        assert found == taken
        free = {p for r in m.free_ranges() for p in range(r.base >> 12, r.end >> 12)}
        assert free == set(range(80)) - taken
        assert all(a.end < b.base for a, b in zip(m.reserved, m.reserved[1:], strict=False))
