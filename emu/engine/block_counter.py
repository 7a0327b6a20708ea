"""A count of the code that a hart executes, block by block, and a call when it gets somewhere.

Each block of translated code adds its size in bytes before it runs. The counter is C where
`emu.engine.native` is there, else a Python callback that does the same a hundred times slower:
`is_native` says which.
"""

from __future__ import annotations

import ctypes as C
from collections.abc import Callable
from typing import TYPE_CHECKING

import unicorn.unicorn_const as ucc

from emu.engine import calls, native

if TYPE_CHECKING:
    from emu.engine.hart import Hart

NEVER = (1 << 64) - 1


class BlockCounter:
    """Counts for ``hart``; attach before its first run.

    ``reached()`` is called before each block with which ``count`` gets to ``deadline`` (bytes)
    or beyond; what it raises comes out of the run.
    """

    def __init__(self, hart: Hart, reached: Callable[[], None]) -> None:
        self._call, self._fail = reached, hart.fail
        self.words = native.BlockCounter(count=0, deadline=NEVER)
        self.is_native = native.available()
        # Shared with the C, see `emu.engine.native.BlockCounter`.
        self._kept = calls.BLOCK_CB(self._reached if self.is_native else self._block)
        callback = C.cast(self._kept, C.c_void_p)
        if self.is_native:
            self.words.reached = callback.value or 0
            callback = C.c_void_p(native.function("count_block"))
        hart.callbacks.append(self)  # the engine has addresses of what is in here
        calls.hook(hart.uc, ucc.UC_HOOK_BLOCK, callback, data=C.addressof(self.words))

    @property
    def count(self) -> int:
        """Bytes of code executed since the hart was made, or since this was set."""
        return int(self.words.count)

    @count.setter
    def count(self, count: int) -> None:
        self.words.count = count

    @property
    def count_at(self) -> int:
        """The host address of `count`, 64 bits."""
        return C.addressof(self.words)

    @property
    def deadline(self) -> int:
        """NEVER: nothing is called. May be set from any thread."""
        return int(self.words.deadline)

    @deadline.setter
    def deadline(self, count: int) -> None:
        self.words.deadline = count

    def _block(self, uc: int, va: int, size: int, data: int) -> None:
        """What the native code does."""
        self.words.count += size
        if self.words.count >= self.words.deadline:
            self._reached(uc, va, size, data)

    def _reached(self, _uc: int, _va: int, _size: int, _data: int) -> None:
        try:
            self._call()
        except BaseException as e:  # nothing may pass through the engine's C frames
            self._fail(e)
