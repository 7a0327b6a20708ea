"""No instruction begins at an odd address, wherever the address comes from (section 3.1.14)."""

from __future__ import annotations

from pathlib import Path

import pytest
from asm import Batch, Snippet
from harness import CODE, DATA, RAM, Bench

from emu.board.virt import VirtBoard
from emu.debug.gdb.target import Registers
from emu.debug.snapshot import snapshot
from emu.debug.snapshot.snapshot import SnapshotError
from emu.hart import state as hart_state
from emu.spec import words
from emu.stop import StopReason

batch = Batch()

# Returns to the odd address in t0, `s1` times, by way of the same block. There the low halves
# of two instructions would be read as others: c.addi s0, 1 is 05 04, c.addi s2, 1 is 05 09.
RETURN_FROM_M = batch(
    """
    li t1, 0x1800
    csrs mstatus, t1
    la t0, odd_m
    addi t0, t0, 1
    1: csrw mepc, t0
    csrs mstatus, t1
    mret
    .balign 8
    odd_m: c.addi s0, 1
    c.addi s2, 1
    addi s1, s1, -1
    bnez s1, 1b
    csrr a0, mepc
    wfi
    """
)
RETURN_FROM_S = batch(
    """
    li t1, 0x100
    la t0, odd_s
    addi t0, t0, 1
    1: csrw sepc, t0
    csrs sstatus, t1
    sret
    .balign 8
    odd_s: c.addi s0, 1
    c.addi s2, 1
    addi s1, s1, -1
    bnez s1, 1b
    csrr a0, sepc
    wfi
    """
)
RETURNS = [(RETURN_FROM_M, 3, "odd_m"), (RETURN_FROM_S, 1, "odd_s")]


@pytest.mark.parametrize(("code", "priv", "label"), RETURNS)
def test_a_return_to_an_odd_address_goes_to_the_even_one(
    bench: Bench, code: Snippet, priv: int, label: str
) -> None:
    stop = bench.run(code, priv=priv, s1=5)
    assert stop.reason is StopReason.WFI, stop
    assert (bench.reg("s0"), bench.reg("s1"), bench.reg("s2")) == (5, 0, 5)
    if bench.is_inside:
        assert bench.reg("a0") % 2 == 0


@pytest.mark.parametrize(("code", "priv", "label"), RETURNS)
def test_instruction_by_instruction(bench: Bench, code: Snippet, priv: int, label: str) -> None:
    bench.start(code, priv=priv, s1=2)
    seen = 0
    for _ in range(200):
        stop = bench.machine.run(1)
        assert bench.hart.pc % 2 == 0
        if stop.reason is StopReason.WFI:
            break
        seen += bench.hart.pc == CODE + code.offset(label)
    assert (bench.reg("s0"), bench.reg("s1"), bench.reg("s2"), seen) == (2, 0, 2, 2)


def test_a_trap_is_taken_at_the_even_address(bench: Bench) -> None:
    """What is there is no instruction; mepc says where, and mtval what."""
    bench.ram.write(DATA, b"\x00\x00\x05\x04")
    assert bench.trapped(TO_T0, t0=DATA + 1) == (2, DATA, 0)


TO_T0 = batch("li t1, 0x1800; csrs mstatus, t1; csrw mepc, t0; mret")
COUNT = batch("c.addi s0, 1; c.addi s2, 1; wfi")
M_RETURN = batch("li t1, 0x1800; csrs mstatus, t1; mret")
S_RETURN = batch("li t1, 0x100; csrs sstatus, t1; sret")


def test_whoever_has_written_the_words(bench: Bench) -> None:
    bench.start(COUNT, pc=CODE + 1)
    assert bench.machine.run().reason is StopReason.WFI
    assert (bench.reg("s0"), bench.reg("s2")) == (1, 1)
    bench.load(COUNT, DATA)
    for code, priv, word in ((M_RETURN, 3, words.MEPC), (S_RETURN, 1, words.SEPC)):
        bench.start(code, priv=priv, s0=0, s2=0)
        bench.w[word] = DATA + 1
        assert bench.machine.run().reason is StopReason.WFI
        assert (bench.reg("s0"), bench.reg("s2")) == (1, 1)


def test_gdb_writes_registers(bench: Bench) -> None:
    registers = Registers(bench.hart)
    bench.load(COUNT, DATA)
    for code, priv, name in ((M_RETURN, 3, "mepc"), (S_RETURN, 1, "sepc"), (COUNT, 3, "pc")):
        bench.start(code, priv=priv, s0=0, s2=0)
        registers.write(registers.numbers[name], (DATA + 1).to_bytes(8, "little"))
        assert bench.machine.run().reason is StopReason.WFI
        assert (bench.reg("s0"), bench.reg("s2")) == (1, 1)


def test_code_is_read_from_the_even_address(bench: Bench) -> None:
    bench.load(M_RETURN)
    for va in (CODE, CODE + 4, CODE + 0xFFE, RAM + bench.ram.size - 2):
        assert bench.hart.fetch(va + 1) == bench.hart.fetch(va)


def test_vectors(bench: Bench) -> None:
    """The two low bits of mtvec and stvec are a mode, whatever they hold (section 3.1.7)."""
    for mode in (0, 1, 2, 3):
        bench.load(COUNT, DATA)
        bench.start(ILLEGAL, s0=0, s2=0)
        bench.w[words.MTVEC] = DATA | mode
        assert bench.machine.run().reason is StopReason.WFI
        assert (bench.reg("s0"), bench.reg("s2")) == (1, 1)


ILLEGAL = batch("unimp")


def test_a_snapshot_with_an_odd_pc_is_refused(bench: Bench) -> None:
    state = hart_state.save(bench.hart)
    state["pc"] |= 1
    with pytest.raises(ValueError, match=r"odd address 0x80000001"):
        hart_state.check(bench.hart, state)


def test_mepc_of_a_public_snapshot(tmp_path: Path) -> None:
    """There mepc may hold bit 0: it is loaded, and means nothing."""
    first = VirtBoard(16 << 20, lambda data: None, access="public")
    first.ram.write(CODE, M_RETURN.code)
    first.ram.write(DATA, COUNT.code)
    first.hart.words[words.MEPC] = DATA + 1
    snapshot.save(first, tmp_path / "odd")
    first.close()
    for access in ("public", "inside"):
        second = VirtBoard(16 << 20, lambda data: None, access=access)
        try:
            snapshot.load(second, tmp_path / "odd")
        except SnapshotError as e:
            pytest.fail(str(e))
        assert second.run().reason is StopReason.WFI
        assert second.hart.words[words.ABI_NAMES.index("s2")] == 1
        second.close()
