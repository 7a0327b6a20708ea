"""Every CSR of the hart: what is written, and what is read back.

`TABLE` is from the text of the privileged spec (20240411) and of Sstc, for a hart with M, S and U,
C, F and D, Sv39 to Sv57, no hypervisor, 16 bits of ASID, no counters but the three, no triggers.
PMP's registers are not judged here. What can be chosen (WARL) is chosen as QEMU's `virt` does
where kernels look at it. The same accesses run on QEMU where it is installed.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from asm import assemble
from harness import CODE, Bench

from emu.board.machine import Machine
from emu.spec import words
from emu.stop import StopReason

ALL = (1 << 64) - 1
SSI, MSI, STI, MTI, SEI, MEI = (1 << n for n in (1, 3, 5, 7, 9, 11))
S_BITS, M_BITS = SSI | STI | SEI, MSI | MTI | MEI
SIE, MIE, SPIE, MPIE, SPP, MPP = 1 << 1, 1 << 3, 1 << 5, 1 << 7, 1 << 8, 3 << 11
FS, MPRV, SUM, MXR, TVM, TW, TSR = 3 << 13, 1 << 17, 1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 22
UXL, SXL, SD = 2 << 32, 2 << 34, 1 << 63

Read = Callable[[int], int]


def keeps(mask: int, always: int = 0) -> Read:
    """The bits of ``mask`` are as written, those of ``always`` set, the others 0."""
    return lambda value: value & mask | always


def mstatus(value: int) -> int:
    """Section 3.1.6: MPP of 2 is no level, and what was there (0) stays; SD is FS = 3."""
    kept = value & (SIE | MIE | SPIE | MPIE | SPP | MPP | FS | MPRV | SUM | MXR | TVM | TW | TSR)
    if kept & MPP == 2 << 11:
        kept &= ~MPP
    return kept | UXL | SXL | (SD if kept & FS == FS else 0)


def sstatus(value: int) -> int:
    """Section 12.1.1."""
    kept = value & (SIE | SPIE | SPP | FS | SUM | MXR)
    return kept | UXL | (SD if kept & FS == FS else 0)


def satp(value: int) -> int:
    """Section 12.1.11: a reserved mode, and the whole write is without effect; in the mode Bare
    the rest must be written as 0, and is kept here."""
    return value if value >> 60 in (0, 8, 9, 10) else 0


def xtvec(value: int) -> int:
    """Section 3.1.7: modes 0 and 1; another, and the write is without effect."""
    return value if value & 3 < 2 else 0


# By number: how it reads after a write in M-mode, from 0.
TABLE: dict[int, Read] = {
    0x001: keeps(0x1F), 0x002: keeps(7), 0x003: keeps(0xFF),  # fflags, frm, fcsr
    0x100: sstatus, 0x104: keeps(0), 0x144: keeps(0),  # sie, sip: nothing is delegated
    0x105: xtvec, 0x106: keeps(0xFFFF_FFFF), 0x10A: keeps(1),  # stvec, scounteren, senvcfg
    0x140: keeps(ALL), 0x141: keeps(ALL - 1), 0x142: keeps(ALL), 0x143: keeps(ALL),
    0x14D: keeps(ALL), 0x180: satp,  # stimecmp, satp
    0x300: mstatus, 0x301: keeps(0, 2 << 62 | 0x14_112D),  # misa: RV64, ACDFIMSU, read-only
    0x302: keeps(0xB3FF), 0x303: keeps(S_BITS), 0x304: keeps(S_BITS | M_BITS),
    0x305: xtvec, 0x306: keeps(0xFFFF_FFFF), 0x30A: keeps(1 << 63 | 1),  # mcounteren, menvcfg
    0x320: keeps(0), 0x340: keeps(ALL), 0x341: keeps(ALL - 1), 0x342: keeps(ALL),
    0x343: keeps(ALL), 0x344: keeps(S_BITS),
    **dict.fromkeys(range(0x323, 0x340), keeps(0)),  # mhpmevent
    **dict.fromkeys(range(0xB03, 0xB20), keeps(0)),  # mhpmcounter
    **dict.fromkeys(range(0x7A0, 0x7A4), keeps(0)),  # tselect, tdata: there are no triggers
}  # fmt: skip
COUNTERS = {0xB00, 0xB02}
READ_ONLY = {*range(0xC00, 0xC20), 0xF11, 0xF12, 0xF13, 0xF14, 0xF15}
PMP = {0x3A0, 0x3A2, *range(0x3B0, 0x3C0)}  # RV64 has the even configurations
EVERY = {*TABLE, *COUNTERS, *READ_ONLY, *PMP}

VALUES = [0, ALL, 0x5555_5555_5555_5555, 0xAAAA_AAAA_AAAA_AAAA, 1 << 11, 3 << 13]
VALUES += [mode << 60 | 0xFFFF << 44 | 0x80123 for mode in (1, 8, 9, 10, 11)]
VALUES += [1 << bit for bit in range(64)]

A0, A1 = 10, 11
WFI = 0x1050_0073


def csrrw(rd: int, number: int, rs1: int) -> int:
    return number << 20 | rs1 << 15 | 1 << 12 | rd << 7 | 0x73


def csrr(rd: int, number: int) -> int:
    return number << 20 | 2 << 12 | rd << 7 | 0x73


class Csrs:
    """Accesses by instructions, on a bench whose traps end the run."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def run(self, priv: int, *code: int, a0: int = 0) -> tuple[int, int | None]:
        """``(cause, a1)``: of the trap, -1 for none."""
        bench = self._bench
        bench.ram.write(CODE, b"".join(bits.to_bytes(4, "little") for bits in (*code, WFI)))
        bench.hart.code_changed(CODE, 64)
        bench.start(priv=priv, a0=a0, a1=0)
        bench.w[words.MCAUSE], bench.w[words.MEDELEG] = ALL, 0
        assert bench.machine.run().reason is StopReason.WFI
        cause, epc = bench.w[words.MCAUSE], bench.w[words.MEPC]
        if epc == CODE + 4 * len(code):  # the `wfi` is illegal in U-mode
            cause = ALL
        return (-1 if cause == ALL else cause), bench.reg("a1")


