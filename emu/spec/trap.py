"""Traps: their causes, the record of one, its routing, and architectural trap entry.

Everything here works on the hart's state as an array of 64-bit words (`emu.engine.access` says
which word is which) and needs no CPU. Section numbers are those of the RISC-V privileged
spec 20240411.
"""

from __future__ import annotations

from enum import IntEnum

from emu.spec.csr import (
    IRQ_PRIORITY,
    MSTATUS_MIE,
    MSTATUS_MPIE,
    MSTATUS_MPP,
    MSTATUS_MPP_SHIFT,
    MSTATUS_MPRV,
    MSTATUS_SIE,
    MSTATUS_SPIE,
    MSTATUS_SPP,
    Priv,
)
from emu.spec.words import (
    LOAD_RES,
    MCAUSE,
    MEDELEG,
    MEPC,
    MIDELEG,
    MIE,
    MSTATUS,
    MTVAL,
    MTVEC,
    PC,
    PRIV,
    SCAUSE,
    SEPC,
    STVAL,
    STVEC,
    Words,
)

INTERRUPT = 1 << 63
_M64 = (1 << 64) - 1


class Cause(IntEnum):
    """Exception codes (table 14)."""

    INSTRUCTION_MISALIGNED = 0
    INSTRUCTION_ACCESS_FAULT = 1
    ILLEGAL_INSTRUCTION = 2
    BREAKPOINT = 3
    LOAD_MISALIGNED = 4
    LOAD_ACCESS_FAULT = 5
    STORE_MISALIGNED = 6
    STORE_ACCESS_FAULT = 7
    ECALL_FROM_U = 8
    ECALL_FROM_S = 9
    ECALL_FROM_M = 11
    INSTRUCTION_PAGE_FAULT = 12
    LOAD_PAGE_FAULT = 13
    STORE_PAGE_FAULT = 15


PAGE_FAULTS = frozenset((12, 13, 15))
ACCESS_FAULTS = frozenset((1, 5, 7))

_CAUSE_TEXT = {
    0: "instruction address misaligned",
    1: "instruction access fault",
    2: "illegal instruction",
    3: "breakpoint",
    4: "load address misaligned",
    5: "load access fault",
    6: "store/AMO address misaligned",
    7: "store/AMO access fault",
    8: "environment call from U-mode",
    9: "environment call from S-mode",
    11: "environment call from M-mode",
    12: "instruction page fault",
    13: "load page fault",
    15: "store/AMO page fault",
}
_INTERRUPT_TEXT = {
    1: "supervisor software interrupt",
    3: "machine software interrupt",
    5: "supervisor timer interrupt",
    7: "machine timer interrupt",
    9: "supervisor external interrupt",
    11: "machine external interrupt",
}


class Trap:
    """One trap, as the router found it.

    ``cause``: the code without the interrupt bit; ``interrupt``: whether it is one;
    ``epc``, ``tval``: what xepc and xtval hold (VA, or instruction bits for an illegal
    instruction); ``priv``: the privilege it came from; ``target``: the one it goes to.
    """

    __slots__ = ("cause", "epc", "interrupt", "priv", "target", "tval")

    def __init__(
        self, cause: int, epc: int, tval: int, priv: int, target: int, interrupt: bool = False
    ) -> None:
        self.cause = cause
        self.epc = epc
        self.tval = tval
        self.priv = priv
        self.target = target
        self.interrupt = interrupt

    @property
    def xcause(self) -> int:
        """The value that mcause or scause takes."""
        return self.cause | INTERRUPT if self.interrupt else self.cause

    @property
    def text(self) -> str:
        """The cause in the spec's words."""
        table = _INTERRUPT_TEXT if self.interrupt else _CAUSE_TEXT
        return table.get(self.cause, f"reserved cause {self.cause}")

    def __repr__(self) -> str:
        return (
            f"<Trap {self.text}: epc={self.epc:#x} tval={self.tval:#x} "
            f"{Priv(self.priv).name} -> {Priv(self.target).name}>"
        )


def exception_target(words: Words, cause: int) -> int:
    """The level that takes an exception (section 3.1.8): medeleg, never downwards."""
    return 1 if words[PRIV] <= 1 and words[MEDELEG] >> cause & 1 else 3


def choose_interrupt(words: Words, pending: int) -> tuple[int, int] | None:
    """The interrupt that comes first among ``pending & mie``: ``(number, target level)``.

    Those destined for M come before those delegated to S, each in the spec's priority
    (section 3.1.9). Says nothing about whether it is enabled now: `is_enabled` does.
    """
    candidates = pending & words[MIE]
    if not candidates:
        return None
    mideleg = words[MIDELEG]
    for group, level in ((candidates & ~mideleg, 3), (candidates & mideleg, 1)):
        for number in IRQ_PRIORITY:
            if group >> number & 1:
                return number, level
    return None


def is_enabled(words: Words, target: int) -> bool:
    """Whether interrupts to ``target`` are taken now (section 3.1.6.1)."""
    priv = words[PRIV]
    if priv != target:
        return priv < target
    enable = MSTATUS_MIE if target == Priv.M else MSTATUS_SIE
    return bool(words[MSTATUS] & enable)


def enter(words: Words, trap: Trap) -> None:
    """Take ``trap`` as the hardware does (sections 3.1.6.1, 3.1.7, 12.1.1-12.1.8).

    Writes xcause, xepc, xtval, the interrupt-enable and privilege stacks in mstatus, the
    privilege and pc (direct or vectored), and gives up a load reservation.
    """
    status = words[MSTATUS]
    if trap.target == Priv.M:
        words[MCAUSE] = trap.xcause
        words[MEPC] = trap.epc
        words[MTVAL] = trap.tval
        status &= ~(MSTATUS_MPP | MSTATUS_MPIE)
        if trap.priv != Priv.M:  # the return that led there has cleared it (section 3.1.6.3)
            status &= ~MSTATUS_MPRV
        status |= trap.priv << MSTATUS_MPP_SHIFT
        if status & MSTATUS_MIE:
            status = status & ~MSTATUS_MIE | MSTATUS_MPIE
        vector = words[MTVEC]
    else:
        words[SCAUSE] = trap.xcause
        words[SEPC] = trap.epc
        words[STVAL] = trap.tval
        status &= ~(MSTATUS_SPP | MSTATUS_SPIE)
        if trap.priv == Priv.S:
            status |= MSTATUS_SPP
        if status & MSTATUS_SIE:
            status = status & ~MSTATUS_SIE | MSTATUS_SPIE
        vector = words[STVEC]
    words[MSTATUS] = status
    words[PRIV] = trap.target
    pc = vector & ~3
    if trap.interrupt and vector & 3 == 1:
        pc = (pc + 4 * trap.cause) & _M64
    words[PC] = pc
    words[LOAD_RES] = _M64
