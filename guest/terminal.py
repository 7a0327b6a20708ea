"""The user's terminal as the board's serial line: raw, with one key that is ours.

Every byte typed goes to the guest, Ctrl-C too. Ctrl-A is ours: what follows it is a command
to the machine, as in QEMU and picocom. Where standard input is not a terminal its bytes are
the line's input as they are, and Ctrl-C stops the machine.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator

ESCAPE = 0x01  # Ctrl-A
HELP = (
    "Ctrl-A x  end the machine",
    "Ctrl-A w  where the hart is",
    "Ctrl-A s  save a snapshot (with --save FILE)",
    "Ctrl-A a  send Ctrl-A to the guest",
    "Ctrl-A h  this help",
)
_READ_SIZE = 4096  # bytes
_AGAIN = 0.01  # seconds between offers to a guest that takes no more


class Escapes:
    """Splits what is typed into the guest's bytes and commands, across reads."""

    def __init__(self, command: Callable[[str], None]) -> None:
        self._command = command
        self._open = False

    def feed(self, data: bytes) -> bytes:
        """The guest's part of ``data``; commands are given to ``command``, a letter each."""
        guest = bytearray()
        for byte in data:
            if self._open:
                self._open = False
                if byte in (ESCAPE, ord("a")):
                    guest.append(ESCAPE)
                else:
                    self._command(chr(byte).lower())
            elif byte == ESCAPE:
                self._open = True
            else:
                guest.append(byte)
        return bytes(guest)


@contextlib.contextmanager
def raw(fd: int) -> Iterator[bool]:
    """``fd`` in raw mode if it is a terminal (True), and afterwards as it was.

    What is printed is still processed: our own messages end in a plain newline.
    """
    if not os.isatty(fd):
        yield False
        return
    import termios
    import tty

    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    mode = termios.tcgetattr(fd)
    mode[1] |= termios.OPOST
    termios.tcsetattr(fd, termios.TCSANOW, mode)
    try:
        yield True
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class Typing:
    """A thread that reads ``fd`` and offers each byte to ``receive``.

    ``receive(data)`` returns how many bytes were taken; the rest is offered again, and no
    more is read until then. ``ended`` is called once, at the end of the input.
    """

    def __init__(
        self,
        fd: int,
        receive: Callable[[bytes], int],
        ended: Callable[[], None],
        escapes: Escapes | None = None,
    ) -> None:
        self._fd = fd
        self._receive = receive
        self._ended = ended
        self._escapes = escapes
        self._quit = threading.Event()
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._run, name="terminal", daemon=True)

    def __enter__(self) -> Typing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._quit.set()
        os.write(self._wake_write, b"x")
        self._thread.join()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _run(self) -> None:
        while not self._quit.is_set():
            data = self._read()
            if not data:
                break
            if self._escapes is not None:
                data = self._escapes.feed(data)
            while data and not self._quit.is_set():
                data = data[self._receive(data) :]
                if data:
                    self._quit.wait(_AGAIN)
        if not self._quit.is_set():
            self._ended()

    def _read(self) -> bytes:
        try:
            ready, _, _ = select.select([self._fd, self._wake_read], [], [])
            return os.read(self._fd, _READ_SIZE) if self._fd in ready else b""
        except (OSError, ValueError):  # closed, or nothing that can be read
            return b""


def say(line: str) -> None:
    """A line of ours, to standard error, on a terminal of which the guest has the cursor."""
    sys.stderr.write(f"\r\npagewalk: {line}\r\n" if sys.stderr.isatty() else f"pagewalk: {line}\n")
    sys.stderr.flush()
