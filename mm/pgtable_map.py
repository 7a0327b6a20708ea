"""Mapping ranges: which page sizes, which tables are missing, and the PTEs of all of it at once.

A range is cut into segments of one page size each. For a segment the tables it needs are found
level by level; those missing are counted, nothing is changed until it is known that no leaf is
in the way and that the frames for the tables are there. Tables come from the page allocator in
runs, so the PTEs of a large segment are a few numpy writes. A few pages whose table is there
take none of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from emu.spec.paging import (
    PAGE_SHIFT,
    PAGE_SIZE,
    PTE_PPN_SHIFT,
    PTE_R,
    PTE_SIZE,
    PTE_V,
    PTE_W,
    PTE_X,
    PTES_PER_TABLE,
    VPN_BITS,
    PagingMode,
    make_pte,
)
from mm.errors import MappingExists, OutOfMemory
from mm.hart import HartOps
from mm.mm_struct import MmStruct
from mm.pgtable_ops import PAGE_BASE, PgtableOps, PteArray, Runs, runs_of

FEW_PAGES = 8  # up to here a loop over PTEs beats numpy by far
_LEAF = PTE_R | PTE_W | PTE_X
_LAST = PTES_PER_TABLE - 1
_ZERO_TABLE = bytes(PAGE_SIZE)

# The tables of a segment: a list of PAs for each level from the root down to its own, in VA
# order, 0 for a table that is missing.
Plan = list[list[int]]


class Ptes(NamedTuple):
    """PTEs of adjacent frames: ``first``, and from each to the next ``step``."""

    first: int
    step: int

    def part(self, at: int, n: int) -> PteArray:
        """``n`` of them, from number ``at`` on."""
        start = self.first + self.step * at
        return np.arange(start, start + self.step * n, self.step, dtype=np.uint64)


class Scattered(NamedTuple):
    """PTEs of frames anywhere."""

    ptes: PteArray

    def part(self, at: int, n: int) -> PteArray:
        """As Ptes.part."""
        return self.ptes[at : at + n]


class Segment(NamedTuple):
    """``pages`` pages of one size, the first at ``va``."""

    level: int
    va: int
    ptes: Ptes | Scattered
    pages: int

    def end(self, mode: PagingMode) -> int:
        """The VA behind the last page."""
        return self.va + (self.pages << mode.shift(self.level))


class Installed(NamedTuple):
    """What a segment has written: runs of words that hold PTEs, ``(table, index)`` of pointers,
    and the PAs of its new tables."""

    words: Runs
    pointers: list[tuple[int, int]]
    tables: list[int]


class RangeMapper:
    """Mapping ranges in tables of ``ops``; ``hart`` learns of new code."""

    def __init__(self, ops: PgtableOps, hart: HartOps) -> None:
        self.ops = ops
        self.hart = hart
        self._u64 = ops.ram.u64

    def map_range(
        self, mm: MmStruct, va: int, pa: int, size: int, prot: int, max_level: int = 2
    ) -> None:
        """Map ``[va, va + size)`` to ``[pa, ...)`` with the largest pages that fit.

        ``max_level`` bounds them: 0 is 4 KiB, 1 is 2 MiB, 2 is 1 GiB. A and D are set.
        Raises MappingExists, OutOfMemory (nothing changed); ValueError for a range or
        protection that may not be (see check_range, check_prot).
        """
        end = self.ops.check_range(mm, va, size)
        self.ops.check_prot(mm, prot)
        if pa < 0 or pa % PAGE_SIZE or pa + size > 1 << 56:
            raise ValueError(f"physical address {pa:#x} is not that of a page")
        count = size >> PAGE_SHIFT
        first = make_pte(pa >> PAGE_SHIFT, prot | PAGE_BASE)
        few = [first + (i << PTE_PPN_SHIFT) for i in range(count)] if count <= FEW_PAGES else []
        if not few or not self._map_few(mm, va, few):
            self._install_all(mm, self._segments(va, end, pa, prot | PAGE_BASE, max_level))
        if prot & PTE_X:
            self.hart.flush_icache(pa >> PAGE_SHIFT, size >> PAGE_SHIFT)

    def _segments(self, va: int, end: int, pa: int, flags: int, max_level: int) -> list[Segment]:
        """Cut ``[va, end)``, to be mapped to ``[pa, ...)``, into the largest pages that fit."""
        mode = self.ops.mode
        segments: list[Segment] = []
        at = va
        limit = min(max_level, self.ops.top)
        while at < end:
            level = limit
            here = pa + (at - va)
            while level and ((at | here) & (mode.span(level) - 1) or at + mode.span(level) > end):
                level -= 1
            span = mode.span(level)
            stop = end // span * span if level else end
            if level < limit:
                # Up to where the next larger page may start, if it fits from there on.
                larger = mode.span(level + 1)
                boundary = -(-at // larger) * larger
                if boundary == at:
                    boundary += larger
                if not (at ^ here) & (larger - 1) and boundary + larger <= end:
                    stop = boundary
            count = (stop - at) // span
            step = span >> PAGE_SHIFT << PTE_PPN_SHIFT
            ptes = Ptes(make_pte(here >> PAGE_SHIFT, flags), step)
            segments.append(Segment(level, at, ptes, count))
            at += count * span
        return segments

    def map_pages(
        self, mm: MmStruct, va: int, pfns: Sequence[int] | npt.NDArray[Any], prot: int
    ) -> None:
        """Map scattered frames (PFNs) to consecutive 4 KiB pages from ``va``.

        Raises as map_range does.
        """
        self.ops.check_range(mm, va, len(pfns) << PAGE_SHIFT)
        self.ops.check_prot(mm, prot)
        flags = prot | PAGE_BASE
        few = [make_pte(int(pfn), flags) for pfn in pfns] if len(pfns) <= FEW_PAGES else []
        if not few or not self._map_few(mm, va, few):
            ptes = np.asarray(pfns, dtype=np.uint64) << np.uint64(PTE_PPN_SHIFT)
            ptes |= np.uint64(flags)
            self._install_all(mm, [Segment(0, va, Scattered(ptes), len(pfns))])
        if prot & PTE_X:
            for pfn, count in runs_of(pfns):
                self.hart.flush_icache(pfn, count)

    def map_runs(self, mm: MmStruct, va: int, runs: Runs, prot: int) -> None:
        """Map runs of frames ``(pfn, count)`` to consecutive 4 KiB pages from ``va``.

        Raises as map_range does.
        """
        if len(runs) == 1:
            pfn, count = runs[0]
            self.map_range(mm, va, pfn << PAGE_SHIFT, count << PAGE_SHIFT, prot, max_level=0)
            return
        parts = [np.arange(pfn, pfn + n, dtype=np.uint64) for pfn, n in runs]
        self.map_pages(mm, va, np.concatenate(parts) if parts else [], prot)

    def _map_few(self, mm: MmStruct, va: int, ptes: list[int]) -> bool:
        """Map a few pages whose table is there already; False: it is not, or not so plain."""
        index = va >> PAGE_SHIFT & _LAST
        if index + len(ptes) > PTES_PER_TABLE:
            return False
        table = self.ops.last_table(mm, va)
        if not table:
            return False
        u64, word = self._u64, self.ops.word(table, index)
        for i in range(len(ptes)):
            if u64[word + i]:
                raise MappingExists(va + (i << PAGE_SHIFT))
        for i, pte in enumerate(ptes):
            u64[word + i] = pte
        return True

    def _install_all(self, mm: MmStruct, segments: list[Segment]) -> None:
        """Install segments, all or none."""
        root = self.ops.root(mm)
        plans = [self._plan(root, s.va, s.end(self.ops.mode), s.level) for s in segments]
        done: list[Installed] = []
        try:
            for i, s in enumerate(segments):
                if i:  # the segments before may have made some of its tables
                    plans[i] = self._plan(root, s.va, s.end(self.ops.mode), s.level)
                done.append(self._install(mm, root, plans[i], s))
        except OutOfMemory:
            for installed in reversed(done):
                nothing = Scattered(np.zeros(PTES_PER_TABLE, dtype=np.uint64))
                for word, n in installed.words:
                    self._write_ptes(mm, root, word, n, nothing, 0)
                for table, index in installed.pointers:
                    self.ops.set_pte(mm, table, index, 0)
                if installed.tables:
                    self.ops.free_tables(mm, installed.tables)
            raise

    def _plan(self, root: int, va: int, end: int, level: int) -> Plan:
        """The tables that hold the PTEs of ``[va, end)`` at ``level``.

        One list of PAs for each level from the root down to ``level``, in VA order, 0 for
        a table that is missing. Raises MappingExists when a leaf is in the way.
        """
        u64, base = self._u64, self.ops.ram.base
        tables = [root]
        plan = [tables]
        for k in range(self.ops.top, level, -1):
            shift = self.ops.mode.shift(k)
            first = va >> shift
            first_table = first >> VPN_BITS
            children = []
            for unit in range(first, ((end - 1) >> shift) + 1):
                table = tables[(unit >> VPN_BITS) - first_table]
                pte = u64[((table - base) >> 3) + (unit & _LAST)] if table else 0
                if not pte & PTE_V:
                    children.append(0)
                elif pte & _LEAF:
                    raise MappingExists(max(va, unit << shift))
                else:
                    children.append(self.ops.table_of(pte))
            tables = children
            plan.append(tables)
        shift = self.ops.mode.shift(level)
        for table, index, count, at in self._slots(tables, va >> shift, (end - va) >> shift):
            if table:
                entries = self.ops.ram.array(table + index * PTE_SIZE, count)
                if entries.any():
                    raise MappingExists((at + int(entries.nonzero()[0][0])) << shift)
        return plan

    def _slots(
        self, tables: list[int], unit: int, count: int
    ) -> Iterator[tuple[int, int, int, int]]:
        """For each table: ``(PA, first index, entries, first unit)`` of the units it holds."""
        for table in tables:
            index = unit & _LAST
            n = min(PTES_PER_TABLE - index, count)
            yield table, index, n, unit
            unit += n
            count -= n

    def _install(self, mm: MmStruct, root: int, plan: Plan, segment: Segment) -> Installed:
        """Write one segment. Raises OutOfMemory, nothing changed."""
        mode, va = self.ops.mode, segment.va
        fresh = self.ops.alloc_tables(mm, sum(tables.count(0) for tables in plan))
        pointers = _fill_plan(plan, fresh)
        written: Runs = []
        partial = set(fresh)
        slots = self._slots(plan[-1], va >> mode.shift(segment.level), segment.pages)
        for table, index, n, _ in slots:
            if n == PTES_PER_TABLE:
                partial.discard(table)
            word = self.ops.word(table, index)
            if written and written[-1][0] + written[-1][1] == word:
                written[-1] = written[-1][0], written[-1][1] + n
            else:
                written.append((word, n))
        for table in partial:
            self.ops.ram.write(table, _ZERO_TABLE)
        at = 0
        for word, n in written:
            self._write_ptes(mm, root, word, n, segment.ptes, at)
            at += n
        # Pointers after the PTEs: the hart sees whole tables only.
        links = []
        for depth, i, table in pointers:
            unit = (va >> mode.shift(self.ops.top - depth + 1)) + i
            first = va >> mode.shift(self.ops.top - depth + 2)
            parent = plan[depth - 1][(unit >> VPN_BITS) - first]
            self.ops.set_pte(mm, parent, unit & _LAST, make_pte(table >> PAGE_SHIFT, PTE_V))
            links.append((parent, unit & _LAST))
        return Installed(written, links, fresh)

    def _write_ptes(
        self, mm: MmStruct, root: int, word: int, n: int, ptes: Ptes | Scattered, at: int
    ) -> None:
        """Store ``n`` of ``ptes``, from number ``at`` on, in words of RAM from ``word`` on."""
        root_word = self.ops.word(root, 0)
        if root_word <= word < root_word + PTES_PER_TABLE:
            for i, pte in enumerate(ptes.part(at, n).tolist()):
                self.ops.set_pte(mm, root, (word + i) & _LAST, pte)
        else:
            self.ops.ram.array(self.ops.ram.base + 8 * word, n)[:] = ptes.part(at, n)


def _fill_plan(plan: Plan, fresh: list[int]) -> list[tuple[int, int, int]]:
    """Put the new tables where the plan has none: ``(depth, position, PA)`` of each."""
    supply = iter(fresh)
    pointers: list[tuple[int, int, int]] = []
    # The lowest level first: it has the most tables, and they should be adjacent.
    for depth in range(len(plan) - 1, 0, -1):
        tables = plan[depth]
        for i, table in enumerate(tables):
            if not table:
                tables[i] = next(supply)
                pointers.append((depth, i, tables[i]))
    return pointers
