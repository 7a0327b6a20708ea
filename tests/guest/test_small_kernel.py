"""The small kernel on every board that it can meet: each timer, each virtio, each way to the hart.

The same session is typed to all of them, to QEMU's board too where it is installed. What must come
back is computed here, or stands in the sources of the kernel's own shell (user.c).
"""

from __future__ import annotations

import io
import itertools
import shutil
import struct
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result
from progress import stopped_when_stuck

from emu.hart import HartOptions
from emu.stop import StopReason
from guest import build
from guest.boot.boot import BootOptions, Disk, prepare
from guest.boot.expect import Check, Script, Step, contains, drive, equals
from guest.image.shipped import shipped

PROMPT = b"$ "
NUMBERS = "".join(f"{n}\n" for n in range(1, 301))  # 1092 bytes: three sectors
FILES = {"hello.txt": "hello from a file\n", "numbers.txt": NUMBERS}
QEMU = "qemu-system-riscv64"
SECTOR = 512


def archive() -> bytes:
    """The disk: a tar archive."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, text in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return made.getvalue()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(archive())
    return path


def summed(data: bytes) -> str:
    words = struct.unpack(f"<{len(data) // 4}I", data)
    return f"{len(data) // SECTOR} sectors, sum {sum(words) & 0xFFFF_FFFF:#x}"


def typed(line: str, check: Check | None = None) -> Step:
    return Step(PROMPT, line.encode() + b"\n", check)


def session(timer: str, version: int) -> list[Step]:
    """From reset to the end, with status 3."""
    data = archive()
    changed = data.replace(b"hello from", b"HELLO from")
    ls = "\n".join(f"{name} {len(text)}" for name, text in FILES.items())
    return [
        Step(f"timer by {timer}, ".encode()),
        Step(f"virtio disk, version {version}, {len(data) // SECTOR} sectors".encode()),
        typed("echo one two  three", equals("one two three")),
        typed("ls", equals(ls)),
        typed("cat numbers.txt", equals(NUMBERS.strip())),
        typed("sum", equals(summed(data))),
        typed("write hello.txt HELLO"),
        typed("cat hello.txt", equals("HELLO from a file")),
        typed("sum", equals(summed(changed))),
        # More than the ring holds: who writes sleeps until the transmitter's interrupt.
        typed("count 200", equals("\n".join(map(str, range(1, 201))))),
        # All 16 but the shell and the one that forks.
        typed("forks", equals("14 children, 0 wrong")),
        typed("spin", equals("spin: sound")),
        typed("grow", equals("100 pages, 0 wrong")),
        typed(
            "fault",
            contains(r"^small: process \d+ killed: store page fault at 0x80000000$", "status -1$"),
        ),
        typed("sleep", equals("slept")),
        typed("forks", equals("14 children, 0 wrong")),  # nothing was lost on the way
        typed("nonsense", contains("^nonsense: not known; there are echo ", "^status 127$")),
        typed("cat nothing", contains("^nothing: no such file$", "^status 1$")),
        # A typing error that is taken back.
        Step(PROMPT, b"echo tup\x7f\x7fwo\n", contains("^two$")),
        typed("halt 3"),
        Step(b"halt 3\r\n"),
    ]


# The public way is slow, with a tick pending and masked most of the time.
WAYS = [
    pytest.param(*way, marks=[pytest.mark.slow] if way[0] == "public" else [])
    for way in itertools.product(("inside", "public"), ("Sstc", "CLINT"), (2, 1), (False, True))
]


@pytest.mark.parametrize(("access", "timer", "version", "deterministic"), WAYS)
def test_session(disk: Path, access: str, timer: str, version: int, deterministic: bool) -> None:
    console, script = bytearray(), Script(session(timer, version))

    def output(data: bytes) -> None:
        console.extend(data)
        board.uart.receive(script.feed(data))

    booted = prepare(
        BootOptions(
            shipped()["small"],
            bios="none",
            disks=[Disk(disk, "cow", 0)],
            virtio_legacy=version == 1,
            append="clint" if timer == "CLINT" else None,
            ram_size=16 << 20,
            deterministic=deterministic,
            hart=HartOptions(access),
            output=output,
        )
    )
    with closing(booted.board) as board, stopped_when_stuck(board.hart):
        stop = board.run()
    assert script.passed, script.missing()
    assert (stop.reason, stop.code) == (StopReason.EXIT, 3)
    assert disk.read_bytes() == archive()


@pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"no {QEMU}")
@pytest.mark.parametrize(("timer", "version"), [*itertools.product(("Sstc", "CLINT"), (2, 1))])
def test_the_same_session_under_qemu(disk: Path, timer: str, version: int) -> None:
    command = [
        *(QEMU, "-machine", "virt", "-bios", "none", "-m", "128M", "-smp", "1", "-nographic"),
        *("-kernel", str(shipped()["small"])),
        *("-drive", f"file={disk},if=none,format=raw,id=x0,snapshot=on"),
        *("-device", "virtio-blk-device,drive=x0,bus=virtio-mmio-bus.0"),
        *("-global", f"virtio-mmio.force-legacy={'true' if version == 1 else 'false'}"),
        *(("-append", "clint") if timer == "CLINT" else ()),
    ]
    script = Script(session(timer, version))
    assert drive(script, command) == 3, script.missing()
    assert script.passed, script.missing()


def test_without_a_disk() -> None:
    script = Script(
        [
            Step(b"small: no disk in the first virtio slot"),
            typed("ls", equals("")),
            typed("cat hello.txt", contains("^hello.txt: no such file$")),
            typed("sum", equals("0 sectors, sum 0x0")),
            typed("halt"),
            Step(b"halt\r\n"),
        ]
    )
    booted = prepare(
        BootOptions(
            shipped()["small"],
            bios="none",
            output=lambda data: board.uart.receive(script.feed(data)) and None,
        )
    )
    with closing(booted.board) as board, stopped_when_stuck(board.hart):
        stop = board.run()
    assert script.passed, script.missing()
    assert (stop.reason, stop.code) == (StopReason.EXIT, 0)


@pytest.mark.skipif(not build.have_compiler(), reason="no compiler (ziglang)")
def test_the_folder_stands_alone(tmp_path: Path) -> None:
    """As docs/kernel.md says: a copy of it is where a kernel of one's own begins."""
    copy = tmp_path / "mine"
    shutil.copytree(build.HERE / "supervisor" / "small", copy)
    assert build.compiled(copy, "firmware").startswith(b"\x7fELF")


def test_it_needs_m_mode(pagewalk: Callable[..., Result]) -> None:
    result = pagewalk("boot", "small")
    assert result.exit_code == 2
    assert "small.elf: begins at 0x80000000, where firmware is" in result.output
    assert result.output.rstrip().endswith("wants --bios none")
