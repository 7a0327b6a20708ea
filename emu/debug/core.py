"""A stopped machine as an ELF core file, for gdb and everything else that reads one.

    gdb-multiarch vmlinux -ex 'core-file machine.core'

The file is an ELF64 of type ET_CORE for EM_RISCV: a PT_NOTE with the registers as Linux's
core dumps have them (fs/binfmt_elf.c; struct elf_prstatus of include/linux/elfcore.h, register
set of arch/riscv/include/uapi/asm/ptrace.h), then a PT_LOAD for each range of memory.

  offset 0   ELF header, program headers, the note
  page       the page frames that some range maps, each once, in order of their PAs

Where the hart translates, ranges are the leaves of satp's tables that lie in RAM, neighbours in
VA and PA of the same permissions merged, with p_vaddr and p_paddr; else all of RAM, where VA is
PA. A frame that is mapped many times is written once and shared by its ranges, so that no page
table can make the file larger than RAM; what of a superpage lies outside of RAM is left out.
Pages of zeros are holes of a sparse file. (p_filesz is p_memsz all the same: what a core lacks
at the end of a range, gdb takes for absent, not for zero.)
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from emu.board.machine import Machine
from emu.debug import touched
from emu.debug.atomic_file import replacing
from emu.hart import HartError
from emu.hart import state as hart_state
from emu.ram import Ram
from emu.spec import tables
from emu.spec.paging import (
    PAGE_SHIFT,
    PAGE_SIZE,
    PTE_N,
    PTE_PBMT,
    PTE_R,
    PTE_RESERVED,
    PTE_W,
    PTE_X,
    is_leaf,
    mode_of_satp,
    satp_root,
)
from emu.spec.walk import Access

# ELF (System V ABI, chapter 4 and 5) and its RISC-V supplement
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_NOTE = struct.Struct("<III")
_IDENT = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")  # 64 bits, little-endian, version 1
_ET_CORE, _EM_RISCV = 4, 243
_EF_RISCV_RVC, _EF_RISCV_FLOAT_ABI_DOUBLE = 1, 4
_PT_LOAD, _PT_NOTE = 1, 4
_PF_X, _PF_W, _PF_R = 1, 2, 4
_NT_PRSTATUS, _NT_FPREGSET = 1, 2
# struct elf_prstatus: pr_pid stands at 32, pr_reg at 112, pr_fpvalid behind it.
_PRSTATUS = struct.Struct("<32xi76x32Qi4x")
_FPREGSET = struct.Struct("<32QI4x")  # struct __riscv_d_ext_state
_FIRST_PID = 1  # gdb takes 0 for no thread
_RANGES_MAX = 0xFFFE  # e_phnum has 16 bits, 0xffff is PN_XNUM, and one is the note


class CoreError(ValueError):
    """No core file can be written; the text says why, in one line."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """``size`` bytes of RAM at ``pa`` that ``va`` translates to; ``flags``: PF_R, W and X."""

    va: int
    pa: int
    size: int
    flags: int


def write(machine: Machine, path: str | os.PathLike[str], translated: bool | None = None) -> None:
    """Write ``machine``, which is not running, to ``path`` as an ELF core.

    ``translated``: addresses are VAs of satp's tables, or PAs (False); None: as the hart
    itself would read memory now. An existing file is replaced when the new one is complete.
    Raises CoreError, also for tables of more than 65,534 ranges or without end.
    """
    try:
        with machine.lock:
            states = [hart_state.save(hart) for hart in machine.harts]
            ranges = mappings(machine, translated)
            with replacing(path) as file:
                _write(file, machine.ram, _notes(states), ranges)
    except (HartError, tables.TooManyEntries) as e:
        raise CoreError(str(e)) from e
    except OSError as e:
        raise CoreError(f"{os.fspath(path)}: {e.strerror or e}") from e


def mappings(machine: Machine, translated: bool | None = None) -> list[Mapping]:
    """The ranges of a core of ``machine``, by VA. Raises CoreError as `write` does."""
    hart, ram = machine.hart, machine.ram
    mode = mode_of_satp(hart.satp)
    if translated is None:
        translated = hart.walk_config(Access.READ)[0]
    if not translated:
        return [Mapping(ram.base, ram.base, ram.size, _PF_R | _PF_W | _PF_X)]
    if mode is None:
        raise CoreError("satp is Bare: there are no virtual addresses")
    found: list[Mapping] = []
    for entry in tables.entries(ram, mode, satp_root(hart.satp)):
        span = mode.span(entry.level)
        if not is_leaf(entry.pte) or not _is_legal(entry.pte) or entry.pa % span:
            continue
        start, end = max(entry.pa, ram.base), min(entry.pa + span, ram.end)
        if start >= end:
            continue
        va, flags = entry.va + start - entry.pa, _flags(entry.pte)
        last = found[-1] if found else None
        if (
            last is not None
            and last.flags == flags
            and last.va + last.size == va
            and last.pa + last.size == start
        ):
            found[-1] = Mapping(last.va, last.pa, last.size + end - start, flags)
            continue
        if len(found) == _RANGES_MAX:
            raise CoreError(
                f"more than {_RANGES_MAX} ranges are mapped: a core has no room for them, "
                "write one of physical memory"
            )
        found.append(Mapping(va, start, end - start, flags))
    return found


def _is_legal(pte: int) -> bool:
    """Whether the hart would use a leaf at all (section 12.3.2, step 3)."""
    if pte & PTE_W and not pte & PTE_R:
        return False
    return not pte & (PTE_RESERVED | PTE_PBMT | PTE_N)


def _flags(pte: int) -> int:
    pairs = ((PTE_R, _PF_R), (PTE_W, _PF_W), (PTE_X, _PF_X))
    return sum(flag for bit, flag in pairs if pte & bit)


def _notes(states: list[dict[str, Any]]) -> bytes:
    """The registers of each hart: a thread for gdb, numbered from 1."""
    notes = b""
    for thread, state in enumerate(states, _FIRST_PID):
        status = _PRSTATUS.pack(thread, state["pc"], *state["x"][1:], 1)
        floats = _FPREGSET.pack(*state["f"], state["fcsr"])
        for kind, content in ((_NT_PRSTATUS, status), (_NT_FPREGSET, floats)):
            notes += _NOTE.pack(5, len(content), kind) + b"CORE\0\0\0\0" + content
    return notes


def _extents(ranges: list[Mapping]) -> list[tuple[int, int]]:
    """What ``ranges`` have of RAM, as disjoint ``(start, end)`` (PA), ascending."""
    found: list[tuple[int, int]] = []
    for start, end in sorted((r.pa, r.pa + r.size) for r in ranges):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def _write(file: BinaryIO, ram: Ram, note: bytes, ranges: list[Mapping]) -> None:
    extents = _extents(ranges)
    headers = _PHDR.size * (1 + len(ranges))
    note_at = _EHDR.size + headers
    first = -(-(note_at + len(note)) // PAGE_SIZE) * PAGE_SIZE
    # Where each extent stands in the file, and behind them the end.
    starts = np.array([start for start, _ in extents], np.int64)
    sizes = np.array([end - start for start, end in extents], np.int64)
    places = first + np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)

    def place(pa: int) -> int:
        at = int(np.searchsorted(starts, pa, "right")) - 1
        return int(places[at] + pa - starts[at])

    flags = _EF_RISCV_RVC | _EF_RISCV_FLOAT_ABI_DOUBLE
    file.write(
        _EHDR.pack(
            *(_IDENT, _ET_CORE, _EM_RISCV, 1, 0, _EHDR.size, 0, flags, _EHDR.size),
            *(_PHDR.size, 1 + len(ranges), 0, 0, 0),
        )
    )
    file.write(_PHDR.pack(_PT_NOTE, 0, note_at, 0, 0, len(note), 0, 4))
    for r in ranges:
        file.write(
            _PHDR.pack(_PT_LOAD, r.flags, place(r.pa), r.va, r.pa, r.size, r.size, PAGE_SIZE)
        )
    file.write(note)
    for indices, content in touched.contents(ram, touched.touched(ram)) if extents else ():
        pas = ram.base + (indices << PAGE_SHIFT)
        at = np.maximum(np.searchsorted(starts, pas, "right") - 1, 0)
        inside = (pas >= starts[at]) & (pas < starts[at] + sizes[at])
        _write_pages(file, (places[at] + pas - starts[at])[inside], content[inside])
    file.truncate(int(places[-1]))


def _write_pages(file: BinaryIO, offsets: touched.Indices, content: Any) -> None:
    """Pages at ``offsets`` of the file, neighbours in one go."""
    cuts = np.flatnonzero(np.diff(offsets) != PAGE_SIZE) + 1
    for run, some in zip(np.split(offsets, cuts), np.split(content, cuts), strict=True):
        if len(run):
            file.seek(int(run[0]))
            file.write(some.tobytes())
