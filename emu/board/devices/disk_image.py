"""A raw disk image: a file of sectors that is read, and written only in memory.

Copy-on-write is done by pages of 4 KiB in a dict and not by a private mapping of the file:
a mapped file that somebody truncates ends the process with SIGBUS, a `pread` of it is an
error like any other.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from emu.board.devices import saved

SECTOR_SIZE = 512
_PAGE_SIZE = 4096
_PATH_SIZE_MAX = 1 << 16  # characters


class DiskImage(saved.Restorable):
    """``mode`` is "ro", or "cow": writes stay in this object, at most the image's size.

    ``size`` is in bytes. Raises ValueError, in one line, for a path that is no disk image.
    """

    def __init__(self, path: str | os.PathLike[str], mode: str = "ro") -> None:
        self._fd = -1
        if mode not in ("ro", "cow"):
            raise ValueError(f"disk mode {mode!r}: ro or cow")
        self.path = str(os.fspath(path))
        self.is_readonly = mode == "ro"
        self._pages: dict[int, bytearray] = {}  # those that were written, by number
        try:
            # The kind first: opening a FIFO would wait for somebody at its other end.
            kind = os.stat(path)
            if stat.S_ISREG(kind.st_mode):
                self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
                kind = os.fstat(self._fd)
        except (OSError, ValueError) as e:
            why = e.strerror if isinstance(e, OSError) else str(e)
            raise ValueError(f"disk {self.path}: {why}") from e
        why = ""
        if stat.S_ISDIR(kind.st_mode):
            why = "is a directory"
        elif not stat.S_ISREG(kind.st_mode):
            why = "is not a regular file"
        elif kind.st_size == 0:
            why = "is empty"
        elif kind.st_size % SECTOR_SIZE:
            why = f"{kind.st_size} bytes are not whole sectors of {SECTOR_SIZE}"
        if why:
            self.close()
            raise ValueError(f"disk {self.path}: {why}")
        self.size = kind.st_size

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()

    def _check(self, position: int, size: int) -> None:
        if position < 0 or position + size > self.size:
            raise OSError(f"{size} bytes at {position}: the disk has {self.size}")

    def _extent(self, page: int) -> int:
        """The bytes of a page that are on the disk."""
        return min(_PAGE_SIZE, self.size - page * _PAGE_SIZE)

    def _read_file(self, buffers: Sequence[memoryview], position: int, size: int) -> None:
        if os.preadv(self._fd, buffers, position) != size:
            raise OSError(f"{self.path} has been truncated")

    def read(self, buffers: Sequence[memoryview], position: int) -> None:
        """Fill ``buffers`` one after the other from ``position`` (bytes).

        Raises OSError when the range is not on the disk or the file cannot be read.
        """
        size = sum(map(len, buffers))
        self._check(position, size)
        pages = range(position // _PAGE_SIZE, -(-(position + size) // _PAGE_SIZE))
        if not self._pages or not any(page in self._pages for page in pages):
            self._read_file(buffers, position, size)
            return
        for buffer in buffers:
            for page, start, piece in self._pieces(buffer, position):
                written = self._pages.get(page)
                if written is None:
                    self._read_file([piece], page * _PAGE_SIZE + start, len(piece))
                else:
                    piece[:] = written[start : start + len(piece)]
            position += len(buffer)

    def write(self, data: memoryview, position: int) -> None:
        """Put ``data`` at ``position`` (bytes), in memory.

        Raises OSError when the disk is read-only or as `read` does.
        """
        if self.is_readonly:
            raise OSError(f"{self.path} is read-only")
        self._check(position, len(data))
        for page, start, piece in self._pieces(data, position):
            if len(piece) == self._extent(page):
                self._pages[page] = bytearray(piece)
                continue
            if page not in self._pages:
                self._pages[page] = self._load(page)
            self._pages[page][start : start + len(piece)] = piece

    def _load(self, page: int) -> bytearray:
        content = bytearray(self._extent(page))
        self._read_file([memoryview(content)], page * _PAGE_SIZE, len(content))
        return content

    @staticmethod
    def _pieces(buffer: memoryview, position: int) -> Iterator[tuple[int, int, memoryview]]:
        """``buffer`` cut at page boundaries: page, where in it, the piece."""
        done = 0
        while done < len(buffer):
            page, start = divmod(position + done, _PAGE_SIZE)
            size = min(_PAGE_SIZE - start, len(buffer) - done)
            yield page, start, buffer[done : done + size]
            done += size

    def _differs(self, page: int) -> bool:
        try:
            return self._pages[page] != self._load(page)
        except OSError:
            return True

    @property
    def bytes_max(self) -> int:
        """The most bytes that `state` can have: all pages, and a number for each."""
        return self.size + 8 * -(-self.size // _PAGE_SIZE)

    def state(self) -> dict[str, Any]:
        """The file's path and size, and the pages that differ from it: numbers, as u64 each in
        ascending order, and their contents one after the other."""
        pages = [page for page in sorted(self._pages) if self._differs(page)]
        return {
            "path": self.path,
            "size": self.size,
            "pages": struct.pack(f"<{len(pages)}Q", *pages),
            "content": b"".join(self._pages[page] for page in pages),
        }

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        """Check ``state``; what is returned makes the disk so.

        The file may have moved, not changed its size. Raises KeyError, TypeError or ValueError
        for a state that does not fit.
        """
        saved.fields(state, "path", "size", "pages", "content")
        saved.text(state, "path", _PATH_SIZE_MAX)
        if saved.number(state, "size", 64) != self.size:
            raise ValueError(f"disk {self.path}: {self.size} bytes, saved with {state['size']}")
        count = -(-self.size // _PAGE_SIZE)
        numbers = saved.data(state, "pages", 8 * count)
        content = memoryview(saved.data(state, "content", self.size))
        if len(numbers) % 8:
            raise ValueError("saved disk pages: not whole numbers")
        pages = struct.unpack(f"<{len(numbers) // 8}Q", numbers)
        if any(a >= b for a, b in pairwise((-1, *pages, count))):
            raise ValueError("saved disk pages: not ascending, or not on the disk")
        if sum(map(self._extent, pages)) != len(content):
            raise ValueError(f"saved disk pages: {len(pages)} in {len(content)} bytes")
        if pages and self.is_readonly:
            raise ValueError(f"disk {self.path}: read-only, saved with changes")

        def apply() -> None:
            # All are whole pages, but the last one of the disk.
            self._pages = {
                page: bytearray(content[_PAGE_SIZE * i : _PAGE_SIZE * (i + 1)])
                for i, page in enumerate(pages)
            }

        return apply
