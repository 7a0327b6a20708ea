"""A bus on which no device answers: reads are all ones, as PCI has it, and writes are lost.

The board's PCIe host is this alone. A kernel that looks for cards asks each device of each bus
for its vendor in the configuration space (ECAM), gets 0xffff and knows that none is there.

Source: PCI Local Bus Specification 3.0, section 6.1; QEMU hw/pci/pci_host.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emu.board.devices import saved


class Unclaimed(saved.Restorable):
    """``size`` bytes from ``base`` (PA) on, as ``name``; one mapping, and no memory behind it."""

    outside: tuple[str, ...] = ()

    def __init__(self, name: str, base: int, size: int) -> None:
        self.name = name
        self.base = base
        self.size = size

    def read(self, offset: int, size: int) -> int:
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        saved.fields(state)
        return lambda: None
