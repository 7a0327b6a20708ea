"""Waiting for processes by their progress, never by seconds.

How long anything takes says nothing on a machine that does much else. What tells a hang from
a long wait is what /proc says of the threads: one that could go on and has no processor is
still runnable, and one that hangs sleeps. So a look at a group of processes is *still* when
none of its threads was runnable, hardly any processor time was used since the look before,
and nothing was written. After STILL_LOOKS of them, a second or so apart, nobody is
waited for any longer. What never sleeps is given a budget of processor time instead.

Where there is no /proc nothing counts as hanging.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.hart import Hart

STILL_LOOKS = 120
CPU_MAX = 600.0  # seconds of processor time, of all threads together
LOOK_EVERY = 1.0  # seconds
_STILL_SHARE = 0.1  # of one processor, for what only wakes up to look at the time
_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class HangError(Exception):
    """Who was waited for does nothing any more, or runs without end."""


@dataclass(frozen=True)
class Look:
    """``cpu``: seconds used so far; ``written``: bytes; ``awake``: runnable now."""

    cpu: float
    written: int
    awake: bool


def look(pids: list[int], besides: int | None = None) -> Look:
    """At all threads of the processes, but for the thread ``besides``."""
    cpu, written, awake = 0.0, 0, False
    for pid in pids:
        for task in _entries(_PROC / str(pid) / "task"):
            if task == besides:
                continue
            fields = _stat(_PROC / str(pid) / "task" / str(task))
            if not fields:
                continue
            # proc_pid_stat(5): 3 is the state, 14 and 15 are utime and stime. D waits for a disk.
            awake = awake or fields[0] in "RD"
            cpu += (int(fields[11]) + int(fields[12])) / _TICKS
            written += _written(_PROC / str(pid) / "task" / str(task))
        if fields := _stat(_PROC / str(pid)):  # 16 and 17: those of children that have ended
            cpu += (int(fields[13]) + int(fields[14])) / _TICKS
    return Look(cpu, written, awake)


def tree(root: int) -> list[int]:
    """The process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for pid in _entries(_PROC):
        if fields := _stat(_PROC / str(pid)):
            children.setdefault(int(fields[1]), []).append(pid)
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _entries(folder: Path) -> Iterator[int]:
    try:
        names = os.listdir(folder)
    except OSError:  # it has ended, or there is no /proc
        return
    yield from (int(name) for name in names if name.isdecimal())


def _stat(folder: Path) -> list[str]:
    """The fields of ``stat`` from the third on; none when it has ended."""
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _written(folder: Path) -> int:
    try:
        lines = (folder / "io").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("wchar"))


class Patience:
    """With process ``pid`` and its descendants, as long as they get on.

    Of the own process every thread counts but the one that waits. ``cpu_max``: seconds of
    processor time that they may use from now on; ``looks``: in STILL_LOOKS' place.
    """

    def __init__(
        self, pid: int | None = None, cpu_max: float = CPU_MAX, looks: int | None = None
    ) -> None:
        self._root = os.getpid() if pid is None else pid
        self._besides = threading.get_native_id() if self._root == os.getpid() else None
        self._cpu_max = cpu_max
        self._looks = STILL_LOOKS if looks is None else looks
        self._still = 0
        self._when = time.monotonic()
        self._first = self._last = self._look()

    def _look(self) -> Look:
        return look(tree(self._root), self._besides)

    def ask(self) -> None:
        """As often as one likes; raises HangError when there is no use in waiting."""
        now = time.monotonic()
        if now - self._when < LOOK_EVERY:
            return
        last, self._last = self._last, self._look()
        used = self._last.cpu - last.cpu
        is_still = (
            not self._last.awake
            and self._last.written == last.written
            and used <= _STILL_SHARE * (now - self._when)
        )
        self._when = now
        self._still = self._still + 1 if is_still else 0
        if self._still >= self._looks:
            raise HangError(f"asleep, all of it:\n{describe(tree(self._root))}")
        if self._last.cpu - self._first.cpu > self._cpu_max:
            raise HangError(
                f"no end after {self._cpu_max:g} s of processor time:\n{describe(tree(self._root))}"
            )

    def pause(self) -> None:
        """A moment for the others, then `ask`."""
        time.sleep(0.002)
        self.ask()


@contextmanager
def stopped_when_stuck(hart: Hart, cpu_max: float = CPU_MAX) -> Iterator[None]:
    """A run of ``hart`` in this process that hangs is interrupted, as by `Hart.stop`.

    In half of STILL_LOOKS, before whoever watches the process from outside ends all of it.
    """
    over = threading.Event()

    def watch() -> None:
        try:
            if over.wait(LOOK_EVERY):  # most runs are short
                return
            patience = Patience(cpu_max=cpu_max, looks=STILL_LOOKS // 2)
            while not over.wait(0.2):
                patience.ask()
        except HangError:
            while not over.wait(0.2):  # a stop between two runs has no effect
                hart.stop()

    thread = threading.Thread(target=watch, name="patience", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def describe(pids: list[int]) -> str:
    """A line of each thread: who it is, its state, what it sleeps in, the time it has used."""
    lines = []
    for pid in pids:
        try:
            words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
            lines.append(f"process {pid}: {b' '.join(words).decode(errors='replace')[:300]}")
        except OSError:
            continue
        for task in _entries(_PROC / str(pid) / "task"):
            folder = _PROC / str(pid) / "task" / str(task)
            try:
                name = (folder / "comm").read_text().strip()
                sleeps_in = (folder / "wchan").read_text()
            except OSError:
                continue
            if fields := _stat(folder):
                used = (int(fields[11]) + int(fields[12])) / _TICKS
                lines.append(f"  thread {task} {name}: {fields[0]} {sleeps_in}, {used:.2f} s")
    return "\n".join(lines)
