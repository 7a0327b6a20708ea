"""ELF files: what is in one, checked before anything of it is believed (pyelftools parses)."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

_MAGIC = b"\x7fELF"
_EM_RISCV = "EM_RISCV"
_R_RISCV_RELATIVE = 3
_SEGMENTS_MAX = 256
_SECTIONS_MAX = 1 << 16
_VA_MAX = 1 << 64


SymbolEntry = tuple[int, int, str]


class ElfError(Exception):
    """The file cannot be loaded; the text says why, in one line."""


@dataclass(frozen=True)
class Segment:
    """A PT_LOAD segment: ``va`` and ``pa`` (bytes), contents, size in memory, r/w/x."""

    va: int
    pa: int
    data: bytes = field(repr=False)
    memory_size: int
    readable: bool
    writable: bool
    executable: bool

    @property
    def end(self) -> int:
        """The VA behind its last byte."""
        return self.va + self.memory_size


@dataclass(frozen=True)
class Elf:
    """A checked ELF: entry VA, segments by address, what a loader needs of the rest."""

    path: str
    entry: int
    is_position_independent: bool
    segments: tuple[Segment, ...]
    read_symbols: Callable[[], list[SymbolEntry]] = field(repr=False)
    relative_relocations: tuple[tuple[int, int], ...] = field(repr=False)  # (offset, addend)
    info: tuple[str, ...]  # .modinfo: "tag=text"
    header_va: int  # where the program headers are in memory, 0: nowhere
    header_count: int

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

    def symbol(self, name: str) -> int | None:
        """The VA of a symbol, None when there is none of that name."""
        return next((va for va, _, found in self.symbols if found == name), None)

    @property
    def is_module(self) -> bool:
        """Whether it is a kernel module: position-independent, with an `init_module`."""
        return self.is_position_independent and self.symbol("init_module") is not None


def load(path: Path) -> Elf:
    """Read and check a file. Raises ElfError."""
    try:
        with path.open("rb") as file:
            data = file.read(4)
            if data == _MAGIC:  # else it may be a device, which never ends
                data += file.read()
    except IsADirectoryError:
        raise ElfError(f"{path}: is a directory") from None
    except OSError as e:
        raise ElfError(f"{path}: {e.strerror or e}") from None
    return parse(data, str(path))


def parse(data: bytes, name: str, physical: bool = False) -> Elf:
    """Check the bytes of a file. Raises ElfError.

    ``physical``: firmware or a kernel, loaded at its PAs. Its entry may be a PA, and it
    relocates itself: its relocations are not looked at.
    """
    if not data:
        raise ElfError(f"{name}: an empty file")
    if data[:4] != _MAGIC:
        raise ElfError(f"{name}: not an ELF file")
    try:
        return _parse(data, name, physical)
    except ElfError:
        raise
    except Exception as e:  # pyelftools raises whatever its parsers stumble over
        raise ElfError(f"{name}: damaged ELF file ({type(e).__name__}: {e})") from e


def _parse(data: bytes, name: str, physical: bool) -> Elf:
    from elftools.elf.elffile import ELFFile

    if len(data) < 64:
        raise ElfError(f"{name}: truncated ELF header ({len(data)} bytes)")
    if data[4] != 2:
        raise ElfError(f"{name}: a 32-bit ELF; this hart is RV64")
    if data[5] != 1:
        raise ElfError(f"{name}: a big-endian ELF; this hart is little-endian")
    file = ELFFile(io.BytesIO(data))
    machine = file["e_machine"]
    if machine != _EM_RISCV:
        raise ElfError(f"{name}: for machine {_machine_name(machine)}, not RISC-V")
    kind = file["e_type"]
    if kind not in ("ET_EXEC", "ET_DYN"):
        what = {"ET_REL": "an object file that is not linked", "ET_CORE": "a core dump"}
        raise ElfError(f"{name}: {what.get(kind, f'of type {kind}')}, not an executable")
    if file.num_segments() > _SEGMENTS_MAX:
        raise ElfError(f"{name}: {file.num_segments()} program headers")
    if file.num_sections() > _SECTIONS_MAX:
        raise ElfError(f"{name}: {file.num_sections()} section headers")
    headers = list(file.iter_segments())
    if any(h["p_type"] == "PT_INTERP" for h in headers):
        raise ElfError(f"{name}: dynamically linked (it names an interpreter): link it statically")
    segments = _segments(data, headers, name)
    entry = file["e_entry"]
    code = [s for s in segments if s.executable]
    is_in_code = any(s.va <= entry < s.end for s in code)
    if not is_in_code and physical:
        is_in_code = any(s.pa <= entry < s.pa + s.memory_size for s in code)
    if not is_in_code:
        raise ElfError(f"{name}: the entry point {entry:#x} is in no executable segment")
    if entry % 2:
        raise ElfError(f"{name}: no instruction begins at an odd address: {entry:#x}")
    header_offset, header_size = file["e_phoff"], file["e_phnum"] * file["e_phentsize"]
    header_va = 0
    for h in headers:
        low, high = h["p_offset"], h["p_offset"] + h["p_filesz"]
        if h["p_type"] == "PT_LOAD" and low <= header_offset <= high - header_size:
            header_va = h["p_vaddr"] + header_offset - low
    return Elf(
        name,
        entry,
        kind == "ET_DYN",
        tuple(segments),
        lambda: _symbols(file, name),
        () if physical else tuple(_relocations(file, segments, name)),
        tuple(_modinfo(file)),
        header_va,
        file["e_phnum"],
    )


def _machine_name(machine: object) -> str:
    text = str(machine).removeprefix("EM_")
    return {"X86_64": "x86-64", "386": "x86", "AARCH64": "AArch64"}.get(text, text)


def _segments(data: bytes, headers: list[Any], name: str) -> list[Segment]:
    found: list[Segment] = []
    for h in headers:
        if h["p_type"] != "PT_LOAD" or h["p_memsz"] == 0:
            continue
        va, pa, offset, size, memory, flags = (
            h[key] for key in ("p_vaddr", "p_paddr", "p_offset", "p_filesz", "p_memsz", "p_flags")
        )
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
        found.append(
            Segment(va, pa, contents, memory, bool(flags & 4), bool(flags & 2), bool(flags & 1))
        )
    if not found:
        raise ElfError(f"{name}: nothing to load (no PT_LOAD segment)")
    found.sort(key=lambda s: s.va)
    for before, after in pairwise(found):
        if after.va < before.end:
            raise ElfError(
                f"{name}: segments overlap: {before.va:#x}-{before.end:#x} and "
                f"{after.va:#x}-{after.end:#x}"
            )
    return found


def _symbols(file: Any, name: str) -> list[SymbolEntry]:
    """Raises ElfError for a damaged table."""
    kinds = ("STT_FUNC", "STT_OBJECT", "STT_NOTYPE")
    try:
        table = file.get_section_by_name(".symtab")
        return [] if table is None else _named_symbols(table, kinds)
    except Exception as e:  # pyelftools raises whatever its parsers stumble over
        raise ElfError(f"{name}: damaged symbol table ({type(e).__name__}: {e})") from e


def _named_symbols(table: Any, kinds: tuple[str, ...]) -> list[SymbolEntry]:
    return [
        (s["st_value"], s["st_size"], s.name)
        for s in table.iter_symbols()
        if s.name
        and s["st_info"]["type"] in kinds
        and s["st_shndx"] != "SHN_UNDEF"
        and not s.name.startswith((".L", "$"))
    ]


def _relocations(file: Any, segments: list[Segment], name: str) -> list[tuple[int, int]]:
    found = []
    for section in file.iter_sections():
        if section["sh_type"] != "SHT_RELA" or not section["sh_flags"] & 2:  # SHF_ALLOC
            continue
        for relocation in section.iter_relocations():
            kind, offset = relocation["r_info_type"], relocation["r_offset"]
            if kind != _R_RISCV_RELATIVE:
                raise ElfError(f"{name}: relocation of type {kind} at {offset:#x}: not static")
            if not any(s.va <= offset <= s.end - 8 for s in segments):
                raise ElfError(f"{name}: relocation at {offset:#x}, outside of every segment")
            found.append((offset, relocation["r_addend"]))
    return found


def _modinfo(file: Any) -> list[str]:
    section = file.get_section_by_name(".modinfo")
    # Its size is only believed where the file has the bytes.
    if section is None or section["sh_type"] != "SHT_PROGBITS":
        return []
    return [t.decode("utf-8", "replace") for t in section.data().split(b"\0") if t]
