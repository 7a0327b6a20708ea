"""ELF files: what is in one, checked before anything of it is believed."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from emu.spec.paging import PAGE_SIZE
from guest.image import elf_tables as tables
from guest.image.elf_tables import ElfTables, ProgramHeader, Section

_MAGIC = b"\x7fELF"
_EM_RISCV = 243
_R_RISCV_NONE, _R_RISCV_RELATIVE = 0, 3
_SEGMENTS_MAX = 256
_SECTIONS_MAX = 1 << 16
_NOT_TO_RUN = {
    tables.ET_REL: "an object file that is not linked",
    tables.ET_CORE: "a core dump",
    tables.ET_NONE: "of type ET_NONE",
}
_VA_MAX = 1 << 64


SymbolEntry = tuple[int, int, str]


class ElfError(Exception):
    """The file cannot be loaded; the text says why, in one line."""


@dataclass(frozen=True)
class Segment:
    """A PT_LOAD segment: ``va`` and ``pa`` (bytes), contents, size in memory, r/w/x.

    ``number``: of its program header, as `readelf -l` counts them. ``headers_size``: how many
    bytes at its beginning are the file's own headers and the zeros behind them, which linkers put
    in front of the first section and hardly a kernel looks at.
    """

    number: int
    va: int
    pa: int
    data: bytes = field(repr=False)
    memory_size: int
    readable: bool
    writable: bool
    executable: bool
    headers_size: int

    @property
    def end(self) -> int:
        """The VA behind its last byte."""
        return self.va + self.memory_size

    @property
    def pa_end(self) -> int:
        """The PA behind its last byte."""
        return self.pa + self.memory_size

    def __str__(self) -> str:
        return f"segment at PA {self.pa:#x}-{self.pa_end:#x} (number {self.number})"

    def within(self, low: int, high: int) -> Segment | None:
        """What of it is loaded where memory is the PAs ``[low, high)``.

        Headers below ``low`` are left out; None where nothing else is in it. Raises ElfError
        when it needs memory elsewhere.
        """
        below = min(max(0, low - self.pa), self.headers_size)
        if below == self.memory_size:
            return None
        outside = f"{self} is outside of the RAM it may use, {low:#x}-{high:#x}"
        if self.pa + below < low:
            raise ElfError(f"{outside}: it would have to be linked at {low:#x} or above")
        if self.pa_end > high:
            raise ElfError(f"{outside}: RAM would have to reach up to {self.pa_end:#x}")
        return replace(
            self,
            va=self.va + below,
            pa=self.pa + below,
            data=self.data[below:],
            memory_size=self.memory_size - below,
            headers_size=self.headers_size - below,
        )


@dataclass(frozen=True)
class Elf:
    """A checked ELF: entry VA, segments by address, what a loader needs of the rest."""

    path: str
    entry: int
    is_position_independent: bool
    segments: tuple[Segment, ...]
    read_symbols: Callable[[], list[SymbolEntry]] = field(repr=False)
    relative_relocations: tuple[tuple[int, int], ...] = field(repr=False)  # (offset, addend)
    other_relocations: tuple[tuple[int, int], ...] = field(repr=False)  # (offset, type)
    info: tuple[str, ...]  # .modinfo: "tag=text"
    header_va: int  # where the program headers are in memory, 0: nowhere
    header_count: int
    alignment: int  # bytes: what the bias of a position-independent one is a multiple of

    @property
    def name(self) -> str:
        """What the kernel calls it: its file without folder and suffix, its source's too."""
        name = self.path.rsplit("/", 1)[-1]
        return re.sub(r"(?<=.)\.(elf|ko|c|S|s)$", "", name)

    @cached_property
    def symbols(self) -> list[SymbolEntry]:
        """``(va, size, name)``, read when first asked for: a run without faults never does."""
        return self.read_symbols()

    @property
    def names(self) -> list[SymbolEntry]:
        """``symbols`` to explain things with: none where their table is damaged."""
        try:
            return self.symbols
        except ElfError:
            return []

    @property
    def start(self) -> int:
        """The lowest VA."""
        return self.segments[0].va

    @property
    def end(self) -> int:
        """The VA behind the highest byte."""
        return max(s.end for s in self.segments)

    def loaded(self, low: int, high: int) -> list[Segment]:
        """What is loaded where memory is the PAs ``[low, high)``, by PA.

        Raises ElfError, with the segment that has no place there.
        """
        try:
            parts = [s.within(low, high) for s in self.segments]
        except ElfError as e:
            raise ElfError(f"{self.path}: {e}") from None
        found = sorted((s for s in parts if s is not None), key=lambda s: s.pa)
        if not found:
            raise ElfError(f"{self.path}: nothing to load but ELF headers")
        for before, after in pairwise(found):
            if after.pa < before.pa_end:
                raise ElfError(
                    f"{self.path}: segments overlap in physical memory: {before} and {after}"
                )
        return found

    def physical_entry(self, loaded: list[Segment]) -> int:
        """The PA where the hart begins, of the ``loaded`` segments.

        The entry is a VA, as the gABI has it, or a PA. Where it is neither (linkers leave 0 when
        they know no `_start`) it is the lowest address, where QEMU begins in any case. Raises
        ElfError for an odd one.
        """
        for segment in sorted(loaded, key=lambda s: not s.executable):
            if segment.va <= self.entry < segment.end:
                return _even(self.entry - segment.va + segment.pa, self.path)
        is_pa = any(s.pa <= self.entry < s.pa_end for s in loaded)
        return _even(self.entry if is_pa else loaded[0].pa, self.path)

    def physical(self, va: int) -> int | None:
        """The PA where what is linked at ``va`` is loaded, None where nothing is."""
        found = (s for s in self.segments if s.va <= va < s.end)
        return next((va - s.va + s.pa for s in found), None)

    def symbol(self, name: str) -> int | None:
        """The VA of a symbol, None when there is none of that name."""
        return next((va for va, _, found in self.symbols if found == name), None)

    @property
    def is_module(self) -> bool:
        """Whether it is a kernel module: position-independent, with an `init_module`."""
        return self.is_position_independent and self.symbol("init_module") is not None


