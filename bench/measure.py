"""Taking a ratio on a noisy machine: the two sides in turn, the median of the pairs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


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
