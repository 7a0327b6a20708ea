"""virtio of version 1 by its registers (virtio 1.2, section 4.2.4)."""

from __future__ import annotations

import random
import struct

import pytest
from device_bench import (
    BASE,
    BUFFERS,
    DRIVER_OK,
    INTERRUPT_ACK,
    INTERRUPT_STATUS,
    NEXT,
    QUEUE_NOTIFY,
    QUEUE_NUM,
    QUEUE_READY,
    QUEUE_SEL,
    STATUS,
    WRITE,
    Wire,
)

from emu.board.devices.virtio_legacy import LegacyPlace, page_shift
from emu.board.devices.virtio_mmio import Virtio
from emu.board.devices.virtio_rng import VirtioRng
from emu.ram import Ram

GUEST_PAGE_SIZE, QUEUE_ALIGN, QUEUE_PFN = 0x28, 0x3C, 0x40
QUEUE = BASE + 0x2000


def test_page_shift_is_the_zeros_at_the_end() -> None:
    assert [page_shift(n) for n in (4096, 1, 2, 0x3000, 1 << 31, 0)] == [12, 0, 1, 12, 31, 0]


@pytest.mark.parametrize(
    ("size", "align", "driver", "device"),
    [
        # 16 bytes a descriptor; 6 bytes and 2 a descriptor; up to the next multiple.
        (8, 4096, 128, 4096),
        (8, 64, 128, 192),
        (8, 4, 128, 152),
        (256, 4096, 4096, 8192),
        (1, 4096, 16, 4096),
        (128, 4096, 2048, 4096),
        (8, 4095, 128, None),  # whatever a driver means by it: a multiple
    ],
)
def test_where_the_areas_are(size: int, align: int, driver: int, device: int | None) -> None:
    place = LegacyPlace()
    assert place.align == 4096
    place.pa, place.align = 0x8000_0000, align
    expected = (0x8000_0000, 0x8000_0000 + driver)
    assert place.areas(size)[:2] == expected
    if device is None:
        assert place.areas(size)[2] % align == 0
    else:
        assert place.areas(size)[2] == 0x8000_0000 + device


class Bench:
    """An rng of version 1, and a driver of few lines."""

    def __init__(self, seed: int = 5) -> None:
        self.ram = Ram(1 << 16)
        self.wire = Wire()
        self.written: list[tuple[int, int]] = []
        self.device = VirtioRng(
            0, self.ram, random.Random(seed), self.wire,
            lambda pa, size: self.written.append((pa, size)), legacy=True,
        )  # fmt: skip
        self.offered = 0

    def __call__(self, offset: int, value: int | None = None) -> int:
        if value is None:
            return self.device.read(offset, 4)
        self.device.write(offset, 4, value)
        return 0

    def start(self, pa: int = QUEUE, size: int = 8, align: int = 4096) -> None:
        for offset, value in (
            (GUEST_PAGE_SIZE, 4096), (QUEUE_SEL, 0), (QUEUE_NUM, size), (QUEUE_ALIGN, align),
            (QUEUE_PFN, pa >> 12),
        ):  # fmt: skip
            self(offset, value)

    def draw(self, size: int, used: int, count: int = 8, pa: int = QUEUE) -> bytes:
        """One request in a queue of ``count`` at ``pa``, whose device area is at ``used``."""
        self.ram.write(pa, struct.pack("<QIHH", BUFFERS, size, WRITE, 0))
        self.ram.write16(pa + 16 * count + 4 + 2 * (self.offered % count), 0)
        self.offered += 1
        self.ram.write16(pa + 16 * count + 2, self.offered)
        self(QUEUE_NOTIFY, 0)
        assert self.ram.read16(used + 2) == self.offered
        slot = used + 4 + 8 * ((self.offered - 1) % count)
        assert (self.ram.read32(slot), self.ram.read32(slot + 4)) == (0, size)
        return bytes(self.ram.read(BUFFERS, size))


def test_requests_round_the_ring() -> None:
    bench, expected = Bench(), random.Random(5)
    bench.start()
    bench(STATUS, DRIVER_OK)
    for _ in range(20):
        assert bench.draw(16, QUEUE + 4096) == expected.randbytes(16)
    assert bench(INTERRUPT_STATUS) == 1 and bench.wire.told[-20:] == [True] * 20
    bench(INTERRUPT_ACK, 1)
    assert bench.wire.level is False


