"""`pagewalk boot` when the guest asks for a reset: as on QEMU's board, it begins anew."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from asm import assemble
from click.testing import Result
from distro import guests_or_skip

from guest import build
from guest.boot.boot import Booted
from guest.boot.expect import Script, Step, drive
from guest.distro.initramfs import PROMPT

Cli = Callable[..., Result]
RAM, START = 0x8000_0000, 0x8020_0000

# Counts in RAM behind the image how often it began, prints the count, and what stands in the
# image, which it then overwrites; ends by itself at {last}.
COUNTING = """
    la s0, 9f
    li s1, 0x80400000
    lw t0, 0(s1)
    addi t0, t0, 1
    sw t0, 0(s1)
    li s2, 0x10000000
    addi t1, t0, '0'
    sb t1, 0(s2)
    lbu t1, 0(s0)
    sb t1, 0(s2)
    li t1, '!'
    sb t1, 0(s0)
    li t1, {last}
    beq t0, t1, 8f
    {reset}
1:  j 1b
8:  li t0, 0x100000
    li t1, 0x5555
    sw t1, 0(t0)
2:  j 2b
9:  .byte 'i'
"""
SBI = "li a7, 0x53525354\nli a6, 0\nli a0, {kind}\nli a1, {reason}\necall"
RESETS = {
    "finisher": "li t0, 0x100000\nli t1, 0x7777\nsw t1, 0(t0)",
    "cold reboot": SBI.format(kind=1, reason=0),
    "warm reboot": SBI.format(kind=2, reason=1),
}


def kernel(folder: Path, how: str, last: int = 3, base: int = START) -> Path:
    path = folder / "kernel"
    path.write_bytes(assemble(COUNTING.format(last=last, reset=RESETS[how]), base))
    return path


@pytest.fixture(autouse=True)
def _says_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a reset takes here."""
    monkeypatch.setattr("guest.boot.session._SAY_AGAIN", 1e9)


@pytest.mark.parametrize("how", RESETS)
@pytest.mark.parametrize("more", [(), ("--hart", "public"), ("--deterministic",)])
def test_it_begins_anew(pagewalk: Cli, tmp_path: Path, how: str, more: tuple[str, ...]) -> None:
    """RAM stays, what the images hold is there again."""
    result = pagewalk("boot", kernel(tmp_path, how), *more)
    assert result.exit_code == 0, result.output
    assert result.stdout == "1i2i3i"
    assert result.stderr.count("the machine begins anew") == 1
    assert how in result.stderr


def test_firmware_begins_anew(pagewalk: Cli, tmp_path: Path) -> None:
    """In M-mode, from the reset code on."""
    result = pagewalk("boot", "--bios", kernel(tmp_path, "finisher", base=RAM))
    assert (result.exit_code, result.stdout) == (0, "1i2i3i"), result.output


@pytest.mark.parametrize("how", RESETS)
def test_no_reboot_ends_it(pagewalk: Cli, tmp_path: Path, how: str) -> None:
    result = pagewalk("boot", kernel(tmp_path, how), "--no-reboot")
    assert (result.exit_code, result.stdout) == (how == "warm reboot", "1i")  # of a failure
    assert how in result.stderr and "anew" not in result.stderr


def test_json_has_the_text_of_all(pagewalk: Cli, tmp_path: Path) -> None:
    result = pagewalk("boot", kernel(tmp_path, "finisher"), "--json")
    told = json.loads(result.stdout)
    assert (told["exit"], told["reason"], told["console"]) == (0, "exit", "1i2i3i")
    result = pagewalk("boot", kernel(tmp_path, "finisher"), "--json", "--no-reboot")
    told = json.loads(result.stdout)
    assert (told["exit"], told["reason"], told["console"]) == (0, "reset", "1i")


def test_one_that_always_resets_can_be_ended(
    pagewalk: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resets = 0
    reset = Booted.reset

    def counted(booted: Booted) -> None:
        nonlocal resets
        reset(booted)
        resets += 1
        if resets == 100:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Booted, "reset", counted)
    result = pagewalk("boot", kernel(tmp_path, "finisher", last=0))
    assert result.exit_code == 143, result.output
    assert len(result.stderr.splitlines()) < 10
    assert result.stdout.startswith("1i2i3i")
    assert len(result.stdout) > 100


def test_an_image_that_is_gone(pagewalk: Cli, tmp_path: Path) -> None:
    """The images are read again: without them the machine ends, and the user is told."""
    path = kernel(tmp_path, "finisher", last=0)
    command = [sys.executable, "-m", "guest.cli", "boot", str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 2)  # it runs
        path.unlink()
        _, error = process.communicate()
    assert process.returncode == 2
    assert error.splitlines()[-1] == f"pagewalk: {path}: No such file or directory".encode()


