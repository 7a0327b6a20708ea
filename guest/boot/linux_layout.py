"""The parts of a Linux kernel's half of the address space, by Linux's own names.

Sources: Documentation/arch/riscv/vm-layout.rst for the addresses; the names and their order
are those of its own dump, arch/riscv/mm/ptdump.c. The numbers that the kernel in Python has
too come from `mm.addrspace`.
"""

from __future__ import annotations

from dataclasses import dataclass

from emu.ram import Ram
from emu.spec.paging import PAGE_SIZE, PagingMode
from emu.spec.tables import runs
from mm.addrspace import KERNEL_LINK_ADDR, LAYOUTS, MODULES_VADDR

USER = "User space"
_PCI_IO_SIZE = 16 << 20  # bytes below vmemmap
_FIXMAP_SIZE = 6 << 20  # bytes below that
# Documentation/arch/riscv/boot-image-header.rst: the magic number in the header at _start.
_MAGIC2_AT, _MAGIC2 = 0x38, b"RSC\x05"


@dataclass(frozen=True, slots=True)
class Region:
    """``[start, end)`` (VA) and its name in Linux's dump."""

    start: int
    end: int
    name: str


def regions(mode: PagingMode) -> tuple[Region, ...]:
    """All parts under ``mode``, ascending; user space is the first."""
    layout = LAYOUTS[mode]
    vmemmap, modules, kernel = layout.vmemmap_start, MODULES_VADDR, KERNEL_LINK_ADDR
    pci = vmemmap - _PCI_IO_SIZE
    direct = layout.page_offset
    return (
        Region(0, layout.task_size, USER),
        Region(pci - _FIXMAP_SIZE, pci, "Fixmap"),
        Region(pci, vmemmap, "PCI I/O"),
        Region(vmemmap, vmemmap + layout.vmemmap_size, "vmemmap"),
        Region(layout.vmalloc_start, layout.vmalloc_end, "vmalloc() area"),
        Region(direct, direct + layout.direct_map_size, "Linear mapping"),
        Region(modules, kernel, "Modules/BPF mapping"),
        Region(kernel, 1 << 64, "Kernel mapping"),
    )


def region_of(found: tuple[Region, ...], va: int) -> str:
    """The name of the part that ``va`` lies in, "" for none."""
    return next((it.name for it in found if it.start <= va < it.end), "")


def is_linux(ram: Ram, mode: PagingMode, root_pa: int) -> bool:
    """Whether a Linux kernel is mapped by the tables at ``root_pa`` (PA).

    The first page in the part for the kernel begins with the header of a riscv Image; that is
    so with a randomized base too. Raises TooManyEntries.
    """
    for run in runs(ram, mode, root_pa):
        if run.attributes and run.va >= KERNEL_LINK_ADDR:
            is_there = ram.contains(run.pa, PAGE_SIZE)
            return is_there and ram.read(run.pa + _MAGIC2_AT, len(_MAGIC2)) == _MAGIC2
    return False
