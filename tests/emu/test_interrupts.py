"""Interrupts: priority, delegation, enables, who delivers them, `wfi`."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
from asm import Batch
from harness import CODE, DATA, S_VECTOR, VECTOR, Bench
from progress import wait_until

from emu.spec import words
from emu.spec.trap import Trap
from emu.stop import Stop, StopReason

batch = Batch()
SSI, MSI, STI, MTI, SEI, MEI = 1, 3, 5, 7, 9, 11
BY_PRIORITY = [MEI, MSI, MTI, SEI, SSI, STI]  # section 3.1.9
S_BITS = 1 << SSI | 1 << STI | 1 << SEI
ALL = sum(1 << n for n in BY_PRIORITY)
MIE, SIE, MPIE, SPIE, SPP = 1 << 3, 1 << 1, 1 << 7, 1 << 5, 1 << 8
BIT63 = 1 << 63

LOOP = batch("1: addi s1, s1, 1; j 1b")
STORING_LOOP = batch("1: addi s1, s1, 1; sd s1, (s2); j 1b")
M_TAKEN = batch("csrr a0, mcause; csrr a1, mepc; li t0, 0x100000; li t1, 0x5555; sw t1, (t0); j .")
S_TAKEN = batch("csrr a0, scause; csrr a1, sepc; li t0, 0x100000; li t1, 0x13333; sw t1, (t0); j .")


def taken(bench: Bench, priv: int, status: int, mideleg: int, mie: int, pending: int):
    """Run a loop with interrupts pending: ``(level, number)`` of the one taken, or None."""
    bench.load(M_TAKEN, VECTOR)
    bench.load(S_TAKEN, S_VECTOR)
    w = bench.w
    w[words.MSTATUS], w[words.MIDELEG], w[words.MIE] = status, mideleg, mie
    bench.hart.interrupts.become(0, 0)
    for number in BY_PRIORITY:
        bench.hart.set_pending(number, bool(pending >> number & 1))
    bench.start(LOOP, priv=priv, a0=0)
    stop = bench.machine.run(64)
    if stop.reason is StopReason.LIMIT:
        assert bench.reg("s1") > 0
        return None
    assert stop.reason is StopReason.EXIT
    assert bench.reg("a0") >> 63 == 1
    assert bench.reg("a1") in (CODE, CODE + 2)
    return ("M" if stop.code == 0 else "S"), bench.reg("a0") & 0xFF


@pytest.mark.parametrize("pair", list(itertools.combinations(BY_PRIORITY, 2)))
def test_of_two_the_spec_chooses(bench: Bench, pair: tuple[int, int]) -> None:
    pending = 1 << pair[0] | 1 << pair[1]
    assert taken(bench, 3, MIE, 0, ALL, pending) == ("M", pair[0])
    assert taken(bench, 3, MIE, 0, ALL & ~(1 << pair[0]), pending) == ("M", pair[1])
    assert taken(bench, 3, MIE, 0, 0, pending) is None
    assert taken(bench, 3, 0, 0, ALL, pending) is None
    # Delegated ones come behind those that are not; M-mode never takes them.
    delegated = S_BITS
    to_m = [n for n in pair if not delegated >> n & 1]
    wanted = ("M", to_m[0]) if to_m else ("S", pair[0])
    assert taken(bench, 0, 0, delegated, ALL, pending) == wanted
    assert taken(bench, 1, SIE, delegated, ALL, pending) == wanted
    assert taken(bench, 3, MIE | SIE, delegated, ALL, pending) == (("M", to_m[0]) if to_m else None)
    # One of the pair delegated only.
    for number in pair:
        if number in (SSI, STI, SEI):
            other = pair[1] if number == pair[0] else pair[0]
            assert taken(bench, 1, SIE, 1 << number, ALL, pending) == ("M", other)
            assert taken(bench, 1, SIE, 1 << number, 1 << number, pending) == ("S", number)


@pytest.mark.parametrize(
    ("priv", "status", "mideleg", "level"),
    [
        (3, 0, 0, None), (3, MIE, 0, "M"), (3, SIE, 0, None),
        (1, 0, 0, "M"), (1, SIE, 0, "M"), (0, 0, 0, "M"),
        (3, MIE | SIE, S_BITS, None), (1, 0, S_BITS, None), (1, MIE, S_BITS, None),
        (1, SIE, S_BITS, "S"), (0, 0, S_BITS, "S"), (0, MIE | SIE, S_BITS, "S"),
    ],
)  # fmt: skip
def test_enables(bench: Bench, priv: int, status: int, mideleg: int, level: str | None) -> None:
    for number in (SSI, STI, SEI):
        wanted = (level, number) if level else None
        assert taken(bench, priv, status, mideleg, ALL, 1 << number) == wanted
        assert taken(bench, priv, status, mideleg, ALL & ~(1 << number), 1 << number) is None


@pytest.mark.parametrize("number", BY_PRIORITY)
def test_vectored(bench: Bench, number: int) -> None:
    bench.w[words.MTVEC] = VECTOR | 1
    bench.w[words.MSTATUS], bench.w[words.MIE] = MIE, ALL
    bench.load(VECTORS, VECTOR)
    bench.hart.set_pending(number, True)
    stop = bench.run(LOOP)
    assert (stop.reason, bench.reg("s2")) == (StopReason.EXIT, number)
    assert bench.w[words.MCAUSE] == BIT63 | number
    assert bench.w[words.MSTATUS] & (MIE | MPIE | 3 << 11) == MPIE | 3 << 11


VECTORS = batch(
    ".option norvc\n"
    + "\n".join(f"j entry_{i}" for i in range(12))
    + "\n".join(f"\nentry_{i}: li s2, {i}; j vectors_out" for i in range(12))
    + "\nvectors_out: li t0, 0x100000; li t1, 0x5555; sw t1, (t0); j .\n.option rvc"
)

# M: raise SSIP for S, go to S in which SIE is clear, then set it.
SSIP = batch(
    """
    csrwi mip, 2
    csrr s2, mip
    csrwi mie, 2
    csrwi mideleg, 2
    csrr s3, sip
    la t0, ssip_s
    csrw mepc, t0
    li t0, 0x1800
    csrc mstatus, t0
    li t0, 0x800
    csrs mstatus, t0
    mret
    ssip_s:
    li s4, 1
    csrsi sstatus, 2
    li s4, 2
    j .
    """
)


def test_ssip_written_by_the_guest(bench: Bench) -> None:
    bench.load(S_TAKEN, S_VECTOR)
    assert bench.run(SSIP).reason is StopReason.EXIT
    assert (bench.reg("s2"), bench.reg("s3"), bench.reg("s4")) == (2, 2, 1)
    assert bench.reg("a0") == BIT63 | SSI
    assert bench.hart.pending == 2


CLEAR_SSIP = batch("csrci sip, 2; csrr s2, sip; csrsi sip, 2; csrr s3, sip; csrwi sip, 0; wfi")


def test_s_clears_and_sets_its_own_ssip_and_nothing_else(inside: Bench) -> None:
    inside.w[words.MIDELEG] = S_BITS
    for number in (SSI, STI):
        inside.hart.set_pending(number, True)
    inside.run(CLEAR_SSIP, priv=1)
    assert (inside.reg("s2"), inside.reg("s3")) == (1 << STI, 1 << STI | 2)
    assert inside.hart.pending == 1 << STI


WFI_THEN = batch("wfi; li s1, 7; j .")
WFI_EXIT = batch("wfi; li s1, 7; li t0, 0x100000; li t1, 0x5555; sw t1, (t0); j .")


def test_wfi_goes_on_when_one_is_pending_that_is_globally_disabled(bench: Bench) -> None:
    bench.w[words.MIE] = 1 << MTI
    bench.hart.set_pending(MTI, True)
    stop = bench.run(WFI_TWICE)
    assert stop.reason is StopReason.EXIT
    assert (bench.reg("s1"), bench.w[words.MCAUSE]) == (7, 0)


WFI_TWICE = batch("wfi; li s1, 7; wfi; li t0, 0x100000; li t1, 0x5555; sw t1, (t0); j .")


def test_wfi_with_one_pending_that_is_not_enabled_ends(bench: Bench) -> None:
    bench.w[words.MIE] = 1 << MSI
    bench.hart.set_pending(MTI, True)
    assert bench.run(WFI_EXIT).reason is StopReason.WFI
    assert (bench.hart.pc, bench.reg("s1")) == (CODE + 4, 0)
    # Once it is enabled, the hart goes on.
    bench.w[words.MIE] = 1 << MTI
    bench.w[words.PC] = CODE
    assert bench.machine.run().reason is StopReason.EXIT
    assert bench.reg("s1") == 7


def test_an_interrupt_out_of_wfi_returns_behind_it(bench: Bench) -> None:
    bench.load(M_TAKEN, VECTOR)
    bench.w[words.MIE], bench.w[words.MSTATUS] = 1 << MEI, MIE
    assert bench.run(WFI_THEN).reason is StopReason.WFI
    bench.hart.set_pending(MEI, True)
    assert bench.machine.run().reason is StopReason.EXIT
    assert (bench.reg("a0"), bench.reg("a1"), bench.reg("s1")) == (BIT63 | MEI, CODE + 4, 0)


# Python holds a level


def test_a_held_level_gets_interrupts(bench: Bench) -> None:
    bench.w[words.MIE], bench.w[words.MSTATUS] = ALL, MIE
    bench.hart.set_pending(MTI, True)
    bench.hart.set_pending(MSI, True)
    seen: list[tuple[int, int, bool]] = []

    def handler(trap: Trap) -> Stop | None:
        assert bench.hart.pc == trap.epc
        seen.append((trap.cause, trap.epc, trap.interrupt))
        bench.hart.set_pending(trap.cause, False)
        bench.w[words.PC] = CODE + 0x100
        return Stop(StopReason.EXIT) if len(seen) == 2 else None

    bench.hold_m(handler)
    assert bench.run(LOOP).reason is StopReason.EXIT
    assert seen == [(MSI, CODE, True), (MTI, CODE + 0x100, True)]
    assert bench.w[words.MCAUSE] == 0


def test_a_held_level_is_given_what_the_guest_enables(bench: Bench) -> None:
    """M is held, an interrupt to it is pending, and S-mode code is entered by the handler."""
    bench.w[words.MIE] = 1 << MTI
    bench.hart.set_pending(MTI, True)
    seen: list[Trap] = []

    def handler(trap: Trap) -> Stop | None:
        seen.append(trap)
        if trap.cause == 11:
            bench.w[words.PRIV] = 1
            bench.w[words.PC] += 4
            return None
        return Stop(StopReason.EXIT)

    bench.hold_m(handler)
    assert bench.run(ECALL_LOOP).reason is StopReason.EXIT
    assert [(t.cause, t.interrupt, t.priv) for t in seen] == [(11, False, 3), (MTI, True, 1)]


ECALL_LOOP = batch("ecall; 1: addi s1, s1, 1; j 1b")


@pytest.mark.parametrize("held", [False, True])
def test_from_a_thread_into_a_tight_loop(inside: Bench, held: bool) -> None:
    """Chained blocks look at nothing but the counter that set_pending changes."""
    inside.load(M_TAKEN, VECTOR)
    inside.w[words.MIE], inside.w[words.MSTATUS] = 1 << MEI, MIE
    seen = []
    if held:

        def handler(trap: Trap) -> Stop:
            seen.append(trap)
            return Stop(StopReason.EXIT)

        inside.hart.handlers[3] = handler

    def later() -> None:
        wait_until(lambda: inside.ram.read64(DATA) > 1000)
        inside.hart.set_pending(MEI, True)

    for i in range(1, 11):
        thread = threading.Thread(target=later)
        inside.w[words.MSTATUS] = MIE
        inside.ram.write64(DATA, 0)
        inside.start(STORING_LOOP, s1=0, s2=DATA)
        thread.start()
        stop = inside.machine.run()
        thread.join()
        assert stop.reason is StopReason.EXIT
        assert inside.reg("s1") > 1000
        if held:
            assert len(seen) == i and seen[-1].interrupt and seen[-1].cause == MEI
        else:
            assert inside.reg("a0") == BIT63 | MEI
        inside.hart.set_pending(MEI, False)


TICKS = batch(
    """
    .balign 4
    ticks_vector:
    addi s2, s2, 1
    csrr t0, mepc
    li t1, 0x10000000
    sb s2, (t1)
    mret
    .balign 4
    ticks_main:
    csrsi mstatus, 8
    1: amoadd.d zero, s3, (s4)
    addi s1, s1, 1
    j 1b
    """
)


def test_many_interrupts_and_no_amo_twice(inside: Bench) -> None:
    """From a thread, delivered natively; the device's callback takes the level down."""
    inside.load(TICKS)
    inside.w[words.MTVEC] = CODE + TICKS.offset("ticks_vector")
    inside.w[words.MIE] = 1 << MTI
    hart = inside.hart
    inside.machine.uart._output = lambda data: hart.set_pending(MTI, False)
    counter = CODE + 0x4000
    inside.start(pc=CODE + TICKS.offset("ticks_main"), s3=1, s4=counter)
    raised = 0

    def ticker() -> None:
        nonlocal raised
        while raised < 200:
            if not hart.pending:
                raised += 1
                hart.set_pending(MTI, True)
            time.sleep(0.0002)
        while hart.pending:
            time.sleep(0.0002)
        hart.stop()

    thread = threading.Thread(target=ticker)
    thread.start()
    stop = inside.machine.run()
    thread.join()
    assert stop.reason is StopReason.INTERRUPTED
    assert inside.reg("s2") == 200
    assert inside.ram.read64(counter) - inside.reg("s1") in (0, 1)


