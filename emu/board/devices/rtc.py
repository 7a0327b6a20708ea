"""Goldfish RTC: wall-clock time in nanoseconds since 1970, and one alarm.

  0x00  TIME_LOW         reading it latches the high half for TIME_HIGH
  0x04  TIME_HIGH
  0x08  ALARM_LOW        writing it sets the alarm: the high half is written first
  0x0C  ALARM_HIGH
  0x10  IRQ_ENABLED      bit 0
  0x14  CLEAR_ALARM      any write: the alarm is off
  0x18  ALARM_STATUS     1 while the alarm is set and has not rung
  0x1C  CLEAR_INTERRUPT  any write: the interrupt is acknowledged

Source: Goldfish virtual hardware ("goldfish_rtc"); QEMU hw/rtc/goldfish_rtc.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emu.board import memory_map as board
from emu.board.clock import Clock
from emu.board.devices import saved

_TIME_LOW, _TIME_HIGH, _ALARM_LOW, _ALARM_HIGH = 0x0, 0x4, 0x8, 0xC
_IRQ_ENABLED, _CLEAR_ALARM, _ALARM_STATUS, _CLEAR_INTERRUPT = 0x10, 0x14, 0x18, 0x1C
_NS_PER_TICK = 1_000_000_000 // board.TIMEBASE_HZ
_MASK64 = (1 << 64) - 1


def _deposit(old: int, value: int, shift: int) -> int:
    """``old`` with 32 bits of it, from ``shift``, replaced."""
    return old & ~(0xFFFF_FFFF << shift) | (value & 0xFFFF_FFFF) << shift


class Rtc(saved.Restorable):
    """``epoch_ns`` is the time (ns since 1970) when ``clock`` stood at 0; ``clock`` moves it.

    So a guest that writes `mtime` moves this clock too. ``on_irq(level)`` is told of the
    interrupt line at each update of it.
    """

    name = "rtc"
    outside: tuple[str, ...] = ()

    def __init__(
        self,
        base: int,
        clock: Clock,
        epoch_ns: int,
        on_irq: Callable[[bool], None] = lambda level: None,
    ) -> None:
        self.base = base
        self.size = board.RTC.size
        self._clock = clock
        self._epoch = epoch_ns & _MASK64
        self._on_irq = on_irq
        self._alarm = clock.alarm(self._ring)
        self._alarm_time = 0  # ns since 1970
        self._alarm_is_set = False
        self._time_high = 0
        self._enabled = self._pending = False

    def _now(self) -> int:
        return self._epoch + self._clock.now() * _NS_PER_TICK & _MASK64

    def _arm(self) -> None:
        """Wait for the alarm's time; it rings at once when that has passed."""
        ticks = self._clock.now()
        left = self._alarm_time - (self._epoch + ticks * _NS_PER_TICK & _MASK64)
        self._alarm_is_set = True
        self._alarm.set(ticks + max(-(-left // _NS_PER_TICK), 0))

    def _disarm(self) -> None:
        self._alarm_is_set = False
        self._alarm.set(None)

    def _ring(self) -> None:
        self._disarm()
        self._pending = True
        self._update()

    def _update(self) -> None:
        self._on_irq(self._pending and self._enabled)

    def read(self, offset: int, size: int) -> int:
        if size != 4:
            return 0
        if offset == _TIME_LOW:
            now = self._now()
            self._time_high = now >> 32
            return now & 0xFFFF_FFFF
        if offset == _TIME_HIGH:
            return self._time_high
        if offset == _ALARM_LOW:
            return self._alarm_time & 0xFFFF_FFFF
        if offset == _ALARM_HIGH:
            return self._alarm_time >> 32
        if offset == _IRQ_ENABLED:
            return int(self._enabled)
        return int(self._alarm_is_set) if offset == _ALARM_STATUS else 0

    def write(self, offset: int, size: int, value: int) -> None:
        if size != 4:
            return
        if offset in (_TIME_LOW, _TIME_HIGH):
            now = self._now()
            self._epoch = self._epoch + _deposit(now, value, 8 * offset) - now & _MASK64
            if self._alarm_is_set:  # it is for a time of day, which is nearer or further now
                self._arm()
        elif offset == _ALARM_LOW:
            self._alarm_time = _deposit(self._alarm_time, value, 0)
            self._arm()
        elif offset == _ALARM_HIGH:
            self._alarm_time = _deposit(self._alarm_time, value, 32)
        elif offset == _IRQ_ENABLED:
            self._enabled = bool(value & 1)
            self._update()
        elif offset == _CLEAR_ALARM:
            self._disarm()
        elif offset == _CLEAR_INTERRUPT:
            self._pending = False
            self._update()

    def state(self) -> dict[str, Any]:
        return {
            "epoch_ns": self._epoch,
            "alarm_ns": self._alarm_time,
            "alarm_is_set": self._alarm_is_set,
            "time_high": self._time_high,
            "enabled": self._enabled,
            "pending": self._pending,
        }

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        """As the protocol says; the clock must have been restored before it is applied."""
        saved.fields(
            state, "epoch_ns", "alarm_ns", "alarm_is_set", "time_high", "enabled", "pending"
        )
        epoch, alarm_time = saved.number(state, "epoch_ns", 64), saved.number(state, "alarm_ns", 64)
        time_high = saved.number(state, "time_high", 32)
        enabled, pending = saved.flag(state, "enabled"), saved.flag(state, "pending")
        alarm_is_set = saved.flag(state, "alarm_is_set")

        def apply() -> None:
            self._epoch, self._alarm_time, self._time_high = epoch, alarm_time, time_high
            self._enabled, self._pending = enabled, pending
            self._disarm()
            if alarm_is_set:
                self._arm()

        return apply
