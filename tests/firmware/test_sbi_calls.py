"""Each call of the SBI by its registers: SBI 2.0, chapters 3 to 12."""

from __future__ import annotations

import threading

import pytest
from harness import CODE, DATA, HOLE, RAM, S_VECTOR, TABLES, Bench, R, Tables, U, V
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from progress import wait_until
from sbi_kit import (
    ALL,
    ALREADY_AVAILABLE,
    BASE,
    DBCN,
    HSM,
    INVALID_ADDRESS,
    INVALID_PARAM,
    IPI,
    NEVER,
    NOT_SUPPORTED,
    PMU,
    RFENCE,
    SEIP,
    SRST,
    SSIP,
    STIP,
    SUCCESS,
    TIME,
    FakeClock,
    Supervisor,
)

from emu.board.clock import RealClock
from emu.spec import words
from emu.stop import Stop, StopReason
from firmware.sbi import Sbi

RAM_SIZE = 16 << 20  # of Bench
SIE, SPP = 1 << 1, 1 << 8


# base, chapter 4


def test_base(s_mode: Supervisor) -> None:
    assert s_mode.call(BASE, 0) == (0, 0x0200_0000)
    known = set(range(12))  # table 4.2 and its later entries
    assert s_mode.call(BASE, 1)[0] == 0 and s_mode.call(BASE, 1)[1] not in known
    assert s_mode.call(BASE, 2) == (0, 1)
    for function in (4, 5, 6):  # mvendorid, marchid, mimpid of the hart's own CSRs
        csr = s_mode.hart.access.csr(0xF11 + function - 4)
        assert s_mode.call(BASE, function) == (0, csr or 0)
    for function in (7, ALL, 1 << 32):
        assert s_mode.call(BASE, function) == (NOT_SUPPORTED, 0)


def test_probe(s_mode: Supervisor) -> None:
    for extension in (BASE, TIME, IPI, RFENCE, HSM, SRST, DBCN, *range(9)):
        assert s_mode.call(BASE, 3, extension) == (0, 1), hex(extension)
    absent = (PMU, 0x53555350, 0x43505043, 0x4E41434C, 0x535441, *range(9, 16), ALL, TIME + 2**32)
    for extension in absent:  # SUSP, CPPC, NACL, STA: not offered either
        assert s_mode.call(BASE, 3, extension) == (0, 0), hex(extension)
        if extension not in range(9, 16):
            assert s_mode.call(extension, 0, 1, 2) == (NOT_SUPPORTED, 0), hex(extension)
    s_mode.sbi.extensions[0x0900_0000] = {0: lambda: (SUCCESS, 7)}
    assert s_mode.call(BASE, 3, 0x0900_0000) == (0, 1)
    assert s_mode.call(0x0900_0000, 0) == (0, 7)


def test_without_a_clock_there_is_no_timer(bench: Bench) -> None:
    s_mode = Supervisor(bench)
    s_mode.sbi = Sbi(bench.hart, bench.ram, bench.output.extend)
    assert s_mode.call(BASE, 3, TIME) == (0, 0)
    assert s_mode.call(BASE, 3, 0) == (0, 0)
    assert s_mode.call(TIME, 0, 5) == (NOT_SUPPORTED, 0)
    assert s_mode.call(0, 0, 5, 77) == (NOT_SUPPORTED, 77)
    assert s_mode.sbi.state() == {"timer": None}
    s_mode.sbi.restore({"timer": None})
    with pytest.raises(ValueError, match="timer"):
        s_mode.sbi.restore({"timer": {"when": 5}})


# timer, chapter 6


@pytest.mark.parametrize("legacy", [False, True])
def test_set_timer(s_mode: Supervisor, legacy: bool) -> None:
    clock, hart = s_mode.clock, s_mode.hart

    def set_timer(when: int) -> None:
        if legacy:
            assert s_mode.call(0, 9, when, 77) == (0, 77)
        else:
            assert s_mode.call(TIME, 0, when) == (0, 0)

    hart.set_pending(9, True)  # stays out of it
    set_timer(100)
    clock.set_now(99)
    assert hart.pending == SEIP
    clock.set_now(100)
    assert hart.pending == SEIP | STIP
    clock.set_now(200)
    assert hart.pending == SEIP | STIP  # until the next call
    set_timer(300)
    assert hart.pending == SEIP
    set_timer(250)  # the last one counts
    clock.set_now(260)
    assert hart.pending == SEIP | STIP
    set_timer(260)  # has come: again at once
    assert hart.pending == SEIP | STIP
    set_timer(NEVER)
    assert hart.pending == SEIP
    clock.set_now(NEVER - 1)
    assert hart.pending == SEIP
    set_timer(NEVER - 1)
    assert hart.pending == SEIP | STIP
    set_timer(0)
    assert hart.pending == SEIP | STIP


