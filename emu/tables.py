"""Whole page-table trees, of any guest: their leaves, merged ranges, and as a tree.

Reads RAM only and believes nothing of it: a table outside of RAM or one level too deep
ends that branch. Not a translation: permissions are shown as the leaf PTEs have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from emu.paging import (
    PAGE_SHIFT,
    PAGE_SIZE,
    PTE_V,
    PTES_PER_TABLE,
    PagingMode,
    is_leaf,
    pte_attributes,
    pte_pfn,
)
from emu.ram import Ram

ENTRIES_MAX = 1 << 22  # 16 GiB of 4 KiB pages


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
            raise TooManyEntries(
                f"more than {ENTRIES_MAX} PTEs below PA {root_pa:#x}: "
                "do its tables point to themselves?"
            )
        yield entry


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
        bad = ""
        if level == 0:
            bad = "points to a table at level 0"
        elif not ram.contains(pte_pfn(pte) << PAGE_SHIFT, PAGE_SIZE):
            bad = "its table is not in RAM"
        yield Entry(level, index, here, pte, bad)
        if not bad:
            yield from _entries(ram, mode, pte_pfn(pte) << PAGE_SHIFT, level - 1, here)


def ranges(ram: Ram, mode: PagingMode, root_pa: int) -> list[Range]:
    """The leaves merged as QEMU's `info mem` merges them."""
    found: list[Range] = []
    for entry in entries(ram, mode, root_pa):
        if not is_leaf(entry.pte):
            continue
        size, attributes = mode.span(entry.level), pte_attributes(entry.pte)
        last = found[-1] if found else None
        if (
            last is not None
            and last.attributes == attributes
            and last.va + last.size == entry.va
            and last.pa + last.size == entry.pa
        ):
            found[-1] = Range(last.va, last.pa, last.size + size, attributes)
        else:
            found.append(Range(entry.va, entry.pa, size, attributes))
    return found


def info_mem(found: list[Range]) -> str:
    """Ranges in the columns of QEMU's `info mem` for RISC-V."""
    lines = [
        "vaddr            paddr            size             attr",
        "---------------- ---------------- ---------------- -------",
    ]
    lines += [f"{r.va:016x} {r.pa:016x} {r.size:016x} {r.attributes}" for r in found]
    return "\n".join(lines)


def size_text(size: int) -> str:
    """A size in bytes in the largest unit that divides it."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024 or size % 1024:
            return f"{size} {unit}"
        size //= 1024
    return f"{size} EiB"


def tree(ram: Ram, mode: PagingMode, root_pa: int) -> str:
    """The tree, a line a PTE; leaves of one table that follow each other are one line."""
    lines = [f"{mode.name} root table at PA {root_pa:#x}"]
    run: list[Entry] = []

    def end_run() -> None:
        if not run:
            return
        first, last = run[0], run[-1]
        indices = f"{first.index:#x}" if len(run) == 1 else f"{first.index:#x}-{last.index:#x}"
        count = "" if len(run) == 1 else f"{len(run)} x "
        lines.append(
            f"{'  ' * (mode.levels - first.level)}[{indices}] {first.va:#018x} {count}"
            f"{size_text(mode.span(first.level))} at PA {first.pa:#x} {pte_attributes(first.pte)}"
        )
        run.clear()

    for entry in entries(ram, mode, root_pa):
        if is_leaf(entry.pte):
            follows = run and (
                run[-1].level == entry.level
                and run[-1].index + 1 == entry.index
                and run[-1].pa + mode.span(entry.level) == entry.pa
                and pte_attributes(run[-1].pte) == pte_attributes(entry.pte)
            )
            if not follows:
                end_run()
            run.append(entry)
            continue
        end_run()
        lines.append(
            f"{'  ' * (mode.levels - entry.level)}[{entry.index:#x}] {entry.va:#018x} table at "
            f"PA {entry.pa:#x}{f' ({entry.bad})' if entry.bad else ''}"
        )
    end_run()
    return "\n".join(lines)