@pytest.mark.skipif(not build.have_compiler(), reason="needs ziglang")
def test_what_was_compiled_is_still_there(pagewalk: Cli, tmp_path: Path) -> None:
    source = tmp_path / "reset.S"
    source.write_text(
        ".globl _start\n_start:\n" + COUNTING.format(last=2, reset=RESETS["finisher"])
    )
    result = pagewalk("boot", source)
    assert (result.exit_code, result.stdout) == (0, "1i2i"), result.output


@pytest.mark.slow
def test_a_machine_from_a_snapshot_has_no_images(pagewalk: Cli, tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    text = "1: j 2f\nj 1b\n2: rdtime t0\nli t1, 20000000\nbltu t0, t1, 2b\n"
    path.write_bytes(assemble(text + RESETS["finisher"], START))
    saved = tmp_path / "saved"
    result = pagewalk("boot", path, "--ram", "16M", "--timeout", "0.3", "--save", saved)
    assert result.exit_code == 124, result.output
    result = pagewalk("boot", "--load", saved)
    assert result.exit_code == 2
    assert "no images" in result.stderr
    result = pagewalk("boot", "--load", saved, "--no-reboot")
    assert (result.exit_code, "finisher: reset" in result.stderr) == (0, True)


ECHO = """
    li s2, 0x10000000
1:  lbu t0, 5(s2)
    andi t0, t0, 1
    beqz t0, 1b
    lbu t0, 0(s2)
    sb t0, 0(s2)
    li t1, 'q'
    beq t0, t1, 8f
    li t1, 'r'
    bne t0, t1, 1b
    {reset}
2:  j 2b
8:  li t0, 0x100000
    li t1, 0x5555
    sw t1, 0(t0)
3:  j 3b
"""


def test_what_is_typed_goes_on(tmp_path: Path) -> None:
    """What a pipe had given and the guest had not read is not lost, but for the FIFO's."""
    path = tmp_path / "kernel"
    path.write_bytes(assemble(ECHO.format(reset=RESETS["finisher"]), START))
    command = [sys.executable, "-m", "guest.cli", "boot", str(path)]
    done = subprocess.run(command, input=b"ab r(cd r)efq", capture_output=True)
    assert done.returncode == 0, done.stderr
    # Without FIFOs one byte has come through the line when the reset strikes.
    assert done.stdout == b"ab rcd refq"


@pytest.mark.skipif(shutil.which("gdb-multiarch") is None, reason="needs gdb-multiarch")
def test_gdb_stays_with_it(tmp_path: Path) -> None:
    path = kernel(tmp_path, "finisher")
    command = [sys.executable, "-m", "guest.cli", "boot", str(path), "--gdb", "0"]
    script = tmp_path / "script"
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        port = process.stderr.readline().rsplit(b":", 1)[1].split()[0].decode()
        script.write_text(
            f"set pagination off\ntarget remote :{port}\n"
            "hbreak *0x80200008\ncontinue\ncontinue\ncontinue\nx/dw 0x80400000\ndetach\n"
        )
        gdb = ["gdb-multiarch", "-q", "-nx", "-batch", "-x", str(script)]
        text = subprocess.run(
            [*gdb, "-ex", "set arch riscv:rv64"], capture_output=True, text=True
        ).stdout
        out, _ = process.communicate()
    assert "0x80400000:\t2" in text, text
    assert out == b"1i2i3i"


@pytest.mark.slow
def test_u_boot_resets() -> None:
    guests = guests_or_skip()
    for bios in ("python", str(guests.opensbi_dynamic)):
        script = Script(
            [
                Step(b"Hit any key", b"\n"),
                Step(b"=> ", b"reset\n"),
                Step(b"begins anew"),
                Step(b"Hit any key", b"\n"),
                Step(b"=> ", b"poweroff\n"),
                Step(b"finisher: pass"),
            ]
        )
        command = [
            sys.executable,
            "-m",
            "guest.cli",
            "boot",
            str(guests.uboot),
            "--bios",
            bios,
        ]
        assert drive(script, command) == 0
        assert script.passed, script.missing()


@pytest.mark.slow
def test_linux_reboots() -> None:
    guests_or_skip()
    script = Script(
        [
            Step(PROMPT, b"reboot -f\n"),
            Step(b"begins anew"),
            Step(b"Linux version"),
            Step(PROMPT, b"poweroff -f\n"),
            Step(b"Power down"),
        ]
    )
    command = [sys.executable, "-m", "guest.cli", "boot", "linux"]
    assert drive(script, command) == 0
    assert script.passed, script.missing()