def test_set_timer_by_the_real_clock(bench: Bench) -> None:
    clock = RealClock()
    s_mode = Supervisor(bench, clock)
    rang = threading.Event()
    set_pending = bench.hart.set_pending

    def watched(number: int, level: bool) -> None:
        set_pending(number, level)
        rang.set()

    bench.hart.set_pending = watched  # type: ignore[method-assign]
    when = clock.now() + 50_000  # 5 ms
    assert s_mode.call(TIME, 0, when) == (0, 0)
    wait_until(rang.is_set)
    assert clock.now() >= when and bench.hart.pending == STIP
    assert s_mode.call(TIME, 0, NEVER) == (0, 0)
    assert bench.hart.pending == 0
    clock.close()


def test_the_timer_in_a_snapshot(s_mode: Supervisor) -> None:
    s_mode.call(TIME, 0, 100)
    state = s_mode.sbi.state()
    assert state == {"timer": {"when": 100}}
    s_mode.call(TIME, 0, NEVER)
    assert s_mode.sbi.state() == {"timer": {"when": None}}
    s_mode.clock.set_now(150)
    s_mode.sbi.restore(state)
    assert s_mode.hart.pending == STIP  # it is late, and rings
    with pytest.raises(KeyError):
        s_mode.sbi.restore({})
    with pytest.raises(ValueError, match="timer"):
        s_mode.sbi.restore({"timer": None})


# lists of harts, section 3.1


@settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    mask=st.one_of(st.sampled_from([0, 1, 2, 3, 1 << 63, ALL]), st.integers(0, ALL)),
    base=st.one_of(st.integers(0, 70), st.integers(ALL - 70, ALL)),
    hart_id=st.sampled_from([0, 1, 63, 64]),
)
def test_hart_lists(inside: Bench, mask: int, base: int, hart_id: int) -> None:
    s_mode = Supervisor(inside, hartid=hart_id)
    inside.hart.set_pending(1, False)
    named = [base + i for i in range(64) if mask >> i & 1] if base != ALL else [hart_id]
    valid = all(n == hart_id for n in named)
    flushed: list[str] = []
    flush_tlb = inside.hart.access.flush_tlb
    inside.hart.access.flush_tlb = lambda: flushed.append("tlb")  # type: ignore[method-assign]
    try:
        for call in ((IPI, 0, mask, base), (RFENCE, 1, mask, base, 0, 0)):
            assert s_mode.call(*call) == (SUCCESS if valid else INVALID_PARAM, 0)
    finally:
        inside.hart.access.flush_tlb = flush_tlb  # type: ignore[method-assign]
    assert inside.hart.pending == (SSIP if valid and named else 0)
    assert flushed == (["tlb"] if valid and named else [])


# remote fences, chapter 8


