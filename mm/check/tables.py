"""mm.check's rules for page tables, for what the kernel maps, and for address spaces.

A tree is read level by level: all tables of one level are one array, so that a rule about
PTEs is a few operations of numpy however many tables there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
)
from mm.addrspace import (
    KERNEL_END,
    KERNEL_IMAGE_OFFSET,
    KERNEL_LINK_ADDR,
    MODULES_END,
    MODULES_VADDR,
    PAGE_STRUCT_SIZE,
    PKMAP_SIZE,
)
from mm.check.frames import ALLOCATED, FREE, PCP, RESERVED, UNSEEN, Array, Frames
from mm.errors import BadFree, CheckError, SlabError
from mm.memblock import MEMBLOCK_NOMAP
from mm.page import PAGE_TYPE_SLAB, PAGE_TYPE_TABLE, W_PT_MM, W_TYPE_REF
from mm.pgtable import MAX_MMS, MmStruct
from mm.slab import KmemCache
from mm.vma import MAX_MAP_COUNT, VM_EXEC, VM_READ, VM_WRITE, VmArea, vm_get_page_prot

_HALF = PTES_PER_TABLE // 2
_PPN = np.uint64((1 << 44) - 1)
_LOW32 = np.uint64(0xFFFFFFFF)
_LEAF = np.uint64(PTE_R | PTE_W | PTE_X)
_HIGH_SHIFT = np.uint64(54)  # from here on: reserved, Svpbmt, Svnapot


@dataclass
class Leaves:
    """Leaves of one level of one tree: parallel arrays, by address. ``pages``: 4 KiB pages
    that each of them maps."""

    level: int
    pages: int
    vas: Array
    ptes: Array
    pfns: Array

    def where(self, mask: Array) -> Leaves:
        """Some of them."""
        return Leaves(self.level, self.pages, self.vas[mask], self.ptes[mask], self.pfns[mask])

    def expect(self, broken: Array, rule: str) -> None:
        """CheckError for the first leaf for which ``broken`` holds."""
        if broken.any():
            raise CheckError("pte", int(self.vas[int(broken.argmax())]), rule)

    def without(self, bits: int) -> Array:
        """A mask: whose PTEs have none of ``bits``."""
        found: Array = (self.ptes & np.uint64(bits)) == 0
        return found


class Tables:
    """The rules; ``kernel`` are the leaves of the kernel's half, once they were read."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames
        self.k = frames.k
        self.ram = frames.ram
        self.space = frames.space
        self.layout = frames.space.layout
        self.mode = frames.space.layout.mode
        self.kernel: list[Leaves] = []
        self._owned: list[Array] = []
        self._mapped: list[tuple[Array, Array]] = []  # PFNs and VAs of user pages

    def page_tables(self) -> None:
        """Every tree: the kernel's, then that of each address space."""
        k, frames = self.k, self.frames
        self.kernel = self._tree(k.init_mm, _HALF, PTES_PER_TABLE - 1)
        self._kernel_leaves()
        root = k.pgtable.root(k.init_mm)
        user = self.ram.array(root, _HALF)
        if user.any():
            at = root + PTE_SIZE * int(user.nonzero()[0][0])
            raise CheckError("page table", at, "the user half of init_mm's root is empty")
        asids = {k.init_mm.asid}
        kernel_half = self._half(k.init_mm)
        for link in frames.walk("mm_struct", k.address_spaces.mmlist, MAX_MMS):
            mm = MmStruct(self.ram, k.lists.resolve(link))
            self._live(k.address_spaces.mm_cache, "mm_struct", link)
            if not 0 < mm.asid <= SATP_ASID_MASK:
                raise CheckError("mm_struct", link, f"ASID {mm.asid:#x} is of 16 bits, and not 0")
            if mm.asid in asids:
                raise CheckError("mm_struct", link, f"ASID {mm.asid} is its own")
            asids.add(mm.asid)
            if mm.task_size != self.layout.task_size:
                raise CheckError("mm_struct", link, "task_size is half of the address space")
            if mm.mm_users < 1:
                raise CheckError("mm_struct", link, "mm_users is at least 1")
            if (self._half(mm) != kernel_half).any():
                raise CheckError("mm_struct", link, "the kernel half of the root is init_mm's")
            self._user_leaves(self._tree(mm, 0, _HALF - 1), self._vmas(mm))
            frames.report.mms += 1
        owned = np.concatenate(self._owned)
        self._in_one_place(owned)
        self._mapping_counts()
        leaked = sorted(set(frames.typed(PAGE_TYPE_TABLE)) - set(owned.tolist()))
        if leaked:
            raise frames.page_error(
                leaked[0], "a page table hangs on some root, this one leaked", "ptdesc"
            )
        frames.report.tables = len(owned)

    def _half(self, mm: MmStruct) -> Array:
        return self.ram.array(self._root(mm) + PTE_SIZE * _HALF, _HALF)

    def _root(self, mm: MmStruct) -> int:
        pgd, space = mm.pgd, self.space
        if pgd % PAGE_SIZE or not space.page_offset <= pgd < space.direct_end:
            raise CheckError("mm_struct", space.va(mm.pa), f"pgd {pgd:#x} is a frame")
        return space.pa(pgd)

    def _live(self, cache: KmemCache, structure: str, va: int) -> None:
        """A structure on a list is an object of its cache that is handed out."""
        try:
            cache.check_object(va)
        except (BadFree, SlabError) as e:
            raise CheckError(structure, va, f"it is a live object of {cache.name}: {e}") from e

    # trees

    def _tree(self, mm: MmStruct, first: int, last: int) -> list[Leaves]:
        """The leaves below root entries ``first..last``, every table and PTE checked."""
        root = self._root(mm)
        words = self.ram.array(self.ram.base, self.ram.size >> 3).reshape(-1, PTES_PER_TABLE)
        pfns, vas = np.array([root >> PAGE_SHIFT]), np.zeros(1, np.uint64)
        found: list[Leaves] = []
        every = []
        for level in range(self.mode.levels - 1, -1, -1):
            every.append(pfns)
            table, index = words[pfns - self.space.start_pfn].nonzero()
            if level == self.mode.levels - 1:
                mine = (index >= first) & (index <= last)
                table, index = table[mine], index[mine]
            ptes = words[pfns[table] - self.space.start_pfn, index]
            at = vas[table] | index.astype(np.uint64) << np.uint64(self.mode.shift(level))
            pas = (pfns[table] << PAGE_SHIFT) + index * PTE_SIZE
            leaf = (ptes & _LEAF) != 0
            self._format(level, ptes, leaf, at, pas)
            below = (ptes >> np.uint64(PTE_PPN_SHIFT) & _PPN).astype(np.int64)
            if leaf.any():
                pages = 1 << VPN_BITS * level
                found.append(
                    Leaves(level, pages, self._canonical(at[leaf]), ptes[leaf], below[leaf])
                )
            pfns, vas = below[~leaf], at[~leaf]
            self._inside_ram(pfns, pas[~leaf], ptes[~leaf])
            self._in_one_place(np.concatenate((*every, pfns)))  # so that this ends
            if not len(pfns):
                break
        self._tables_of(mm, np.concatenate(every))
        return found

    def _in_one_place(self, pfns: Array) -> None:
        pfns = np.sort(pfns)
        again = pfns[1:][np.diff(pfns) == 0]
        if len(again):
            pa = int(again[0]) << PAGE_SHIFT
            raise CheckError("page table", pa, "a table belongs to one place in one tree")

    def _canonical(self, vas: Array) -> Array:
        upper = vas >= np.uint64(self.layout.task_size)
        return np.where(upper, vas | np.uint64(self.layout.kernel_start), vas)

    def _format(self, level: int, ptes: Array, leaf: Array, vas: Array, pas: Array) -> None:
        """What the privileged spec says of every PTE (section Sv32 to Sv57), and what of what
        it allows this kernel uses."""
        bits = (ptes & np.uint64(PTE_U | PTE_G | PTE_A | PTE_D)) != 0
        pointer = ~leaf
        superpage = np.uint64((1 << VPN_BITS * level) - 1) << np.uint64(PTE_PPN_SHIFT)
        for rule, broken in (
            ("an entry that is not valid is 0", (ptes & np.uint64(PTE_V)) == 0),
            ("bits 54 to 63 of a PTE are 0: no extension uses them", ptes >> _HIGH_SHIFT != 0),
            ("U, G, A and D of a pointer to a table are 0", pointer & bits),
            (
                "W without R is reserved",
                (ptes & np.uint64(PTE_R | PTE_W)) == np.uint64(PTE_W),
            ),
            ("the frame of a superpage is aligned to its size", leaf & ((ptes & superpage) != 0)),
            ("level 0 has no pointers to tables", pointer & (level == 0)),
        ):
            if broken.any():
                i = int(broken.argmax())
                if leaf[i]:
                    raise CheckError("pte", int(self._canonical(vas[i : i + 1])[0]), rule)
                raise CheckError("page table", int(pas[i]), rule)

    def _inside_ram(self, pfns: Array, pas: Array, ptes: Array) -> None:
        bad = (pfns < self.space.start_pfn) | (pfns >= self.space.end_pfn)
        if bad.any():
            i = int(bad.argmax())
            raise CheckError(
                "page table", int(pas[i]), f"PTE {int(ptes[i]):#x} points to a table outside of RAM"
            )

    def _tables_of(self, mm: MmStruct, pfns: Array) -> None:
        """Every table of a tree: marked, owned once, by ``mm``."""
        owner = self.space.va(mm.pa)
        self._owned.append(pfns)
        pages = self.frames.struct_pages(pfns)
        states = self.frames.states(pfns)
        for rule, broken in (
            ("a page table has page_type table", pages[:, W_TYPE_REF] & _LOW32 != PAGE_TYPE_TABLE),
            ("pt_mm is the mm whose tree holds the table", pages[:, W_PT_MM] != owner),
            ("a page table is an allocated frame", states != ALLOCATED),
        ):
            if broken.any():
                raise self.frames.page_error(int(pfns[int(broken.argmax())]), rule, "ptdesc")
        if mm.pgtables_bytes != len(pfns) << PAGE_SHIFT:
            raise CheckError(
                "mm_struct",
                owner,
                f"pgtables_bytes is {mm.pgtables_bytes}, {len(pfns)} tables exist",
            )

    # the kernel's half

    def _kernel_leaves(self) -> None:
        layout = self.layout
        for leaves in self.kernel:
            self.frames.report.leaves += len(leaves.vas)
            self._wx(leaves)
            leaves.expect(~leaves.without(PTE_U), "kernel pages have U=0")
            leaves.expect(leaves.without(PTE_G), "kernel pages have G=1: they are in every tree")
            # The direct map and vmemmap show RAM as it is; all else maps what it owns.
            # The kmap window may keep a frame that is free (see pkmap).
            own = (leaves.vas < np.uint64(layout.page_offset)) & (
                leaves.vas >= np.uint64(layout.vmalloc_start)
            ) | (leaves.vas >= np.uint64(layout.page_offset + layout.direct_map_size))
            self._not_free(leaves.where(own))
        self._executable_once()
        self._windows()

    def _executable_once(self) -> None:
        """W^X over all aliases: no frame is executable here and writable there."""
        starts = np.concatenate([x.pfns[~x.without(PTE_W)] for x in self.kernel])
        ends = np.concatenate([x.pfns[~x.without(PTE_W)] + x.pages for x in self.kernel])
        order = starts.argsort(kind="stable")
        starts, reach = starts[order], np.maximum.accumulate(ends[order])
        for leaves in self.kernel:
            code = leaves.where(~leaves.without(PTE_X))
            below = np.searchsorted(starts, code.pfns + code.pages, side="left") - 1
            both = (below >= 0) & (reach[np.maximum(below, 0)] > code.pfns)
            code.expect(both, "W^X: a frame is executable here and writable elsewhere")

    def _wx(self, leaves: Leaves) -> None:
        leaves.expect(
            ~leaves.without(PTE_W) & ~leaves.without(PTE_X), "W^X: writable and executable"
        )

    def _not_free(self, leaves: Leaves) -> None:
        frames = (leaves.pfns[:, None] + np.arange(leaves.pages)).ravel()
        states = self.frames.states(frames)
        bad = (states == FREE) | (states == UNSEEN) | (states == PCP)
        if bad.any():
            i = int(bad.argmax())
            raise CheckError(
                "pte",
                int(leaves.vas[i // leaves.pages]),
                f"maps frame {int(frames[i]):#x}, which is free",
            )

    def _windows(self) -> None:
        """The parts of the kernel's half that show RAM at a fixed distance, and that nothing
        lies between the parts."""
        k, layout, space = self.k, self.layout, self.space
        direct = [
            (r.base, min(r.end, space.high_memory))
            for r in k.memblock.memory
            if not r.flags & MEMBLOCK_NOMAP and r.base < space.high_memory
        ]
        memmap_size = (space.end_pfn - space.start_pfn) * PAGE_STRUCT_SIZE
        memmap_end = space.memmap_pa + -(-memmap_size // PAGE_SIZE) * PAGE_SIZE
        image = self.ram.base + KERNEL_IMAGE_OFFSET
        for name, low, high, offset, wanted in (
            (
                "direct map", layout.page_offset, layout.page_offset + layout.direct_map_size,
                self.ram.base - layout.page_offset, direct,
            ),
            (
                "vmemmap", layout.vmemmap_start, layout.vmemmap_start + layout.vmemmap_size,
                space.memmap_pa - layout.vmemmap_start, [(space.memmap_pa, memmap_end)],
            ),
            (
                "kernel image", KERNEL_LINK_ADDR, KERNEL_END,
                image - KERNEL_LINK_ADDR, [(image, image + PAGE_SIZE)],
            ),
        ):  # fmt: skip
            self._window(name, low, high, offset, wanted, exact=name != "kernel image")
        parts = (
            (layout.pkmap_base, layout.pkmap_base + PKMAP_SIZE),
            (layout.vmemmap_start, layout.vmemmap_start + layout.vmemmap_size),
            (layout.vmalloc_start, layout.vmalloc_end),
            (layout.page_offset, layout.page_offset + layout.direct_map_size),
            (MODULES_VADDR, KERNEL_END),
        )
        assert MODULES_END == KERNEL_LINK_ADDR
        for leaves in self.kernel:
            inside = np.zeros(len(leaves.vas), dtype=bool)
            for low, high in parts:
                inside |= (leaves.vas >= np.uint64(low)) & (leaves.vas < np.uint64(high))
            leaves.expect(~inside, "a kernel page lies in one of the kernel's areas")

    def _window(
        self,
        name: str,
        low: int,
        high: int,
        offset: int,
        wanted: list[tuple[int, int]],
        exact: bool,
    ) -> None:
        """``[low, high)`` maps each VA to ``va + offset``: all of the PA ranges ``wanted``
        and, if ``exact``, nothing else."""
        spans: list[tuple[int, int]] = []
        for leaves in self.kernel:
            mine = leaves.where(
                (leaves.vas >= np.uint64(low)) & (leaves.vas <= np.uint64(high - PAGE_SIZE))
            )
            right = mine.vas + np.uint64(offset & (1 << 64) - 1)
            mine.expect(
                mine.pfns.astype(np.uint64) << np.uint64(PAGE_SHIFT) != right,
                f"a page of the {name} shows the frame at a fixed distance",
            )
            mine.expect(mine.without(PTE_R), f"a page of the {name} is readable")
            if exact:
                mine.expect(~mine.without(PTE_X), f"a page of the {name} is not executable")
            size = mine.pages << PAGE_SHIFT
            starts = right.astype(np.int64)
            cuts = (np.diff(starts) != size).nonzero()[0] + 1
            for run in np.split(starts, cuts) if len(starts) else ():
                spans.append((int(run[0]), int(run[-1]) + size))
        shown = _joined(spans)
        for start, end in _joined(wanted):
            inside = next((s for s in shown if s[0] <= start < s[1]), (start, start))
            if inside[1] < end:
                raise CheckError("pte", inside[1] - offset, f"a page of the {name} is missing")
        for start, end in shown if exact else ():
            inside = next((w for w in _joined(wanted) if w[0] <= start < w[1]), (start, start))
            if inside[1] < end:
                raise CheckError(
                    "pte", inside[1] - offset, f"the {name} shows what it should and no more"
                )

    # address spaces

    def _vmas(self, mm: MmStruct) -> list[VmArea]:
        head = self.space.va(mm.pa) + MmStruct.offset_of("mmap")
        links = self.frames.walk("vm_area_struct", head, MAX_MAP_COUNT)
        vmas = [VmArea(self.ram, self.k.lists.resolve(link)) for link in links]
        at = 0
        for link, vma in zip(links, vmas, strict=True):
            self._live(self.k.address_spaces.vma_cache, "vm_area_struct", link)
            if vma.vm_start < at:
                raise CheckError("vm_area_struct", link, "VMAs are sorted and do not overlap")
            if vma.vm_start >= vma.vm_end or (vma.vm_start | vma.vm_end) & 0xFFF:
                raise CheckError("vm_area_struct", link, "a VMA is one or more whole pages")
            if vma.vm_end > self.layout.task_size:
                raise CheckError("vm_area_struct", link, "a VMA lies in user space")
            if vma.vm_mm != self.space.va(mm.pa):
                raise CheckError("vm_area_struct", link, "vm_mm is the mm whose list holds it")
            if vma.vm_page_prot != _expected_prot(vma):
                raise CheckError("vm_area_struct", link, "vm_page_prot is that of vm_flags")
            at = vma.vm_end
        if mm.map_count != len(vmas):
            raise CheckError("mm_struct", self.space.va(mm.pa), "map_count counts the VMAs")
        if mm.total_vm != sum(v.vm_end - v.vm_start for v in vmas) >> PAGE_SHIFT:
            raise CheckError("mm_struct", self.space.va(mm.pa), "total_vm counts the pages")
        self.frames.report.vmas += len(vmas)
        return vmas

    def _user_leaves(self, tree: list[Leaves], vmas: list[VmArea]) -> None:
        """The leaves of an address space against its VMAs, both ways."""
        starts = np.array([v.vm_start for v in vmas], dtype=np.uint64)
        ends = np.array([v.vm_end for v in vmas], dtype=np.uint64)
        prots = np.array([_expected_prot(v) for v in vmas], dtype=np.uint64)
        mask = np.uint64(PTE_R | PTE_W | PTE_X | PTE_U)
        pages = [np.zeros(0, np.uint64)]
        for leaves in tree:
            self.frames.report.leaves += len(leaves.vas)
            self._wx(leaves)
            leaves.expect(~leaves.without(PTE_G), "a user page has G=0: others have another there")
            step = np.arange(leaves.pages)
            pfns = (leaves.pfns[:, None] + step).ravel()
            each = (leaves.vas[:, None] + (step << PAGE_SHIFT).astype(np.uint64)).ravel()
            self._user_frames(each, pfns)
            at = np.searchsorted(starts, leaves.vas, side="right") - 1
            outside = at < 0
            if len(vmas):
                size = np.uint64(leaves.pages << PAGE_SHIFT)
                outside |= leaves.vas + size > ends[np.maximum(at, 0)]
            leaves.expect(outside, "a user page lies inside of a VMA")
            leaves.expect(
                (leaves.ptes & mask) != (prots[at] & mask), "permissions are those of the VMA"
            )
            self._mapped.append((pfns, each))
            pages.append(each)
        mapped = np.sort(np.concatenate(pages))
        low, high = np.searchsorted(mapped, starts), np.searchsorted(mapped, ends)
        short = high - low != (ends - starts) >> np.uint64(PAGE_SHIFT)
        if short.any():
            i = int(short.argmax())
            wanted = np.arange(vmas[i].vm_start, vmas[i].vm_end, PAGE_SIZE, dtype=np.uint64)
            va = int(np.setdiff1d(wanted, mapped[low[i] : high[i]])[0])
            raise CheckError("pte", va, "every page of a VMA is mapped")

    def _user_frames(self, vas: Array, pfns: Array) -> None:
        """Frames mapped for a user: allocated, and nothing of the kernel's."""
        states = self.frames.states(pfns)
        in_ram = (pfns >= self.space.start_pfn) & (pfns < self.space.end_pfn)
        types = self.frames.struct_pages(np.where(in_ram, pfns, self.space.start_pfn))
        types = types[:, W_TYPE_REF] & _LOW32
        for rule, broken in (
            ("a user page maps a frame that is not allocated", ~in_ram | (states == UNSEEN)),
            ("a user page maps a free frame", (states == FREE) | (states == PCP)),
            ("a user page maps a reserved frame", states == RESERVED),
            ("a user page maps a page table", types == PAGE_TYPE_TABLE),
            ("a user page maps a slab", types == PAGE_TYPE_SLAB),
        ):
            if broken.any():
                i = int(broken.argmax())
                raise CheckError("pte", int(vas[i]), f"{rule}: {int(pfns[i]):#x}")

    def _mapping_counts(self) -> None:
        """A frame has a reference for each user page that maps it."""
        if not self._mapped:
            return
        pfns = np.concatenate([p for p, _ in self._mapped])
        vas = np.concatenate([v for _, v in self._mapped])
        frames, first, counts = np.unique(pfns, return_index=True, return_counts=True)
        refs = (self.frames.struct_pages(frames)[:, W_TYPE_REF] >> np.uint64(32)).astype(np.int64)
        short = refs < counts
        if short.any():
            i = int(short.argmax())
            raise self.frames.page_error(
                int(frames[i]),
                f"_refcount is {int(refs[i])}, {int(counts[i])} user pages map it "
                f"({int(vas[int(first[i])]):#x})",
            )


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges, sorted, neighbours made one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def _expected_prot(vma: VmArea) -> int:
    try:
        return vm_get_page_prot(vma.vm_flags)
    except ValueError as e:
        bad = vma.vm_flags & (VM_READ | VM_WRITE | VM_EXEC)
        raise CheckError("vm_area_struct", vma.vm_start, f"vm_flags {bad:#x}: {e}") from e
