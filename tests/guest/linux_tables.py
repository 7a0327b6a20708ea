"""Do the page tables of a stopped Linux agree with what it told of itself?

Everything is asked of our own reference walk (`emu.walk`) and of the dump (`emu.tables`), in
RAM as it stands. Each disagreement is one line that begins with the VA.

Sources: Documentation/arch/riscv/vm-layout.rst for where things are; arch/riscv/mm/init.c
(create_linear_mapping_page_table, mark_rodata_ro, free_initmem), arch/riscv/kernel/setup.c
(init_resources), mm/vmalloc.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from linux_probe import Mapping
from linux_views import PAGE, PFN_MASK, PRESENT, SWAPPED, Area, Vma, Views

from emu import tables
from emu.paging import PagingMode
from emu.ram import Ram
from emu.walk import Access, Translation, WalkConfig, walk

R, W, X, U, G, A, D = (1 << i for i in range(1, 8))

# Begin and end (VA) of each part, from vm-layout.rst.
_SHARED_REGIONS = {
    "modules": (0xFFFF_FFFF_0000_0000, 0xFFFF_FFFF_8000_0000),
    "kernel": (0xFFFF_FFFF_8000_0000, 1 << 64),
}
REGIONS = {
    "sv39": {
        "fixmap": (0xFFFF_FFC4_FEA0_0000, 0xFFFF_FFC4_FF00_0000),
        "vmemmap": (0xFFFF_FFC5_0000_0000, 0xFFFF_FFC6_0000_0000),
        "vmalloc": (0xFFFF_FFC6_0000_0000, 0xFFFF_FFD6_0000_0000),
        "direct": (0xFFFF_FFD6_0000_0000, 0xFFFF_FFF6_0000_0000),
        **_SHARED_REGIONS,
    },
    "sv48": {
        "fixmap": (0xFFFF_8D7F_FEA0_0000, 0xFFFF_8D7F_FF00_0000),
        "vmemmap": (0xFFFF_8D80_0000_0000, 0xFFFF_8F80_0000_0000),
        "vmalloc": (0xFFFF_8F80_0000_0000, 0xFFFF_AF80_0000_0000),
        "direct": (0xFFFF_AF80_0000_0000, 0xFFFF_EF80_0000_0000),
        **_SHARED_REGIONS,
    },
    "sv57": {
        "fixmap": (0xFF1B_FFFF_FEA0_0000, 0xFF1B_FFFF_FF00_0000),
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
        self.regions = REGIONS[mode.name]
        self.upper_half = (1 << 64) - (1 << (mode.va_bits - 1))
        self.leaves = list(self.scan(0, 1 << 64))

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
        self.check_vmas()
        self.check_pagemap()
        self.check_probe(probe)
        return self.differences

    def check_dump(self) -> None:
        """The dump shows what the walk finds, no more and no less."""
        shown: dict[int, tuple[int, str]] = {}
        for it in tables.ranges(self.ram, self.mode, self.root):
            for offset in range(0, it.size, PAGE):
                shown[it.va + offset] = (it.pa + offset, it.attributes)
        for leaf in self.leaves:
            for offset in range(0, leaf.size, PAGE):
                found = (leaf.pa + offset, _letters(leaf.bits))
                if (told := shown.pop(leaf.va + offset, None)) != found:
                    self.differ(leaf.va + offset, f"walks to {found}, and the dump says {told}")
        for va, told in shown.items():
            self.differ(va, f"the dump says {told}, and the walk refuses")

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
            if (mine := self.ram.read64(self.root + 8 * i)) != (
                own := self.ram.read64(pa + 8 * i)
            ):
                at = self.mode.canonical(i << self.mode.shift(self.mode.levels - 1))
                self.differ(at, f"root PTE {mine:#x}, and {own:#x} in swapper_pg_dir")

    def check_areas(self) -> None:
        """vmalloc and modules: each area's pages, the guard behind them, and nothing else."""
        frames: dict[int, int] = {}
        for area in self.views.areas:
            if "pcpu_get_vm_areas" in area.caller:
                continue  # filled as needed, and without a guard: see below
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

    def _system_ram(self) -> list[tables.Range]:
        raise NotImplementedError