def test_fences_flush(inside: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    s_mode = Supervisor(inside)
    done: list[str] = []
    monkeypatch.setattr(inside.hart.access, "flush_tlb", lambda: done.append("tlb"))
    monkeypatch.setattr(inside.hart.access, "flush_code", lambda: done.append("code"))
    assert s_mode.call(RFENCE, 0, 1, 0) == (0, 0)
    assert done == ["code"]
    done.clear()
    for function in (1, 2):
        for start, size in ((0, 0), (0x1000, 0x1000), (5, ALL), (ALL, 1), (1 << 63, 1 << 63)):
            assert s_mode.call(RFENCE, function, 1, 0, start, size, 3) == (0, 0)
        assert done == ["tlb"] * 5
        done.clear()
        for start, size in ((ALL, 2), (1 << 63, (1 << 63) + 1), (3, ALL - 1)):
            assert s_mode.call(RFENCE, function, 1, 0, start, size, 3) == (INVALID_ADDRESS, 0)
        assert s_mode.call(RFENCE, function, 2, 0, 0, 0, 3) == (INVALID_PARAM, 0)
    for function in range(3, 8):
        assert s_mode.call(RFENCE, function, 1, 0, 0, 0, 0) == (NOT_SUPPORTED, 0)
    assert done == []


# hart state management, chapter 9


def test_hart_start(s_mode: Supervisor) -> None:
    assert s_mode.call(HSM, 0, 0, RAM, 7) == (ALREADY_AVAILABLE, 0)
    for hart_id in (1, ALL, 1 << 32):
        assert s_mode.call(HSM, 0, hart_id, RAM, 7) == (INVALID_PARAM, 0)
    for start in (0, HOLE, RAM - 2, RAM + RAM_SIZE, RAM + 1, ALL, ALL - 1, 0x1000_0000):
        assert s_mode.call(HSM, 0, 0, start, 7) == (INVALID_ADDRESS, 0)


def test_hart_get_status(s_mode: Supervisor) -> None:
    assert s_mode.call(HSM, 2, 0) == (0, 0)  # STARTED
    assert s_mode.call(HSM, 2, 1) == (INVALID_PARAM, 0)
    assert s_mode.call(HSM, 2, ALL) == (INVALID_PARAM, 0)
    assert s_mode.call(HSM, 4) == (NOT_SUPPORTED, 0)


def test_hart_id_is_what_it_was_told(bench: Bench) -> None:
    s_mode = Supervisor(bench, hartid=5)
    assert s_mode.call(HSM, 2, 5) == (0, 0)
    assert s_mode.call(HSM, 2, 0) == (INVALID_PARAM, 0)
    assert s_mode.call(IPI, 0, 1 << 5, 0) == (0, 0)
    assert s_mode.call(IPI, 0, 1, 0) == (INVALID_PARAM, 0)


def test_hart_stop_ends_the_run(s_mode: Supervisor) -> None:
    stop = s_mode.ecall(HSM, 1)
    assert stop is not None and (stop.reason, stop.code) == (StopReason.EXIT, 0)
    assert "stop" in stop.detail


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (1, INVALID_PARAM), (0x0FFF_FFFF, INVALID_PARAM),  # reserved
        (0x1000_0000, INVALID_PARAM), (0x7FFF_FFFF, INVALID_PARAM),  # the platform has none
        (0x8000_0001, INVALID_PARAM), (0x8FFF_FFFF, INVALID_PARAM),
        (0x9000_0000, INVALID_PARAM), (0xFFFF_FFFF, INVALID_PARAM), (ALL, INVALID_PARAM),
    ],
)  # fmt: skip
def test_hart_suspend_types(s_mode: Supervisor, kind: int, error: int) -> None:
    assert s_mode.call(HSM, 3, kind, RAM, 7) == (error, 0)


def test_retentive_suspend(s_mode: Supervisor) -> None:
    s_mode.w[words.MIE] = STIP
    s_mode.hart.set_satp(8 << 60 | TABLES >> 12)
    s_mode.hart.set_pending(1, True)  # masked in mie: does not wake
    for kind in (0, 1 << 32):  # 32 bits count
        stop = s_mode.ecall(HSM, 3, kind, HOLE + 1, 7)
        assert stop is not None and stop.reason is StopReason.WFI
        assert (s_mode.reg("a0"), s_mode.reg("a1"), s_mode.hart.pc) == (0, 0, CODE + 4)
        assert s_mode.hart.satp == 8 << 60 | TABLES >> 12
    s_mode.hart.set_pending(5, True)  # pending already: back at once
    assert s_mode.call(HSM, 3, 0, HOLE + 1, 7) == (0, 0)


@pytest.mark.parametrize("kind", [0x8000_0000, 0xFFFF_FFFF_8000_0000])  # sign-extended
def test_non_retentive_suspend(s_mode: Supervisor, kind: int) -> None:
    for resume in (HOLE, DATA + 1, RAM + RAM_SIZE, ALL):
        assert s_mode.call(HSM, 3, kind, resume, 7) == (INVALID_ADDRESS, 0)
    s_mode.hart.set_satp(8 << 60 | TABLES >> 12)
    s_mode.w[words.MSTATUS] |= SIE
    s_mode.w[words.MIE] = STIP
    stop = s_mode.ecall(HSM, 3, kind, DATA, 0x1234)
    assert stop is not None and stop.reason is StopReason.WFI
    assert (s_mode.hart.pc, s_mode.hart.priv, s_mode.hart.satp) == (DATA, 1, 0)
    assert (s_mode.reg("a0"), s_mode.reg("a1")) == (0, 0x1234)
    assert not s_mode.w[words.MSTATUS] & SIE
    s_mode.hart.set_pending(5, True)
    assert s_mode.ecall(HSM, 3, kind, DATA + 2, 9) is None
    assert (s_mode.hart.pc, s_mode.reg("a0"), s_mode.reg("a1")) == (DATA + 2, 0, 9)


