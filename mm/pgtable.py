"""Building, changing and tearing down page tables in RAM, for Sv39, Sv48 and Sv57 alike.

**Shape of the work.** A range is cut into segments of one page size each. For a segment the
tables it needs are found level by level; those missing are counted, nothing is changed until
it is known that no leaf is in the way and that the frames for the tables are there. Tables
come from the buddy in runs, so the PTEs of a large segment are a few numpy writes.

**Owners.** Every table frame is a ``ptdesc`` (page_type table) whose ``pt_mm`` points to the
``mm_struct`` it belongs to. The tables of the kernel half belong to init_mm alone; process
roots copy its root entries once. The second-level tables of the vmalloc and modules areas
are therefore made at boot and never freed, and should a root entry of init_mm change after
all (a 1 GiB leaf of Sv39's direct map is split), every root on the mm list gets the copy.

**Flushes owed** (privileged spec, section on SFENCE.VMA), performed through HartOps:

| change | flush |
|---|---|
| invalid -> valid | none (an implementation may fault spuriously, Unicorn does not) |
| valid leaf changed or cleared, at most TLB_FLUSH_ALL_THRESHOLD leaves | each page |
| more leaves, or a table unlinked (a page flush orders leaf PTEs only) | ASID; kernel: all |
| superpage split, same translation | none |
| frames become executable, or stop being so | icache, by runs of frames |

Frames of tables go back to the buddy after the flush, as do those of pages, which are the
caller's. VAs, PAs and sizes are in bytes, multiples of a page.
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
    SATP_ASID_MASK,
    VPN_BITS,
    PagingMode,
    is_leaf,
    make_pte,
    pte_pfn,
)
from mm.addrspace import Space
from mm.errors import BadPage, CorruptionError, MappingExists, OutOfMemory, PageTableError
from mm.gfp import GFP_KERNEL
from mm.hart import FLUSH_TLB_NO_ASID, HartOps
from mm.layout import ListHead, Struct, nested, ptr, s32, u32, u64
from mm.lists import Lists
from mm.page import ALLOCATED_WORD, PAGE_WORDS, TABLE_WORD, W_PT_MM, W_TYPE_REF
from mm.page_alloc import PageAllocator

TLB_FLUSH_ALL_THRESHOLD = 64  # pages (Linux: tlb_flush_all_threshold)
MAX_MMS = 1 << 16  # as many as there are ASIDs

_PAGE_BASE = PTE_V | PTE_A | PTE_D
PAGE_NONE = 0
PAGE_READ = _PAGE_BASE | PTE_U | PTE_R
PAGE_WRITE = _PAGE_BASE | PTE_U | PTE_R | PTE_W
PAGE_EXEC = _PAGE_BASE | PTE_U | PTE_R | PTE_X
PAGE_EXEC_ONLY = _PAGE_BASE | PTE_U | PTE_X
PAGE_KERNEL = _PAGE_BASE | PTE_G | PTE_R | PTE_W
PAGE_KERNEL_READ = _PAGE_BASE | PTE_G | PTE_R
PAGE_KERNEL_EXEC = _PAGE_BASE | PTE_G | PTE_R | PTE_X

_PROT_BITS = PTE_R | PTE_W | PTE_X | PTE_U | PTE_G
_LEAF = PTE_R | PTE_W | PTE_X
_LAST = PTES_PER_TABLE - 1
_ZERO_TABLE = bytes(PAGE_SIZE)
_RESERVED_SHIFT = 54  # of a PTE: from here on reserved, Svpbmt, Svnapot
_VECTOR_MIN = 48  # from here on numpy beats a loop

PteArray = npt.NDArray[np.uint64]
Runs = list[tuple[int, int]]


class MmStruct(Struct, c_name="mm_struct"):
    """An address space. VAs in bytes; *_vm in pages."""

    mmlist = nested(ListHead)  # all address spaces, headed in vmcoreinfo
    mmap = nested(ListHead)  # head of the list of VMAs, by address
    map_count = u64()
    pgd = ptr("uint64_t")
    mm_users = s32()
    asid = u32()
    pgtables_bytes = u64()
    total_vm = u64()
    task_size = u64()
    mmap_base = u64()
    start_brk = u64()
    brk = u64()
    start_stack = u64()

    def problem(self, space: Space) -> str | None:
        if self.pgd and (
            self.pgd % PAGE_SIZE or not space.page_offset <= self.pgd < space.direct_end
        ):
            return f"pgd {self.pgd:#x} is no frame"
        if self.asid > SATP_ASID_MASK:
            return f"asid {self.asid:#x} is of more than 16 bits"
        return None


class PageTables:
    """Page-table operations of one kernel.

    ``init_mm``: the kernel's own mm_struct; ``mmlist``: VA of the head of all others.
    """

    def __init__(
        self,
        space: Space,
        lists: Lists,
        page_alloc: PageAllocator,
        hart: HartOps,
        init_mm: MmStruct,
        mmlist: int,
    ) -> None:
        self.space = space
        self.ram = space.ram
        self.mode: PagingMode = space.layout.mode
        self.lists = lists
        self.page_alloc = page_alloc
        self.hart = hart
        self.init_mm = init_mm
        self.mmlist = mmlist
        self._u64 = space.ram.u64
        self._base = space.ram.base
        self._top = self.mode.levels - 1

    # roots

    def pgd_alloc(self, mm: MmStruct) -> None:
        """Give ``mm`` a root table: user half empty, kernel half that of init_mm.

        Raises OutOfMemory.
        """
        root = self._alloc_tables(mm, 1)[0]
        self.ram.write(root, _ZERO_TABLE)
        if mm != self.init_mm:
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
        self._free_tables(mm, [root])

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
        first, last = self.mode.index(start, self._top), self.mode.index(end - 1, self._top)
        missing = [i for i in range(first, last + 1) if not self._u64[self._word(root, i)] & PTE_V]
        for i, table in zip(missing, self._alloc_tables(self.init_mm, len(missing)), strict=True):
            self.ram.write(table, _ZERO_TABLE)
            self._write_entry(self.init_mm, root, i, make_pte(table >> PAGE_SHIFT, PTE_V))

    # table frames

    def _word(self, table: int, index: int) -> int:
        return ((table - self._base) >> 3) + index

    def _trust_ptes(self, pa: int, entries: PteArray) -> None:
        """Raise PageTableError for entries (the first at ``pa``) that nothing here writes: with
        bits above the PPN, or without V and not 0."""
        used = entries[entries != 0]
        if (used >> np.uint64(_RESERVED_SHIFT)).any() or not (used & np.uint64(PTE_V)).all():
            bad = (entries >> np.uint64(_RESERVED_SHIFT) != 0) | (
                (entries != 0) & (entries & np.uint64(PTE_V) == 0)
            )
            i = int(bad.argmax())
            raise PageTableError(f"{int(entries[i]):#x} is no PTE", pa + i * PTE_SIZE)

    def _table_of(self, pte: int) -> int:
        """The PA of the table a pointer PTE names. Raises PageTableError if that is no RAM."""
        pa = pte_pfn(pte) << PAGE_SHIFT
        if not self.ram.contains(pa, PAGE_SIZE):
            raise PageTableError(f"PTE {pte:#x} points to a table outside of RAM")
        return pa

    def _alloc_tables(self, mm: MmStruct, count: int) -> list[int]:
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

    def _free_tables(self, mm: MmStruct, tables: Iterable[int]) -> None:
        pfns = sorted(pa >> PAGE_SHIFT for pa in tables)
        for pfn in pfns:
            i = self.space.page_index(pfn)
            if not self.space.pfn_valid(pfn) or self._u64[i + W_TYPE_REF] != TABLE_WORD:
                raise BadPage(pfn, "it is freed as a page table and is none")
            self._u64[i + W_PT_MM] = 0
            self._u64[i + W_TYPE_REF] = ALLOCATED_WORD
        self.page_alloc.free_page_runs(runs_of(pfns))
        mm.pgtables_bytes -= len(pfns) * PAGE_SIZE

    def _write_entry(self, mm: MmStruct, table: int, index: int, pte: int) -> None:
        """Store one PTE; a root entry of init_mm goes to every root."""
        self._u64[self._word(table, index)] = pte
        if mm == self.init_mm and table == self.root(mm):
            for link in self.lists.walk(self.mmlist, MAX_MMS):
                other = MmStruct(self.ram, self.lists.resolve(link))
                if other.pgd:
                    self._u64[self._word(self.root(other), index)] = pte

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
        if mm == self.init_mm:
            if va < self.space.layout.kernel_start:
                raise ValueError(f"{va:#x} is not in the kernel half of {self.mode.name}")
        elif end > self.space.layout.task_size:
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
        if prot & ~(_PROT_BITS | _PAGE_BASE):
            raise ValueError(f"protection {prot:#x} has bits that are no permission")
        if mm == self.init_mm and prot & PTE_U:
            raise ValueError("kernel pages are not user pages")
        if mm != self.init_mm and prot & PTE_G:
            raise ValueError("only the kernel's pages are global")

    # mapping

    def map_range(
        self, mm: MmStruct, va: int, pa: int, size: int, prot: int, max_level: int = 2
    ) -> None:
        """Map ``[va, va + size)`` to ``[pa, ...)`` with the largest pages that fit.

        ``max_level`` bounds them: 0 is 4 KiB, 1 is 2 MiB, 2 is 1 GiB. A and D are set.
        Raises MappingExists, OutOfMemory (nothing changed); ValueError for a range or
        protection that may not be (see check_range, check_prot).
        """
        end = self.check_range(mm, va, size)
        self.check_prot(mm, prot)
        if pa < 0 or pa % PAGE_SIZE or pa + size > 1 << 56:
            raise ValueError(f"physical address {pa:#x} is not that of a page")
        flags = prot | _PAGE_BASE
        segments: list[tuple[int, int, PteArray | tuple[int, int], int]] = []
        at = va
        limit = min(max_level, self._top)
        while at < end:
            level = limit
            here = pa + (at - va)
            while level and (
                (at | here) & (self.mode.span(level) - 1) or at + self.mode.span(level) > end
            ):
                level -= 1
            span = self.mode.span(level)
            stop = end // span * span if level else end
            if level < limit:
                # Up to where the next larger page may start, if it fits from there on.
                larger = self.mode.span(level + 1)
                boundary = -(-at // larger) * larger
                if boundary == at:
                    boundary += larger
                if not (at ^ here) & (larger - 1) and boundary + larger <= end:
                    stop = boundary
            count = (stop - at) // span
            first = make_pte(here >> PAGE_SHIFT, flags)
            segments.append((level, at, (first, span >> PAGE_SHIFT << PTE_PPN_SHIFT), count))
            at += count * span
        self._install_all(mm, segments)
        if prot & PTE_X:
            self.hart.flush_icache(pa >> PAGE_SHIFT, size >> PAGE_SHIFT)

    def map_pages(
        self, mm: MmStruct, va: int, pfns: Sequence[int] | npt.NDArray[Any], prot: int
    ) -> None:
        """Map scattered frames (PFNs) to consecutive 4 KiB pages from ``va``.

        Raises as map_range does.
        """
        frames = np.asarray(pfns, dtype=np.uint64)
        self.check_range(mm, va, len(frames) << PAGE_SHIFT)
        self.check_prot(mm, prot)
        ptes = frames << np.uint64(PTE_PPN_SHIFT)
        ptes |= np.uint64(prot | _PAGE_BASE)
        self._install_all(mm, [(0, va, ptes, len(frames))])
        if prot & PTE_X:
            for pfn, count in runs_of(frames):
                self.hart.flush_icache(pfn, count)

    def map_runs(self, mm: MmStruct, va: int, runs: Runs, prot: int) -> None:
        """Map runs of frames ``(pfn, count)`` to consecutive 4 KiB pages from ``va``."""
        parts = [np.arange(pfn, pfn + n, dtype=np.uint64) for pfn, n in runs]
        self.map_pages(mm, va, np.concatenate(parts) if parts else [], prot)

    def _install_all(
        self,
        mm: MmStruct,
        segments: list[tuple[int, int, PteArray | tuple[int, int], int]],
    ) -> None:
        """Install segments ``(level, va, ptes, count)``, all or none."""
        root = self.root(mm)
        plans = [
            self._plan(root, va, va + (count << self.mode.shift(level)), level)
            for level, va, _, count in segments
        ]
        done: list[tuple[Runs, list[tuple[int, int]], list[int]]] = []
        try:
            for i, (level, va, ptes, count) in enumerate(segments):
                if i:  # the segments before may have made some of its tables
                    plans[i] = self._plan(root, va, va + (count << self.mode.shift(level)), level)
                done.append(self._install(mm, root, plans[i], va, ptes, count))
        except OutOfMemory:
            for leaves, pointers, tables in reversed(done):
                for word, n in leaves:
                    self._write_ptes(mm, root, word, n, np.zeros(n, dtype=np.uint64), 0)
                for table, index in pointers:
                    self._write_entry(mm, table, index, 0)
                if tables:
                    self._free_tables(mm, tables)
            raise

    def _plan(self, root: int, va: int, end: int, level: int) -> list[list[int]]:
        """The tables that hold the PTEs of ``[va, end)`` at ``level``.

        One list of PAs for each level from the root down to ``level``, in VA order, 0 for
        a table that is missing. Raises MappingExists when a leaf is in the way.
        """
        u64, base = self._u64, self._base
        tables = [root]
        plan = [tables]
        for k in range(self._top, level, -1):
            shift = self.mode.shift(k)
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
                    children.append(self._table_of(pte))
            tables = children
            plan.append(tables)
        shift = self.mode.shift(level)
        for table, index, count, at in self._slots(tables, va >> shift, (end - va) >> shift):
            if table:
                entries = self.ram.array(table + index * PTE_SIZE, count)
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

    def _install(
        self,
        mm: MmStruct,
        root: int,
        plan: list[list[int]],
        va: int,
        ptes: PteArray | tuple[int, int],
        count: int,
    ) -> tuple[Runs, list[tuple[int, int]], list[int]]:
        """Write one segment; what it wrote: runs of PTE words, pointers, new tables."""
        shift = self.mode.shift(self._top - len(plan) + 1)
        missing = sum(tables.count(0) for tables in plan)
        fresh = self._alloc_tables(mm, missing)
        supply = iter(fresh)
        pointers: list[tuple[int, int, int]] = []
        # The lowest level first: it has the most tables, and they should be adjacent.
        for depth in range(len(plan) - 1, 0, -1):
            tables = plan[depth]
            for i, table in enumerate(tables):
                if not table:
                    tables[i] = next(supply)
                    pointers.append((depth, i, tables[i]))
        written: Runs = []
        partial = set(fresh)
        for table, index, n, _ in self._slots(plan[-1], va >> shift, count):
            if n == PTES_PER_TABLE:
                partial.discard(table)
            word = self._word(table, index)
            if written and written[-1][0] + written[-1][1] == word:
                written[-1] = written[-1][0], written[-1][1] + n
            else:
                written.append((word, n))
        for table in partial:
            self.ram.write(table, _ZERO_TABLE)
        at = 0
        for word, n in written:
            self._write_ptes(mm, root, word, n, ptes, at)
            at += n
        # Pointers after the PTEs: the hart sees whole tables only.
        links = []
        for depth, i, table in pointers:
            unit = (va >> self.mode.shift(self._top - depth + 1)) + i
            first = va >> self.mode.shift(self._top - depth + 2)
            parent = plan[depth - 1][(unit >> VPN_BITS) - first]
            pte = make_pte(table >> PAGE_SHIFT, PTE_V)
            if parent == root:
                self._write_entry(mm, parent, unit & _LAST, pte)
            else:
                self._u64[self._word(parent, unit & _LAST)] = pte
            links.append((parent, unit & _LAST))
        return written, links, fresh

    def _write_ptes(
        self,
        mm: MmStruct,
        root: int,
        word: int,
        n: int,
        ptes: PteArray | tuple[int, int],
        at: int,
    ) -> None:
        root_word = self._word(root, 0)
        if n < _VECTOR_MIN or root_word <= word < root_word + PTES_PER_TABLE:
            table = self._base + (word >> VPN_BITS << PAGE_SHIFT)
            for i in range(n):
                pte = ptes[0] + ptes[1] * (at + i) if isinstance(ptes, tuple) else int(ptes[at + i])
                if table == root:
                    self._write_entry(mm, table, (word + i) & _LAST, pte)
                else:
                    self._u64[word + i] = pte
            return
        view = self.ram.array(self._base + 8 * word, n)
        if isinstance(ptes, tuple):
            first, step = ptes
            start = first + step * at
            view[:] = np.arange(start, start + step * n, step, dtype=np.uint64)
        else:
            view[:] = ptes[at : at + n]

    # unmapping and protecting

    def unmap_range(self, mm: MmStruct, va: int, size: int) -> Runs:
        """Unmap what is mapped in the range; runs of the frames ``(pfn, count)``, in VA order.

        The frames stay the caller's. Superpages that the range covers in part are split,
        tables left empty are freed. Raises OutOfMemory when a split has no table (nothing
        changed), ValueError for a bad range.
        """
        end = self.check_range(mm, va, size)
        self._split_edges(mm, va, end)
        gone: list[tuple[int, int, PteArray]] = []
        empty: list[int] = []
        self._clear(mm, self.root(mm), self._top, va, end, gone, empty)
        self._flush(mm, gone, bool(empty), _executable(gone))
        if empty:
            self._free_tables(mm, empty)
        return _frame_runs(self.mode, gone)

    def vunmap_range_noflush(self, va: int, size: int) -> None:
        """Clear the kernel's leaves in the range; their frames are the caller's to free.

        Nothing is flushed and no table is freed: the caller owes flush_tlb_all before the
        VAs are used again, and free_pgtables for the tables. Superpages must lie in the
        range whole, or it raises OutOfMemory when a split has no table (nothing changed).
        Executable frames are reported to the hart at once: they are code no longer.
        """
        end = self.check_range(self.init_mm, va, size)
        self._split_edges(self.init_mm, va, end)
        gone: list[tuple[int, int, PteArray]] = []
        self._clear(self.init_mm, self.root(self.init_mm), self._top, va, end, gone, None)
        code = [leaf for leaf in _executable(gone) if len(leaf[2])]
        for pfn, n in _frame_runs(self.mode, code):
            self.hart.flush_icache(pfn, n)

    def unlink_empty_tables(self, va: int, end: int) -> list[int]:
        """Unlink the kernel's tables in ``[va, end)`` that map nothing: their PAs.

        They go to free_tables once the flush that the caller owes (all) is done.
        """
        empty: list[int] = []
        self._unlink_empty(self.root(self.init_mm), self._top, va, end, empty)
        return empty

    def _unlink_empty(self, table: int, level: int, va: int, end: int, empty: list[int]) -> None:
        shift = self.mode.shift(level)
        for unit in range(va >> shift, ((end - 1) >> shift) + 1):
            pte = self._u64[self._word(table, unit & _LAST)]
            if not pte & PTE_V or pte & _LEAF:
                continue
            child = self._table_of(pte)
            if level > 1:
                start = unit << shift
                low, high = max(va, start), min(end, start + (1 << shift))
                self._unlink_empty(child, level - 1, low, high, empty)
            if level == self._top:
                continue  # process roots point to it
            if not self.ram.array(child, PTES_PER_TABLE).any():
                self._write_entry(self.init_mm, table, unit & _LAST, 0)
                empty.append(child)

    def free_tables(self, tables: list[int]) -> None:
        """Free what unlink_empty_tables returned."""
        if tables:
            self._free_tables(self.init_mm, tables)

    def protect_range(self, mm: MmStruct, va: int, size: int, prot: int) -> int:
        """Give every page mapped in the range the permissions ``prot``; holes stay holes.

        Returns the number of leaves that changed. Raises as unmap_range does, and
        ValueError for a protection that may not be.
        """
        end = self.check_range(mm, va, size)
        self.check_prot(mm, prot)
        self._split_edges(mm, va, end, prot & _PROT_BITS)
        changed: list[tuple[int, int, PteArray]] = []
        self._protect(mm, self.root(mm), self._top, va, end, prot & _PROT_BITS, changed)
        toggled = [
            (at, level, old[(old & np.uint64(PTE_X)) != np.uint64(prot & PTE_X)])
            for at, level, old in changed
        ]
        self._flush(mm, changed, False, toggled)
        return sum(len(old) for _, _, old in changed)

    def _flush(
        self,
        mm: MmStruct,
        leaves: list[tuple[int, int, PteArray]],
        tables_gone: bool,
        code: list[tuple[int, int, PteArray]],
    ) -> None:
        """The flushes owed for leaves ``(va, level, old PTEs)`` and for code frames."""
        kernel = mm == self.init_mm
        count = sum(int((old != 0).sum()) for _, _, old in leaves)
        if tables_gone or count > TLB_FLUSH_ALL_THRESHOLD:
            if kernel:
                self.hart.flush_tlb_all()
            else:
                self.hart.flush_tlb_mm(mm.asid)
        else:
            asid = FLUSH_TLB_NO_ASID if kernel else mm.asid
            for va, level, old in leaves:
                for i in old.nonzero()[0].tolist():
                    self.hart.flush_tlb_page(va + (i << self.mode.shift(level)), asid)
        for pfn, n in _frame_runs(self.mode, code):
            self.hart.flush_icache(pfn, n)

    def _clear(
        self,
        mm: MmStruct,
        table: int,
        level: int,
        va: int,
        end: int,
        gone: list[tuple[int, int, PteArray]],
        empty: list[int] | None,
    ) -> None:
        """Clear leaves into ``gone``; unlink tables left empty into ``empty`` unless None."""
        shift = self.mode.shift(level)
        index, count = self.mode.index(va, level), ((end - 1) >> shift) - (va >> shift) + 1
        entries = self.ram.array(table + index * PTE_SIZE, count)
        self._trust_ptes(table + index * PTE_SIZE, entries)
        if level == 0:
            if entries.any():
                gone.append((va, 0, entries.copy()))
                entries[:] = 0
            return
        for i in entries.nonzero()[0].tolist():
            pte = int(entries[i])
            start = ((va >> shift) + i) << shift
            if pte & _LEAF:
                gone.append((start, level, np.array([pte], dtype=np.uint64)))
                self._write_entry(mm, table, index + i, 0)
                continue
            child = self._table_of(pte)
            low, high = max(va, start), min(end, start + (1 << shift))
            self._clear(mm, child, level - 1, low, high, gone, empty)
            if empty is None:
                continue
            if mm == self.init_mm and level == self._top:
                continue  # process roots point to it
            if not self.ram.array(child, PTES_PER_TABLE).any():
                self._write_entry(mm, table, index + i, 0)
                empty.append(child)

    def _protect(
        self,
        mm: MmStruct,
        table: int,
        level: int,
        va: int,
        end: int,
        prot: int,
        changed: list[tuple[int, int, PteArray]],
    ) -> None:
        shift = self.mode.shift(level)
        index, count = self.mode.index(va, level), ((end - 1) >> shift) - (va >> shift) + 1
        entries = self.ram.array(table + index * PTE_SIZE, count)
        self._trust_ptes(table + index * PTE_SIZE, entries)
        if level == 0:
            old = entries.copy()
            new = np.where(
                old & np.uint64(PTE_V),
                old & np.uint64(~_PROT_BITS & (1 << 64) - 1) | np.uint64(prot),
                old,
            )
            old[old == new] = 0
            if old.any():
                entries[:] = new
                first = int(old.nonzero()[0][0])
                last = int(old.nonzero()[0][-1])
                run = old[first : last + 1]
                if run.all():
                    changed.append((va + (first << PAGE_SHIFT), 0, run))
                else:
                    for i in old.nonzero()[0].tolist():
                        changed.append((va + (i << PAGE_SHIFT), 0, old[i : i + 1]))
            return
        for i in entries.nonzero()[0].tolist():
            pte = int(entries[i])
            start = ((va >> shift) + i) << shift
            if pte & _LEAF:
                if pte & _PROT_BITS != prot:
                    changed.append((start, level, np.array([pte], dtype=np.uint64)))
                    self._write_entry(mm, table, index + i, pte & ~_PROT_BITS | prot)
                continue
            low, high = max(va, start), min(end, start + (1 << shift))
            self._protect(mm, self._table_of(pte), level - 1, low, high, prot, changed)

    def _split_edges(self, mm: MmStruct, va: int, end: int, prot: int | None = None) -> None:
        """Split the superpages that ``va`` and ``end`` cut through; both or none.

        One that has the permissions ``prot`` already may stay whole.
        """
        undo: list[tuple[int, int, int, list[int]]] = []
        try:
            for edge in (va, end):
                self._split_at(mm, edge, prot, undo)
        except OutOfMemory:
            for table, index, pte, tables in reversed(undo):
                self._write_entry(mm, table, index, pte)
                self._free_tables(mm, tables)
            raise

    def _split_at(
        self,
        mm: MmStruct,
        edge: int,
        prot: int | None,
        undo: list[tuple[int, int, int, list[int]]],
    ) -> None:
        """Make ``edge`` a boundary between leaves. Translations stay as they are."""
        table, level = self.root(mm), self._top
        while edge & (self.mode.span(level) - 1):
            index = self.mode.index(edge, level)
            pte = self._u64[self._word(table, index)]
            if not pte & PTE_V:
                return
            if not pte & _LEAF:
                table, level = self._table_of(pte), level - 1
                continue
            if pte & _PROT_BITS == prot:
                return
            if pte >> _RESERVED_SHIFT:
                raise PageTableError(
                    f"{pte:#x} is no PTE", self._base + 8 * self._word(table, index)
                )
            child = self._alloc_tables(mm, 1)[0]
            step = self.mode.span(level - 1) >> PAGE_SHIFT << PTE_PPN_SHIFT
            self.ram.array(child, PTES_PER_TABLE)[:] = np.arange(
                pte, pte + step * PTES_PER_TABLE, step, dtype=np.uint64
            )
            self._write_entry(mm, table, index, make_pte(child >> PAGE_SHIFT, PTE_V))
            undo.append((table, index, pte, [child]))
            table, level = child, level - 1

    # reading

    def lookup(self, mm: MmStruct, va: int) -> tuple[int, int, int] | None:
        """The leaf that maps ``va``: ``(level, PA of the PTE, PTE)``, None if there is none."""
        table = self.root(mm)
        for level in range(self._top, -1, -1):
            word = self._word(table, self.mode.index(va, level))
            pte = self._u64[word]
            if not pte & PTE_V:
                return None
            if is_leaf(pte):
                return level, self._base + 8 * word, pte
            if level:
                table = self._table_of(pte)
        raise PageTableError(f"the level 0 PTE of {va:#x} points to a table")

    def tables(
        self, root_pa: int, first: int = 0, last: int = _LAST
    ) -> Iterator[tuple[int, int, int]]:
        """Every table under root entries ``first..last``, the root included: ``(PA, level, VA)``.

        Raises PageTableError when a table appears twice, lies outside of RAM, or a level 0
        PTE points to one. Bounded by that: no table is visited twice.
        """
        seen: set[int] = set()
        stack = [(root_pa, self._top, 0)]
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
                if level == self._top and not first <= i <= last:
                    continue
                if level == 0:
                    raise PageTableError(f"level 0 PTE at {table + 8 * i:#x} points to a table")
                child = self._table_of(int(entries[i]))
                stack.append((child, level - 1, va | i << self.mode.shift(level)))

    def leaf_arrays(
        self, root_pa: int, first: int = 0, last: int = _LAST
    ) -> Iterator[tuple[npt.NDArray[Any], int, PteArray]]:
        """The leaves table by table, as arrays: ``(VAs, level, PTEs)``. Raises as tables()."""
        for table, level, va in self.tables(root_pa, first, last):
            entries = self.ram.array(table, PTES_PER_TABLE)
            at = ((entries & np.uint64(PTE_V)) != 0) & ((entries & np.uint64(_LEAF)) != 0)
            index = at.nonzero()[0]
            if level == self._top:
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


def _executable(leaves: list[tuple[int, int, PteArray]]) -> list[tuple[int, int, PteArray]]:
    return [(va, level, old[(old & np.uint64(PTE_X)) != 0]) for va, level, old in leaves]


def _frame_runs(mode: PagingMode, leaves: list[tuple[int, int, PteArray]]) -> Runs:
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
