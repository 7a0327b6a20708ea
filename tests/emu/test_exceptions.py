"""Every exception, taken by guest code in M-mode: mcause, mepc, mtval, mstatus, privilege."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from asm import Batch, Snippet
from harness import CODE, DATA, HOLE, RAM, RWX, S_VECTOR, VECTOR, WFI, A, Bench, D, R, U, V, W, X

from emu.spec import words
from emu.stop import StopReason

batch = Batch()
MIE, MPIE, SIE, SPIE, SPP = 1 << 3, 1 << 7, 1 << 1, 1 << 5, 1 << 8
RAM_END = RAM + (16 << 20)
ROM = 0x1000
UXL_SXL = 0xA_0000_0000


@dataclass
class Case:
    """``code`` up to its label, where the trap strikes; a0 and a1 are given."""

    name: str
    snippet: Snippet
    cause: int
    tval: int | None  # None: the instruction's address
    priv: int = 3
    a0: int = DATA
    offset: int = 4  # of the trapping instruction: behind one `addi s1, s1, 1`


def case(name: str, text: str, cause: int, tval: int | None, priv: int = 3, a0: int = DATA) -> Case:
    text = f".option norvc\naddi s1, s1, 1\n.option rvc\n{text}\naddi s1, s1, 16"
    return Case(name, batch(text), cause, tval, priv, a0)


CASES = [
    case("ecall from U", "ecall", 8, 0, 0),
    case("ecall from S", "ecall", 9, 0, 1),
    case("ecall from M", "ecall", 11, 0, 3),
    *(case(f"ebreak in {p}", ".option norvc\nebreak", 3, None, p) for p in (0, 1, 3)),
    case("c.ebreak", "c.ebreak", 3, None),
    case("illegal, 32 ones", ".4byte 0xffffffff", 2, 0xFFFF_FFFF),
    case("illegal, reserved opcode", ".4byte 0x0000707f", 2, 0x707F),
    case("illegal, 16 zeros", ".2byte 0\n.2byte 1", 2, 0),
    case("illegal, c.addiw x0", ".2byte 0x2001\n.2byte 1", 2, 0x2001),
    case("illegal, c.lwsp x0", ".2byte 0x4002\n.2byte 1", 2, 0x4002),
    case("illegal, csr of M in S", "csrr a0, mstatus", 2, 0x3000_2573, 1),
    case("illegal, csr of S in U", "csrw sscratch, a0", 2, 0x1405_1073, 0),
    case("illegal, no such csr", "csrr a0, 0x5c0", 2, 0x5C00_2573),
    case("illegal, write to a read-only csr", "csrw mhartid, a0", 2, 0xF145_1073),
    case("illegal, mret in S", "mret", 2, 0x3020_0073, 1),
    case("illegal, sret in U", "sret", 2, 0x1020_0073, 0),
    case("illegal, floating point while FS is off", "fadd.d fa0, fa1, fa2", 2, 0x02C5_F553),
    case("illegal, sfence.vma in U", "sfence.vma", 2, 0x1200_0073, 0),
    *(case(f"misaligned {i}", f"{i} a2, (a0)", 4, DATA + o, a0=DATA + o)
      for i, o in (("lr.w", 2), ("lr.w", 1), ("lr.d", 4))),
    *(case(f"misaligned {i}", f"{i} a2, a1, (a0)", 6, DATA + o, a0=DATA + o)
      for i, o in (("amoadd.w", 2), ("amoswap.d", 4), ("amomaxu.d", 1), ("amoand.w", 3))),
    *(case(f"{i} from a hole", f"{i} a2, -8(a0)", 5, HOLE, a0=HOLE + 8)
      for i in ("lb", "lh", "lw", "ld", "lbu", "lhu", "lwu")),
    case("c.ld from a hole", "c.ld a2, 16(a0)", 5, HOLE + 16, a0=HOLE),
    *(case(f"{i} to a hole", f"{i} a1, 24(a0)", 7, HOLE + 24, a0=HOLE)
      for i in ("sb", "sh", "sw", "sd")),
    case("c.sd to a hole", "c.sd a1, 8(a0)", 7, HOLE + 8, a0=HOLE),
    *(case(f"{i} to a hole", f"{i} a2, a1, (a0)", 7, HOLE + 8, a0=HOLE + 8)
      for i in ("amoadd.d", "amoswap.w", "amominu.d", "amoor.w")),
    case("lr from a hole", "lr.d a2, (a0)", 5, HOLE, a0=HOLE),
    case("load just above RAM", "lw a2, (a0)", 5, RAM_END, a0=RAM_END),
    case("load just below RAM", "lw a2, -4(a0)", 5, RAM - 4, a0=RAM),
    case("load at the end of physical memory", "ld a2, (a0)", 5, (1 << 56) - 8, a0=(1 << 56) - 8),
]  # fmt: skip


@pytest.mark.parametrize("it", CASES, ids=[c.name for c in CASES])
@pytest.mark.parametrize("mie", [0, MIE])
def test_exception_into_m(bench: Bench, it: Case, mie: int) -> None:
    bench.w[words.MSTATUS] = UXL_SXL | mie | MPIE ^ (MPIE if mie else 0)
    bench.ram.write64(DATA, 0x1234)
    bench.ram.write64(DATA + 8, 0x5678)
    pc = CODE + it.offset
    tval = pc if it.tval is None else it.tval
    gpr = [bench.w[i] for i in range(32)]
    assert bench.trapped(it.snippet, priv=it.priv, a0=it.a0, a1=5) == (it.cause, pc, tval)
    assert bench.w[words.MSTATUS] == UXL_SXL | it.priv << 11 | (MPIE if mie else 0)
    assert bench.hart.priv == 3
    # The instruction before it has retired, itself and the next have not.
    gpr[9], gpr[10], gpr[11] = 1, it.a0, 5
    assert [bench.w[i] for i in range(32)] == gpr
    assert (bench.ram.read64(DATA), bench.ram.read64(DATA + 8)) == (0x1234, 0x5678)


def test_known_deviation_quadrant_0_funct3_4_does_nothing(bench: Bench) -> None:
    """Reserved in RV64GC (it became Zcb's), so it should be illegal; QEMU 5.0 skips it."""
    bench.ram.write(CODE, bytes.fromhex("0080") + WFI)
    assert bench.run().reason is StopReason.WFI
    assert bench.hart.pc == CODE + 6


JUMP = batch("jr a0")


def test_fetch_from_a_hole(bench: Bench) -> None:
    for target in (HOLE, HOLE + 0x126, RAM_END, RAM - 2, 0):
        assert bench.trapped(JUMP, a0=target) == (1, target, target)


def test_fetch_that_crosses_the_end_of_ram(bench: Bench) -> None:
    bench.ram.write16(RAM_END - 4, 0x0485)  # c.addi s1, 1
    bench.ram.write16(RAM_END - 2, 0x0093)  # the first half of addi ra, x0, 0
    assert bench.trapped(JUMP, a0=RAM_END - 4) == (1, RAM_END - 2, RAM_END)
    assert bench.reg("s1") == 1


STORE_ROM = batch("sd a1, 8(a0)")
AMO_ROM = batch("amoadd.w a2, a1, (a0)")
LOAD_ROM = batch("ld a2, 8(a0); wfi")


def test_rom_is_read_only(bench: Bench) -> None:
    reset = bytes(range(64)) + bytes(16)
    bench.machine.set_rom(reset, RAM, 0x8200_0000)
    assert bench.trapped(STORE_ROM, a0=ROM, a1=1) == (7, CODE, ROM + 8)
    assert bench.trapped(AMO_ROM, a0=ROM + 8, a1=1) == (7, CODE, ROM + 8)
    assert bench.run(LOAD_ROM, a0=ROM).reason is StopReason.WFI
    assert bench.reg("a2") == 0x0F0E0D0C0B0A0908


def test_illegal_at_the_start_of_a_page_behind_an_unmapped_one(bench: Bench) -> None:
    """The engine alone reports it as a fetch page fault one page below."""
    tables = bench.translate()
    page = 0x4000_0000
    tables.map(page, DATA)
    bench.ram.write32(DATA, 0xFFFF_4002)
    assert bench.trapped(pc=page, priv=1) == (2, page, 0x4002)
    bench.ram.write32(DATA, 0xFFFF_FFFF)
    bench.hart.access.flush_code()
    assert bench.trapped(pc=page, priv=1) == (2, page, 0xFFFF_FFFF)


def test_illegal_that_crosses_a_page(bench: Bench) -> None:
    tables = bench.translate()
    page = 0x4000_0000
    tables.map(page, DATA)
    tables.map(page + 0x1000, DATA + 0x3000)  # not the next page in physical memory
    bench.ram.write16(DATA + 0xFFE, 0x707F)
    bench.ram.write16(DATA + 0x3000, 0xABCD)
    assert bench.trapped(pc=page + 0xFFE, priv=1) == (2, page + 0xFFE, 0xABCD_707F)


# Page faults. VA of the page under test: PAGE, its flags and the access are the cases.
PAGE = 0x4000_0000
LD = batch("addi s1, s1, 1; ld a2, 16(a0)")
SD = batch("addi s1, s1, 1; sd a1, 16(a0)")
AMO = batch("addi s1, s1, 1; addi a0, a0, 16; amoadd.d a2, a1, (a0)")
LR = batch("addi s1, s1, 1; addi a0, a0, 16; lr.d a2, (a0)")
SC = batch("1: lr.d a3, (a4); addi a0, a0, 16; sc.d a2, a1, (a0)")
GO = batch("addi s1, s1, 1; jr a0")
RX = V | R | X | A | D

PAGE_FAULTS = [
    ("unmapped", LD, 0, 0, 13),
    ("unmapped", SD, 0, 0, 15),
    ("unmapped", AMO, 0, 0, 15),
    ("unmapped", LR, 0, 0, 13),
    ("execute-only", LD, V | X | A, 0, 13),
    ("execute-only", LR, V | X | A, 0, 13),
    ("read-only", SD, V | R | A | D, 0, 15),
    ("read-only", AMO, RX, 0, 15),
    ("U page, S without SUM", LD, RWX | U, 0, 13),
    ("U page, S without SUM", SD, RWX | U, 0, 15),
    ("U page, S without SUM", AMO, RWX | U, 0, 15),
    ("U=0, U-mode", LD, RWX, 1, 13),
    ("U=0, U-mode", SD, RWX, 1, 15),
    ("write without read", LD, V | W | A | D, 0, 13),
]


def run_page_fault(bench: Bench, snippet: Snippet, flags: int, user: int) -> tuple[int, int, int]:
    tables = bench.translate()
    tables.map(PAGE, DATA, flags)
    priv = 0 if user else 1
    if user:  # the code must be a U page
        tables.map(CODE, CODE, RX | U)
    bench.hart.access.flush_tlb()
    return bench.trapped(snippet, priv=priv, a0=PAGE, a1=5, a4=CODE)


@pytest.mark.parametrize(("why", "snippet", "flags", "user", "cause"), PAGE_FAULTS)
def test_page_fault(
    bench: Bench, why: str, snippet: Snippet, flags: int, user: int, cause: int
) -> None:
    found = run_page_fault(bench, snippet, flags, user)
    at = CODE + len(snippet.code) - (2 if snippet in (LD, SD) else 4)
    assert found == (cause, at, PAGE + 16)
    assert bench.w[words.MSTATUS] >> 11 & 3 == (0 if user else 1)
    assert bench.ram.read64(DATA + 16) == 0


def test_sc_faults_as_a_store(bench: Bench) -> None:
    """A reservation on the same PA through another VA, which may not be written."""
    tables = bench.translate()
    tables.map(PAGE, CODE, RX)
    bench.load(batch_sc)
    found = bench.trapped(pc=CODE, priv=1, a0=PAGE + 0x800, a1=5)
    assert found == (15, CODE + 4, PAGE + 0x800)


batch_sc = batch("lr.d a3, (a0); sc.d a2, a1, (a0)")


@pytest.mark.parametrize("flags", [0, V | R | W | A | D, RWX | U, V | W | X])
def test_fetch_page_fault(bench: Bench, flags: int) -> None:
    tables = bench.translate()
    tables.map(PAGE, DATA, flags)
    assert bench.trapped(GO, priv=1, a0=PAGE + 0x10) == (12, PAGE + 0x10, PAGE + 0x10)
    assert bench.reg("s1") == 1


CROSSING = batch(
    # 2 + 4 * 3 bytes up to the last two of the page, entered at several distances
    """
    c.addi s1, 1
    .option norvc
    addi s2, s2, 1
    sd s2, (a1)
    addi s3, s3, 1
    addi s4, s4, 1
    """
)


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_fetch_that_crosses_into_an_unmapped_page(bench: Bench, before: int) -> None:
    """From the middle of a block: all before it has retired, and exactly once."""
    tables = bench.translate()
    tables.map(PAGE, DATA)
    code = CROSSING.code
    assert len(code) == 18
    start = 0xFFE - 14
    bench.ram.write(DATA + start, code[:16])
    entry = PAGE + start + (0, 2, 6, 10)[before]
    found = bench.trapped(GO, priv=1, a0=entry, a1=DATA + 0x100)
    assert found == (12, PAGE + 0xFFE, PAGE + 0x1000)
    retired = [bench.reg(name) for name in ("s1", "s2", "s3", "s4")]
    expected = [[2, 1, 1, 0], [1, 1, 1, 0], [1, 0, 1, 0], [1, 0, 1, 0]][before]
    assert retired == expected  # s1 counts GO's own instruction too
    assert bench.ram.read64(DATA + 0x100) == expected[1]
    # When the page is mapped, the same instruction goes on.
    tables.map(PAGE + 0x1000, DATA + 0x1000)
    bench.ram.write16(DATA + 0x1000, int.from_bytes(code[16:], "little"))
    bench.ram.write(DATA + 0x1002, WFI)
    bench.hart.access.flush_tlb()
    assert bench.run(pc=PAGE + 0xFFE, priv=1).reason is StopReason.WFI
    assert bench.reg("s4") == 1


@pytest.mark.parametrize("levels", [3, 4, 5])
@pytest.mark.parametrize(("snippet", "cause"), [(LD, 5), (SD, 7), (AMO, 7), (LR, 5), (GO, 1)])
def test_page_table_outside_of_ram(bench: Bench, levels: int, snippet: Snippet, cause: int) -> None:
    """An access fault by the spec; the engine has it a page fault."""
    tables = bench.translate(levels)
    for level in range(1, levels - 1 if levels > 3 else 2):
        va = PAGE + (level << 39 if levels > 3 else 0)
        bench.ram.write64(tables.slot(va, level), HOLE >> 12 << 10 | V)
        bench.hart.access.flush_tlb()
        found = bench.trapped(snippet, priv=1, a0=va, a1=1)
        tval = va if snippet is GO else va + 16
        assert (found[0], found[2]) == (cause, tval)


@pytest.mark.parametrize("levels", [3, 4, 5])
@pytest.mark.parametrize(("snippet", "cause"), [(LD, 13), (SD, 15), (AMO, 15), (GO, 12)])
def test_non_canonical(bench: Bench, levels: int, snippet: Snippet, cause: int) -> None:
    tables = bench.translate(levels)
    tables.map(PAGE, DATA)
    bits = 12 + 9 * levels
    for va in (PAGE | 1 << bits, PAGE | 1 << 63, 1 << bits - 1, (1 << 64) - (1 << bits) + PAGE):
        found = bench.trapped(snippet, priv=1, a0=va, a1=1)
        assert (found[0], found[2]) == (cause, va if snippet is GO else va + 16)


STRADDLE_L = batch("ld a2, (a0)")
STRADDLE_S = batch("sd a1, (a0)")


def test_an_access_that_straddles_into_an_unmapped_page(bench: Bench) -> None:
    tables = bench.translate()
    tables.map(PAGE, DATA)
    before = bench.ram.read(DATA, 0x1000)
    for snippet, cause in ((STRADDLE_L, 13), (STRADDLE_S, 15)):
        mcause, mepc, mtval = bench.trapped(snippet, priv=1, a0=PAGE + 0xFFC, a1=(1 << 64) - 1)
        assert (mcause, mepc) == (cause, CODE)
        # "mtval will contain the virtual address of the portion of the access that caused
        # the fault" (section 3.1.16)
        assert mtval == PAGE + 0x1000
    assert bench.ram.read(DATA, 0x1000) == before


def test_an_access_that_straddles_into_a_hole(bench: Bench) -> None:
    bench.ram.write32(RAM_END - 4, 0x11111111)
    assert bench.trapped(STRADDLE_L, a0=RAM_END - 4) == (5, CODE, RAM_END)
    assert bench.trapped(STRADDLE_S, a0=RAM_END - 4) == (7, CODE, RAM_END)
    assert bench.ram.read32(RAM_END - 4) in (0x11111111, 0)  # the part in RAM is unspecified


# Delegation

EVERY_CAUSE = 0xB3FF & ~(1 << 11)  # what medeleg can hold


@pytest.mark.parametrize("it", CASES, ids=[c.name for c in CASES])
def test_delegated_exception(bench: Bench, it: Case) -> None:
    """From U and S to S; from M to M although it is delegated."""
    bench.w[words.MEDELEG] = 0xFFFF
    bench.w[words.MSTATUS] = UXL_SXL | SIE | MIE
    pc = CODE + it.offset
    wanted = (it.cause, pc, pc if it.tval is None else it.tval)
    if it.priv == 3:
        assert bench.trapped(it.snippet, priv=3, a0=it.a0, a1=5) == wanted
        return
    assert bench.s_trapped(it.snippet, priv=it.priv, a0=it.a0, a1=5) == wanted
    assert bench.w[words.MSTATUS] == UXL_SXL | MIE | SPIE | (SPP if it.priv else 0)
    assert bench.hart.priv == 1
    assert bench.w[words.MCAUSE] == 0  # M has seen nothing of it


def test_only_delegated_causes_go_to_s(bench: Bench) -> None:
    bench.w[words.MEDELEG] = 1 << 8 | 1 << 13
    assert bench.s_trapped(CASES[0].snippet, priv=0)[0] == 8
    assert bench.trapped(CASES[1].snippet, priv=1)[0] == 9
    tables = bench.translate()
    tables.map(PAGE, DATA, 0)
    assert bench.s_trapped(LD, priv=1, a0=PAGE)[0] == 13
    assert bench.trapped(SD, priv=1, a0=PAGE)[0] == 15


def test_an_exception_goes_to_base_in_vectored_mode(bench: Bench) -> None:
    bench.w[words.MTVEC] = VECTOR | 1
    assert bench.trapped(CASES[2].snippet, priv=3)[0] == 11
    bench.w[words.MEDELEG] = 0xFFFF
    bench.w[words.STVEC] = S_VECTOR | 1
    assert bench.s_trapped(CASES[1].snippet, priv=1)[0] == 9


# Return

XRET = batch("mret")
SRET = batch("sret")
STOP = batch("addi s1, s1, 1; wfi")


@pytest.mark.parametrize("mpp", [0, 1, 3])
@pytest.mark.parametrize("mpie", [0, MPIE])
def test_mret(bench: Bench, mpp: int, mpie: int) -> None:
    bench.ram.write32(CODE + 0x100, 0x1050_0073 if mpp else 0x0000_0073)
    bench.w[words.MSTATUS] = UXL_SXL | mpp << 11 | mpie | SIE | SPP
    bench.w[words.MEPC] = CODE + 0x100
    bench.hold_m()
    bench.run(XRET)
    assert bench.hart.priv == mpp
    # MIE = MPIE, MPIE = 1, MPP = U
    assert bench.w[words.MSTATUS] == UXL_SXL | MPIE | SIE | SPP | (MIE if mpie else 0)


@pytest.mark.parametrize("spp", [0, SPP])
@pytest.mark.parametrize("spie", [0, SPIE])
@pytest.mark.parametrize("priv", [1, 3])
def test_sret(bench: Bench, spp: int, spie: int, priv: int) -> None:
    bench.ram.write32(CODE + 0x100, 0x0000_0073)
    bench.w[words.MSTATUS] = UXL_SXL | spp | spie | MIE | 3 << 11
    bench.w[words.SEPC] = CODE + 0x100
    seen = bench.hold_m()
    bench.run(SRET, priv=priv)
    assert (seen[0].cause, seen[0].epc) == (9 if spp else 8, CODE + 0x100)
    assert bench.w[words.MSTATUS] == UXL_SXL | SPIE | MIE | 3 << 11 | (SIE if spie else 0)


ROUND = batch(
    """
    # M: an environment call from S comes here, is counted, and goes back behind it.
    .balign 4
    m_entry:
    csrrw t6, mscratch, t6
    csrr t6, mepc
    addi t6, t6, 4
    csrw mepc, t6
    addi s2, s2, 1
    mret
    .balign 4
    s_entry:
    csrr t5, sepc
    addi t5, t5, 4
    csrw sepc, t5
    addi s3, s3, 1
    sret
    .balign 4
    user:
    li s4, 1000
    1: ecall
    addi s4, s4, -1
    .option norvc
    ebreak
    .option rvc
    bnez s4, 1b
    li t0, 0x100000
    li t1, 0x5555
    sw t1, (t0)
    2: j 2b
    user_end:
    """
)


def test_many_traps_both_ways(bench: Bench) -> None:
    """U -> S for calls, U -> M for breakpoints, many times each."""
    bench.load(ROUND)
    bench.w[words.MTVEC] = CODE + ROUND.offset("m_entry")
    bench.w[words.STVEC] = CODE + ROUND.offset("s_entry")
    bench.w[words.MEDELEG] = 1 << 8 | 1 << 2
    traps: list[tuple[int, int, int]] = []
    bench.hart.trap_listener = lambda trap: traps.append((trap.cause, trap.priv, trap.target))
    bench.hart.handlers[1] = None
    stop = bench.run(pc=CODE + ROUND.offset("user"), priv=0)
    assert (stop.reason, stop.code) == (StopReason.EXIT, 0)
    assert (bench.reg("s2"), bench.reg("s3"), bench.reg("s4")) == (1000, 1000, 0)
    assert traps == [(8, 0, 1), (3, 0, 3)] * 1000


UNHANDLED = batch("ecall")


@pytest.mark.parametrize("vector", [0, HOLE, 0x4000_0100])
def test_no_vector_ends_the_run_with_the_first_trap(bench: Bench, vector: int) -> None:
    bench.w[words.MTVEC] = vector
    stop = bench.run(UNHANDLED, priv=0)
    assert stop.reason is StopReason.FAULT
    assert stop.trap is not None
    assert (stop.trap.cause, stop.trap.epc, stop.trap.priv, stop.trap.target) == (8, CODE, 0, 3)
    assert (bench.hart.pc, bench.hart.priv) == (CODE, 0)


def test_no_vector_in_s(bench: Bench) -> None:
    bench.translate()
    bench.w[words.STVEC] = 0x1_0000  # not mapped
    bench.w[words.MEDELEG] = 0xFFFF
    stop = bench.run(LD, priv=1, a0=PAGE)
    assert stop.reason is StopReason.FAULT and stop.trap is not None
    assert (stop.trap.cause, stop.trap.tval, stop.trap.target) == (13, PAGE + 16, 1)
    assert bench.hart.pc == stop.trap.epc


def test_a_jump_to_nowhere_with_no_vector(bench: Bench) -> None:
    bench.w[words.MTVEC] = 0
    stop = bench.run(JUMP, a0=HOLE)
    assert stop.reason is StopReason.FAULT and stop.trap is not None
    assert (stop.trap.cause, stop.trap.epc) == (1, HOLE)
