"""CSRs from the host's side: their names, and writing one while the hart stands."""

from __future__ import annotations

from emu.hart.hart import Hart
from emu.spec import csr as CSR
from emu.spec import words
from emu.spec.paging import mode_of_satp

# fflags, frm and fcsr are CSRs that gdb wants beside the floating-point registers.
FP_CSRS = {0x001: "fflags", 0x002: "frm", 0x003: "fcsr"}
NAMES = {
    **CSR.NAMES,
    **{0x3A0 + i: f"pmpcfg{i}" for i in (0, 2)},
    **{0x3B0 + i: f"pmpaddr{i}" for i in range(16)},
    **{0xF11: "mvendorid", 0xF12: "marchid", 0xF13: "mimpid"},
}
NUMBERS = {name: number for number, name in (NAMES | FP_CSRS).items()}
# Where a CSR is when only the words can be reached.
_WORDS = {
    CSR.MSTATUS: words.MSTATUS, CSR.MIE: words.MIE, CSR.MIDELEG: words.MIDELEG,
    CSR.MEDELEG: words.MEDELEG, CSR.STVAL: words.STVAL, CSR.MTVAL: words.MTVAL,
    CSR.STVEC: words.STVEC, CSR.SEPC: words.SEPC, CSR.SCAUSE: words.SCAUSE,
    CSR.MTVEC: words.MTVEC, CSR.MEPC: words.MEPC, CSR.MCAUSE: words.MCAUSE,
}  # fmt: skip


def write_csr(hart: Hart, number: int, value: int) -> None:
    """Write a CSR of ``hart``, which is not running, as M-mode code would.

    Raises ValueError for one that cannot be written from here, and for a ``satp`` whose mode is
    reserved.
    """
    if number == CSR.SATP:
        mode_of_satp(value)  # the engine would abort the host on a reserved mode
        hart.set_satp(value)
    elif hart.access.csr(number, value) is None:
        if number not in _WORDS:
            raise ValueError(f"CSR {NAMES.get(number, hex(number))} cannot be written")
        hart.words[_WORDS[number]] = value
    state_changed(hart)


def state_changed(hart: Hart) -> None:
    """The privilege or a CSR was written from outside of a run.

    Translations depend on both, and so does which interrupt comes next.
    """
    hart.access.store()
    hart.access.flush_tlb()
    hart.present()
