"""SiFive CLINT: the timer and the software interrupt of each hart, by its hartid.

  0x0000 + 4 * hartid  msip      bit 0 is mip.MSIP
  0x4000 + 8 * hartid  mtimecmp  64 bits; mip.MTIP is `mtime >= mtimecmp`, a level
  0xBFF8               mtime     64 bits, the board's clock

Source: SiFive FU540-C000 manual, chapter 9; QEMU hw/intc/riscv_aclint.c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from emu.board import memory_map as board
from emu.board.clock import Clock
from emu.board.devices import saved

_MSIP, _MTIMECMP, _MTIME = 0x0, 0x4000, 0xBFF8
_MSI, _MTI = 3, 7  # bits of mip
_MASK64 = (1 << 64) - 1
# What software writes for "never". As an alarm it would keep an idle machine waiting.
_NEVER = _MASK64


class _HartPart:
    """What the CLINT has for one hart; ``set_pending(number, level)`` is that hart's."""

    def __init__(self, clock: Clock, set_pending: Callable[[int, bool], None]) -> None:
        self._clock = clock
        self._set_pending = set_pending
        self._alarm = clock.alarm(self.compare)
        self.msip = 0
        self.mtimecmp = _NEVER
        self.mtip = False

    def compare(self) -> None:
        """MTIP from mtime and mtimecmp; an alarm for the time when it will rise."""
        self.mtip = due = self._clock.now() >= self.mtimecmp
        self._set_pending(_MTI, due)
        self._alarm.set(None if due or self.mtimecmp == _NEVER else self.mtimecmp)

    def write_msip(self, value: int) -> None:
        self.msip = value & 1
        self._set_pending(_MSI, bool(self.msip))

    def become(self, msip: int, mtimecmp: int, mtip: bool) -> None:
        """As a snapshot has kept it."""
        self.msip, self.mtimecmp, self.mtip = msip, mtimecmp, mtip
        self._set_pending(_MSI, bool(msip))
        self._set_pending(_MTI, mtip)
        waits = not mtip and mtimecmp != _NEVER
        self._alarm.set(mtimecmp if waits else None)


class Clint(saved.Restorable):
    """``set_pending``: of each hart, in order of their hartids; 3 is MSIP, 7 MTIP.

    Registers are accessed in any aligned piece of 1, 2 or 4 bytes. Each half of `mtimecmp`
    takes effect when it is written, as on the bus.
    """

    name = "clint"
    outside: tuple[str, ...] = ()

    def __init__(
        self, base: int, clock: Clock, set_pending: Sequence[Callable[[int, bool], None]]
    ) -> None:
        self.base = base
        self.size = board.CLINT.size
        self._clock = clock
        self._parts = [_HartPart(clock, one) for one in set_pending]

    def read(self, offset: int, size: int) -> int:
        register, part, start = self._find(offset, size)
        value = 0
        if register == _MTIME:
            value = self._clock.now()
        elif part is not None:
            value = part.mtimecmp if register == _MTIMECMP else part.msip
        return value >> 8 * start & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        register, part, start = self._find(offset, size)
        mask = (1 << 8 * size) - 1
        value = (value & mask) << 8 * start
        keep = _MASK64 & ~(mask << 8 * start)
        if register == _MTIME:
            self._clock.set_now((self._clock.now() & keep | value) & _MASK64)
            for each in self._parts:
                each.compare()
        elif part is not None and register == _MTIMECMP:
            part.mtimecmp = part.mtimecmp & keep | value
            part.compare()
        elif part is not None and start == 0:
            part.write_msip(value)

    def _find(self, offset: int, size: int) -> tuple[int, _HartPart | None, int]:
        """The register that an access hits, whose it is, and the byte in it where it starts.

        No hart, and not mtime: nothing is there.
        """
        if offset % size == 0:
            if 0 <= offset - _MTIME < 8:
                return _MTIME, None, offset - _MTIME
            for register, extent in ((_MTIMECMP, 8), (_MSIP, 4)):
                hartid, start = divmod(offset - register, extent)
                if 0 <= hartid < len(self._parts):
                    return register, self._parts[hartid], start
        return _MSIP, None, 0

    def state(self) -> dict[str, Any]:
        return {
            "msip": [part.msip for part in self._parts],
            "mtimecmp": [part.mtimecmp for part in self._parts],
            "mtip": [part.mtip for part in self._parts],
        }

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        """As the protocol says; the clock must have been restored before it is applied."""
        saved.fields(state, "msip", "mtimecmp", "mtip")
        count = len(self._parts)
        msip = saved.numbers(state, "msip", count, 1)
        mtimecmp = saved.numbers(state, "mtimecmp", count, 64)
        mtip = saved.flags(state, "mtip", count)

        def apply() -> None:
            for n, part in enumerate(self._parts):
                part.become(msip[n], mtimecmp[n], mtip[n])

        return apply
