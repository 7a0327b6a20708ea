"""The CSRs that QEMU 5.0 has wrong, put right by overriding their accesses.

Each repair names what is wrong without it. They need the inside way of `emu.inside`; on
the public way nothing is installed and `missing` says what follows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from emu import csr as CSR
from emu import words
from emu.board import TIMEBASE_HZ

if TYPE_CHECKING:
    from emu.hart import Hart

# QEMU 5.0 keeps TW and TSR at bits 29 and 30 of mstatus; the spec has 21 and 22.
_ENGINE_TW_TSR_SHIFT = 29
_TW_TSR = CSR.MSTATUS_TW | CSR.MSTATUS_TSR
_SSTATUS_ALWAYS = CSR.MSTATUS_UXL  # what sstatus must show of mstatus beside QEMU's mask

Original = Callable[[], int]
Perform = Callable[[int], None]


def install(hart: Hart) -> None:
    """Install every repair on ``hart``."""
    w = hart.words
    override = hart.access.override_csr

    # mstatus: TW and TSR misplaced; MPP=2 (reserved, WARL) storable.
    def read_mstatus(original: Original) -> int:
        value = original()
        moved = value >> _ENGINE_TW_TSR_SHIFT & 3
        return value & ~(3 << _ENGINE_TW_TSR_SHIFT) | moved << 21

    def write_mstatus(value: int, perform: Perform) -> None:
        if value & CSR.MSTATUS_MPP == 2 << CSR.MSTATUS_MPP_SHIFT:
            value = value & ~CSR.MSTATUS_MPP | w[words.MSTATUS] & CSR.MSTATUS_MPP
        moved = (value & _TW_TSR) >> 21
        perform(value & ~_TW_TSR & ~(3 << _ENGINE_TW_TSR_SHIFT) | moved << _ENGINE_TW_TSR_SHIFT)
        hart.present()

    override(CSR.MSTATUS, read_mstatus, write_mstatus)

    # sstatus: UXL reads 0. Its write is a write of some of mstatus's fields.
    def read_sstatus(original: Original) -> int:
        return original() | w[words.MSTATUS] & _SSTATUS_ALWAYS

    def write_sstatus(value: int, perform: Perform) -> None:
        perform(value)
        hart.present()

    override(CSR.SSTATUS, read_sstatus, write_sstatus)

    # satp: a new root or mode under the same ASID does not flush the TLB.
    def write_satp(value: int, perform: Perform) -> None:
        before = w[words.SATP]
        perform(value)
        if w[words.SATP] != before:
            hart.access.flush_tlb()

    override(CSR.SATP, None, write_satp)

    # mepc, sepc: bit 0 is always zero (section 3.1.14), here it is kept.
    def write_epc(value: int, perform: Perform) -> None:
        perform(value & ~1)

    override(CSR.MEPC, None, write_epc)
    override(CSR.SEPC, None, write_epc)

    # mip, mie, mideleg: the engine's mip holds the winner only, see Hart.present.
    def writable(mask: int) -> tuple[Callable[[Original], int], Callable[[int, Perform], None]]:
        def read(original: Original) -> int:
            return hart.pending & (w[words.MIDELEG] if mask == CSR.SIP else -1)

        def write(value: int, perform: Perform) -> None:
            allowed = CSR.S_INTERRUPTS
            if mask == CSR.SIP:
                allowed = w[words.MIDELEG] & 1 << CSR.IRQ_SSI
            with hart.pending_lock:
                hart.pending = hart.pending & ~allowed | value & allowed
                hart.present()

        return read, write

    override(CSR.MIP, *writable(CSR.MIP))
    override(CSR.SIP, *writable(CSR.SIP))

    def write_then_present(value: int, perform: Perform) -> None:
        perform(value)
        hart.present()

    override(CSR.MIE, None, write_then_present)
    override(CSR.SIE, None, write_then_present)
    override(CSR.MIDELEG, None, write_then_present)

    # mcycle, minstret: read-only. cycle and instret are their shadows.
    for machine, user in ((CSR.MCYCLE, CSR.CYCLE), (CSR.MINSTRET, CSR.INSTRET)):
        _repair_counter(hart, machine, user)

    # time: absent until there is a clock.
    def read_time(_original: Original) -> int:
        return time.monotonic_ns() * TIMEBASE_HZ // 1_000_000_000 - start

    start = time.monotonic_ns() * TIMEBASE_HZ // 1_000_000_000
    override(CSR.TIME, read_time, None)

    # tselect and tdata: absent. Reading 0 from all of them says: no triggers (debug spec).
    for number in range(CSR.TSELECT, CSR.TSELECT + 4):
        override(number, lambda _original: 0, lambda _value, _perform: None)


def _repair_counter(hart: Hart, machine: int, user: int) -> None:
    offset = 0

    def read(original: Original) -> int:
        return (original() + offset) & (1 << 64) - 1

    def write(value: int, _perform: Perform) -> None:
        nonlocal offset
        now = hart.access.csr(machine) or 0
        offset = (value - now + offset) & (1 << 64) - 1

    hart.access.override_csr(machine, read, write)
    hart.access.override_csr(user, read, None)
