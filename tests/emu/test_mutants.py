"""What single changes of the hart's code were once not seen by any other test."""

from __future__ import annotations

import threading

import pytest
from asm import Batch, Snippet
from device_bench import HandClock
from harness import CODE, RAM, VECTOR, A, Bench, D, R, V, W, X
from progress import wait_until

from emu.board.clock import RealClock
from emu.board.devices.virtqueue import Virtqueue, part
from emu.ram import Ram
from emu.spec import words
from emu.stop import StopReason

batch = Batch()

ADDI_A0, RET = 0x0000_0513, 0x0000_8067

# sstatus (section 12.1.1 of the privileged spec): SIE, SPIE, SPP, FS, SUM, MXR can be written
# in RV64GC without V; UXL says 2, and SD follows FS.
SSTATUS_BITS = {"SIE": 1, "SPIE": 5, "SPP": 8, "SUM": 18, "MXR": 19}
FS, UXL_64, SD = 3 << 13, 2 << 32, 1 << 63

BY_SSTATUS = batch("csrs sstatus, a0; csrr a1, sstatus; csrr a2, mstatus; wfi")
BY_MSTATUS = batch("csrs mstatus, a0; csrr a1, sstatus; csrr a2, mstatus; wfi")


@pytest.mark.parametrize("code", [BY_SSTATUS, BY_MSTATUS], ids=["sstatus", "mstatus"])
@pytest.mark.parametrize("bit", SSTATUS_BITS)
def test_each_field_of_sstatus_is_shown_whoever_wrote_it(
    bench: Bench, bit: str, code: object
) -> None:
    value = 1 << SSTATUS_BITS[bit]
    assert bench.run(code, a0=value).reason is StopReason.WFI  # type: ignore[arg-type]
    assert bench.reg("a1") & ~UXL_64 == value
    assert bench.reg("a2") & value


@pytest.mark.parametrize("code", [BY_SSTATUS, BY_MSTATUS], ids=["sstatus", "mstatus"])
def test_fs_and_sd_in_sstatus(bench: Bench, code: object) -> None:
    bench.run(code, a0=FS)  # type: ignore[arg-type]
    assert bench.reg("a1") & ~UXL_64 == FS | SD


def test_what_only_m_has_is_not_shown(inside: Bench) -> None:
    """MIE, MPIE, MPP, MPRV, TVM, TW, TSR."""
    for bit in (3, 7, 11, 12, 17, 20, 21, 22):
        inside.w[words.MSTATUS] = 0
        inside.run(BY_MSTATUS, a0=1 << bit)
        assert inside.reg("a1") & ~UXL_64 == 0, bit


CALL_EACH = batch("jalr a2; mv s1, a0; jalr a3; mv s2, a0; jalr a4; mv s3, a0; wfi")
FUNCTION = RAM + 0x4_0000


def put(bench: Bench, pa: int, value: int) -> None:
    """A function that returns ``value``; the engine is not told."""
    bench.ram.write32(pa, value << 20 | ADDI_A0)
    bench.ram.write32(pa + 4, RET)


@pytest.mark.parametrize("apart", [8, 64, 4096])
def test_all_code_that_was_changed_is_dropped(inside: Bench, apart: int) -> None:
    """Not that of the first byte alone: within a page, and over the pages that follow."""
    inside.hart.keep_code_coherent()
    at = [FUNCTION + apart * i for i in range(3)]
    registers = {f"a{i + 2}": pa for i, pa in enumerate(at)}
    for i, pa in enumerate(at):
        put(inside, pa, 10 + i)
    inside.run(CALL_EACH, **registers)
    assert [inside.reg(f"s{i}") for i in (1, 2, 3)] == [10, 11, 12]
    for i, pa in enumerate(at):
        put(inside, pa, 20 + i)
    # The last byte that changed is that of the last function's immediate.
    inside.hart.code_changed(at[0], at[2] + 4 - at[0])
    inside.run(None, **registers)  # without what `Bench.load` does for new code
    assert [inside.reg(f"s{i}") for i in (1, 2, 3)] == [20, 21, 22]


# An instruction over the end of a page, which ends its block: nothing else of the second page is
# code. Its upper half, there, says to which of two functions it jumps.
VA, DATA_VA = 0x10_0000, 0x20_0000
FIRST, SECOND = RAM + 0x4_0000, RAM + 0xA0_0000  # frames far from each other
JUMP = 0xFFE

# a1: where to write; a2: the jump; a4, a5: its upper half for function 0 and 1.
REWRITE_HALF = batch(
    """
    li s1, 0
    li s2, 0
    1: andi s3, s1, 1
    mv t1, a4
    beqz s3, 2f
    mv t1, a5
    2: sh t1, (a1)
    fence.i
    jalr a2
    beq a0, s3, 3f
    addi s2, s2, 1
    3: addi s1, s1, 1
    bltu s1, a3, 1b
    wfi
    """
)


def upper_half(offset: int) -> int:
    """Of `jal zero, offset`, -2048 to -2; section 2.5.1 of the ISA: imm[20|10:1|11|19:12]."""
    return 1 << 15 | (offset >> 1 & 0x3FF) << 5 | 1 << 4 | 0xF


