"""The effective address of every load, store and atomic, against assembled instructions."""

from __future__ import annotations

import re

import pytest
from asm import Batch

from emu.spec import insn
from emu.spec.words import ABI_NAMES

M64 = (1 << 64) - 1
# A different value in each register, some near the ends of the address space.
GPR = [0, *(0x1_0000_1000 * i + 0x10 * i for i in range(1, 30)), 8, M64 - 7]

batch = Batch()
OFFSETS = (0, 1, -1, 2047, -2048, 0x555, -0x556)
LOADS = ("lb", "lh", "lw", "ld", "lbu", "lhu", "lwu", "flw", "fld")
STORES = ("sb", "sh", "sw", "sd", "fsw", "fsd")
LRSC = ("lr.w", "lr.d", "sc.w", "sc.d")
AMOS = tuple(
    f"amo{kind}.{width}"
    for kind in ("swap", "add", "xor", "and", "or", "min", "max", "minu", "maxu")
    for width in "wd"
)
# Compressed: mnemonic, register it moves, base, the offsets at the ends and one bit at a time.
COMPRESSED = [
    *(("c.lw", "a5", base, 4 << i) for i in range(5) for base in ("s0", "a5")),
    *(("c.sw", "a0", base, 4 << i) for i in range(5) for base in ("s0", "a5")),
    *((name, "s1", "a3", 8 << i) for i in range(5) for name in ("c.ld", "c.sd")),
    *((name, "fs1", "a4", 8 << i) for i in range(5) for name in ("c.fld", "c.fsd")),
    *((name, "t6", "sp", 4 << i) for i in range(6) for name in ("c.lwsp", "c.swsp")),
    *((name, "t6", "sp", 8 << i) for i in range(6) for name in ("c.ldsp", "c.sdsp")),
    *((name, "ft8", "sp", 8 << i) for i in range(6) for name in ("c.fldsp", "c.fsdsp")),
    *(("c.lw", "a0", "a1", offset) for offset in (0, 124)),
    *((name, "a0", "a1", offset) for name in ("c.ld", "c.sd") for offset in (0, 248)),
    *((name, "a0", "sp", offset) for name in ("c.lwsp", "c.swsp") for offset in (0, 252)),
    *((name, "a0", "sp", offset) for name in ("c.ldsp", "c.sdsp") for offset in (0, 504)),
]
BASES = ("zero", "ra", "sp", "s0", "a5", "t5", "t6")


def moved(name: str) -> str:
    return "fs0" if name.startswith("f") else "a0"


WITH_OFFSET = [
    (f"{name} {moved(name)}, {offset}({base})", base, offset)
    for name in LOADS + STORES
    for offset in OFFSETS
    for base in BASES
]
ATOMICS = [
    (f"{name}{order} a0, {'' if name.startswith('lr') else 'a1, '}({base})", base, 0)
    for name in LRSC + AMOS
    for order in ("", ".aqrl")
    for base in BASES
]
SHORT = [
    (f"{name} {reg}, {offset}({base})", base, offset) for name, reg, base, offset in COMPRESSED
]
NO_DATA = [
    "nop", "lui a0, 5", "auipc a0, 5", "jal ra, .", "jalr a0", "beq a0, a1, .", "addi a0, a0, 1",
    "add a0, a0, a1", "ecall", "ebreak", "wfi", "csrr a0, mstatus", "fence", "fence.i", "mret",
    "sfence.vma", "fadd.d fa0, fa1, fa2", "fmadd.d fa0, fa1, fa2, fa3", "addw a0, a1, a2",
    "c.nop", "c.addi4spn a0, sp, 8", "c.li a0, 1", "c.lui a0, 1", "c.srli a0, 1", "c.and a0, a1",
    "c.j .", "c.beqz a0, .", "c.bnez a0, .", "c.slli a0, 1", "c.jr a0", "c.jalr a0", "c.mv a0, a1",
    "c.add a0, a1", "c.ebreak", "c.addi16sp sp, 16", "c.addiw a0, 1",
]  # fmt: skip


def uncompressed(lines: list[tuple[str, str, int]]) -> str:
    return ".option norvc\n" + "\n".join(text for text, _, _ in lines) + "\n.option rvc"


LONG_CODE = batch(uncompressed(WITH_OFFSET + ATOMICS))
SHORT_CODE = batch("\n".join(text for text, _, _ in SHORT))
NO_DATA_CODE = batch("\n".join(NO_DATA))


def split(code: bytes) -> list[int]:
    """The instructions; their lengths are in the low two bits (chapter 1.5)."""
    found, at = [], 0
    while at < len(code):
        size = 4 if code[at] & 3 == 3 else 2
        found.append(int.from_bytes(code[at : at + size], "little"))
        at += size
    return found


@pytest.mark.parametrize(
    ("lines", "snippet", "size"),
    [(WITH_OFFSET + ATOMICS, LONG_CODE, 4), (SHORT, SHORT_CODE, 2)],
    ids=["long", "short"],
)
def test_effective_address(lines: list[tuple[str, str, int]], snippet: object, size: int) -> None:
    found = split(snippet.code)  # type: ignore[attr-defined]
    assert len(found) == len(lines) > 60
    for (text, base, offset), bits in zip(lines, found, strict=True):
        assert insn.length(bits) == size, text
        wanted = (GPR[ABI_NAMES.index(base)] + offset) % (1 << 64)
        assert insn.effective_address(bits, GPR) == wanted, text


def test_what_touches_no_data_has_no_address() -> None:
    found = split(NO_DATA_CODE.code)
    assert len(found) == len(NO_DATA)
    for text, bits in zip(NO_DATA, found, strict=True):
        assert insn.effective_address(bits, GPR) is None, text


def test_capstone_reads_the_same_operands() -> None:
    """An independent decoder agrees on base and offset: the assembler is not alone."""
    import capstone

    engine = capstone.Cs(capstone.CS_ARCH_RISCV, capstone.CS_MODE_RISCV64 | capstone.CS_MODE_RISCVC)
    count = 0
    for found in engine.disasm(LONG_CODE.code + SHORT_CODE.code, 0):
        match = re.search(r"(-?(?:0x)?[0-9a-f]*)\((\w+)\)$", found.op_str)
        assert match, found
        offset = int(match[1] or "0", 0)
        bits = int.from_bytes(found.bytes, "little")
        wanted = (GPR[ABI_NAMES.index(match[2])] + offset) & M64
        assert insn.effective_address(bits, GPR) == wanted, f"{found.mnemonic} {found.op_str}"
        count += 1
    assert count == len(WITH_OFFSET + ATOMICS + SHORT)


def test_store_or_amo() -> None:
    for (text, _, _), bits in zip(WITH_OFFSET + ATOMICS, split(LONG_CODE.code), strict=True):
        is_atomic = text.startswith(("sc.", "amo"))
        assert insn.is_store_or_amo(bits) == is_atomic, text
    for bits in split(SHORT_CODE.code) + split(NO_DATA_CODE.code):
        assert not insn.is_store_or_amo(bits)


def test_length() -> None:
    assert [insn.length(bits) for bits in (0x0000, 0x0001, 0x9002, 0x0013, 0xFFFF_FFFF)] == [
        2, 2, 2, 4, 4
    ]  # fmt: skip
