"""Do the page tables of a stopped Linux agree with what it told of itself?

Everything is asked of our own reference walk (`emu.spec.walk`) and of the dump
(`emu.spec.tables`), in RAM as it stands. Each disagreement is one line that begins with the VA.

Sources: Documentation/arch/riscv/vm-layout.rst for where things are; arch/riscv/mm/init.c
(create_linear_mapping_page_table, mark_rodata_ro, free_initmem), arch/riscv/kernel/setup.c
(init_resources), mm/vmalloc.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from linux_probe import Mapping
from linux_views import PAGE, PFN_MASK, PRESENT, SWAPPED, UNPURGED, Area, Resource, Views, Vma

from emu.ram import Ram
from emu.spec import tables
from emu.spec.paging import PagingMode
from emu.spec.walk import Access, Translation, WalkConfig, walk

R, W, X, U, G, A, D = _BITS = tuple(1 << i for i in range(1, 8))

# Begin and end (VA) of each part, from vm-layout.rst.
_SHARED_REGIONS = {
    "modules": (0xFFFF_FFFF_0000_0000, 0xFFFF_FFFF_8000_0000),
    "kernel": (0xFFFF_FFFF_8000_0000, 1 << 64),
}
REGIONS = {
    "sv39": {
        "fixmap": (0xFFFF_FFC4_FEA0_0000, 0xFFFF_FFC4_FF00_0000),
        "pci io": (0xFFFF_FFC4_FF00_0000, 0xFFFF_FFC5_0000_0000),
        "vmemmap": (0xFFFF_FFC5_0000_0000, 0xFFFF_FFC6_0000_0000),
        "vmalloc": (0xFFFF_FFC6_0000_0000, 0xFFFF_FFD6_0000_0000),
        "direct": (0xFFFF_FFD6_0000_0000, 0xFFFF_FFF6_0000_0000),
        **_SHARED_REGIONS,
    },
    "sv48": {
        "fixmap": (0xFFFF_8D7F_FEA0_0000, 0xFFFF_8D7F_FF00_0000),
        "pci io": (0xFFFF_8D7F_FF00_0000, 0xFFFF_8D80_0000_0000),
        "vmemmap": (0xFFFF_8D80_0000_0000, 0xFFFF_8F80_0000_0000),
        "vmalloc": (0xFFFF_8F80_0000_0000, 0xFFFF_AF80_0000_0000),
        "direct": (0xFFFF_AF80_0000_0000, 0xFFFF_EF80_0000_0000),
        **_SHARED_REGIONS,
    },
    "sv57": {
        "fixmap": (0xFF1B_FFFF_FEA0_0000, 0xFF1B_FFFF_FF00_0000),
        "pci io": (0xFF1B_FFFF_FF00_0000, 0xFF1C_0000_0000_0000),
        "vmemmap": (0xFF1C_0000_0000_0000, 0xFF20_0000_0000_0000),
        "vmalloc": (0xFF20_0000_0000_0000, 0xFF60_0000_0000_0000),
        "direct": (0xFF60_0000_0000_0000, 0xFFDF_0000_0000_0000),
        **_SHARED_REGIONS,
    },
}
_STRUCT_PAGE_SIZE = 64
# What is mapped for it is whole 2 MiB pages (vmemmap_populate).
_VMEMMAP_UNIT = 2 << 20


@dataclass(frozen=True)
class Leaf:
    """What one leaf PTE maps: ``size`` bytes at ``va`` onto ``pa``; ``bits`` as in the PTE."""

    va: int
    size: int
    pa: int
    bits: int

    @property
    def end(self) -> int:
        return self.va + self.size


class Comparison:
    """``differences``: a line each, after the checks that were called."""

    def __init__(self, ram: Ram, mode: PagingMode, root: int, views: Views) -> None:
        self.ram = ram
        self.mode = mode
        self.root = root
        self.views = views
        self.differences: list[str] = []
        self.regions = self.regions_of(mode)
        self.upper_half = (1 << 64) - (1 << (mode.va_bits - 1))
        self.leaves = list(self.scan(0, 1 << 64))

    @staticmethod
    def regions_of(mode: PagingMode) -> dict[str, tuple[int, int]]:
        """The parts of the kernel's half by name: begin and end (VA)."""
        return REGIONS[mode.name]

    def differ(self, va: int, text: str) -> None:
        self.differences.append(f"{va:#x}: {text}")

    # looking, by the reference walk only

    def scan(self, begin: int, end: int) -> Iterator[Leaf]:
        """The leaves from ``begin`` to ``end`` (VA), found by walking from address to address."""
        config = WalkConfig(sum=True, mxr=True)  # to see each page, whosever it is
        va = begin
        while va < end:
            if not self.mode.is_canonical(va):
                va = self.upper_half
                continue
            found = walk(self.ram, self.mode, self.root, va, Access.READ, config)
            level = found.level
            assert level is not None
            size = self.mode.span(level)
            if isinstance(found, Translation):
                yield Leaf(va & -size, size, found.pa & -size, found.pte & 0xFF)
            va = (va & -size) + size

    def leaf(self, va: int) -> Leaf | None:
        return next(self.scan(va, va + 1), None)

    def inside(self, name: str) -> list[Leaf]:
        begin, end = self.regions[name]
        return [leaf for leaf in self.leaves if begin <= leaf.va < end]

    def want_page(self, va: int, what: str, rights: int, never: int, pa: int | None = None) -> None:
        """The page at ``va`` has the bits ``rights``, none of ``never``, and the frame ``pa``."""
        leaf = self.leaf(va)
        if leaf is None:
            self.differ(va, f"{what} is not mapped")
            return
        if leaf.bits & rights != rights or leaf.bits & never:
            self.differ(va, f"{what} is mapped {_letters(leaf.bits)}")
        got = leaf.pa + va - leaf.va
        if pa is not None and got != pa:
            self.differ(va, f"{what} is PA {pa:#x} and is mapped to {got:#x}")

    def want_nothing(self, va: int, what: str) -> None:
        if (leaf := self.leaf(va)) is not None:
            self.differ(va, f"{what} is mapped to PA {leaf.pa + va - leaf.va:#x}")

    # the checks

    def check_all(self, dtb_pa: int, probe: tuple[Mapping, ...]) -> list[str]:
        self.check_dump()
        self.check_halves()
        self.check_kernel_half_is_shared()
        self.check_areas()
        self.check_image()
        self.check_module()
        self.check_direct_map()
        self.check_vmemmap()
        self.check_fixmap(dtb_pa)
        self.check_pci_ports()
        self.check_vmas()
        self.check_pagemap()
        self.check_probe(probe)
        return self.differences

    def check_dump(self) -> None:
        """The dump shows what the walk finds, no more and no less."""
        walked: list[tables.Range] = []
        for leaf in self.leaves:
            last = walked[-1] if walked else tables.Range(0, 0, 0, "")
            letters = _letters(leaf.bits)
            if (leaf.va, leaf.pa, letters) == (
                last.va + last.size, last.pa + last.size, last.attributes
            ):  # fmt: skip
                walked[-1] = tables.Range(last.va, last.pa, last.size + leaf.size, letters)
            else:
                walked.append(tables.Range(leaf.va, leaf.pa, leaf.size, letters))
        shown = tables.ranges(self.ram, self.mode, self.root)
        for it in set(walked) ^ set(shown):
            which = "walk" if it in walked else "dump"
            self.differ(it.va, f"only in the {which}: PA {it.pa:#x}, {it.size} bytes")

    def check_halves(self) -> None:
        """U below and not above, G above and not below, no page both writable and executable."""
        parts = [span for span in self.regions.values()]
        for leaf in self.leaves:
            is_kernel = leaf.va >= self.upper_half
            if bool(leaf.bits & U) is is_kernel or bool(leaf.bits & G) is not is_kernel:
                self.differ(leaf.va, f"{_letters(leaf.bits)} in the wrong half")
            if is_kernel and leaf.bits & W and leaf.bits & X:
                self.differ(leaf.va, "the kernel can write and execute it")
            if is_kernel and not any(low <= leaf.va < leaf.end <= end for low, end in parts):
                self.differ(leaf.va, "a page between the parts of the kernel's half")

    def check_kernel_half_is_shared(self) -> None:
        """A process has the kernel's own tables in its upper half (pgd_alloc)."""
        leaf = self.leaf(va := self.views.symbols["swapper_pg_dir"])
        if leaf is None:
            self.differ(va, "swapper_pg_dir is not mapped")
            return
        pa = leaf.pa + va - leaf.va
        for i in range(256, 512):
            if (mine := self.ram.read64(self.root + 8 * i)) != (own := self.ram.read64(pa + 8 * i)):
                at = self.mode.canonical(i << self.mode.shift(self.mode.levels - 1))
                self.differ(at, f"root PTE {mine:#x}, and {own:#x} in swapper_pg_dir")

    def check_areas(self) -> None:
        """vmalloc and modules: each area's pages, the guard behind them, and nothing else."""
        frames: dict[int, int] = {}
        for area in self.views.areas:
            if area.caller.startswith("pcpu_get_vm_areas"):
                continue  # filled as needed, and without a guard
            if area.caller == UNPURGED:  # freed, and not yet given to others
                for va in range(area.begin, area.end, PAGE):
                    self.want_nothing(va, "an area that was freed")
                continue
            guard = area.end - PAGE
            self.want_nothing(guard, "the guard page")
            count = (guard - area.begin) // PAGE
            if area.pages is not None and area.pages != count:
                self.differ(area.begin, f"an area of {count} pages that tells of {area.pages}")
            for i in range(count):
                self._check_area_page(area, i, frames)
        spans = sorted((area.begin, area.end) for area in self.views.areas)
        for leaf in (*self.inside("vmalloc"), *self.inside("modules")):
            if not any(low <= leaf.va < leaf.end <= end for low, end in spans):
                self.differ(leaf.va, f"mapped to PA {leaf.pa:#x}, in no area of vmallocinfo")

    def _check_area_page(self, area: Area, i: int, frames: dict[int, int]) -> None:
        va = area.begin + i * PAGE
        if area.phys is not None:
            self.want_page(va, f"I/O of {area.caller}", R | W, X, area.phys + i * PAGE)
            return
        self.want_page(va, f"page {i} of {area.caller}", R, 0)
        if (leaf := self.leaf(va)) is not None:
            pa = leaf.pa + va - leaf.va
            if not any(ram.begin <= pa < ram.end for ram in self._system_ram()):
                self.differ(va, f"PA {pa:#x} is no System RAM")
            elif (other := frames.setdefault(pa, va)) != va:
                self.differ(va, f"PA {pa:#x} is mapped at {other:#x} too")

    def check_image(self) -> None:
        """The kernel: text r-x, rodata r--, data rw-, what was init not executable.

        Its PAs are those that iomem says, from _text's on.
        """
        at, views = self.views.symbols, self.views
        code = views.resource("Kernel code")
        offset = at["_text"] - code.begin
        for name, first, end in (
            ("Kernel code", "_text", "_etext"),
            ("Kernel rodata", "__start_rodata", "__end_rodata"),
            ("Kernel data", "_data", "_edata"),
            ("Kernel bss", "__bss_start", "__bss_stop"),
        ):
            it = views.resource(name)
            if (at[first] - offset, at[end] - offset) != (it.begin, it.end):
                self.differ(at[first], f"{name} is {it}")
        for what, first, end, rights, never in (
            ("text", "_text", "_etext", R | X, W),
            ("rodata", "__start_rodata", "__end_rodata", R, W | X),
            ("data", "_data", "_edata", R | W, X),
            ("bss", "__bss_start", "__bss_stop", R | W, X),
            ("init", "__init_begin", "__init_end", R, X),
        ):
            for va in range(at[first] & -PAGE, at[end], PAGE):
                self.want_page(va, what, rights, never, va - offset)
        for leaf in self.inside("kernel"):
            if leaf.va - leaf.pa != offset:
                self.differ(leaf.va, f"mapped to {leaf.pa:#x}, outside of the kernel's image")

    def check_module(self) -> None:
        """Its code r-x, its constants not writable, its data not executable."""
        for name, va in self.views.modules.items():
            self.want_page(va, f"text of {name}", R | X, W)
        for va, kind, name in self.views.module_symbols:
            if kind in "tT":
                self.want_page(va, name, R | X, W)
            elif kind in "rR":
                self.want_page(va, name, R, W | X)
            else:
                self.want_page(va, name, R, X)

    def check_direct_map(self) -> None:
        """All System RAM, and nothing else; of the kernel's image text and rodata only read.

        Behind the image a frame is rw-, unless an area holds it with other rights: then it has
        the same here (__set_memory in arch/riscv/mm/pageattr.c changes both).
        """
        views, at = self.views, self.views.symbols
        begin, _ = self.regions["direct"]
        leaves = self.inside("direct")
        offset = begin - min(it.begin for it in views.iomem if it.begin >= self.ram.base)
        for leaf in leaves:
            if leaf.va - leaf.pa != offset:
                self.differ(leaf.va, f"mapped to {leaf.pa:#x}, not {leaf.va - offset:#x}")
        wanted = _merged((it.begin + offset, it.end + offset) for it in self._system_ram())
        got = _merged((leaf.va, leaf.end) for leaf in leaves)
        for low, high in _without(wanted, got):
            self.differ(low, f"System RAM up to {high - offset - 1:#x} is not mapped")
        for low, high in _without(got, wanted):
            self.differ(low, f"mapped up to {high:#x}, and no System RAM")
        image = at["_start"] - (at["_text"] - views.resource("Kernel code").begin)
        to_direct = offset - (at["_start"] - image)
        for first, end in (("_start", "_etext"), ("__start_rodata", "__end_rodata")):
            for va in range(at[first] & -PAGE, at[end], PAGE):
                self.want_page(va + to_direct, f"{first}..{end}", R, W)
        rights = {
            leaf.pa + i: leaf.bits & (R | W | X)
            for leaf in (*self.inside("vmalloc"), *self.inside("modules"))
            for i in range(0, leaf.size, PAGE)
        }
        low, high = at["_start"] + to_direct, at["_end"] + to_direct
        for leaf in leaves:
            got_rights = leaf.bits & (R | W | X)
            for va in range(leaf.va, leaf.end, PAGE):
                if low <= va < high:
                    if got_rights & ~W != R:
                        self.differ(va, f"{_letters(leaf.bits)} in the kernel's image")
                elif got_rights != (want := rights.get(va - offset, R | W)):
                    self.differ(va, f"{_letters(leaf.bits)}, and in its area {_letters(want)}")

    def check_vmemmap(self) -> None:
        """A struct page for every frame of System RAM, in frames of System RAM."""
        begin, _ = self.regions["vmemmap"]
        ram = self._system_ram()
        first = min(it.begin for it in self.views.iomem if it.begin >= self.ram.base)
        leaves = self.inside("vmemmap")
        wanted = _merged(
            (
                begin + (it.begin - first) // PAGE * _STRUCT_PAGE_SIZE & -_VMEMMAP_UNIT,
                begin - (-(it.end - first) // PAGE * _STRUCT_PAGE_SIZE & -_VMEMMAP_UNIT),
            )
            for it in ram
        )
        got = _merged((leaf.va, leaf.end) for leaf in leaves)
        for low, high in _without(wanted, got):
            self.differ(low, f"no struct pages up to {high:#x}")
        for low, high in _without(got, wanted):
            self.differ(low, f"struct pages up to {high:#x}, for no RAM")
        for leaf in leaves:
            if not any(it.begin <= leaf.pa < leaf.pa + leaf.size <= it.end for it in ram):
                self.differ(leaf.va, f"struct pages at PA {leaf.pa:#x}, no System RAM")
            if not leaf.bits & W or leaf.bits & X:
                self.differ(leaf.va, f"struct pages {_letters(leaf.bits)}")

    def check_fixmap(self, dtb_pa: int) -> None:
        """What is fixed is the device tree (create_fdt_early_page_table); it is never code."""
        leaves = self.inside("fixmap")
        if not any(leaf.pa <= dtb_pa < leaf.pa + leaf.size for leaf in leaves):
            self.differ(self.regions["fixmap"][0], f"the device tree {dtb_pa:#x} is not mapped")
        for leaf in leaves:
            if leaf.bits & X:
                self.differ(leaf.va, "executable")

    def check_pci_ports(self) -> None:
        """The PCIe host's 64 KiB of I/O ports at PA 0x3000000, and nothing behind them."""
        begin, _ = self.regions["pci io"]
        ports = range(begin, begin + 0x1_0000, PAGE)
        for va in ports:
            self.want_page(va, "I/O ports", R | W, X, 0x300_0000 + va - begin)
        for leaf in self.inside("pci io"):
            if leaf.va not in ports:
                self.differ(leaf.va, f"mapped to PA {leaf.pa:#x}, and no I/O ports")

    def check_vmas(self) -> None:
        """A process's pages lie in its VMAs and can do no more than these say.

        A private page that can be written may still be shared, and then is read-only.
        """
        vmas = self.views.vmas
        for leaf in self.leaves:
            if leaf.va >= self.upper_half:
                continue
            vma = next((v for v in vmas if v.begin <= leaf.va < leaf.end <= v.end), None)
            if vma is None:
                self.differ(leaf.va, f"mapped to PA {leaf.pa:#x}, in no VMA")
                continue
            rights, want = leaf.bits & (R | W | X), _rights(vma)
            if rights & ~W != want & ~W or rights & ~want:
                self.differ(leaf.va, f"{_letters(leaf.bits)} in a VMA {vma.rights} {vma.name}")

    def check_pagemap(self) -> None:
        """Frame by frame. What PROT_NONE keeps from the hart, pagemap still calls present."""
        for vma in self.views.vmas:
            for va in range(vma.begin, vma.end, PAGE):
                entry = self.views.pagemap.get(va // PAGE)
                if entry is None or entry & SWAPPED:
                    self.differ(va, f"pagemap tells {entry}")
                    continue
                leaf = self.leaf(va)
                if leaf is None:
                    if entry & PRESENT and vma.rights[:3] != "---":
                        self.differ(va, f"PFN {entry & PFN_MASK:#x} in pagemap, and not mapped")
                    continue
                pfn = (leaf.pa + va - leaf.va) // PAGE
                if not entry & PRESENT:
                    self.differ(va, f"mapped to PFN {pfn:#x}, and not present in pagemap")
                elif entry & PFN_MASK != pfn:
                    self.differ(va, f"mapped to PFN {pfn:#x}, in pagemap {entry & PFN_MASK:#x}")

    def check_probe(self, mappings: tuple[Mapping, ...]) -> None:
        """What the process did itself: pages it touched are there, the others are not."""
        vmas = {(v.begin, v.end): v for v in self.views.vmas}
        for it in mappings:
            vma = vmas.get((it.va, it.end))
            if vma is None or vma.rights != it.rights:
                self.differ(it.va, f"{it.rights} was asked for, and maps has {vma}")
                continue
            huge: set[int] = set()
            for i in it.written if it.rights[:3] != "---" else ():
                va = it.va + i * PAGE
                # A mapping that was made read-only may lose W, but its pages stay dirty.
                self.want_page(va, "a page that was written", _rights(vma) | U | A | D, 0)
                leaf = self.leaf(va)
                if leaf is not None and leaf.size > PAGE:
                    huge.update(range(leaf.va, leaf.end, PAGE))
            for i in it.read:
                self.want_page(it.va + i * PAGE, "a page that was read", R | U | A, W)
            if it.huge and not huge:
                self.differ(it.va, "no huge page")
            touched = {it.va + i * PAGE for i in (*it.written, *it.read)}
            for va in range(it.va, it.end, PAGE):
                if va not in huge and (va not in touched or it.rights[:3] == "---"):
                    self.want_nothing(va, f"a page that nobody can have touched, {it.rights},")

    def _system_ram(self) -> list[Resource]:
        return [it for it in self.views.iomem if it.depth == 0 and it.name == "System RAM"]


def _letters(bits: int) -> str:
    return "".join(c if bits & bit else "-" for bit, c in zip(_BITS, "rwxugad", strict=True))


def _rights(vma: Vma) -> int:
    return sum(bit for bit, c in zip((R, W, X), vma.rights, strict=False) if c != "-")


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return found


def _without(
    spans: list[tuple[int, int]], others: list[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """What of ``spans`` lies in none of ``others``; both are merged."""
    for low, high in spans:
        for other_low, other_high in others:
            if other_high <= low or other_low >= high:
                continue
            if low < other_low:
                yield low, other_low
            low = other_high
        if low < high:
            yield low, high
