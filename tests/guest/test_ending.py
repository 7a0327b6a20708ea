"""Ending a run from outside: who ended it, what that wakes, and what is as it was afterwards."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest
from progress import wait_until

from guest import ending
from guest.ending import SIGNALS, TIMEOUT, Ending


class Run:
    """What is stopped: counts how often."""

    def __init__(self) -> None:
        self.stops = 0

    def stop(self) -> None:
        self.stops += 1


@pytest.fixture
def run() -> Iterator[Run]:
    """Signals, threads and descriptors are afterwards as they were."""

    def state() -> object:
        fds = sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []
        return [signal.getsignal(n) for n in SIGNALS], threading.active_count(), len(fds)

    before = state()
    yield Run()
    assert state() == before


def test_nothing_ends_it(run: Run) -> None:
    with Ending(run.stop, 1000.0) as it:
        assert not ending.wait([], 0.01)
    assert it.by is None and run.stops == 0


def test_the_time_is_up(run: Run) -> None:
    with Ending(run.stop, 1e-9) as it:
        wait_until(lambda: run.stops > 2)  # again and again: one between two runs is forgotten
        with pytest.raises(InterruptedError):
            ending.wait([], 1000.0)
        ending.sleep(1000.0)  # no longer
    assert it.by == TIMEOUT


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal(run: Run, number: signal.Signals) -> None:
    with Ending(run.stop) as it:
        os.kill(os.getpid(), number)
        with pytest.raises(InterruptedError):
            ending.wait([], 1000.0)
        assert run.stops  # at once, before the guest goes on
    assert it.by == number.name


def test_input_that_ends_with_the_signal_is_not_read(run: Run) -> None:
    """Both at once: the guest is not to see the end of its input and go on."""
    ours, theirs = os.pipe()
    os.close(theirs)  # it can be read: its end
    with Ending(run.stop) as it:
        assert ending.wait([ours], 0)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(InterruptedError):
            ending.wait([ours], 1000.0)
    os.close(ours)
    assert it.by == "SIGINT"


def test_signals_that_are_not_asked_for(run: Run) -> None:
    came: list[int] = []
    old = signal.signal(signal.SIGHUP, lambda number, _frame: came.append(number))
    try:
        with Ending(run.stop, signals=[signal.SIGINT]) as it:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not ending.wait([], 0.01)
        assert it.by is None and came == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, old)


def test_the_first_reason_counts_and_is_told_once(run: Run) -> None:
    told: list[str | None] = []
    it = Ending(run.stop)
    it.when_ended.append(lambda: told.append(it.by))
    it.end("a key")  # before there is a run
    it.end("another")
    with it:
        wait_until(lambda: run.stops > 1)
        it.end("a third")
    assert it.by == "a key" and told == ["a key"]


def test_one_within_another(run: Run) -> None:
    inner = Run()
    with Ending(run.stop) as outer:
        with Ending(inner.stop, 1e-9) as it:
            wait_until(lambda: inner.stops > 0)
        assert (it.by, outer.by) == (TIMEOUT, None)
        assert not ending.wait([], 0.01) and run.stops == 0


def test_outside_of_the_main_thread(run: Run) -> None:
    found: list[str | None] = []

    def guest() -> None:
        with Ending(run.stop, 1e-9) as it:
            wait_until(lambda: run.stops > 0)
        found.append(it.by)

    thread = threading.Thread(target=guest)
    thread.start()
    thread.join()
    assert found == [TIMEOUT]
