"""`pagewalk boot` as its user types it wrong, and as hosts treat it badly: one clear line."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import elf_kit
import image_kit
import pytest
from asm import assemble
from click.testing import Result
from progress import ended, wait_until_it_has_run, wait_until_it_waits

from guest.image.shipped import shipped

Cli = Callable[..., Result]
START = 0x8020_0000
LOOP = bytes.fromhex("6f000000")  # j .

# Prints `>` and ends by the finisher, with 0.
QUICK = """
    li s0, 0x10000000
    li t0, '>'
    sb t0, 0(s0)
    li t0, 0x100000
    li t1, 0x5555
    sw t1, 0(t0)
1:  j 1b
"""
# Prints 5,000 characters and ends.
MUCH = """
    li s0, 0x10000000
    li s1, 5000
    li t0, 'x'
1:  sb t0, 0(s0)
    addi s1, s1, -1
    bnez s1, 1b
    li t0, 0x100000
    li t1, 0x5555
    sw t1, 0(t0)
2:  j 2b
"""
# Prints without end.
FLOOD = "li s0, 0x10000000\nli t0, 'x'\n1: sb t0, 0(s0)\nj 1b"


def refused(result: Result) -> str:
    """The one line that was said about bad input."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert 10 < len(line) < 500
    return line


