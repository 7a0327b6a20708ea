"""The file of a snapshot: a machine's state without RAM as one dict, and the pages of RAM.

All numbers are little-endian.

  8 bytes   "pagewalk"
  u32 x 3   version of the format, size and CRC32 of the header
  header    JSON of at most 1 MiB: the state, and the size of the data. A value of bytes is
            {"$bytes": [offset, size]} in the data; all of them, in the order of the header, are
            the data from its first byte to its last
  blocks    the data, then the pages of RAM that are not zero, then the end

  block     u32 x 3: size, stored size, CRC32 of the size and of what is stored; then that,
            which is zlib's, compressed where that gains anything
  data      1 MiB a block, the last one what is left of as much as the header says
  pages     up to 256 a block: their indices from RAM's base as u64, then their contents
  end       a block of size 0

Nothing in a file is believed: each length is bounded, by what the machine can hold where it is
the data's, and each index checked. All of a file is looked through, a block at a time, before
anything of it is used; what costs memory is read behind that.
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
from emu.debug.snapshot import v1, v2
from emu.ram import Ram, host_memory
from emu.spec.paging import PAGE_SIZE

VERSION = 3
_MAGIC = b"pagewalk"
_START = struct.Struct("<8sIII")
_BLOCK = struct.Struct("<III")
_DATA_BLOCK = 1 << 20  # bytes
_PAGE_RECORD = 8 + PAGE_SIZE  # bytes of a page and its index
_BLOCK_SIZE_MAX = 256 * _PAGE_RECORD
_LEVEL = 1  # zlib
_SAMPLE = 1 << 15  # bytes
_HEADER_SIZE_MAX = 1 << 20  # bytes
_STORED_MORE = 256  # bytes that zlib may add to a block that it cannot compress
_MISSING_MAX, _LINE_MAX = 16, 200  # lines that a header says are missing, and characters of one
_BYTES = "$bytes"
_KEYS = {"ram", "levels", "missing", "rom", "clock", "harts", "devices", "parts", "data"}
_KEYS_BEFORE = _KEYS - {"harts"} | {"hart"}  # up to version 2
_NOT_OURS = "its header is not a snapshot's"
# What reading a field that is not there or not of its type can raise.
NOT_A_STATE = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError)

# Told of steps done and of all steps.
Report = Callable[[int, int], None]


class SnapshotError(ValueError):
    """The snapshot cannot be written or loaded; the text says why, in one line."""


def one_line(error: Exception) -> str:
    """An exception's text, cut where it is long; a KeyError's alone would be a bare word."""
    text = f"there is no {error} in it" if isinstance(error, KeyError) else str(error)
    return text.replace("\n", " ")[:_LINE_MAX] or type(error).__name__


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

    Raises OSError, TypeError for a state of other types, and SnapshotError for one that has
    more than the header can hold.
    """
    data = bytearray()
    fields = _encode(state, data)
    header = json.dumps(fields | {"data": len(data)}).encode()
    if len(header) > _HEADER_SIZE_MAX:
        raise SnapshotError(f"a state of {len(header)} bytes, without those that are bytes")
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
        self._tell_second: Callable[[int], None]
        self._pages_start = self._version = 0
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
        if version not in (v1.VERSION, v2.VERSION, VERSION):
            raise self._error(f"a snapshot of version {version}, not {VERSION}")
        self._version = version
        if size > _HEADER_SIZE_MAX:
            raise self._error(_NOT_OURS)
        text = self._read(size)
        if zlib.crc32(text) != crc:
            raise self._error("the snapshot is corrupt: its header's checksum is wrong")
        try:
            header = json.loads(text)
            _check_header(header, version)
        except (*NOT_A_STATE, RecursionError) as e:
            raise self._error(_NOT_OURS) from e
        return dict(header)

    def state(self, report: Report, bytes_max: int) -> dict[str, Any]:
        """The machine's state without RAM. All of the file is checked first.

        ``bytes_max``: how many bytes the machine's state can have, see `emu.board.devices.Device`.
        """
        left = self.header["data"]
        if left > bytes_max:
            raise self._error(f"{left} bytes of state beside RAM, and the machine has {bytes_max}")
        self._report(report)
        data = bytearray()
        while left > len(data):
            data += self._content(min(_DATA_BLOCK, left - len(data)))
        self._check_pages()
        view, fields = memoryview(data).toreadonly(), {}
        try:
            at = 0
            for key, value in self.header.items():
                if key != "data":
                    fields[key], at = _decode(value, view, at)
            if at != len(data):
                raise ValueError("data that is nobody's")
            if self._version <= v1.VERSION:
                v1.upgrade(fields)
            if self._version <= v2.VERSION:
                v2.upgrade(fields)
        except (*NOT_A_STATE, RecursionError) as e:
            raise self._error(_NOT_OURS) from e
        return fields

    @property
    def harts(self) -> list[Any]:
        """Each hart's registers as the header has them, not checked."""
        found = self.header["harts"] if "harts" in self.header else [self.header["hart"]]
        return list(found)

    def check(self, report: Report) -> None:
        """In place of `state`, for who wants `header` and RAM alone: the data is not inflated."""
        self._report(report)
        left = self.header["data"]
        while left:
            size, _ = self._block()
            if size != min(_DATA_BLOCK, left):
                self._not_ours()
            left -= size
        self._check_pages()

    def pages(self) -> Iterator[tuple[touched.Indices, npt.NDArray[np.uint64]]]:
        """After `state`: indices of pages, ascending, and their contents, block by block."""
        self._file.seek(self._pages_start)
        self._tell = self._tell_second
        yield from self._page_blocks()

    def _page_blocks(self) -> Iterator[tuple[touched.Indices, npt.NDArray[np.uint64]]]:
        last = -1
        limit = self.header["ram"]["size"] // PAGE_SIZE
        while content := self._content():
            count, rest = divmod(len(content), _PAGE_RECORD)
            indices = np.frombuffer(content, "<u8", count).astype(np.int64)
            if rest or (np.diff(indices, prepend=last) <= 0).any() or indices[-1] >= limit:
                raise self._error("the snapshot is corrupt: pages that are not RAM")
            last = int(indices[-1])
            yield indices, np.frombuffer(content, "<u8", offset=8 * count).reshape(count, -1)

    def _report(self, report: Report) -> None:
        """Tell ``report``: all of the file is read, and then its pages again."""
        total = os.fstat(self._file.fileno()).st_size
        self._tell = lambda done: report(done, 2 * total)
        self._tell_second = lambda done: report(total + done, 2 * total)

    def _check_pages(self) -> None:
        """Look through all that follows the data, up to the end."""
        self._pages_start = self._file.tell()
        count = 0
        for indices, _ in self._page_blocks():
            count += len(indices)
            if count * PAGE_SIZE > host_memory():
                raise self._error(f"more than {count} pages of RAM: the host has no memory for it")
        if self._file.read(1):
            raise self._error("the snapshot is corrupt: something follows its end")

    def _block(self) -> tuple[int, bytes]:
        """The next block's size and what is stored of it; size 0 is the end."""
        size, stored_size, crc = _BLOCK.unpack(self._read(_BLOCK.size))
        if size > _BLOCK_SIZE_MAX or stored_size > size + size // 64 + _STORED_MORE:
            raise self._error("the snapshot is corrupt: a block of impossible size")
        stored = self._read(stored_size)
        if _crc(size, stored) != crc:
            raise self._error("the snapshot is corrupt: a checksum is wrong")
        self._tell(self._file.tell())
        return size, stored

    def _content(self, wanted: int | None = None) -> bytes:
        """The next block, b"" at the end; ``wanted``: its size, None: any."""
        size, stored = self._block()
        if wanted is not None and size != wanted:
            self._not_ours()
        if not size:
            return b""
        try:
            inflate = zlib.decompressobj()
            content = inflate.decompress(stored, size + 1)
        except zlib.error:
            content = b""
        if len(content) != size:
            self._not_ours()
        return content

    def _not_ours(self) -> NoReturn:
        raise self._error("the snapshot is corrupt: a block is not what it should be")


