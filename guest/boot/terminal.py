"""The user's terminal as the board's serial line: raw, with one key that is ours.

Every byte typed goes to the guest, Ctrl-C too. Ctrl-A is ours: what follows it is a command
to the machine, as in QEMU and picocom. Where standard input is not a terminal its bytes are
the line's input as they are, and Ctrl-C stops the machine.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
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
_PATIENCE = 1.0  # seconds without taking anything, after which a guest does not listen
_POKE_AGAIN = 0.001  # seconds
# Ignored where nobody handles it, so one that comes late does no harm.
_POKE = signal.SIGURG


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


def is_in_background(fd: int) -> bool:
    """Whether ``fd`` is our terminal, and another job has it: to touch it would stop us."""
    try:
        return os.tcgetpgrp(fd) != os.getpgrp()
    except OSError:  # no terminal, or not the one that controls us
        return False


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
    tty.setraw(fd, termios.TCSANOW)  # what was typed ahead stays
    mode = termios.tcgetattr(fd)
    mode[1] |= termios.OPOST
    termios.tcsetattr(fd, termios.TCSANOW, mode)
    try:
        yield True
    finally:
        # Now, and not when the output has drained: a terminal that hangs never does.
        with contextlib.suppress(termios.error):  # it has been closed
            termios.tcsetattr(fd, termios.TCSANOW, before)


class Typing:
    """A thread that reads ``fd`` and offers each byte to ``receive``.

    ``receive(data)`` returns how many bytes were taken; the rest is offered again, and no
    more is read until then. With ``escapes`` somebody sits there who must be able to end a
    guest that does not listen: after a second it is read on, and what the guest does not
    take is lost. ``ended`` is called once, at the end of the input.
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
        self._deaf = False  # the guest has taken nothing for long
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
        while data := self._read():
            if self._escapes is not None:
                data = self._escapes.feed(data)
            self._offer(data)
        if not self._quit.is_set():
            self._ended()

    def _offer(self, data: bytes) -> None:
        """Until all is taken; on a terminal, until the guest is deaf and more is typed."""
        since = time.monotonic()
        while data and not self._quit.is_set():
            taken = self._receive(data)
            data = data[taken:]
            if taken:
                self._deaf = False
                since = time.monotonic()
            elif self._escapes is None:
                self._quit.wait(_AGAIN)
            else:
                self._deaf = self._deaf or time.monotonic() - since > _PATIENCE
                if self._deaf and self._is_ready(_AGAIN):
                    return
                self._quit.wait(_AGAIN)

    def _is_ready(self, timeout: float | None) -> bool:
        """Whether something can be read from ``fd``, within ``timeout`` seconds."""
        try:
            ready, _, _ = select.select([self._fd, self._wake_read], [], [], timeout)
        except (OSError, ValueError):  # closed: the read will find its end
            return True
        return self._fd in ready and not self._quit.is_set()

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, _READ_SIZE) if self._is_ready(None) else b""
        except OSError:  # closed, or nothing that can be read
            return b""


class Output:
    """Where the guest's bytes go: a descriptor, whose reader may be slow or never read.

    A write waits until all is written, as the line would: nothing is kept, so no guest can
    fill our memory. ``give_up`` ends the waiting.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._given_up = False
        self._is_writing = False

    def write(self, data: bytes) -> None:
        """All of ``data``, or what there is time for until `give_up`. Raises OSError."""
        self._is_writing = True
        try:
            while data and not self._given_up:
                try:
                    data = data[os.write(self._fd, data) :]
                except BlockingIOError:  # somebody has made it so for all who share it
                    select.select([], [self._fd], [])
        except InterruptedError:  # by `_poked`: else the call would have been made again
            pass
        finally:
            self._is_writing = False

    def give_up(self) -> None:
        """From any thread: what is not written yet, and all that comes, is lost."""
        self._given_up = True
        main = threading.main_thread()
        while self._is_writing and threading.current_thread() is not main:
            signal.pthread_kill(main.ident or 0, _POKE)
            time.sleep(_POKE_AGAIN)

    @contextlib.contextmanager
    def in_main_thread(self) -> Iterator[None]:
        """Around a run of the hart in the main thread: `give_up` reaches a write that waits."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(_POKE, self._poked)
        try:
            yield
        finally:
            signal.signal(_POKE, before)

    def _poked(self, _number: int, _frame: object) -> None:
        if self._is_writing and self._given_up:
            raise InterruptedError


def say(line: str) -> None:
    """A line of ours, to standard error, on a terminal of which the guest has the cursor."""
    with contextlib.suppress(OSError):  # nobody is there who would read it
        sys.stderr.write(f"\npagewalk: {line}\n" if sys.stderr.isatty() else f"pagewalk: {line}\n")
        sys.stderr.flush()
