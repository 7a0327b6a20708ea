"""Explanations of faults, traces, disassembly."""

from __future__ import annotations

import pytest
from asm import Batch
from harness import CODE, DATA, HOLE, RWX, TABLES, A, Bench, D, R, U, V, W

from emu.debug.disasm import disassemble, listing
from emu.debug.explain import explain
from emu.debug.symbols import Symbols
from emu.debug.trace import tracer as trace
from emu.spec import words
from emu.spec.trap import Trap

batch = Batch()
PAGE = 0x4000_0000
TEXT = batch(".option norvc; addi s1, s1, 1; li s2, 7; ld a2, 16(a0); nop; nop; .option rvc; wfi")
SYMBOLS = Symbols([(CODE, 0x40, "walker"), (PAGE, 0x1000, "table")])


def explained(bench: Bench, pa: int, flags: int, priv: int = 1, va: int = PAGE) -> list[str]:
    tables = bench.translate()
    if flags:
        tables.map(PAGE, pa, flags)
    traps = bench.hold_m()
    bench.run(TEXT, priv=priv, a0=va)
    return explain(bench.hart, traps[0], SYMBOLS).splitlines()


def test_a_page_fault_is_explained(bench: Bench) -> None:
    lines = explained(bench, DATA, V | R | W | A | D | U)
    assert lines[0] == (
        "load page fault in S-mode at 0x80000008 <walker+0x8>, read of 0x40000010 <table+0x10>"
    )
    assert lines[2].split() == [
        "mepc", "0x0000000080000008", "mcause", "0xd", "(load", "page", "fault)"
    ]  # fmt: skip
    assert lines[3].split() == ["mtval", "0x0000000040000010", "satp", "0x8000000000080100"]
    registers = " ".join(lines[4:12])
    assert "s2    0x0000000000000007" in registers and "a0    0x0000000040000000" in registers
    at = lines.index("code:")
    code = lines[at + 1 : at + 8]
    assert [line[:2] for line in code] == ["  ", "  ", "=>", "  ", "  ", "  ", "  "]
    assert code[2].split() == [
        "=>", "0x80000008:", "01053603", "ld", "a2,", "0x10(a0)", "walker+0x8"
    ]  # fmt: skip
    at = next(i for i, line in enumerate(lines) if line.startswith("VA "))
    root, middle, leaf = TABLES + 8, TABLES + 0x3000, TABLES + 0x4000
    assert lines[at:] == [
        "VA 0x40000010 in sv39: vpn[2]=0x1 vpn[1]=0x0 vpn[0]=0x0 offset=0x10",
        "root table at PA 0x80100000, ASID 0",
        f"  level 2: PTE 0x1 at PA {root:#x} = {middle >> 2 | V:#018x}: "
        f"table at PA {middle:#x} -------",
        f"  level 1: PTE 0x0 at PA {middle:#x} = {leaf >> 2 | V:#018x}: "
        f"table at PA {leaf:#x} -------",
        f"  level 0: PTE 0x0 at PA {leaf:#x} = 0x00000000200010d7: page at PA 0x80004000 rw-u-ad",
        "refused at level 0: S-mode may not touch a page with U=1 while sstatus.SUM=0",
    ]


def test_nothing_mapped_and_non_canonical(bench: Bench) -> None:
    assert explained(bench, DATA, 0)[-1] == "refused at level 2: the PTE is not valid (V=0)"
    lines = explained(bench, DATA, RWX, va=1 << 40)
    assert lines[-1].startswith("refused before any table: the upper bits of the VA")


def test_an_access_fault_behind_a_good_translation(bench: Bench) -> None:
    lines = explained(bench, HOLE, RWX)
    assert lines[0].startswith("load access fault in S-mode")
    assert lines[-1] == f"refused: PA {HOLE + 16:#x} is neither RAM nor a device"
    assert "PA 0x40000010, a 4 KiB page, rwx--ad" in lines