def _check_header(header: Any, version: int) -> None:
    """Raise one of NOT_A_STATE unless what this file knows of it is right.

    The rest is looked at by those whom it is for.
    """
    if header.keys() != (_KEYS_BEFORE if version <= v2.VERSION else _KEYS):
        raise ValueError("not the keys of a snapshot")
    numbers = header["data"], header["ram"]["base"], header["ram"]["size"]
    levels, missing = header["levels"], header["missing"]
    if not (
        all(type(n) is int and 0 <= n < 1 << 63 for n in numbers)
        and header["ram"].keys() == {"base", "size"}
        and isinstance(levels, list)
        and all(type(level) is int and 0 <= level <= 3 for level in levels)
        and len(set(levels)) == len(levels)
        and isinstance(missing, list)
        and len(missing) <= _MISSING_MAX
        and all(isinstance(line, str) and len(line) <= _LINE_MAX for line in missing)
        and isinstance(header["clock"], dict)
        and isinstance(header.get("harts", []), list)
    ):
        raise ValueError("not the types of a snapshot")


def _decode(value: Any, data: memoryview, at: int) -> tuple[Any, int]:
    """The opposite of `_encode`, and where in ``data`` the next bytes begin.

    Raises ValueError, TypeError or LookupError. Each byte of ``data`` is used once: what comes
    out is never larger than what went in.
    """
    if isinstance(value, list):
        items = []
        for item in value:
            item, at = _decode(item, data, at)
            items.append(item)
        return items, at
    if not isinstance(value, dict):
        return value, at
    if _BYTES not in value:
        fields = {}
        for key, item in value.items():
            fields[key], at = _decode(item, data, at)
        return fields, at
    start, size = value[_BYTES]
    if len(value) != 1 or not all(type(n) is int for n in (start, size)):
        raise ValueError("bytes that are not in the data")
    if start != at or not 0 <= size <= len(data) - at:
        raise ValueError("bytes that are not in the data")
    return bytes(data[at : at + size]), at + size


def read_pages(ram: Ram, reader: Reader) -> None:
    """After `Reader.state`: make all of RAM what the file has; what it has not is zero."""
    if not ram.clear():
        touched.pages(ram)[touched.nonzero(ram)] = 0
    rows = touched.pages(ram)
    for indices, content in reader.pages():
        rows[indices] = content
