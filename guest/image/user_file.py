"""A file that the user named: read whole, and never more of it than there is use for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class UserFileError(ValueError):
    """The file cannot be read; the text says which and why, in one line."""


def head(path: Path, size: int) -> bytes:
    """Its first ``size`` bytes, less where it is shorter. Raises UserFileError."""
    with _opened(path) as file:
        return file.read(size)


def read(path: Path, size_max: int) -> bytes:
    """All of it. Raises UserFileError, also when it is empty or has more bytes than that."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > size_max:
            raise UserFileError(
                f"{path}: {size >> 10} KiB, and there is room for {size_max >> 10} KiB"
            )
        data = file.read(size)
    if not data:
        raise UserFileError(f"{path}: an empty file")
    return data


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise UserFileError(f"{path}: is a directory")
        if not stat.S_ISREG(kind):  # to open a pipe may wait for ever, and devices never end
            raise UserFileError(f"{path}: not a regular file")
        with path.open("rb") as file:
            yield file
    except OSError as e:
        raise UserFileError(f"{path}: {e.strerror or e}") from None
    except ValueError as e:
        if isinstance(e, UserFileError):
            raise
        raise UserFileError(f"{str(path)!r}: no file's name ({e})") from None
