"""The CSRs that QEMU 5.0 has wrong, put right by overriding their accesses.

Each repair names what is wrong without it. They need `emu.engine.direct_access`; on
the public way nothing is installed and `missing` says what follows. CSRs that QEMU 5.0 does not
have at all are added on both ways.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.engine.access import CsrIllegal, CsrWrite
from emu.spec import csr as CSR
from emu.spec import words
from emu.spec.csr import Priv

if TYPE_CHECKING:
    from emu.hart import Hart

# QEMU 5.0 keeps TW and TSR at bits 29 and 30 of mstatus; the spec has 21 and 22.
_ENGINE_TW_TSR_SHIFT = 29
_TW_TSR_SHIFT = 21
_TW_TSR = CSR.MSTATUS_TW | CSR.MSTATUS_TSR

Original = Callable[[], int]
Perform = Callable[[int], None]


def install(hart: Hart) -> None:
    """Install every repair on ``hart``."""
    w = hart.words
    override = hart.access.override_csr

    # mstatus: TW and TSR misplaced; MPP=2 (reserved, WARL) and the hypervisor's fields storable;
    # SD forgotten by writes of fcsr.
    def read_mstatus(original: Original) -> int:
        value = CSR.with_sd(original())
        moved = value >> _ENGINE_TW_TSR_SHIFT & 3
        return value & ~(3 << _ENGINE_TW_TSR_SHIFT) | moved << _TW_TSR_SHIFT

    def write_mstatus(value: int, perform: Perform) -> None:
        if value & CSR.MSTATUS_MPP == 2 << CSR.MSTATUS_MPP_SHIFT:
            value = value & ~CSR.MSTATUS_MPP | w[words.MSTATUS] & CSR.MSTATUS_MPP
        value &= CSR.MSTATUS_WRITABLE
        moved = (value & _TW_TSR) >> _TW_TSR_SHIFT
        perform(value & ~_TW_TSR | moved << _ENGINE_TW_TSR_SHIFT)
        hart.present()

    override(CSR.MSTATUS, read_mstatus, write_mstatus, "read_mstatus")

    # sstatus: UXL reads 0. Its write is a write of some of mstatus's fields.
    def read_sstatus(_original: Original) -> int:
        return CSR.with_sd(w[words.MSTATUS]) & CSR.SSTATUS_MASK

    override(CSR.SSTATUS, read_sstatus, None, "read_sstatus")

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

    override(CSR.MEPC, None, write_epc, None, "write_mepc")
    override(CSR.SEPC, None, write_epc, None, "write_sepc")

    # mip, mie, mideleg: the engine's mip holds the winner only, see Hart.present. Bits that an
    # instruction does not set or clear are not written: another thread may have changed them.
    def operate_mip(value: int, mask: int) -> int:
        return hart.interrupts.write(mask, value)

    def operate_sip(value: int, mask: int) -> int:
        delegated = w[words.MIDELEG]
        before = hart.interrupts.write(mask & delegated & 1 << CSR.IRQ_SSI, value)
        return before & delegated

    override(CSR.MIP, None, None, operate=operate_mip)
    override(CSR.SIP, None, None, operate=operate_sip)

    # mie, mideleg, medeleg: bits of the hypervisor extension, and the ecall from M, storable.
    def writable(mask: int) -> CsrWrite:
        def write(value: int, perform: Perform) -> None:
            perform(value & mask)
            hart.present()

        return write

    override(CSR.MIE, None, writable(CSR.M_INTERRUPTS | CSR.S_INTERRUPTS))
    override(CSR.MIDELEG, None, writable(CSR.S_INTERRUPTS))
    override(CSR.MEDELEG, None, writable(CSR.MEDELEG_WRITABLE))

    # sie: a view of mie's delegated bits (section 12.1.3); all of S's could be written.
    def write_sie(value: int, _perform: Perform) -> None:
        delegated = w[words.MIDELEG]
        w[words.MIE] = w[words.MIE] & ~delegated | value & delegated
        hart.present()

    override(CSR.SIE, lambda _original: w[words.MIE] & w[words.MIDELEG], write_sie)

    # mucounteren and mscounteren, of version 1.9 of the privileged spec: gone since. (Today the
    # second number is mcyclecfg, by which firmware finds Smcntrpmf.)
    def read_absent(_original: Original) -> int:
        raise CsrIllegal

    def write_absent(_value: int, _perform: Perform) -> None:
        raise CsrIllegal

    override(CSR.MSCOUNTEREN, read_absent, write_absent)

    # mcycle, minstret: read-only. cycle and instret are their shadows.
    for machine, user in ((CSR.MCYCLE, CSR.CYCLE), (CSR.MINSTRET, CSR.INSTRET)):
        _repair_counter(hart, machine, user)

    # mcounteren, scounteren: kept, but they gate nothing (sections 3.1.11 and 12.1.5).
    for number in (CSR.MCOUNTEREN, CSR.SCOUNTEREN):
        _keep_counteren(hart, number)

    # hpmcounter3 to 31 count nothing here, as a hart may choose, but are gated like the others.
    def gated(number: int) -> Callable[[Original], int]:
        def read(original: Original) -> int:
            check_counter(hart, number)
            return original()

        return read

    for number in range(CSR.INSTRET + 1, CSR.CYCLE + 32):
        override(number, gated(number), None)


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


def watch_sstatus(hart: Hart) -> None:
    """Look at each write of sstatus: where Python holds S, one may enable an interrupt to it.

    Where guest code holds S the engine itself sees that, and a write costs no callback.
    """

    def write_sstatus(value: int, perform: Perform) -> None:
        perform(value)
        hart.present()

    hart.access.override_csr(CSR.SSTATUS, None, write_sstatus)


def _keep_counteren(hart: Hart, number: int) -> None:
    def write(value: int, _perform: Perform) -> None:
        hart.counter_enable[number] = value & 0xFFFF_FFFF

    hart.access.override_csr(number, lambda _original: hart.counter_enable[number], write)


def check_counter(hart: Hart, number: int) -> None:
    """Raise CsrIllegal when the present level may not read the user counter ``number``.

    Never on the public way: there mcounteren is changed by writes of another CSR (0x321).
    """
    priv = hart.words[words.PRIV]
    if priv == Priv.M or not hart.access.in_place:
        return
    enabled = hart.counter_enable[CSR.MCOUNTEREN]
    if priv == Priv.U:
        enabled &= hart.counter_enable[CSR.SCOUNTEREN]
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
