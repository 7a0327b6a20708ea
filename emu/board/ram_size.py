"""Sizes of RAM as people write them: 65536, 64M, 2G, 2GiB."""

from __future__ import annotations

import re

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_PATTERN = re.compile(r"(0x[0-9a-f]+|\d+)([kmgt]?)(i?b)?", re.IGNORECASE)


def parse_ram_size(text: str) -> int:
    """The bytes that ``text`` means, with a binary unit or none. Raises ValueError.

    They are whole pages of 4 KiB, at least one, and at most 1 PiB.
    """
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size: give bytes, or a number with K, M, G or T")
    size = int(match[1], 0) * _UNITS[match[2].upper()]
    if size == 0:
        raise ValueError("a machine without RAM cannot run: give at least one page, 4K")
    if size % 4096:
        meant = f": did you mean {match[1]}M?" if not match[2] else ""
        raise ValueError(f"{text!r} is not a whole number of 4 KiB pages{meant}")
    if size > 1 << 50:
        raise ValueError(f"{text!r} is more than 1 PiB")
    return size
