"""Which pages of RAM hold anything, found without touching those that nobody has used.

A machine's RAM is a sparse mapping: looking at an unused page would make the host back it, and
a machine of hundreds of GiB would take minutes to look through. The host's kernel knows which
pages it has backed (`/proc/self/pagemap`, Documentation/admin-guide/mm/pagemap.rst).
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from emu.ram import Ram
from emu.spec.paging import PAGE_SIZE

_WORDS = PAGE_SIZE // 8
_ENTRIES_AT_ONCE = 1 << 20  # pagemap entries: 8 MiB of them stand for 4 GiB of RAM
_PAGES_AT_ONCE = 256
_BACKED = 62  # bit 62: swapped out, bit 63: in memory

Indices = npt.NDArray[np.int64]


def pages(ram: Ram) -> npt.NDArray[np.uint64]:
    """All of RAM as rows of one page: shares the memory, copies nothing."""
    return ram.array(ram.base, ram.size // 8).reshape(-1, _WORDS)


def touched(ram: Ram) -> Indices:
    """The pages that may hold something, ascending, as indices from ``ram.base``.

    All of them where the host does not tell.
    """
    count = ram.size // PAGE_SIZE
    found = None
    if _host_tells():
        found = _backed(ram.host_address, count)
    return np.arange(count, dtype=np.int64) if found is None else found


def nonzero(ram: Ram) -> Indices:
    """The pages that hold a byte that is not zero, ascending, as indices from ``ram.base``."""
    kept = [indices for indices, _ in contents(ram, touched(ram))]
    return np.concatenate(kept) if kept else np.zeros(0, np.int64)


def contents(ram: Ram, indices: Indices) -> Iterator[tuple[Indices, npt.NDArray[np.uint64]]]:
    """Copies of the pages at ``indices`` that are not zero, with their indices, in blocks.

    A block is at most 256 pages.
    """
    rows = pages(ram)
    for start in range(0, len(indices), _PAGES_AT_ONCE):
        some = indices[start : start + _PAGES_AT_ONCE]
        block = rows[some]
        holds = np.bitwise_or.reduce(block, axis=1) != 0
        if not holds.all():
            some, block = some[holds], block[holds]
        if len(some):
            yield some, block


def _backed(host_address: int, count: int) -> Indices | None:
    """Of ``count`` pages at ``host_address`` those that the host has backed; None: unknown."""
    first = host_address // mmap.PAGESIZE
    found = []
    try:
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        for start in range(0, count, _ENTRIES_AT_ONCE):
            size = 8 * min(_ENTRIES_AT_ONCE, count - start)
            data = os.pread(pagemap, size, 8 * (first + start))
            if len(data) != size:
                return None
            entries = np.frombuffer(data, np.uint64)
            found.append(np.flatnonzero(entries >> np.uint64(_BACKED)) + start)
    except OSError:
        return None
    finally:
        os.close(pagemap)
    return np.concatenate(found)


def _host_tells() -> bool:
    """Whether the pagemap of this host is there and true: asked about two known pages."""
    if mmap.PAGESIZE != PAGE_SIZE:
        return False
    with mmap.mmap(-1, 2 * PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as probe:
        probe[0] = 1
        window = ctypes.c_char.from_buffer(probe)
        found = _backed(ctypes.addressof(window), 2)
        del window
    # A huge page or read-ahead may back the second one too.
    return found is not None and len(found) > 0 and int(found[0]) == 0
