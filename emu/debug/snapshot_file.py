"""The file of a snapshot: a machine's state without RAM as one dict, and the pages of RAM.

All numbers are little-endian.

  8 bytes   "pagewalk"
  u32 x 3   version of the format, size and CRC32 of the header
  header    JSON: the state, and the size of the data. A value of bytes is
            {"$bytes": [offset, size]} in the data
  blocks    the data, then the pages of RAM that are not zero, then the end

  block     u32 x 3: size, stored size, CRC32 of the size and of what is stored; then that,
            which is zlib's, compressed where that gains anything
  data      up to 1 MiB a block, as much as the header says
  pages     up to 256 a block: their indices from RAM's base as u64, then their contents
  end       a block of size 0

Nothing in a file is believed: each length is bounded and each index checked.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt

from emu.debug import touched
from emu.paging import PAGE_SIZE
from emu.ram import Ram

VERSION = 1
_MAGIC = b"pagewalk"
_START = struct.Struct("<8sIII")
_BLOCK = struct.Struct("<III")
_DATA_BLOCK = 1 << 20  # bytes
_PAGE_RECORD = 8 + PAGE_SIZE  # bytes of a page and its index
_BLOCK_SIZE_MAX = 256 * _PAGE_RECORD
_LEVEL = 1  # zlib
_SAMPLE = 1 << 15  # bytes
_BYTES = "$bytes"
_NOT_OURS = "its header is not a snapshot's"
# What reading a field that is not there or not of its type can raise.
NOT_A_STATE = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError)

# Told of steps done and of all steps.
Report = Callable[[int, int], None]


class SnapshotError(ValueError):
    """The snapshot cannot be written or loaded; the text says why, in one line."""


# Writing


def _encode(value: Any, data: bytearray) -> Any:
    """``value`` in JSON's types, its bytes moved to ``data``. Raises TypeError for others."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes | bytearray):
        data += value
        return {_BYTES: [len(data) - len(value), len(value)]}
    if isinstance(value, list | tuple):
        return [_encode(item, data) for item in value]
    if isinstance(value, dict) and all(isinstance(k, str) and k != _BYTES for k in value):
        return {key: _encode(item, data) for key, item in value.items()}
    raise TypeError(f"a snapshot cannot hold {type(value).__name__}: {value!r:.60}")


def write(file: BinaryIO, ram: Ram, state: dict[str, Any], report: Report) -> None:
    """Write all of a snapshot. ``state``: JSON's types and bytes, with the keys of `Reader`.

    Raises OSError, and TypeError for a state of other types.
    """
    data = bytearray()
    fields = _encode(state, data)
    header = json.dumps(fields | {"data": len(data)}).encode()
    file.write(_START.pack(_MAGIC, VERSION, len(header), zlib.crc32(header)))
    file.write(header)
    for start in range(0, len(data), _DATA_BLOCK):
        _write_block(file, data[start : start + _DATA_BLOCK])
    indices = touched.touched(ram)
    for some, block in touched.contents(ram, indices):
        _write_block(file, some.astype("<u8").tobytes() + block.tobytes())
        report(int(np.searchsorted(indices, some[-1])), len(indices))
    file.write(_BLOCK.pack(0, 0, _crc(0, b"")))


def _write_block(file: BinaryIO, content: bytes | bytearray) -> None:
    # zlib tries hardest where there is nothing to gain: a sample says when not to let it.
    middle = len(content) // 2
    sample = content[middle : middle + _SAMPLE]
    gains = len(zlib.compress(sample, _LEVEL)) < 0.9 * len(sample)
    stored = zlib.compress(content, _LEVEL if gains else 0)
    file.write(_BLOCK.pack(len(content), len(stored), _crc(len(content), stored)))
    file.write(stored)


def _crc(size: int, stored: bytes) -> int:
    return zlib.crc32(stored, zlib.crc32(size.to_bytes(4, "little")))


# Reading


