"""Every device under random accesses and random queues: it stays alive, small and in its place.

All runs are seeded. What is asked of each access: no exception, and a value of the size that
was read. Of the whole: state that does not grow, and no byte of RAM changed that the device
did not tell of or that no descriptor names.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_bench import (
    AVAIL,
    BASE,
    DRIVER_OK,
    INDIRECT,
    INTERRUPT_ACK,
    NEEDS_RESET,
    NEXT,
    QUEUE_NOTIFY,
    QUEUE_READY,
    STATUS,
    TABLE,
    USED,
    WRITE,
    Driver,
    HandClock,
)

from emu.board.clock import RealClock
from emu.board.devices import Device
from emu.board.devices.clint import Clint
from emu.board.devices.disk_image import DiskImage
from emu.board.devices.finisher import Finisher
from emu.board.devices.plic import Plic
from emu.board.devices.rtc import Rtc
from emu.board.devices.uart import Uart
from emu.board.devices.virtio_blk import VirtioBlk
from emu.board.devices.virtio_mmio import Virtio
from emu.board.devices.virtio_rng import VirtioRng
from emu.ram import Ram

RAM_SIZE = 1 << 16
INDIRECT_TABLES = BASE + 0x4000
DISK_SIZE = 24 * 512
STATE_SIZE_MAX = 600_000  # characters of repr; the UART's queue of 64 KiB is most of it
ROUNDS = 20_000

# Words that mean something to some register, or to somebody's arithmetic.
VALUES = (0, 1, 2, 3, 4, 7, 8, 0xF, 0x10, 0x40, 0x80, 0xFF, 0xFFFF, 0x5555, 0x7FFF_FFFF,
          0x8000_0000, 0x8000_1000, 0x8000_FFF0, 0xFFFF_FFFF)  # fmt: skip


class Lines:
    """The other end of a device's interrupt lines."""

    def __init__(self) -> None:
        self.levels: dict[int, bool] = {}

    def __call__(self, number: int, level: bool) -> None:
        assert isinstance(level, bool)
        self.levels[number] = level

    def line(self, level: bool) -> None:
        self(0, level)


class Board:
    """One device of a kind, on its own RAM; and what else can happen to it."""

    def __init__(self, kind: str, path: Path, rng: random.Random) -> None:
        self.ram = Ram(RAM_SIZE)
        self.lines = Lines()
        self.clock = HandClock()
        self.writes: list[tuple[int, int]] = []
        self.happens: Callable[[], object] = lambda: None
        self.device = self._make(kind, path, rng)

    def written(self, pa: int, size: int) -> None:
        assert self.ram.contains(pa, size) and size > 0
        self.writes.append((pa, size))

    def _make(self, kind: str, path: Path, rng: random.Random) -> Device:
        if kind == "uart":
            uart = Uart(0, lambda data: None, self.lines.line)
            self.happens = lambda: uart.receive(rng.randbytes(rng.randrange(3000)))
            return uart
        if kind == "clint":
            self.happens = lambda: self.clock.set_now(
                min(self.clock.ticks + rng.randrange(1 << rng.randrange(65)), (1 << 64) - 1)
            )
            return Clint(0, self.clock, [self.lines])
        if kind == "rtc":
            self.happens = lambda: self.clock.set_now(self.clock.ticks + rng.randrange(1 << 40))
            return Rtc(0, self.clock, 1 << 60, self.lines.line)
        if kind == "plic":
            plic = Plic(0, [self.lines])
            self.happens = lambda: plic.set_line(rng.randrange(1, 96), rng.random() < 0.5)
            return plic
        if kind == "blk":
            disk = DiskImage(path, "cow")
            return VirtioBlk(0, self.ram, disk, self.lines.line, self.written)
        if kind == "legacy":
            disk = DiskImage(path, "cow")
            return VirtioBlk(0, self.ram, disk, self.lines.line, self.written, legacy=True)
        if kind == "rng":
            return VirtioRng(0, self.ram, random.Random(1), self.lines.line, self.written)
        if kind == "finisher":
            return Finisher(0, lambda stop: None)
        return Virtio(0, self.ram, self.lines.line)


KINDS = ("uart", "clint", "plic", "rtc", "blk", "legacy", "rng", "empty", "finisher")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(2).randbytes(DISK_SIZE))
    return path


