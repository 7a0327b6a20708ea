"""The board: QEMU's `virt` (hw/riscv/virt.c, virt_memmap), declared once.

The machine attaches its devices by this table, and the device tree is written from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from emu.ram import RAM_BASE


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device stands: ``base`` (PA), ``size`` (bytes), and what describes it.

    ``irq``: its source number at the PLIC, 0 for none; ``compatible``: the device tree's
    words for it, the most specific first; ``node``: the device tree node's name.
    """

    node: str
    base: int
    size: int
    irq: int = 0
    compatible: tuple[str, ...] = ()


ROM = Place("rom", 0x1000, 0xF000)
FINISHER = Place("test", 0x10_0000, 0x1000, compatible=("sifive,test1", "sifive,test0", "syscon"))
RTC = Place("rtc", 0x10_1000, 0x1000, 11, ("google,goldfish-rtc",))
CLINT = Place("clint", 0x200_0000, 0x1_0000, compatible=("sifive,clint0", "riscv,clint0"))
PLIC = Place("plic", 0xC00_0000, 0x60_0000, compatible=("sifive,plic-1.0.0", "riscv,plic0"))
UART = Place("serial", 0x1000_0000, 0x100, 10, ("ns16550a",))
VIRTIO = tuple(
    Place("virtio_mmio", 0x1000_1000 + 0x1000 * i, 0x1000, 1 + i, ("virtio,mmio",))
    for i in range(8)
)
# The PCIe host: its configuration space and its I/O ports. Nothing is plugged into it. Its cards
# would have their memory in the two windows, and their pins at four sources of the PLIC.
PCIE = Place("pci", 0x3000_0000, 0x1000_0000, compatible=("pci-host-ecam-generic",))
PCIE_PORTS = Place("pci-io", 0x300_0000, 0x1_0000)
PCIE_MEMORY = Place("pci-memory", 0x4000_0000, 0x4000_0000)
PCIE_HIGH_MEMORY_SIZE = 16 << 30  # bytes; it begins at the first multiple behind RAM
PCIE_IRQ = 0x20
DRAM_BASE = RAM_BASE

PLIC_SOURCES = 96  # VIRT_IRQCHIP_NUM_SOURCES, the reserved source 0 counted
UART_CLOCK_HZ = 3_686_400
TIMEBASE_HZ = 10_000_000  # RISCV_ACLINT_DEFAULT_TIMEBASE_FREQ
RAM_SIZE_DEFAULT = 64 << 20  # bytes
DEVICES = (FINISHER, RTC, CLINT, PLIC, UART, *VIRTIO, PCIE)
