"""S-mode's own timer: `stimecmp`, and the environment registers that let S-mode have it.

    menvcfg.STCE = 1   STIP is the wire of `time >= stimecmp`, and cannot be written
    menvcfg.STCE = 0   STIP is a bit that M-mode writes; stimecmp can be accessed in M-mode only

S-mode may access stimecmp where mcounteren.TM is set too.

Source: privileged spec, chapter 14 (Sstc) and section 3.1.18 (menvcfg).
"""

from __future__ import annotations

import ctypes
from typing import Protocol

from emu.board.clock import Clock
from emu.engine import native
from emu.engine.access import CsrIllegal
from emu.engine.csr_repairs import check_counter
from emu.engine.direct_access import DirectAccess
from emu.hart import Hart
from emu.spec import csr as CSR
from emu.spec import words as W
from emu.spec.csr import Priv

_M64 = (1 << 64) - 1
_NEVER = _M64  # as an alarm it would keep an idle machine waiting


class Sstc:
    """Gives ``hart`` stimecmp, menvcfg and senvcfg; ``clock`` is its `time`.

    Where the C can read the clock (`emu/engine/interrupts.c`) it compares, and an instruction
    that reads or writes stimecmp needs no Python.
    """

    def __init__(self, hart: Hart, clock: Clock) -> None:
        self._hart = hart
        self._clock = clock
        self._alarm = clock.alarm(self._compare)
        self._menvcfg = self._senvcfg = 0
        self._comparator: _Comparator
        if isinstance(hart.access, DirectAccess) and clock.shared.kind != native.ASK_PYTHON:
            self._comparator = _InC(hart, hart.access)
            hart.access.use_clock(clock.shared, self._set_alarm)
        else:
            self._comparator = _InPython(hart, clock)
        add = hart.added_csrs.add
        add(CSR.MENVCFG, lambda: self._menvcfg, self._write_menvcfg)
        add(CSR.SENVCFG, lambda: self._senvcfg, self._write_senvcfg)
        in_c = isinstance(self._comparator, _InC)
        add(CSR.STIMECMP, lambda: self._comparator.stimecmp, self.set, self._check, in_c=in_c)
        hart.at_reset.append(self.reset)

    @property
    def enabled(self) -> bool:
        """menvcfg.STCE."""
        return bool(self._menvcfg & CSR.MENVCFG_STCE)

    def set(self, when: int) -> None:
        """Write stimecmp (ticks; all ones: never)."""
        if isinstance(self._comparator, _InC):
            self._comparator.write(when)
        else:
            self._comparator.stimecmp = when
            self._compare()

    def reset(self) -> None:
        """As after a reset of the hart; the spec leaves stimecmp open."""
        self._comparator.stimecmp = _NEVER
        self._senvcfg = 0
        self._write_menvcfg(0)

    def _compare(self) -> None:
        """STIP from the two registers; an alarm for the time when it will rise."""
        # With the lock: an alarm that rang in between would raise what is not due any more.
        with self._clock.lock:
            if self._comparator.compare(self.enabled):
                self._set_alarm()
            else:
                self._alarm.set(None)

    def _set_alarm(self) -> None:
        # What is written last counts, whoever has asked for it.
        with self._clock.lock:
            when = self._comparator.stimecmp
            self._comparator.alarm_at = when
            # Last: time goes on, and an alarm that is due by now rings at once.
            self._alarm.set(None if when == _NEVER else when)

    def _write_menvcfg(self, value: int) -> None:
        # FIOM changes nothing: device accesses are ordered here anyway.
        mmu = self._hart.mmu
        self._menvcfg = value & (CSR.MENVCFG_STCE | CSR.MENVCFG_FIOM | mmu.menvcfg_fields)
        mmu.set_menvcfg(self._menvcfg)
        self._hart.access.flush_tlb()
        self._compare()

    def _write_senvcfg(self, value: int) -> None:
        self._senvcfg = value & CSR.MENVCFG_FIOM

    def _check(self) -> None:
        if self._hart.words[W.PRIV] == Priv.M:
            return
        check_counter(self._hart, CSR.TIME)
        if not self.enabled:
            raise CsrIllegal


class _Comparator(Protocol):
    """stimecmp, and STIP as its wire."""

    stimecmp: int
    alarm_at: int  # when the clock looks again at the latest

    def compare(self, enabled: bool) -> bool:
        """Make STIP what it is now; whether it rises at ``stimecmp``, and not before."""


class _InPython:
    def __init__(self, hart: Hart, clock: Clock) -> None:
        self._hart, self._clock = hart, clock
        self.stimecmp = self.alarm_at = _NEVER

    def compare(self, enabled: bool) -> bool:
        due = enabled and self._clock.now() >= self.stimecmp
        self._hart.interrupts.let_timer_be_wire(enabled)
        if enabled:
            self._hart.set_pending(CSR.IRQ_STI, due)
        return enabled and not due and self.stimecmp != _NEVER


class _InC:
    def __init__(self, hart: Hart, access: DirectAccess) -> None:
        self._hart, self._shared = hart, access.shared
        self._at = ctypes.addressof(access.shared)
        self._c = native.functions()

    @property
    def stimecmp(self) -> int:
        return int(self._shared.stimecmp)

    @stimecmp.setter
    def stimecmp(self, when: int) -> None:
        self._shared.stimecmp = when

    @property
    def alarm_at(self) -> int:
        return int(self._shared.alarm_at)

    @alarm_at.setter
    def alarm_at(self, when: int) -> None:
        self._shared.alarm_at = when

    def write(self, when: int) -> None:
        self._c.write_stimecmp(self._at, when)

    def compare(self, enabled: bool) -> bool:
        waits = bool(self._c.compare_time(self._at, enabled))
        if self._hart.pending >> CSR.IRQ_STI & 1:
            self._hart.has_raised()
        return waits
