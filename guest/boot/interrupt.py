"""Ending a run from outside: Ctrl-C and a time limit, also while a call of the guest's waits.

While the hart runs, Python's own signal handling waits until the engine returns; so a thread
sleeps on the descriptor that the interpreter's C signal handler writes to, and stops the hart.
A system call that waits, for input or for time to pass, does so in `wait`.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import threading
from collections.abc import Iterator

from emu.hart import Hart

_STOP_AGAIN = 0.01  # seconds

_waiting = False
_limit: TimeLimit | None = None  # that of the run that goes on, if it has one


def wait(fds: list[int], seconds: float | None = None) -> bool:
    """Wait until one of ``fds`` can be read, or ``seconds`` are over; whether one can be.

    SIGINT and the time limit of the run end it with InterruptedError: Python would start
    such a call again after the signal, and the hart would never stop.
    """
    global _waiting
    limit = _limit
    over = [] if limit is None else [limit.fileno()]
    _waiting = True
    try:
        ready, _, _ = select.select([*fds, *over], [], [], seconds)
    finally:
        _waiting = False
    if limit is not None and limit.fileno() in ready:
        limit.hart.stop()  # now: its thread may come to it after the guest has gone on
        raise InterruptedError
    return bool(ready)


def sleep(seconds: float) -> None:
    """Let time pass; less of it where the run is ended from outside."""
    with contextlib.suppress(InterruptedError):
        wait([], min(seconds, threading.TIMEOUT_MAX))


@contextlib.contextmanager
def stop_on_ctrl_c(hart: Hart) -> Iterator[threading.Event]:
    """SIGINT stops ``hart`` at its next block; the run returns INTERRUPTED, and the event is set.

    Does nothing outside of the main thread, where signals cannot be handled.
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    done = threading.Event()

    def interrupted(_number: int, _frame: object) -> None:
        if _waiting:
            hart.stop()  # now: the thread may come to it after the guest has gone on
            raise InterruptedError

    def wait_for_signal() -> None:
        while data := ours.recv(16):
            if signal.SIGINT in data:
                came.set()
                _stop_until(done, hart)

    thread = threading.Thread(target=wait_for_signal, name="ctrl-c", daemon=True)
    old_handler = signal.signal(signal.SIGINT, interrupted)
    old_fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    thread.start()
    try:
        yield came
    finally:
        signal.set_wakeup_fd(old_fd)
        signal.signal(signal.SIGINT, old_handler)
        done.set()
        theirs.close()
        thread.join()
        ours.close()


def _stop_until(done: threading.Event, hart: Hart) -> None:
    """Stop ``hart``, and again: a guest's run may be several of the hart's, and a stop between
    two is forgotten."""
    while not done.is_set():
        hart.stop()
        done.wait(_STOP_AGAIN)


class TimeLimit:
    """A context in which ``hart`` is stopped when ``seconds`` are over: then ``is_over``.

    None: no limit.
    """

    def __init__(self, hart: Hart, seconds: float | None) -> None:
        self.hart = hart
        self.seconds = seconds
        self.is_over = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="time limit", daemon=True)

    def fileno(self) -> int:
        """A descriptor that can be read when the time is over."""
        return self._ours.fileno()

    def _watch(self) -> None:
        if self._done.wait(self.seconds):
            return
        self.is_over = True
        self._theirs.send(b"!")
        _stop_until(self._done, self.hart)

    def __enter__(self) -> TimeLimit:
        global _limit
        if self.seconds is not None:
            self._ours, self._theirs = socket.socketpair()
            _limit = self
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        global _limit
        if self.seconds is not None:
            _limit = None
            self._done.set()
            self._thread.join()
            self._ours.close()
            self._theirs.close()
