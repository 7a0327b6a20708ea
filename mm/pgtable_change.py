"""Unmapping ranges and changing their permissions, and the flushes that are owed for it.

The table of flushes is in pgtable.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from emu.spec.paging import (
    PAGE_SHIFT,
    PTE_PPN_SHIFT,
    PTE_R,
    PTE_SIZE,
    PTE_V,
    PTE_W,
    PTE_X,
    PTES_PER_TABLE,
    PagingMode,
    make_pte,
    pte_pfn,
)
from mm.errors import OutOfMemory, PageTableError
from mm.hart import FLUSH_TLB_NO_ASID, HartOps
from mm.mm_struct import MmStruct
from mm.pgtable_map import FEW_PAGES
from mm.pgtable_ops import PROT_BITS, RESERVED_SHIFT, PgtableOps, PteArray, Runs, runs_of

TLB_FLUSH_ALL_THRESHOLD = 64  # pages (Linux: tlb_flush_all_threshold)
_LEAF = PTE_R | PTE_W | PTE_X
_LAST = PTES_PER_TABLE - 1


class Leaves(NamedTuple):
    """The PTEs of adjacent pages of one size, from ``va`` on, as they were; 0: there was none."""

    va: int
    level: int
    ptes: PteArray


class Split(NamedTuple):
    """A superpage's place, ``table`` and ``at``, its PTE, and the tables that took its place."""

    table: int
    at: int
    pte: int
    tables: list[int]


