"""Compressed images: what compressed one, told by its first bytes, and inflating it.

What comes out is bounded: a few kilobytes may say that they are terabytes.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any

_CHUNK_SIZE = 1 << 20  # bytes

# The first bytes of each, and its name (that of Linux's KERNEL_* options, in small letters).
_MAGICS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x5d\0\0", "lzma"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x89LZO", "lzo"),
)
_READERS: dict[str, Callable[[io.BytesIO], Any]] = {
    "gzip": gzip.open,
    "bzip2": bz2.open,
    "xz": lzma.open,
    "lzma": lzma.open,
}


class InflateError(ValueError):
    """It cannot be inflated; the text says why, in one line."""


def compression(data: bytes) -> str | None:
    """What compressed ``data``, None where it does not look compressed."""
    return next((name for magic, name in _MAGICS if data.startswith(magic)), None)


def inflate(data: bytes, how: str, size_max: int) -> bytes:
    """What ``data`` held before ``how`` compressed it, ``size_max`` bytes at most.

    Raises InflateError when it is more, or damaged, or when ``how`` is not known here.
    """
    reader = _READERS.get(how)
    if reader is None:
        raise InflateError(f"compressed with {how!r}, which is not known here: decompress it first")
    chunks: list[bytes] = []
    left = size_max
    try:
        with reader(io.BytesIO(data)) as file:
            while chunk := file.read(min(_CHUNK_SIZE, left + 1)):
                chunks.append(chunk)
                left -= len(chunk)
                if left < 0:
                    raise InflateError(f"inflates ({how}) to more than {size_max >> 10} KiB")
    except EOFError:
        raise InflateError(f"truncated: its {how} data end too early") from None
    except (OSError, zlib.error, lzma.LZMAError) as e:
        raise InflateError(f"damaged {how} data ({e})") from None
    return b"".join(chunks)
