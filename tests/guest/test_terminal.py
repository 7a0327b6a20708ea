"""The terminal as the serial line: a pty is typed at, and must be afterwards as it was."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asm import assemble
from distro import guests_or_skip
from progress import ended, wait_until, wait_until_it_waits

from emu.stop import StopReason
from guest.boot.boot import BootOptions, prepare
from guest.boot.outcome import ESCAPE, Outcome
from guest.boot.progress import HangError, Patience
from guest.boot.session import Session, SessionOptions
from guest.boot.terminal import Escapes, Output, Typing

START = 0x8020_0000  # where a kernel that says nothing of itself goes

# Says `>`, then the code of each byte that comes, in hexadecimal. `q` ends it by the finisher,
# `Q` by a jump to nowhere, `~` by a wait for ever.
ECHO = """
    li s0, 0x10000000
    csrw stvec, zero
    csrw sie, zero
    li t0, '>'
    sb t0, 0(s0)
1:  lbu t0, 5(s0)
    andi t0, t0, 1
    beqz t0, 1b
    lbu a0, 0(s0)
    li t0, 'q'
    beq a0, t0, 4f
    li t0, 'Q'
    beq a0, t0, 5f
    li t0, '~'
    beq a0, t0, 6f
    srli a1, a0, 4
    andi a0, a0, 15
    li t2, 2
2:  addi t0, a1, '0'
    li t1, 10
    blt a1, t1, 3f
    addi t0, a1, 'a' - 10
3:  sb t0, 0(s0)
    mv a1, a0
    addi t2, t2, -1
    bnez t2, 2b
    j 1b
4:  li t0, 0x100000
    li t1, 0x5555
    sw t1, 0(t0)
5:  jr zero
6:  wfi
    j 6b
"""
# Hears nothing.
DEAF = """
    li s0, 0x10000000
    li t0, '>'
    sb t0, 0(s0)
1:  j 1b
"""
# Counts what it hears; when a `.` comes it says how many, as 32 bits in hexadecimal, and ends.
COUNT = """
    li s0, 0x10000000
    li s1, 0
    li t0, '>'
    sb t0, 0(s0)
1:  lbu t0, 5(s0)
    andi t0, t0, 1
    beqz t0, 1b
    lbu a0, 0(s0)
    addi s1, s1, 1
    li t0, '.'
    bne a0, t0, 1b
    li t2, 28
2:  srl t0, s1, t2
    andi t0, t0, 15
    li t1, 10
    blt t0, t1, 3f
    addi t0, t0, 'a' - 10 - '0'
3:  addi t0, t0, '0'
    sb t0, 0(s0)
    addi t2, t2, -4
    bgez t2, 2b
    li t0, 0x100000
    li t1, 0x5555
    sw t1, 0(t0)
