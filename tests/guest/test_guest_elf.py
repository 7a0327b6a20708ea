"""The ELF loader: an error for each bad input, by hand, and random damage."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from elf_kit import (
    CLASS,
    DATA,
    EHDR_SIZE,
    ENTRY,
    EXIT_7,
    LOOP,
    MACHINE,
    P_FILESZ,
    P_FLAGS,
    P_MEMSZ,
    P_OFFSET,
    P_PADDR,
    P_TYPE,
    P_VADDR,
    PHDR_SIZE,
    PHENTSIZE,
    PHNUM,
    PHOFF,
    SHENTSIZE,
    SHNUM,
    SHOFF,
    SHSTRNDX,
    TYPE,
    Load,
    R,
    W,
    X,
    make,
    patch,
    phdr,
)
from guest_kit import Kernel, compiled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mm
from emu.board.machine import Machine
from emu.stop import StopReason
from guest import build
from guest.cli.main import main
from guest.image import elf as elf_file
from guest.image.elf import ElfError
from guest.image.shipped import shipped

Cli = Callable[..., Result]


@cache
def hello() -> bytes:
    return shipped()["hello"].read_bytes()


@cache
def module() -> bytes:
    return shipped()["page_struct"].read_bytes()


@cache
def bare() -> bytes:
    return shipped()["uart_hello"].read_bytes()


def test_a_good_one() -> None:
    elf = elf_file.parse(hello(), "hello")
    assert (elf.entry, elf.start, elf.is_position_independent) == (0x10000, 0x10000, False)
    kinds = [(s.readable, s.writable, s.executable) for s in elf.segments]
    assert kinds == [(True, False, True), (True, False, False), (True, True, False)]
    assert elf.segments[2].memory_size > len(elf.segments[2].data)  # .bss
    assert elf.symbol("main") is not None and elf.symbol("nothing of that name") is None
    assert not elf.is_module
    assert elf_file.parse(module(), "m").is_module
    assert elf_file.parse(module(), "m").info == ("license=MIT",)


def test_a_made_one_runs(pagewalk: Cli, tmp_path: Path) -> None:
    path = tmp_path / "seven"
    path.write_bytes(make([Load(0x10000, EXIT_7, R | X)], 0x10000))
    assert pagewalk("run", path).exit_code == 7


# What is wrong with it, and what is said. `@` stands for the file's path.
PATCHED = {
    "32-bit": (lambda: patch(hello(), CLASS, 1, 1), "@: a 32-bit ELF; this hart is RV64"),
    "class 0": (lambda: patch(hello(), CLASS, 0, 1), "@: a 32-bit ELF; this hart is RV64"),
    "big-endian": (
        lambda: patch(hello(), DATA, 2, 1),
        "@: a big-endian ELF; this hart is little-endian",
    ),
    "x86-64": (lambda: patch(hello(), MACHINE, 62, 2), "@: for machine x86-64, not RISC-V"),
    "AArch64": (lambda: patch(hello(), MACHINE, 183, 2), "@: for machine AArch64, not RISC-V"),
    "object": (
        lambda: patch(hello(), TYPE, 1, 2),
        "@: an object file that is not linked, not an executable",
    ),
    "core": (lambda: patch(hello(), TYPE, 4, 2), "@: a core dump, not an executable"),
    "type 9": (lambda: patch(hello(), TYPE, 9, 2), "@: of type 9, not an executable"),
    "empty": (lambda: b"", "@: an empty file"),
    "text": (lambda: b"hello, world\n", "@: is text, not an ELF file; C and assembly files .*"),
    "magic only": (lambda: hello()[:4], "@: truncated ELF header (4 bytes)"),
    "half a header": (lambda: hello()[:40], "@: truncated ELF header (40 bytes)"),
    "header only": (lambda: hello()[:64], None),
    "no segments": (lambda: patch(hello(), PHNUM, 0, 2), "@: nothing to load (no PT_LOAD segment)"),
    "interpreter": (
        lambda: patch(hello(), phdr(2, P_TYPE), 3, 4),
        "@: dynamically linked (it names an interpreter): link it statically",
    ),
    "filesz above memsz": (
        lambda: patch(hello(), phdr(0, P_MEMSZ), 16, 8),
        r"@: segment at 0x10000: \d+ bytes in the file, 16 in memory",
    ),
    "filesz absurd": (
        lambda: patch(patch(hello(), phdr(0, P_FILESZ), 1 << 60, 8), phdr(0, P_MEMSZ), 1 << 60, 8),
        r"@: segment at 0x10000: truncated, the file ends \d+ bytes early",
    ),
    "offset absurd": (
        lambda: patch(hello(), phdr(0, P_OFFSET), (1 << 64) - 8, 8),
        r"@: segment at 0x10000: truncated, the file ends \d+ bytes early",
    ),
    "wraps around": (
        lambda: patch(hello(), phdr(0, P_VADDR), (1 << 64) - 16, 8),
        r"@: segment at 0xfffffffffffffff0: 0x\w+ bytes wrap around the address space",
    ),
    "paddr wraps around": (
        lambda: patch(hello(), phdr(0, P_PADDR), (1 << 64) - 16, 8),
        r"@: segment at 0x10000: 0x\w+ bytes wrap around the address space",
    ),
    "memsz absurd": (
        lambda: patch(hello(), phdr(2, P_MEMSZ), (1 << 64) - 1, 8),
        "@: segment at 0x12000: 0xffffffffffffffff bytes wrap around the address space",
    ),
    "memsz 1 TiB": (
        lambda: patch(hello(), phdr(2, P_MEMSZ), 1 << 40, 8),
        r"@: segment at 0x12000-0x10000012000 is outside of user space \(0x1000-0x3fffec0000\)",
    ),
    "memsz 1 GiB": (
        lambda: patch(hello(), phdr(2, P_MEMSZ), 1 << 30, 8),
        "@: does not fit into free RAM: no 262144 frames for 0x12000-0x40012000",
    ),
    "overlap": (
        lambda: patch(hello(), phdr(1, P_VADDR), 0x10010, 8),
        r"@: segments overlap: 0x10000-0x\w+ and 0x10010-0x\w+",
    ),
    "entry outside": (
        lambda: patch(hello(), ENTRY, 0x5000, 8),
        "@: the entry point 0x5000 is in no executable segment",
    ),
    "entry in data": (
        lambda: patch(hello(), ENTRY, 0x12000, 8),
        "@: the entry point 0x12000 is in no executable segment",
    ),
    "no access": (
        lambda: patch(hello(), phdr(1, P_FLAGS), 0, 4),
        "@: pages 0x11000-0x12000: a mapping without any access needs no memory",
    ),
    "writable and executable": (
        lambda: patch(hello(), phdr(0, P_FLAGS), 7, 4),
        r"@: pages 0x10000-0x11000: W\^X: a mapping is writable or executable, not both",
    ),
    "too many program headers": (
        lambda: patch(hello(), PHNUM, 5000, 2),
        "@: 5000 program headers",
    ),
    "program headers outside": (lambda: patch(hello(), PHOFF, 1 << 40, 8), None),
    "phentsize 0": (lambda: patch(hello(), PHENTSIZE, 0, 2), None),
    "bare at nowhere": (
        lambda: make([Load(0x1_0000_0000, EXIT_7, R | X)], 0x1_0000_0000),
        "@: segment at PA 0x100000000-0x10000000c (number 0) is outside of the RAM it may use, "
        "0x80000000-0x84000000: RAM would have to reach up to 0x10000000c",
    ),
    "bare above RAM": (
        lambda: make(
            [Load(0x8000_0000, EXIT_7, R | X), Load(0x8100_0000, b"", R | W, 1 << 30)], 0x8000_0000
        ),
        "@: segment at PA 0x81000000-0xc1000000 (number 1) is outside of the RAM it may use, "
        "0x80000000-0x84000000: RAM would have to reach up to 0xc1000000",
    ),
    "section headers outside": (lambda: patch(hello(), SHOFF, 1 << 40, 8), None),
    "section names outside": (lambda: patch(hello(), SHSTRNDX, 9999, 2), None),
    "a module cut short": (lambda: module()[: len(module()) // 2], None),
}


@pytest.mark.parametrize("name", list(PATCHED))
def test_what_is_said_about_a_bad_file(name: str, pagewalk: Cli, tmp_path: Path) -> None:
    damage, said = PATCHED[name]
    path = tmp_path / "bad"
    path.write_bytes(damage())
    result = pagewalk("run", path)
    assert result.stdout == ""
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith(f"pagewalk: {path}: ")
    if said is not None:
        import re

        wanted = said.removeprefix("@: ")
        found = line.removeprefix(f"pagewalk: {path}: ")
        assert found == wanted or re.fullmatch(wanted, found), line
    else:
        assert "damaged" in line or "truncated" in line or "overlap" in line, line


def test_files_that_are_no_files(pagewalk: Cli, tmp_path: Path) -> None:
    result = pagewalk("run", tmp_path)
    assert (result.exit_code, result.stderr) == (
        2,
        f"pagewalk: {tmp_path}: is a directory; one of sources is a kernel: pagewalk boot\n",
    )
    missing = tmp_path / "missing.elf"
    result = pagewalk("run", missing)
    assert (result.exit_code, result.stderr) == (2, f"pagewalk: {missing}: no such file\n")
    result = pagewalk("run", "/dev/zero")
    assert (result.exit_code, result.stderr) == (2, "pagewalk: /dev/zero: not an ELF file\n")
    result = pagewalk("run", "")
    assert (result.exit_code, result.stderr) == (2, "pagewalk: the program's name is empty\n")


def test_a_program_of_this_computer(pagewalk: Cli) -> None:
    result = pagewalk("run", Path(sys.executable).resolve())
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


def test_sections_are_not_needed(pagewalk: Cli, tmp_path: Path) -> None:
    data = hello()
    for offset, size in ((SHOFF, 8), (SHNUM, 2), (SHSTRNDX, 2)):
        data = patch(data, offset, 0, size)
    path = tmp_path / "stripped"
    path.write_bytes(data)
    result = pagewalk("run", path)
    assert result.exit_code == 0
    assert result.stdout.startswith("Hello from U-mode")


def test_a_damaged_symbol_table_hides_no_fault(pagewalk: Cli, tmp_path: Path) -> None:
    data = shipped()["fault"].read_bytes()
    shoff = int.from_bytes(data[SHOFF : SHOFF + 8], "little")
    count = int.from_bytes(data[SHNUM : SHNUM + 2], "little")
    for number in range(count):
        at = shoff + 64 * number
        if data[at + 4 : at + 8] == b"\2\0\0\0":  # SHT_SYMTAB
            data = patch(data, at + 4, 0, 4)
    with pytest.raises(ElfError, match="damaged symbol table"):
        list(elf_file.parse(data, "x").symbols)
    path = tmp_path / "fault"
    path.write_bytes(data)
    result = pagewalk("run", path, "null")
    assert result.exit_code == 139
    assert result.stderr.startswith("pagewalk: load page fault in U-mode at 0x10")


READS_WORDS = """
#include <linux/module.h>
int init_module(void) { return module_args[0]; }
"""


def test_a_module_whose_arguments_lie_outside_of_it() -> None:
    from guest.kernel.module import Module

    k = Kernel()
    before = k.counts()
    data = compiled(build.MODULE, READS_WORDS).read_bytes()
    elf = elf_file.parse(patch(data, PHNUM, 1, 2), "cut")  # text only
    with pytest.raises(ElfError, match="cut: module_args lies in no segment"):
        Module(k.mm, elf, ["x"])
    after = k.counts()
    assert (after["vm_areas"], after["objects"]) == (before["vm_areas"], before["objects"])
    k.close()


def test_a_section_count_that_never_ends() -> None:
    """e_shnum 0 takes the count from the first section's size; e_shentsize 0 never advances."""
    data = patch(patch(hello(), SHNUM, 0, 2), SHENTSIZE, 0, 2)
    shoff = int.from_bytes(hello()[SHOFF : SHOFF + 8], "little")
    data = patch(data, shoff + 32, (1 << 64) - 1, 8)  # sh_size
    with pytest.raises(ElfError, match=r"section headers|damaged"):
        elf_file.parse(data, "x")


