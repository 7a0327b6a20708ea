"""Ctrl-C while the hart runs: Python's own signal handling waits until the engine returns."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator

from emu.hart import Hart

_waiting = False


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Around a call that blocks: SIGINT ends it with InterruptedError.

    Python would start such a call again after the signal, and the hart would never stop.
    """
    global _waiting
    _waiting = True
    try:
        yield
    finally:
        _waiting = False


@contextlib.contextmanager
def stop_on_ctrl_c(hart: Hart) -> Iterator[None]:
    """SIGINT stops ``hart`` at its next block; the run returns INTERRUPTED.

    A thread sleeps on the descriptor that the interpreter's C signal handler writes to.
    Does nothing outside of the main thread, where signals cannot be handled.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def interrupted(_number: int, _frame: object) -> None:
        if _waiting:
            hart.stop()  # now: the thread may come to it after the guest has gone on
            raise InterruptedError

    def wait() -> None:
        while data := ours.recv(16):
            if signal.SIGINT in data:
                hart.stop()

    thread = threading.Thread(target=wait, name="ctrl-c", daemon=True)
    old_handler = signal.signal(signal.SIGINT, interrupted)
    old_fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(old_fd)
        signal.signal(signal.SIGINT, old_handler)
        theirs.close()
        thread.join()
        ours.close()