def load(path: Path, physical: bool = False) -> Elf:
    """Read and check a file, see `parse`. Raises ElfError."""
    return parse(read(path), str(path), physical)


def read(path: Path) -> bytes:
    """The bytes of an ELF file, and no more than the magic of any other. Raises ElfError."""
    try:
        with path.open("rb") as file:
            data = file.read(4)
            if data == _MAGIC:  # else it may be a device, which never ends
                data += file.read()
    except IsADirectoryError:
        raise ElfError(
            f"{path}: is a directory; one of sources is a kernel: pagewalk boot"
        ) from None
    except OSError as e:
        raise ElfError(f"{path}: {e.strerror or e}") from None
    return data


def parse(data: bytes, name: str, physical: bool = False) -> Elf:
    """Check the bytes of a file. Raises ElfError.

    ``physical``: firmware, a kernel, a bare guest: loaded at its PAs, by who does not know what
    it will do there. Its flags r/w/x mean nothing (the file's bytes are in RAM, and the guest has
    no page tables yet), its entry may be a PA or no address of its own at all, its VAs may
    overlap, and it relocates itself.
    """
    if not data:
        raise ElfError(f"{name}: an empty file")
    if data[:4] != _MAGIC:
        raise ElfError(f"{name}: not an ELF file")
    try:
        return _parse(data, name, physical)
    except ElfError:
        raise
    except Exception as e:  # what is outside of the file, or of its tables
        raise ElfError(f"{name}: damaged ELF file ({type(e).__name__}: {e})") from e