def test_a_stale_translation_is_suspected(bench: Bench) -> None:
    tables = bench.translate()
    tables.map(PAGE, DATA)
    text = explain(bench.hart, Trap(13, CODE, PAGE, 1, 3))
    assert "missing sfence.vma?" not in text  # M-mode now: not translated
    bench.w[words.PRIV] = 1
    text = explain(bench.hart, Trap(13, CODE, PAGE, 1, 3))
    assert "missing sfence.vma?" in text


def test_without_translation_and_without_code(bench: Bench) -> None:
    traps = bench.hold_m()
    bench.run(TEXT, a0=HOLE)
    lines = explain(bench.hart, traps[0]).splitlines()
    assert lines[0] == "load access fault in M-mode at 0x80000008, read of 0x40000010"
    assert lines[-2:] == [
        "0x40000010 is a physical address here (no translation); "
        "RAM is <Ram 0x80000000-0x81000000>",
        "refused: PA 0x40000010 is neither RAM nor a device",
    ]
    bench.run(pc=HOLE)
    lines = explain(bench.hart, traps[1]).splitlines()
    assert lines[0] == "instruction access fault in M-mode at 0x40000000, execute of 0x40000000"
    assert "=> 0x40000000: cannot be fetched" in lines


def test_an_illegal_instruction_shows_its_bits(bench: Bench) -> None:
    traps = bench.hold_m()
    bench.ram.write32(CODE, 0xFFFF_FFFF)
    bench.run(priv=1)
    text = explain(bench.hart, traps[0])
    assert "the bits 0xffffffff are no instruction that this hart has at this level" in text
    assert "=> 0x80000000: ffffffff  .insn 0xffffffff" in text


def test_disassembly() -> None:
    assert disassemble(0x0105_3603, 4, 0) == "ld a2, 0x10(a0)"
    assert disassemble(0x4501, 2, 0) == "c.li a0, 0"
    assert disassemble(0x0000, 2, 0) == "c.unimp" or "0x0000" in disassemble(0x0000, 2, 0)
    assert listing(0x4501, 0x8000_0000, "main") == (
        "0x80000000: 4501      c.li a0, 0                      main"
    )


LOOP = batch(
    ".option norvc; li s1, 2; 1: sd s1, (a0); addi s1, s1, -1; bnez s1, 1b; ecall; .option rvc"
)


def traced(bench: Bench, kind: str) -> list[str]:
    lines: list[str] = []
    trace.attach(bench.hart, kind, lines.append, SYMBOLS)
    tables = bench.translate()
    tables.map(PAGE, DATA, RWX)
    bench.hold_m()
    bench.run(LOOP, priv=1, a0=PAGE + 8)
    return lines


def test_trace_of_traps(bench: Bench) -> None:
    assert traced(bench, "trap") == [
        "trap S->M environment call from S-mode epc=0x80000010 <walker+0x10> tval=0x0"
    ]


def test_trace_of_instructions(bench: Bench) -> None:
    lines = traced(bench, "insn")
    assert [line.split(":")[0] for line in lines] == [
        f"S {CODE + offset:#x}" for offset in (0, 4, 8, 12, 4, 8, 12, 16)
    ]
    assert lines[1].split()[2:] == ["00953023", "sd", "s1,", "0(a0)", "walker+0x4"]


def test_trace_of_pages(bench: Bench) -> None:
    assert traced(bench, "mmu") == [
        "mmu satp=0x8000000000080100",
        "mmu S execute 0x80000000: L2[0x2] L1[0x0] L0[0x0] -> PA 0x80000000 rwx--ad",
        "mmu S write 0x40000008: L2[0x1] L1[0x0] L0[0x0] -> PA 0x80004008 rwx--ad",
    ]


def test_a_trace_sees_code_that_has_run_before(bench: Bench) -> None:
    bench.hold_m()
    bench.run(LOOP, priv=1, a0=DATA)
    lines: list[str] = []
    trace.attach(bench.hart, "insn", lines.append, Symbols())
    bench.start(pc=CODE, priv=1)
    bench.machine.run()
    assert len(lines) == 8


def test_another_trace_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="trap, mmu, insn, dev"):
        trace.attach(bench.hart, "cache", print, Symbols())
