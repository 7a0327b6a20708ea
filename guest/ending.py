"""Ending a run from outside: by a signal, when its time is up, or as somebody asks.

While the hart runs, Python's own signal handling waits until the engine returns; so a thread
sleeps on the descriptor that the interpreter's C signal handler writes to, and stops the hart.
A system call that waits, for input or for time to pass, does so in `wait`, which ends too.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TIMEOUT = "timeout"
_STOP_AGAIN = 0.01  # seconds

_current: Ending | None = None  # of the run that goes on


class Ending:
    """A context around the runs of one guest, in which they can be ended.

    ``stop`` stops what runs now; it is called again and again until the context is left: a
    guest's run may be several of the hart's, and a stop between two is forgotten. ``seconds``:
    the time limit, None for none; ``signals``: those that end it. ``by`` says what has ended
    the guest: TIMEOUT, a signal's name, or what `end` was given; None: nothing yet.

    Outside of the main thread, where signals cannot be handled, none is.
    """

    def __init__(
        self,
        stop: Callable[[], None],
        seconds: float | None = None,
        signals: Sequence[signal.Signals] = SIGNALS,
    ) -> None:
        self.stop = stop
        self._signals = signals
        self.seconds = seconds
        self.by: str | None = None
        # Called once, in the thread that stops, before the first stop.
        self.when_ended: list[Callable[[], None]] = []
        self._over = threading.Event()  # the context has been left
        self._asked = threading.Lock()
        self._wake: socket.socket | None = None  # outside of the context nobody sleeps
        self._thread = threading.Thread(target=self._watch, name="ending", daemon=True)

    def end(self, why: str) -> None:
        """From any thread: end the run, also one that begins later. The first reason counts."""
        with self._asked:
            if self.by is None:
                self.by = why
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None:
            with contextlib.suppress(OSError):  # full, and so it has been told; or closed
                self._wake.send(b"\0")

    def _came(self, number: int, _frame: object) -> None:
        """Between two instructions of Python, which may be before the thread has woken up."""
        self.end(signal.Signals(number).name)

    def fileno(self) -> int:
        """A descriptor that can be read once the guest has been ended."""
        return self._ended_read

    def _watch(self) -> None:
        limit = None if self.seconds is None else time.monotonic() + self.seconds
        while self.by is None:
            left = None if limit is None else max(0.0, limit - time.monotonic())
            ready, _, _ = select.select([self._woken], [], [], left)
            if self._over.is_set():
                return
            if not ready:
                self.end(TIMEOUT)
                break
            numbers = self._woken.recv(64)  # as the C handler writes them; 0 is `end`
            for name in [number.name for number in self._signals if number in numbers]:
                self.end(name)
        for tell in self.when_ended:
            tell()
        os.write(self._ended_write, b"!")
        while not self._over.is_set():
            self.stop()
            self._over.wait(_STOP_AGAIN)

    def __enter__(self) -> Ending:
        global _current
        self._outer, _current = _current, self
        self._ended_read, self._ended_write = os.pipe()
        self._woken, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._handlers: dict[signal.Signals, Any] = {}
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:
            # What is ignored stays so: nohup, and a shell's background jobs, want it.
            caught = [n for n in self._signals if signal.getsignal(n) not in (signal.SIG_IGN, None)]
            self._fd = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
            self._handlers = {n: signal.signal(n, self._came) for n in caught}
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        global _current
        _current = self._outer
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._is_main:
            signal.set_wakeup_fd(self._fd)
        self._over.set()
        self._rouse()
        self._thread.join()
        wake, self._wake = self._wake, None
        for end in (self._woken, wake):
            if end is not None:
                end.close()
        os.close(self._ended_read)
        os.close(self._ended_write)


def wait(fds: list[int], seconds: float | None = None) -> bool:
    """Wait until one of ``fds`` can be read, or ``seconds`` are over; whether one can be.

    Raises InterruptedError when the guest is ended meanwhile: Python would go on waiting after
    a signal, and the hart would never stop.
    """
    ending = _current
    over = [] if ending is None else [ending.fileno()]
    ready, _, _ = select.select([*fds, *over], [], [], seconds)
    if ending is not None and ending.by is not None:
        ending.stop()  # now: its thread may come to it after the guest has gone on
        raise InterruptedError
    return bool(ready)


def sleep(seconds: float) -> None:
    """Let time pass; less of it where the guest is ended from outside."""
    with contextlib.suppress(InterruptedError):
        wait([], min(seconds, threading.TIMEOUT_MAX))