@pytest.fixture
def csrs(inside: Bench) -> Csrs:
    inside.w[words.MSTATUS] |= FS
    return Csrs(inside)


@pytest.mark.parametrize("number", sorted(TABLE), ids=hex)
def test_what_is_written_in_m_mode_reads_as_the_spec_has_it(inside: Bench, number: int) -> None:
    hart = inside.hart
    vectors = inside.w[words.MTVEC]
    for value in VALUES:
        # The write first, and at once 0 again: some change what M-mode itself may do.
        hart.access.csr(number, 0)
        inside.w[words.MTVEC] = 0 if number == 0x305 else vectors
        code = csrrw(0, number, A0), csrr(A1, number), csrrw(0, number, 0), WFI
        inside.ram.write(CODE, b"".join(bits.to_bytes(4, "little") for bits in code))
        hart.code_changed(CODE, 64)
        inside.w[words.MSTATUS] |= FS
        if number in (0x100, 0x300):
            inside.w[words.MSTATUS] = UXL | SXL
        inside.start(a0=value, a1=0x5A5A)
        assert inside.machine.run().reason is StopReason.WFI
        assert hart.pc == CODE + 16, f"{value:#x} traps"
        assert inside.reg("a1") == TABLE[number](value), hex(value)
        assert hart.priv == 3


def test_there_are_these_and_no_others(csrs: Csrs) -> None:
    """By reads in M-mode; and each belongs to a level, which its number says (section 2.1)."""
    there = {n for n in range(0x1000) if csrs.run(3, csrr(A1, n))[0] == -1}
    assert {hex(n) for n in there ^ EVERY} == set()
    for number in EVERY:
        least = number >> 8 & 3
        for priv in (0, 1):
            allowed = priv >= least and number != 0x14D  # stimecmp: menvcfg.STCE is 0
            assert (csrs.run(priv, csrr(A1, number))[0] == -1) == allowed, (hex(number), priv)


def test_read_only_ones_cannot_be_written(csrs: Csrs) -> None:
    for number in READ_ONLY:
        assert csrs.run(3, csrrw(A1, number, 0))[0] == 2, hex(number)
        assert csrs.run(3, number << 20 | 6 << 12 | A1 << 7 | 0x73)[0] == -1  # csrrsi with 0


