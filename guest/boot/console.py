"""The terminal: where a guest's bytes go, and where its input comes from."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from guest import ending

_KEPT_SIZE = 16 << 20  # bytes of the console's text in --json


def open_missing() -> None:
    """Put the null device where a standard stream was closed before we were started.

    Else the next file or socket that is opened would take its descriptor.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDONLY if fd == 0 else os.O_WRONLY)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            setattr(sys, name, os.fdopen(fd, "r" if fd == 0 else "w", closefd=False))


def write_bytes(data: bytes) -> None:
    """To standard output, at once."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def read_input(size: int) -> bytes:
    """Up to ``size`` bytes of standard input, waiting for the first; b"" at its end.

    Input that cannot be read has ended; Ctrl-C ends the waiting too.
    """
    try:
        if not size:
            return b""
        ending.wait([0])
        return os.read(0, size)
    except OSError:
        return b""


class KernelLog:
    """Lines with Linux's time stamps, seconds since this object was made."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._start = time.monotonic()
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._emit(f"[{time.monotonic() - self._start:12.6f}] {line}")


class Kept:
    """The console's last bytes, of a guest that may print without end.

    ``lost``: how many bytes have gone before ``data``.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self.lost = 0

    def write(self, data: bytes) -> None:
        """The guest prints ``data``."""
        self.data += data
        if len(self.data) > 2 * _KEPT_SIZE:  # not each time: it moves what stays
            self.lost += len(self.data) - _KEPT_SIZE
            del self.data[:-_KEPT_SIZE]
