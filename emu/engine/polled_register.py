"""A register that is read without Python: drivers look at it for each byte that they send.

The device keeps the value in a word; C (`emu.engine.native`) gives it to the guest and counts.
While the word is 0, and where the C is missing, the device's `read` is called as for every other
register.
"""

from __future__ import annotations

import ctypes

from emu.engine.native import Register

_NOWHERE = (1 << 64) - 1  # an offset that no access has


class PolledRegister:
    """The register at ``offset`` (bytes) of its device; reading it changes nothing there."""

    def __init__(self, offset: int) -> None:
        self._offset = offset
        self._register = Register(offset, 0, 0, 0)

    def connect(self, read: int) -> int:
        """The address of what `read_register` works on; ``read``: that of whom to call else."""
        self._register.read = read
        return ctypes.addressof(self._register)

    def show(self, value: int) -> None:
        """What reads give from now on; 0: the device is to be asked."""
        self._register.value = value

    def watch(self, on: bool) -> None:
        """While on, every read goes to the device: somebody wants to see it."""
        self._register.offset = _NOWHERE if on else self._offset

    @property
    def reads(self) -> int:
        """How often it was read without asking the device."""
        return int(self._register.reads)

    @reads.setter
    def reads(self, count: int) -> None:
        self._register.reads = count