4:  j 4b
"""


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    return kernel(tmp_path, ECHO)


def kernel(folder: Path, text: str) -> Path:
    path = folder / "kernel"
    path.write_bytes(assemble(text, START))
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "guest.cli", "boot", *map(str, arguments)]


class Pty:
    """A process on a terminal of its own, of which it is the session's leader."""

    def __init__(self, arguments: list[str]) -> None:
        self.master, self.slave = os.openpty()
        self.text = bytearray()
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            arguments,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def read(self, timeout: float) -> bytes:
        if not select.select([self.master], [], [], timeout)[0]:
            return b""
        data = os.read(self.master, 65536)
        self.text += data
        return data

    def wait_for(self, what: bytes, since: int = 0) -> int:
        """Read until ``what`` has come behind ``since``; where it ends."""
        patience = Patience(self.process.pid)
        while (at := self.text.find(what, since)) < 0:
            self._ask(patience)
            assert self.read(1) or self.process.poll() is None, (what, bytes(self.text[-2000:]))
        return at + len(what)

    def _ask(self, patience: Patience) -> None:
        try:
            patience.ask()
        except HangError as e:
            raise AssertionError((bytes(self.text[-2000:]).decode(), str(e))) from None

    def wait(self) -> int:
        """The exit status; what is printed meanwhile is read."""
        patience = Patience(self.process.pid)
        while self.process.poll() is None:
            self._ask(patience)
            self.read(0.05)
        while self.read(0):
            pass
        return self.process.returncode

    def mode(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for fd in (self.master, self.slave):
            with contextlib.suppress(OSError):
                os.close(fd)


@pytest.fixture
def pty() -> Iterator[Callable[..., Pty]]:
    """pty("kernel", "--timeout", "1") -> `pagewalk boot` on a terminal."""
    made: list[Pty] = []

    def start(*arguments: object) -> Pty:
        made.append(Pty(command(*arguments)))
        return made[-1]

    yield start
    for terminal in made:
        terminal.close()


# the parts


def test_escapes() -> None:
    commands: list[str] = []
    escapes = Escapes(commands.append)
    assert escapes.feed(b"a\x03\x04\x1b[A\xff\0") == b"a\x03\x04\x1b[A\xff\0"
    assert escapes.feed(b"1\x01x2\x01W3") == b"123"
    assert commands == ["x", "w"]
    assert escapes.feed(b"\x01") == b""  # its letter comes with the next read
    assert escapes.feed(b"ab\x01\x01c\x01a") == b"\x01b\x01c\x01"
    assert escapes.feed(b"\x01\x01\x01") == b"\x01"
    assert escapes.feed(b"S") == b""
    assert commands == ["x", "w", "s"]


def test_escapes_do_not_depend_on_how_the_bytes_are_cut() -> None:
    rng = random.Random(1)
    for _ in range(200):
        data = bytes(rng.choice(b"\x01\x01axwz\x03") for _ in range(40))
        whole: list[str] = []
        cut: list[str] = []
        expected = Escapes(whole.append).feed(data)
        escapes, at, got = Escapes(cut.append), 0, b""
        while at < len(data):
            size = rng.randrange(1, 5)
            got += escapes.feed(data[at : at + size])
            at += size
        assert (got, cut) == (expected, whole)


class Listener:
    """The guest's end of `Typing`: takes ``room`` bytes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.got = bytearray()
        self.ended = threading.Event()

    def receive(self, data: bytes) -> int:
        taken = min(self.room, len(data))
        self.room -= taken
        self.got += data[:taken]
        return taken


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        with contextlib.suppress(OSError):
            os.close(fd)


def test_typing_loses_nothing_of_a_pipe(pipe: tuple[int, int]) -> None:
    data = random.Random(2).randbytes(30_000)
    listener = Listener(100)
    with Typing(pipe[0], listener.receive, listener.ended.set):
        os.write(pipe[1], data)
        os.close(pipe[1])
        wait_until(lambda: len(listener.got) == 100)
        time.sleep(1.2)  # longer than the patience with a person's guest
        assert len(listener.got) == 100 and not listener.ended.is_set()
        listener.room = 1 << 20
        wait_until(listener.ended.is_set)
    assert listener.got == data


def test_typing_hears_the_escape_key_behind_what_nobody_takes(pipe: tuple[int, int]) -> None:
    commands: list[str] = []
    listener = Listener(100)
    with Typing(pipe[0], listener.receive, listener.ended.set, Escapes(commands.append)):
        os.write(pipe[1], b"x" * 10_000)
        os.write(pipe[1], b"\x01w")
        wait_until(lambda: commands == ["w"])
        listener.room = 1 << 20  # the guest wakes up
        os.write(pipe[1], b"again")
        wait_until(lambda: listener.got.endswith(b"again"))
    assert len(listener.got) < 5000


def test_typing_ends_at_once_whatever_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guest.boot.terminal._PATIENCE", 1e9)
    for i in range(60):
        read, write = os.pipe()
        listener = Listener(0)
        if i % 3:
            os.write(write, b"nobody takes it")
        escapes = Escapes(lambda letter: None) if i % 2 else None
        with Typing(read, listener.receive, listener.ended.set, escapes):
            time.sleep(0.001 * (i % 4))
        assert not listener.ended.is_set()
        os.close(read)
        os.close(write)


def test_typing_of_what_cannot_be_read(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    for fd in (folder, os.open(os.devnull, os.O_WRONLY)):
        listener = Listener(0)
        with Typing(fd, listener.receive, listener.ended.set):
            wait_until(listener.ended.is_set)
        os.close(fd)


def test_output_gives_up_a_write_that_nobody_reads(pipe: tuple[int, int]) -> None:
    output = Output(pipe[1])
    size = fcntl.fcntl(pipe[1], fcntl.F_GETPIPE_SZ)
    gave_up = threading.Event()

    def give_up() -> None:
        wait_until(lambda: held_in(pipe[0]) == size)
        gave_up.set()
        output.give_up()

    with output.in_main_thread():
        thread = threading.Thread(target=give_up)
        thread.start()
        output.write(b"x" * (1 << 20))
        assert gave_up.is_set()
        thread.join()
        output.write(b"and this is lost")
    assert len(os.read(pipe[0], 1 << 20)) <= 1 << 16


def held_in(fd: int) -> int:
    """Bytes that can be read from it."""
    return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]


def test_output_to_a_descriptor_that_does_not_block(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    data = random.Random(3).randbytes(1 << 19)
    got = bytearray()

    def read() -> None:
        while len(got) < len(data):
            got.extend(os.read(pipe[0], 10_000))

    reader = threading.Thread(target=read)
    reader.start()
    Output(pipe[1]).write(data)
    reader.join()
    assert got == data


@pytest.mark.parametrize("how", ["pipe", "nonblocking"])
def test_giving_up_at_any_time(how: str) -> None:
    for i in range(40):
        read, write = os.pipe()
        os.set_blocking(write, how == "pipe")
        output = Output(write)
        with output.in_main_thread():
            timer = threading.Timer(0.0003 * (i % 10), output.give_up)
            timer.start()
            while timer.is_alive():
                output.write(b"x" * 3000)
            timer.join()
        os.close(read)
        os.close(write)


# the session, in this process


@contextlib.contextmanager
def session(path: Path, with_input: bool = False) -> Iterator[tuple[Session, bytearray]]:
    console = bytearray()
    booted = prepare(BootOptions(path, ram_size=4 << 20, output=console.extend))
    with contextlib.closing(booted.board):
        yield Session(booted, SessionOptions(with_input=with_input)), console


def ended_by_key(outcome: Outcome) -> bool:
    """Ctrl-A x is no failure of the guest's."""
    said = outcome.notes[0].startswith(f"ended by {ESCAPE} at ")
    return said and (outcome.stop.reason, outcome.status) == (StopReason.INTERRUPTED, 0)


def test_an_end_that_is_asked_for_at_any_time(tmp_path: Path) -> None:
    """Before the run begins, while it does, in the midst of it."""
    path = kernel(tmp_path, DEAF)
    rng = random.Random(4)
    for i in range(60):
        with session(path, with_input=bool(i % 2)) as (it, _):
            delay = 0 if i < 10 else rng.random() * 0.004
            timer = threading.Timer(delay, it.end, [ESCAPE])
            timer.start()
            if i % 5 == 0:
                timer.join()
            outcome = it.run("deaf")
            timer.join()
        assert ended_by_key(outcome)


def test_commands_that_come_fast_neither_end_the_run_nor_are_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with session(kernel(tmp_path, DEAF)) as (it, _):

        def type_() -> None:
            for i in range(300):
                it._command("w")
                if i % 7 == 0:
                    time.sleep(0.001)
            it._command("x")

        typist = threading.Thread(target=type_)
        typist.start()
        outcome = it.run("deaf")
        typist.join()
    assert ended_by_key(outcome)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 300 and all("in S-mode, satp=0x0" in line for line in said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_the_run_and_their_handlers_come_back(
    tmp_path: Path, number: signal.Signals
) -> None:
    path = kernel(tmp_path, DEAF)
    seen: list[int] = []
    old = signal.signal(number, lambda number, _frame: seen.append(number))
    handlers = {n: signal.getsignal(n) for n in (2, 15, 1, signal.SIGURG)}
    try:
        for i in range(20):
            with session(path, with_input=bool(i % 2)) as (it, console):
                # In the run at the latest: before it the signal is not the session's.
                def send(console: bytearray = console) -> None:
                    wait_until(lambda: console)
                    os.kill(os.getpid(), number)

                sender = threading.Thread(target=send)
                sender.start()
                outcome = it.run("deaf")
                sender.join()
            assert (outcome.stop.reason, outcome.status) == (StopReason.INTERRUPTED, 128 + number)
        assert not seen
        assert {n: signal.getsignal(n) for n in handlers} == handlers
    finally:
        signal.signal(number, old)


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with session(kernel(tmp_path, DEAF)) as (it, console):

            def send() -> None:
                wait_until(lambda: console)
                os.kill(os.getpid(), signal.SIGHUP)
                time.sleep(0.05)
                it.end(ESCAPE)

            sender = threading.Thread(target=send)
            sender.start()
            outcome = it.run("deaf")
            sender.join()
        assert ended_by_key(outcome)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, old)


# the terminal


def test_every_key_reaches_the_guest_but_ctrl_a(pty: Callable[..., Pty], echo: Path) -> None:
    terminal = pty(echo)
    at = terminal.wait_for(b">")
    assert b"Ctrl-A x ends the machine" in terminal.text
    assert terminal.mode() != terminal.before
    keys = bytes(b for b in range(256) if b not in b"qQ~\x01")
    terminal.type(keys[:100])
    at = terminal.wait_for(keys[:100].hex().encode(), at)
    terminal.type(keys[100:])
    at = terminal.wait_for(keys[100:].hex().encode(), at)
    terminal.type(b"\x1b[A\x1bOP\xc3\xa9")  # an arrow, F1, a letter of two bytes
    at = terminal.wait_for(b"1b5b411b4f50c3a9", at)
    terminal.type(b"(\x01a\x01\x01)")
    at = terminal.wait_for(b"28010129", at)
    terminal.type(b"\x01")
    time.sleep(0.05)
    terminal.type(b"a")
    at = terminal.wait_for(b"01", at)
    terminal.type(b"\x01h")
    at = terminal.wait_for(b"Ctrl-A s  save a snapshot", at)
    at = terminal.wait_for(b"this help\r\n", at)
    terminal.type(b"\x01w")
    at = terminal.wait_for(b"in S-mode, satp=0x0", at)
    terminal.type(b"\x01s")
    at = terminal.wait_for(b"no snapshot without --save FILE", at)
    terminal.type(b"A")
    at = terminal.wait_for(b"41", at)
    terminal.type(b"\x01X")  # with the shift key held
    assert terminal.wait() == 0
    assert re.search(rb"pagewalk: ended by Ctrl-A x at 0x802000\w\w in S-mode", terminal.text)
    assert terminal.mode() == terminal.before


def test_a_snapshot_by_key(pty: Callable[..., Pty], echo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    file = folder / "snapshot"
    terminal = pty(echo, "--ram", "4M", "--save", file)
    at = terminal.wait_for(b">")
    terminal.type(b"\x01s")
    at = terminal.wait_for(b"saved to", at)
    assert file.stat().st_size > 0
    terminal.type(b"A")
    at = terminal.wait_for(b"41", at)
    file.unlink()
    folder.rmdir()
    terminal.type(b"\x01s")
    at = terminal.wait_for(b"No such file or directory", at)
    terminal.type(b"B")  # it was no reason to end
    at = terminal.wait_for(b"42", at)
    folder.mkdir()
    terminal.type(b"\x01x")
    assert terminal.wait() == 0
    assert file.stat().st_size > 0, "--save saves at the end, too"
    again = pty("--load", file)
    again.type(b"C")
    again.wait_for(b"43")
    again.type(b"q")
    assert again.wait() == 0


ENDINGS: dict[str, tuple[Callable[[Pty], None], int, bytes]] = {
    "guest": (lambda t: t.type(b"q"), 0, b"finisher: pass"),
    "crash": (lambda t: t.type(b"Q"), 139, b"instruction access fault"),
    "SIGINT": (lambda t: t.process.send_signal(signal.SIGINT), 130, b"interrupted at 0x8020"),
    "SIGTERM": (lambda t: t.process.terminate(), 143, b"ended by SIGTERM at 0x8020"),
    "SIGHUP": (lambda t: t.process.send_signal(signal.SIGHUP), 129, b"ended by SIGHUP at"),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_the_terminal_is_as_it_was(pty: Callable[..., Pty], echo: Path, how: str) -> None:
    action, status, said = ENDINGS[how]
    terminal = pty(echo)
    terminal.wait_for(b">")
    assert terminal.mode() != terminal.before
    action(terminal)
    assert terminal.wait() == status, bytes(terminal.text)
    assert said in terminal.text and b"Traceback" not in terminal.text
    assert terminal.mode() == terminal.before


def test_the_terminal_is_as_it_was_after_an_error_of_ours(echo: Path) -> None:
    """And the error is shown: it is for whoever mends it."""
    program = """
import sys
from emu.board.devices.uart import Uart
from guest.cli.main import main
write = Uart.write
def broken(self, offset, size, value):
    write(self, offset, size, value)
    raise RuntimeError("broken on purpose")
Uart.write = broken
main()
"""
    terminal = Pty([sys.executable, "-c", program, "boot", str(echo)])
    try:
        assert terminal.wait() == 1
        assert b"RuntimeError: broken on purpose" in terminal.text
        assert b"Ctrl-A x ends" in terminal.text, "it never was raw"
        assert terminal.mode() == terminal.before
    finally:
        terminal.close()


def test_a_terminal_that_goes_away(pty: Callable[..., Pty], echo: Path) -> None:
    """Its session is told by SIGHUP."""
    terminal = pty(echo)
    terminal.wait_for(b">")
    os.close(terminal.slave)
    os.close(terminal.master)
    assert ended(terminal.process) == 129


def test_a_guest_that_hears_nothing_can_be_ended(pty: Callable[..., Pty], tmp_path: Path) -> None:
    """Also behind more typing than the board keeps."""
    terminal = pty(kernel(tmp_path, DEAF))
    terminal.wait_for(b">")
    os.set_blocking(terminal.master, False)
    sent, patience = 0, Patience(terminal.process.pid, cpu_max=100)
    while sent < 200_000:
        with contextlib.suppress(BlockingIOError):
            sent += os.write(terminal.master, b"x" * 1000)
            continue
        patience.pause()
    while terminal.process.poll() is None:
        with contextlib.suppress(BlockingIOError):
            os.write(terminal.master, b"\x01x")
        time.sleep(0.1)
        patience.ask()
    assert terminal.wait() == 0
    assert b"ended by Ctrl-A x" in terminal.text


def test_a_terminal_that_nobody_reads(pty: Callable[..., Pty], tmp_path: Path) -> None:
    """The guest prints without end. Keys are heard and signals end it all the same."""
    flood = kernel(tmp_path, "li s0, 0x10000000\nli t0, '\\n'\n1: sb t0, 0(s0)\nj 1b\n")
    for action in (lambda t: t.process.terminate(), lambda t: t.type(b"ab\x01x")):
        terminal = pty(flood)
        terminal.wait_for(b"\r\n\r\n")
        wait_until_it_waits(terminal.process)  # what the terminal holds is full
        action(terminal)
        time.sleep(0.2)
        assert terminal.wait() in (0, 143)
        assert b"ended by" in terminal.text
        assert terminal.mode() == terminal.before


def test_in_the_background_it_runs_without_the_terminal(echo: Path, tmp_path: Path) -> None:
    """A job that touched the terminal would be stopped (SIGTTIN, SIGTTOU)."""
    program = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], process_group=0)
print("status", os.waitpid(child.pid, os.WUNTRACED)[1])
"""
    kernel_ = kernel(tmp_path, ECHO.replace("1:  lbu t0, 5(s0)", "j 4f\n1:  lbu t0, 5(s0)", 1))
    terminal = Pty([sys.executable, "-c", program, *command(kernel_)])
    try:
        assert terminal.wait() == 0
        assert b"status 0\r\n" in terminal.text, bytes(terminal.text)
        assert b"finisher: pass" in terminal.text and b"Ctrl-A" not in terminal.text
        assert terminal.mode() == terminal.before
    finally:
        terminal.close()


# a pipe


def piped(path: Path, data: bytes, *arguments: object) -> tuple[int, bytes, bytes]:
    done = subprocess.run(command(path, *arguments), input=data, capture_output=True)
    return done.returncode, done.stdout, done.stderr


def test_a_pipe_is_read_whole(tmp_path: Path) -> None:
    """More than the board's queue and the pipe hold, to a guest that reads one by one."""
    data = random.Random(5).randbytes(300_000).replace(b".", b",")
    status, out, _ = piped(kernel(tmp_path, COUNT), data + b".")
    assert (status, out) == (0, b">%08x" % (len(data) + 1))


def test_control_characters_of_a_pipe_are_the_guests(echo: Path) -> None:
    status, out, error = piped(echo, b"\x01x\x01a\x03\x04\x1aq")
    assert (status, out) == (0, b">0178016103041a")
    assert error == b"pagewalk: finisher: pass\n"


@pytest.mark.parametrize("data", [b"", b"typed too early", b"x" * 100_000, b"~", b"~" * 100_000])
def test_a_guest_that_waits_for_ever_ends_when_the_pipe_can_not_wake_it(
    tmp_path: Path, data: bytes
) -> None:
    text = ECHO if data[:1] == b"~" else "csrw sie, zero\n1: wfi\nj 1b"
    status, _, error = piped(kernel(tmp_path, text), data)
    assert status == 124
    assert error.startswith(b"pagewalk: the hart waits (wfi) for an interrupt that nothing can")


# Linux


@pytest.mark.slow
def test_linux_on_a_terminal(pty: Callable[..., Pty]) -> None:
    """Ctrl-C, Ctrl-D and the arrow keys do what they do in a shell."""
    guests_or_skip()
    terminal = pty("linux")
    at = terminal.wait_for(b"# ")
    terminal.type(b"sh -c 'echo now; exec sleep 1000000'\n")
    at = terminal.wait_for(b"\nnow\r", at)
    terminal.type(b"\x03")
    at = terminal.wait_for(b"# ", at)
    terminal.type(b"echo $((6 * 7))\n")
    at = terminal.wait_for(b"\n42", at)
    at = terminal.wait_for(b"# ", at)
    terminal.type(b"\x1b[A")  # the line before
    at = terminal.wait_for(b"echo $((6 * 7))", at)
    terminal.type(b"\x1b[D\x1b[D0\n")  # left of `))`
    at = terminal.wait_for(b"\n420", at)
    at = terminal.wait_for(b"# ", at)
    terminal.type(b"echo go; cat; echo ended\n")
    at = terminal.wait_for(b"\ngo\r", at)  # the shell's own line editing is over
    terminal.type(b"abc\n")
    at = terminal.wait_for(b"abc", terminal.wait_for(b"abc", at))
    terminal.type(b"\x04")
    at = terminal.wait_for(b"\nended", at)
    at = terminal.wait_for(b"# ", at)
    terminal.type(b"poweroff -f\n")
    assert terminal.wait() == 0
    assert terminal.mode() == terminal.before


@pytest.mark.slow
def test_a_script_through_a_pipe_to_linux() -> None:
    """All of its lines are done. (What they print is mixed with the terminal's echo.)"""
    guests_or_skip()
    lines = [f"echo line $(({i} * 7)) >> /done" for i in range(200)]
    script = "\n".join([*lines, "md5sum /done", "poweroff -f", ""]).encode()
    status, out, error = piped(Path("linux"), script)
    assert status == 0, error
    done = "".join(f"line {i * 7}\n" for i in range(200)).encode()
    assert hashlib.md5(done, usedforsecurity=False).hexdigest().encode() in out