# system reset, chapter 10


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("reason", [0, 1])
def test_reset(s_mode: Supervisor, kind: int, reason: int) -> None:
    stop = s_mode.ecall(SRST, 0, kind | 1 << 32, reason | 5 << 32)  # uint32_t
    names = ("shutdown", "cold reboot", "warm reboot")
    ends = (StopReason.EXIT, StopReason.RESET, StopReason.RESET)
    assert stop == Stop(ends[kind], reason, detail=f"SBI system reset: {names[kind]}")


def test_resets_that_do_not_exist(s_mode: Supervisor) -> None:
    for kind in (3, 0xEFFF_FFFF, 0xF000_0000, 0xFFFF_FFFF, ALL):
        assert s_mode.call(SRST, 0, kind, 0) == (INVALID_PARAM, 0)
    for reason in (2, 0xDFFF_FFFF, 0xE000_0000, 0xF000_0000, ALL):
        assert s_mode.call(SRST, 0, 0, reason) == (INVALID_PARAM, 0)
    assert s_mode.call(SRST, 1, 0, 0) == (NOT_SUPPORTED, 0)


# debug console, chapter 12


def test_console_write(s_mode: Supervisor) -> None:
    s_mode.ram.write(DATA, b"hello, world")
    assert s_mode.call(DBCN, 0, 5, DATA, 0) == (0, 5)
    assert s_mode.call(DBCN, 0, 0, DATA, 0) == (0, 0)
    assert s_mode.call(DBCN, 2, 0x1221, 5) == (0, 0)
    assert bytes(s_mode.bench.output) == b"hello!"
    for size, pa, high in ((5, DATA, 1), (5, HOLE, 0), (5, RAM + RAM_SIZE - 4, 0), (ALL, RAM, 0)):
        assert s_mode.call(DBCN, 0, size, pa, high) == (INVALID_PARAM, 0)
    # More than one call moves: the caller learns how much.
    del s_mode.bench.output[:]
    assert s_mode.call(DBCN, 0, 3 << 20, RAM, 0) == (0, 1 << 20)
    assert len(s_mode.bench.output) == 1 << 20
    assert s_mode.changed == []


def test_console_read(s_mode: Supervisor) -> None:
    s_mode.ram.write(DATA, b"........")
    s_mode.typed += b"abcde"
    assert s_mode.call(DBCN, 1, 3, DATA, 0) == (0, 3)
    assert s_mode.call(DBCN, 1, 99, DATA + 4, 0) == (0, 2)
    assert s_mode.call(DBCN, 1, 99, DATA, 0) == (0, 0)
    assert s_mode.ram.read(DATA, 8) == b"abc.de.."
    assert s_mode.changed == [(DATA, 3), (DATA + 4, 2)]  # the bytes may be code
    s_mode.typed += b"x"
    for size, pa, high in ((1, DATA, 1), (1, HOLE, 0), (2, RAM + RAM_SIZE - 1, 0), (ALL, RAM, 0)):
        assert s_mode.call(DBCN, 1, size, pa, high) == (INVALID_PARAM, 0)
    assert bytes(s_mode.typed) == b"x" and len(s_mode.changed) == 2  # nothing was lost


def test_a_long_console_read_is_cut(s_mode: Supervisor) -> None:
    """Each byte costs accesses to the UART: a call must not take longer than a moment."""
    s_mode.typed += bytes(i % 251 for i in range(10_000))
    sizes = []
    while size := s_mode.call(DBCN, 1, 1 << 20, RAM + sum(sizes), 0)[1]:
        sizes.append(size)
    assert sum(sizes) == 10_000 and max(sizes) <= 4096
    assert s_mode.ram.read(RAM, 10_000) == bytes(i % 251 for i in range(10_000))


