"""Page poisoning: a freed frame is filled with 0xaa, and looked at when it is allocated.

Who writes to a frame that is free changes the pattern, and Linux's report names the bytes.
A byte of RAM for each frame says whether it was filled: frames that were never freed were
not, so that boot stays independent of the size of RAM.

Source: Linux mm/page_poison.c.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from emu.ram import PAGE_SHIFT, PAGE_SIZE
from mm.addrspace import Space
from mm.page_ext import PageAllocInfo

PAGE_POISON = 0xAA
_POISON_WORD = int.from_bytes(bytes([PAGE_POISON]) * 8, "little")
_DUMP_BYTES_MAX = 512  # of a report


class PagePoison:
    """The poison of one kernel's frames; ``info`` says where the byte map is."""

    def __init__(self, space: Space, info: PageAllocInfo) -> None:
        self.space = space
        self.ram = space.ram
        self._map = info.page_poison_pa - space.start_pfn

    def poison_pages(self, pfn: int, count: int) -> None:
        """Fill ``count`` frames from ``pfn``, and remember it."""
        self.ram.fill(pfn << PAGE_SHIFT, count << PAGE_SHIFT, PAGE_POISON)
        self.ram.fill(self._map + pfn, count, 1)

    def poisoned(self, pfn: int) -> bool:
        """Whether frame ``pfn`` is filled, or should be."""
        return self.ram.read8(self._map + pfn) != 0

    def corrupted(self, pfn: int, count: int) -> list[int]:
        """The PFNs of those of ``count`` frames from ``pfn`` that lost the poison they had."""
        flags = np.frombuffer(self.ram.read(self._map + pfn, count), dtype=np.uint8)
        if not flags.any():
            return []
        words = self.ram.array(pfn << PAGE_SHIFT, count * (PAGE_SIZE // 8))
        intact = (words.reshape(count, -1) == np.uint64(_POISON_WORD)).all(axis=1)
        return [pfn + i for i in ((flags != 0) & ~intact).nonzero()[0].tolist()]

    def unpoison_pages(self, pfn: int, count: int) -> list[int]:
        """``count`` frames from ``pfn`` are allocated: the PFNs of those that were written to
        while they were free."""
        bad = self.corrupted(pfn, count)
        self.ram.fill(self._map + pfn, count)
        return bad

    def report(self, pfn: int) -> Iterator[str]:
        """Linux's report of a corrupted frame (check_poison_mem)."""
        data = self.ram.read(pfn << PAGE_SHIFT, PAGE_SIZE)
        wrong = [i for i, byte in enumerate(data) if byte != PAGE_POISON]
        first, last = wrong[0], wrong[-1]
        flipped = data[first] ^ PAGE_POISON
        if first == last and flipped & (flipped - 1) == 0:
            yield "pagealloc: single bit error"
        else:
            yield "pagealloc: memory corruption"
        base = self.space.page_offset + ((pfn - self.space.start_pfn) << PAGE_SHIFT)
        for at in range(first, min(last + 1, first + _DUMP_BYTES_MAX), 16):
            row = data[at : min(at + 16, last + 1)]
            text = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
            yield f"{base + at:016x}: {row.hex(' '):<49}{text}"
