"""Guest physical memory: one sparse host mapping, shared with the hart and never copied.

Scalars go through a ``memoryview`` (about 40 ns), bulk through numpy views. Every accessor
takes guest physical addresses (PA, bytes) and refuses what lies outside of RAM.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import mmap
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from emu.spec.paging import PAGE_SHIFT as PAGE_SHIFT
from emu.spec.paging import PAGE_SIZE as PAGE_SIZE

if TYPE_CHECKING:  # imported by those who ask for arrays: it takes longer than a board's start
    import numpy.typing as npt

RAM_BASE = 0x8000_0000  # QEMU virt: VIRT_DRAM

# mmap.MAP_NORESERVE is missing from Python's module before 3.13; the value is Linux's on
# x86-64 and arm64. Without it a machine of hundreds of GiB is refused by overcommit.
_MAP_NORESERVE = 0x4000


class RamError(Exception):
    """A physical access outside of RAM, or one that is not aligned to its size.

    ``pa`` is the address in bytes, ``size`` the number of bytes asked for.
    """

    def __init__(self, pa: int, size: int, why: str) -> None:
        super().__init__(f"physical access of {size} bytes at {pa:#x}: {why}")
        self.pa = pa
        self.size = size


def sparse(size: int) -> mmap.mmap:
    """``size`` bytes of zeroed host memory, of which only what is touched costs anything.

    Raises ValueError when the host cannot map so much.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    try:
        return mmap.mmap(-1, size, flags=flags)
    except (OSError, OverflowError, ValueError) as e:
        raise ValueError(f"the host cannot map {size} bytes of memory: {e}") from e


def host_memory() -> int:
    """Bytes of memory that the host has; more than anybody has, where it does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 63


class Ram:
    """``size`` bytes of RAM at physical address ``base`` (both multiples of a page).

    The host mapping is anonymous and sparse: pages of it that nobody touched cost nothing.
    ``u64`` is the same memory as a memoryview of 64-bit words, index ``(pa - base) >> 3``,
    for hot loops that have checked their bounds already.
    """

    __slots__ = (
        "_bytes", "_map", "_u16", "_u32", "base", "end", "error", "host_address", "size", "u64",
    )  # fmt: skip

    def __init__(self, size: int, base: int = RAM_BASE) -> None:
        if size <= 0 or size % PAGE_SIZE or base % PAGE_SIZE or base < 0:
            raise ValueError(f"RAM of {size} bytes at {base:#x}: both must be whole pages")
        if base + size > 1 << 56:
            raise ValueError(f"RAM of {size} bytes at {base:#x} ends above the 56-bit PA space")
        self._map = sparse(size)
        # A huge page would make one touched struct page cost 2 MiB of host memory.
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            with contextlib.suppress(OSError):  # a host kernel without huge pages
                self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self.base = base
        self.size = size
        self.end = base + size
        self.host_address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._bytes = memoryview(self._map)
        self._u16 = self._bytes.cast("H")
        self._u32 = self._bytes.cast("I")
        self.u64 = self._bytes.cast("Q")
        self.error: Callable[[int, int, str], Exception] = RamError

    def refusing_with(self, error: Callable[[int, int, str], Exception]) -> Self:
        """The same memory, whose accessors raise ``error(pa, size, why)`` for RamError.

        For whoever follows pointers out of RAM: an access that cannot be is then not his
        caller's mistake, but says something about what is in RAM.
        """
        other = copy.copy(self)
        other.error = error
        return other

    def __repr__(self) -> str:
        return f"<Ram {self.base:#x}-{self.end:#x}>"

    def contains(self, pa: int, size: int = 1) -> bool:
        """Whether all of ``[pa, pa + size)`` is RAM."""
        return self.base <= pa and size >= 0 and pa + size <= self.end

    def _offset(self, pa: int, size: int, align: int) -> int:
        if not self.contains(pa, size):
            raise self.error(pa, size, f"RAM is {self.base:#x}-{self.end:#x}")
        if pa % align:
            raise self.error(pa, size, "not aligned")
        return pa - self.base

    # scalars

    def read8(self, pa: int) -> int:
        return self._bytes[self._offset(pa, 1, 1)]

    def read16(self, pa: int) -> int:
        return self._u16[self._offset(pa, 2, 2) >> 1]

    def read32(self, pa: int) -> int:
        return self._u32[self._offset(pa, 4, 4) >> 2]

    def read64(self, pa: int) -> int:
        offset = pa - self.base
        if offset < 0 or offset & 7 or offset >= self.size:
            self._offset(pa, 8, 8)
        return self.u64[offset >> 3]

    def write8(self, pa: int, value: int) -> None:
        self._bytes[self._offset(pa, 1, 1)] = value

    def write16(self, pa: int, value: int) -> None:
        self._u16[self._offset(pa, 2, 2) >> 1] = value

    def write32(self, pa: int, value: int) -> None:
        self._u32[self._offset(pa, 4, 4) >> 2] = value

    def write64(self, pa: int, value: int) -> None:
        offset = pa - self.base
        if offset < 0 or offset & 7 or offset >= self.size:
            self._offset(pa, 8, 8)
        self.u64[offset >> 3] = value

    # bulk

    def read(self, pa: int, size: int) -> bytes:
        """A copy of ``size`` bytes at ``pa``, of any alignment."""
        offset = self._offset(pa, size, 1)
        return bytes(self._bytes[offset : offset + size])

    def write(self, pa: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data`` at ``pa``, of any alignment."""
        offset = self._offset(pa, len(data), 1)
        self._bytes[offset : offset + len(data)] = data

    def fill(self, pa: int, size: int, byte: int = 0) -> None:
        """Set ``size`` bytes at ``pa`` to ``byte``."""
        offset = self._offset(pa, size, 1)
        ctypes.memset(self.host_address + offset, byte, size)

    def clear(self) -> bool:
        """Make all of it zero and give it back to the host; False: this host cannot, and nothing
        has changed. Takes as long as there are pages that somebody touched."""
        if sys.platform != "linux":  # elsewhere MADV_DONTNEED is no more than advice
            return False
        self._map.madvise(mmap.MADV_DONTNEED)
        return True

    def array(self, pa: int, count: int, dtype: npt.DTypeLike = "u8") -> npt.NDArray[Any]:
        """A numpy view of ``count`` items at ``pa``: shares the memory, copies nothing.

        ``pa`` must be a multiple of the alignment of ``dtype``.
        """
        import numpy as np

        kind = np.dtype(dtype)
        offset = self._offset(pa, count * kind.itemsize, kind.alignment)
        return np.frombuffer(self._map, kind, count, offset)
