"""The run loop: Python-held levels, errors, precise holes, stops, `wfi`."""

from __future__ import annotations

import threading
import time

import pytest
from asm import Batch
from harness import CODE, DATA, HOLE, RWX, VECTOR, Bench, U
from progress import wait_until

from emu.hart import HartError
from emu.spec import words
from emu.spec.trap import Trap
from emu.stop import Stop, StopReason

batch = Batch()
ECALLS = batch("li s1, 3; 1: ecall; addi s1, s1, -1; bnez s1, 1b; li s2, 9; wfi")


def test_a_held_level_gets_every_trap(bench: Bench) -> None:
    def handler(trap: Trap) -> None:
        assert bench.hart.pc == trap.epc == CODE + 2
        bench.w[words.PC] = trap.epc + 4
        bench.w[words.A0] += 10

    seen = bench.hold_m(handler)  # type: ignore[arg-type]
    assert bench.run(ECALLS, priv=1).reason is StopReason.WFI
    assert [(t.cause, t.epc, t.tval, t.priv, t.target) for t in seen] == [
        (9, CODE + 2, 0, 1, 3)
    ] * 3
    assert (bench.reg("a0"), bench.reg("s2"), bench.hart.priv) == (30, 9, 1)
    # Nothing of trap entry was done.
    assert (bench.w[words.MCAUSE], bench.w[words.MEPC]) == (0, 0)


def test_a_handler_may_change_everything(bench: Bench) -> None:
    bench.ram.write(CODE + 0x100, bytes.fromhex("93041000 73000000"))  # li s1, 1; ecall

    def handler(trap: Trap) -> Stop | None:
        if trap.priv == 1:
            bench.w[words.PC] = CODE + 0x100
            bench.w[words.PRIV] = 0
            return None
        return Stop(StopReason.EXIT, 42, value="x")

    seen = bench.hold_m(handler)
    stop = bench.run(ECALLS, priv=1)
    assert (stop.reason, stop.code, stop.value) == (StopReason.EXIT, 42, "x")
    assert [(t.cause, t.priv) for t in seen] == [(9, 1), (8, 0)]
    assert (bench.reg("s1"), bench.hart.pc) == (1, CODE + 0x104)


def test_s_held_by_python_and_m_by_the_guest(bench: Bench) -> None:
    bench.w[words.MEDELEG] = 1 << 8
    got: list[Trap] = []

    def handler(trap: Trap) -> None:
        got.append(trap)
        bench.w[words.PC] += 4

    bench.hart.handlers[1] = handler  # type: ignore[assignment]
    mcause, mepc, _ = bench.trapped(ECALLS, priv=1)  # from S: not delegated
    assert (mcause, mepc, got) == (9, CODE + 2, [])
    bench.run(batch_u, priv=0)
    assert [(t.cause, t.target) for t in got] == [(8, 1)]
    assert bench.w[words.MCAUSE] == 2  # the illegal instruction behind it went to M


batch_u = batch("ecall; .4byte 0xffffffff")


def test_a_handler_maps_the_page_and_the_access_is_made(bench: Bench) -> None:
    tables = bench.translate()
    page = 0x4000_0000

    def handler(trap: Trap) -> None:
        assert (trap.cause, trap.tval) == (15, page + 8 + 0x1000 * len(traps))
        traps.append(trap)
        tables.map(trap.tval & -4096, DATA, RWX)

    traps: list[Trap] = []
    bench.hold_m(handler)  # type: ignore[arg-type]
    stop = bench.run(TOUCH, priv=1, a0=page + 8, s1=5)
    assert stop.reason is StopReason.WFI
    assert len(traps) == 5
    assert bench.ram.read64(DATA + 8) == 5  # each AMO happened exactly once


TOUCH = batch(
    """
    li a1, 1
    lui a2, 1
    1: amoadd.d a3, a1, (a0)
    add a0, a0, a2
    addi s1, s1, -1
    bnez s1, 1b
    wfi
    """
)


class Oops(Exception):
    pass


LOAD_HOLE = batch("ld a2, (a0); wfi")
STORE_UART = batch("sb a1, (a0); addi s1, s1, 1; wfi")
LOAD_UART = batch("lb a1, (a0); addi s1, s1, 1; wfi")
CSR_READ = batch("csrr a1, time; wfi")


