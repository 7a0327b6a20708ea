"""The board's clock: `mtime`, and alarms for those who wait for a time.

Time is counted in ticks of `emu.board.memory_map.TIMEBASE_HZ` since the machine was made. Two
clocks share one interface: `RealClock` here follows the host's, `emu.board.instruction_clock`
follows the guest's own progress and makes runs repeatable.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from emu.board.memory_map import TIMEBASE_HZ
from emu.engine import native

_NS_PER_TICK = 1_000_000_000 // TIMEBASE_HZ
# The clock that `time.monotonic_ns` reads, for clock_gettime.
_HOST_CLOCK = getattr(time, "CLOCK_UPTIME_RAW", time.CLOCK_MONOTONIC)
_AGAIN = 0.001  # seconds
_WAIT_MAX = 3600.0  # seconds; an alarm further away is looked at again


class Alarm:
    """One waiter: ``ring`` is called once, with the clock's lock held, when ``when`` comes."""

    __slots__ = ("_clock", "ring", "when")

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self.ring = ring
        self.when: int | None = None  # ticks

    def set(self, when: int | None) -> None:
        """Ring at ``when`` (ticks; at once if that has passed), or never (None)."""
        with self._clock.lock:
            self.when = when
            self._clock.alarms_changed()


class Clock:
    """What the two clocks share: the alarms. ``lock`` is the machine's."""

    def __init__(self, lock: threading.RLock | None = None) -> None:
        self.lock = lock or threading.RLock()
        # For the C, which reads `mtime` for the guest: the same as `now`, or that Python be asked.
        self.shared = native.Clock(kind=native.ASK_PYTHON)
        self._alarms: list[Alarm] = []
        # Of a hart that waits: each alarm may have been the last that could wake it, so it
        # looks again whether it waits for ever. Set and used with the lock held.
        self._waiting: threading.Event | None = None

    def now(self) -> int:
        """`mtime`: ticks, 64 bits."""
        raise NotImplementedError

    def set_now(self, ticks: int) -> None:
        """Write `mtime`. Alarms stay at their ticks."""
        raise NotImplementedError

    def alarms_changed(self) -> None:
        """An alarm was set or `mtime` written; called with the lock held."""
        raise NotImplementedError

    def idle(self, wake: threading.Event, outside: bool) -> bool:
        """The hart has nothing to do: wait until ``wake`` is set.

        Returns False at once when no alarm will ever ring, unless something from
        ``outside`` (a terminal) may set it.
        """
        raise NotImplementedError

    def raised(self) -> None:
        """Another thread has raised an interrupt: see to it that the hart notices.

        Call it from any thread, without locks that come behind this one's.
        """

    def close(self) -> None:
        """End what the clock has running."""

    def alarm(self, ring: Callable[[], None]) -> Alarm:
        """A new alarm, not set."""
        alarm = Alarm(self, ring)
        self._alarms.append(alarm)
        return alarm

    def next_alarm(self) -> int | None:
        """The earliest time (ticks) that somebody waits for."""
        return min((a.when for a in self._alarms if a.when is not None), default=None)

    def ring_due(self) -> None:
        """Ring every alarm whose time has come, the earliest first; with the lock held."""
        now = self.now()
        due = [a for a in self._alarms if a.when is not None and a.when <= now]
        for alarm in sorted(due, key=lambda a: a.when or 0):
            alarm.when = None
            alarm.ring()
        if due and self._waiting is not None:
            self._waiting.set()


class RealClock(Clock):
    """The host's monotonic clock, and a thread that sleeps until the next alarm.

    ``show_again`` is called again and again until it returns False, see `emu.hart.Hart.show_again`.
    """

    def __init__(
        self, lock: threading.RLock | None = None, show_again: Callable[[], bool] = lambda: False
    ) -> None:
        super().__init__(lock)
        self._show_again = show_again
        self.shared.kind, self.shared.host_clock = native.HOST_CLOCK, _HOST_CLOCK
        self.shared.per_tick = _NS_PER_TICK
        self.shared.start = time.monotonic_ns()
        self._changed = threading.Condition(self.lock)
        self._sleeps_until: int | None = None  # ticks; None: until told
        self._thread: threading.Thread | None = None
        self._closed = False

    def now(self) -> int:
        shared = self.shared
        passed = (time.monotonic_ns() - shared.start) // _NS_PER_TICK
        return int(shared.since + passed) & (1 << 64) - 1

    def set_now(self, ticks: int) -> None:
        with self.lock:
            self.shared.start, self.shared.since = time.monotonic_ns(), ticks
            self._sleeps_until = None
            self.alarms_changed()

    def alarms_changed(self) -> None:
        when = self.next_alarm()
        if when is None or self._closed:
            return
        if when <= self.now():
            self.ring_due()
            return
        if self._thread is None:
            self._start_thread()
        elif self._sleeps_until is None or when < self._sleeps_until:
            # A later alarm needs no waking: the thread finds it at the time it sleeps to.
            self._changed.notify()

    def raised(self) -> None:
        with self.lock:
            if self._thread is None and not self._closed:
                self._start_thread()
            self._changed.notify()

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._ring, name="clock", daemon=True)
        self._thread.start()

    def _ring(self) -> None:
        with self.lock:
            while not self._closed:
                self.ring_due()
                self._sleeps_until = when = self.next_alarm()
                timeout = None
                if when is not None:
                    seconds = (when - self.now()) * _NS_PER_TICK / 1e9
                    timeout = min(max(seconds, 0), _WAIT_MAX)
                if self._show_again():
                    timeout = _AGAIN if timeout is None else min(timeout, _AGAIN)
                self._changed.wait(timeout)

    def idle(self, wake: threading.Event, outside: bool) -> bool:
        # With the lock: an alarm that rings at this moment is either still to come, or has
        # set `wake`.
        with self.lock:
            if self.next_alarm() is None and not outside:
                return wake.is_set()
            self._waiting = wake
        wake.wait()
        return True

    def close(self) -> None:
        with self.lock:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