# random damage

FIELDS_OF_HEADER = [(o, s) for o, s in ((24, 8), (32, 8), (40, 8)) for _ in range(2)]
FIELDS_OF_HEADER += [(o, 2) for o in (16, 18, 52, 54, 56, 58, 60, 62)]
VALUES = st.sampled_from(
    [0, 1, 7, 8, 56, 64, 4095, 4096, 0x10000, 0x11000, 0x12000, 0x8000_0000, 0x8020_0000]
    + [1 << n for n in (31, 32, 38, 39, 47, 56, 60, 63)]
    + [(1 << n) - 1 for n in (16, 32, 38, 56, 63, 64)]
    + [(1 << 64) - 4096, 0xFFFFFFFF_80000000]
) | st.integers(0, (1 << 64) - 1)


@dataclass
class Damaged:
    """A damaged file; what is shown of it is what was done to it."""

    source: str
    edits: list[tuple[int, int, int]]  # offset, value, size; a size of 0 cuts the file there
    data: bytes = field(repr=False)

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text(repr(self))  # Hypothesis would print all of the bytes


@st.composite
def damaged(draw: st.DrawFn, sources: tuple[Callable[[], bytes], ...]) -> Damaged:
    """A good ELF with a few fields, bytes or its end changed."""
    source = draw(st.sampled_from(sources))
    data = source()
    edits = []
    sections = int.from_bytes(data[SHOFF : SHOFF + 8], "little")
    count = int.from_bytes(data[SHNUM : SHNUM + 2], "little")
    segments = int.from_bytes(data[PHNUM : PHNUM + 2], "little")
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["header", "phdr", "shdr", "byte", "byte", "cut"]))
        if kind == "cut":
            data = data[: draw(st.integers(0, len(data)))]
            edits.append((len(data), 0, 0))
            continue
        if kind == "header":
            offset, size = draw(st.sampled_from(FIELDS_OF_HEADER))
        elif kind == "phdr":
            number = draw(st.integers(0, segments - 1))
            field = draw(st.sampled_from([(0, 4), (4, 4), *((o, 8) for o in range(8, 56, 8))]))
            offset, size = EHDR_SIZE + PHDR_SIZE * number + field[0], field[1]
        elif kind == "shdr":
            number = draw(st.integers(0, count - 1))
            field = draw(
                st.sampled_from([(0, 4), (4, 4), (40, 4), (44, 4), *((o, 8) for o in (8, 16, 24))])
                | st.sampled_from([(32, 8), (48, 8), (56, 8)])
            )
            offset, size = sections + 64 * number + field[0], field[1]
        else:
            offset, size = draw(st.integers(0, max(0, len(data) - 1))), 1
        value = draw(VALUES) & (1 << 8 * size) - 1
        if offset + size <= len(data):
            data = patch(data, offset, value, size)
            edits.append((offset, value, size))
    return Damaged(source.__name__, edits, data)