@pytest.mark.parametrize("text", ["ecall", "hole", "ebreak"])
def test_an_exception_in_a_handler_comes_out_of_run(bench: Bench, text: str) -> None:
    def handler(trap: Trap) -> Stop | None:
        raise Oops(text)

    bench.hold_m(handler)
    code = {"ecall": ECALLS, "hole": LOAD_HOLE, "ebreak": EBREAK}[text]
    with pytest.raises(Oops, match=text):
        bench.run(code, a0=HOLE)
    assert not bench.hart.running
    # The hart is still good.
    bench.hart.handlers[3] = None
    assert bench.trapped(ECALLS, priv=3)[0] == 11


EBREAK = batch("ebreak")


@pytest.mark.parametrize("write", [False, True])
def test_an_exception_in_a_device_comes_out_of_run(bench: Bench, write: bool) -> None:
    class Broken:
        name, base, size = "broken", 0x2000_0000, 0x1000

        def read(self, offset: int, size: int) -> int:
            raise Oops("read")

        def write(self, offset: int, size: int, value: int) -> None:
            raise Oops("write")

    bench.machine.attach(Broken())
    with pytest.raises(Oops, match="write" if write else "read"):
        bench.run(STORE_UART if write else LOAD_UART, a0=0x2000_0000)
    assert bench.trapped(ECALLS, priv=3)[0] == 11


def test_an_exception_in_a_csr_override_comes_out_of_run(inside: Bench) -> None:
    def read(original: object) -> int:
        raise Oops("csr")

    inside.hart.access.override_csr(0xC01, read, None)
    with pytest.raises(Oops, match="csr"):
        inside.run(CSR_READ)


def test_an_exception_in_a_trap_listener_comes_out_of_run(bench: Bench) -> None:
    def listener(trap: Trap) -> None:
        raise Oops("listener")

    bench.hart.trap_listener = listener
    with pytest.raises(Oops, match="listener"):
        bench.run(ECALLS, priv=0)


def test_a_nested_run_is_refused(bench: Bench) -> None:
    def handler(trap: Trap) -> Stop | None:
        bench.machine.run()
        return None

    bench.hold_m(handler)
    with pytest.raises(HartError, match="running already"):
        bench.run(ECALLS)
    assert not bench.hart.running


HOLES = batch(
    """
    1: amoadd.d zero, s1, (a1)
    sd s2, 8(a0)
    amoadd.d zero, s1, (a2)
    sd s3, (a3)
    amoadd.d t6, s1, (a0)
    addi s3, s3, 1
    amoadd.d zero, s1, (a4)
    ld t5, (a0)
    amoadd.d zero, s1, (a5)
    addi s5, s5, -1
    bnez s5, 1b
    wfi
    """
)


@pytest.mark.parametrize("translated", [False, True])
@pytest.mark.parametrize("held", [False, True])
def test_holes_are_precise(bench: Bench, translated: bool, held: bool) -> None:
    """What stands behind the access in its block has not happened at the trap, and happens
    once behind it."""
    rounds = 6
    counters = [DATA + 0x100 * i for i in range(5)]
    a1, a2, a3, a4, a5 = counters
    hole = HOLE
    if translated:
        tables = bench.translate()
        hole = 0x5_0000_0000 & 0x3F_FFFF_FFFF
        tables.map(hole, HOLE)
        bench.hart.access.flush_tlb()
    states = []

    def look(trap: Trap) -> None:
        states.append(
            (trap.cause, trap.tval - hole, *(bench.ram.read64(pa) for pa in (a1, a2, a3, a4, a5)))
        )

    if held:

        def handler(trap: Trap) -> None:
            look(trap)
            bench.w[words.PC] += 4

        bench.hold_m(handler)  # type: ignore[arg-type]
    else:
        bench.hart.trap_listener = look
        bench.load(SKIP, VECTOR)
    stop = bench.run(
        HOLES, priv=1 if translated else 3, a0=hole, a1=a1, a2=a2, a3=a3, a4=a4, a5=a5,
        s1=1, s2=7, s3=100, s5=rounds,
    )  # fmt: skip
    assert stop.reason is StopReason.WFI
    wanted = []
    for i in range(rounds):
        before = 100 + i - 1 if i else 0
        wanted += [
            (7, 8, i + 1, i, before, i, i),
            (7, 0, i + 1, i + 1, 100 + i, i, i),
            (5, 0, i + 1, i + 1, 100 + i, i + 1, i),
        ]
    assert states == wanted
    assert [bench.ram.read64(pa) for pa in counters] == [rounds, rounds, 105, rounds, rounds]


