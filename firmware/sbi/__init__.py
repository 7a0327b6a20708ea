"""The SBI that Python answers (RISC-V SBI specification 2.0).

`Sbi.handle` is the M level's answer to an `ecall` from S-mode: the extension in a7, the
function in a6, arguments from a0 on; a0 returns the error, a1 the value. Present: Base,
TIME, IPI, RFENCE, HSM, System Reset, Debug Console, and the legacy extensions. A kernel
that is written in Python registers its own calls as one more extension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from emu.board.clock import Clock
from emu.board.devices import saved
from emu.hart import Hart
from emu.ram import Ram
from emu.spec import words as W
from emu.spec.csr import Priv
from emu.spec.trap import Cause, Trap
from emu.stop import Stop, StopReason
from firmware.sbi import legacy, reset
from firmware.sbi.console import Console
from firmware.sbi.harts import Harts
from firmware.sbi.hsm import Hsm
from firmware.sbi.legacy import Legacy
from firmware.sbi.numbers import (
    ERR_DENIED,
    ERR_FAILED,
    ERR_INVALID_ADDRESS,
    ERR_INVALID_PARAM,
    ERR_NOT_SUPPORTED,
    EXT_BASE,
    EXT_DBCN,
    EXT_HSM,
    EXT_IPI,
    EXT_RFENCE,
    EXT_SRST,
    EXT_TIME,
    SUCCESS,
    Extension,
    Function,
)
from firmware.sbi.timer import Timer
from firmware.sbi.traps import redirect

__all__ = [
    "ERR_DENIED",
    "ERR_FAILED",
    "ERR_INVALID_ADDRESS",
    "ERR_INVALID_PARAM",
    "ERR_NOT_SUPPORTED",
    "SUCCESS",
    "Extension",
    "Function",
    "Sbi",
]

_SPEC_VERSION = 2 << 24  # major in bits 30-24
_IMPLEMENTATION_ID = 0x706167  # not registered: none of the known implementations
_IMPLEMENTATION_VERSION = 1
_MVENDORID, _MARCHID, _MIMPID = 0xF11, 0xF12, 0xF13

_M64 = (1 << 64) - 1
# As plain integers: this is the way of every call of a kernel module.
_ECALL_FROM_S = Cause.ECALL_FROM_S.value
_PC, _A0, _A1, _A6, _A7 = W.PC, W.A0, W.A1, W.A6, W.A7


class Sbi(saved.Restorable):
    """What ``hart`` is answered; ``output`` takes console bytes, ``read_byte`` gives one or None.

    Without a ``clock`` no timer is offered. ``code_changed(pa, size)`` is told of RAM that
    a call has written. ``harts``: all of the machine, by default ``hart`` alone.
    """

    def __init__(
        self,
        hart: Hart,
        ram: Ram,
        output: Callable[[bytes], None],
        read_byte: Callable[[], int | None] = lambda: None,
        clock: Clock | None = None,
        code_changed: Callable[[int, int], None] = lambda pa, size: None,
        harts: Sequence[Hart] = (),
    ) -> None:
        self._hart = hart
        self._words = w = hart.words
        self._timer = None if clock is None else Timer(hart, clock)
        all_harts = harts or (hart,)
        calls = Harts(hart, all_harts)
        self._legacy = Legacy(hart, calls, self._timer, output, read_byte)
        self.extensions: dict[int, Extension] = {
            EXT_BASE: self._base(),
            EXT_IPI: calls.ipi_extension(),
            EXT_RFENCE: calls.rfence_extension(),
            EXT_HSM: Hsm(hart, all_harts).extension(),
            EXT_SRST: reset.extension(w),
            EXT_DBCN: Console(w, ram, output, read_byte, code_changed).extension(),
        }
        if self._timer is not None:
            self.extensions[EXT_TIME] = self._timer.extension()

    def handle(self, trap: Trap) -> Stop | None:
        """The M level's handler: answers calls, and sends S-mode's other exceptions to S.

        Interrupts to M and traps of M itself, which nobody has asked for, end the run.
        """
        if trap.cause != _ECALL_FROM_S or trap.interrupt:
            return self._other(trap)
        w = self._words
        w[_PC] = trap.epc + 4
        extension = self.extensions.get(w[_A7])
        if extension is None:
            return self._no_extension(trap)
        function = extension.get(w[_A6])
        result = function() if function is not None else (ERR_NOT_SUPPORTED, 0)
        if isinstance(result, tuple):
            error, value = result
            w[_A0] = error & _M64
            w[_A1] = value & _M64
            return None
        return result

    def reset(self) -> None:
        """As it began."""
        if self._timer is not None:
            self._timer.stop()

    def state(self) -> dict[str, Any]:
        """All that a snapshot must keep: JSON's types."""
        return {"timer": None if self._timer is None else self._timer.state()}

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        """Check what `state` described; what is returned makes the SBI so.

        The hart and the clock are restored before. Raises KeyError, TypeError or ValueError
        for a state that is not an SBI's, or of another machine: with a timer where this has
        none, or without it.
        """
        saved.fields(state, "timer")
        timer = saved.optional(state, "timer")
        if (timer is None) != (self._timer is None):
            raise ValueError("an SBI with a timer and one without: not the same machine")
        if self._timer is None or timer is None:
            return lambda: None
        return self._timer.prepare(timer)

    def _no_extension(self, trap: Trap) -> Stop | None:
        w = self._words
        if w[_A7] in self._legacy.numbers:
            return self._legacy.call(trap)
        if w[_A7] > legacy.LAST:  # the legacy ones leave a1 alone
            w[_A1] = 0
        w[_A0] = ERR_NOT_SUPPORTED & _M64
        return None

    def _other(self, trap: Trap) -> Stop | None:
        if trap.interrupt or trap.priv == Priv.M:
            return Stop(StopReason.FAULT, trap=trap, detail="a trap to the firmware in Python")
        return redirect(self._hart, trap)

    def _base(self) -> Extension:
        """Chapter 4."""
        return {
            0: lambda: (SUCCESS, _SPEC_VERSION),
            1: lambda: (SUCCESS, _IMPLEMENTATION_ID),
            2: lambda: (SUCCESS, _IMPLEMENTATION_VERSION),
            3: self._probe_extension,
            4: lambda: (SUCCESS, self._machine_id(_MVENDORID)),
            5: lambda: (SUCCESS, self._machine_id(_MARCHID)),
            6: lambda: (SUCCESS, self._machine_id(_MIMPID)),
        }

    def _probe_extension(self) -> tuple[int, int]:
        number = self._words[_A0]
        return SUCCESS, int(number in self.extensions or number in self._legacy.numbers)

    def _machine_id(self, csr: int) -> int:
        """As M-mode would read it; zero, "not implemented", is legal where that is out of reach."""
        return self._hart.access.csr(csr) or 0
