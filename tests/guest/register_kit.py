"""The same questions to the registers of two boards: ours, each way to its hart, and QEMU's.

`register_script.c` does in M-mode what a table of steps says and prints what it read. Where
QEMU is not installed, the values that it gave stand in the tests all the same.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from guest_kit import compiled

from emu.board.devices.disk_image import DiskImage
from emu.board.virt import VirtBoard
from emu.stop import StopReason
from guest import build
from guest.image import elf

QEMU = shutil.which("qemu-system-riscv64")
RAM_SIZE = 64 << 20
UART, FINISHER, RTC, CLINT, PLIC = 0x1000_0000, 0x10_0000, 0x10_1000, 0x200_0000, 0xC00_0000
PCIE, PORTS = 0x3000_0000, 0x300_0000
VIRTIO = [0x1000_1000 + 0x1000 * i for i in range(8)]
MEIP = 1 << 11

# Ours with either way to the hart and both clocks, and the board that it is measured by.
WAYS = ("inside", "public", "deterministic", "qemu")

_SCRIPT, _RESULTS = 0x8020_0000, "@\n"
_READ, _WRITE, _MIP = 1, 2, 3
FAULT, NOTHING = "fault", "-"


@dataclass(frozen=True)
class Step:
    """One access, and what it must give: a number, FAULT or NOTHING; None: whatever."""

    operation: int
    size: int
    address: int
    value: int
    expected: int | str | None


def read(address: int, expected: int | str | None, size: int = 4) -> Step:
    return Step(_READ, size, address, 0, expected)


def write(address: int, value: int, size: int = 4, expected: str = NOTHING) -> Step:
    return Step(_WRITE, size, address, value, expected)


def mip(expected: int | None, mask: int = MEIP) -> Step:
    """What M-mode reads in mip, of the bits of ``mask``."""
    return Step(_MIP, 0, 0, mask, expected)


def pack(steps: Iterable[Step]) -> bytes:
    packed = [struct.pack("<BBHIQ", s.operation, s.size, 0, s.address, s.value) for s in steps]
    return b"".join(packed) + bytes(16)


def guest() -> Path:
    text = Path(__file__).with_name("register_script.c").read_text()
    return compiled(build.BARE, text)


def load_bare(board: VirtBoard, path: Path) -> None:
    image = elf.load(path)
    for segment in image.segments:
        board.ram.write(segment.pa, segment.data)
    board.hart.reset(image.entry)


def run_ours(
    way: str,
    path: Path,
    extra: dict[int, bytes],
    disks: Sequence[DiskImage] = (),
    typed: bytes = b"",
    **board: object,
) -> str:
    """What a bare guest prints on our board; ``extra`` is put into RAM, by PA.

    ``typed`` waits at the UART from the beginning.
    """
    output = bytearray()
    machine = VirtBoard(
        RAM_SIZE, output.extend, disks, way == "deterministic",
        access="public" if way == "public" else "inside", **board,  # type: ignore[arg-type]
    )  # fmt: skip
    try:
        load_bare(machine, path)
        for pa, data in extra.items():
            machine.ram.write(pa, data)
        machine.uart.receive(typed)
        stop = machine.run()
        assert stop.reason is StopReason.EXIT, stop
    finally:
        machine.close()
    return output.decode("latin-1")


def run_qemu(
    path: Path, folder: Path, extra: dict[int, bytes], *arguments: str, typed: bytes = b""
) -> str:
    """What a bare guest prints on QEMU's board."""
    if QEMU is None:
        pytest.skip("qemu-system-riscv64 is not installed")
    command = [QEMU, "-M", "virt", "-m", "64M", "-bios", "none", "-kernel", str(path)]
    command += ["-display", "none", "-monitor", "none", "-serial", "stdio"]
    for pa, data in extra.items():
        file = folder / f"{pa:x}.bin"
        file.write_bytes(data)
        command += ["-device", f"loader,file={file},addr={pa:#x},force-raw=on"]
    done = subprocess.run([*command, *arguments], check=True, capture_output=True, input=typed)
    return done.stdout.decode("latin-1")


def answers(
    way: str,
    steps: Sequence[Step],
    folder: Path,
    disks: Sequence[DiskImage] = (),
    qemu: Sequence[str] = (),
    **board: object,
) -> list[int | str]:
    """What each of ``steps`` gives; ``qemu`` and ``board`` are more arguments for either board."""
    extra = {_SCRIPT: pack(steps)}
    if way == "qemu":
        text = run_qemu(guest(), folder, extra, *qemu)
    else:
        text = run_ours(way, guest(), extra, disks, **board)
    text = text.replace("\r", "")
    words = text[text.rindex(_RESULTS) + len(_RESULTS) :].split()
    assert len(words) == len(steps)
    return [word if word in (FAULT, NOTHING) else int(word, 16) for word in words]


def check(way: str, steps: Sequence[Step], folder: Path, **more: Any) -> None:
    """Run ``steps`` as `answers` does, and compare with what they expect."""
    for number, (step, got) in enumerate(
        zip(steps, answers(way, steps, folder, **more), strict=True)
    ):
        if step.expected is None or (way == "public" and step.operation == _MIP):
            continue  # there the guest's mip does not show what devices have pending
        assert got == step.expected, f"step {number}: {step}, not {got}"
