"""The board's physical address map: QEMU's `virt` (hw/riscv/virt.c, virt_memmap)."""

from __future__ import annotations

from emu.ram import RAM_BASE

ROM_BASE, ROM_SIZE = 0x1000, 0xF000
FINISHER_BASE = 0x10_0000
UART_BASE = 0x1000_0000
DRAM_BASE = RAM_BASE

RAM_SIZE_DEFAULT = 64 << 20  # bytes
