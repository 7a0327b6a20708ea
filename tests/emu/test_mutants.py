"""What single changes of the hart's code were once not seen by any other test."""

from __future__ import annotations

import pytest
from asm import Batch
from harness import CODE, RAM, A, Bench, D, R, V, W, X

from emu import words
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
