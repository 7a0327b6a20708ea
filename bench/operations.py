"""The allocators' operations: what each costs, in bulk, in a guest, and in a full machine."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise

import mm
from bench.guests import compiled
from bench.measure import Ratio, ratio, timed
from emu.ram import Ram
from guest import build
from guest.kernel.system import System
from mm.gfp import GFP_KERNEL
from mm.kernel import Kernel
from mm.pgtable import PAGE_READ, MmStruct

_MIB = 1 << 20
_GIB = 1 << 30
_BULK = 64
_LIVE = 1_000_000
_LIVE_AREAS = 200_000  # of vmalloc: a million would take a minute to make
_TICKS_PER_SECOND = 1e7


def page_pair(kernel: Kernel) -> None:
    pfn = kernel.alloc_page()
    assert pfn is not None
    kernel.free_page(pfn)


def kmalloc_pair(kernel: Kernel) -> None:
    va = kernel.kmalloc(64)
    assert va is not None
    kernel.kfree(va)


def map_pair() -> Callable[[Kernel], None]:
    """Map and unmap one page of a process, beside one that stays."""
    known: dict[int, tuple[MmStruct, int]] = {}

    def pair(kernel: Kernel) -> None:
        if id(kernel) not in known:
            space, pfn = kernel.mm_alloc(), kernel.alloc_page()
            assert pfn is not None
            kernel.pgtable.map_pages(space, 0x10000, [pfn], PAGE_READ)
            known[id(kernel)] = space, pfn
        space, pfn = known[id(kernel)]
        kernel.pgtable.map_range(space, 0x11000, pfn << 12, 4096, PAGE_READ)
        kernel.pgtable.unmap_range(space, 0x11000, 4096)

    return pair


def vmalloc_pair(kernel: Kernel) -> None:
    va = kernel.vmalloc(_MIB)
    assert va is not None
    kernel.vfree(va)


def _each(operation: Callable[[Kernel], None], kernel: Kernel, count: int) -> float:
    """Seconds of one of ``count`` operations."""

    def loop() -> None:
        for _ in range(count):
            operation(kernel)

    return timed(loop) / count


@cache
def _kernel(size: int) -> Kernel:
    return mm.boot(Ram(size))


# what a single one costs


def single(operation: Callable[[Kernel], None], count: int) -> float:
    """Seconds of one operation in 64 MiB, the median of five rounds."""
    kernel = _kernel(64 * _MIB)
    return sorted(_each(operation, kernel, count) for _ in range(5))[2]


def check() -> float:
    """Seconds of `mm.check` of memory in which every other page is free, the least of five."""
    kernel = mm.boot(Ram(64 * _MIB))
    pages = kernel.alloc_pages_bulk(GFP_KERNEL, 12_000)
    for pfn in pages[::2]:
        kernel.free_page(pfn)
    return min(timed(lambda: mm.check(kernel)) for _ in range(5))


# in bulk


def page_bulk(kernel: Kernel) -> None:
    pages = kernel.alloc_pages_bulk(GFP_KERNEL, _BULK)
    assert len(pages) == _BULK
    kernel.page_alloc.free_page_runs(_runs(pages))


def _runs(pages: list[int]) -> list[tuple[int, int]]:
    runs = []
    start = pages[0]
    for pfn, after in pairwise([*pages, -1]):
        if after != pfn + 1:
            runs.append((start, pfn + 1 - start))
            start = after
    return runs


def bulk(many: Callable[[Kernel], None], one: Callable[[Kernel], None]) -> Ratio:
    """One of 64 at once, against one alone."""
    kernel = _kernel(64 * _MIB)
    return ratio(lambda: _each(many, kernel, 100) / _BULK, partial(_each, one, kernel, 2000), 15)


# in a machine that is large, or full


def ram_size(operation: Callable[[Kernel], None], count: int) -> tuple[Ratio, str]:
    """In 64 GiB of RAM, against 64 MiB."""
    large, small = _kernel(64 * _GIB), _kernel(64 * _MIB)
    return ratio(
        partial(_each, operation, large, count), partial(_each, operation, small, count), 15
    ), ""


def _full_of_pages(kernel: Kernel) -> None:
    # Every other frame goes back: what is free lies between what is in use.
    pages = kernel.alloc_pages_bulk(GFP_KERNEL, 2 * _LIVE)
    assert len(pages) == 2 * _LIVE
    kernel.page_alloc.free_page_runs([(pfn, 1) for pfn in pages[::2]])


def _full_of_objects(kernel: Kernel) -> None:
    for _ in range(_LIVE):
        assert kernel.kmalloc(64) is not None


def _full_of_areas(kernel: Kernel) -> None:
    for _ in range(_LIVE_AREAS):
        assert kernel.vmalloc(4096) is not None


def live_objects(
    operation: Callable[[Kernel], None], fill: Callable[[Kernel], None], count: int
) -> tuple[Ratio, str]:
    """With many live objects of the same kind, against few; both in 64 GiB of RAM."""
    full, empty = mm.boot(Ram(64 * _GIB)), mm.boot(Ram(64 * _GIB))
    fill(full)
    gc.collect()
    note = f"{_LIVE_AREAS:,} areas" if fill is _full_of_areas else f"{_LIVE:,}"
    return ratio(
        partial(_each, operation, full, count), partial(_each, operation, empty, count), 15
    ), f"{note} live"


PAGES, OBJECTS, AREAS = _full_of_pages, _full_of_objects, _full_of_areas


# in the guest


@cache
def _guest_rounds() -> list[list[str]]:
    lines: list[str] = []
    system = System(log=lines.append)
    try:
        system.boot()
        _, stop = system.load_module(compiled("fast_path", build.MODULE, ".ko"))
        assert stop.value == 0, stop
    finally:
        system.machine.close()
    return [line.split() for line in lines]


def fast_path(name: str) -> tuple[Ratio, str]:
    """A pair without traps, against the same pair by two traps, in guest time."""
    rounds = []
    for found, *numbers in _guest_rounds():
        if found == name:
            fast, fast_pairs, trap, trap_pairs = map(int, numbers)
            rounds.append(
                (fast / fast_pairs / _TICKS_PER_SECOND, trap / trap_pairs / _TICKS_PER_SECOND)
            )
    middle = len(rounds) // 2
    ours = sorted(a for a, _ in rounds)[middle]
    other = sorted(b for _, b in rounds)[middle]
    found_ratio = sorted(a / b for a, b in rounds)[middle]
    note = f"{1e-6 / ours:.0f} million pairs/s, {1 / found_ratio:.0f} times as fast"
    return Ratio(ours, other, found_ratio), note
