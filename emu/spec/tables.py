"""Whole page-table trees, of any guest: their leaves, merged ranges, and as a tree.

Reads RAM only and believes nothing of it: a table outside of RAM or one level too deep
ends that branch. Not a translation: permissions are shown as the leaf PTEs have them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from emu.ram import Ram
from emu.spec.paging import (
    PAGE_SHIFT,
    PAGE_SIZE,
    PTE_LETTERS,
    PTE_PPN_MASK,
    PTE_PPN_SHIFT,
    PTE_R,
    PTE_V,
    PTE_X,
    PTES_PER_TABLE,
    PagingMode,
    is_leaf,
    pte_attributes,
    pte_pfn,
)

ENTRIES_MAX = 1 << 22  # 16 GiB of 4 KiB pages

# For whole tables at once.
_V, _R_X = np.uint64(PTE_V), np.uint64(PTE_R | PTE_X)
_PPN, _PPN_TO_PA = np.uint64(PTE_PPN_MASK), np.uint64(PAGE_SHIFT - PTE_PPN_SHIFT)
_ATTRIBUTES = np.uint64(sum(bit for bit, _ in PTE_LETTERS))
_attributes = cache(pte_attributes)


@dataclass(frozen=True, slots=True)
class Entry:
    """One valid PTE: its level, the VA that it translates from, its value.

    ``bad`` says why a pointer was not followed.
    """

    level: int
    index: int
    va: int
    pte: int
    bad: str = ""

    @property
    def pa(self) -> int:
        """The PA of the page or table that it names."""
        return pte_pfn(self.pte) << PAGE_SHIFT


@dataclass(frozen=True, slots=True)
class Run:
    """``count`` leaf PTEs of one table that follow each other, or one pointer to a table.

    The first has ``index`` and maps ``va`` to ``pa``; of leaves the PAs are contiguous and
    the attributes the same. A pointer has no ``attributes``, and ``bad`` as in `Entry`.
    """

    level: int
    index: int
    count: int
    va: int
    pa: int
    attributes: str  # rwxugad
    bad: str = ""


@dataclass(frozen=True, slots=True)
class Range:
    """Neighbouring leaves: VAs and PAs contiguous, the same attributes. Sizes in bytes."""

    va: int
    pa: int
    size: int
    attributes: str  # rwxugad


class TooManyEntries(ValueError):
    """More PTEs than ENTRIES_MAX: tables that point to themselves make endless trees."""


def entries(ram: Ram, mode: PagingMode, root_pa: int) -> Iterator[Entry]:
    """Every valid PTE of the tree at ``root_pa``, a table before what it holds, by VA.

    Raises TooManyEntries.
    """
    for count, entry in enumerate(_entries(ram, mode, root_pa, mode.levels - 1, 0)):
        if count == ENTRIES_MAX:
            raise _too_many(root_pa)
        yield entry


def _too_many(root_pa: int) -> TooManyEntries:
    return TooManyEntries(
        f"more than {ENTRIES_MAX} PTEs below PA {root_pa:#x}: do its tables point to themselves?"
    )


def _why_bad(ram: Ram, level: int, table: int) -> str:
    """Why a pointer of ``level`` to the table at ``table`` (PA) is not followed, "" if it is."""
    if level == 0:
        return "points to a table at level 0"
    return "" if ram.contains(table, PAGE_SIZE) else "its table is not in RAM"


def _entries(ram: Ram, mode: PagingMode, table: int, level: int, va: int) -> Iterator[Entry]:
    if not ram.contains(table, PAGE_SIZE):
        return
    ptes = ram.array(table, PTES_PER_TABLE)
    for index in np.flatnonzero(ptes & np.uint64(PTE_V)).tolist():
        pte = int(ptes[index])
        here = mode.canonical(va + (index << mode.shift(level)))
        if is_leaf(pte):
            yield Entry(level, index, here, pte)
            continue
        bad = _why_bad(ram, level, pte_pfn(pte) << PAGE_SHIFT)
        yield Entry(level, index, here, pte, bad)
        if not bad:
            yield from _entries(ram, mode, pte_pfn(pte) << PAGE_SHIFT, level - 1, here)


def runs(ram: Ram, mode: PagingMode, root_pa: int) -> Iterator[Run]:
    """The tree as `entries` has it, in runs: many times faster for a tree of many pages.

    Raises TooManyEntries, before the first run.
    """
    count = 0
    tables = [(root_pa, mode.levels - 1)] if ram.contains(root_pa, PAGE_SIZE) else []
    while tables:
        table, level = tables.pop()
        ptes = ram.array(table, PTES_PER_TABLE)
        ptes = ptes[ptes & _V != 0]
        count += len(ptes)
        if count > ENTRIES_MAX:
            raise _too_many(root_pa)
        pas = ((ptes[ptes & _R_X == 0] & _PPN) << _PPN_TO_PA).tolist()
        tables += [(pa, level - 1) for pa in pas if not _why_bad(ram, level, pa)]
    return _runs(ram, mode, root_pa, mode.levels - 1, 0)


def _runs(ram: Ram, mode: PagingMode, table: int, level: int, va: int) -> Iterator[Run]:
    if not ram.contains(table, PAGE_SIZE):
        return
    ptes = ram.array(table, PTES_PER_TABLE)
    indices = np.flatnonzero(ptes & _V)
    if not len(indices):
        return
    ptes = ptes[indices]
    is_leaf_pte = ptes & _R_X != 0
    attributes = ptes & _ATTRIBUTES
    pas = (ptes & _PPN) << _PPN_TO_PA
    # Whether a PTE goes on where the one before it ends.
    goes_on = is_leaf_pte[1:] & is_leaf_pte[:-1] & (np.diff(indices) == 1)
    goes_on &= attributes[1:] == attributes[:-1]
    goes_on &= pas[1:] - pas[:-1] == np.uint64(mode.span(level))
    starts = np.flatnonzero(np.concatenate(([True], ~goes_on)))
    counts = np.diff(starts, append=len(ptes)).tolist()
    of = (indices[starts], pas[starts], attributes[starts], is_leaf_pte[starts])
    for count, index, pa, bits, leaf in zip(counts, *(one.tolist() for one in of), strict=True):
        here = mode.canonical(va + (index << mode.shift(level)))
        if leaf:
            yield Run(level, index, count, here, pa, _attributes(bits))
            continue
        bad = _why_bad(ram, level, pa)
        yield Run(level, index, 1, here, pa, "", bad)
        if not bad:
            yield from _runs(ram, mode, pa, level - 1, here)


def ranges(ram: Ram, mode: PagingMode, root_pa: int) -> Iterator[Range]:
    """The leaves merged as QEMU's `info mem` merges them. Raises TooManyEntries, at once."""
    return _ranges(mode, runs(ram, mode, root_pa))