class RangeChanger:
    """Unmapping and protecting in tables of ``ops``; ``hart`` gets the flushes."""

    def __init__(self, ops: PgtableOps, hart: HartOps) -> None:
        self.ops = ops
        self.hart = hart
        self._u64 = ops.ram.u64

    def unmap_range(self, mm: MmStruct, va: int, size: int) -> Runs:
        """Unmap what is mapped in the range; runs of the frames ``(pfn, count)``, in VA order.

        The frames stay the caller's. Superpages that the range covers in part are split,
        tables left empty are freed. Raises OutOfMemory when a split has no table (nothing
        changed), ValueError for a bad range.
        """
        end = self.ops.check_range(mm, va, size)
        few = self._unmap_few(mm, va, size >> PAGE_SHIFT)
        if few is not None:
            return few
        self._split_edges(mm, va, end)
        gone: list[Leaves] = []
        empty: list[int] = []
        self._clear(mm, self.ops.root(mm), self.ops.top, va, end, gone, empty)
        self._flush(mm, gone, bool(empty), _executable(gone))
        if empty:
            self.ops.free_tables(mm, empty)
        return _frame_runs(self.ops.mode, gone)

    def _unmap_few(self, mm: MmStruct, va: int, count: int) -> Runs | None:
        """Unmap a few pages of one table; None: they are more, or not so plain."""
        ops, index = self.ops, va >> PAGE_SHIFT & _LAST
        if count > FEW_PAGES or index + count > PTES_PER_TABLE:
            return None
        table = ops.last_table(mm, va)
        if not table:
            return None
        u64, word = self._u64, ops.word(table, index)
        gone: list[tuple[int, int]] = []  # index, PTE
        for i in range(count):
            pte = u64[word + i]
            if pte:
                if pte >> RESERVED_SHIFT or not pte & PTE_V:
                    return None
                gone.append((index + i, pte))
        runs: Runs = []
        code: Runs = []
        for i, pte in gone:
            ops.ptep_get_and_clear(mm, table, i)
            _join(runs, pte >> PTE_PPN_SHIFT)
            if pte & PTE_X:
                _join(code, pte >> PTE_PPN_SHIFT)
        empty = self._unlink_empty_upwards(mm, va) if ops.is_empty(table) else []
        if empty:
            self._flush_space(mm)
        else:
            asid = FLUSH_TLB_NO_ASID if ops.is_kernel(mm) else mm.asid
            for i, _ in gone:
                self.hart.flush_tlb_page(va + ((i - index) << PAGE_SHIFT), asid)
        for pfn, n in code:
            self.hart.flush_icache(pfn, n)
        if empty:
            ops.free_tables(mm, empty)
        return runs

    def _unlink_empty_upwards(self, mm: MmStruct, va: int) -> list[int]:
        """Unlink the table of the 4 KiB page at ``va``, which maps nothing, then the table above
        if it is empty now, and so on: their PAs. Tables that hang on the kernel's root stay."""
        ops = self.ops
        path = []
        table = ops.root(mm)
        for level in range(ops.top, 0, -1):
            index = ops.mode.index(va, level)
            path.append((table, index))
            table = ops.table_of(self._u64[ops.word(table, index)])
        empty: list[int] = []
        if ops.is_kernel(mm):
            del path[0]
        for parent, index in reversed(path):
            if not ops.is_empty(table):
                break
            ops.set_pte(mm, parent, index, 0)
            empty.append(table)
            table = parent
        return empty

    def vunmap_range_noflush(self, va: int, size: int) -> None:
        """Clear the kernel's leaves in the range; their frames are the caller's to free.

        Nothing is flushed and no table is freed: the caller owes flush_tlb_all before the
        VAs are used again, and free_pgtables for the tables. Superpages must lie in the
        range whole, or it raises OutOfMemory when a split has no table (nothing changed).
        Executable frames are reported to the hart at once: they are code no longer.
        """
        end = self.ops.check_range(self.ops.init_mm, va, size)
        self._split_edges(self.ops.init_mm, va, end)
        gone: list[Leaves] = []
        self._clear(
            self.ops.init_mm, self.ops.root(self.ops.init_mm), self.ops.top, va, end, gone, None
        )
        code = [leaves for leaves in _executable(gone) if len(leaves.ptes)]
        for pfn, n in _frame_runs(self.ops.mode, code):
            self.hart.flush_icache(pfn, n)

    def unlink_empty_tables(self, va: int, end: int) -> list[int]:
        """Unlink the kernel's tables in ``[va, end)`` that map nothing: their PAs.

        They go to free_tables once the flush that the caller owes (all) is done.
        """
        empty: list[int] = []
        self._unlink_empty(self.ops.root(self.ops.init_mm), self.ops.top, va, end, empty)
        return empty

    def _unlink_empty(self, table: int, level: int, va: int, end: int, empty: list[int]) -> None:
        shift = self.ops.mode.shift(level)
        for unit in range(va >> shift, ((end - 1) >> shift) + 1):
            pte = self._u64[self.ops.word(table, unit & _LAST)]
            if not pte & PTE_V or pte & _LEAF:
                continue
            child = self.ops.table_of(pte)
            if level > 1:
                start = unit << shift
                low, high = max(va, start), min(end, start + (1 << shift))
                self._unlink_empty(child, level - 1, low, high, empty)
            if level == self.ops.top:
                continue  # process roots point to it
            if self.ops.is_empty(child):
                self.ops.set_pte(self.ops.init_mm, table, unit & _LAST, 0)
                empty.append(child)

    def free_tables(self, tables: list[int]) -> None:
        """Free what unlink_empty_tables returned."""
        if tables:
            self.ops.free_tables(self.ops.init_mm, tables)

    def protect_range(self, mm: MmStruct, va: int, size: int, prot: int) -> int:
        """Give every page mapped in the range the permissions ``prot``; holes stay holes.

        Returns the number of leaves that changed. Raises as unmap_range does, and
        ValueError for a protection that may not be.
        """
        end = self.ops.check_range(mm, va, size)
        self.ops.check_prot(mm, prot)
        self._split_edges(mm, va, end, prot & PROT_BITS)
        changed: list[Leaves] = []
        self._protect(mm, self.ops.root(mm), self.ops.top, va, end, prot & PROT_BITS, changed)
        toggled = [
            Leaves(at, level, old[(old & np.uint64(PTE_X)) != np.uint64(prot & PTE_X)])
            for at, level, old in changed
        ]
        self._flush(mm, changed, False, toggled)
        return sum(len(old) for _, _, old in changed)

    def _flush(
        self,
        mm: MmStruct,
        leaves: list[Leaves],
        tables_gone: bool,
        code: list[Leaves],
    ) -> None:
        """The flushes owed for leaves ``(va, level, old PTEs)`` and for code frames."""
        kernel = self.ops.is_kernel(mm)
        count = sum(int((old != 0).sum()) for _, _, old in leaves)
        if tables_gone or count > TLB_FLUSH_ALL_THRESHOLD:
            self._flush_space(mm)
        else:
            asid = FLUSH_TLB_NO_ASID if kernel else mm.asid
            for va, level, old in leaves:
                for i in old.nonzero()[0].tolist():
                    self.hart.flush_tlb_page(va + (i << self.ops.mode.shift(level)), asid)
        for pfn, n in _frame_runs(self.ops.mode, code):
            self.hart.flush_icache(pfn, n)

    def _flush_space(self, mm: MmStruct) -> None:
        """Every translation of ``mm``; of the kernel's: all there are."""
        if self.ops.is_kernel(mm):
            self.hart.flush_tlb_all()
        else:
            self.hart.flush_tlb_mm(mm.asid)

    def _clear(
        self,
        mm: MmStruct,
        table: int,
        level: int,
        va: int,
        end: int,
        gone: list[Leaves],
        empty: list[int] | None,
    ) -> None:
        """Clear leaves into ``gone``; unlink tables left empty into ``empty`` unless None."""
        shift = self.ops.mode.shift(level)
        index, count = self.ops.mode.index(va, level), ((end - 1) >> shift) - (va >> shift) + 1
        entries = self.ops.ram.array(table + index * PTE_SIZE, count)
        self.ops.trust_ptes(table + index * PTE_SIZE, entries)
        if level == 0:
            if entries.any():
                gone.append(Leaves(va, 0, entries.copy()))
                entries[:] = 0
            return
        for i in entries.nonzero()[0].tolist():
            pte = int(entries[i])
            start = ((va >> shift) + i) << shift
            if pte & _LEAF:
                pte = self.ops.ptep_get_and_clear(mm, table, index + i)
                gone.append(Leaves(start, level, np.array([pte], dtype=np.uint64)))
                continue
            child = self.ops.table_of(pte)
            low, high = max(va, start), min(end, start + (1 << shift))
            self._clear(mm, child, level - 1, low, high, gone, empty)
            if empty is None:
                continue
            if self.ops.is_kernel(mm) and level == self.ops.top:
                continue  # process roots point to it
            if self.ops.is_empty(child):
                self.ops.set_pte(mm, table, index + i, 0)
                empty.append(child)

    def _protect(
        self,
        mm: MmStruct,
        table: int,
        level: int,
        va: int,
        end: int,
        prot: int,
        changed: list[Leaves],
    ) -> None:
        shift = self.ops.mode.shift(level)
        index, count = self.ops.mode.index(va, level), ((end - 1) >> shift) - (va >> shift) + 1
        entries = self.ops.ram.array(table + index * PTE_SIZE, count)
        self.ops.trust_ptes(table + index * PTE_SIZE, entries)
        if level == 0:
            old = entries.copy()
            new = np.where(
                old & np.uint64(PTE_V),
                old & np.uint64(~PROT_BITS & (1 << 64) - 1) | np.uint64(prot),
                old,
            )
            old[old == new] = 0
            if old.any():
                entries[:] = new
                first = int(old.nonzero()[0][0])
                last = int(old.nonzero()[0][-1])
                run = old[first : last + 1]
                if run.all():
                    changed.append(Leaves(va + (first << PAGE_SHIFT), 0, run))
                else:
                    for i in old.nonzero()[0].tolist():
                        changed.append(Leaves(va + (i << PAGE_SHIFT), 0, old[i : i + 1]))
            return
        for i in entries.nonzero()[0].tolist():
            pte = int(entries[i])
            start = ((va >> shift) + i) << shift
            if pte & _LEAF:
                if pte & PROT_BITS != prot:
                    changed.append(Leaves(start, level, np.array([pte], dtype=np.uint64)))
                    self.ops.set_pte(mm, table, index + i, pte & ~PROT_BITS | prot)
                continue
            low, high = max(va, start), min(end, start + (1 << shift))
            self._protect(mm, self.ops.table_of(pte), level - 1, low, high, prot, changed)

    def _split_edges(self, mm: MmStruct, va: int, end: int, prot: int | None = None) -> None:
        """Split the superpages that ``va`` and ``end`` cut through; both or none.

        One that has the permissions ``prot`` already may stay whole.
        """
        undo: list[Split] = []
        try:
            for edge in (va, end):
                self._split_at(mm, edge, prot, undo)
        except OutOfMemory:
            for table, index, pte, tables in reversed(undo):
                self.ops.set_pte(mm, table, index, pte)
                self.ops.free_tables(mm, tables)
            raise

    def _split_at(
        self,
        mm: MmStruct,
        edge: int,
        prot: int | None,
        undo: list[Split],
    ) -> None:
        """Make ``edge`` a boundary between leaves. Translations stay as they are."""
        table, level = self.ops.root(mm), self.ops.top
        while edge & (self.ops.mode.span(level) - 1):
            index = self.ops.mode.index(edge, level)
            pte = self._u64[self.ops.word(table, index)]
            if not pte & PTE_V:
                return
            if not pte & _LEAF:
                table, level = self.ops.table_of(pte), level - 1
                continue
            if pte & PROT_BITS == prot:
                return
            if pte >> RESERVED_SHIFT:
                raise PageTableError(
                    f"{pte:#x} is no PTE", self.ops.ram.base + 8 * self.ops.word(table, index)
                )
            child = self.ops.alloc_tables(mm, 1)[0]
            step = self.ops.mode.span(level - 1) >> PAGE_SHIFT << PTE_PPN_SHIFT
            self.ops.ram.array(child, PTES_PER_TABLE)[:] = np.arange(
                pte, pte + step * PTES_PER_TABLE, step, dtype=np.uint64
            )
            self.ops.set_pte(mm, table, index, make_pte(child >> PAGE_SHIFT, PTE_V))
            undo.append(Split(table, index, pte, [child]))
            table, level = child, level - 1


def _executable(leaves: list[Leaves]) -> list[Leaves]:
    return [Leaves(va, level, old[(old & np.uint64(PTE_X)) != 0]) for va, level, old in leaves]


def _frame_runs(mode: PagingMode, leaves: list[Leaves]) -> Runs:
    """The frames behind leaves, as runs; neighbours are joined."""
    runs: Runs = []
    for _, level, old in leaves:
        ptes = old[old != 0]
        if level:
            pages = mode.span(level) >> PAGE_SHIFT
            found = [(pte_pfn(int(pte)), pages) for pte in ptes]
        else:
            found = runs_of((ptes >> np.uint64(PTE_PPN_SHIFT)) & np.uint64((1 << 44) - 1))
        for pfn, count in found:
            if runs and runs[-1][0] + runs[-1][1] == pfn:
                runs[-1] = runs[-1][0], runs[-1][1] + count
            else:
                runs.append((pfn, count))
    return runs


def _join(runs: Runs, pfn: int) -> None:
    """Append a frame, to the last run if it follows."""
    if runs and runs[-1][0] + runs[-1][1] == pfn:
        runs[-1] = runs[-1][0], runs[-1][1] + 1
    else:
        runs.append((pfn, 1))
