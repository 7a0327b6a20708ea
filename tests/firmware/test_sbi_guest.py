"""S-mode guest code over Python's SBI: timer, interrupts, fences, suspend, redirected traps."""

from __future__ import annotations

import pytest
from asm import Batch, Snippet
from harness import DATA, HOLE, S_VECTOR, Bench
from sbi_kit import FIRMWARE, Supervisor

from emu.spec import words
from emu.stop import Stop, StopReason

batch = Batch()
BIT63 = 1 << 63
SSI, STI = 1, 5

# The vector of timer tests: s1 counts interrupts, s2 has the last scause, s3 sepc; the next
# one s4 ticks after the last (s5), or none when s6 is used up, and then the end.
TIMER_VECTOR = batch(
    """
    csrr s2, scause
    csrr s3, sepc
    csrr s7, sip
    addi s1, s1, 1
    add  s5, s5, s4
    mv   a0, s5
    addi s6, s6, -1
    bnez s6, timer_next
    li   a0, -1
    timer_next:
    li   a7, 0x54494D45
    li   a6, 0
    ecall
    csrr s8, sip
    beqz s6, timer_done
    sret
    timer_done:
    li   a7, 0x53525354
    li   a0, 0
    li   a1, 0
    ecall
    """
)
TIMER_START = """
    csrsi sstatus, 2
    li   t0, 32                 # sie.STIE
    csrs sie, t0
    mv   a0, s5
    li   a7, 0x54494D45
    li   a6, 0
    ecall
"""
SPIN = batch(TIMER_START + "1: li a7, 0x09000000; ecall; addi s9, s9, 1; j 1b")
LOOP = batch(TIMER_START + "3: addi s9, s9, 1; j 3b")
WAIT = batch(TIMER_START + "2: wfi; addi s9, s9, 1; j 2b")


def timer(s_mode: Supervisor) -> None:
    s_mode.bench.load(TIMER_VECTOR, S_VECTOR)


def test_timer_interrupts_a_spinning_guest(s_mode: Supervisor) -> None:
    timer(s_mode)
    clock = s_mode.clock

    def tick() -> tuple[int, int]:  # a call of the guest's takes 10 ticks
        clock.set_now(clock.now() + 10)
        return 0, 0

    s_mode.sbi.extensions[FIRMWARE] = {0: tick}
    stop = s_mode.run(SPIN, s5=1000, s4=500, s6=4)
    assert stop == Stop(StopReason.EXIT, 0, detail="SBI system reset: shutdown")
    assert (s_mode.reg("s1"), s_mode.reg("s2")) == (4, BIT63 | STI)


def test_timer_ends_wfi(s_mode: Supervisor) -> None:
    timer(s_mode)
    stop = s_mode.run(WAIT, s5=1000, s4=500, s6=3)
    waits = 0
    while stop.reason is StopReason.WFI:  # nothing is due: time goes to what is
        waits += 1
        assert s_mode.hart.pending == 0
        due = s_mode.clock.next_alarm()
        assert due == 500 + 500 * waits
        s_mode.clock.set_now(due - 1)
        assert s_mode.hart.pending == 0
        s_mode.clock.set_now(due)
        stop = s_mode.bench.machine.run()
    assert (stop.reason, waits) == (StopReason.EXIT, 3)
    assert (s_mode.reg("s1"), s_mode.reg("s2")) == (3, BIT63 | STI)
    if s_mode.bench.is_inside:
        # The handler saw STIP, and set_timer has cleared it.
        assert (s_mode.reg("s7"), s_mode.reg("s8")) == (1 << STI, 0)
    assert s_mode.clock.next_alarm() is None


def test_timer_by_the_real_clock_ends_wfi(bench: Bench) -> None:
    s_mode = by_the_real_clock(bench, WAIT)
    assert s_mode.reg("s9") <= 6  # it waited: the loop did not spin


def test_timer_by_the_real_clock_interrupts_a_spinning_guest(bench: Bench) -> None:
    s_mode = by_the_real_clock(bench, LOOP)
    assert s_mode.reg("s9") > 1000