def _ranges(mode: PagingMode, found: Iterator[Run]) -> Iterator[Range]:
    va = pa = size = 0
    attributes = ""
    for run in found:
        if not run.attributes:
            continue
        more = run.count << mode.shift(run.level)
        if size and (run.va, run.pa, run.attributes) == (va + size, pa + size, attributes):
            size += more
            continue
        if size:
            yield Range(va, pa, size, attributes)
        va, pa, size, attributes = run.va, run.pa, more, run.attributes
    if size:
        yield Range(va, pa, size, attributes)


INFO_MEM_HEAD = (
    "vaddr            paddr            size             attr",
    "---------------- ---------------- ---------------- -------",
)


def info_mem_line(it: Range) -> str:
    """A range in the columns of QEMU's `info mem` for RISC-V."""
    return f"{it.va:016x} {it.pa:016x} {it.size:016x} {it.attributes}"


def info_mem(found: Iterable[Range]) -> str:
    """Ranges as QEMU's `info mem` shows them, with its head."""
    return "\n".join([*INFO_MEM_HEAD, *map(info_mem_line, found)])


def size_text(size: int) -> str:
    """A size in bytes in the largest unit that divides it."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024 or size % 1024:
            return f"{size} {unit}"
        size //= 1024
    return f"{size} EiB"


def tree_lines(ram: Ram, mode: PagingMode, root_pa: int) -> Iterator[str]:
    """The tree, a line a PTE; leaves of one table that follow each other are one line.

    Raises TooManyEntries, before the first line.
    """
    return _tree_lines(mode, root_pa, runs(ram, mode, root_pa))


def _tree_lines(mode: PagingMode, root_pa: int, found: Iterator[Run]) -> Iterator[str]:
    yield f"{mode.name} root table at PA {root_pa:#x}"
    for run in found:
        indices = f"{run.index:#x}"
        count = ""
        if run.count > 1:
            indices += f"-{run.index + run.count - 1:#x}"
            count = f"{run.count} x "
        what = f"{count}{size_text(mode.span(run.level))} at PA {run.pa:#x} {run.attributes}"
        if not run.attributes:
            what = f"table at PA {run.pa:#x}{f' ({run.bad})' if run.bad else ''}"
        yield f"{'  ' * (mode.levels - run.level)}[{indices}] {run.va:#018x} {what}"


def tree(ram: Ram, mode: PagingMode, root_pa: int) -> str:
    """The lines of `tree_lines`."""
    return "\n".join(tree_lines(ram, mode, root_pa))
