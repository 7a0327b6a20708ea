"""SiFive CLINT of one hart: its timer and its software interrupt.

  0x0000  msip      bit 0 is mip.MSIP
  0x4000  mtimecmp  64 bits; mip.MTIP is `mtime >= mtimecmp`, a level
  0xBFF8  mtime     64 bits, the board's clock

Source: SiFive FU540-C000 manual, chapter 9; QEMU hw/intc/riscv_aclint.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emu.board import memory_map as board
from emu.board.clock import Clock
from emu.board.devices import saved

_MSIP, _MTIMECMP, _MTIME = 0x0, 0x4000, 0xBFF8
_MSI, _MTI = 3, 7  # bits of mip
_MASK64 = (1 << 64) - 1
# What software writes for "never". As an alarm it would keep an idle machine waiting.
_NEVER = _MASK64


class Clint(saved.Restorable):
    """``set_pending(number, level)`` is the hart's: 3 for MSIP, 7 for MTIP.

    Registers are accessed in any aligned piece of 1, 2 or 4 bytes. Each half of `mtimecmp`
    takes effect when it is written, as on the bus.
    """

    name = "clint"
    outside: tuple[str, ...] = ()

    def __init__(self, base: int, clock: Clock, set_pending: Callable[[int, bool], None]) -> None:
        self.base = base
        self.size = board.CLINT.size
        self._clock = clock
        self._set_pending = set_pending
        self._alarm = clock.alarm(self._compare)
        self._msip = 0
        self._mtimecmp = _NEVER
        self._mtip = False

    def _compare(self) -> None:
        """MTIP from the two registers; an alarm for the time when it will rise."""
        self._mtip = due = self._clock.now() >= self._mtimecmp
        self._set_pending(_MTI, due)
        self._alarm.set(None if due or self._mtimecmp == _NEVER else self._mtimecmp)

    def read(self, offset: int, size: int) -> int:
        register, start = self._find(offset, size)
        if register == _MTIME:
            value = self._clock.now()
        elif register == _MTIMECMP:
            value = self._mtimecmp
        else:
            value = self._msip if register == _MSIP else 0
        return value >> 8 * start & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        register, start = self._find(offset, size)
        mask = (1 << 8 * size) - 1
        value = (value & mask) << 8 * start
        keep = _MASK64 & ~(mask << 8 * start)
        if register == _MTIMECMP:
            self._mtimecmp = self._mtimecmp & keep | value
            self._compare()
        elif register == _MTIME:
            self._clock.set_now((self._clock.now() & keep | value) & _MASK64)
            self._compare()
        elif register == _MSIP and start == 0:
            self._msip = value & 1
            self._set_pending(_MSI, bool(self._msip))

    def _find(self, offset: int, size: int) -> tuple[int, int]:
        """The register that an access hits (-1: none) and the byte in it where it starts."""
        if offset % size == 0:
            for register, extent in ((_MTIMECMP, 8), (_MTIME, 8), (_MSIP, 4)):
                if 0 <= offset - register < extent:
                    return register, offset - register
        return -1, 0

    def state(self) -> dict[str, Any]:
        return {"msip": self._msip, "mtimecmp": self._mtimecmp, "mtip": self._mtip}

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        """As the protocol says; the clock must have been restored before it is applied."""
        saved.fields(state, "msip", "mtimecmp", "mtip")
        msip, mtimecmp = saved.number(state, "msip", 1), saved.number(state, "mtimecmp", 64)
        mtip = saved.flag(state, "mtip")

        def apply() -> None:
            self._msip, self._mtimecmp, self._mtip = msip, mtimecmp, mtip
            self._set_pending(_MSI, bool(msip))
            self._set_pending(_MTI, mtip)
            waits = not mtip and mtimecmp != _NEVER
            self._alarm.set(mtimecmp if waits else None)

        return apply
