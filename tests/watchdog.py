"""Watches a process that runs tests, from outside: ends what hangs, and says what it was.

Tests wait without limits of time; this is the one place where a wait is given up, by the
rule of `guest.boot.progress`. A process of its own, for a thread would not run while another holds
the interpreter; and nobody's child, so that it is not among those whom it watches.

When nothing goes on any more, the descendants of the tests' process get SIGABRT, upon which
Python prints where its threads are, and the test fails whatever it makes of that. Where there
are none, or it hangs all the same, the process itself gets it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from guest.boot import progress
from guest.boot.progress import CPU_MAX, LOOK_EVERY, STILL_LOOKS, HangError, Patience, tree

_CPU_MAX_SLOW = 12 * CPU_MAX
_SLOW, _FAST = "slow", "fast"
_AFTERWARDS = 60.0  # seconds of processor time that a test may use when it has been interfered with


class Watchdog:
    """Of this process. Does nothing where there is no /proc.

    ``looks`` and ``every``: see `guest.boot.progress`.
    """

    def __init__(self, looks: int = STILL_LOOKS, every: float = LOOK_EVERY) -> None:
        self._to = self._from = -1
        self._now = b"\n"
        if not Path("/proc/self/task").is_dir():
            return
        reads, self._to = os.pipe()
        self._from, writes = os.pipe()
        command = [sys.executable, __file__, *map(str, (os.getpid(), looks, every))]
        subprocess.run(command, check=True, stdin=reads, stdout=writes)
        os.close(reads)
        os.close(writes)
        os.set_blocking(self._from, False)

    def begins(self, name: str, is_slow: bool) -> None:
        """A test has begun."""
        self._now = f"{_SLOW if is_slow else _FAST} {name}\n".encode()
        self._tell(self._now)

    def over(self) -> None:
        self._now = b"\n"
        self._tell(self._now)

    def said(self) -> str:
        """What hung since this was last asked; empty for nothing."""
        try:
            return "" if self._from < 0 else os.read(self._from, 1 << 20).decode()
        except BlockingIOError:
            return ""

    @contextmanager
    def looks_away(self) -> Iterator[None]:
        """While the process waits for somebody elsewhere: the network, a person."""
        self._tell(b"\n")
        try:
            yield
        finally:
            self._tell(self._now)

    def _tell(self, line: bytes) -> None:
        if self._to >= 0:
            os.write(self._to, line)


@cache
def watchdog() -> Watchdog:
    """The one of this process, from the first test on."""
    return Watchdog()


def watch(root: int) -> None:
    """Until standard input ends: its lines are `Watchdog`'s, and what is said goes to output."""
    name, patience, has_hung = "", Patience(root), False
    while True:
        if select.select([0], [], [], progress.LOOK_EVERY)[0]:
            data = os.read(0, 1 << 16)
            if not data:
                return
            speed, _, name = data.splitlines()[-1].decode().partition(" ")
            patience = Patience(root, _CPU_MAX_SLOW if speed == _SLOW else CPU_MAX)
            has_hung = False
        if not name:
            continue
        try:
            patience.ask()
        except HangError as e:
            told = f"{name} hangs, {e}\n"
            os.write(2, f"\nwatchdog: {told}".encode())
            os.write(1, told.encode()[: 1 << 15])
            _interfere(root, has_hung)
            patience, has_hung = Patience(root, _AFTERWARDS), True


def _interfere(root: int, is_again: bool) -> None:
    others = tree(root)[1:]
    for pid in [*others, root] if is_again or not others else others:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGABRT)


if __name__ == "__main__" and os.fork() == 0:
    progress.STILL_LOOKS, progress.LOOK_EVERY = int(sys.argv[2]), float(sys.argv[3])
    watch(int(sys.argv[1]))
