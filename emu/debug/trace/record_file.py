"""The file of a trace: whole records, whatever happens to the disk."""

from __future__ import annotations

import contextlib
import os

_BUFFER_SIZE = 1 << 16  # characters


class RecordFile:
    """A file that is written in whole records, also by a disk that gets full.

    Raises OSError when it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        # Not buffered by Python: what a failed write leaves behind in a buffer
        # would be written again, and fail again, when the file is closed.
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115
        self._waiting: list[str] = []
        self._waiting_size = 0
        self._size = 0  # bytes in whole records

    def write(self, record: str) -> None:
        """Keep a record, with its line's end, until there are enough of them."""
        self._waiting.append(record)
        self._waiting_size += len(record)
        if self._waiting_size >= _BUFFER_SIZE:
            self.flush()

    def flush(self) -> None:
        records, self._waiting, self._waiting_size = self._waiting, [], 0
        data = "".join(records).encode("utf-8", "replace")
        done = 0
        try:
            while done < len(data):
                done += self._file.write(data[done:]) or 0
        except OSError:
            self._keep_whole(records, done)
            raise
        self._size += done

    def _keep_whole(self, records: list[str], done: int) -> None:
        """Take the part of a record that was still written back out of the file."""
        whole = 0
        for record in records:
            size = len(record.encode("utf-8", "replace"))
            if whole + size > done:
                break
            whole += size
        with contextlib.suppress(OSError):  # a pipe, which cannot be taken back
            os.ftruncate(self._file.fileno(), self._size + whole)
            self._file.seek(self._size + whole)
        self._size += whole

    def close(self) -> None:
        """Write what waits, and close, also when that fails."""
        try:
            self.flush()
        finally:
            self._file.close()