# legacy, chapter 5


def test_legacy_console_and_shutdown(s_mode: Supervisor) -> None:
    assert s_mode.call(1, ALL, 0x141, 77) == (0, 77)
    assert bytes(s_mode.bench.output) == b"A"
    s_mode.typed += b"\xff"
    assert s_mode.call(2, 5, 0, 77) == (0xFF, 77)
    assert s_mode.call(2, 5, 0, 77) == (-1, 77)
    assert s_mode.ecall(8, 3) == Stop(StopReason.EXIT, 0, detail="SBI shutdown")
    for number in range(9, 16):
        assert s_mode.call(number, 0, 0, 77) == (NOT_SUPPORTED, 77)


def test_legacy_ipi(s_mode: Supervisor) -> None:
    assert s_mode.call(4, 0, 0, 77) == (0, 77)  # no mask: everybody
    assert s_mode.hart.pending == SSIP
    assert s_mode.call(3, 0, 0, 77) == (1, 77)
    assert s_mode.call(3, 0, 0, 77) == (0, 77)
    assert s_mode.hart.pending == 0
    s_mode.ram.write64(DATA, 1)
    assert s_mode.call(4, 0, DATA, 77) == (0, 77)
    assert s_mode.call(3, 0, 0) == (1, 0xA5A5)
    for mask, error in ((0, 0), (2, INVALID_PARAM), (3, INVALID_PARAM), (1 << 63, INVALID_PARAM)):
        s_mode.ram.write64(DATA, mask)
        assert s_mode.call(4, 0, DATA, 77) == (error, 77)
        assert s_mode.hart.pending == 0
    # One hart, one unsigned long: what stands behind it does not count.
    s_mode.ram.write(DATA, b"\1" + bytes(7) + b"\xff" * 8)
    assert s_mode.call(4, 0, DATA) == (0, 0xA5A5)