def _parse(data: bytes, name: str, physical: bool) -> Elf:
    if len(data) < tables.HEADER_SIZE:
        raise ElfError(f"{name}: truncated ELF header ({len(data)} bytes)")
    if data[4] != 2:
        raise ElfError(f"{name}: a 32-bit ELF; this hart is RV64")
    if data[5] != 1:
        raise ElfError(f"{name}: a big-endian ELF; this hart is little-endian")
    file = ElfTables(data)
    if file.e_machine != _EM_RISCV:
        raise ElfError(f"{name}: for machine {_machine_name(file.e_machine)}, not RISC-V")
    if file.e_type not in (tables.ET_EXEC, tables.ET_DYN):
        what = _NOT_TO_RUN.get(file.e_type, f"of type {file.e_type}")
        raise ElfError(f"{name}: {what}, not an executable")
    if file.e_phnum > _SEGMENTS_MAX:
        raise ElfError(f"{name}: {file.e_phnum} program headers")
    if file.e_shnum > _SECTIONS_MAX:
        raise ElfError(f"{name}: {file.e_shnum} section headers")
    headers = file.program_headers
    if not physical:
        _check_static(file, name)
    header_offset, header_size = file.e_phoff, file.e_phnum * file.e_phentsize
    parts_of_headers = ((0, tables.HEADER_SIZE), (header_offset, header_offset + header_size))
    segments = _segments(data, headers, parts_of_headers, name)
    entry = file.e_entry
    if not physical:
        _check_overlaps(segments, name)
        if not any(s.executable and s.va <= entry < s.end for s in segments):
            raise ElfError(f"{name}: the entry point {entry:#x} is in no executable segment")
        _even(entry, name)
    relative, other = ([], []) if physical else _relocations(file, segments, name)
    header_va = 0
    for h in headers:
        low, high = h.p_offset, h.p_offset + h.p_filesz
        if h.p_type == tables.PT_LOAD and low <= header_offset <= high - header_size:
            header_va = h.p_vaddr + header_offset - low
    return Elf(
        name,
        entry,
        file.e_type == tables.ET_DYN,
        tuple(segments),
        lambda: _symbols(file, name),
        tuple(relative),
        tuple(other),
        tuple(_modinfo(file)),
        header_va,
        file.e_phnum,
        max([PAGE_SIZE, *(h.p_align for h in headers if _has_alignment(h))]),
    )


def _even(entry: int, name: str) -> int:
    if entry % 2:
        raise ElfError(f"{name}: no instruction begins at an odd address: {entry:#x}")
    return entry


def _has_alignment(header: ProgramHeader) -> bool:
    """Whether p_align says something: 0 and 1 do not, and else it is a power of two."""
    align = header.p_align
    return header.p_type == tables.PT_LOAD and align > 0 and align & (align - 1) == 0


def _check_static(file: ElfTables, name: str) -> None:
    """Raise ElfError for what only a dynamic linker can load."""
    headers = file.program_headers
    if any(h.p_type == tables.PT_INTERP for h in headers):
        raise ElfError(f"{name}: dynamically linked (it names an interpreter): link it statically")
    dynamic = [h for h in headers if h.p_type == tables.PT_DYNAMIC]
    if any(tag == tables.DT_NEEDED for h in dynamic for tag, _ in file.dynamic(h)):
        needed = ", ".join(_needed(file.data))
        raise ElfError(f"{name}: needs shared libraries ({needed}): link it statically")


def _needed(data: bytes) -> list[str]:
    """The shared libraries that it names (DT_NEEDED)."""
    from elftools.elf.elffile import ELFFile

    headers: Iterable[Any] = ELFFile(io.BytesIO(data)).iter_segments("PT_DYNAMIC")
    return [str(tag.needed) for header in headers for tag in header.iter_tags("DT_NEEDED")]


def _machine_name(machine: int) -> str:
    from elftools.elf.enums import ENUM_E_MACHINE

    names = {number: name for name, number in ENUM_E_MACHINE.items() if name != "_default_"}
    text = str(names.get(machine, machine)).removeprefix("EM_")
    return {"X86_64": "x86-64", "386": "x86", "AARCH64": "AArch64"}.get(text, text)


