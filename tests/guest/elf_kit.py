"""ELF files made and damaged byte by byte, for the loader's tests (System V gABI, chapter 4)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

EHDR_SIZE, PHDR_SIZE = 64, 56
# Offsets of fields: of the file's header, and of a program header.
CLASS, DATA, TYPE, MACHINE, ENTRY, PHOFF, SHOFF = 4, 5, 16, 18, 24, 32, 40
PHENTSIZE, PHNUM, SHENTSIZE, SHNUM, SHSTRNDX = 54, 56, 58, 60, 62
P_TYPE, P_FLAGS, P_OFFSET, P_VADDR, P_PADDR, P_FILESZ, P_MEMSZ = 0, 4, 8, 16, 24, 32, 40
R, W, X = 4, 2, 1


@dataclass
class Load:
    """A PT_LOAD segment to make; ``size`` is that in memory.

    ``has_headers``, of the first alone: it begins with the file's headers and zeros up to a page.
    """

    va: int
    data: bytes
    flags: int
    size: int | None = None
    pa: int | None = None
    has_headers: bool = False


# addi a7, zero, 93; addi a0, zero, 7; ecall
EXIT_7 = struct.pack("<3I", 0x05D00893, 0x00700513, 0x00000073)
# j .
LOOP = struct.pack("<I", 0x0000006F)


def make(loads: list[Load], entry: int, kind: int = 2) -> bytes:
    """A static RV64 ELF without sections."""
    at = EHDR_SIZE + PHDR_SIZE * len(loads)
    headers, contents = b"", b""
    for load in loads:
        data, offset = load.data, at + len(contents)
        if load.has_headers:
            contents, offset = bytes(0x1000 - at), 0
        in_file = len(data) + (0x1000 if load.has_headers else 0)
        size = in_file if load.size is None else load.size
        pa = load.va if load.pa is None else load.pa
        headers += struct.pack(
            "<IIQQQQQQ", 1, load.flags, offset, load.va, pa, in_file, size, 0x1000
        )
        contents += data
    ident = b"\x7fELF" + bytes((2, 1, 1, 0)) + bytes(8)
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH", kind, 243, 1, entry, EHDR_SIZE, 0, 5, 64, 56, len(loads), 64, 0, 0
    )
    return header + headers + contents


def patch(data: bytes, offset: int, value: int, size: int) -> bytes:
    """``data`` with ``size`` bytes at ``offset`` replaced."""
    return data[:offset] + value.to_bytes(size, "little") + data[offset + size :]


def phdr(number: int, field: int) -> int:
    """The offset in the file of a field of a program header."""
    return EHDR_SIZE + PHDR_SIZE * number + field
