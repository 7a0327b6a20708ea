"""Interrupts on the public way: the hart stops between instructions to look for them.

A stop from a device's callback, or from another thread, would leave pc at an access that has
been done, and it would be done once more: a store that raised an interrupt was repeated for
ever. So the stop waits until the next block of code begins. Where `emu.native` cannot run it
comes at once all the same: a Python callback for each block would be slower than all else.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import unicorn.unicorn_const as ucc

from emu import inside, native

if TYPE_CHECKING:
    from emu.hart import Hart

_NEVER = (1 << 64) - 1
_COUNT, _DEADLINE, _AT_DEADLINE = range(3)  # see `native.block_counter`


class StopAtBlock:
    """Stops ``hart`` where its next block of code begins, once `set`.

    Nothing where the engine delivers interrupts by itself.
    """

    def __init__(self, hart: Hart) -> None:
        self._hart = hart
        self._words = (ctypes.c_uint64 * 3)(0, _NEVER, 0)
        self._runs_one = False  # the block that begins next
        self.is_native = native.available()
        if self.is_native and not hart.access.in_place:
            reached = inside.BLOCK_CB(self._reached)
            hart.callbacks.append(reached)
            self._words[_AT_DEADLINE] = ctypes.cast(reached, ctypes.c_void_p).value or 0
            counter = ctypes.c_void_p(native.block_counter())
            data = ctypes.addressof(self._words)
            inside.hook(hart.uc, ucc.UC_HOOK_BLOCK, counter, data=data)

    def set(self) -> None:
        """From any thread."""
        if self.is_native:
            self._words[_DEADLINE] = 0
        elif self._hart.running:
            inside.emu_stop(self._hart.uc)

    def set_behind_one(self) -> None:
        """From outside of the engine: the block that begins first is run to its end.

        For what is pending and masked. Only instructions that end a block can unmask it:
        writes of CSRs and returns from traps.
        """
        self._runs_one = True
        self._words[_DEADLINE] = 0

    def clear(self) -> None:
        """From outside of the engine: the hart looks now."""
        self._runs_one = False
        self._words[_DEADLINE] = _NEVER

    def _reached(self, _uc: int, _va: int, _size: int, _data: int) -> None:
        if self._runs_one:
            self._runs_one = False
            return
        self._words[_DEADLINE] = _NEVER
        self._hart.start_again()