COUNT = 4000  # instructions: more than boot or hello take, and few, as each is a run

FUZZ = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@settings(FUZZ, max_examples=500)
@given(damaged((hello, module, bare)))
def test_damaged_files_are_refused_in_one_line_or_parsed(file: Damaged) -> None:
    try:
        elf = elf_file.parse(file.data, "file")
        list(elf.symbols)
    except ElfError as e:
        assert str(e).startswith("file: ") and "\n" not in str(e)
        return
    assert elf.segments == tuple(sorted(elf.segments, key=lambda s: s.va))
    for s in elf.segments:
        assert len(s.data) <= s.memory_size and s.end <= 1 << 64
        assert len(s.data) <= len(file.data)


@pytest.mark.slow
def test_damaged_programs_run_or_are_refused_and_nothing_is_lost() -> None:
    """On one machine: what a damaged program does must not reach the next."""
    k = Kernel()
    k.load(elf_file.parse(hello(), "hello"))
    k.system.end_program()
    before = k.counts()
    seen = set()

    @settings(FUZZ, max_examples=120)
    @given(damaged((hello,)))
    def try_one(file: Damaged) -> None:
        try:
            k.load(elf_file.parse(file.data, "file"), "an argument")
        except ElfError as e:
            assert str(e).startswith("file: ") and "\n" not in str(e)
            seen.add("refused")
        else:
            seen.add(k.system.machine.run(COUNT).reason)
            k.system.end_program()
        after = k.counts()
        for counter in ("objects", "mms", "vmas", "vm_areas"):
            assert after[counter] == before[counter]

    try_one()
    assert {"refused", StopReason.EXIT, StopReason.FAULT} <= seen
    # A program that works still does.
    k.console.clear()
    assert k.run(elf_file.parse(hello(), "hello")).code == 0
    assert k.text.startswith("Hello from U-mode")
    k.close()


