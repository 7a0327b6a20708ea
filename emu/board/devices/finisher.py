"""SiFive test finisher (QEMU `sifive_test`): a guest ends or resets the machine by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emu.board.devices import saved
from emu.stop import Stop, StopReason

_FAIL, _PASS, _RESET = 0x3333, 0x5555, 0x7777


class Finisher(saved.Restorable):
    """One 32-bit register: status in the low half, an exit code in the high half."""

    name = "finisher"
    outside: tuple[str, ...] = ()

    def __init__(self, base: int, end: Callable[[Stop], None]) -> None:
        self.base = base
        self.size = 0x1000
        self._end = end

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset != 0:
            return
        status, code = value & 0xFFFF, value >> 16 & 0xFFFF
        if status == _PASS:
            self._end(Stop(StopReason.EXIT, 0, detail="finisher: pass"))
        elif status == _FAIL:
            self._end(Stop(StopReason.EXIT, code or 1, detail=f"finisher: fail {code}"))
        elif status == _RESET:
            self._end(Stop(StopReason.RESET, detail="finisher: reset"))

    def state(self) -> dict[str, Any]:
        return {}

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        saved.fields(state)
        return lambda: None
