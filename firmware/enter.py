"""Entering S-mode with no code in M: the hart as SBI firmware leaves it for a kernel.

OpenSBI does the same in lib/sbi/sbi_hart.c (mstatus_init, delegate_traps,
sbi_hart_switch_mode); `firmware/start.S` is the short form of it as guest code.
"""

from __future__ import annotations

from emu.hart import Hart, HartError
from emu.spec import csr as CSR
from emu.spec import words as W
from emu.spec.csr import Priv
from emu.spec.trap import Cause

_FCSR = 0x003

# Exceptions that S-mode takes without asking: all but the ecalls from S and M. OpenSBI
# keeps illegal instructions, misaligned accesses and access faults for itself too: it does
# for its hart what that can't do, and redirects the rest. This hart does it all, and what
# firmware would only redirect reaches the same vector in the same state when delegated.
MEDELEG = sum(1 << c for c in Cause if c not in (Cause.ECALL_FROM_S, Cause.ECALL_FROM_M))
MIDELEG = CSR.S_INTERRUPTS
_ALL_COUNTERS = (1 << 32) - 1
_PMP_ALL = (1 << 64) - 1  # pmpaddr0: all of physical memory ...
_PMP_RWX_NAPOT = 0x1F  # ... may be read, written and executed


def enter_supervisor(hart: Hart, pc: int, hart_id: int = 0, dtb_pa: int = 0) -> None:
    """Put ``hart`` at ``pc`` (PA) in S-mode: a0 = ``hart_id``, a1 = ``dtb_pa`` (PA).

    Translation is off, SIE and sie are 0, counters can be read, stimecmp is S-mode's, the FPU
    is on; every other register is 0 and nothing is pending. stvec is 0 too, where OpenSBI has
    ``pc``: a kernel that faults before it has a trap handler ends with an explanation, and
    does not begin again and again. Who answers the calls is not set here, see `Hart.handlers`.
    Raises ValueError when ``pc`` is not code in RAM, HartError when the hart's CSRs cannot be
    reached.
    """
    if pc % 2 or not hart.ram.contains(pc, 2):
        raise ValueError(f"a kernel cannot be entered at PA {pc:#x}: RAM is {hart.ram}")
    hart.reset(pc)
    w = hart.words
    for i in range(W.FPR, W.FPR + 32):
        w[i] = 0
    for i in (W.STVEC, W.STVAL, W.MTVAL, W.SEPC, W.SCAUSE, W.MTVEC, W.MEPC, W.MCAUSE):
        w[i] = 0
    # While it stands in M-mode: the counters and PMP are M's.
    w[W.MSTATUS] |= CSR.MSTATUS_FS_DIRTY | CSR.MSTATUS_SD  # SD: FS says dirty
    _write_csr(hart, CSR.MCOUNTEREN, _ALL_COUNTERS)
    _write_csr(hart, CSR.SCOUNTEREN, _ALL_COUNTERS)
    _write_csr(hart, CSR.SSCRATCH, 0)
    _write_csr(hart, _FCSR, 0)
    # Where PMP is out of reach it has no rules, and that the engine takes for no limits.
    hart.access.csr(CSR.PMPADDR0, _PMP_ALL)
    hart.access.csr(CSR.PMPCFG0, _PMP_RWX_NAPOT)
    w[W.MEDELEG] = MEDELEG
    menvcfg = hart.added_csrs.get(CSR.MENVCFG)
    if menvcfg is not None:  # a hart that is part of a machine: it has a clock
        menvcfg.write(CSR.MENVCFG_STCE)
    w[W.MIDELEG] = MIDELEG
    w[W.A0], w[W.A1] = hart_id, dtb_pa
    w[W.PRIV] = Priv.S.value
    hart.access.store()
    hart.access.flush_tlb()
    hart.present()


def _write_csr(hart: Hart, number: int, value: int) -> None:
    if hart.access.csr(number, value) is None:
        name = CSR.NAMES.get(number, hex(number))
        raise HartError(f"CSR {name} cannot be written here: S-mode cannot be entered")
