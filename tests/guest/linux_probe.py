"""A user process for Linux whose memory is known: what it maps, writes, reads, leaves alone.

It asks for its mappings with Linux's own calls (include/uapi/asm-generic/unistd.h), touches
some of their pages, and sleeps and wakes for ever; each time it wakes it calls getpid with
MARK in a5, by which a test finds the moment at which the hart stands in this process.
"""

from __future__ import annotations

from dataclasses import dataclass

import elf_kit
from asm import assemble

from emu.spec.paging import PagingMode

MARK = 0x5057
PAGE = 4096
HUGE_PAGE = 2 << 20

_ENTRY = 0x10000 + elf_kit.EHDR_SIZE + 2 * elf_kit.PHDR_SIZE
_R, _W, _X = 1, 2, 4
_SHARED, _PRIVATE = 0x01, 0x02
_FIXED_ANONYMOUS = 0x10 | 0x20
_MADV_HUGEPAGE = 14


@dataclass(frozen=True)
class Mapping:
    """``pages`` pages at ``va``, asked for with the rights ``first`` and then given ``rights``.

    ``rights`` as in /proc/PID/maps. ``written`` and ``read``: the pages that are touched.
    """

    va: int
    pages: int
    first: int
    rights: str
    written: tuple[int, ...]
    read: tuple[int, ...] = ()
    huge: bool = False

    @property
    def end(self) -> int:
        return self.va + self.pages * PAGE


def mappings(mode: PagingMode) -> tuple[Mapping, ...]:
    """What the process maps, one of it near the top of what ``mode`` gives to users."""
    return (
        Mapping(0x1000_0000, 8, _R | _W, "rw-p", (0, 2, 7), (4,)),
        Mapping(0x1100_0000, 4, _R | _W, "r--p", (0, 1, 3)),
        Mapping(0x1200_0000, 4, _R | _W | _X, "rwxp", (1,)),
        Mapping(0x1300_0000, 4, _R | _W, "---p", (0, 2)),
        Mapping(0x1400_0000, 4, _R | _W, "rw-s", (0, 3)),
        Mapping(0x1500_0000, 3, _R | _W, "r-xp", (2,)),
        Mapping(0x2000_0000, 2 * HUGE_PAGE // PAGE, _R | _W, "rw-p", (5,), (), True),
        Mapping(3 << (mode.va_bits - 3), 3, _R | _W, "rw-p", (1,)),
    )


def elf(mode: PagingMode) -> bytes:
    """The program, a static ELF."""
    code = assemble(_text(mode), _ENTRY)
    data = b"probe\n"
    at = 0x20000 + (_ENTRY - 0x10000 + len(code)) % PAGE  # as its place in the file, modulo a page
    loads = [
        elf_kit.Load(_ENTRY, code, elf_kit.R | elf_kit.X),
        elf_kit.Load(at, data, elf_kit.R | elf_kit.W, 3 * PAGE),
    ]
    return elf_kit.make(loads, _ENTRY)


def _text(mode: PagingMode) -> str:
    lines = []
    for it in mappings(mode):
        flags = (_SHARED if it.rights.endswith("s") else _PRIVATE) | _FIXED_ANONYMOUS
        size = it.pages * PAGE
        lines += [_call(222, it.va, size, it.first, flags, -1, 0), "bltz a0, give_up"]
        if it.huge:
            lines.append(_call(233, it.va, size, _MADV_HUGEPAGE))
        lines += [f"li t0, {it.va + i * PAGE:#x}; sd t0, 8(t0)" for i in it.written]
        lines += [f"li t0, {it.va + i * PAGE:#x}; ld t1, 8(t0)" for i in it.read]
        rights = sum(bit for bit, c in zip((_R, _W, _X), it.rights, strict=False) if c != "-")
        if rights != it.first:
            lines += [_call(226, it.va, size, rights), "bnez a0, give_up"]
    return "\n".join(
        [
            *lines,
            "addi sp, sp, -16; li t0, 10000000; sd zero, 0(sp); sd t0, 8(sp)",  # 10 ms
            "forever: mv a0, sp; li a1, 0; li a7, 101; ecall",
            f"li a5, {MARK:#x}; li a7, 172; ecall; j forever",
            "give_up: li a0, 1; li a7, 93; ecall",
        ]
    )


def _call(number: int, *arguments: int) -> str:
    loads = [f"li a{i}, {value:#x}" for i, value in enumerate(arguments)]
    return "; ".join([*loads, f"li a7, {number}", "ecall"])