SKIP = batch(
    """
    csrrw t4, mscratch, t4
    csrr t4, mepc
    addi t4, t4, 4
    csrw mepc, t4
    csrrw t4, mscratch, t4
    mret
    """
)

TIGHT = batch("1: amoadd.d a2, a1, (a0); addi s1, s1, 1; j 1b")


def test_no_increment_is_lost_or_doubled_by_stops(inside: Bench) -> None:
    inside.start(TIGHT, a0=DATA, a1=1, s1=0)
    hart, stops = inside.hart, 300
    done = threading.Event()

    def stopper() -> None:
        stopped_at = 0
        while not done.is_set():
            if hart.running and inside.ram.read64(DATA) > stopped_at + 10:
                stopped_at = inside.ram.read64(DATA)
                hart.stop()
            time.sleep(0.0005)

    thread = threading.Thread(target=stopper)
    thread.start()
    last = 0
    try:
        for _ in range(stops):
            assert hart.run().reason is StopReason.INTERRUPTED
            count = inside.ram.read64(DATA)
            # A stop is at the start of a block: neither half done nor done twice.
            assert count == inside.reg("s1")
            assert inside.reg("a2") == max(count - 1, 0)
            assert count >= last
            last = count
    finally:
        done.set()
        thread.join()
    assert last > 1000


def test_stop_from_a_thread(bench: Bench) -> None:
    def stopper() -> None:
        wait_until(lambda: bench.ram.read64(DATA))
        bench.hart.stop()

    thread = threading.Thread(target=stopper)
    thread.start()
    stop = bench.run(TIGHT, a0=DATA, a1=1)
    thread.join()
    assert stop.reason is StopReason.INTERRUPTED
    assert bench.reg("s1") > 0


def test_stop_asked_in_a_handler_is_not_lost(bench: Bench) -> None:
    """While Python handles a hole the engine does not run: the stop must be remembered."""
    bench.hold_m(lambda trap: bench.hart.stop())  # type: ignore[arg-type, func-returns-value]
    for code in (LOAD_HOLE, ECALLS, EBREAK):
        assert bench.run(code, a0=HOLE).reason is StopReason.INTERRUPTED
        assert bench.hart.pc in (CODE, CODE + 2)


def test_an_amo_stopped_on_the_public_way_is_named() -> None:
    bench = Bench("public")
    assert any("AMO" in text and "twice" in text for text in bench.hart.access.missing)
    bench.machine.close()


def test_wfi_with_nothing_to_wait_for_ends(bench: Bench) -> None:
    stop = bench.run(STORE_UART, a0=DATA)
    assert (stop.reason, stop.code, stop.trap) == (StopReason.WFI, 0, None)
    assert bench.hart.pc == CODE + len(STORE_UART.code)
    assert bench.hart.running is False


COUNT = batch("1: addi s1, s1, 1; addi s2, s2, 1; j 1b")


@pytest.mark.parametrize("count", [1, 2, 3, 7, 300])
def test_run_so_many_instructions(bench: Bench, count: int) -> None:
    bench.start(COUNT)
    assert bench.machine.run(count).reason is StopReason.LIMIT
    full, rest = divmod(count, 3)
    assert bench.reg("s1") == full + (rest > 0)
    assert bench.reg("s2") == full + (rest > 1)
    assert bench.hart.pc == CODE + 2 * rest


def test_satp_of_a_reserved_mode_is_refused(bench: Bench) -> None:
    for mode in (1, 7, 11, 15):
        with pytest.raises(ValueError, match="reserved"):
            bench.hart.set_satp(mode << 60)
    assert bench.hart.satp == 0


def test_set_sum_takes_effect(bench: Bench) -> None:
    tables = bench.translate()
    tables.map(0x4000_0000, DATA, RWX | U)
    for on, reason in ((True, 0), (False, 13), (True, 0)):
        bench.hart.set_sum(on)
        bench.w[words.MCAUSE] = 0
        bench.run(LOAD_HOLE, priv=1, a0=0x4000_0000)
        assert bench.w[words.MCAUSE] == reason


