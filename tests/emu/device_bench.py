"""What the devices' tests share: a clock moved by hand, and a virtio driver of few lines."""

from __future__ import annotations

import struct

from emu.board.clock import Clock
from emu.board.devices.virtio_mmio import Virtio
from emu.ram import Ram

# virtio 1.2, table 4.1
MAGIC, VERSION, DEVICE_ID, VENDOR_ID, DEVICE_FEATURES, DEVICE_FEATURES_SEL = 0, 4, 8, 12, 16, 20
DRIVER_FEATURES, DRIVER_FEATURES_SEL, QUEUE_SEL, QUEUE_NUM_MAX = 0x20, 0x24, 0x30, 0x34
QUEUE_NUM, QUEUE_READY, QUEUE_NOTIFY = 0x38, 0x44, 0x50
INTERRUPT_STATUS, INTERRUPT_ACK, STATUS = 0x60, 0x64, 0x70
QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE, CONFIG_GENERATION, CONFIG = 0x80, 0x90, 0xA0, 0xFC, 0x100
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1, 2, 4, 8, 0x40
NEXT, WRITE, INDIRECT = 1, 2, 4

BASE = 0x8000_0000
TABLE, AVAIL, USED, BUFFERS = BASE + 0x1000, BASE + 0x2000, BASE + 0x3000, BASE + 0x4000


class HandClock(Clock):
    """Moved by hand; alarms ring as it passes them."""

    def __init__(self) -> None:
        super().__init__()
        self.ticks = 0

    def now(self) -> int:
        return self.ticks

    def set_now(self, ticks: int) -> None:
        self.ticks = ticks
        self.alarms_changed()

    def alarms_changed(self) -> None:
        self.ring_due()


class Wire:
    """The other end of an interrupt line: all that it was ``told``, and the ``changes``."""

    def __init__(self) -> None:
        self.level = False
        self.told: list[bool] = []
        self.changes: list[bool] = []

    def __call__(self, level: bool) -> None:
        self.told.append(level)
        if level is not self.level:
            self.level = level
            self.changes.append(level)


class Driver:
    """Drives one device's queue 0, as the guest would, on RAM of its own."""

    def __init__(self, ram: Ram, device: Virtio, size: int = 8) -> None:
        self.ram = ram
        self.device = device
        self.size = size
        self.offered = 0  # running number

    def __call__(self, offset: int, value: int | None = None) -> int:
        if value is None:
            return self.device.read(offset, 4)
        self.device.write(offset, 4, value)
        return 0

    def features(self) -> int:
        self(DEVICE_FEATURES_SEL, 1)
        high = self(DEVICE_FEATURES)
        self(DEVICE_FEATURES_SEL, 0)
        return high << 32 | self(DEVICE_FEATURES)

    def negotiate(self, features: int) -> int:
        """Section 3.1.1 up to FEATURES_OK; the status that the device then shows."""
        self(STATUS, 0)
        self(STATUS, ACKNOWLEDGE)
        self(STATUS, ACKNOWLEDGE | DRIVER)
        for half in (0, 1):
            self(DRIVER_FEATURES_SEL, half)
            self(DRIVER_FEATURES, features >> 32 * half & 0xFFFF_FFFF)
        self(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        return self(STATUS)

    def queue(
        self, size: int | None = None, table: int = TABLE, avail: int = AVAIL, used: int = USED
    ) -> None:
        self(QUEUE_SEL, 0)
        self(QUEUE_NUM, self.size if size is None else size)
        for offset, pa in ((QUEUE_DESC, table), (QUEUE_DRIVER, avail), (QUEUE_DEVICE, used)):
            self(offset, pa & 0xFFFF_FFFF)
            self(offset + 4, pa >> 32)
        self(QUEUE_READY, 1)

    def start(self) -> None:
        assert self.negotiate(1 << 32) & FEATURES_OK
        self.queue()
        assert self(QUEUE_READY) == 1
        self(STATUS, self(STATUS) | DRIVER_OK)

    def descriptor(
        self, index: int, pa: int, size: int, flags: int = 0, next: int = 0, table: int = TABLE
    ) -> None:
        self.ram.write(table + 16 * index, struct.pack("<QIHH", pa, size, flags, next))

    def chain(self, *buffers: tuple[int, int, int], first: int = 0, table: int = TABLE) -> None:
        """Buffers ``(pa, size, flags)`` in consecutive descriptors."""
        for i, (pa, size, flags) in enumerate(buffers):
            is_last = i == len(buffers) - 1
            self.descriptor(
                first + i, pa, size, flags | (0 if is_last else NEXT), first + i + 1, table
            )

    def offer(self, head: int) -> None:
        self.ram.write16(AVAIL + 4 + 2 * (self.offered % self.size), head)
        self.offered = (self.offered + 1) & 0xFFFF
        self.ram.write16(AVAIL + 2, self.offered)

    def submit(self, *buffers: tuple[int, int, int], first: int = 0) -> tuple[int, int]:
        """Offer one chain, notify; ``(head, written)`` as the used ring says."""
        before = self.used_index()
        self.chain(*buffers, first=first)
        self.offer(first)
        self(QUEUE_NOTIFY, 0)
        assert self.used_index() == (before + 1) & 0xFFFF
        return self.used(before)

    def used_index(self) -> int:
        return self.ram.read16(USED + 2)

    def used(self, number: int) -> tuple[int, int]:
        slot = USED + 4 + 8 * (number % self.size)
        return self.ram.read32(slot), self.ram.read32(slot + 4)
