"""The tree of gaps between areas: the lowest place that fits, in log time."""

from __future__ import annotations

import random

import pytest
from work import lines_run

import mm
from emu.ram import PAGE_SIZE, Ram
from mm.gaptree import GapTree


def test_gaptree_against_a_list() -> None:
    rng = random.Random(3)
    tree: GapTree[int] = GapTree(-1, 16)
    live: dict[int, int] = {}
    for step in range(3000):
        if live and rng.random() < 0.48:
            start = rng.choice(list(live))
            node = tree.at_or_below(start + rng.randrange(live[start] - start))
            assert node is not None and node.start == start
            tree.remove(node)
            del live[start]
        else:
            low = 16 * rng.randrange(100)
            size, high = 16 * rng.randrange(1, 30), low + 16 * rng.randrange(1, 3000)
            at = low
            for start, end in sorted(live.items()):
                if end > at:
                    if start - at >= size:
                        break
                    at = end
            wanted = at if at + size <= high else None
            assert tree.lowest_fit(size, low, high) == wanted
            if wanted is not None:
                tree.insert(wanted, wanted + size, step)
                live[wanted] = wanted + size
                with pytest.raises(ValueError):
                    tree.insert(wanted + size - 16, wanted + size + 16, 0)
        assert tree.count == len(live)
    assert [(n.start, n.end) for n in tree] == sorted(live.items())


def test_gaptree_aligned() -> None:
    tree: GapTree[int] = GapTree(0, 4096)
    tree.insert(0x1000, 0x3000, 1)
    tree.insert(0x300000, 0x301000, 2)
    tree.insert(0x600000, 0x601000, 3)
    # 0x400000 would do for 2 MiB, by luck: 3 MiB less a page do not hold them anywhere.
    assert tree.lowest_fit(0x200000, 0, 1 << 40, 0x200000) == 0x800000
    assert tree.lowest_fit(0x100000, 0, 1 << 40, 0x200000) == 0x400000
    assert tree.lowest_fit(0x400000, 0, 1 << 40, 0x200000) == 0x800000
    assert tree.lowest_fit(0x400000, 0, 0xBFF000, 0x200000) is None


def test_ten_thousand_areas_cost_no_more() -> None:
    k = mm.boot(Ram(256 << 20))

    def cost() -> int:
        def pairs() -> None:
            for _ in range(50):
                k.vfree(k.vmalloc(PAGE_SIZE) or 0)

        pairs()  # what is done once is done
        return lines_run(pairs)

    empty = cost()
    areas = [k.vmalloc(PAGE_SIZE) or 0 for _ in range(15000)]
    assert all(areas)
    for va in areas[::3]:
        k.vfree(va)
    assert len(k.vmalloc_areas.areas) == 10000
    assert cost() < 1.5 * empty, (cost(), empty)
