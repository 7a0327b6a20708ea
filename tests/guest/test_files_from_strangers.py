"""Symbols, device trees and ELF files that are larger than there is use for."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import elf_kit
import pytest
from click.testing import Result

from guest.boot.outcome import UsageError
from guest.boot.system_map import read_system_map
from guest.image import elf

Cli = Callable[..., Result]
MIB = 1 << 20


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    [line] = result.stderr.splitlines()
    assert 10 < len(line) < 500
    return line


def test_symbols_without_end(pagewalk: Cli, tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.write_bytes(b"0 t a\n" * ((1 << 20) + 1))
    assert "more than 1048576 lines" in refused(pagewalk("boot", "tiny", "--symbols", path))
    path.write_bytes(b"")
    with path.open("r+b") as file:
        file.truncate(65 * MIB)
    assert "room for 65536 KiB" in refused(pagewalk("boot", "tiny", "--symbols", path))


@pytest.mark.parametrize(
    "line",
    [b"-1 t a", b"1" + b"0" * 16 + b" t a", b"f" * 10_000 + b" t a", b"0 t " + b"x" * 5000,
     b"0 t \xff\xfe", b"0 \xff a"],
)  # fmt: skip
def test_lines_that_are_no_symbols(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "map"
    path.write_bytes(b"ffffffff80000000 T _start\n" + line + b"\n")
    with pytest.raises(UsageError, match=r":2: not a line of symbols") as caught:
        read_system_map(path)
    assert len(str(caught.value)) < 500
    path.write_bytes(b"ffffffff80000000 T _start\n\n0000000000000010 t a.b [module] more\n")
    assert read_system_map(path) == [(0xFFFF_FFFF_8000_0000, 0, "_start"), (16, 0, "a.b")]


def test_a_device_tree_of_any_size(pagewalk: Cli, tmp_path: Path) -> None:
    """A MiB is what the board has room for, whatever its RAM; no more of it is read."""
    path = tmp_path / "tree.dtb"
    with path.open("wb") as file:
        file.write(struct.pack(">II", 0xD00D_FEED, 100 * MIB))
        file.truncate(100 * MIB)
    assert "room for 1024 KiB" in refused(pagewalk("boot", "tiny", "--dtb", path, "--ram", "256M"))


def test_a_compressed_section(tmp_path: Path) -> None:
    """pyelftools inflates what says of itself that it is compressed (gABI: Elf64_Chdr)."""
    size = 64 * MIB
    content = struct.pack("<IIQQ", 1, 0, size, 1) + zlib.compress(bytes(size), 9)
    names = b"\0.modinfo\0.shstrtab\0"
    made = elf_kit.make([elf_kit.Load(0x10000, elf_kit.EXIT_7, 5)], 0x10000)
    at = len(made)
    sections = bytes(64)
    sections += struct.pack("<IIQQQQIIQQ", 1, 1, 0x800, 0, at, len(content), 0, 0, 8, 0)
    sections += struct.pack("<IIQQQQIIQQ", 10, 3, 0, 0, at + len(content), len(names), 0, 0, 1, 0)
    data = made + content + names + sections
    data = elf_kit.patch(data, elf_kit.SHOFF, at + len(content) + len(names), 8)
    data = elf_kit.patch(data, elf_kit.SHNUM, 3, 2)
    data = elf_kit.patch(data, elf_kit.SHSTRNDX, 2, 2)
    tracemalloc.start()
    try:
        assert elf.parse(data, "bomb").info == ()
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()
