"""The CLINT by its registers, on a clock that stands until the test moves it."""

from __future__ import annotations

import threading

import pytest
from device_bench import HandClock
from progress import wait_until

from emu.board.clock import RealClock
from emu.board.devices.clint import Clint

MSIP, MTIMECMP, MTIME = 0x0, 0x4000, 0xBFF8
MSI, MTI = 3, 7


class Bench:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.levels = {MSI: False, MTI: False}
        self.pending: list[tuple[int, bool]] = []
        self.clint = Clint(0x200_0000, self.clock, [self.drive])

    def drive(self, number: int, level: bool) -> None:
        """The wires: that one is driven to what it is already is no news."""
        if self.levels[number] != level:
            self.levels[number] = level
            self.pending.append((number, level))

    def read64(self, offset: int) -> int:
        return self.clint.read(offset, 4) | self.clint.read(offset + 4, 4) << 32

    def write64(self, offset: int, value: int) -> None:
        """As the hart's 8-byte store arrives: the lower half first."""
        self.clint.write(offset, 4, value & 0xFFFF_FFFF)
        self.clint.write(offset + 4, 4, value >> 32)

    def news(self) -> list[tuple[int, bool]]:
        news, self.pending[:] = list(self.pending), []
        return news


def test_after_reset() -> None:
    bench = Bench()
    bench.clock.set_now(1 << 40)
    assert (bench.clint.base, bench.clint.size, bench.news()) == (0x200_0000, 0x1_0000, [])
    assert bench.read64(MTIMECMP) == (1 << 64) - 1
    assert bench.read64(MTIME) == 1 << 40
    assert bench.clint.read(MSIP, 4) == 0
    assert bench.clock.next_alarm() is None  # nobody waits: an idle machine may stop


def test_software_interrupt() -> None:
    bench = Bench()
    bench.clint.write(MSIP, 4, 0xFFFF_FFFF)
    assert (bench.clint.read(MSIP, 4), bench.news()) == (1, [(MSI, True)])
    bench.clint.write(MSIP, 4, 1)
    assert bench.news() == []
    bench.clint.write(MSIP, 4, 2)
    assert (bench.clint.read(MSIP, 4), bench.news()) == (0, [(MSI, False)])


def test_timer_interrupt_is_a_level() -> None:
    bench = Bench()
    bench.write64(MTIMECMP, 1000)
    bench.clock.set_now(999)
    assert bench.news() == []
    bench.clock.set_now(1000)
    assert bench.news() == [(MTI, True)]
    bench.clock.set_now(5000)
    assert bench.news() == []  # still held
    bench.write64(MTIMECMP, 5001)
    assert bench.news() == [(MTI, False)]
    bench.clock.set_now(5001)
    assert bench.news() == [(MTI, True)]
    bench.write64(MTIMECMP, 3)  # still due
    assert bench.news() == []
    bench.write64(MTIMECMP, (1 << 64) - 1)
    assert bench.news() == [(MTI, False)] and bench.clock.next_alarm() is None


def test_half_writes_lose_no_alarm() -> None:
    """Written in either order the alarm is right at the end, whatever was there between."""
    for halves in ((0, 4), (4, 0)):
        bench = Bench()
        value = 0x1_0000_0005
        for half in halves:
            bench.clint.write(MTIMECMP + half, 4, value >> 8 * half & 0xFFFF_FFFF)
        assert bench.read64(MTIMECMP) == value
        bench.clock.set_now(value - 1)
        assert (MTI, True) not in bench.news()
        bench.clock.set_now(value)
        assert bench.news() == [(MTI, True)]
    # As the SBI on RV32 does it: all ones above first, so that nothing fires between.
    bench = Bench()
    bench.write64(MTIMECMP, 0x1_0000_0005)
    bench.clock.set_now(0x1_0000_0000)
    bench.news()
    for half, word in ((4, 0xFFFF_FFFF), (0, 7), (4, 1)):
        bench.clint.write(MTIMECMP + half, 4, word)
    assert bench.news() == []
    bench.clock.set_now(0x1_0000_0007)
    assert bench.news() == [(MTI, True)]


