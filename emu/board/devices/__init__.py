"""Devices of the board: one small file each, and the protocol that they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable


class Device(Protocol):
    """Something with registers in physical memory.

    ``base`` is its PA and ``size`` its extent in bytes; offsets are from ``base``. Access
    sizes are 1, 2 or 4 bytes (an 8-byte access arrives as two of 4, the lower first). A
    register that does not exist reads 0 and ignores writes, as on QEMU's board. The machine
    calls a device with its lock held: no two threads are in devices at once.
    """

    name: str
    base: int
    size: int
    # The parts of `state` that are not the device's own, and that a reset leaves: what stands
    # on a disk, what waits at the other end of a line.
    outside: tuple[str, ...]

    def read(self, offset: int, size: int) -> int:
        """The value of ``size`` bytes at ``offset``."""

    def write(self, offset: int, size: int, value: int) -> None:
        """Store ``size`` bytes at ``offset``."""

    def state(self) -> dict[str, Any]:
        """All that a snapshot must keep: JSON's types and bytes."""

    @property
    def bytes_max(self) -> int:
        """The most bytes that the values of bytes in `state` can have together."""

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        """Check all of ``state``, which may come from a stranger, and change nothing.

        What is returned makes the device what `state` described, without raising or lowering
        interrupt lines (the lines' other ends are restored too), and does not fail. Raises
        KeyError, TypeError or ValueError for a state that is not this device's.
        """

    def restore(self, state: dict[str, Any]) -> None:
        """Both at once."""


@runtime_checkable
class Interruptible(Protocol):
    """A device with requests that may take longer than a moment, which it does in pieces.

    Between two pieces it asks ``stop_wanted``, and when that says so, returns: what is left to
    do is part of its `state`, and `go_on` is called at the start of the next run. (The guest may
    get to the end of the block of code that made the request before the run ends.)
    """

    stop_wanted: Callable[[], bool]

    def go_on(self) -> None:
        """Do what is left, as far as ``stop_wanted`` lets it."""
