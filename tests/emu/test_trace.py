"""Traces: what each kind shows, several at once, limits, and what the guest itself counted."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from asm import Batch
from harness import CODE, DATA, RWX, S_VECTOR, VECTOR, Bench

from emu.debug.symbols import Symbols
from emu.debug.trace import tracer as trace
from emu.debug.trace.engine_watch import InterruptWatch
from emu.debug.trace.events import DeviceEvent, Event, NoteEvent, PageEvent, ReturnEvent, TrapEvent
from emu.engine.calls import EngineError
from emu.spec import words
from emu.spec.trap import Trap
from emu.stop import StopReason

batch = Batch()
UART = 0x1000_0000
SIE = 1 << 1  # mstatus.SIE
ECALL_U, ECALL_S = 8, 9
EXIT = "li t0, 0x100000; li t1, 0x5555; sw t1, (t0); 9: j 9b"

CALLS = batch(f".option norvc; li a7, 64; ecall; li a7, 93; ecall; {EXIT}; .option rvc")
# S's handler: counts interrupts in s2 and everything else in s3, whose return is behind the
# ecall; an interrupt is done with when its bit of sip is clear.
COUNTING = batch("""
    .option norvc
    csrr t2, scause
    bgez t2, 1f
    addi s2, s2, 1
    csrci sip, 2
    sret
1:  addi s3, s3, 1
    csrr t2, sepc
    addi t2, t2, 4
    csrw sepc, t2
    sret
    .option rvc""")
# S raises a software interrupt for itself and makes a call to itself, a0 times.
BUSY = batch(f"""
    .option norvc
