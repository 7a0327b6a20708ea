"""ELF files that are loaded at physical addresses: what has to be in RAM, and where one begins.

Each guest ends the machine through the finisher with a status of its own, so the status says
which instruction was the first. The right values are those of QEMU's loader
(include/hw/elf_ops.h): PAs, no flags, zero-size segments ignored.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from elf_kit import Load, R, W, X, make

Cli = Callable[..., Result]
RAM, KERNEL = 0x8000_0000, 0x8020_0000
HIGH = 0xFFFF_FFFF_8000_0000
# The two ways to bring a bare ELF, and one for a kernel that S-mode is enough for.
BARE = [("boot", "--bios", "none"), ("run",)]
SUPERVISOR = [("boot",), ("run",)]


def ends(status: int) -> bytes:
    """lui a0, 0x100; lui a1, ...; addi a1, a1, 0x333; sw a1, (a0); j . : the finisher's FAIL."""
    lui = (status << 4 | 3) << 12 | 0x5B7
    return struct.pack("<5I", 0x0010_0537, lui, 0x3335_8593, 0x00B5_2023, 0x0000_006F)


CODE = ends(7)


@pytest.fixture
def start(pagewalk: Cli, tmp_path: Path) -> Callable[..., Result]:
    """start(command, loads, entry) -> the result; `@` in its output stands for the path."""

    def call(command: tuple[str, ...], loads: list[Load], entry: int) -> Result:
        path = tmp_path / "guest.image.elf"
        path.write_bytes(make(loads, entry))
        return pagewalk(*command, path)

    return call


RUNS = {
    # A page of headers in front of the first section, as linkers put it without PHDRS.
    "headers below RAM": ([Load(RAM - 0x1000, CODE, R | X, has_headers=True)], RAM),
    "headers in a segment of their own": (
        [Load(0x1_0000, b"", R, has_headers=True), Load(RAM, CODE, R | X)], RAM,
    ),
    "headers in RAM": ([Load(RAM, CODE, R | X, has_headers=True)], RAM + 0x1000),
    "no flags": ([Load(RAM, CODE, 0)], RAM),
    "data only": ([Load(RAM, CODE, R | W)], RAM),
    "a zero-size segment elsewhere": ([Load(0x40, b"", R), Load(RAM, CODE, R | X)], RAM),
    "a zero-size segment inside": ([Load(RAM, CODE, R | X), Load(RAM + 4, b"", W)], RAM),
    "segments far apart": (
        [Load(RAM, CODE, R | X), Load(RAM + (63 << 20), bytes(8), R | W, 0x1000)], RAM,
    ),
    "linked at virtual addresses": ([Load(HIGH, ends(9) + CODE, X, pa=RAM)], HIGH + 20),
    "virtual addresses, a physical entry": ([Load(HIGH, ends(9) + CODE, X, pa=RAM)], RAM + 20),
    "low virtual addresses": ([Load(0x1000, ends(9) + CODE, X, pa=RAM)], 0x1014),
    "two that share virtual addresses": (
        [Load(HIGH, ends(9), R, pa=RAM), Load(HIGH, CODE, R | X, pa=RAM + 0x1000)], HIGH,
    ),
    "no entry": ([Load(RAM + 0x1000, ends(9), X), Load(RAM, CODE, R)], 0),
}  # fmt: skip


@pytest.mark.parametrize("command", BARE, ids=lambda words: words[0])
@pytest.mark.parametrize("name", RUNS)
def test_runs(start: Callable[..., Result], command: tuple[str, ...], name: str) -> None:
    loads, entry = RUNS[name]
    result = start(command, loads, entry)
    assert result.exit_code == 7, result.output


@pytest.mark.parametrize("command", SUPERVISOR, ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("loads", "entry"),
    [
        ([Load(KERNEL - 0x1000, CODE, R | X, has_headers=True)], KERNEL),
        ([Load(HIGH, CODE, 0, pa=KERNEL)], HIGH),
        ([Load(KERNEL, CODE, R | W)], KERNEL),
        ([Load(KERNEL, CODE, R | W)], 0),
    ],
    ids=["headers below", "virtual addresses", "no X", "no entry"],
)
def test_kernels_in_s_mode(
    start: Callable[..., Result], command: tuple[str, ...], loads: list[Load], entry: int
) -> None:
    """The first 2 MiB are the firmware's: headers that reach into them are not needed."""
    result = start(command, loads, entry)
    assert result.exit_code == 7, result.output


