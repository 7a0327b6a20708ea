"""minstret counts the instructions that retire, with the deterministic clock: by hand.

The expected counts are of the listings below; no instruction is compressed.
"""

from __future__ import annotations

from contextlib import closing

import pytest
from asm import Batch

from emu.board.virt import VirtBoard
from emu.spec import words
from emu.stop import StopReason

batch = Batch()
PLAIN = ".option push\n.option norvc\n"
END = "\nli t0, 0x100000\nli t1, 0x5555\nsw t1, 0(t0)\nj .\n.option pop"

STRAIGHT = batch(
    PLAIN
    + """
    csrr a0, minstret
    .rept 10
    nop
    .endr
    csrr a1, minstret
    csrr a2, instret
    .option rvc
    c.nop
    c.nop
    nop
    .option norvc
    csrr a3, minstret
    li   t0, 1000
    csrw minstret, t0
    csrr a4, minstret
    nop
    csrr a5, minstret
    """
    + END
)

# a3 rounds of 6 instructions; the handler has 9 and counts what it is called for in s5.
LOOP = batch(
    PLAIN
    + """
    la   t0, ret_vector
    csrw mtvec, t0
    li   t0, 0x80
    csrw mie, t0
    csrw mcounteren, zero
    li   s6, 0x2004000          # mtimecmp
    csrr a0, minstret
    ret_round:
    addi s1, s1, 1
    xor  t1, s1, t2
    ld   t2, 0(a4)              # from a hole, where a4 is one
    add  t2, t2, t1
    .word 0                     # illegal
    bltu s1, a3, ret_round
    csrr a1, minstret
    """
    + END
    + "\n.option push\n.option norvc\n"
    + """
    .balign 4
    ret_vector:
    csrrw s7, mscratch, s7
    csrr s7, mepc
    addi s7, s7, 4
    csrw mepc, s7
    addi s5, s5, 1
    csrrw s7, mscratch, s7
    nop
    nop
    mret
    .option pop
    """
)

TIMER = batch(
    PLAIN
    + """
    la   t0, ret_timer
    csrw mtvec, t0
    li   t0, 0x80
    csrw mie, t0
    li   s6, 0x2004000          # mtimecmp
    li   s7, 0x200bff8          # mtime
    ld   t0, 0(s7)
    addi t0, t0, 3
    sd   t0, 0(s6)
    csrsi mstatus, 8
    csrr a0, minstret
    ret_spin:
    addi s1, s1, 1
    xor  t1, s1, s1
    beqz t1, ret_next
    nop
    ret_next:
    bltu s1, a3, ret_spin
    csrr a1, minstret
    """
    + END
    + "\n.option push\n.option norvc\n"
    + """
    .balign 4
    ret_timer:
    ld   s8, 0(s7)
    addi s8, s8, 3
    sd   s8, 0(s6)
    addi s5, s5, 1
    mret
    .option pop
    """
)


def board() -> VirtBoard:
    return VirtBoard(16 << 20, lambda data: None, deterministic=True, access="inside")


def run(machine: VirtBoard, code: bytes, **registers: int) -> None:
    machine.ram.write(machine.ram.base, code)
    machine.hart.reset(machine.ram.base)
    for name, value in registers.items():
        machine.hart.words[words.ABI_NAMES.index(name)] = value
    assert machine.run().reason is StopReason.EXIT


def reg(machine: VirtBoard, name: str) -> int:
    return machine.hart.words[words.ABI_NAMES.index(name)]


def test_straight_code() -> None:
    with closing(board()) as machine:
        run(machine, STRAIGHT.code)
        a = [reg(machine, f"a{i}") for i in range(6)]
        assert [a[1] - a[0], a[2] - a[1], a[3] - a[2]] == [11, 1, 4]
        assert (a[4], a[5]) == (1000, 1002)


@pytest.mark.parametrize("hole", [False, True])
def test_what_traps_does_not_retire(hole: bool) -> None:
    """Each round an illegal instruction, and a load from a hole where there is one."""
    with closing(board()) as machine:
        rounds = 1000
        run(machine, LOOP.code, a3=rounds, a4=0x6000_0000 if hole else 0x8010_0000)
        traps = rounds * (2 if hole else 1)
        assert reg(machine, "s5") == traps
        retired = rounds * 6 - traps + traps * 9
        assert reg(machine, "a1") - reg(machine, "a0") == retired + 1  # the second csrr


def test_interrupts_between() -> None:
    with closing(board()) as machine:
        rounds = 20_000
        run(machine, TIMER.code, a3=rounds)
        ticks = reg(machine, "s5")
        assert ticks > 100
        assert reg(machine, "a1") - reg(machine, "a0") == rounds * 4 + ticks * 5 + 1


def test_step_by_step_it_is_the_same() -> None:
    with closing(board()) as whole, closing(board()) as steps:
        for machine in (whole, steps):
            machine.ram.write(machine.ram.base, LOOP.code)
            machine.hart.reset(machine.ram.base)
            machine.hart.words[words.ABI_NAMES.index("a3")] = 5
            machine.hart.words[words.ABI_NAMES.index("a4")] = 0x6000_0000
        assert whole.run().reason is StopReason.EXIT
        while (stop := steps.run(1)).reason is StopReason.LIMIT:
            pass
        assert stop.reason is StopReason.EXIT
        for name in ("a0", "a1", "s5"):
            assert reg(whole, name) == reg(steps, name), name


# One function at one address, first of 4-byte and then of 2-byte instructions: as many bytes.
CHANGES = batch(
    PLAIN
    + """
    mv   s1, a1
    csrr a2, minstret
    jalr s1
    csrr a3, minstret
    sd   a4, 0(s1)
    fence.i
    csrr a5, minstret
    jalr s1
    csrr a6, minstret
    """
    + END
)
NOPS4, NOPS2 = (
    batch(".option norvc\nnop\nnop\nret\n.option rvc"),
    batch("c.nop\nc.nop\nc.nop\nc.nop"),
)


def test_code_that_changes() -> None:
    with closing(board()) as machine:
        at = machine.ram.base + 0x8000
        machine.ram.write(at, NOPS4.code)
        run(machine, CHANGES.code, a1=at, a4=int.from_bytes(NOPS2.code, "little"))
        a = {i: reg(machine, f"a{i}") for i in (2, 3, 5, 6)}
        assert (a[3] - a[2], a[6] - a[5]) == (2 + 3, 2 + 5)


def test_a_snapshot_keeps_it() -> None:
    from emu.hart import state as hart_state

    with closing(board()) as one, closing(board()) as two:
        run(one, STRAIGHT.code)
        hart_state.load(two.hart, hart_state.save(one.hart))
        assert two.hart.read_csr(0xB02) == one.hart.read_csr(0xB02)