def test_the_second_page_of_a_block_is_watched_too(bench: Bench) -> None:
    bench.hart.keep_code_coherent()
    tables = bench.translate()
    tables.map(VA, FIRST, V | R | X | A | D)
    tables.map(VA + 0x1000, SECOND, V | R | X | A | D)
    tables.map(DATA_VA, SECOND, V | R | W | A | D)
    bench.ram.write16(FIRST + JUMP, 0xF06F)
    for value, at in ((0, 0xE00), (1, 0xE80)):
        put(bench, FIRST + at, value)
    halves = [upper_half(at - JUMP) for at in (0xE00, 0xE80)]
    stop = bench.run(
        REWRITE_HALF, pc=CODE, priv=1, a1=DATA_VA, a2=VA + JUMP, a3=300, a4=halves[0], a5=halves[1]
    )
    assert stop.reason is StopReason.WFI
    assert (bench.reg("s1"), bench.reg("s2")) == (300, 0)


# clocks


def test_alarms_ring_in_the_order_of_their_times() -> None:
    clock, rung = HandClock(), []
    alarms = [clock.alarm(lambda n=n: rung.append(n)) for n in range(3)]
    for alarm, when in zip(alarms, (30, 10, 20), strict=True):
        alarm.set(when)
    assert clock.next_alarm() == 10
    clock.set_now(9)
    assert rung == []
    clock.set_now(100)
    assert rung == [1, 2, 0] and clock.next_alarm() is None


def test_an_alarm_that_is_earlier_than_what_the_clock_sleeps_for() -> None:
    clock = RealClock()
    rung = threading.Event()
    far, near = clock.alarm(lambda: None), clock.alarm(rung.set)
    try:
        far.set(clock.now() + 36_000_000_000)  # an hour
        wait_until(lambda: clock._sleeps_until is not None)
        near.set(clock.now() + 50_000)
        wait_until(rung.is_set)
    finally:
        clock.close()


# a virtqueue

RAM_BASE = 0x8000_0000


def test_a_part_of_segments_has_no_empty_one() -> None:
    segments = [(0x1000, 16), (0x2000, 8), (0x3000, 4)]
    assert part(segments, 16, 8) == [(0x2000, 8)]
    assert part(segments, 15, 9) == [(0x100F, 1), (0x2000, 8)]
    assert part(segments, 24, 100) == [(0x3000, 4)]
    assert part(segments, 28, 1) == []


def test_running_numbers_of_a_queue_have_16_bits() -> None:
    ram = Ram(1 << 20, RAM_BASE)
    areas = (RAM_BASE, RAM_BASE + 0x1000, RAM_BASE + 0x2000)
    queue = Virtqueue(ram, 1, 8, areas, lambda pa, size: None)
    ram.write64(RAM_BASE, RAM_BASE + 0x3000)  # one descriptor of 1 byte, that the device reads
    ram.write64(RAM_BASE + 8, 1)
    for number in range(0x1_0001):
        ram.write16(RAM_BASE + 0x1002, number + 1 & 0xFFFF)
        assert queue.waiting() == 1
        queue.chain = None  # as when the one before is done
        assert queue.next().readable == [(RAM_BASE + 0x3000, 1)]
    assert queue.seen == 1 and queue.waiting() == 0


# interrupts that a write of a CSR lets through

SSI, MTI, SEI = 1, 7, 9
TAKEN = batch("csrr a1, mcause; csrr a2, mepc; li t0, 0x100000; li t1, 0x5555; sw t1, (t0); j .")
WRITE_MIE = batch("csrw mie, a0; nop; 1: j 1b")
BY_SIP = batch("csrs sip, a0; csrr a1, mip; csrr a2, sip; wfi")
WRITE_MIDELEG = batch("csrw mideleg, a0; nop; 1: j 1b")


def run_until_taken(bench: Bench, code: Snippet, a0: int) -> tuple[int, int]:
    """``(mcause, mepc)`` of the interrupt that comes; without one it spins for ever."""
    bench.load(TAKEN, VECTOR)
    bench.w[words.MSTATUS] = 1 << 3  # MIE
    stop = bench.run(code, a0=a0)
    assert stop.reason is StopReason.EXIT  # by the finisher: with it pending wfi does not wait
    return bench.reg("a1"), bench.reg("a2") - CODE


def test_a_write_of_mie_lets_one_in_at_once(bench: Bench) -> None:
    bench.hart.set_pending(MTI, True)
    assert run_until_taken(bench, WRITE_MIE, 1 << MTI) == (1 << 63 | MTI, 4)


def test_a_write_of_mideleg_lets_one_in_at_once(bench: Bench) -> None:
    """It was S's, which M does not take; now it is M's own."""
    bench.w[words.MIDELEG] = bench.w[words.MIE] = 1 << SSI
    bench.hart.set_pending(SSI, True)
    assert run_until_taken(bench, WRITE_MIDELEG, 0) == (1 << 63 | SSI, 4)


def test_a_write_of_mideleg_lets_in_one_of_two(bench: Bench) -> None:
    """Of two that were S's the lesser becomes M's."""
    bench.w[words.MIDELEG] = bench.w[words.MIE] = 1 << SSI | 1 << SEI
    for number in (SSI, SEI):
        bench.hart.set_pending(number, True)
    assert run_until_taken(bench, WRITE_MIDELEG, 1 << SEI) == (1 << 63 | SSI, 4)


def test_sip_writes_only_what_is_delegated(inside: Bench) -> None:
    """Section 12.1.3: SSIP can be written through sip where mideleg delegates it."""
    for delegated in (0, 1 << SSI):
        inside.w[words.MIDELEG] = delegated
        inside.hart.set_pending(SSI, False)
        inside.run(BY_SIP, a0=1 << SSI)
        assert inside.reg("a1") == inside.reg("a2") == delegated