class Reader:
    """A snapshot that is being read. ``header`` is checked for what this class needs of it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._tell: Callable[[int], None]
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would wait
                raise self._error("not a regular file")
            self._file = open(path, "rb")  # noqa: SIM115  (closed by __exit__)
        except SnapshotError:
            raise
        except (OSError, ValueError) as e:
            raise self._error(getattr(e, "strerror", None) or str(e)) from e
        try:
            self.header = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _error(self, why: str) -> SnapshotError:
        return SnapshotError(f"{self.path}: {why}")

    def _read(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except OSError as e:
            raise self._error(e.strerror or str(e)) from e
        if len(data) != size:
            raise self._error("the snapshot is truncated")
        return data

    def _read_header(self) -> dict[str, Any]:
        try:
            start = self._file.read(_START.size)
        except OSError as e:
            raise self._error(e.strerror or str(e)) from e
        if start[: len(_MAGIC)] != _MAGIC[: max(len(start), 1)]:
            raise self._error("not a snapshot")
        if len(start) != _START.size:
            raise self._error("the snapshot is truncated")
        _, version, size, crc = _START.unpack(start)
        if version != VERSION:
            raise self._error(f"a snapshot of version {version}, not {VERSION}")
        if size > os.fstat(self._file.fileno()).st_size:
            raise self._error("the snapshot is truncated")
        text = self._read(size)
        if zlib.crc32(text) != crc:
            raise self._error("the snapshot is corrupt: its header's checksum is wrong")
        try:
            header = json.loads(text)
            numbers = header["data"], header["ram"]["base"], header["ram"]["size"]
            ours = all(type(n) is int and 0 <= n < 1 << 63 for n in numbers)
            # The rest is there as well; what is in it is looked at by those it is for.
            for key in ("levels", "missing", "rom", "clock", "hart", "devices", "parts"):
                header[key]
        except (*NOT_A_STATE, RecursionError) as e:
            raise self._error(_NOT_OURS) from e
        if not ours:
            raise self._error(_NOT_OURS)
        return dict(header)

    def state(self, report: Report) -> dict[str, Any]:
        """The machine's state without RAM. All of the file is checked first."""
        self._verify(report)
        data = bytearray()
        while len(data) < self.header["data"]:
            data += self._content() or self._not_ours()
        try:
            if len(data) != self.header["data"]:
                raise ValueError("more data than the header says")
            return {k: _decode(v, data) for k, v in self.header.items() if k != "data"}
        except (*NOT_A_STATE, RecursionError) as e:
            raise self._error(_NOT_OURS) from e

    def pages(self) -> Iterator[tuple[touched.Indices, npt.NDArray[np.uint64]]]:
        """After `state`: indices of pages, ascending, and their contents, block by block."""
        last = -1
        limit = self.header["ram"]["size"] // PAGE_SIZE
        while content := self._content():
            count, rest = divmod(len(content), _PAGE_RECORD)
            indices = np.frombuffer(content, "<u8", count).astype(np.int64)
            if rest or (np.diff(indices, prepend=last) <= 0).any() or indices[-1] >= limit:
                raise self._error("the snapshot is corrupt: pages that are not RAM")
            last = int(indices[-1])
            yield indices, np.frombuffer(content, "<u8", offset=8 * count).reshape(count, -1)

    def _verify(self, report: Report) -> None:
        """Compare every checksum up to the end; leave the file at the first block."""
        start, total = self._file.tell(), os.fstat(self._file.fileno()).st_size
        self._tell = lambda done: report(done, 2 * total)
        size = 1
        while size:
            size, _ = self._block()
            self._tell(self._file.tell())
        if self._file.read(1):
            raise self._error("the snapshot is corrupt: something follows its end")
        self._file.seek(start)
        self._tell = lambda done: report(total + done, 2 * total)

    def _block(self) -> tuple[int, bytes]:
        """The next block's size and what is stored of it; size 0 is the end."""
        size, stored_size, crc = _BLOCK.unpack(self._read(_BLOCK.size))
        if max(size, stored_size // 2) > _BLOCK_SIZE_MAX:
            raise self._error("the snapshot is corrupt: a block of impossible size")
        stored = self._read(stored_size)
        if _crc(size, stored) != crc:
            raise self._error("the snapshot is corrupt: a checksum is wrong")
        return size, stored

    def _content(self) -> bytes:
        """The next block, b"" at the end."""
        size, stored = self._block()
        self._tell(self._file.tell())
        if not size:
            return b""
        try:
            content = zlib.decompressobj().decompress(stored, size + 1)
        except zlib.error:
            content = b""
        if len(content) != size:
            self._not_ours()
        return content

    def _not_ours(self) -> NoReturn:
        raise self._error("the snapshot is corrupt: a block is not what it should be")


def _decode(value: Any, data: bytearray) -> Any:
    """The opposite of `_encode`. Raises ValueError, TypeError or LookupError."""
    if isinstance(value, list):
        return [_decode(item, data) for item in value]
    if not isinstance(value, dict):
        return value
    if _BYTES not in value:
        return {key: _decode(item, data) for key, item in value.items()}
    start, size = value[_BYTES]
    if not 0 <= start <= start + size <= len(data):
        raise ValueError("bytes that are not in the data")
    return bytes(data[start : start + size])


def read_pages(ram: Ram, reader: Reader) -> None:
    """After `Reader.state`: make all of RAM what the file has; what it has not is zero."""
    rows = touched.pages(ram)
    stale = touched.nonzero(ram)
    done = 0  # of ``stale``
    for indices, content in reader.pages():
        reached = int(np.searchsorted(stale, indices[-1], "right"))
        rows[np.setdiff1d(stale[done:reached], indices, assume_unique=True)] = 0
        rows[indices] = content
        done = reached
    rows[stale[done:]] = 0
