"""How tests wait: for what they want to see, as long as those who bring it about get on.

    wait_until(lambda: board.hart.running)
    status = ended(process)

No test counts seconds; see `guest.boot.progress` for when a wait is given up. What is waited for
without these (a lock, a join, a read) is given up by `watchdog`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

from guest.boot.progress import CPU_MAX, Patience, look, stopped_when_stuck, tree

__all__ = [
    "ended", "stopped_when_stuck", "wait_until", "wait_until_it_has_run", "wait_until_it_waits",
]  # fmt: skip


def wait_until(condition: Callable[[], object], pid: int | None = None) -> None:
    """Until it holds; meant for what others, threads or process ``pid``, bring about."""
    patience = Patience(pid)
    while not condition():
        patience.pause()


def ended(process: subprocess.Popen[Any], cpu_max: float = CPU_MAX) -> int:
    """The exit status of a process that need not be read to go on.

    ``cpu_max``: seconds of processor time that it may use until its end.
    """
    wait_for_end = Patience(process.pid, cpu_max)
    while process.poll() is None:
        wait_for_end.pause()
    return int(process.returncode)


def wait_until_it_has_run(process: subprocess.Popen[Any], cpu: float = 0.05) -> None:
    """Until it has used ``cpu`` seconds more: for a guest that spins from now on."""
    enough = look(tree(process.pid)).cpu + cpu
    wait_until(lambda: look(tree(process.pid)).cpu >= enough, process.pid)


def wait_until_it_waits(process: subprocess.Popen[Any]) -> None:
    """Until it sleeps, all of it, for somebody else: a reader, a writer, a signal."""
    patience = Patience(process.pid)
    last, still = look(tree(process.pid)), 0
    while still < 20:
        patience.pause()
        now = look(tree(process.pid))
        still = still + 1 if not now.awake and now == last else 0
        last = now
