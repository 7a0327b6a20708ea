"""Page tables in RAM, a table and a PTE at a time: what changes of ranges are made of.

The names are Linux's: ``set_pte``, ``ptep_get_and_clear``. Tables are named by their PA.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from emu.spec.paging import (
    PAGE_SHIFT,
    PAGE_SIZE,
    PTE_A,
    PTE_D,
    PTE_G,
    PTE_PPN_SHIFT,
    PTE_R,
    PTE_SIZE,
    PTE_U,
    PTE_V,
    PTE_W,
    PTE_X,
    PTES_PER_TABLE,
    PagingMode,
    is_leaf,
    make_pte,
    pte_pfn,
)
from mm.addrspace import Space
from mm.errors import BadPage, CorruptionError, OutOfMemory, PageTableError
from mm.gfp import GFP_KERNEL
from mm.lists import Lists
from mm.mm_struct import MAX_MMS, MmStruct
from mm.page import ALLOCATED_WORD, PAGE_WORDS, TABLE_WORD, W_PT_MM, W_TYPE_REF
from mm.page_alloc import PageAllocator

PAGE_BASE = PTE_V | PTE_A | PTE_D
PROT_BITS = PTE_R | PTE_W | PTE_X | PTE_U | PTE_G
RESERVED_SHIFT = 54  # of a PTE: from here on reserved, Svpbmt, Svnapot
_LEAF = PTE_R | PTE_W | PTE_X
_LAST = PTES_PER_TABLE - 1
_ZERO_TABLE = bytes(PAGE_SIZE)

PteArray = npt.NDArray[np.uint64]
Runs = list[tuple[int, int]]


class PgtableOps:
    """Tables and PTEs of one kernel; see PageTables."""

    def __init__(
        self,
        space: Space,
        lists: Lists,
        page_alloc: PageAllocator,
        init_mm: MmStruct,
        mmlist: int,
    ) -> None:
        self.space = space
        self.ram = space.ram
        self.mode: PagingMode = space.layout.mode
        self.lists = lists
        self.page_alloc = page_alloc
        self.init_mm = init_mm
        self.mmlist = mmlist
        self.top = self.mode.levels - 1
        self._u64 = space.ram.u64
        self._base = space.ram.base
        self._size = space.direct_end - space.page_offset
        self._page_offset = space.page_offset
        self._init_pa = init_mm.pa
        self._task_size, self._kernel_start = space.layout.task_size, space.layout.kernel_start
        self._upper_shifts = [self.mode.shift(level) for level in range(self.top, 0, -1)]

    def is_kernel(self, mm: MmStruct) -> bool:
        """Whether ``mm`` is init_mm."""
        return mm.pa == self._init_pa

    # roots

    def pgd_alloc(self, mm: MmStruct) -> None:
        """Give ``mm`` a root table: user half empty, kernel half that of init_mm.

        Raises OutOfMemory.
        """
        root = self.alloc_tables(mm, 1)[0]
        self.ram.write(root, _ZERO_TABLE)
        if mm.pa != self._init_pa:
            half = PAGE_SIZE // 2
            self.ram.write(root + half, self.ram.read(self.root(self.init_mm) + half, half))
        mm.pgd = self.space.va(root)

    def pgd_free(self, mm: MmStruct) -> None:
        """Free the root table of an ``mm`` whose user half is empty.

        Raises PageTableError when something is still mapped there.
        """
        root = self.root(mm)
        if self.ram.array(root, PTES_PER_TABLE // 2).any():
            raise PageTableError(f"pgd_free: the user half of the root at {root:#x} is in use")
        mm.pgd = 0
        self.free_tables(mm, [root])

    def root(self, mm: MmStruct) -> int:
        """The PA of the root table of ``mm``. Raises CorruptionError."""
        pgd = mm.pgd
        if pgd % PAGE_SIZE or not self.space.page_offset <= pgd < self.space.direct_end:
            raise CorruptionError(mm.C_NAME, self.space.va(mm.pa), f"pgd {pgd:#x} is no frame")
        return pgd - self.space.page_offset + self._base

    def satp(self, mm: MmStruct) -> int:
        """The satp that selects ``mm``."""
        return self.mode.satp(self.root(mm), mm.asid)

    def preallocate_pgd_range(self, start: int, end: int) -> None:
        """Make the table below every root entry of ``[start, end)`` (preallocate_pgd_pages_range).

        Raises OutOfMemory.
        """
        root = self.root(self.init_mm)
        first, last = self.mode.index(start, self.top), self.mode.index(end - 1, self.top)
        missing = [i for i in range(first, last + 1) if not self._u64[self.word(root, i)] & PTE_V]
        for i, table in zip(missing, self.alloc_tables(self.init_mm, len(missing)), strict=True):
            self.ram.write(table, _ZERO_TABLE)
            self.set_pte(self.init_mm, root, i, make_pte(table >> PAGE_SHIFT, PTE_V))

    # table frames

    def word(self, table: int, index: int) -> int:
        return ((table - self._base) >> 3) + index

    def trust_ptes(self, pa: int, entries: PteArray) -> None:
        """Raise PageTableError for entries (the first at ``pa``) that nothing here writes: with
        bits above the PPN, or without V and not 0."""
        used = entries[entries != 0]
        if (used >> np.uint64(RESERVED_SHIFT)).any() or not (used & np.uint64(PTE_V)).all():
            bad = (entries >> np.uint64(RESERVED_SHIFT) != 0) | (
                (entries != 0) & (entries & np.uint64(PTE_V) == 0)
            )
            i = int(bad.argmax())
            raise PageTableError(f"{int(entries[i]):#x} is no PTE", pa + i * PTE_SIZE)

    def table_of(self, pte: int) -> int:
        """The PA of the table a pointer PTE names. Raises PageTableError if that is no RAM."""
        pa = pte_pfn(pte) << PAGE_SHIFT
        if not self.ram.contains(pa, PAGE_SIZE):
            raise PageTableError(f"PTE {pte:#x} points to a table outside of RAM")
        return pa

    def alloc_tables(self, mm: MmStruct, count: int) -> list[int]:
        """PAs of ``count`` table frames, not zeroed, marked as tables of ``mm``. OutOfMemory."""
        if not count:
            return []
        runs = self.page_alloc.alloc_page_runs(GFP_KERNEL, count)
        if runs is None:
            raise OutOfMemory(f"no frames for {count} page tables")
        owner = self.space.va(mm.pa)
        tables: list[int] = []
        for pfn, n in runs:
            i = self.space.page_index(pfn)
            if n < 4:
                for at in range(i, i + n * PAGE_WORDS, PAGE_WORDS):
                    self._u64[at + W_PT_MM] = owner
                    self._u64[at + W_TYPE_REF] = TABLE_WORD
            else:
                pages = self.ram.array(self.space.page_pa(pfn), n * PAGE_WORDS)
                pages[W_PT_MM::PAGE_WORDS] = owner
                pages[W_TYPE_REF::PAGE_WORDS] = TABLE_WORD
            tables.extend(range(pfn << PAGE_SHIFT, (pfn + n) << PAGE_SHIFT, PAGE_SIZE))
        mm.pgtables_bytes += count * PAGE_SIZE
        return tables

    def free_tables(self, mm: MmStruct, tables: Iterable[int]) -> None:
        pfns = sorted(pa >> PAGE_SHIFT for pa in tables)
        for pfn in pfns:
            i = self.space.page_index(pfn)
            if not self.space.pfn_valid(pfn) or self._u64[i + W_TYPE_REF] != TABLE_WORD:
                raise BadPage(pfn, "it is freed as a page table and is none")
            self._u64[i + W_PT_MM] = 0
            self._u64[i + W_TYPE_REF] = ALLOCATED_WORD
        self.page_alloc.free_page_runs(runs_of(pfns))
        mm.pgtables_bytes -= len(pfns) * PAGE_SIZE

    def set_pte(self, mm: MmStruct, table: int, index: int, pte: int) -> None:
        """Store one PTE; a root entry of init_mm goes to every root."""
        self._u64[self.word(table, index)] = pte
        if mm.pa == self._init_pa and table == self.root(mm):
            for link in self.lists.walk(self.mmlist, MAX_MMS):
                other = MmStruct(self.ram, self.lists.resolve(link))
                if other.pgd:
                    self._u64[self.word(self.root(other), index)] = pte

    def ptep_get_and_clear(self, mm: MmStruct, table: int, index: int) -> int:
        """Clear one PTE: what it was. The caller owes the flush."""
        pte = self._u64[self.word(table, index)]
        self.set_pte(mm, table, index, 0)
        return pte

    def last_table(self, mm: MmStruct, va: int) -> int:
        """The PA of the table that holds the PTE of the 4 KiB page at ``va``; 0 if there is none,
        because a table is missing or a larger page is in its place, or what is there is no
        page table. Nothing is raised: whoever finds none looks closer."""
        u64 = self._u64
        offset = mm.pgd - self._page_offset
        for shift in self._upper_shifts:
            if offset & (PAGE_SIZE - 1) or not 0 <= offset < self._size:
                return 0
            pte = u64[(offset >> 3) + (va >> shift & _LAST)]
            if pte & (_LEAF | PTE_V) != PTE_V or pte >> RESERVED_SHIFT:
                return 0
            offset = (pte >> PTE_PPN_SHIFT << PAGE_SHIFT) - self._base
        return offset + self._base if 0 <= offset < self._size else 0

    def is_empty(self, table: int) -> bool:
        """Whether nothing hangs on a table."""
        word = self.word(table, 0)
        return self._u64[word : word + PTES_PER_TABLE].tobytes() == _ZERO_TABLE

    # ranges

    def check_range(self, mm: MmStruct, va: int, size: int) -> int:
        """The end of a range that may be ``mm``'s: aligned, canonical, in its half.

        Raises ValueError otherwise.
        """
        end = va + size
        if size <= 0 or va % PAGE_SIZE or size % PAGE_SIZE:
            raise ValueError(f"range of {size:#x} bytes at {va:#x}: not whole pages")
        if va < 0 or end > 1 << 64:
            raise ValueError(f"range of {size:#x} bytes at {va:#x}: not a 64-bit address")
        if mm.pa == self._init_pa:
            if va < self._kernel_start:
                raise ValueError(f"{va:#x} is not in the kernel half of {self.mode.name}")
        elif end > self._task_size:
            raise ValueError(f"{va:#x}-{end:#x} is not in the user half of {self.mode.name}")
        return end

    def check_prot(self, mm: MmStruct, prot: int) -> None:
        """Raise ValueError for a leaf that may not be: W^X, W without R, no access, U in the
        kernel, G in a process, bits that are no permission."""
        if prot & PTE_W and prot & PTE_X:
            raise ValueError("W^X: a page is writable or executable, not both")
        if prot & PTE_W and not prot & PTE_R:
            raise ValueError("a writable page must be readable: W=1, R=0 is reserved")
        if not prot & _LEAF:
            raise ValueError("a leaf without R, W and X would be a pointer to a table")
        if prot & ~(PROT_BITS | PAGE_BASE):
            raise ValueError(f"protection {prot:#x} has bits that are no permission")
        if mm.pa == self._init_pa and prot & PTE_U:
            raise ValueError("kernel pages are not user pages")
        if mm.pa != self._init_pa and prot & PTE_G:
            raise ValueError("only the kernel's pages are global")

    # reading

    def lookup(self, mm: MmStruct, va: int) -> tuple[int, int, int] | None:
        """The leaf that maps ``va``: ``(level, PA of the PTE, PTE)``, None if there is none."""
        table = self.root(mm)
        for level in range(self.top, -1, -1):
            word = self.word(table, self.mode.index(va, level))
            pte = self._u64[word]
            if not pte & PTE_V:
                return None
            if is_leaf(pte):
                return level, self._base + 8 * word, pte
            if level:
                table = self.table_of(pte)
        raise PageTableError(f"the level 0 PTE of {va:#x} points to a table")

    def tables(
        self, root_pa: int, first: int = 0, last: int = _LAST
    ) -> Iterator[tuple[int, int, int]]:
        """Every table under root entries ``first..last``, the root included: ``(PA, level, VA)``.

        Raises PageTableError when a table appears twice, lies outside of RAM, or a level 0
        PTE points to one. Bounded by that: no table is visited twice.
        """
        seen: set[int] = set()
        stack = [(root_pa, self.top, 0)]
        while stack:
            table, level, va = stack.pop()
            if table in seen:
                raise PageTableError(f"table at {table:#x} appears twice")
            seen.add(table)
            yield table, level, self.mode.canonical(va)
            entries = self.ram.array(table, PTES_PER_TABLE)
            valid = (entries & np.uint64(PTE_V)) != 0
            pointers = (valid & ((entries & np.uint64(_LEAF)) == 0)).nonzero()[0].tolist()
            for i in reversed(pointers):
                if level == self.top and not first <= i <= last:
                    continue
                if level == 0:
                    raise PageTableError(f"level 0 PTE at {table + 8 * i:#x} points to a table")
                child = self.table_of(int(entries[i]))
                stack.append((child, level - 1, va | i << self.mode.shift(level)))

    def leaf_arrays(
        self, root_pa: int, first: int = 0, last: int = _LAST
    ) -> Iterator[tuple[npt.NDArray[Any], int, PteArray]]:
        """The leaves table by table, as arrays: ``(VAs, level, PTEs)``. Raises as tables()."""
        for table, level, va in self.tables(root_pa, first, last):
            entries = self.ram.array(table, PTES_PER_TABLE)
            at = ((entries & np.uint64(PTE_V)) != 0) & ((entries & np.uint64(_LEAF)) != 0)
            index = at.nonzero()[0]
            if level == self.top:
                index = index[(index >= first) & (index <= last)]
            if not len(index):
                continue
            low = va & (1 << self.mode.va_bits) - 1
            vas = np.uint64(low) + (index.astype(np.uint64) << np.uint64(self.mode.shift(level)))
            sign = np.uint64(self.space.layout.kernel_start)
            vas = np.where(vas >= np.uint64(self.space.layout.task_size), vas | sign, vas)
            yield vas, level, entries[index]

    def leaves(self, root_pa: int, user_only: bool = False) -> Iterator[tuple[int, int, int]]:
        """Every leaf under the root: ``(va, level, pte)``, by VA within each table.

        Raises PageTableError as tables() does.
        """
        last = PTES_PER_TABLE // 2 - 1 if user_only else _LAST
        for vas, level, ptes in self.leaf_arrays(root_pa, 0, last):
            for va, pte in zip(vas.tolist(), ptes.tolist(), strict=True):
                yield va, level, pte


def runs_of(pfns: Sequence[int] | npt.NDArray[Any]) -> Runs:
    """Consecutive PFNs as runs ``(pfn, count)``, in the order given."""
    if len(pfns) < 2:
        return [(int(pfn), 1) for pfn in pfns]
    frames = np.asarray(pfns, dtype=np.int64)
    cuts = (np.diff(frames) != 1).nonzero()[0] + 1
    starts = np.concatenate(([0], cuts))
    counts = np.diff(np.concatenate((starts, [len(frames)])))
    return list(zip(frames[starts].tolist(), counts.tolist(), strict=True))