def by_the_real_clock(bench: Bench, guest: Snippet) -> Supervisor:
    """Five interrupts, one every 2 ms."""
    clock = bench.machine.clock
    s_mode = Supervisor(bench, clock)
    timer(s_mode)
    begin = clock.now()
    stop = s_mode.run(guest, s5=begin + 20_000, s4=20_000, s6=5)
    assert (stop.reason, s_mode.reg("s1")) == (StopReason.EXIT, 5)
    assert clock.now() >= begin + 5 * 20_000
    return s_mode


IPI = batch(
    """
    csrsi sstatus, 2
    csrsi sie, 2
    li   a7, 0x735049
    li   a6, 0
    li   a0, 1
    li   a1, 0
    li   s1, 5
    ecall
    li   s1, 6                  # the interrupt came before this
    j .
    """
)
SEEN = batch(
    """
    csrr s2, scause; csrr s3, sepc; csrr s4, stval; csrr s5, sstatus
    li   t0, 0x100000           # the finisher
    li   t1, 0x5555
    sw   t1, (t0)
    j    .
    """
)


def test_ipi(s_mode: Supervisor) -> None:
    s_mode.bench.load(SEEN, S_VECTOR)
    s_mode.w[words.MIE] = 0
    assert s_mode.run(IPI).reason is StopReason.EXIT
    assert (s_mode.reg("s1"), s_mode.reg("s2"), s_mode.reg("a0")) == (5, BIT63 | SSI, 0)


# A load, what the kernel does to the page table, and two more: before and after the fence.
REMAPPED = batch(
    """
    ld   s1, (s0)
    li   a7, 0x09000000
    li   a6, 0
    ecall
    ld   s2, (s0)
    mv   a7, s5
    li   a6, 1
    mv   a0, s6
    li   a1, 0
    mv   a2, s0
    li   a3, 4096
    ecall
    ld   s3, (s0)
    wfi
    """
)


@pytest.mark.parametrize("legacy", [False, True])
def test_remote_sfence_vma(s_mode: Supervisor, legacy: bool) -> None:
    bench = s_mode.bench
    tables = bench.translate()
    va = 0x40_0000_0000 - 0x1000
    slot = tables.map(va, DATA + 0x1000)
    s_mode.ram.write64(DATA + 0x1000, 0x111)
    s_mode.ram.write64(DATA + 0x2000, 0x222)
    s_mode.ram.write64(DATA, 1)

    def remap() -> tuple[int, int]:
        s_mode.ram.write64(slot, (DATA + 0x2000) >> 12 << 10 | 0xCF)
        return 0, 0

    s_mode.sbi.extensions[FIRMWARE] = {0: remap}
    extension, mask = (6, DATA) if legacy else (0x52464E43, 1)
    stop = s_mode.run(REMAPPED, s0=va, s5=extension, s6=mask)
    assert stop.reason is StopReason.WFI, stop
    assert (s_mode.reg("s1"), s_mode.reg("s3"), s_mode.reg("a0")) == (0x111, 0x222, 0)
    if bench.is_inside:
        assert s_mode.reg("s2") == 0x111  # without the fence it is stale: the test can fail


# Runs a function, lets it be overwritten behind the hart's back, and runs it again.
REWRITTEN = batch(
    """
    jalr s0
    mv   s1, a0
    li   a7, 0x09000000
    li   a6, 0
    ecall
    li   a7, 0x52464E43
    li   a6, 0
    li   a0, 1
    li   a1, 0
    ecall
    jalr s0
    wfi
    """
)
ONE, TWO = batch("li a0, 1; ret; .balign 4"), batch("li a0, 2; ret; .balign 4")


def test_remote_fence_i(s_mode: Supervisor) -> None:
    s_mode.bench.load(ONE, DATA)

    def rewrite() -> tuple[int, int]:
        s_mode.ram.write(DATA, TWO.code)
        return 0, 0

    s_mode.sbi.extensions[FIRMWARE] = {0: rewrite}
    assert s_mode.run(REWRITTEN, s0=DATA).reason is StopReason.WFI
    assert (s_mode.reg("s1"), s_mode.reg("a0")) == (1, 2)


