"""The kernel's virtual address space as data, and the arithmetic between PA, VA and PFN.

Riscv Linux's layout (Documentation/arch/riscv/vm-layout.rst), one row a paging mode. The
direct map shows all of RAM from PAGE_OFFSET on; vmemmap shows the array of struct page.
Pointers in RAM are VAs of these two areas, so that guest code can follow them; Python
converts them by subtraction.

On a machine with HighMem the direct map ends below the end of RAM. A frame above has no
address until kmap gives it one of the 512 pages from PKMAP_BASE on, 512 MiB below vmemmap,
where riscv Linux has nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from emu.ram import Ram
from emu.spec.paging import PAGE_SHIFT, SV39, SV48, SV57, PagingMode
from mm.errors import BadAddress

KERNEL_LINK_ADDR = 0xFFFFFFFF_80000000
KERNEL_END = 0xFFFFFFFF_FFFFF000  # the last page stays unmapped: ERR_PTR values
MODULES_VADDR = 0xFFFFFFFF_00000000
MODULES_END = KERNEL_LINK_ADDR
KERNEL_IMAGE_OFFSET = 2 << 20  # bytes from the start of RAM; firmware lies below
PAGE_STRUCT_SIZE = 64  # sizeof(struct page)
PAGE_STRUCT_SHIFT = 6
PKMAP_SIZE = 2 << 20  # bytes: 512 pages, one table

GIB = 1 << 30
TIB = 1 << 40
PIB = 1 << 50


@dataclass(frozen=True)
class VaLayout:
    """The kernel half of one paging mode: VAs and sizes in bytes."""

    mode: PagingMode
    vmemmap_start: int
    vmemmap_size: int
    vmalloc_start: int
    vmalloc_size: int
    page_offset: int
    direct_map_size: int

    @property
    def vmalloc_end(self) -> int:
        return self.vmalloc_start + self.vmalloc_size

    @property
    def pkmap_base(self) -> int:
        """The first VA of the kmap window of PKMAP_SIZE bytes."""
        return self.vmemmap_start - (512 << 20)

    @property
    def task_size(self) -> int:
        """TASK_SIZE: the first VA above user space (half of the address space)."""
        return 1 << (self.mode.va_bits - 1)

    @property
    def kernel_start(self) -> int:
        """The lowest canonical VA of the upper half."""
        return (1 << 64) - self.task_size


LAYOUTS = {
    SV39: VaLayout(
        SV39,
        0xFFFFFFC5_00000000, 4 * GIB,
        0xFFFFFFC6_00000000, 64 * GIB,
        0xFFFFFFD6_00000000, 128 * GIB,
    ),
    SV48: VaLayout(
        SV48,
        0xFFFF8D80_00000000, 2 * TIB,
        0xFFFF8F80_00000000, 32 * TIB,
        0xFFFFAF80_00000000, 64 * TIB,
    ),
    SV57: VaLayout(
        SV57,
        0xFF1C0000_00000000, 1 * PIB,
        0xFF200000_00000000, 16 * PIB,
        0xFF600000_00000000, 32 * PIB,
    ),
}  # fmt: skip


def layout_for(mode: PagingMode, ram_size: int) -> VaLayout:
    """The layout of ``mode``. Raises ValueError if ``ram_size`` bytes exceed its direct map."""
    layout = LAYOUTS[mode]
    if ram_size > layout.direct_map_size:
        wider = {SV39: "sv48", SV48: "sv57"}.get(mode)
        raise ValueError(
            f"{ram_size >> 30} GiB of RAM do not fit the {layout.direct_map_size >> 30} GiB "
            f"direct map of {mode.name}" + (f": use {wider}" if wider else "")
        )
    return layout


class Space:
    """Address arithmetic for one kernel: its RAM, its VA layout, its memmap.

    ``start_pfn`` is the first PFN of RAM, ``end_pfn`` the one after the last;
    ``memmap_pa`` the PA of the struct page of ``start_pfn``; ``high_memory`` the PA where
    the direct map ends, None where it shows all of RAM.
    """

    def __init__(
        self, ram: Ram, layout: VaLayout, memmap_pa: int, high_memory: int | None = None
    ) -> None:
        self.ram = ram
        self.layout = layout
        self.memmap_pa = memmap_pa
        self.start_pfn = ram.base >> PAGE_SHIFT
        self.end_pfn = ram.end >> PAGE_SHIFT
        self.page_offset = layout.page_offset
        self.vmemmap = layout.vmemmap_start
        self.high_memory = ram.end if high_memory is None else high_memory
        self.direct_end = layout.page_offset + self.high_memory - ram.base
        self.vmemmap_end = layout.vmemmap_start + (ram.size >> PAGE_SHIFT) * PAGE_STRUCT_SIZE
        # Word index in ram.u64 of the first struct page: index = memmap_index + 8 * (pfn - start).
        self.memmap_index = (memmap_pa - ram.base) >> 3

    def va(self, pa: int) -> int:
        """``__va``: the direct map's VA of ``pa``. Raises BadAddress outside of RAM, and for
        HighMem."""
        if not self.ram.base <= pa < self.high_memory:
            if self.high_memory <= pa < self.ram.end:
                raise BadAddress(pa, "physical address of HighMem: no address without kmap")
            raise BadAddress(pa, "not a physical address of RAM")
        return pa - self.ram.base + self.page_offset

    def pa(self, va: int) -> int:
        """``__pa`` of a direct map, vmemmap or kernel image VA. Raises BadAddress otherwise."""
        if self.page_offset <= va < self.direct_end:
            return va - self.page_offset + self.ram.base
        if self.vmemmap <= va < self.vmemmap_end:
            return va - self.vmemmap + self.memmap_pa
        if KERNEL_LINK_ADDR <= va < KERNEL_END:
            pa = va - KERNEL_LINK_ADDR + self.ram.base + KERNEL_IMAGE_OFFSET
            if pa < self.ram.end:
                return pa
        raise BadAddress(va, "not in the direct map, vmemmap or the kernel image")

    def index(self, va: int) -> int:
        """The index into ``ram.u64`` of a direct map or vmemmap VA.

        Raises BadAddress for any other address, and for one that is not a multiple of 8.
        """
        if not va & 7:
            if self.page_offset <= va < self.direct_end:
                return (va - self.page_offset) >> 3
            if self.vmemmap <= va < self.vmemmap_end:
                return self.memmap_index + ((va - self.vmemmap) >> 3)
        raise BadAddress(va, "not an aligned address in the direct map or vmemmap")

    def pfn_valid(self, pfn: int) -> bool:
        """Whether ``pfn`` has a struct page."""
        return self.start_pfn <= pfn < self.end_pfn

    def page_va(self, pfn: int) -> int:
        """``pfn_to_page``: the vmemmap VA of the struct page."""
        return self.vmemmap + ((pfn - self.start_pfn) << PAGE_STRUCT_SHIFT)

    def page_pa(self, pfn: int) -> int:
        """The PA of the struct page of ``pfn``."""
        return self.memmap_pa + ((pfn - self.start_pfn) << PAGE_STRUCT_SHIFT)

    def page_index(self, pfn: int) -> int:
        """The index into ``ram.u64`` of the struct page of ``pfn``."""
        return self.memmap_index + ((pfn - self.start_pfn) << 3)

    def page_to_pfn(self, va: int) -> int:
        """``page_to_pfn``. Raises BadAddress if ``va`` is not that of a struct page."""
        if not self.vmemmap <= va < self.vmemmap_end or va & (PAGE_STRUCT_SIZE - 1):
            raise BadAddress(va, "not a struct page in vmemmap")
        return self.start_pfn + ((va - self.vmemmap) >> PAGE_STRUCT_SHIFT)

    def virt_to_pfn(self, va: int) -> int:
        """The PFN behind a direct map VA. Raises BadAddress for any other address."""
        if not self.page_offset <= va < self.direct_end:
            raise BadAddress(va, "not in the direct map")
        return self.start_pfn + ((va - self.page_offset) >> PAGE_SHIFT)

    def pfn_to_virt(self, pfn: int) -> int:
        """The direct map VA of frame ``pfn``, which must not be of HighMem."""
        return self.page_offset + ((pfn - self.start_pfn) << PAGE_SHIFT)
