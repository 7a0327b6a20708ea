"""Taking a ratio on a noisy machine: the two sides in turn, the median of the pairs."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TypeVar

from guest.boot.progress import HangError, Patience

_Found = TypeVar("_Found")


class Unmeasurable(Exception):
    """Why a row cannot be measured here, in a few words."""


class Failed(Exception):
    """What went wrong with a row, in a few words."""


def once(measure: Callable[[], _Found]) -> Callable[[], _Found]:
    """As `functools.cache`, and what is raised is raised again without a second try."""
    kept: list[_Found | Exception] = []

    @wraps(measure)
    def call() -> _Found:
        if not kept:
            try:
                kept.append(measure())
            except Exception as e:
                kept.append(e)
        if isinstance(kept[0], Exception):
            raise kept[0]
        return kept[0]

    return call


def output_of(command: Sequence[str]) -> bytes:
    """What a process that needs no input prints. Raises Failed for a status that is not 0, and
    when it hangs."""
    with tempfile.TemporaryFile() as out:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out) as process:
            patience = Patience(process.pid)
            try:
                while process.poll() is None:
                    patience.pause()
            except HangError:
                raise Failed(f"{command[0]} hangs") from None
            finally:
                process.kill()
        if process.returncode:
            raise Failed(f"{command[0]}: status {process.returncode}")
        out.seek(0)
        return out.read()


@dataclass(frozen=True)
class Ratio:
    """``ours`` and ``other``: medians in seconds; ``ratio``: the median of the pairs' ratios."""

    ours: float
    other: float
    ratio: float


def timed(action: Callable[[], object]) -> float:
    """Seconds that ``action`` takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def ratio(ours: Callable[[], float], other: Callable[[], float], pairs: int) -> Ratio:
    """Take ``pairs`` pairs; each side returns the seconds of one round of its own."""
    ours(), other()  # warm up: caches, lazy imports
    taken = [(ours(), other()) for _ in range(pairs)]
    return Ratio(
        statistics.median(a for a, _ in taken),
        statistics.median(b for _, b in taken),
        statistics.median(a / b for a, b in taken),
    )


def least(ours: Callable[[], float], other: Callable[[], float], pairs: int) -> Ratio:
    """The least of ``pairs`` rounds of each side, taken in turn, and their ratio.

    For what takes seconds: there are too few pairs for a median, and others' work only adds.
    """
    taken = [(ours(), other()) for _ in range(pairs)]
    a, b = min(a for a, _ in taken), min(b for _, b in taken)
    return Ratio(a, b, a / b)
