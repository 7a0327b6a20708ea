"""The board's physical address map: QEMU's `virt` (hw/riscv/virt.c, virt_memmap)."""

from __future__ import annotations

ROM_BASE, ROM_SIZE = 0x1000, 0xF000
FINISHER_BASE = 0x10_0000
UART_BASE = 0x1000_0000
DRAM_BASE = 0x8000_0000

RAM_SIZE_DEFAULT = 64 << 20  # bytes