# What is said of segment N: its addresses in hex, those of the memory, and what would have to hold.
BAD = {
    "data below RAM": (
        [Load(0x1_0000, b"data", R | W), Load(RAM, CODE, R | X)], RAM,
        "segment at PA 0x10000-0x10004 (number 0) is outside of the RAM it may use, "
        "0x80000000-{end}: "
        "it would have to be linked at 0x80000000 or above",
    ),
    "headers, then data below RAM": (
        [Load(RAM - 0x2000, b"data".ljust(0x1000, b"\0") + CODE, R | X, has_headers=True)], RAM,
        "segment at PA 0x7fffe000-0x80000014 (number 0) is outside of the RAM it may use, "
        "0x80000000-{end}",
    ),
    ".bss below RAM": (
        [Load(RAM - 0x2000, b"", R, 0x1800, has_headers=True), Load(RAM, CODE, R | X)], RAM,
        "segment at PA 0x7fffe000-0x7ffff800 (number 0) is outside of the RAM it may use, "
        "0x80000000-{end}",
    ),
    "above RAM": (
        [Load(RAM, CODE, R | X), Load(RAM + (1 << 30), b"data", R | W, 0x3000)], RAM,
        "segment at PA 0xc0000000-0xc0003000 (number 1) is outside of the RAM it may use, "
        "0x80000000-{end}: "
        "RAM would have to reach up to 0xc0003000",
    ),
    "over the end of RAM": (
        [Load(RAM, CODE, R | X, 1 << 40)], RAM,
        "segment at PA 0x80000000-0x10080000000 (number 0) is outside of the RAM it may use, "
        "0x80000000-{end}: RAM would have to reach up to 0x10080000000",
    ),
    "overlapping": (
        [Load(HIGH, CODE, R | X, pa=RAM), Load(0x1000, CODE, R, pa=RAM + 16)], HIGH,
        "segments overlap in physical memory: segment at PA 0x80000000-0x80000014 (number 0) and "
        "segment at PA 0x80000010-0x80000024 (number 1)",
    ),
    "an odd entry": (
        [Load(RAM, CODE, R | X)], RAM + 1,
        "no instruction begins at an odd address: 0x80000001",
    ),
}  # fmt: skip
RAM_END = {"boot": "0x90000000", "run": "0x84000000"}


@pytest.mark.parametrize("command", BARE, ids=lambda words: words[0])
@pytest.mark.parametrize("name", BAD)
def test_says_what_is_wrong(
    start: Callable[..., Result], command: tuple[str, ...], name: str
) -> None:
    loads, entry, why = BAD[name]
    machine = ("--machine", "bare") if command[0] == "run" else ()
    result = start((*command, *machine), loads, entry)
    assert result.exit_code == 2, result.output
    assert why.format(end=RAM_END[command[0]]) in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(("bios", "status"), [("none", 1), ("python", 3)])
def test_a_raw_binary(pagewalk: Cli, tmp_path: Path, bios: str, status: int) -> None:
    """It says nothing of where it goes. QEMU 7.2 puts one without firmware at the start of RAM.

    auipc a1, 0; srli a1, a1, 20; andi a1, a1, 0xf; addi a1, a1, 1; slli a1, a1, 16; then as in
    `ends`: status 1 at 0x80000000, 3 at 0x80200000.
    """
    path = tmp_path / "raw"
    words = (0x0000_0597, 0x0145_D593, 0x00F5_F593, 0x0015_8593, 0x0105_9593)
    # lui a2, 3; addi a2, a2, 0x333; add a1, a1, a2; lui a0, 0x100; sw a1, (a0); j .
    words += (0x0000_3637, 0x3336_0613, 0x00C5_85B3, 0x0010_0537, 0x00B5_2023, 0x0000_006F)
    path.write_bytes(struct.pack("<11I", *words))
    assert pagewalk("boot", "--bios", bios, path).exit_code == status


def test_headers_alone(pagewalk: Cli, tmp_path: Path) -> None:
    path = tmp_path / "guest.image.elf"
    path.write_bytes(make([Load(0x1_0000, b"", R, has_headers=True)], 0x1_0000))
    result = pagewalk("boot", "--bios", "none", path)
    assert result.exit_code == 2 and "nothing to load but ELF headers" in result.output


def test_a_program_for_u_mode_has_flags(pagewalk: Cli, tmp_path: Path) -> None:
    """They do mean something where a kernel maps it by them."""
    path = tmp_path / "guest.image.elf"
    path.write_bytes(make([Load(0x1_0000, CODE, R | W)], 0x1_0000))
    result = pagewalk("run", path)
    assert result.exit_code == 2
    assert "the entry point 0x10000 is in no executable segment" in result.output
