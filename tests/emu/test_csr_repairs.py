"""The CSRs that the engine has wrong, as the guest sees them; and the fallback."""

from __future__ import annotations

import time

import pytest
from asm import Batch
from harness import CODE, DATA, Bench, Tables

from emu.board.machine import Machine
from emu.hart import Hart, HartError
from emu.ram import Ram
from emu.spec import words
from emu.stop import StopReason

batch = Batch()
UXL_SXL = 0xA_0000_0000
PAGE = 0x4000_0000

SATP_SWITCH = batch(
    """
    csrw satp, a0
    ld s1, (a2)
    csrw satp, a1
    ld s2, (a2)
    ecall
    """
)


def two_spaces(bench: Bench) -> tuple[Tables, Tables]:
    first, second = Tables(bench.ram, 3), Tables(bench.ram, 3, CODE + 0x20_0000)
    for tables, pa in ((first, DATA), (second, DATA + 0x1000)):
        tables.map(CODE, CODE)
        tables.map(PAGE, pa)
    bench.ram.write64(DATA, 1)
    bench.ram.write64(DATA + 0x1000, 2)
    return first, second


def test_a_new_root_under_the_same_asid_is_seen_without_a_fence(inside: Bench) -> None:
    first, second = two_spaces(inside)
    inside.hold_m()
    inside.run(SATP_SWITCH, priv=1, a0=first.satp, a1=second.satp, a2=PAGE)
    assert (inside.reg("s1"), inside.reg("s2")) == (1, 2)
    inside.run(SATP_SWITCH, priv=1, a0=second.satp, a1=first.satp, a2=PAGE)
    assert (inside.reg("s1"), inside.reg("s2")) == (2, 1)


def test_on_the_public_way_it_is_stale_and_named() -> None:
    bench = Bench("public")
    first, second = two_spaces(bench)
    bench.hold_m()
    bench.run(SATP_SWITCH, priv=1, a0=first.satp, a1=second.satp, a2=PAGE)
    assert (bench.reg("s1"), bench.reg("s2")) == (1, 1)
    assert any(text.startswith("satp writes") for text in bench.hart.access.missing)
    bench.machine.close()


READ_STATUS = batch("csrr s1, sstatus; csrr s2, mstatus; wfi")


def test_uxl_is_seen_in_sstatus(bench: Bench) -> None:
    bench.run(READ_STATUS)
    assert bench.reg("s2") >> 32 & 0xF == 0xA
    if bench.is_inside:
        assert bench.reg("s1") >> 32 & 3 == 2
    else:  # the engines of a process share their CSR table: one with repairs gives them all
        assert bench.reg("s1") >> 32 & 3 in (0, 2)
        assert any("sstatus.UXL" in text for text in bench.hart.access.missing)


WRITE_MSTATUS = batch("csrw mstatus, a0; csrr s1, mstatus; wfi")


@pytest.mark.parametrize("bit", [20, 21, 22])
def test_tvm_tw_and_tsr_are_at_their_bits(inside: Bench, bit: int) -> None:
    inside.run(WRITE_MSTATUS, a0=UXL_SXL | 1 << bit)
    assert inside.reg("s1") == UXL_SXL | 1 << bit
    inside.run(WRITE_MSTATUS, a0=UXL_SXL)
    assert inside.reg("s1") == UXL_SXL
    inside.run(WRITE_MSTATUS, a0=UXL_SXL | 3 << 29)  # where the engine has them: reserved
    assert inside.reg("s1") == UXL_SXL


S_WFI = batch("csrw mstatus, a0; csrw mepc, a1; mret")
WFI_CODE = batch("wfi; li s1, 1; wfi")
SRET_CODE = batch("sret")


def drop_to_s(bench: Bench, status: int, code: bytes) -> tuple[int, int]:
    """Write mstatus in M, go to S at ``code``; ``(mcause, mtval)`` of what traps to M."""
    bench.ram.write(CODE + 0x100, code)
    bench.w[words.MCAUSE] = 0
    bench.run(S_WFI, a0=UXL_SXL | status | 1 << 11, a1=CODE + 0x100)
    return bench.w[words.MCAUSE], bench.w[words.MTVAL]


def test_tw_makes_wfi_trap_in_s(inside: Bench) -> None:
    assert drop_to_s(inside, 1 << 21, WFI_CODE.code) == (2, 0x1050_0073)
    assert drop_to_s(inside, 0, WFI_CODE.code)[0] == 0
    assert inside.hart.priv == 1


def test_tsr_makes_sret_trap_in_s(inside: Bench) -> None:
    assert drop_to_s(inside, 1 << 22, SRET_CODE.code) == (2, 0x1020_0073)
    inside.w[words.SEPC] = CODE + 0x200
    inside.ram.write(CODE + 0x200, WFI_CODE.code)
    assert drop_to_s(inside, 1 << 8, SRET_CODE.code)[0] == 0  # SPP=S: back to S, at `wfi`
    assert inside.hart.pc == CODE + 0x204


MPP = batch("csrw mstatus, a0; csrr s1, mstatus; csrw mstatus, a1; csrr s2, mstatus; wfi")


@pytest.mark.parametrize("legal", [0, 1, 3])
def test_mpp_2_cannot_be_stored(inside: Bench, legal: int) -> None:
    inside.run(MPP, a0=UXL_SXL | legal << 11, a1=UXL_SXL | 2 << 11 | 1 << 18)
    assert inside.reg("s1") == UXL_SXL | legal << 11
    assert inside.reg("s2") == UXL_SXL | legal << 11 | 1 << 18


