"""The timer (SBI 2.0, chapter 6): stimecmp where S-mode has it, else an alarm that raises STIP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emu.board.clock import Clock
from emu.board.devices import saved
from emu.engine.added_csrs import AddedCsr
from emu.hart import Hart
from emu.spec import words as W
from emu.spec.csr import IRQ_STI, MENVCFG, MENVCFG_STCE, STIMECMP
from firmware.sbi.numbers import SUCCESS, Extension

_NEVER = (1 << 64) - 1


class Timer:
    """The supervisor timer of ``hart``."""

    def __init__(self, hart: Hart, clock: Clock) -> None:
        self._hart = hart
        self._clock = clock
        self._alarm = clock.alarm(lambda: hart.set_pending(IRQ_STI, True))

    def extension(self) -> Extension:
        return {0: self._set_timer}

    def set(self, when: int) -> None:
        """Clear STIP, and raise it at ``when`` (ticks; at once if that has passed).

        All ones is never.
        """
        stimecmp = self._stimecmp()
        if stimecmp is not None:
            stimecmp.write(when)
            return
        # Under the clock's lock: an alarm that rang between the two would leave STIP of
        # the timer that is gone.
        with self._clock.lock:
            if self._hart.pending >> IRQ_STI & 1:
                self._hart.set_pending(IRQ_STI, False)
            self._alarm.set(None if when == _NEVER else when)

    def _stimecmp(self) -> AddedCsr | None:
        """The register, where menvcfg lets S-mode have it; STIP is its wire then."""
        menvcfg = self._hart.added_csrs.get(MENVCFG)
        if menvcfg is None or not menvcfg.read() & MENVCFG_STCE:
            return None
        return self._hart.added_csrs.get(STIMECMP)

    def stop(self) -> None:
        """As it began: not set, and STIP clear."""
        self.set(_NEVER)

    def _set_timer(self) -> tuple[int, int]:
        self.set(self._hart.words[W.A0])
        return SUCCESS, 0

    def state(self) -> dict[str, Any]:
        """What a snapshot must keep: when STIP is due (ticks), or None."""
        return {"when": self._alarm.when}

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        """Check what `state` described; what is returned makes the timer so.

        STIP itself is the hart's to restore. Raises KeyError, TypeError or ValueError.
        """
        saved.fields(state, "when")
        when = None if state["when"] is None else saved.number(state, "when", 64)
        return lambda: self._alarm.set(when)