def test_before_driver_ok_and_in_any_order() -> None:
    """Drivers of before 1.0 are served as soon as the queue has a page."""
    bench = Bench()
    for offset, value in (
        (QUEUE_SEL, 0), (GUEST_PAGE_SIZE, 4096), (QUEUE_PFN, QUEUE >> 12), (QUEUE_ALIGN, 64),
        (QUEUE_NUM, 8),
    ):  # fmt: skip
        bench(offset, value)
    assert bench.draw(4, QUEUE + 192) == random.Random(5).randbytes(4)
    assert bench(STATUS) == 0


def test_a_queue_of_the_largest_size_where_none_was_given() -> None:
    bench = Bench()
    bench(GUEST_PAGE_SIZE, 4096)
    bench(QUEUE_PFN, QUEUE >> 12)
    # 64 descriptors end at 1024, the driver area at 1024 + 6 + 128.
    bench.draw(4, QUEUE + 4096, count=64)


def test_page_0_ends_a_queue_and_a_new_one_begins_anew() -> None:
    bench = Bench()
    bench.start()
    bench.draw(4, QUEUE + 4096)
    bench(QUEUE_PFN, 0)
    assert bench(QUEUE_PFN) == 0
    bench.ram.fill(QUEUE, 0x2000)
    bench(QUEUE_NOTIFY, 0)
    assert bench.ram.read16(QUEUE + 4096 + 2) == 0
    bench.offered = 0
    bench.start(QUEUE + 0x4000)
    bench.draw(4, QUEUE + 0x5000, pa=QUEUE + 0x4000)


@pytest.mark.parametrize("pa", [0x1000, BASE + 0xF000, 0x7FFF_F000, 0xFFF_FFFF_F000])
def test_a_queue_outside_of_ram_breaks_the_device_silently(pa: int) -> None:
    bench = Bench()
    bench.start(pa)
    told = len(bench.wire.told)
    bench(STATUS, DRIVER_OK)
    bench(QUEUE_NOTIFY, 0)
    assert "not in RAM" in bench.device.error
    assert (bench(STATUS), bench(INTERRUPT_STATUS), bench.wire.told[told:]) == (DRIVER_OK, 0, [])
    bench.start()  # too late: only a reset mends it
    bench(QUEUE_NOTIFY, 0)
    bench(STATUS, 0)
    assert bench.device.error == ""
    bench.start()
    bench.draw(4, QUEUE + 4096)


def test_a_bad_chain_breaks_it_too() -> None:
    bench = Bench()
    bench.start()
    bench.ram.write(QUEUE, struct.pack("<QIHH", BUFFERS, 4, WRITE | NEXT, 0))
    bench.ram.write16(QUEUE + 128 + 2, 1)
    bench(QUEUE_NOTIFY, 0)
    assert "a chain of more than" in bench.device.error and bench(STATUS) == 0


def test_version_2_has_none_of_it() -> None:
    device = VirtioRng(0, Ram(1 << 16), random.Random(1))
    for offset in (GUEST_PAGE_SIZE, QUEUE_ALIGN, QUEUE_PFN):
        device.driven_as_other = False
        device.write(offset, 4, 4096)
        assert device.driven_as_other and device.read(offset, 4) == 0
    legacy = Bench()
    assert legacy(4) == 1 and not legacy.device.driven_as_other
    legacy(QUEUE_READY, 1)
    assert legacy.device.driven_as_other and legacy(QUEUE_READY) == 0
    assert Virtio(0, Ram(4096), legacy=True).read(4, 4) == 1


def test_state_round_trip_in_the_middle() -> None:
    bench = Bench()
    bench.start(align=64)
    for _ in range(3):
        bench.draw(8, QUEUE + 192)
    copy = Bench(seed=6)
    copy.ram.write(BASE, bench.ram.read(BASE, 1 << 16))
    copy.device.restore(bench.device.state())
    copy.offered = bench.offered
    assert copy.device.state() == bench.device.state()
    assert copy.draw(8, QUEUE + 192) == bench.draw(8, QUEUE + 192)
    state = bench.device.state()
    queue = state["queues"][0]
    for wrong in (
        {"version": 2}, {"version": 4}, {"legacy_page_shift": 32},
        {"queues": [queue | {"legacy": {"pa": -1, "align": 4}}]},
        {"queues": [queue | {"legacy": {"pa": 0, "align": 1 << 32}}]},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"saved|virtio"):
            copy.device.restore(state | wrong)
    with pytest.raises(ValueError, match="version 1, with --virtio-legacy"):
        VirtioRng(0, Ram(1 << 16), random.Random(1)).restore(state)
