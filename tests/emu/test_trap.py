"""Routing, priorities and trap entry on plain lists: no CPU is involved."""

from __future__ import annotations

import itertools

import pytest

from emu.spec import trap, words
from emu.spec.trap import Trap

M64 = (1 << 64) - 1
# mstatus (figure 7 of the privileged spec)
SIE, MIE, SPIE, MPIE, SPP = 1 << 1, 1 << 3, 1 << 5, 1 << 7, 1 << 8
OTHERS = 0x8000_000A_007E_6600  # SD, SXL, UXL, TSR to MPRV, FS, VS: trap entry leaves them


def state(**given: int) -> list[int]:
    w = [0xDEAD_0000 + i for i in range(words.COUNT)]
    for name, value in given.items():
        w[getattr(words, name)] = value
    return w


def changed(before: list[int], after: list[int]) -> set[int]:
    return {i for i in range(words.COUNT) if before[i] != after[i]}


def test_the_words_are_those_of_the_engine() -> None:
    # The order of the words of unicorn 2.1.4, see emu/spec/words.py.
    numbers = (
        words.GPR, words.FPR, words.PC, words.LOAD_RES, words.BADADDR, words.PRIV, words.MSTATUS,
        words.MIP, words.MIE, words.MIDELEG, words.SATP, words.STVAL, words.MTVAL, words.MEDELEG,
        words.STVEC, words.SEPC, words.SCAUSE, words.MTVEC, words.MEPC, words.MCAUSE,
    )  # fmt: skip
    assert numbers == (
        0, 32, 64, 65, 68, 74, 78, 79, 81, 82, 84, 85, 86, 87, 88, 89, 90, 91, 92, 93
    )  # fmt: skip
    assert " ".join(words.ABI_NAMES) == (
        "zero ra sp gp tp t0 t1 t2 s0 s1 a0 a1 a2 a3 a4 a5 a6 a7 "
        "s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 t3 t4 t5 t6"
    )


@pytest.mark.parametrize("priv", [0, 1, 3])
@pytest.mark.parametrize("mie", [0, MIE])
@pytest.mark.parametrize("rest", [0, OTHERS, OTHERS | SIE | SPIE | SPP, 3 << 11 | MPIE])
def test_entry_to_m(priv: int, mie: int, rest: int) -> None:
    before = state(MSTATUS=rest | mie, PRIV=priv, MTVEC=0x8000_0100)
    w = list(before)
    trap.enter(w, Trap(13, 0x1234, 0x5678, priv, 3))
    assert (w[words.MCAUSE], w[words.MEPC], w[words.MTVAL]) == (13, 0x1234, 0x5678)
    assert (w[words.PRIV], w[words.PC], w[words.LOAD_RES]) == (3, 0x8000_0100, M64)
    wanted = rest & ~(3 << 11 | MPIE) | priv << 11 | (MPIE if mie else 0)
    if priv != 3:  # below M-mode MPRV is 0 (section 3.1.6.3)
        wanted &= ~(1 << 17)
    assert w[words.MSTATUS] == wanted
    names = ("MCAUSE", "MEPC", "MTVAL", "PRIV", "PC", "LOAD_RES", "MSTATUS")
    assert changed(before, w) <= {getattr(words, name) for name in names}


@pytest.mark.parametrize("priv", [0, 1])
@pytest.mark.parametrize("sie", [0, SIE])
@pytest.mark.parametrize("rest", [0, OTHERS, OTHERS | MIE | MPIE | 3 << 11, SPP | SPIE])
def test_entry_to_s(priv: int, sie: int, rest: int) -> None:
    before = state(MSTATUS=rest | sie, PRIV=priv, STVEC=0x8000_0200)
    w = list(before)
    trap.enter(w, Trap(8, 0x1234, 0, priv, 1))
    assert (w[words.SCAUSE], w[words.SEPC], w[words.STVAL]) == (8, 0x1234, 0)
    assert (w[words.PRIV], w[words.PC], w[words.LOAD_RES]) == (1, 0x8000_0200, M64)
    wanted = rest & ~(SPP | SPIE) | (SPP if priv else 0) | (SPIE if sie else 0)
    assert w[words.MSTATUS] == wanted
    names = ("SCAUSE", "SEPC", "STVAL", "PRIV", "PC", "LOAD_RES", "MSTATUS")
    assert changed(before, w) <= {getattr(words, name) for name in names}