EPC = batch("csrw mepc, a0; csrr s1, mepc; csrw sepc, a0; csrr s2, sepc; wfi")


def test_bit_0_of_epc_is_zero(inside: Bench) -> None:
    inside.run(EPC, a0=0x8000_0107)
    assert (inside.reg("s1"), inside.reg("s2")) == (0x8000_0106, 0x8000_0106)


COUNTERS = batch(
    """
    csrw mcycle, a0
    csrr s1, mcycle
    csrw minstret, a1
    csrr s2, minstret
    csrr s3, cycle
    csrr s4, instret
    csrr s5, mcycle
    csrw mcycle, zero
    csrr s6, mcycle
    wfi
    """
)


def test_counters_are_writable_and_shadowed(inside: Bench) -> None:
    big = 1 << 40
    inside.run(COUNTERS, a0=big, a1=2 * big)
    assert big <= inside.reg("s1") <= inside.reg("s3") <= inside.reg("s5") < big + (1 << 36)
    assert 2 * big <= inside.reg("s2") <= inside.reg("s4") < 2 * big + (1 << 36)
    assert inside.reg("s6") < 1 << 36


TIME = batch("csrr s1, time; csrr s2, time; wfi")


def test_time_advances_at_ten_megahertz(inside: Bench) -> None:
    before = time.monotonic_ns()
    inside.run(TIME)
    first = inside.reg("s1")
    assert first <= inside.reg("s2")
    time.sleep(0.05)
    inside.run(TIME)
    passed = (time.monotonic_ns() - before) // 100  # ticks of 100 ns
    assert 500_000 <= inside.reg("s1") - first <= passed


READS_U = {
    csr: batch(f"csrr s1, {csr:#x}; ecall")
    for csr in (0xC00, 0xC01, 0xC02, 0xC03, 0xC10, 0xC1F)  # cycle, time, instret, hpmcounters
}


@pytest.mark.parametrize("csr", READS_U)
@pytest.mark.parametrize(
    ("m", "s", "reads"),
    [(1, 1, (1, 1)), (1, 0, (1, 0)), (0, 1, (0, 0)), (0, 0, (0, 0))],
)
def test_the_counter_enables(
    inside: Bench, csr: int, m: int, s: int, reads: tuple[int, int]
) -> None:
    """Section 3.1.11: mcounteren's bit for S, both enables' bits for U; M may always."""
    others = 0xFFFF_FFFF & ~(1 << csr - 0xC00)
    inside.hart.access.csr(0x306, others | m << csr - 0xC00)
    inside.hart.access.csr(0x106, others | s << csr - 0xC00)
    for priv, may in ((1, reads[0]), (0, reads[1])):
        cause, _, tval = inside.trapped(READS_U[csr], priv=priv)
        assert (cause, tval) == ((8 + priv, 0) if may else (2, csr << 20 | 0x24F3))
    assert inside.trapped(READS_U[csr], priv=3)[0] == 11


def test_the_counter_enables_are_read_back(inside: Bench) -> None:
    for csr, value in ((0x306, 0x5), (0x106, 0x2)):
        inside.hart.access.csr(csr, 0xF_0000_0000 | value)
        assert inside.hart.read_csr(csr) == value


TSELECT = batch("li s1, 5; csrw tselect, s1; csrr s1, tselect; csrr s2, tdata1; wfi")


def test_there_are_no_triggers(bench: Bench) -> None:
    bench.run(TSELECT)
    assert (bench.reg("s1"), bench.reg("s2")) == (0, 0)
    assert bench.w[words.MCAUSE] == 0


def test_counters_ignore_writes_on_the_public_way_and_it_is_named() -> None:
    bench = Bench("public")
    assert bench.run(COUNTERS, a0=1 << 62, a1=1 << 62).reason is StopReason.WFI
    assert max(bench.reg("s1"), bench.reg("s2")) < 1 << 62
    assert any("mcycle and minstret are read-only" in text for text in bench.hart.access.missing)
    bench.machine.close()


def test_two_harts_have_their_own_csrs() -> None:
    """The engine has one CSR table for the process."""
    first, second = Bench("inside"), Bench("inside")
    first.run(EPC, a0=0x8000_0101)
    second.run(EPC, a0=0x8000_0203)
    first.hart.set_pending(5, True)
    assert (first.hart.read_csr(0x344), second.hart.read_csr(0x344)) == (0x20, 0)
    assert (first.hart.read_csr(0x341), second.hart.read_csr(0x341)) == (0x8000_0100, 0x8000_0202)
    first.machine.close()
    second.run(MPP, a0=UXL_SXL | 1 << 11, a1=UXL_SXL | 2 << 11)
    assert second.reg("s2") == UXL_SXL | 1 << 11
    second.machine.close()


def test_read_csr(bench: Bench) -> None:
    bench.trapped(S_ECALL, priv=1)
    assert (bench.hart.read_csr(0x342), bench.hart.read_csr(0x341)) == (9, CODE)
    with pytest.raises(HartError, match="0x5c0"):
        bench.hart.read_csr(0x5C0)


S_ECALL = batch("ecall")


# What is missing


def test_nothing_is_missing_inside(inside: Bench) -> None:
    assert (inside.hart.access.name, inside.hart.access.missing) == ("direct", ())
    auto = Machine(1 << 20)
    assert auto.hart.access.name == "direct"
    auto.close()


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="auto, direct or public"):
        Hart(Ram(1 << 20), "outside")
