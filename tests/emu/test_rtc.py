"""The Goldfish RTC by its registers, on a clock moved by hand."""

from __future__ import annotations

import pytest
from device_bench import HandClock, Wire

from emu.board.devices.rtc import Rtc

TIME_LOW, TIME_HIGH, ALARM_LOW, ALARM_HIGH = 0x0, 0x4, 0x8, 0xC
IRQ_ENABLED, CLEAR_ALARM, ALARM_STATUS, CLEAR_INTERRUPT = 0x10, 0x14, 0x18, 0x1C
EPOCH = 1_700_000_000_123_456_789  # ns: 14 November 2023


class Bench:
    def __init__(self, epoch: int = EPOCH) -> None:
        self.clock = HandClock()
        self.wire = Wire()
        self.irq = self.wire.changes
        self.rtc = Rtc(0x10_1000, self.clock, epoch, self.wire)

    def time(self) -> int:
        low = self.rtc.read(TIME_LOW, 4)  # it latches the other half
        return self.rtc.read(TIME_HIGH, 4) << 32 | low

    def write64(self, low: int, value: int) -> None:
        """The high half first, as Linux's goldfish_rtc_set_alarm does."""
        self.rtc.write(low + 4, 4, value >> 32)
        self.rtc.write(low, 4, value & 0xFFFF_FFFF)


def test_time_is_the_epoch_and_the_clock() -> None:
    bench = Bench()
    assert (bench.rtc.base, bench.rtc.size) == (0x10_1000, 0x1000)
    assert bench.time() == EPOCH
    bench.clock.set_now(10_000_000)  # a second of a 10 MHz clock
    assert bench.time() == EPOCH + 1_000_000_000


def test_reading_the_low_half_latches_the_high_half() -> None:
    bench = Bench(0x1_FFFF_FFFF)
    assert bench.rtc.read(TIME_HIGH, 4) == 0
    assert bench.rtc.read(TIME_LOW, 4) == 0xFFFF_FFFF
    bench.clock.set_now(1)
    assert bench.rtc.read(TIME_HIGH, 4) == 1
    assert (bench.rtc.read(TIME_LOW, 4), bench.rtc.read(TIME_HIGH, 4)) == (99, 2)


def test_time_is_writable() -> None:
    bench = Bench()
    bench.clock.set_now(77)
    bench.write64(TIME_LOW, 0x0102_0304_0506_0708)
    assert bench.time() == 0x0102_0304_0506_0708
    bench.clock.set_now(87)
    assert bench.time() == 0x0102_0304_0506_0708 + 1000


def test_alarm() -> None:
    bench = Bench()
    bench.rtc.write(IRQ_ENABLED, 4, 1)
    bench.write64(ALARM_LOW, EPOCH + 1_050)
    assert bench.rtc.read(ALARM_STATUS, 4) == 1
    assert bench.rtc.read(ALARM_HIGH, 4) << 32 | bench.rtc.read(ALARM_LOW, 4) == EPOCH + 1_050
    bench.clock.set_now(10)
    assert bench.irq == []
    bench.clock.set_now(11)  # the first tick of 100 ns that is not before it
    assert (bench.irq, bench.rtc.read(ALARM_STATUS, 4)) == ([True], 0)
    bench.clock.set_now(1000)
    assert bench.irq == [True]
    bench.rtc.write(CLEAR_INTERRUPT, 4, 1)
    assert bench.irq == [True, False]


def test_alarm_in_the_past_rings_at_once() -> None:
    bench = Bench()
    bench.rtc.write(IRQ_ENABLED, 4, 1)
    bench.write64(ALARM_LOW, EPOCH - 1)
    assert bench.irq == [True] and bench.rtc.read(ALARM_STATUS, 4) == 0


def test_interrupt_waits_for_its_enable_bit() -> None:
    bench = Bench()
    bench.write64(ALARM_LOW, EPOCH + 100)
    bench.clock.set_now(1)
    assert bench.irq == []
    bench.rtc.write(IRQ_ENABLED, 4, 0xFF)
    assert (bench.irq, bench.rtc.read(IRQ_ENABLED, 4)) == ([True], 1)
    bench.rtc.write(IRQ_ENABLED, 4, 0xFE)
    assert bench.irq == [True, False]


def test_clear_alarm() -> None:
    bench = Bench()
    bench.rtc.write(IRQ_ENABLED, 4, 1)
    bench.write64(ALARM_LOW, EPOCH + 100)
    bench.rtc.write(CLEAR_ALARM, 4, 0)
    bench.clock.set_now(10)
    assert (bench.irq, bench.rtc.read(ALARM_STATUS, 4)) == ([], 0)
    assert bench.clock.next_alarm() is None


def test_alarm_follows_a_new_time() -> None:
    bench = Bench()
    bench.rtc.write(IRQ_ENABLED, 4, 1)
    bench.write64(ALARM_LOW, EPOCH + 1_000_000)
    bench.write64(TIME_LOW, EPOCH + 999_000)
    bench.clock.set_now(9)
    assert bench.irq == []
    bench.clock.set_now(10)
    assert bench.irq == [True]


def test_other_accesses() -> None:
    bench = Bench()
    assert bench.rtc.read(TIME_LOW, 1) == bench.rtc.read(2, 4) == bench.rtc.read(0x20, 4) == 0
    bench.rtc.write(IRQ_ENABLED, 1, 1)
    bench.rtc.write(0x20, 4, 1)
    assert bench.rtc.read(IRQ_ENABLED, 4) == 0


def test_state_round_trip_in_the_middle() -> None:
    bench = Bench()
    bench.rtc.write(IRQ_ENABLED, 4, 1)
    bench.write64(ALARM_LOW, EPOCH + 2_000)
    bench.clock.set_now(5)
    bench.rtc.read(TIME_LOW, 4)
    copy = Bench(0)
    copy.clock.set_now(5)
    copy.rtc.restore(bench.rtc.state())
    assert copy.irq == [] and copy.rtc.state() == bench.rtc.state()
    assert copy.rtc.read(TIME_HIGH, 4) == EPOCH >> 32
    assert copy.time() == EPOCH + 500
    copy.clock.set_now(20)
    assert copy.irq == [True]
    again = Bench(0)
    again.clock.set_now(20)
    again.rtc.restore(copy.rtc.state())
    assert again.wire.told == []
    again.rtc.write(CLEAR_INTERRUPT, 4, 1)
    assert again.wire.told == [False]
    for wrong in ({"epoch_ns": -1}, {"alarm_ns": 1 << 64}, {"enabled": 2}):
        with pytest.raises(ValueError, match="saved"):
            again.rtc.restore(copy.rtc.state() | wrong)
    with pytest.raises(KeyError):
        again.rtc.restore({})
