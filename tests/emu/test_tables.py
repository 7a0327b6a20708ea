"""Whole page-table trees: entries, ranges, and the two texts."""

from __future__ import annotations

import contextlib
import random
from itertools import pairwise

import pytest
from harness import TABLES, A, D, G, R, Tables, U, V, W, X

from emu.ram import Ram
from emu.spec import tables
from emu.spec.paging import SV39, SV48, SV57, pte_attributes

RW = V | R | W | A | D


def sv39() -> Tables:
    made = Tables(Ram(4 << 20), 3)
    for i in range(3):  # contiguous pages
        made.map(0x1_0000 + 4096 * i, 0x8000_0000 + 4096 * i, V | R | X | U | A)
    made.map(0x1_3000, 0x8000_3000, RW | U)  # contiguous, other attributes
    made.map(0x1_4000, 0x8000_5000, RW | U)  # same attributes, not contiguous in PA
    made.map(0x1_6000, 0x8000_6000, RW | U)  # not contiguous in VA
    made.map(0x20_0000, 0x8020_0000, RW, level=1)
    made.map(0x40_0000, 0x8040_0000, RW, level=1)
    made.map(0xFFFF_FFC0_0000_0000, 0x8000_0000, RW | X | G, level=2)
    return made


def test_ranges_merge_as_info_mem_does() -> None:
    it = sv39()
    assert [(r.va, r.pa, r.size, r.attributes) for r in tables.ranges(it.ram, SV39, it.root)] == [
        (0x1_0000, 0x8000_0000, 0x3000, "r-xu-a-"),
        (0x1_3000, 0x8000_3000, 0x1000, "rw-u-ad"),
        (0x1_4000, 0x8000_5000, 0x1000, "rw-u-ad"),
        (0x1_6000, 0x8000_6000, 0x1000, "rw-u-ad"),
        (0x20_0000, 0x8020_0000, 0x40_0000, "rw---ad"),
        (0xFFFF_FFC0_0000_0000, 0x8000_0000, 0x4000_0000, "rwx-gad"),
    ]


def test_a_range_goes_on_across_tables_and_levels() -> None:
    it = Tables(Ram(4 << 20), 4)
    for page in range(0x3F_E000, 0x40_0000, 4096):
        it.map(page, page, RW)
    it.map(0x40_0000, 0x40_0000, RW, level=1)
    it.map(0x60_0000, 0x60_0000, RW)
    assert [(r.va, r.size) for r in tables.ranges(it.ram, SV48, it.root)] == [
        (0x3F_E000, 0x2000 + 0x20_0000 + 0x1000)
    ]


def test_info_mem() -> None:
    it = sv39()
    assert (
        tables.info_mem(tables.ranges(it.ram, SV39, it.root))
        == """\
vaddr            paddr            size             attr
---------------- ---------------- ---------------- -------
0000000000010000 0000000080000000 0000000000003000 r-xu-a-
0000000000013000 0000000080003000 0000000000001000 rw-u-ad
0000000000014000 0000000080005000 0000000000001000 rw-u-ad
0000000000016000 0000000080006000 0000000000001000 rw-u-ad
0000000000200000 0000000080200000 0000000000400000 rw---ad
ffffffc000000000 0000000080000000 0000000040000000 rwx-gad"""
    )
    assert tables.info_mem([]).count("\n") == 1


def test_tree() -> None:
    it = sv39()
    assert (
        tables.tree(it.ram, SV39, it.root)
        == """\
sv39 root table at PA 0x80100000
  [0x0] 0x0000000000000000 table at PA 0x80101000
    [0x0] 0x0000000000000000 table at PA 0x80102000
      [0x10-0x12] 0x0000000000010000 3 x 4 KiB at PA 0x80000000 r-xu-a-
      [0x13] 0x0000000000013000 4 KiB at PA 0x80003000 rw-u-ad
      [0x14] 0x0000000000014000 4 KiB at PA 0x80005000 rw-u-ad
      [0x16] 0x0000000000016000 4 KiB at PA 0x80006000 rw-u-ad
    [0x1-0x2] 0x0000000000200000 2 x 2 MiB at PA 0x80200000 rw---ad
  [0x100] 0xffffffc000000000 1 GiB at PA 0x80000000 rwx-gad"""
    )


