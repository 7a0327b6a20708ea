"""Page tables by hand: one PTE, one satp."""

from __future__ import annotations

from emu.spec.paging import PAGE_SHIFT, PAGE_SIZE, PTE_LETTERS, PTE_V, make_pte
from pagewalk import arguments

_FLAGS = {letter: bit for bit, letter in PTE_LETTERS}


def pte(pa: int, flags: str = "") -> int:
    """A valid PTE that names the frame, or the next table, at ``pa``.

    ``flags``: letters of "rwxugad", any of them as "-" and in any order; without "r" and "x" it
    points to a table. Any combination can be had, also one that the spec reserves (section
    12.3.1); for an entry that is not valid write 0. Raises TypeError, ValueError.

        pte(0x8020_0000, "rw-u-ad")
    """
    pa = arguments.integer("pa", pa, 56, PAGE_SIZE)
    if not isinstance(flags, str):
        raise TypeError(f"flags: letters of 'rwxugad' are wanted, not {flags!r:.40}")
    bits = PTE_V
    for letter in flags:
        if letter != "-" and letter not in _FLAGS:
            raise ValueError(f"flags: {letter!r} in {flags!r:.40} is none of 'rwxugad'")
        bits |= _FLAGS.get(letter, 0)
    return make_pte(pa >> PAGE_SHIFT, bits)


def satp(mode: str, root: int, asid: int = 0) -> int:
    """The satp that selects ``mode`` ("sv39", "sv48", "sv57") with the root table at ``root`` (PA).

    Raises TypeError, ValueError.
    """
    root = arguments.integer("root", root, 56, PAGE_SIZE)
    asid = arguments.integer("asid", asid, 16)
    return arguments.paging("mode", mode).satp(root, asid)
