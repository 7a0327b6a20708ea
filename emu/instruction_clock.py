"""A clock that the guest itself drives: two runs of the same guest are the same to the bit.

Every block of translated code adds its size in bytes to a counter before it runs, and
`BYTES_PER_TICK` bytes are one tick of `mtime`: about 85 instructions, so that guest time
passes about as fast as on a hart of 850 MHz. An alarm rings at the first block that starts
after its time. When the guest waits (`wfi`), time jumps to the next alarm.

The counter is a few machine instructions where `emu.native` has them, else a Python callback
that does the same a hundred times slower.
"""

from __future__ import annotations

import ctypes as C
import threading

import unicorn.unicorn_const as ucc

from emu import inside, native
from emu.clock import Clock
from emu.hart import Hart

BYTES_PER_TICK = 256
_NEVER = (1 << 64) - 1
_COUNT, _DEADLINE, _AT_DEADLINE = range(3)


class InstructionClock(Clock):
    """`mtime` from the bytes of code that ``hart`` has executed. Attach before the first run."""

    def __init__(self, hart: Hart, lock: threading.RLock | None = None) -> None:
        super().__init__(lock)
        self._hart = hart
        # What the native code works on: bytes so far, the count at which to call, whom.
        self._words = (C.c_uint64 * 3)()
        self._words[_DEADLINE] = _NEVER
        self._offset = 0  # ticks
        reached = inside.BLOCK_CB(self._reached)
        hart.callbacks.append(reached)
        if native.available():
            self._words[_AT_DEADLINE] = C.cast(reached, C.c_void_p).value or 0
            callback = C.c_void_p(native.block_counter())
        else:
            block = inside.BLOCK_CB(self._block)
            hart.callbacks.append(block)
            callback = C.cast(block, C.c_void_p)
        inside.hook(hart.uc, ucc.UC_HOOK_BLOCK, callback, data=C.addressof(self._words))

    @property
    def executed(self) -> int:
        """Bytes of code executed since the machine was made: what `mcycle` counts here."""
        return self._words[_COUNT]

    @executed.setter
    def executed(self, count: int) -> None:
        with self.lock:
            now = self.now()
            self._words[_COUNT] = count
            self.set_now(now)

    def now(self) -> int:
        return self._offset + self._words[_COUNT] // BYTES_PER_TICK & (1 << 64) - 1

    def set_now(self, ticks: int) -> None:
        with self.lock:
            self._offset = ticks - self._words[_COUNT] // BYTES_PER_TICK
            self.alarms_changed()

    def alarms_changed(self) -> None:
        when = self.next_alarm()
        if when is not None and when <= self.now():
            self.ring_due()
            when = self.next_alarm()
        deadline = _NEVER if when is None else max(when - self._offset, 0) * BYTES_PER_TICK
        self._words[_DEADLINE] = min(deadline, _NEVER)

    def idle(self, wake: threading.Event, outside: bool) -> bool:
        with self.lock:
            when = self.next_alarm()
            if when is not None:
                self.set_now(max(when, self.now()))
                return True
        if outside:
            wake.wait()
        return wake.is_set()

    def _block(self, uc: int, va: int, size: int, data: int) -> None:
        """What the native code does."""
        self._words[_COUNT] += size
        if self._words[_COUNT] >= self._words[_DEADLINE]:
            self._reached(uc, va, size, data)

    def _reached(self, _uc: int, _va: int, _size: int, _data: int) -> None:
        try:
            with self.lock:
                self.alarms_changed()
        except BaseException as e:  # nothing may pass through the engine's C frames
            self._hart.fail(e)
