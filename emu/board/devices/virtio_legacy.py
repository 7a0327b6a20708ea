"""virtio over MMIO as it was before virtio 1.0: where the driver of a version 1 device puts queues.

Such a driver gives no three addresses but one page number; the three areas lie in one piece:

    QueuePFN * GuestPageSize    descriptor table   16 bytes each
    right behind it             driver area        6 + 2 bytes each
    at the next QueueAlign      device area

It sees 32 feature bits, there is no FEATURES_OK that could be refused, a queue is used as soon
as it has a page number, DRIVER_OK or not, and a broken device says nothing.

Source: virtio 1.2, sections 2.7.2, 4.2.4 (legacy interface); QEMU hw/virtio/virtio-mmio.c.
"""

from __future__ import annotations

from typing import Any

from emu.board.devices import saved

VERSION = 1
GUEST_PAGE_SIZE, QUEUE_ALIGN, QUEUE_PFN = 0x28, 0x3C, 0x40
# The registers that devices of later versions do not have.
REGISTERS = (GUEST_PAGE_SIZE, QUEUE_ALIGN, QUEUE_PFN)

_PAGE_SHIFT_MAX = 31
_ALIGN_DEFAULT = 4096  # bytes, QEMU's VIRTIO_PCI_VRING_ALIGN


def page_shift(page_size: int) -> int:
    """What GuestPageSize shifts by: the number of zeros at its end, as QEMU takes it."""
    shift = (page_size & -page_size).bit_length() - 1
    return shift if 0 <= shift <= _PAGE_SHIFT_MAX else 0


class LegacyPlace:
    """Where one queue lies: ``pa`` of its descriptor table, 0 for none; ``align`` in bytes."""

    __slots__ = ("align", "pa")

    def __init__(self) -> None:
        self.pa = 0
        self.align = _ALIGN_DEFAULT

    def areas(self, size: int) -> tuple[int, int, int]:
        """The PAs of the three areas of a queue of ``size`` descriptors."""
        driver = self.pa + 16 * size
        end = driver + 6 + 2 * size
        return self.pa, driver, -(-end // self.align) * self.align

    def state(self) -> dict[str, Any]:
        return {"pa": self.pa, "align": self.align}

    def restore(self, state: dict[str, Any]) -> None:
        """Raises KeyError or ValueError."""
        saved.fields(state, "pa", "align")
        self.pa = saved.number(state, "pa", 64)
        self.align = saved.number(state, "align", 32)
        if not self.align:
            raise ValueError("saved align: 0 bytes")