@pytest.mark.parametrize(("target", "vector", "cause"), [(3, "MTVEC", 11), (1, "STVEC", 5)])
def test_vectored_mode(target: int, vector: str, cause: int) -> None:
    for mode, interrupt, pc in (
        (0, True, 0x8000_0100),
        (1, True, 0x8000_0100 + 4 * cause),
        (0, False, 0x8000_0100),
        (1, False, 0x8000_0100),  # exceptions always go to BASE
    ):
        w = state(MSTATUS=0, **{vector: 0x8000_0100 | mode})
        trap.enter(w, Trap(cause, 0, 0, 0, target, interrupt))
        assert w[words.PC] == pc
        xcause = w[words.MCAUSE if target == 3 else words.SCAUSE]
        assert xcause == cause | (1 << 63 if interrupt else 0)


def test_a_vector_at_the_end_of_the_address_space_wraps() -> None:
    w = state(MSTATUS=0, MTVEC=M64 - 3 + 1 - 4 | 1)
    trap.enter(w, Trap(11, 0, 0, 3, 3, True))
    assert w[words.PC] == 36


def test_exceptions_are_delegated_but_never_downwards() -> None:
    for cause, priv in itertools.product(range(16), (0, 1, 3)):
        w = state(MEDELEG=0, PRIV=priv)
        assert trap.exception_target(w, cause) == 3
        w = state(MEDELEG=1 << cause, PRIV=priv)
        assert trap.exception_target(w, cause) == (3 if priv == 3 else 1)
        w = state(MEDELEG=M64 & ~(1 << cause), PRIV=priv)
        assert trap.exception_target(w, cause) == 3


SSI, MSI, STI, MTI, SEI, MEI = 1, 3, 5, 7, 9, 11
BY_PRIORITY = [MEI, MSI, MTI, SEI, SSI, STI]  # section 3.1.9
ALL = sum(1 << n for n in BY_PRIORITY)


def test_priority_of_every_set() -> None:
    for size in range(1, 7):
        for pending in itertools.combinations(BY_PRIORITY, size):
            mip = sum(1 << n for n in pending)
            assert trap.choose_interrupt(state(MIE=ALL, MIDELEG=0), mip) == (pending[0], 3)
            # Disabled ones do not count.
            w = state(MIE=ALL & ~(1 << pending[0]), MIDELEG=0)
            wanted = (pending[1], 3) if size > 1 else None
            assert trap.choose_interrupt(w, mip) == wanted


def test_interrupts_to_m_come_before_those_to_s() -> None:
    for pending in itertools.combinations(BY_PRIORITY, 2):
        for delegated in ({SSI}, {SEI}, {STI}, {SSI, SEI}, {SSI, STI, SEI}):
            w = state(MIE=ALL, MIDELEG=sum(1 << n for n in delegated))
            to_m = [n for n in pending if n not in delegated]
            to_s = [n for n in pending if n in delegated]
            wanted = (to_m[0], 3) if to_m else (to_s[0], 1)
            mip = sum(1 << n for n in pending)
            assert trap.choose_interrupt(w, mip) == wanted
    assert trap.choose_interrupt(state(MIE=ALL, MIDELEG=0), 0) is None
    assert trap.choose_interrupt(state(MIE=0, MIDELEG=0), ALL) is None


def test_enabled_at_which_privilege() -> None:
    # (target, priv) -> depends on the global bit of that level, or not at all
    for mstatus in (0, MIE, SIE, MIE | SIE):

        def enabled(target: int, priv: int, mstatus: int = mstatus) -> bool:
            return trap.is_enabled(state(MSTATUS=mstatus, PRIV=priv), target)

        assert enabled(3, 0) and enabled(3, 1) and enabled(1, 0)
        assert not enabled(1, 3)
        assert enabled(3, 3) == bool(mstatus & MIE)
        assert enabled(1, 1) == bool(mstatus & SIE)


def test_the_record_speaks() -> None:
    exception = Trap(13, 0x8000_0000, 0x40, 1, 3)
    assert exception.xcause == 13
    assert exception.text == "load page fault"
    assert repr(exception) == "<Trap load page fault: epc=0x80000000 tval=0x40 S -> M>"
    timer = Trap(5, 0x10, 0, 0, 1, True)
    assert timer.xcause == 0x8000_0000_0000_0005
    assert repr(timer) == "<Trap supervisor timer interrupt: epc=0x10 tval=0x0 U -> S>"
    assert Trap(24, 0, 0, 0, 3).text == "reserved cause 24"
    assert Trap(2, 0, 0, 0, 3, True).text == "reserved cause 2"