def test_reset(bench: Bench) -> None:
    bench.run(ECALLS, priv=0)
    bench.w[words.MEDELEG] = bench.w[words.MIE] = 0xFF
    bench.w[words.SATP] = 8 << 60 | 0x80100
    bench.hart.set_pending(1, True)
    bench.w[words.MTVEC] = VECTOR
    bench.hart.reset(CODE)
    w = bench.w
    assert [w[i] for i in range(32)] == [0] * 32
    assert (w[words.PC], w[words.PRIV], w[words.SATP], w[words.MIE]) == (CODE, 3, 0, 0)
    assert (w[words.MSTATUS], w[words.MEDELEG], bench.hart.pending) == (0xA_0000_0000, 0, 0)
    assert bench.trapped(ECALLS)[0] == 11  # what reset does not touch is kept: mtvec


def test_a_count_is_obeyed_by_code_that_was_translated_without_one(bench: Bench) -> None:
    def stopper() -> None:
        wait_until(lambda: bench.hart.running)
        bench.hart.stop()

    bench.start(COUNT)
    for count in (1, 4, 30):
        thread = threading.Thread(target=stopper)
        thread.start()
        assert bench.machine.run().reason is StopReason.INTERRUPTED
        thread.join()
        pc = bench.hart.pc
        before = bench.reg("s1") + bench.reg("s2")
        assert bench.machine.run(count).reason is StopReason.LIMIT
        assert bench.reg("s1") + bench.reg("s2") - before <= count
        assert bench.hart.pc == CODE + ((pc - CODE) // 2 + count) % 3 * 2


def test_a_trap_counts_as_one_instruction(bench: Bench) -> None:
    """`step` of a debugger goes from the trapping instruction to the vector."""
    bench.start(STEPS, a0=HOLE)
    visited = []
    for _ in range(8):
        assert bench.machine.run(1).reason is StopReason.LIMIT
        visited.append(bench.hart.pc)
        if bench.hart.pc == VECTOR:
            bench.w[words.PC] = bench.w[words.MEPC] + 4
    assert visited == [CODE + 4, VECTOR, VECTOR, VECTOR, VECTOR, CODE + 24, CODE, CODE + 4]


STEPS = batch(
    ".option norvc; 1: nop; ecall; ebreak; ld a1, (a0); sd a1, (a0); nop; j 1b; .option rvc"
)
BEHIND_WFI = batch(".option norvc; j 1f; wfi; 1: addi s1, s1, 1; j 1b; .option rvc")


def test_code_behind_a_wfi_is_not_a_wfi(bench: Bench) -> None:
    """Stepping, a pc behind the bytes of `wfi` does not mean that one was executed."""
    bench.hart.set_pending(5, True)  # not enabled; the public way steps while one is pending
    bench.start(BEHIND_WFI)
    for _ in range(6):
        assert bench.machine.run(1).reason is StopReason.LIMIT
    assert bench.reg("s1") == 3


ACROSS = batch(
    """
    1: addi s1, s1, -1
    addi s2, s2, 1
    .option norvc
    addi s3, s3, 1
    .option rvc
    bnez s1, 1b
    wfi
    """
)


def test_a_loop_across_two_pages_runs_at_full_speed_once_both_are_mapped(bench: Bench) -> None:
    """The stop just before the page boundary, by which the fault is made precise, is not left
    behind in the translated code."""
    tables = bench.translate()
    page = 0x4000_0000
    tables.map(page, DATA)
    bench.ram.write(DATA + 0xFFA, ACROSS.code)  # the third instruction crosses

    def handler(trap: Trap) -> None:
        assert (trap.cause, trap.epc, trap.tval) == (12, page + 0xFFE, page + 0x1000)
        tables.map(page + 0x1000, DATA + 0x1000)

    traps = bench.hold_m(handler)  # type: ignore[arg-type]
    entries = 0
    present = bench.hart.present

    def counted() -> None:  # once for each entry into the engine
        nonlocal entries
        entries += 1
        present()

    bench.hart.present = counted  # type: ignore[method-assign]
    stop = bench.run(pc=page + 0xFFA, priv=1, s1=5000)
    assert stop.reason is StopReason.WFI
    assert (len(traps), bench.reg("s2"), bench.reg("s3")) == (1, 5000, 5000)
    assert entries < 10
