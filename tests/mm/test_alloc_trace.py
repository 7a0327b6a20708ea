"""Allocation traces, and the comparison of the three allocators on them."""

from __future__ import annotations

import numpy as np
import pytest

import mm
from emu.ram import PAGE_SIZE, Ram
from mm.alloc_trace import GENERATED, Op, TraceError, dump, parse
from mm.errors import OutOfMemory
from mm.slab_compare import KINDS, CountingRam, compare, measure, table

TEXT = """
# a comment
c things 100
a x 64      # and one here
o y things
f x
a x 10
"""


def test_parse_and_dump() -> None:
    ops = parse(TEXT.splitlines())
    assert ops == [
        Op("c", "things", 100), Op("a", "x", 64), Op("o", "y", 0, "things"), Op("f", "x"),
        Op("a", "x", 10),
    ]  # fmt: skip
    assert parse(dump(ops, "again")) == ops


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a x", "line 1.*none of"), ("b x 1", "none of"), ("a x 0", "no number of bytes"),
        ("a x 1e3", "no number"), ("a x 9999999", "no number"), ("\nf x", "line 2.*not allocated"),
        ("a x 1\na x 1", "allocated already"), ("o x things", "no cache things"),
        ("c x 8\nc x 8", "exists already"), ("f x y", "none of"), (f"c {'n' * 32} 8", "31"),
    ],
)  # fmt: skip
def test_bad_traces_are_named(text: str, why: str) -> None:
    with pytest.raises(TraceError, match=why):
        parse(text.splitlines())


@pytest.mark.parametrize("name", GENERATED)
def test_generated_traces_are_sound_and_repeat(name: str) -> None:
    ops = GENERATED[name]()
    assert ops == GENERATED[name]() == parse(dump(ops))
    assert len(ops) > 1000


def short(ops: list[Op], count: int) -> list[Op]:
    return ops[:count]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_measured_adds_up(kind: str) -> None:
    ops = parse([*(f"a k{i} 100" for i in range(200)), *(f"f k{i}" for i in range(200))])
    r = measure(ops, kind, 16 << 20, 1)
    slot = 128 if kind != "slob" else 100 + 8
    assert r.asked_bytes == 20000 and r.slot_bytes == 200 * slot
    assert r.held_bytes >= r.slot_bytes and r.peak_pages * PAGE_SIZE >= r.held_bytes
    assert r.internal == pytest.approx(1 - 100 / slot)
    assert 0 <= r.external < 1
    # slob's pages all come back; slub and slab keep some until they are shrunk.
    assert r.shrunk_pages <= r.end_pages <= r.peak_pages
    assert r.shrunk_pages <= (0 if kind == "slob" else 1)
    assert 1 <= r.lines_per_op <= r.lines_worst


def test_caches_of_their_own_and_a_ram_too_small() -> None:
    rows = compare(parse(TEXT.splitlines()), ram_size=16 << 20, runs=1)
    assert [r.allocator for r in rows] == ["slab", "slub", "slob"]
    assert {r.operations for r in rows} == {5} and all(r.asked_bytes == 164 for r in rows)
    assert table(rows).count("\n") == 5
    with pytest.raises(OutOfMemory, match="too small"):
        measure([Op("a", f"x{i}", 4 << 20) for i in range(8)], "slub", 16 << 20, 1)


def test_the_traces_tell_the_allocators_apart() -> None:
    churn = {r.allocator: r for r in compare(GENERATED["churn"]()[:3000], runs=1)}
    # Odd sizes: SLOB's slots fit best, and it touches the most lines to find them.
    assert churn["slob"].internal < churn["slub"].internal
    assert churn["slob"].lines_per_op > 3 * churn["slub"].lines_per_op
    # A queue that runs empty: SLOB gives every page back, the others keep empty slabs.
    fifo = {r.allocator: r for r in compare(short(GENERATED["fifo"](), 8100), runs=1)}
    assert fifo["slob"].end_pages == 0 < min(fifo["slub"].end_pages, fifo["slab"].end_pages)
    assert fifo["slub"].shrunk_pages == fifo["slab"].shrunk_pages == 0


# the counting of lines


def lines(ram: CountingRam, action: object) -> set[int]:
    ram.lines.clear()
    ram.counting = True
    action()  # type: ignore[operator]
    ram.counting = False
    return set(ram.lines)


def test_lines_are_counted_exactly() -> None:
    ram = CountingRam(1 << 20)
    base = ram.base
    u64 = ram.u64
    assert lines(ram, lambda: u64[7]) == {0} and lines(ram, lambda: u64[8]) == {1}
    assert lines(ram, lambda: u64.__setitem__(slice(7, 9), memoryview(bytes(16)).cast("Q"))) == {
        0, 1
    }  # fmt: skip
    assert lines(ram, lambda: ram.read8(base + 64)) == {1}
    assert lines(ram, lambda: ram.write(base + 60, bytes(8))) == {0, 1}
    assert lines(ram, lambda: ram.read64(base + 128)) == {2}
    assert lines(ram, lambda: ram.fill(base, 256)) == {0, 1, 2, 3}
    # Views count what is used of them, when it is used.
    assert lines(ram, lambda: ram.array(base, 1024)) == set()

    def strided() -> None:
        rows = ram.array(base, 64).reshape(8, 8)
        rows[2:4, 5] = 1

    assert lines(ram, strided) == {2, 3}
    assert lines(ram, lambda: ram.array(base, 64)[::16].tolist()) == {0, 2, 4, 6}
    assert lines(ram, lambda: (ram.array(base, 8) == 3).any()) == {0}
    assert lines(ram, lambda: ram.array(base, 64)[9]) == {1}
    assert lines(ram, lambda: ram.array(base, 64)[8:16] + np.uint64(1)) == {1}
    assert lines(ram, lambda: ram.array(base, 64).__setitem__(63, 1)) == {7}


def test_counting_changes_nothing() -> None:
    plain, counting = mm.boot(Ram(16 << 20)), CountingRam(16 << 20)
    counted = mm.boot(counting)
    counting.counting = True
    a = [plain.kmalloc(n) for n in range(1, 900, 7)]
    b = [counted.kmalloc(n) for n in range(1, 900, 7)]
    counting.counting = False
    assert a == b and len(counting.lines) > 100
    mm.check(counted)