1:  csrsi sip, 2
    nop
    ecall
    addi a0, a0, -1
    bnez a0, 1b
    {EXIT}
    .option rvc""")
PORTS = batch(f"""
    .option norvc
    lbu a1, 5(a0)
    nop
    sb a2, 0(a0)
    addi a2, a2, 1
    sb a2, 0(a0)
    sw a2, 0xff(a0)
    {EXIT}
    .option rvc""")
SYMBOLS = Symbols([(CODE, 0x40, "main"), (S_VECTOR, 0x40, "handler")])


class Recorder:
    """A writer that keeps the events, and fails from the ``fails_at``-th write on."""

    name = "recorder"

    def __init__(self, wants_returns: bool = True, fails_at: int | None = None) -> None:
        self.wants_returns = wants_returns
        self.events: list[Event] = []
        self.level: int | None = None
        self.closed: int | None = None
        self._fails_at = fails_at

    def start(self, level: int) -> None:
        self.level = level

    def write(self, event: Event) -> None:
        if self._fails_at is not None and len(self.events) >= self._fails_at:
            raise OSError(28, "No space left on device")
        self.events.append(event)

    def flush(self) -> None:
        pass

    def close(self, time: int) -> None:
        assert self.closed is None, "closed twice"
        self.closed = time

    def of(self, kind: type[Event]) -> list[Any]:
        return [e for e in self.events if isinstance(e, kind)]


def delegate(bench: Bench) -> None:
    bench.load(COUNTING, S_VECTOR)
    bench.w[words.MEDELEG] = 1 << ECALL_U | 1 << ECALL_S


def calls(bench: Bench, writer: Any, kinds: str = "trap", **more: Any) -> trace.Tracer:
    """Run two system calls of a U program under a trace; the tracer, closed."""
    delegate(bench)
    bench.start(CALLS, priv=0)
    with trace.attach(bench.machine, kinds, writer, SYMBOLS, **more) as tracer:
        assert bench.machine.run().reason is StopReason.EXIT
    assert bench.reg("s3") == 2
    return tracer


def test_lines_of_traps(bench: Bench) -> None:
    lines: list[str] = []
    calls(bench, lines.append)
    assert lines == [
        "trap U->S environment call from U-mode epc=0x80000004 <main+0x4> tval=0x0",
        "trap U->S environment call from U-mode epc=0x8000000c <main+0xc> tval=0x0",
    ]


def test_returns_for_writers_that_want_them(inside: Bench) -> None:
    recorder = Recorder()
    clock = itertools.count(5000, 10)
    calls(inside, recorder, now=lambda: next(clock))
    assert recorder.level == 0
    sret = S_VECTOR + 36
    assert inside.ram.read32(sret) == 0x1020_0073
    assert [(e.kind, e.time, e.level, getattr(e, "target", None)) for e in recorder.events] == [
        ("trap", 10, 0, 1),
        ("return", 20, 1, 0),
        ("trap", 30, 0, 1),
        ("return", 40, 1, 0),
    ]
    assert [e.pc for e in recorder.of(ReturnEvent)] == [sret, sret]
    assert [e.a7 for e in recorder.of(TrapEvent)] == [64, 93]
    assert recorder.closed == 50


def test_the_returns_of_a_handler_in_python(bench: Bench) -> None:
    def handle(trap: Trap) -> None:
        bench.w[words.PC] = trap.epc + 4

    bench.hold_m(handle)
    recorder = Recorder()
    bench.start(CALLS, priv=1)
    before = bench.hart.handlers[3]
    with trace.attach(bench.hart, "trap", recorder):
        bench.machine.run()
    assert [(e.kind, e.level, e.target) for e in recorder.events] == [  # type: ignore[attr-defined]
        ("trap", 1, 3),
        ("return", 3, 1),
        ("trap", 1, 3),
        ("return", 3, 1),
    ]
    assert [e.pc for e in recorder.of(ReturnEvent)] == [CODE + 8, CODE + 16]
    assert bench.hart.handlers[3] is before and bench.hart.trap_listener is None


def test_mret_and_an_sret_that_is_refused(inside: Bench) -> None:
    """TSR makes `sret` in S illegal: no return then. M returns to where MPP says."""
    recorder = Recorder()
    inside.load(batch_mret, VECTOR)
    inside.start(batch_sret, priv=1)
    inside.w[words.MSTATUS] |= 1 << 30  # the engine's place for TSR
    with trace.attach(inside.hart, "trap", recorder):
        inside.machine.run()
    assert [(e.kind, e.level, e.target) for e in recorder.events] == [  # type: ignore[attr-defined]
        ("trap", 1, 3),
        ("return", 3, 1),
    ]
    assert recorder.of(TrapEvent)[0].cause == "illegal instruction"


batch_sret = batch(f".option norvc; sret; {EXIT}; .option rvc")
batch_mret = batch(
    ".option norvc; csrr t0, mepc; addi t0, t0, 4; csrw mepc, t0; li t0, 0x1000; "
    "csrc mstatus, t0; mret; .option rvc"
)


def test_interrupts_that_the_engine_delivers(inside: Bench) -> None:
    """The guest counts its own traps: the trace has neither more nor fewer."""
    rounds = 200
    recorder = Recorder()
    delegate(inside)
    inside.w[words.MIDELEG] = inside.w[words.MIE] = 2
    inside.w[words.MSTATUS] |= SIE
    inside.start(BUSY, priv=1, a0=rounds)
    with trace.attach(inside.hart, "trap", recorder, SYMBOLS) as tracer:
        assert inside.machine.run().reason is StopReason.EXIT
    assert (inside.reg("s2"), inside.reg("s3")) == (rounds, rounds)
    traps = recorder.of(TrapEvent)
    interrupts = [e for e in traps if e.xcause >> 63]
    assert (len(traps), len(interrupts), tracer.events) == (2 * rounds, rounds, 2 * rounds)
    assert {(e.text(), e.a7) for e in interrupts} == {
        ("trap S->S supervisor software interrupt epc=0x80000004 <main+0x4> tval=0x0", None)
    }
    assert len(recorder.of(ReturnEvent)) == 2 * rounds
    times = [e.time for e in recorder.events]
    assert times == sorted(times)


def test_interrupts_on_the_public_way() -> None:
    bench = Bench("public")
    recorder = Recorder(wants_returns=False)
    bench.w[words.MIE] = 1 << 7
    bench.load(batch_wait, VECTOR)
    bench.start(batch_wait, priv=0)
    bench.hart.set_pending(7, True)
    with trace.attach(bench.hart, "trap", recorder) as tracer:
        bench.machine.run(20)
    assert [e.cause for e in recorder.of(TrapEvent)] == ["machine timer interrupt"]
    assert tracer.missing == ()
    bench.machine.close()


batch_wait = batch("8: addi s1, s1, 1; j 8b")


def test_a_second_watch_of_interrupts_is_refused_and_the_first_taken_back(inside: Bench) -> None:
    first = InterruptWatch(inside.hart, lambda trap: None)
    with pytest.raises(EngineError, match="watches the interrupts already"):
        InterruptWatch(inside.hart, lambda trap: None)
    tracer = trace.attach(inside.hart, "trap", Recorder())
    assert "interrupts that guest code takes are not traced" in tracer.missing[0]
    tracer.close()
    first.close()
    InterruptWatch(inside.hart, lambda trap: None).close()


def test_an_error_in_an_interrupt_listener_comes_out_of_run(inside: Bench) -> None:
    def taken(trap: Trap) -> None:
        raise ZeroDivisionError

    InterruptWatch(inside.hart, taken)
    delegate(inside)
    inside.w[words.MIDELEG] = inside.w[words.MIE] = 2
    inside.w[words.MSTATUS] |= SIE
    inside.start(BUSY, priv=1, a0=2)
    with pytest.raises(ZeroDivisionError):
        inside.machine.run()


def test_device_accesses(bench: Bench) -> None:
    lines: list[str] = []
    bench.start(PORTS, priv=3, a0=UART, a2=0x41)
    with trace.attach(bench.machine, "dev", lines.append, SYMBOLS):
        bench.machine.run()
    pcs = [f" pc={CODE + at:#x} <main{f'+{at:#x}' if at else ''}>" for at in (0, 8, 16, 20, 36)]
    if not bench.is_inside:
        pcs = [""] * 5
    # 0xff is the last byte of the UART's extent: the word goes on behind it.
    assert lines[:3] == [
        f"dev M uart read offset=0x5 size=1 value=0x60{pcs[0]}",
        f"dev M uart write offset=0x0 size=1 value=0x41{pcs[1]}",
        f"dev M uart write offset=0x0 size=1 value=0x42{pcs[2]}",
    ]
    assert lines[-1] == f"dev M finisher write offset=0x0 size=4 value=0x5555{pcs[4]}"
    assert all(line.endswith(pcs[3]) for line in lines[3:-1])
    assert bench.machine.device_listener is None
    assert bytes(bench.output).startswith(b"AB")


def test_the_pc_of_an_access_after_chained_blocks(inside: Bench) -> None:
    """Chained blocks leave even their own start out of pc."""
    recorder = Recorder()
    inside.start(polling, priv=3, a0=UART, a1=100)
    with trace.attach(inside.machine, "dev", recorder):
        inside.machine.run()
    accesses = recorder.of(DeviceEvent)
    assert len(accesses) == 101
    assert {e.pc for e in accesses[:-1]} == {CODE + 8}
    # The guest's own state is as it would be without: 100 rounds of three instructions.
    assert inside.reg("s1") == 100


polling = batch(
    f".option norvc; 1: addi s1, s1, 1; addi a1, a1, -1; lbu a2, 5(a0); bnez a1, 1b; {EXIT}; "
    ".option rvc"
)


def test_a_machine_that_measures_gives_durations(
    inside: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(1000, 10)
    monkeypatch.setattr("time.perf_counter_ns", lambda: next(clock))
    recorder = Recorder()
    with trace.attach(inside.machine, "dev", recorder):
        listener: Any = inside.machine.device_listener
        listener(inside.machine.uart, True, 0, 1, 0x41, 1004)
        listener(inside.machine.uart, True, 0, 1, 0x41)
    [timed, untimed] = recorder.of(DeviceEvent)
    assert (timed.began, timed.time, timed.fields()["duration_ns"]) == (4, 10, 6)
    assert untimed.began is None and "duration_ns" not in untimed.fields()


def test_another_clock_knows_nothing_of_durations(inside: Bench) -> None:
    recorder = Recorder()
    with trace.attach(inside.machine, "dev", recorder, now=lambda: 5):
        listener: Any = inside.machine.device_listener
        listener(inside.machine.uart, True, 0, 1, 0x41, 1004)
    assert recorder.of(DeviceEvent)[0].began is None


def test_devices_of_one_name_are_told_apart(inside: Bench) -> None:
    from emu.board.devices.uart import Uart

    second = Uart(0x1100_0000, lambda data: None)
    inside.machine.attach(second)
    lines: list[str] = []
    with trace.attach(inside.machine, "dev", lines.append):
        inside.run(PORTS, a0=second.base, a2=0x41)
    assert lines[0].startswith("dev M uart@11000000 read offset=0x5 ")
    assert lines[-1].startswith("dev M finisher write ")


def test_several_kinds_share_the_hart(bench: Bench) -> None:
    lines: list[str] = []
    tracer = calls(bench, lines.append, "dev, trap,insn")
    first = [line.split()[0] for line in lines]
    assert first.count("trap") == 2 and first.count("dev") == 1
    assert lines[0].startswith("U 0x80000000: 04000893  addi a7, zero, 0x40")
    # An instruction comes before the trap that it causes.
    at = first.index("trap")
    assert lines[at - 1].startswith("U 0x80000004: 00000073  ecall")
    assert tracer.events == len(lines)


def test_pages_and_instructions_share_the_hart(bench: Bench) -> None:
    tables = bench.translate()
    tables.map(0x4000_0000, DATA, RWX)
    bench.hold_m()
    recorder = Recorder()
    bench.start(batch_store, priv=1, a0=0x4000_0008)
    with trace.attach(bench.hart, ["insn", "mmu"], recorder):
        bench.machine.run()
    kinds = [e.kind for e in recorder.events]
    assert kinds == ["mmu", "mmu", "insn", "mmu", "insn"] or kinds == [
        "mmu", "mmu", "mmu", "insn", "insn"
    ]  # fmt: skip
    [fetch, store] = recorder.of(PageEvent)
    assert (fetch.va, fetch.pa, fetch.access) == (CODE, CODE, "execute")
    assert (store.va, store.pa, store.access) == (0x4000_0008, DATA + 8, "write")
    assert store.fields()["way"] == "L2[0x1] L1[0x0] L0[0x0]"


batch_store = batch(".option norvc; sd s1, (a0); ecall; .option rvc")


def test_listeners_that_were_there_before_are_still_told(bench: Bench) -> None:
    seen: list[int] = []

    def old(trap: Trap) -> None:
        seen.append(trap.epc)

    bench.hart.trap_listener = old
    outer: list[str] = []
    other = trace.attach(bench.hart, "trap", outer.append)
    calls(bench, Recorder(wants_returns=False))
    other.close()
    assert seen == [CODE + 4, CODE + 12] and len(outer) == 2
    assert bench.hart.trap_listener is old


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_limit(bench: Bench, limit: int) -> None:
    """Two traps in all: the note stands where a third would, and the guest runs on."""
    recorder = Recorder()
    tracer = calls(bench, recorder, limit=limit)
    notes = [e.text() for e in recorder.of(NoteEvent)]
    assert len(recorder.of(TrapEvent)) == min(limit, 2)
    assert notes == ([] if limit > 1 else ["trace ended after 1 events"])
    assert tracer.ended == (notes[0] if notes else "")
    assert bench.hart.trap_listener is None


def test_behind_the_limit_the_guest_runs_without_hooks(bench: Bench) -> None:
    recorder = Recorder()
    bench.start(polling, priv=3, a0=UART, a1=50)
    tracer = trace.attach(bench.machine, "insn", recorder, limit=7)
    calls_seen = 0

    def count(va: int) -> None:
        nonlocal calls_seen
        calls_seen += 1

    tracer._hooks.code(count)
    tracer._hooks.apply()
    assert bench.machine.run().reason is StopReason.EXIT
    assert bench.reg("s1") == 50
    assert [e.kind for e in recorder.events] == ["insn"] * 7 + ["note"]
    assert 7 <= calls_seen < 16, "every hook is taken away at the next block"
    assert recorder.closed is not None
    tracer.close()


@pytest.mark.parametrize("kinds", ["trap", "trap,insn", "dev", "mmu"])
def test_a_writer_that_fails_ends_the_trace_and_not_the_run(bench: Bench, kinds: str) -> None:
    recorder = Recorder(fails_at=0)
    tracer = calls(bench, recorder, kinds)
    assert tracer.ended == "recorder: No space left on device: the trace ends here"
    assert recorder.events == [] and recorder.closed is not None


def test_an_interrupted_run_can_go_on_under_its_trace(inside: Bench) -> None:
    recorder = Recorder()
    delegate(inside)
    inside.start(CALLS, priv=0)
    with trace.attach(inside.hart, "trap", recorder):
        while inside.machine.run(1).reason is StopReason.LIMIT:
            pass
    assert len(recorder.of(TrapEvent)) == inside.reg("s3") == 2


def test_attached_twice_in_turn(bench: Bench) -> None:
    for _ in range(3):
        recorder = Recorder()
        bench.w[words.ABI_NAMES.index("s3")] = 0
        calls(bench, recorder)
        assert len(recorder.of(TrapEvent)) == 2


@pytest.mark.parametrize("text", ["cache", "trap,cache", "", "trap,,dev", "TRAP"])
def test_kinds_that_there_are_not(bench: Bench, text: str) -> None:
    with pytest.raises(ValueError, match=r"not one of .*: trap, mmu, insn, dev$"):
        trace.attach(bench.machine, text, print)
    assert bench.hart.trap_listener is None


def test_kinds_are_taken_once() -> None:
    assert trace.parse_kinds("dev, trap,dev") == ("dev", "trap")


def test_what_cannot_be_traced(bench: Bench) -> None:
    with pytest.raises(ValueError, match="needs the machine"):
        trace.attach(bench.hart, "dev", print)
    with pytest.raises(ValueError, match="a trace of 0 events"):
        trace.attach(bench.hart, "trap", print, limit=0)