def test_tree_of_broken_tables_ends() -> None:
    ram = Ram(4 << 20)
    it = Tables(ram, 5)
    ram.write64(it.root, 0x1000 >> 12 << 10 | V)  # not in RAM
    ram.write64(it.root + 8, it.root >> 12 << 10 | V)  # itself, over and over
    ram.write64(it.root + 8 * 300, 0x8000_0000 >> 12 << 10 | V | R)
    text = tables.tree(ram, SV57, it.root)
    lines = text.splitlines()
    assert lines[1] == "  [0x0] 0x0000000000000000 table at PA 0x1000 (its table is not in RAM)"
    # [1], [1][1], ... to level 0, where neither pointer of the table may be followed.
    assert text.count("points to a table at level 0") == 2
    assert lines[-1] == "  [0x12c] 0xff2c000000000000 256 TiB at PA 0x80000000 r------"
    assert tables.tree(ram, SV39, 0x1000) == "sv39 root table at PA 0x1000"
    assert list(tables.entries(ram, SV39, ram.end)) == []


def test_entries_come_in_order_with_their_addresses() -> None:
    it = sv39()
    found = list(tables.entries(it.ram, SV39, it.root))
    assert [(e.level, e.index, e.va, e.pa) for e in found[:3]] == [
        (2, 0, 0, TABLES + 0x1000), (1, 0, 0, TABLES + 0x2000), (0, 0x10, 0x1_0000, 0x8000_0000)
    ]  # fmt: skip
    assert (found[-1].va, found[-1].level) == (0xFFFF_FFC0_0000_0000, 2)
    assert not any(e.bad for e in found)
    assert len(found) == 2 + 6 + 2 + 1


def test_size_text() -> None:
    sizes = (1, 1023, 1024, 1536, 4096, 2 << 20, 3 << 30, 512 << 30, 256 << 40, 1 << 60)
    assert [tables.size_text(size) for size in sizes] == [
        "1 B", "1023 B", "1 KiB", "1536 B", "4 KiB", "2 MiB", "3 GiB", "512 GiB", "256 TiB",
        "1 EiB",
    ]  # fmt: skip


def test_tables_that_point_to_themselves_end_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ENTRIES_MAX", 1000)
    ram = Ram(1 << 20)
    ram.array(ram.base, 512)[:] = ram.base >> 12 << 10 | 1
    with pytest.raises(tables.TooManyEntries, match="point to themselves"):
        tables.info_mem(tables.ranges(ram, SV57, ram.base))


def scattered(ram: Ram, rng: random.Random) -> Tables:
    """Sv48 tables with runs, gaps, pages of all sizes, and pointers that are broken."""
    made = Tables(ram, 4)
    for _ in range(40):
        level = rng.choice((0, 0, 0, 1, 2))
        span = 4096 << 9 * level
        va = rng.randrange(1 << 47) if rng.random() < 0.2 else rng.randrange(1 << 33)
        va, pa = va & -span, rng.randrange(1 << 50) & -span
        flags = V | rng.choice((R, R | W, R | X, X, R | W | X)) | rng.choice((0, U, G, A | D))
        for i in range(rng.choice((1, 1, 3, 600))):
            at = va + i * span
            if at < 1 << 47:
                with contextlib.suppress(AssertionError):  # something larger is there already
                    rsw = 1 << 8 if rng.random() < 0.1 else 0
                    made.map(at, pa + i * span, flags | rsw, level)
    ram.write64(made.root + 8 * 300, made.root >> 12 << 10 | V)
    ram.write64(made.root + 8 * 301, 0x1000 >> 12 << 10 | V)
    return made


@pytest.mark.parametrize("seed", range(8))
def test_runs_are_the_entries(seed: int) -> None:
    """The fast way through the tree finds what the plain one does, entry by entry."""
    it = scattered(Ram(64 << 20), random.Random(seed))
    expanded = []
    found = list(tables.runs(it.ram, SV48, it.root))
    for run in found:
        span = SV48.span(run.level)
        for i in range(run.count):
            where = run.va + i * span, run.pa + i * span
            expanded.append((run.level, run.index + i, *where, run.attributes, run.bad))
    wanted = [
        (e.level, e.index, e.va, e.pa, pte_attributes(e.pte) if e.pte & (R | X) else "", e.bad)
        for e in tables.entries(it.ram, SV48, it.root)
    ]
    assert expanded == wanted
    for before, after in pairwise(found):  # as long as they can be
        assert not (
            before.attributes == after.attributes != ""
            and (before.level, before.index + before.count) == (after.level, after.index)
            and before.pa + before.count * SV48.span(before.level) == after.pa
        ), f"{before} goes on in {after}"
    assert max(run.count for run in found) > 100


def test_a_table_that_is_wrong_is_refused_before_anything_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    it = sv39()
    for count in (10, 11):  # as test_entries_come_in_order... counts them
        monkeypatch.setattr(tables, "ENTRIES_MAX", count)
        if count == 11:
            assert len(list(tables.runs(it.ram, SV39, it.root))) == 2 + 4 + 1 + 1
        else:
            with pytest.raises(tables.TooManyEntries):
                tables.runs(it.ram, SV39, it.root)
            with pytest.raises(tables.TooManyEntries):
                tables.tree_lines(it.ram, SV39, it.root)