def offset(rng: random.Random, size: int) -> int:
    """Anywhere, and more often where registers are."""
    if rng.randrange(4) == 0:
        return rng.randrange(size)
    start = rng.choice((0, 0, 0x40, 0x80, 0x100, 0x1000, 0x2000, 0x4000, 0xBFF8, 0x20_0000,
                        0x20_1000))  # fmt: skip
    return min(start + rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 0x10, 0x30, 0x38, 0x70)), size - 1)


def access(device: Device, rng: random.Random) -> None:
    where, size = offset(rng, device.size), rng.choice((1, 2, 4, 4, 4))
    if rng.random() < 0.5:
        value = device.read(where, size)
        assert isinstance(value, int) and 0 <= value < 1 << 8 * size, (where, size, value)
    else:
        value = rng.choice(VALUES) if rng.random() < 0.7 else rng.getrandbits(32)
        device.write(where, size, value & (1 << 8 * size) - 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_accesses(kind: str, seed: int, path: Path) -> None:
    rng = random.Random(seed)
    board = Board(kind, path, rng)
    device = board.device
    board.ram.write(BASE, rng.randbytes(RAM_SIZE))
    before = board.ram.array(BASE, RAM_SIZE, np.uint8).copy()
    for i in range(ROUNDS):
        access(device, rng)
        if rng.randrange(20) == 0:
            board.happens()
        if i % 2000 == 0:
            state = device.state()
            assert len(repr(state)) < STATE_SIZE_MAX
            device.restore(state)
            assert device.state() == state
    assert changed_outside(board, before).size == 0
    assert len(board.clock._alarms) <= 1


def test_clint_and_rtc_with_the_real_clock() -> None:
    """Alarms ring in the clock's thread, at any of 10,000 times."""
    rng = random.Random(8)
    clock = RealClock()
    lines = Lines()
    devices = (Clint(0, clock, [lines]), Rtc(0, clock, 1 << 60, lines.line))
    try:
        for _ in range(10_000):
            with clock.lock:
                device = rng.choice(devices)
                access(device, rng)
                if rng.randrange(4) == 0:  # an alarm that is near
                    devices[0].write(0x4004, 4, clock.now() >> 32 & 0xFFFF_FFFF)
                    devices[0].write(0x4000, 4, clock.now() + rng.randrange(100) & 0xFFFF_FFFF)
        assert clock._thread is not None and clock._thread.is_alive()
    finally:
        clock.close()


def changed_outside(board: Board, before: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The bytes of RAM (offsets) that changed and that the device told nobody of."""
    changed = before != board.ram.array(BASE, RAM_SIZE, np.uint8)
    for pa, size in board.writes:
        changed[pa - BASE : pa - BASE + size] = False
    return np.flatnonzero(changed)


def writable_bytes(ram: Ram, size: int) -> np.ndarray[Any, Any]:
    """A mask of the bytes that the queue's descriptors, or tables that they name, let a
    device write; and the device area."""
    mask = np.zeros(RAM_SIZE, bool)
    mask[USED - BASE : USED - BASE + 4 + 8 * size] = True
    entries = []
    for i in range(size):
        entry = struct.unpack("<QIHH", ram.read(TABLE + 16 * i, 16))
        entries.append(entry)
        if entry[2] & INDIRECT and ram.contains(entry[0], entry[1]):
            for j in range(entry[1] // 16):
                entries.append(struct.unpack("<QIHH", ram.read(entry[0] + 16 * j, 16)))
    for pa, extent, flags, _ in entries:
        if flags & WRITE and not flags & INDIRECT and ram.contains(pa, extent):
            mask[pa - BASE : pa - BASE + extent] = True
    return mask


class QueueFuzz:
    """Fills a queue at random, mostly with what a driver might have meant."""

    def __init__(self, driver: Driver, rng: random.Random, is_wild: bool) -> None:
        self.driver, self.ram, self.rng, self.is_wild = driver, driver.ram, rng, is_wild

    def buffer(self) -> tuple[int, int]:
        """Where and how large; unless wild not over the queue, whose tables must stay."""
        rng = self.rng
        if rng.randrange(40) == 0:
            return rng.choice((0, BASE - 1, BASE + RAM_SIZE - 1, (1 << 64) - 8)), rng.choice(
                (1, 16, 512, 0xFFFF_FFFF)
            )
        size = rng.choice((0, 1, 15, 16, 16, 512, 512, 513, 1024, 4096))
        low = BASE if self.is_wild else BASE + 0x8000
        return rng.randrange(low, BASE + RAM_SIZE - size), size

    def table(self, at: int, count: int, index: int) -> None:
        """One descriptor."""
        rng = self.rng
        pa, size = self.buffer()
        flags = rng.choice((0, NEXT, NEXT, NEXT | WRITE, WRITE, WRITE))
        if rng.randrange(8) == 0:
            flags = rng.randrange(8)
        if flags & INDIRECT:
            pa, size = INDIRECT_TABLES + 8 * rng.randrange(0x70), 16 * rng.randrange(6)
        following = index + 1 if rng.randrange(8) else rng.randrange(count + 1)
        self.driver.descriptor(index, pa, size, flags, following, at)

    def request(self, head: int, length: int) -> None:
        """A block request that is nearly well formed."""
        rng = self.rng
        header = BASE + 0x8000 + 16 * rng.randrange(0x100)
        kind, sector = rng.choice((0, 0, 1, 1, 4, 8, 99)), rng.randrange(26)
        self.ram.write(header, struct.pack("<IIQ", kind, 0, sector))
        data = [(BASE + 0x9000 + rng.randrange(0x6000), 512 * rng.randrange(5), 0)] * length
        if kind != 1:
            data = [(pa, size, WRITE) for pa, size, _ in data]
        self.driver.chain((header, 16, 0), *data, (BASE + 0xF800, 1, WRITE), first=head)

    def fill(self) -> None:
        rng = self.rng
        if rng.randrange(3) == 0:
            self.request(0, rng.randrange(3))
            self.driver.offer(0)
            return
        for index in range(self.driver.size):
            self.table(TABLE, self.driver.size, index)
        for index in range(0x40):
            self.table(INDIRECT_TABLES, 5, index)
        self.request(rng.randrange(2), rng.randrange(3))
        for _ in range(rng.randrange(5)):
            self.driver.offer(rng.randrange(self.driver.size + (rng.randrange(20) == 0)))
        if rng.randrange(30) == 0:
            self.ram.write16(AVAIL + 2, rng.getrandbits(16))


@contextmanager
def seconds_at_most(limit: float) -> Iterator[None]:
    """No single thing that a guest asks may take long."""
    start = time.process_time()
    yield
    assert time.process_time() - start < limit


@pytest.mark.parametrize("kind", ["blk", "rng"])
@pytest.mark.parametrize("is_wild", [False, True])
def test_random_queues(kind: str, is_wild: bool, path: Path) -> None:
    rng = random.Random(f"{kind}{is_wild}")
    content = path.read_bytes()
    board = Board(kind, path, rng)
    assert isinstance(board.device, Virtio)
    driver = Driver(board.ram, board.device)
    fuzz = QueueFuzz(driver, rng, is_wild)
    served = broken = 0
    driver.start()
    for _ in range(2500):
        fuzz.fill()
        board.writes.clear()
        before = board.ram.array(BASE, RAM_SIZE, np.uint8).copy()
        allowed = writable_bytes(board.ram, driver.size)
        count = driver.used_index()
        with seconds_at_most(2):
            driver(QUEUE_NOTIFY, 0)
        assert changed_outside(board, before).size == 0
        if not is_wild:
            changed = before != board.ram.array(BASE, RAM_SIZE, np.uint8)
            assert not (changed & ~allowed).any()
            served += driver.used_index() - count & 0xFFFF
        if driver(STATUS) & NEEDS_RESET:
            broken += 1
            assert driver(0x60) & 2 and board.device.error
        if driver(STATUS) & NEEDS_RESET or driver(QUEUE_READY) != 1:
            board.ram.fill(TABLE, 0x3000)
            driver.offered = 0
            driver.start()
        driver(INTERRUPT_ACK, 3)
    assert driver(STATUS) & DRIVER_OK and broken > 300
    assert is_wild or served > 1000  # both ways are taken, often
    assert path.read_bytes() == content
    assert len(repr(board.device.state())) < STATE_SIZE_MAX


def test_random_registers_of_a_running_virtio_device(path: Path) -> None:
    """Accesses at random while queues are in use: sizes, areas and readiness change."""
    rng = random.Random(17)
    board = Board("blk", path, rng)
    assert isinstance(board.device, Virtio)
    driver = Driver(board.ram, board.device)
    fuzz = QueueFuzz(driver, rng, True)
    for _ in range(300):
        driver.offered = 0
        board.ram.fill(TABLE, 0x3000)
        driver.start()
        fuzz.fill()
        board.writes.clear()
        before = board.ram.array(BASE, RAM_SIZE, np.uint8).copy()
        for _ in range(60):
            access(board.device, rng)
            if rng.randrange(6) == 0:
                driver(QUEUE_NOTIFY, 0)
        assert changed_outside(board, before).size == 0
