"""What other people wrote, on our board: OpenSBI, U-Boot and Linux of the distribution.

The sessions, and what each command must answer, are in `guest.distro.sessions`; they pass under
QEMU too. A guest that cannot be had skips its test and says why.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from distro import RAM_SIZE, boot_disk_or_skip, guests_or_skip, pattern_disk
from progress import stopped_when_stuck

from emu.stop import Stop, StopReason
from guest.boot.boot import Booted, BootOptions, Disk, prepare
from guest.boot.expect import Script, Step, drive
from guest.distro.fetch import Guests
from guest.distro.initramfs import PROMPT, make_initramfs
from guest.distro.sessions import boot_steps, session, uboot_session

CONSOLE = "console=ttyS0 earlycon=sbi"


@pytest.fixture(scope="module")
def guests() -> Guests:
    return guests_or_skip()


@dataclass
class Run:
    """A board whose console a script drives."""

    script: Script
    booted: Booted
    stop: Stop | None = None
    console: bytearray = field(default_factory=bytearray)
    traps: int = 0

    def go(self, until_done: bool = False) -> Stop:
        board = self.booted.board

        def output(data: bytes) -> None:
            self.console += data
            board.uart.receive(self.script.feed(data))
            if until_done and self.script.done:
                board.hart.end(Stop(StopReason.LIMIT))

        self.output[0] = output
        with stopped_when_stuck(board.hart):
            self.stop = board.run()
        return self.stop

    output: list[object] = field(default_factory=list)

    def ram_hash(self) -> str:
        ram = self.booted.board.ram
        return hashlib.sha256(ram.array(ram.base, ram.size // 8).data).hexdigest()


@contextmanager
def machine(script: Script, options: BootOptions) -> Iterator[Run]:
    sink: list[object] = [lambda data: None]
    told = replace(options, output=lambda data: sink[0](data), ram_size=RAM_SIZE)  # type: ignore[operator]
    booted = prepare(told)
    with closing(booted.board):
        yield Run(script, booted, output=sink)


def linux(guests: Guests, **more: object) -> BootOptions:
    words = str(more.pop("append", ""))
    return BootOptions(
        guests.kernel,
        initrd_data=make_initramfs(guests),
        append=f"{CONSOLE} {words}",
        **more,  # type: ignore[arg-type]
    )


def bios_of(guests: Guests, name: str) -> str | Path:
    return {"dynamic": guests.opensbi_dynamic, "jump": guests.opensbi_jump}.get(name, name)


_SLOW = pytest.mark.slow


@pytest.mark.parametrize("bios", ["python", pytest.param("dynamic", marks=_SLOW)])
@pytest.mark.parametrize(
    ("words", "mode"),
    [
        pytest.param("no4lvl", 8, marks=_SLOW),
        pytest.param("no5lvl", 9, marks=_SLOW),
        ("", 10),
    ],
)
def test_linux_to_a_shell_and_a_session(
    guests: Guests, tmp_path: Path, bios: str, words: str, mode: int
) -> None:
    """Files, pipes, dd, the disk's md5, modules, Linux's views of its memory, poweroff."""
    disk = tmp_path / "disk"
    data = pattern_disk(disk)
    script = Script(session(guests.version, RAM_SIZE, data, write=True))
    options = linux(guests, append=words, bios=bios_of(guests, bios), disks=[Disk(disk)])
    with machine(script, options) as run:
        stop = run.go()
        satp = run.booted.board.hart.satp
    assert script.passed, script.missing() + "\n".join(script.failures)
    assert (stop.reason, stop.code) == (StopReason.EXIT, 0), stop
    assert satp >> 60 == mode
    assert disk.read_bytes() == data, "the image itself was written"


@pytest.mark.slow
def test_a_read_only_disk(guests: Guests, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    data = pattern_disk(disk)
    script = Script(session(guests.version, RAM_SIZE, data, write=False))
    with machine(script, linux(guests, disks=[Disk(disk, "ro")])) as run:
        run.go()
    assert script.passed, script.missing() + "\n".join(script.failures)


@pytest.mark.slow
def test_linux_drives_virtio_of_version_1(guests: Guests, tmp_path: Path) -> None:
    """The same session with its disk in slot 0, as a device that knows no VERSION_1."""
    disk = tmp_path / "disk"
    data = pattern_disk(disk)
    script = Script(session(guests.version, RAM_SIZE, data, write=True))
    options = linux(guests, disks=[Disk(disk, slot=0)], virtio_legacy=True)
    with machine(script, options) as run:
        stop = run.go()
        blk = next(device for device in run.booted.board.devices if device.name == "virtio-blk")
        assert run.booted.virtio_note() is None
    assert script.passed, script.missing() + "\n".join(script.failures)
    assert (stop.reason, stop.code) == (StopReason.EXIT, 0), stop
    assert blk.read(4, 4) == 1


@pytest.mark.slow
def test_opensbi_fw_jump_goes_on_to_linux(guests: Guests) -> None:
    script = Script([Step(b"OpenSBI v"), Step(b"Boot HART MEDELEG"), *boot_steps()])
    with machine(script, linux(guests, bios=guests.opensbi_jump)) as run:
        run.go(until_done=True)
    assert script.passed, script.missing()


def test_opensbi_as_elf_to_its_banner_and_the_next_stage(guests: Guests) -> None:
    """fw_dynamic is told of U-Boot, here as an ELF."""
    script = Script([Step(b"OpenSBI v"), Step(b"Next Mode           : S"), Step(b"U-Boot 20")])
    options = BootOptions(guests.uboot_elf, bios=guests.opensbi_dynamic_elf)
    with machine(script, options) as run:
        run.go(until_done=True)
    assert script.passed, script.missing()


@pytest.mark.slow
@pytest.mark.parametrize("bios", ["python", "dynamic"])
def test_uboot_its_commands_and_linux_from_the_disk(
    guests: Guests, tmp_path: Path, bios: str
) -> None:
    disk = tmp_path / "disk"
    boot_disk_or_skip(disk)
    then = session(guests.version, RAM_SIZE, disk.read_bytes())
    script = Script(uboot_session(RAM_SIZE, make_initramfs(guests), then))
    options = BootOptions(guests.uboot, bios=bios_of(guests, bios), disks=[Disk(disk, "ro")])
    with machine(script, options) as run:
        stop = run.go()
    assert script.passed, script.missing() + "\n".join(script.failures)
    assert stop.reason is StopReason.EXIT


@pytest.mark.slow
def test_two_deterministic_runs_are_the_same(guests: Guests, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    data = pattern_disk(disk)
    seen = []
    for _ in range(2):
        script = Script(session(guests.version, RAM_SIZE, data, write=True))
        options = linux(guests, deterministic=True, disks=[Disk(disk)])
        with machine(script, options) as run:
            counts: dict[tuple[int, bool, int], int] = {}

            def count(trap: object, counts: dict[tuple[int, bool, int], int] = counts) -> None:
                key = (trap.cause, trap.interrupt, trap.priv)  # type: ignore[attr-defined]
                counts[key] = counts.get(key, 0) + 1

            run.booted.board.hart.trap_listener = count
            run.go()
            clock = run.booted.board.clock.now()
            seen.append((bytes(run.console), counts, run.ram_hash(), clock))
        assert script.passed, script.missing()
    assert seen[0][1], "no trap was counted"
    assert seen[0] == seen[1]


@pytest.mark.slow
def test_json_takes_piped_input_too(guests: Guests) -> None:
    """`(echo ...; echo exit) | pagewalk boot linux --json`: what is typed waits for the shell."""
    typed = "echo $((6 * 7))\nexit\n"
    command = [sys.executable, "-m", "guest.cli", "boot", "linux", "--json"]
    done = subprocess.run(command, input=typed, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit"], told["reason"]) == (0, 0, "exit")
    assert "\n42\r\n" in told["console"].replace("\r\r", "\r")


@pytest.mark.slow
@pytest.mark.usefixtures("guests")
def test_linux_on_the_public_way() -> None:
    """Where the engine's insides cannot be had: slower, and all there."""
    script = Script([*boot_steps(), Step(PROMPT, b"poweroff -f\n"), Step(b"Power down")])
    command = [sys.executable, "-m", "guest.cli", "boot", "linux", "--hart", "public"]
    assert drive(script, command) == 0
    assert script.passed, script.missing()