class Files:
    """What a user may name, by what is wrong with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def sparse(self, name: str, size: int) -> Path:
        path = self.folder / name
        with path.open("wb") as file:
            file.truncate(size)
        return path

    def kernel(self, text: str) -> Path:
        return self("kernel", assemble(text, START))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


# the kernel and the firmware

ELF = image_kit.kernel_elf()
IMAGE = image_kit.image()

BAD_IMAGES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "an empty file"),
    "one byte": (b"\x13", "not an ELF, not an Image"),
    "zeros": (bytes(4096), "not an ELF, not an Image"),
    "erased": (b"\xff" * 4096, "not an ELF, not an Image"),
    "ELF, 10 bytes": (ELF[:10], "truncated ELF header"),
    "ELF, its header": (ELF[:64], "damaged ELF file"),
    "ELF, half": (ELF[: len(ELF) - 6], "truncated"),
    "ELF for x86": (elf_kit.patch(ELF, elf_kit.MACHINE, 62, 2), "for machine x86-64"),
    "ELF of 32 bits": (elf_kit.patch(ELF, elf_kit.CLASS, 1, 1), "a 32-bit ELF"),
    "ELF, big-endian": (elf_kit.patch(ELF, elf_kit.DATA, 2, 1), "a big-endian ELF"),
    "EFI for AArch64": (image_kit.efi_image(image_kit.AARCH64), "for AArch64, not for RV64"),
    "EFI, truncated": (image_kit.efi_image(size=0x2000), "truncated"),
    "Image, big-endian": (image_kit.image(flags=1), "a big-endian Image"),
    "Image of 1 EiB": (image_kit.image(image_size=1 << 60), "of memory, and RAM has"),
    "gzip, cut": (gzip.compress(IMAGE * 9)[:40], "truncated"),
    "gzip, damaged": (gzip.compress(IMAGE)[:-8] + bytes(8), "damaged gzip data"),
    "gzip of nothing": (gzip.compress(b""), "its gzip data hold nothing"),
    "gzip bomb": (gzip.compress(bytes(300 << 20), 1), "inflates (gzip) to more than"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(100), "decompress it first"),
    "initramfs": (b"070701" + b"0" * 104, "an initramfs (cpio archive), not a kernel"),
    "script": (b"#!/bin/sh\n", "a script, not a kernel"),
}


@pytest.mark.parametrize("what", BAD_IMAGES)
def test_kernels_and_firmware_that_are_none(pagewalk: Cli, files: Files, what: str) -> None:
    data, said = BAD_IMAGES[what]
    path = files("image", data)
    for arguments in ((path,), ("--bios", path), (path, "--json"), ("tiny", "--bios", path)):
        line = refused(pagewalk("boot", *arguments))
        assert line.startswith(f"pagewalk: {path}: ") and said in line, line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing to boot: give a KERNEL, or firmware with --bios FILE"),
        (("--bios", "none"), "nothing to boot"),
        (("",), "the kernel's name is empty"),
        (("tinny",), "tinny: no such file; did you mean tiny?"),
        (("linxu",), "linxu: no such file; did you mean linux?"),
        (("uboot",), "uboot: no such file; did you mean u-boot?"),
        (("./tiny",), "./tiny: no such file"),
        (("no/such/file",), "no/such/file: no such file"),
        (("tiny", "--bios", "no-such"), "no-such: No such file or directory"),
        (("tiny", "--initrd", "no-such"), "no-such: No such file or directory"),
        (("tiny", "--dtb", "no-such"), "no-such: No such file or directory"),
        (("tiny", "--disk", "no-such"), "disk no-such: No such file or directory"),
        (("tiny", "--disk", "no-such,rw"), "disk no-such,rw: No such file or directory"),
        (("tiny", "--symbols", "no-such"), "no-such: No such file or directory"),
        (("--load", "no-such"), "no-such"),
        (("tiny", "more"), "unexpected extra argument"),
        (("tiny", "--bois", "x"), "No such option"),
        (("tiny", "--timeout", "0"), "'0' is no number of seconds that can be waited"),
        (("tiny", "--timeout", "-1"), "'-1' is no number of seconds that can be waited"),
        (("tiny", "--timeout", "soon"), "'soon' is no number of seconds"),
        (("tiny", "--timeout", "nan"), "is no number of seconds that can be waited"),
        (("tiny", "--timeout", "inf"), "is no number of seconds that can be waited"),
        (("tiny", "--timeout", "1e300"), "is no number of seconds that can be waited"),
        (("tiny", "--seed", "x"), "'x' is not a valid integer"),
        (("tiny", "--hart", "x"), "'x' is not one of"),
        (("tiny", "--gdb", "65536"), "65536 is not in the range"),
        (("tiny", "--gdb", "http"), "'http' is not a valid integer"),
        (("tiny", "--trace", "x"), "'x' is not one of the kinds of trace"),
        (("tiny", "--trace-file", "x"), "--trace-file needs --trace"),
        (("tiny", "--trace", "trap", "--trace-format", "json"), "needs --trace-file"),
        (("tiny", "--trace-limit", "0"), "0 is not in the range"),
        (("tiny", "--save", "."), "--save"),
        (("tiny", "--save", ""), "--save"),
        (("tiny", "--core", "no/such/folder/core"), "--core no/such/folder/core: no such folder"),
        (("tiny", "--save", "no/such/folder/x"), "--save no/such/folder/x: no such folder"),
        (("tiny", "--dump-dtb", "no/such/folder/x"), "--dump-dtb no/such/folder/x: No such file"),
        (("tiny", "--append", "x" * (2 << 20)), "a device tree of"),
    ],
)
def test_words_that_are_wrong(pagewalk: Cli, arguments: tuple[str, ...], said: str) -> None:
    for more in ((), ("--json",)):
        assert said in refused(pagewalk("boot", *arguments, *more))


@pytest.mark.parametrize("option", ["KERNEL", "--bios", "--initrd", "--dtb", "--disk", "--symbols"])
def test_what_is_no_regular_file(pagewalk: Cli, files: Files, option: str) -> None:
    os.mkfifo(files.folder / "fifo")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(files.folder / "socket"))
    unreadable = "/proc/self/mem"
    names = [files.folder / "fifo", files.folder / "socket", "/dev/zero", "/dev/null", unreadable]
    if option != "KERNEL":  # where it is C files to compile
        names.append(files.folder)
    for name in names:
        given = (name,) if option == "KERNEL" else ("tiny", option, name)
        line = refused(pagewalk("boot", *given))
        assert str(name) in line, line
    server.close()


def test_a_folder_without_anything_to_compile(pagewalk: Cli, files: Files) -> None:
    assert "no C or assembly file in it" in refused(pagewalk("boot", files.folder))


def test_a_c_file_with_an_error(pagewalk: Cli, files: Files) -> None:
    result = pagewalk("boot", files("kernel.c", b"int main(void) { return nope; }\n"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "nope" in result.stderr and "Traceback" not in result.stderr


# what does not fit


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ("0", "without RAM"),
        ("1", "not a whole number of 4 KiB pages"),
        ("4097", "not a whole number of 4 KiB pages"),
        ("-4K", "is no size"),
        ("lots", "is no size"),
        ("1e9", "is no size"),
        ("", "is no size"),
        ("4K", "RAM would have to reach up to"),
        ("64K", "RAM would have to reach up to"),
        ("2M", "RAM would have to reach up to"),
        ("1024T", "the host cannot map"),
        ("1025T", "more than 1 PiB"),
        ("9" * 50 + "T", "more than 1 PiB"),
    ],
)
def test_absurd_ram(pagewalk: Cli, size: str, said: str) -> None:
    assert said in refused(pagewalk("boot", "tiny", "--ram", size))


@pytest.mark.parametrize("size", ["4K", "1M", "2M"])
def test_ram_in_which_not_even_a_jump_fits(pagewalk: Cli, files: Files, size: str) -> None:
    loop = files("loop", LOOP)
    assert "is not in RAM" in refused(pagewalk("boot", loop, "--ram", size))
    # Firmware, or a kernel without any, goes to the start of RAM: only its device tree may have no
    # room.
    for words in (("--bios", loop), (loop, "--bios", "none")):
        result = pagewalk("boot", *words, "--ram", size, "--timeout", "0.2")
        if size == "4K":
            assert "device tree does not fit" in refused(result)
        else:
            assert result.exit_code == 124


def test_a_tebibyte_of_ram_costs_nothing(files: Files) -> None:
    path = files.kernel(QUICK)
    done = run(path, "--ram", "1T")
    if b"the host cannot map" in done.stderr:
        pytest.skip("this host does not overcommit memory")
    assert (done.returncode, done.stdout) == (0, b">")
    assert done.stderr == b"pagewalk: finisher: pass\n"


def test_an_initrd_that_does_not_fit(pagewalk: Cli, files: Files) -> None:
    for size in (300 << 20, 256 << 20):
        line = refused(pagewalk("boot", "tiny", "--initrd", files.sparse("initrd", size)))
        assert "room" in line or "does not fit" in line, line
    initrd = files("initrd", b"x" * (3 << 20))
    line = refused(pagewalk("boot", "tiny", "--ram", "4M", "--initrd", initrd))
    assert re.search(r"the initrd does not fit: 3072 KiB, and \d+ KiB are free", line), line


@pytest.mark.slow
def test_device_trees_that_are_damaged(pagewalk: Cli, files: Files) -> None:
    whole = files.folder / "whole.dtb"
    assert pagewalk("boot", "tiny", "--dump-dtb", whole).exit_code == 0
    data = whole.read_bytes()
    damaged = [b"\0", b"junk" * 100, data[:3], data[:39], data[: len(data) // 2], data[:-1]]
    damaged += [elf_kit.patch(data, at, 0xFFFF_FFFF, 4) for at in range(4, 40, 4)]
    damaged.append(b"\xd0\x0d\xfe\xed" + bytes(100))
    for blob in damaged:
        path = files("bad.dtb", blob)
        result = pagewalk("boot", "tiny", "--dtb", path)
        if result.exit_code != 0:  # a header's field that nobody needs
            assert str(path) in refused(result)


@pytest.mark.slow
def test_device_trees_that_are_mutated(pagewalk: Cli, files: Files) -> None:
    """They are refused, or packed again and given to a guest that may not like them."""
    whole = files.folder / "whole.dtb"
    pagewalk("boot", "tiny", "--dump-dtb", whole)
    rng = random.Random(6)
    refusals = 0
    for _ in range(150):
        data = bytearray(whole.read_bytes())
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.choice(
                (0, 1, 2, 3, 4, 9, 0xFF, rng.randrange(256))
            )
        path = files("bad.dtb", bytes(data))
        out = files.folder / "out.dtb"
        result = pagewalk("boot", "tiny", "--dtb", path, "--append", "x", "--dump-dtb", out)
        if result.exit_code:
            refused(result)
            refusals += 1
    assert 0 < refusals < 150


def test_disks(pagewalk: Cli, files: Files) -> None:
    for size, said in ((0, "is empty"), (511, "511 bytes are not whole"), (513, "513 bytes")):
        assert said in refused(pagewalk("boot", "tiny", "--disk", files("d", bytes(size))))
    disk = files("disk", bytes(512))
    for count in (8, 9, 100):
        line = refused(pagewalk("boot", "tiny", *(("--disk", disk) * count)))
        assert line == f"pagewalk: {count} disks: the board has room for 7"
    result = pagewalk("boot", files.kernel(QUICK), *(("--disk", disk) * 7))
    assert (result.exit_code, result.stdout) == (0, ">")


def test_symbols_that_are_none(pagewalk: Cli, files: Files) -> None:
    for data in (b"hello world\n", random.Random(7).randbytes(4096), b"80000000 T\n"):
        line = refused(pagewalk("boot", "tiny", "--symbols", files("map", data)))
        assert ":1: not a line of symbols" in line


# snapshots


def test_snapshots_that_are_none(pagewalk: Cli, files: Files) -> None:
    loop = files("loop", LOOP)
    saved = files.folder / "saved"
    result = pagewalk("boot", loop, "--ram", "4M", "--timeout", "0.1", "--save", saved)
    assert result.exit_code == 124, result.output
    data = saved.read_bytes()
    rng = random.Random(8)
    bad = [b"", b"junk", data[:10], data[: len(data) // 2], data[:-1], LOOP, bytes(4096)]
    for _ in range(30):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        bad.append(bytes(changed))
    for content in bad:
        line = refused(pagewalk("boot", "--load", files("bad", content), "--timeout", "1"))
        assert str(files.folder / "bad") in line, line
    for name in ("/dev/zero", "/dev/null", files.folder):
        assert str(name) in refused(pagewalk("boot", "--load", name, "--timeout", "1"))
    result = pagewalk("boot", "--load", saved, "--timeout", "0.1")
    assert result.exit_code == 124, result.output
    for more in ((loop,), ("--initrd", loop), ("--append", "x"), ("--dtb", loop)):
        assert "goes on from a snapshot" in refused(pagewalk("boot", "--load", saved, *more))


# the process


def start(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "guest.cli", "boot", *map(str, arguments)]
    options = {
        "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE
    } | options  # fmt: skip
    return subprocess.Popen(command, **options)  # type: ignore[call-overload,no-any-return]


def run(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    process = start(*arguments)
    out, error = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode, out, error)


def test_bad_input_to_the_real_program(files: Files) -> None:
    for arguments in (("no-such",), (files("empty", b""),), ("tiny", "--ram", "4K")):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, b"")
        assert re.fullmatch(rb"pagewalk: [^\n]+\n", done.stderr)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_that_are_closed(files: Files, closed: str) -> None:
    path = files.kernel(QUICK)
    command = f'exec "{sys.executable}" -m guest.cli boot "{path}" {closed}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done
    if not closed.endswith("2>&-"):
        assert done.stderr == b"pagewalk: finisher: pass\n"
    if ">&-" not in closed.replace("2>&-", ""):
        assert done.stdout == b">"


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--trace", "dev")])
def test_a_reader_that_goes_away(files: Files, arguments: tuple[str, ...]) -> None:
    """Before the first byte."""
    read, write = os.pipe()
    os.close(read)
    process = start(files.kernel(QUICK), *arguments, stdout=write)
    os.close(write)
    _, error = process.communicate()
    assert process.returncode == 141
    assert b"Traceback" not in error and b"Error" not in error


def test_a_reader_that_goes_away_in_the_midst(files: Files) -> None:
    process = start(files.kernel(FLOOD))
    assert process.stdout is not None
    assert process.stdout.read(100_000) == b"x" * 100_000
    process.stdout.close()
    assert ended(process) == 141
    assert process.stderr is not None
    with process.stderr as stream:
        assert stream.read() == b""


def test_nobody_reads_what_we_say(files: Files) -> None:
    """The guest's status is the exit status all the same."""
    path = files.kernel(QUICK)
    read, write = os.pipe()
    os.close(read)
    with open("/dev/full", "wb") as full:
        for stream in (full, write):
            process = start(path, stderr=stream)
            out, _ = process.communicate()
            assert (process.returncode, out) == (0, b">")
    os.close(write)


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_full_disk_behind_standard_output(files: Files, arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        process = start(files.kernel(QUICK), *arguments, stdout=full)
        _, error = process.communicate()
    assert process.returncode == 2
    assert error == b"pagewalk: No space left on device\n"


@pytest.mark.parametrize("option", ["--save", "--core", "--dump-dtb"])
def test_a_device_in_place_of_a_file(files: Files, option: str) -> None:
    done = run(files.kernel(QUICK), option, "/dev/full")
    assert done.returncode == 2
    assert re.fullmatch(rb"pagewalk: %s /dev/full: [^\n]+\n" % option.encode(), done.stderr)
    assert Path("/dev/full").is_char_device()


def test_a_full_disk_behind_a_trace(files: Files) -> None:
    """The guest runs on, and the user is told."""
    done = run(files.kernel(QUICK), "--trace", "dev", "--trace-file", "/dev/full")
    assert (done.returncode, done.stdout) == (0, b">")
    assert b"/dev/full: No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr and len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("option", ["--save", "--core"])
def test_a_file_size_limit(files: Files, option: str) -> None:
    """As a full disk, which a test cannot have: a line, status 2, and no half of a file."""
    loop = files("loop", LOOP)
    out = files.folder / "out"
    process = start(
        *(loop, "--ram", "64M", "--timeout", "0.2", option, out),
        preexec_fn=lambda: limit_file_size(2048),
    )
    console, error = process.communicate()
    assert process.returncode == 2, (console, error)
    assert re.fullmatch(rb"pagewalk: %s: [^\n]+\n" % str(out).encode(), error)
    assert [p.name for p in files.folder.iterdir()] == ["loop"]


def limit_file_size(size: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize("access", ["inside", "public"])
def test_signals(files: Files, number: signal.Signals, access: str) -> None:
    """Interrupts are off, and the guest never leaves its loop."""
    path = files.kernel("li s0, 0x10000000\nli t0, '>'\nsb t0, 0(s0)\n1: j 1b")
    process = start(path, "--hart", access)
    assert process.stdout is not None and process.stdout.read(1) == b">"
    process.send_signal(number)
    assert ended(process, cpu_max=10) == STATUS[number]
    _, error = process.communicate()
    said = "interrupted" if number is signal.SIGINT else f"ended by {number.name}"
    assert re.match(rb"pagewalk: %s at 0x8020\w+ in S-mode\n" % said.encode(), error), error


@pytest.mark.parametrize("number", STATUS)
def test_signals_while_nobody_reads(files: Files, number: signal.Signals) -> None:
    process = start(files.kernel(FLOOD))
    assert process.stdout is not None and process.stdout.read(1) == b"x"
    wait_until_it_waits(process)  # the pipe is full
    process.send_signal(number)
    assert ended(process, cpu_max=10) == STATUS[number]
    process.communicate()


def test_the_time_is_up_while_nobody_reads(files: Files) -> None:
    process = start(files.kernel(FLOOD), "--timeout", "0.3")
    assert ended(process) == 124
    out, error = process.communicate()
    assert set(out) <= {ord("x")} and len(out) <= 1 << 16
    assert error.startswith(b"pagewalk: 0.3 s are over, at 0x8020")


def test_signals_with_json(files: Files) -> None:
    process = start(files("loop", LOOP), "--json")
    wait_until_it_has_run(process, 1)
    while process.poll() is None:  # one that comes too early finds another handler
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    out, error = process.communicate()
    if process.returncode == 143:
        told = json.loads(out)
        assert (told["exit"], told["reason"], error) == (143, "interrupted", b"")
    else:
        assert process.returncode == -signal.SIGTERM and error == b""
        assert not out or json.loads(out)["exit"] == 143  # or one too late, when all is said


def test_times_that_are_over_at_once(pagewalk: Cli, files: Files) -> None:
    loop = files("loop", LOOP)
    for seconds in ("1e-9", "1e-4", "0.001", "0.01"):
        for more in ((), ("--json",), ("--deterministic",), ("--hart", "public")):
            result = pagewalk("boot", loop, "--timeout", seconds, *more)
            assert result.exit_code == 124, result.output


def test_json(pagewalk: Cli, files: Files) -> None:
    result = pagewalk("boot", files.kernel(QUICK), "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (0, "")
    assert (told["exit"], told["reason"], told["console"]) == (0, "exit", ">")
    crash = files("crash", assemble("csrw stvec, zero\nunimp", START))
    told = json.loads(pagewalk("boot", crash, "--json").stdout)
    assert (told["exit"], told["reason"]) == (132, "fault")
    assert told["fault"]["text"] == "illegal instruction"
    assert told["explanation"].startswith("illegal instruction in S-mode at 0x80200004")


def test_json_keeps_only_the_end_of_endless_output(
    pagewalk: Cli, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guest.boot.console._KEPT_SIZE", 1000)
    told = json.loads(pagewalk("boot", files.kernel(MUCH), "--json").stdout)
    assert 1000 <= len(told["console"]) <= 2000
    assert told["console_lost"] + len(told["console"]) == 5000


def test_no_file_of_the_user_is_touched(pagewalk: Cli, files: Files) -> None:
    disk = files("disk", bytes(range(256)) * 64)
    before = {p: p.read_bytes() for p in files.folder.iterdir()}
    for mode in ("", ",ro", ",cow"):
        result = pagewalk("boot", "tiny", "--disk", f"{disk}{mode}")
        assert result.exit_code == 0
    assert {p: p.read_bytes() for p in files.folder.iterdir()} == before


def test_a_disk_that_shrinks_while_the_guest_runs(files: Files) -> None:
    """A mapped one would end us with SIGBUS; see also tests/emu/test_virtio_blk.py."""
    disk = files("disk", bytes(1 << 20))
    path = files.kernel("li s0, 0x10000000\nli t0, '>'\nsb t0, 0(s0)\n1: j 1b")
    process = start(path, "--disk", disk, "--save", files.folder / "s")
    assert process.stdout is not None and process.stdout.read(1) == b">"
    os.truncate(disk, 0)
    process.terminate()
    _, error = process.communicate()
    assert process.returncode == 143, error
    assert (files.folder / "s").stat().st_size > 0


# kernels that are nonsense


def mutations(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(changed[: rng.randrange(len(changed))])
    area = min(len(changed), (64, 512, len(changed))[rng.randrange(3)])
    for _ in range(rng.choice((1, 4, 50))):
        at = rng.randrange(area)
        if kind == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        else:
            changed[at : at + 8] = rng.choice(
                (bytes(8), b"\xff" * 8, rng.randbytes(8), (1 << rng.randrange(64)).to_bytes(8))
            )
    return bytes(changed)


def check_nonsense(result: Result) -> None:
    """Refused in one line, or run to some end that is told."""
    assert "Traceback" not in result.output
    if result.stderr:
        assert result.stderr.startswith("pagewalk: ")
    else:
        assert json.loads(result.stdout)["exit"] == result.exit_code


@pytest.mark.parametrize("seed", range(6))
def test_mutated_kernels(pagewalk: Cli, files: Files, seed: int) -> None:
    rng = random.Random(seed)
    sources = [shipped()["tiny"].read_bytes(), shipped()["sbi_hello"].read_bytes(), ELF]
    sources += [image_kit.image(code=assemble(QUICK, START)[:8]), gzip.compress(ELF)]
    for _ in range(12):
        path = files("kernel", mutations(rng, rng.choice(sources)))
        bios = rng.choice(("python", "python", "none"))
        check_nonsense(pagewalk("boot", path, "--bios", bios, "--ram", "8M", "--timeout", "0.1"))


@pytest.mark.parametrize("seed", range(6))
def test_random_bytes_as_kernel_and_firmware(pagewalk: Cli, files: Files, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(12):
        data = rng.randbytes(rng.choice((2, 64, 4096, 100_000)))
        path = files("kernel", data)
        given = rng.choice(
            ((path,), ("--bios", path), (path, "--bios", "none"), (path, "--bios", path))
        )
        more = rng.choice(((), ("--deterministic",), ("--json",), ("--hart", "public")))
        check_nonsense(pagewalk("boot", *given, *more, "--ram", "8M", "--timeout", "0.1"))


def test_two_at_a_time(pagewalk: Cli, files: Files) -> None:
    """A gdb port that is taken."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        line = refused(pagewalk("boot", "tiny", "--gdb", port))
    assert f"--gdb {port}: " in line


def test_waiting_for_gdb_can_be_ended(files: Files) -> None:
    path = files.kernel(QUICK)
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = start(path, "--gdb", "0")
        assert process.stderr is not None
        assert b"waiting for gdb" in process.stderr.readline()
        process.send_signal(number)
        assert ended(process) == status
        process.communicate()
    done = run(path, "--gdb", "0", "--timeout", "0.2")
    assert (done.returncode, done.stdout) == (124, b"")


def test_no_thread_and_no_descriptor_is_left(pagewalk: Cli, files: Files) -> None:
    path = files.kernel(QUICK)
    disk = files("disk", bytes(512))

    def left() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    pagewalk("boot", path, "--disk", disk)
    before = left()
    for _ in range(5):
        pagewalk("boot", path, "--disk", disk)
        pagewalk("boot", path, "--disk", disk, "--ram", "4K")
        pagewalk("boot", files("junk", b"\0"), "--disk", disk)
        pagewalk("boot", files.kernel(QUICK), "--disk", disk, "--dtb", files("junk", b"\0"))
    assert left() == before
