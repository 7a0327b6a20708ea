"""The CSRs that QEMU 5.0 has wrong or does not have, as far as Python does them.

What guests access often is repaired in C (`emu/engine/csrs.c`), and here what they access seldom.
Each repair names what is wrong without it. They need `emu.engine.direct_access`; on the public way
nothing is repaired and `missing` says what follows. CSRs that QEMU 5.0 does not have at all are
added on both ways.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.engine.access import CsrIllegal
from emu.engine.direct_access import DirectAccess
from emu.spec import csr as CSR
from emu.spec import words
from emu.spec.csr import Priv

if TYPE_CHECKING:
    from emu.engine.hart import Hart

Original = Callable[[], int]
Perform = Callable[[int], None]


def install(hart: Hart) -> None:
    """Repair on ``hart`` what `emu/engine/csrs.c` does not."""
    # mcycle, minstret: read-only. cycle and instret are their shadows.
    for machine, user in ((CSR.MCYCLE, CSR.CYCLE), (CSR.MINSTRET, CSR.INSTRET)):
        _repair_counter(hart, machine, user)


def add_absent(hart: Hart) -> None:
    """Give ``hart`` the CSRs that the engine lacks and that need nothing but the hart."""

    def check_time() -> None:
        check_counter(hart, CSR.TIME)

    hart.added_csrs.add(CSR.TIME, lambda: hart.read_time(), check=check_time)
    # Zero says: no counter can be stopped (section 3.1.12), there is no configuration structure
    # (section 3.1.17). Firmware takes their presence for version 1.12 of the privileged spec.
    for number in (CSR.MCOUNTINHIBIT, CSR.MCONFIGPTR):
        hart.added_csrs.add(number, lambda: 0)
    if not hart.access.in_place:
        # There the engine has a CSR at mcyclecfg's number (see `read_absent`), and firmware
        # that finds it writes the next one too.
        hart.added_csrs.add(CSR.MINSTRETCFG, lambda: 0)
    # mhpmcounter3 to 31 and their events count nothing (section 3.1.10), but can be written.
    for i in range(29):
        for first in (CSR.MHPMCOUNTER3, CSR.MHPMEVENT3):
            hart.added_csrs.add(first + i, lambda: 0)
    # tselect and tdata: reading 0 from all of them says that there are no triggers (debug spec).
    for number in range(CSR.TSELECT, CSR.TSELECT + 4):
        hart.added_csrs.add(number, lambda: 0)


def check_counter(hart: Hart, number: int) -> None:
    """Raise CsrIllegal when the present level may not read the user counter ``number``.

    Never on the public way: there mcounteren is changed by writes of another CSR (0x321).
    """
    priv = hart.words[words.PRIV]
    if priv == Priv.M or not isinstance(hart.access, DirectAccess):
        return
    shared = hart.access.shared
    enabled = shared.mcounteren
    if priv == Priv.U:
        enabled &= shared.scounteren
    if not enabled >> (number - CSR.CYCLE) & 1:
        raise CsrIllegal


def _repair_counter(hart: Hart, machine: int, user: int) -> None:
    offsets = hart.counter_offsets

    def read_user(original: Original) -> int:
        check_counter(hart, user)
        return read(original)

    def read(original: Original) -> int:
        if machine == CSR.MINSTRET and hart.retired is not None:
            # An instruction that reads it has not retired, and is the last of its block.
            count = hart.retired.count - (not hart.access.by_host)
        else:
            count = original() if hart.read_cycles is None else hart.read_cycles()
        return (count + offsets[machine]) & (1 << 64) - 1

    def write(value: int, _perform: Perform) -> None:
        now = hart.access.csr(machine) or 0
        offsets[machine] = (value - now + offsets[machine]) & (1 << 64) - 1

    hart.access.override_csr(machine, read, write)
    hart.access.override_csr(user, read_user, None)