READ_MIP = batch("csrr s1, mip; csrr s2, sip; wfi")


def test_the_guest_reads_what_is_pending(bench: Bench) -> None:
    bench.w[words.MIDELEG] = 1 << STI
    for number in (MTI, STI, SSI):
        bench.hart.set_pending(number, True)
    assert bench.hart.read_csr(0x344) == 1 << MTI | 1 << STI | 1 << SSI
    bench.run(READ_MIP)
    if bench.is_inside:
        assert bench.reg("s1") == 1 << MTI | 1 << STI | 1 << SSI
        assert bench.reg("s2") == 1 << STI
    else:
        assert bench.reg("s1") == 1 << STI | 1 << SSI  # what is written, and no wire
        assert any(text.startswith("mip as the guest") for text in bench.hart.access.missing)


STORE_RAISES = batch(
    """
    .balign 4
    raises_vector:
    addi s2, s2, 1
    sb zero, 1(a1)
    mret
    .balign 4
    raises_main:
    csrsi mstatus, 8
    1: addi s1, s1, 1
    sb zero, (a1)
    j 1b
    """
)


@pytest.mark.parametrize("count", [0, 1000])
def test_a_store_that_raises_an_interrupt_is_done_once(inside: Bench, count: int) -> None:
    """Counted runs, too: one instruction after the other, and interrupts between them."""
    hart, writes = inside.hart, [0, 0]

    class Raises:
        name, base, size = "raises", 0x1000_1000, 0x100

        def read(self, offset: int, size: int) -> int:
            return 0

        def write(self, offset: int, size: int, value: int) -> None:
            writes[offset] += 1
            hart.set_pending(MTI, offset == 0)
            if writes[0] == 100 and not count:
                hart.end(Stop(StopReason.EXIT))

        def state(self) -> dict[str, object]:
            return {}

        def restore(self, state: dict[str, object]) -> None:
            pass

    inside.machine.attach(Raises())
    inside.load(STORE_RAISES)
    inside.w[words.MTVEC] = CODE + STORE_RAISES.offset("raises_vector")
    inside.w[words.MIE] = 1 << MTI
    inside.start(pc=CODE + STORE_RAISES.offset("raises_main"), a1=0x1000_1000)
    inside.machine.run(count)
    assert writes[0] - inside.reg("s1") in (0, -1)
    assert writes[0] - inside.reg("s2") in (0, 1)
    assert writes[0] > 90


def test_what_was_raised_since_the_engine_was_given_mip_stays(bench: Bench) -> None:
    """As the clock's thread raises it while guest code runs: the guest has not cleared it."""
    bench.hart.access.store()
    bench.hart.set_pending(STI, True)
    bench.hart.access.load()
    assert bench.hart.pending == 1 << STI