DELEGATIONS = [0, SSI, STI, SEI, SSI | STI, SSI | SEI, STI | SEI, S_BITS]


@pytest.mark.parametrize("mideleg", DELEGATIONS, ids=hex)
@pytest.mark.parametrize("priv", [1, 3])
def test_sie_and_sip_are_what_is_delegated(inside: Bench, priv: int, mideleg: int) -> None:
    """Section 12.1.3: a bit that is not delegated reads 0 and is not written."""
    csrs, w, interrupts = Csrs(inside), inside.w, inside.hart.interrupts
    for before in (0, ALL):
        for value in (0, ALL, SSI, STI, SEI, S_BITS, M_BITS):
            interrupts.become(0, 0)
            w[words.MIDELEG], w[words.MIE] = mideleg, before & (S_BITS | M_BITS)
            w[words.MSTATUS] = UXL | SXL
            cause, read = csrs.run(3, csrrw(0, 0x104, A0), csrr(A1, 0x104), a0=value)
            assert (cause, read) == (-1, value & mideleg)
            assert w[words.MIE] == (before & ~mideleg | value & mideleg) & (S_BITS | M_BITS)
            # sip: SSIP alone can be written, where it is delegated.
            w[words.MIE] = 0
            interrupts.become(0, before & S_BITS)
            cause, read = csrs.run(priv, csrrw(0, 0x144, A0), csrr(A1, 0x144), a0=value)
            after = (before & ~(SSI & mideleg) | value & SSI & mideleg) & S_BITS
            assert (cause, read, inside.hart.pending) == (-1, after & mideleg, after)


def test_mip_keeps_the_wire_of_seip_and_the_bit_apart(inside: Bench) -> None:
    """Section 3.1.9: mip reads the OR; a write, a set and a clear touch the bit."""
    csrs, interrupts = Csrs(inside), inside.hart.interrupts
    clear = 0x344 << 20 | A0 << 15 | 3 << 12 | A1 << 7 | 0x73
    set_ = 0x344 << 20 | A0 << 15 | 2 << 12 | A1 << 7 | 0x73
    for wire in (False, True):
        inside.hart.set_pending(9, wire)
        for code, bit in ((set_, SEI), (clear, 0), (set_, SEI), (csrrw(A1, 0x344, 0), 0)):
            before = inside.hart.pending
            assert csrs.run(3, code, a0=SEI) == (-1, before)
            assert interrupts.written == bit
            assert inside.hart.pending == (SEI if wire else bit)


def test_mret_and_sret_clear_mprv(inside: Bench) -> None:
    """Section 3.1.6.3: a return to a level below M; one from M to M leaves it."""
    mret, sret = 0x3020_0073, 0x1020_0073
    target = CODE + 0x100
    for code, status, priv, left in (
        (mret, MPRV, 0, 0), (mret, MPRV | 1 << 11, 1, 0), (mret, MPRV | MPP, 3, MPRV),
        (sret, MPRV, 0, 0), (sret, MPRV | SPP, 1, 0),
    ):  # fmt: skip
        inside.ram.write(CODE, code.to_bytes(4, "little"))
        inside.ram.write(target, WFI.to_bytes(4, "little") if priv else b"\x73\0\0\0")
        inside.hart.code_changed(CODE, 4096)
        w = inside.w
        w[words.MSTATUS], w[words.MEPC], w[words.SEPC] = UXL | SXL | status, target, target
        inside.start(priv=3)
        assert inside.machine.run().reason is StopReason.WFI
        assert inside.hart.read_csr(0x300) & MPRV == left


# On QEMU: the same accesses as text on the console.

