"""S-mode's own timer: `stimecmp`, and the environment registers that let S-mode have it.

    menvcfg.STCE = 1   STIP is the wire of `time >= stimecmp`, and cannot be written
    menvcfg.STCE = 0   STIP is a bit that M-mode writes; stimecmp can be accessed in M-mode only

S-mode may access stimecmp where mcounteren.TM is set too.

Source: privileged spec, chapter 14 (Sstc) and section 3.1.18 (menvcfg).
"""

from __future__ import annotations

from emu.board.clock import Clock
from emu.engine.access import CsrIllegal
from emu.engine.csr_repairs import check_counter
from emu.hart import Hart
from emu.spec import csr as CSR
from emu.spec import words as W
from emu.spec.csr import Priv

_M64 = (1 << 64) - 1
_NEVER = _M64  # as an alarm it would keep an idle machine waiting


class Sstc:
    """Gives ``hart`` stimecmp, menvcfg and senvcfg; ``clock`` is its `time`."""

    def __init__(self, hart: Hart, clock: Clock) -> None:
        self._hart = hart
        self._clock = clock
        self._alarm = clock.alarm(self._compare)
        self._menvcfg = self._senvcfg = 0
        self._stimecmp = _NEVER
        add = hart.added_csrs.add
        add(CSR.MENVCFG, lambda: self._menvcfg, self._write_menvcfg)
        add(CSR.SENVCFG, lambda: self._senvcfg, self._write_senvcfg)
        add(CSR.STIMECMP, lambda: self._stimecmp, self.set, self._check)
        hart.at_reset.append(self.reset)

    @property
    def enabled(self) -> bool:
        """menvcfg.STCE."""
        return bool(self._menvcfg & CSR.MENVCFG_STCE)

    def set(self, when: int) -> None:
        """Write stimecmp (ticks; all ones: never)."""
        self._stimecmp = when
        self._compare()

    def reset(self) -> None:
        """As after a reset of the hart; the spec leaves stimecmp open."""
        self._stimecmp = _NEVER
        self._senvcfg = 0
        self._write_menvcfg(0)

    def _compare(self) -> None:
        """STIP from the two registers; an alarm for the time when it will rise."""
        # With the lock: an alarm that rang in between would raise what is not due any more.
        with self._clock.lock:
            enabled = self.enabled
            due = enabled and self._clock.now() >= self._stimecmp
            self._hart.interrupts.let_timer_be_wire(enabled)
            if enabled:
                self._hart.set_pending(CSR.IRQ_STI, due)
            waits = enabled and not due and self._stimecmp != _NEVER
            # Last: time goes on, and an alarm that is due by now rings at once.
            self._alarm.set(self._stimecmp if waits else None)

    def _write_menvcfg(self, value: int) -> None:
        # FIOM changes nothing: device accesses are ordered here anyway.
        self._menvcfg = value & (CSR.MENVCFG_STCE | CSR.MENVCFG_FIOM)
        self._compare()

    def _write_senvcfg(self, value: int) -> None:
        self._senvcfg = value & CSR.MENVCFG_FIOM

    def _check(self) -> None:
        if self._hart.words[W.PRIV] == Priv.M:
            return
        check_counter(self._hart, CSR.TIME)
        if not self.enabled:
            raise CsrIllegal