def test_damaged_modules_load_or_are_refused_and_nothing_is_lost() -> None:
    from guest.kernel.module import Module

    k = Kernel()
    Module(k.mm, elf_file.parse(module(), "m")).close()
    before = k.counts()
    seen = set()

    @settings(FUZZ, max_examples=120)
    @given(damaged((module,)))
    def try_one(file: Damaged) -> None:
        try:
            made = Module(k.mm, elf_file.parse(file.data, "file"), ["x"])
        except ElfError as e:
            assert str(e).startswith("file: ") and "\n" not in str(e)
            seen.add("refused")
        else:
            seen.add("loaded")
            mm.check(k.mm)
            made.close()
        after = k.counts()
        for counter in ("objects", "mms", "vmas", "vm_areas"):
            assert after[counter] == before[counter]

    try_one()
    assert seen == {"refused", "loaded"}
    k.close()


@pytest.mark.slow
def test_the_command_line_survives_damaged_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = Machine.run
    # A damaged program may run for ever; the boot is far shorter than this.
    monkeypatch.setattr(Machine, "run", lambda self, count=0: real(self, count or COUNT))
    path = tmp_path / "damaged"
    statuses = set()

    @settings(FUZZ, max_examples=80)
    @given(damaged((hello, module, bare)))
    def try_one(file: Damaged) -> None:
        path.write_bytes(file.data)
        result = CliRunner().invoke(main, ["run", str(path)])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert "Traceback" not in result.stderr
        if result.exit_code == 2 and not result.stdout:
            [line] = result.stderr.splitlines()
            assert line.startswith("pagewalk: ")
        statuses.add(result.exit_code)

    try_one()
    assert {0, 2} <= statuses


def test_a_corrupted_loop_is_bounded() -> None:
    k = Kernel()
    k.load(elf_file.parse(make([Load(0x10000, LOOP, R | X)], 0x10000), "loop"))
    assert k.system.machine.run(1000).reason is StopReason.LIMIT
    k.close()
