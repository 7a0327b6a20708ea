"""The hart's state as 64-bit words: which word of the array is which register.

This is the order of QEMU's ``CPURISCVState`` in unicorn 2.1.4; `emu.engine.state_words` verifies
it before anybody relies on it. Code that works on such an array runs on a list in tests.
"""

from __future__ import annotations

from typing import Protocol


class Words(Protocol):
    """The state: an array of 64-bit words, of whatever kind."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


GPR = 0  # x0 to x31
FPR = 32  # f0 to f31
PC = 64
LOAD_RES = 65
BADADDR = 68
PRIV = 74
MSTATUS = 78
MIP = 79
MIE = 81
MIDELEG = 82
SATP = 84
STVAL = 85
MTVAL = 86
MEDELEG = 87
STVEC = 88
SEPC = 89
SCAUSE = 90
MTVEC = 91
MEPC = 92
MCAUSE = 93
COUNT = 94  # words that hold architectural state

RA, SP, GP, TP = 1, 2, 3, 4
A0, A1, A2, A3, A4, A5, A6, A7 = range(10, 18)

ABI_NAMES = (
    *("zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1"),
    *(f"a{i}" for i in range(8)),
    *(f"s{i}" for i in range(2, 12)),
    *("t3", "t4", "t5", "t6"),
)
FPR_ABI_NAMES = (
    *(f"ft{i}" for i in range(8)),
    *("fs0", "fs1"),
    *(f"fa{i}" for i in range(8)),
    *(f"fs{i}" for i in range(2, 12)),
    *("ft8", "ft9", "ft10", "ft11"),
)
