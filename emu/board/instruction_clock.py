"""A clock that the guest itself drives: two runs of the same guest are the same to the bit.

Every block of translated code adds its size in bytes to a counter before it runs, and
`BYTES_PER_TICK` bytes are one tick of `mtime`: about 85 instructions, so that guest time
passes about as fast as on a hart of 850 MHz. An alarm rings at the first block that starts
after its time. When the guest waits (`wfi`), time jumps to the next alarm.
"""

from __future__ import annotations

import threading

from emu.board.clock import Clock
from emu.engine import native
from emu.engine.block_counter import NEVER, BlockCounter
from emu.engine.direct_access import DirectAccess
from emu.engine.retired import Retired
from emu.hart import Hart

BYTES_PER_TICK = 256


class InstructionClock(Clock):
    """`mtime` from the bytes of code that ``hart`` has executed. Attach before the first run."""

    def __init__(self, hart: Hart, lock: threading.RLock | None = None) -> None:
        super().__init__(lock)
        self._blocks = BlockCounter(hart, self._reached)
        if self._blocks.is_native and isinstance(hart.access, DirectAccess):
            hart.retired = Retired(hart, hart.access, self._blocks.words)
        self._present = hart.present
        self.shared.blocks = self._blocks.count_at
        self.shared.kind, self.shared.per_tick = native.BLOCKS, BYTES_PER_TICK
        self._offset = 0  # ticks
        # Another thread has raised an interrupt, and no block has begun since.
        self._was_raised = False

    @property
    def executed(self) -> int:
        """Bytes of code executed since the machine was made: what `mcycle` counts here."""
        return self._blocks.count

    @executed.setter
    def executed(self, count: int) -> None:
        with self.lock:
            now = self.now()
            self._blocks.count = count
            self.set_now(now)

    def now(self) -> int:
        return self._offset + self._blocks.count // BYTES_PER_TICK & (1 << 64) - 1

    def set_now(self, ticks: int) -> None:
        with self.lock:
            self._offset = ticks - self._blocks.count // BYTES_PER_TICK
            self.shared.since = self._offset & (1 << 64) - 1
            self.alarms_changed()

    def alarms_changed(self) -> None:
        when = self.next_alarm()
        if when is not None and when <= self.now():
            self.ring_due()
            when = self.next_alarm()
        deadline = NEVER if when is None else max(when - self._offset, 0) * BYTES_PER_TICK
        self._blocks.deadline = 0 if self._was_raised else min(deadline, NEVER)

    def raised(self) -> None:
        with self.lock:
            self._was_raised = True
            self._blocks.deadline = 0

    def idle(self, wake: threading.Event, outside: bool) -> bool:
        with self.lock:
            when = self.next_alarm()
            if when is not None:
                self.set_now(max(when, self.now()))
                return True
        if outside:
            wake.wait()
        return wake.is_set()

    def _reached(self) -> None:
        with self.lock:
            if self._was_raised:
                # The engine may have missed it (see `Hart.show_again`); in this thread it cannot.
                self._was_raised = False
                self._present()
            self.alarms_changed()
