"""``slub_debug=``, and which flags it gives to a cache; alignment and orders of slabs."""

from __future__ import annotations

from fnmatch import fnmatchcase

from emu.ram import PAGE_SHIFT
from mm.slab.flags import (
    ARCH_SLAB_MINALIGN,
    CACHE_LINE,
    DEBUG_DEFAULT_FLAGS,
    DEBUG_LETTERS,
    SLAB_HWCACHE_ALIGN,
)

# (flags, whether O was given, cache patterns; none: all caches)
SlubDebugBlock = tuple[int, bool, list[str]]


def get_order(size: int) -> int:
    """The smallest order whose block holds ``size`` bytes."""
    return max(0, (size - 1).bit_length() - PAGE_SHIFT)


def calculate_alignment(flags: int, align: int, size: int) -> int:
    """The alignment of a cache's objects: a cache line, or the part of it that a small
    object fills, if asked for; at least a word."""
    if flags & SLAB_HWCACHE_ALIGN:
        line = CACHE_LINE
        while size <= line // 2:
            line //= 2
        align = max(align, line)
    return -(-max(align, ARCH_SLAB_MINALIGN) // 8) * 8


def parse_slub_debug(text: str) -> list[SlubDebugBlock]:
    """``slub_debug=``: blocks ``letters[,cache,cache*]``, separated by ``;``.

    Each becomes (flags, whether O was given, cache patterns; none: all caches). ``-``
    switches off; no letters mean FZPU. Raises ValueError for an unknown letter.
    """
    blocks: list[SlubDebugBlock] = []
    for block in text.split(";"):
        letters, *names = block.split(",")
        letters = letters.strip().upper()
        flags = DEBUG_DEFAULT_FLAGS if not letters else 0
        for letter in letters:
            if letter not in "O-" and letter not in DEBUG_LETTERS:
                raise ValueError(f"slub_debug option {letter!r} unknown: one of FZPUTO-")
            flags |= DEBUG_LETTERS.get(letter, 0)
        if "-" in letters:
            flags = 0
        blocks.append((flags, "O" in letters, [n.strip() for n in names if n.strip()]))
    return blocks


def debug_flags(blocks: list[SlubDebugBlock], name: str, flags: int) -> tuple[int, bool]:
    """kmem_cache_flags: ``flags`` of the cache ``name`` with slub_debug's, and whether O was
    given."""
    found, no_higher = 0, False
    for add, o, names in blocks:
        if not names:
            found, no_higher = add, o
    for add, o, names in blocks:
        if any(fnmatchcase(name, pattern) for pattern in names):
            found, no_higher = add, o
    return flags | found, no_higher