SUSPEND = batch(
    """
    li   t0, 32                 # sie.STIE, sstatus.SIE is clear
    csrs sie, t0
    li   a0, 1000
    li   a7, 0x54494D45
    li   a6, 0
    ecall
    mv   a0, s5
    mv   a1, s6
    li   a2, 0x77
    li   a7, 0x48534D
    li   a6, 3
    ecall
    addi s1, s1, 1
    wfi
    """
)
RESUMED = batch("csrr s2, satp; csrr s3, sstatus; li s4, 9; 1: csrr s7, sip; wfi")


@pytest.mark.parametrize("retentive", [False, True])
def test_suspend(s_mode: Supervisor, retentive: bool) -> None:
    bench = s_mode.bench
    bench.translate()
    satp = s_mode.hart.satp
    bench.load(RESUMED, DATA)
    stop = s_mode.run(SUSPEND, s5=0 if retentive else 0x8000_0000, s6=DATA)
    assert (stop.reason, s_mode.reg("s1"), s_mode.reg("s4")) == (StopReason.WFI, 0, 0)
    assert "suspend" in stop.detail
    s_mode.clock.set_now(1000)
    bench.machine.run(10 if bench.is_inside else 6)
    if retentive:
        assert (s_mode.reg("s1"), s_mode.reg("a0"), s_mode.reg("a1")) == (1, 0, 0)
        assert s_mode.hart.satp == satp
    else:
        assert (s_mode.reg("s1"), s_mode.reg("s4")) == (0, 9)
        assert (s_mode.reg("a0"), s_mode.reg("a1"), s_mode.reg("s2")) == (0, 0x77, 0)
        assert not s_mode.reg("s3") & 2


# From S or, with s0 = 1, from U: an instruction that traps to M, where nothing is delegated.
TRAPPER = batch(
    """
    beqz s0, trapper_there
    la   t0, trapper_there
    csrw sepc, t0
    li   t0, 0x100
    csrc sstatus, t0
    sret
    trapper_there:
    jr   s1
    """
)
BAD_CSR, LOAD, STORE = batch("csrr a0, mstatus"), batch("ld a0, (s2)"), batch("sd a0, (s2)")


@pytest.mark.parametrize("user", [0, 1])
@pytest.mark.parametrize(
    ("snippet", "cause", "tval"),
    [(BAD_CSR, 2, 0x3000_2573), (LOAD, 5, HOLE), (STORE, 7, HOLE)],
)
def test_exceptions_reach_the_kernel(
    s_mode: Supervisor, user: int, snippet: object, cause: int, tval: int
) -> None:
    s_mode.bench.load(SEEN, S_VECTOR)
    s_mode.bench.load(snippet, DATA)  # type: ignore[arg-type]
    stop = s_mode.run(TRAPPER, s0=user, s1=DATA, s2=HOLE)
    assert (stop.reason, s_mode.hart.priv) == (StopReason.EXIT, 1)
    assert [s_mode.reg(f"s{i}") for i in (2, 3, 4)] == [cause, DATA, tval]
    assert bool(s_mode.reg("s5") & 0x100) == (not user)  # SPP


RDTIME = batch("rdtime a0; rdtime a1; wfi")


def test_rdtime(s_mode: Supervisor) -> None:
    """Also on the public interface, whose engine has no such CSR."""
    s_mode.bench.load(SEEN, S_VECTOR)
    s_mode.hart.access.csr(0x306, 7)  # mcounteren
    s_mode.clock.set_now(123456)
    assert s_mode.run(RDTIME).reason is StopReason.WFI
    assert s_mode.reg("s2") == 0  # it did not reach the vector
    assert (s_mode.reg("a0"), s_mode.reg("a1")) == (123456, 123456)


def test_a_kernel_without_a_vector(s_mode: Supervisor) -> None:
    s_mode.w[words.STVEC] = 0
    s_mode.bench.load(BAD_CSR, DATA)
    stop = s_mode.run(TRAPPER, s0=1, s1=DATA)
    assert stop.reason is StopReason.FAULT and stop.trap is not None
    assert (stop.trap.cause, stop.trap.epc, stop.trap.priv) == (2, DATA, 0)
    assert (s_mode.hart.pc, s_mode.hart.priv) == (DATA, 0)