def test_legacy_fences(inside: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    s_mode = Supervisor(inside)
    done: list[str] = []
    monkeypatch.setattr(inside.hart.access, "flush_tlb", lambda: done.append("tlb"))
    monkeypatch.setattr(inside.hart.access, "flush_code", lambda: done.append("code"))
    s_mode.ram.write64(DATA, 1)
    assert s_mode.call(5, 9, DATA, 77) == (0, 77)
    assert s_mode.call(6, 9, DATA, 0x1000, 0x2000) == (0, 0x1000)
    assert s_mode.call(7, 9, DATA, 0x1000, 0x2000, 5) == (0, 0x1000)
    assert s_mode.call(6, 9, DATA, ALL, 2) == (INVALID_ADDRESS, ALL)
    assert done == ["code", "tlb", "tlb"]
    s_mode.ram.write64(DATA, 2)
    for number in (5, 6, 7):
        assert s_mode.call(number, 0, DATA, 0, 0)[0] == INVALID_PARAM
    assert len(done) == 3


def test_legacy_mask_is_a_virtual_address(s_mode: Supervisor) -> None:
    tables = Tables(s_mode.ram, 3)
    va = 0xFFFF_FFC0_1234_5000
    tables.map(S_VECTOR, S_VECTOR)
    tables.map(va, DATA)
    tables.map(va + 0x1000, DATA + 0x1000)
    tables.map(va + 0x3000, DATA + 0x2000, V | R | U)
    tables.map(va + 0x4000, HOLE)
    s_mode.hart.set_satp(tables.satp)
    s_mode.ram.write64(DATA + 8, 1)
    assert s_mode.call(4, 0, va + 8) == (0, 0xA5A5)
    assert s_mode.hart.pending == SSIP
    # Not aligned, over the end of the page: the bytes of both count.
    s_mode.ram.write(DATA + 0xFFD, b"\1\0\0")
    assert s_mode.call(5, 0, va + 0xFFD)[0] == 0
    s_mode.ram.write(DATA + 0x1000, b"\1")
    assert s_mode.call(5, 0, va + 0xFFD)[0] == INVALID_PARAM
    for bad, cause in (
        (va + 0x2000, 13),  # not mapped
        (va + 0x1FFC, 13),  # its end is not
        (va + 0x3000, 13),  # the user's, and SUM is clear
        (va + 0x4000, 5),  # no RAM
        (ALL - 3, 13),  # around the end of the address space
    ):
        s_mode.hart.set_satp(tables.satp)
        s_mode.w[words.MSTATUS] |= SIE
        assert s_mode.ecall(4, 0, bad) is None
        w = s_mode.w
        assert (w[words.SCAUSE], w[words.SEPC], w[words.PC]) == (cause, CODE, S_VECTOR), hex(bad)
        assert w[words.STVAL] == {va + 0x1FFC: va + 0x2000}.get(bad, bad)
        assert w[words.MSTATUS] & (SIE | SPP | 1 << 5) == SPP | 1 << 5
        assert s_mode.reg("a0") == bad  # as it was: the call has not happened


def test_legacy_mask_without_translation(s_mode: Supervisor) -> None:
    assert s_mode.ecall(4, 0, HOLE) is None
    w = s_mode.w
    assert (w[words.SCAUSE], w[words.SEPC], w[words.STVAL]) == (5, CODE, HOLE)
    assert w[words.PC] == S_VECTOR
    end = RAM + RAM_SIZE  # over the end of RAM, which is the end of a page
    assert s_mode.ecall(4, 0, end - 4) is None
    assert (w[words.SCAUSE], w[words.STVAL]) == (5, end)


# what is no call


def test_traps_that_are_no_calls_end_the_run(s_mode: Supervisor) -> None:
    for stop in (
        s_mode.trap(2, tval=0, priv=3),  # of M itself
        s_mode.trap(11, priv=3),
        s_mode.trap(7, interrupt=True),
        s_mode.trap(9, interrupt=True),  # the number of an ecall, but an interrupt
    ):
        assert stop is not None and stop.reason is StopReason.FAULT
        assert stop.detail == "a trap to the firmware in Python"


@pytest.mark.parametrize("priv", [0, 1])
@pytest.mark.parametrize(("cause", "tval"), [(2, 0xFFFF_FFFF), (1, HOLE), (5, HOLE), (7, HOLE)])
def test_exceptions_go_to_s(s_mode: Supervisor, priv: int, cause: int, tval: int) -> None:
    w = s_mode.w
    w[words.MSTATUS] |= SIE
    seen = []
    s_mode.hart.trap_listener = seen.append
    w[words.STVEC] = S_VECTOR | 1  # vectored: exceptions go to its base
    assert s_mode.trap(cause, tval, priv) is None
    assert (w[words.SCAUSE], w[words.SEPC], w[words.STVAL]) == (cause, CODE, tval)
    assert (w[words.PC], w[words.PRIV]) == (S_VECTOR, 1)
    assert w[words.MSTATUS] & (SIE | 1 << 5 | SPP) == 1 << 5 | SPP * priv
    assert [(t.cause, t.priv, t.target) for t in seen] == [(cause, priv, 1)]


def test_exceptions_go_to_python_where_it_holds_s(s_mode: Supervisor) -> None:
    seen = []

    def handler(trap: object) -> Stop:
        seen.append(trap)
        return Stop(StopReason.FAULT)

    s_mode.hart.handlers[1] = handler
    stop = s_mode.trap(2, 0x1234, 0)
    assert stop == Stop(StopReason.FAULT)
    assert [(t.cause, t.epc, t.tval, t.priv, t.target) for t in seen] == [(2, CODE, 0x1234, 0, 1)]
    assert (s_mode.hart.pc, s_mode.hart.priv) == (CODE, 0)  # nothing of trap entry is done


@pytest.mark.parametrize("vector", [0, HOLE, RAM + RAM_SIZE])
def test_no_vector_ends_the_run(s_mode: Supervisor, vector: int) -> None:
    s_mode.w[words.STVEC] = vector
    stop = s_mode.trap(2, 0x1234, 0)
    assert stop is not None and stop.reason is StopReason.FAULT and stop.trap is not None
    assert (stop.trap.cause, stop.trap.priv, stop.trap.tval) == (2, 0, 0x1234)
    assert "no trap handler" in stop.detail
    assert (s_mode.hart.pc, s_mode.hart.priv) == (CODE, 0)  # where it struck


def test_the_fake_clock_is_a_clock() -> None:
    clock = FakeClock()
    rang: list[int] = []
    clock.alarm(lambda: rang.append(clock.now())).set(5)
    clock.set_now(4)
    assert rang == []
    clock.set_now(7)
    assert rang == [7]