def _segments(
    data: bytes,
    headers: list[ProgramHeader],
    parts_of_headers: Iterable[tuple[int, int]],
    name: str,
) -> list[Segment]:
    """``parts_of_headers``: from where to where in the file its headers are (bytes)."""
    found: list[Segment] = []
    for number, h in enumerate(headers):
        if h.p_type != tables.PT_LOAD or h.p_memsz == 0:
            continue
        va, pa, offset, size, memory = h.p_vaddr, h.p_paddr, h.p_offset, h.p_filesz, h.p_memsz
        where = f"{name}: segment at {va:#x}"
        if size > memory:
            raise ElfError(f"{where}: {size} bytes in the file, {memory} in memory")
        if offset + size > len(data):
            raise ElfError(
                f"{where}: truncated, the file ends {offset + size - len(data)} bytes early"
            )
        if va + memory > _VA_MAX or pa + memory > _VA_MAX:
            raise ElfError(f"{where}: {memory:#x} bytes wrap around the address space")
        contents = data[offset : offset + size]
        r, w, x = (bool(h.p_flags & bit) for bit in (4, 2, 1))
        skipped = _headers_size(data, offset, offset + size, parts_of_headers)
        found.append(Segment(number, va, pa, contents, memory, r, w, x, skipped))
    if not found:
        raise ElfError(f"{name}: nothing to load (no PT_LOAD segment)")
    found.sort(key=lambda s: s.va)
    return found


def _headers_size(data: bytes, start: int, end: int, parts: Iterable[tuple[int, int]]) -> int:
    """How many bytes from ``start`` on are headers and zeros, 0 if no headers come first."""
    at = start
    for low, high in sorted(parts):
        if low <= at < high:
            at = min(high, end)
            at = end - len(data[at:end].lstrip(b"\0"))
    return at - start


def _check_overlaps(segments: list[Segment], name: str) -> None:
    for before, after in pairwise(segments):
        if after.va < before.end:
            raise ElfError(
                f"{name}: segments overlap: {before.va:#x}-{before.end:#x} and "
                f"{after.va:#x}-{after.end:#x}"
            )


def _symbols(file: ElfTables, name: str) -> list[SymbolEntry]:
    """Raises ElfError for a damaged table."""
    try:
        table = file.section(".symtab")
        return [] if table is None else _named_symbols(file, table)
    except (struct.error, IndexError, ValueError) as e:
        raise ElfError(f"{name}: damaged symbol table ({type(e).__name__}: {e})") from e


def _named_symbols(file: ElfTables, table: Section) -> list[SymbolEntry]:
    kinds = (tables.STT_FUNC, tables.STT_OBJECT, tables.STT_NOTYPE)
    return [
        (s.st_value, s.st_size, s.name)
        for s in file.symbols(table)
        if s.name
        and s.kind in kinds
        and s.st_shndx != tables.SHN_UNDEF
        and not s.name.startswith((".L", "$"))
    ]


def _relocations(
    file: ElfTables, segments: list[Segment], name: str
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Those that only add the bias, ``(offset, addend)``; and ``(offset, type)`` of others.

    Only who has start-up code that knows the others can be loaded with them: a program of a
    C library's, which relocates itself (psABI, "Dynamic linking"). R_RISCV_NONE, which linkers
    leave where they have changed their mind, means nothing.
    """
    relative, other = [], []
    for section in file.sections:
        if section.sh_type != tables.SHT_RELA or not section.sh_flags & tables.SHF_ALLOC:
            continue
        for offset, kind, addend in file.relocations(section):
            if kind == _R_RISCV_NONE:
                continue
            if kind != _R_RISCV_RELATIVE:
                other.append((offset, kind))
                continue
            if not any(s.va <= offset <= s.end - 8 for s in segments):
                raise ElfError(f"{name}: relocation at {offset:#x}, outside of every segment")
            relative.append((offset, addend))
    return relative, other


def _modinfo(file: ElfTables) -> list[str]:
    section = file.section(".modinfo")
    # Its size is only believed where the file has the bytes.
    if section is None or section.sh_type != tables.SHT_PROGBITS:
        return []
    if section.sh_flags & tables.SHF_COMPRESSED:  # nobody does; it could be of any size
        return []
    return [t.decode("utf-8", "replace") for t in file.contents(section).split(b"\0") if t]
