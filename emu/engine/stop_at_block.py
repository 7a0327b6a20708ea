"""Interrupts on the public way: the hart stops between instructions to look for them.

A stop from a device's callback, or from another thread, would leave pc at an access that has
been done, and it would be done once more: a store that raised an interrupt was repeated for
ever. So the stop waits until the next block of code begins. Where `emu.engine.native` cannot run it
comes at once all the same: a Python callback for each block would be slower than all else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.engine import calls, native
from emu.engine.block_counter import NEVER, BlockCounter

if TYPE_CHECKING:
    from emu.engine.hart import Hart


class StopAtBlock:
    """Stops ``hart`` where its next block of code begins, once `set`.

    Nothing where the engine delivers interrupts by itself.
    """

    def __init__(self, hart: Hart) -> None:
        self._hart = hart
        self._runs_one = False  # the block that begins next
        self._blocks: BlockCounter | None = None
        if native.available() and not hart.access.in_place:
            self._blocks = BlockCounter(hart, self._reached)

    @property
    def is_native(self) -> bool:
        return self._blocks is not None

    def set(self) -> None:
        """From any thread."""
        if self._blocks is not None:
            self._blocks.deadline = 0
        elif self._hart.running:
            calls.emu_stop(self._hart.uc)

    def set_behind_one(self) -> None:
        """From outside of the engine: the block that begins first is run to its end.

        For what is pending and masked. Only instructions that end a block can unmask it:
        writes of CSRs and returns from traps.
        """
        self._runs_one = True
        self.set()

    def clear(self) -> None:
        """From outside of the engine: the hart looks now."""
        self._runs_one = False
        if self._blocks is not None:
            self._blocks.deadline = NEVER

    def _reached(self) -> None:
        if self._runs_one:
            self._runs_one = False
            return
        self.clear()
        self._hart.start_again()