def test_a_half_write_may_be_due_between() -> None:
    bench = Bench()
    bench.clock.set_now(100)
    bench.write64(MTIMECMP, 0x2_0000_0000)
    bench.news()
    bench.clint.write(MTIMECMP + 4, 4, 0)  # mtimecmp is 0 now
    assert bench.news() == [(MTI, True)]
    bench.clint.write(MTIMECMP, 4, 101)
    assert bench.news() == [(MTI, False)]
    bench.clock.set_now(101)
    assert bench.news() == [(MTI, True)]


def test_mtime_is_writable() -> None:
    bench = Bench()
    bench.write64(MTIMECMP, 1000)
    bench.write64(MTIME, 0x5_0000_1234)
    assert (bench.clock.ticks, bench.news()) == (0x5_0000_1234, [(MTI, True)])
    bench.write64(MTIME, 10)  # back before it: the interrupt goes, the alarm stands again
    assert bench.news() == [(MTI, False)]
    bench.clock.set_now(1000)
    assert bench.news() == [(MTI, True)]


def test_small_accesses_and_holes() -> None:
    bench = Bench()
    bench.write64(MTIMECMP, 0x8877_6655_4433_2211)
    assert [bench.clint.read(MTIMECMP + i, 1) for i in range(8)] == [
        0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88
    ]  # fmt: skip
    assert bench.clint.read(MTIMECMP + 2, 2) == 0x4433
    bench.clint.write(MTIMECMP + 6, 2, 0xABCD)
    assert bench.read64(MTIMECMP) == 0xABCD_6655_4433_2211
    bench.clint.write(MSIP + 1, 1, 1)
    assert bench.news() == []
    for hole in (4, 0x3FFC, 0x4008, 0xBFF4, 0xC000, 0xFFFC, 0x4002):
        bench.clint.write(hole, 4, 0xFFFF_FFFF)
        assert bench.clint.read(hole, 4) == 0
    assert bench.news() == [] and bench.read64(MTIMECMP) == 0xABCD_6655_4433_2211


def test_with_the_real_clock() -> None:
    clock = RealClock()
    rung = threading.Event()
    clint = Clint(
        0, clock, [lambda number, level: rung.set() if (number, level) == (7, True) else None]
    )
    try:
        with clock.lock:
            when = clock.now() + 50_000  # 5 ms
            clint.write(MTIMECMP, 4, when & 0xFFFF_FFFF)
            clint.write(MTIMECMP + 4, 4, when >> 32)
        wait_until(rung.is_set)
        assert clock.now() >= when
    finally:
        clock.close()


def test_state_round_trip_in_the_middle() -> None:
    bench = Bench()
    bench.clint.write(MSIP, 4, 1)
    bench.write64(MTIMECMP, 500)
    bench.clock.set_now(400)
    copy = Bench()
    copy.clock.set_now(400)
    copy.clint.restore(bench.clint.state())
    # The hart does not keep its wires: who drives them restores them.
    assert copy.news() == [(MSI, True)] and copy.clint.state() == bench.clint.state()
    assert copy.clint.read(MSIP, 4) == 1
    copy.clock.set_now(500)
    assert copy.news() == [(MTI, True)]
    # And with the interrupt held.
    again = Bench()
    again.clock.set_now(500)
    again.clint.restore(copy.clint.state())
    assert again.news() == [(MSI, True), (MTI, True)]
    again.write64(MTIMECMP, 600)
    assert again.news() == [(MTI, False)]
    for wrong in (
        {"msip": [2]},
        {"mtimecmp": [-1]},
        {"mtimecmp": [1 << 64]},
        {"mtip": ["x"]},
        {"mtip": []},
    ):
        with pytest.raises(ValueError, match="saved"):
            again.clint.restore(copy.clint.state() | wrong)
    with pytest.raises(KeyError):
        again.clint.restore({})
