"""A register that is read without Python: drivers look at it for each byte that they send.

The device keeps the value in a word; a few machine instructions (`emu.native`) give it to the
guest and count. While the word is 0, and where those cannot run, the device's `read` is
called as for every other register.
"""

from __future__ import annotations

import ctypes

_NOWHERE = (1 << 64) - 1  # an offset that no access has
_OFFSET, _VALUE, _READS, _READ = range(4)  # as `emu.native.register_read` has them


class QuickRegister:
    """The register at ``offset`` (bytes) of its device; reading it changes nothing there."""

    def __init__(self, offset: int) -> None:
        self._offset = offset
        self._words = (ctypes.c_uint64 * 4)(offset)

    def connect(self, read: int) -> int:
        """The address of the words, for native code that calls ``read`` (an address) else."""
        self._words[_READ] = read
        return ctypes.addressof(self._words)

    def show(self, value: int) -> None:
        """What reads give from now on; 0: the device is to be asked."""
        self._words[_VALUE] = value

    def watch(self, on: bool) -> None:
        """While on, every read goes to the device: somebody wants to see it."""
        self._words[_OFFSET] = _NOWHERE if on else self._offset

    @property
    def reads(self) -> int:
        """How often it was read without asking the device."""
        return self._words[_READS]

    @reads.setter
    def reads(self, count: int) -> None:
        self._words[_READS] = count