SKIPPED_ON_QEMU = {
    **dict.fromkeys((0x320, *range(0x323, 0x340), *range(0xB03, 0xB20)), "it has more counters"),
    **dict.fromkeys(range(0x7A0, 0x7A4), "it has triggers"),
    0x301: "it has more extensions",
    0x30A: "it has Svpbmt's and Zicbom's fields too",
    0x10A: "it has Zicbom's fields too",
    0x302: "it lets the ecall from M be delegated",
}
# Bits that QEMU 7.2 has otherwise than the spec has them for this hart.
HYPERVISOR = 0x2444  # of mideleg, mie and mip: there without the extension
OTHERWISE_ON_QEMU = {
    # The vector unit's field, MPV and GVA are there, UXL can be written, MPP of 2 is kept.
    0x300: 3 << 38 | 3 << 32 | 3 << 9 | MPP,
    0x100: 3 << 32 | 3 << 9,
    0x106: 0xFFFF_FFFF << 32, 0x306: 0xFFFF_FFFF << 32,  # of 64 bits
    0x141: 1, 0x341: 1,  # kept as written, and cleared when it is used
    0x303: HYPERVISOR, 0x304: HYPERVISOR,
    0x344: HYPERVISOR | MTI,  # and mtimecmp is 0 after reset, which has passed
}  # fmt: skip
PROGRAM = """
    .option norvc
    la   sp, bad
    csrw mtvec, sp
    {tries}
    li   t0, 0x100000
    li   t1, 0x5555
    sw   t1, 0(t0)
    j    .
    .balign 4
    bad: li a1, 0xbad
    csrr t0, mepc
    addi t0, t0, 4
    csrw mepc, t0
    mret
    show: li t0, 0x10000000
    li   t1, 60
    1: srl t2, a1, t1
    andi t2, t2, 15
    addi t2, t2, 48
    li   t3, 58
    bltu t2, t3, 2f
    addi t2, t2, 39
    2: sb t2, 0(t0)
    addi t1, t1, -4
    bgez t1, 1b
    li   t2, 10
    sb   t2, 0(t0)
    ret
"""
QEMU = shutil.which("qemu-system-riscv64")
SOME = [0, ALL, 0x5555_5555_5555_5555, 0xAAAA_AAAA_AAAA_AAAA, 3 << 13]
SOME += [mode << 60 | 0x1234 << 44 | 0x80123 for mode in (8, 9, 10, 11)]


def tried() -> list[tuple[int, int]]:
    return [(n, v) for n in TABLE if n not in SKIPPED_ON_QEMU for v in SOME]


def program() -> bytes:
    lines = []
    for number, value in tried():
        # FS on for fcsr and its parts; mtvec is put back before anything can trap.
        lines.append(f"li t0, {FS:#x}\ncsrw mstatus, {'zero' if number == 0x300 else 't0'}")
        if number in (0x100,):
            lines.append("csrw mstatus, zero")
        lines.append(f"csrw {number:#x}, zero\nli a0, {value:#x}\ncsrw {number:#x}, a0")
        lines.append(f"csrr a1, {number:#x}\ncsrw {number:#x}, zero\ncsrw mtvec, sp\ncall show")
    return assemble(PROGRAM.format(tries="\n".join(lines)))


def console_of_ours(code: bytes) -> list[str]:
    output = bytearray()
    with closing(Machine(16 << 20, output.extend)) as machine:
        machine.ram.write(machine.ram.base, code)
        machine.hart.reset(machine.ram.base)
        assert machine.run().reason is StopReason.EXIT
    return output.decode().split()


def test_the_program_reads_what_the_table_says() -> None:
    found = console_of_ours(program())
    wanted = [f"{TABLE[number](value):016x}" for number, value in tried()]
    wrong = {(hex(n), hex(v)): (f, w) for (n, v), f, w in zip(tried(), found, wanted, strict=True)
             if f != w}  # fmt: skip
    assert not wrong


@pytest.mark.skipif(QEMU is None, reason="qemu-system-riscv64 is not installed")
def test_qemu_reads_the_same(tmp_path: Path) -> None:
    assert QEMU is not None
    file = tmp_path / "csrs.bin"
    file.write_bytes(program())
    command = [QEMU, "-machine", "virt", "-bios", "none", "-cpu", "rv64,h=false", "-nographic"]
    command += ["-device", f"loader,file={file},addr={0x8000_0000:#x}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    found = done.stdout.decode().split()
    assert len(found) == len(tried())
    differs = {
        (hex(number), hex(value), read)
        for (number, value), read in zip(tried(), found, strict=True)
        if (int(read, 16) ^ TABLE[number](value)) & ~OTHERWISE_ON_QEMU.get(number, 0)
    }
    assert not differs
