"""Entering S-mode without code in M, and what a kernel finds there."""

from __future__ import annotations

import pytest
from asm import Batch
from harness import CODE, DATA, HOLE, RAM, S_VECTOR, Bench
from sbi_kit import FakeClock

from emu.hart import HartError
from emu.spec import words
from emu.stop import StopReason
from firmware.enter import enter_supervisor
from firmware.sbi import Sbi

batch = Batch()

LOOK = batch(
    """
    mv   s0, a0
    mv   s1, a1
    csrr s2, sstatus
    csrr s3, sie
    csrr s4, satp
    csrr s5, stvec
    csrr s6, sscratch
    csrr s7, sip
    fmv.d.x f1, a1              # the FPU is on
    fmv.x.d s8, f1
    frcsr s9
    rdcycle t0
    rdinstret t1
    rdtime t2
    la   t3, look_user
    csrw sepc, t3
    li   t3, 0x100
    csrc sstatus, t3
    sret
    look_user:
    rdcycle t4
    rdtime  t5
    li   s11, 1
    ebreak
    """
)


def boot(bench: Bench, pc: int = CODE) -> Sbi:
    sbi = Sbi(bench.hart, bench.ram, bench.output.extend, clock=FakeClock())
    bench.hart.handlers[3] = sbi.handle
    enter_supervisor(bench.hart, pc, 0, 0x8200_0000)
    return sbi


def test_state(inside: Bench) -> None:
    w = inside.w
    for i in range(1, 64):
        w[i] = 0x5A5A
    old = {0x003: 0xFF, 0x140: 5, 0x105: 0x8000_4000, 0x304: 0x222, 0x106: 0, 0x306: 0}
    for csr, value in old.items():
        inside.hart.access.csr(csr, value)
    inside.hart.set_pending(1, True)
    inside.hart.set_satp(8 << 60 | 0x80100)
    boot(inside)
    assert (inside.hart.pc, inside.hart.priv, inside.hart.satp) == (CODE, 1, 0)
    assert list(w[:64]) == [0] * 11 + [0x8200_0000] + [0] * 52
    read = inside.hart.read_csr
    wanted = {
        0x302: 0xB1FF,  # medeleg: all but ecalls from S and M
        0x303: 0x222,  # mideleg: SSI, STI, SEI
        0x304: 0, 0x344: 0,  # mie, mip
        0x306: 0xFFFF_FFFF, 0x106: 0xFFFF_FFFF,  # mcounteren, scounteren
        0x105: 0, 0x140: 0, 0x180: 0, 0x003: 0,  # stvec, sscratch, satp, fcsr
        0x3A0: 0x1F,  # pmpcfg0: RWX, NAPOT
        0x142: 0, 0x141: 0, 0x143: 0,  # scause, sepc, stval
    }  # fmt: skip
    assert {csr: read(csr) for csr in wanted} == wanted
    assert read(0x300) == 0x8000_000A_0000_6000  # mstatus: SD, SXL, UXL, FS dirty; SIE clear
    assert inside.hart.pending == 0


def test_what_a_kernel_finds(inside: Bench) -> None:
    inside.load(LOOK)
    inside.ram.write(S_VECTOR, bytes.fromhex("73005010"))  # wfi
    boot(inside)
    inside.w[words.STVEC] = S_VECTOR
    assert inside.machine.run().reason is StopReason.WFI
    assert inside.w[words.SCAUSE] == 3, hex(inside.w[words.STVAL])  # the ebreak of U-mode
    found = [inside.reg(f"s{i}") for i in range(10)]
    assert found[:2] == [0, 0x8200_0000]
    assert found[2] & ~(3 << 13 | 1 << 63) == 2 << 32  # UXL is 64, nothing but FS besides
    assert found[3:5] == [0, 0]
    assert found[6:] == [0, 0, 0x8200_0000, 0]
    assert inside.reg("s11") == 1


ILLEGAL = batch("csrr a0, mstatus; nop; .balign 4")


def test_a_kernel_that_traps_before_it_has_a_vector(inside: Bench) -> None:
    """What cannot be fetched there is not fetched for ever; and it does not begin again."""
    boot(inside)
    inside.w[words.PC] = inside.w[words.STVEC] = HOLE
    stop = inside.machine.run()
    assert stop.reason is StopReason.FAULT and stop.trap is not None
    assert (stop.trap.cause, stop.trap.epc) == (1, HOLE)
    boot(inside)
    inside.load(ILLEGAL)
    stop = inside.machine.run()
    assert stop.reason is StopReason.FAULT and stop.trap is not None
    assert (stop.trap.cause, stop.trap.epc) == (2, CODE)


FIVE = batch("li a7, 0x10; li a6, 0; ecall; wfi")


def test_it_can_be_entered_again(inside: Bench) -> None:
    boot(inside)
    inside.load(ILLEGAL)
    inside.w[words.STVEC] = S_VECTOR
    assert inside.machine.run().reason is StopReason.WFI
    assert (inside.w[words.SCAUSE], inside.hart.pc) == (2, S_VECTOR + 4)
    inside.load(FIVE, DATA)
    boot(inside, DATA)  # a warm reboot
    assert inside.w[words.SCAUSE] == 0
    assert inside.machine.run().reason is StopReason.WFI
    assert (inside.reg("a0"), inside.reg("a1")) == (0, 2 << 24)


@pytest.mark.parametrize("pc", [0, HOLE, RAM - 2, RAM + 1, RAM + (16 << 20), 1 << 64])
def test_entries_that_are_none(inside: Bench, pc: int) -> None:
    with pytest.raises(ValueError, match=f"{pc:#x}"):
        enter_supervisor(inside.hart, pc)


def test_csrs_out_of_reach_are_reported(inside: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside.hart.access, "csr", lambda number, value=None: None)
    with pytest.raises(HartError, match="cannot be written here"):
        enter_supervisor(inside.hart, CODE)
