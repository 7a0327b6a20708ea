"""Hart state management (SBI 2.0, chapter 9), of harts that all run."""

from __future__ import annotations

from collections.abc import Sequence

from emu.hart import Hart
from emu.spec import words as W
from emu.spec.csr import MSTATUS_SIE, Priv
from emu.stop import Stop, StopReason
from firmware.sbi.numbers import (
    ERR_ALREADY_AVAILABLE,
    ERR_INVALID_ADDRESS,
    ERR_INVALID_PARAM,
    SUCCESS,
    Extension,
)

_STARTED = 0  # the state of a hart that can ask for its state
_RETENTIVE, _NON_RETENTIVE = 0, 0x8000_0000  # the default suspend types (table 9.4)


class Hsm:
    """What ``hart`` asks of the machine's ``harts``: each has started, or waits inside a call."""

    def __init__(self, hart: Hart, harts: Sequence[Hart]) -> None:
        self._hart = hart
        self._hartids = frozenset(each.hartid for each in harts)

    def extension(self) -> Extension:
        return {0: self._start, 1: self._stop, 2: self._get_status, 3: self._suspend}

    def _start(self) -> tuple[int, int]:
        w = self._hart.words
        if w[W.A0] not in self._hartids:
            return ERR_INVALID_PARAM, 0
        if not self._can_enter(w[W.A1]):
            return ERR_INVALID_ADDRESS, 0
        return ERR_ALREADY_AVAILABLE, 0

    def _stop(self) -> Stop:
        # Only another hart's hart_start could bring it back.
        return Stop(StopReason.EXIT, detail="SBI hart stop: the only hart has stopped")

    def _get_status(self) -> tuple[int, int]:
        if self._hart.words[W.A0] not in self._hartids:
            return ERR_INVALID_PARAM, 0
        return SUCCESS, _STARTED

    def _suspend(self) -> tuple[int, int] | Stop | None:
        """Wait as `wfi` does: until an interrupt is pending that `mie` has, taken or not.

        The registers are made now what they are to be on resuming, and the Stop says
        that the hart waits: run on, it resumes.
        """
        w = self._hart.words
        kind = w[W.A0] & 0xFFFF_FFFF  # uint32_t
        resume, opaque = w[W.A1], w[W.A2]
        if kind == _RETENTIVE:
            w[W.A0], w[W.A1] = SUCCESS, 0
        elif kind != _NON_RETENTIVE:
            return ERR_INVALID_PARAM, 0
        elif not self._can_enter(resume):
            return ERR_INVALID_ADDRESS, 0
        else:
            w[W.PC], w[W.PRIV] = resume, Priv.S.value
            w[W.A0], w[W.A1] = self._hart.hartid, opaque
            w[W.MSTATUS] &= ~MSTATUS_SIE
            self._hart.set_satp(0)
        if self._hart.pending & w[W.MIE]:
            return None
        return Stop(StopReason.WFI, detail="SBI hart suspend: the hart waits for an interrupt")

    def _can_enter(self, pa: int) -> bool:
        """Whether S-mode can be entered at ``pa`` with translation off."""
        return pa % 2 == 0 and self._hart.ram.contains(pa, 2)
