"""The tables of an ELF file: its header, program headers, sections and symbols, as they stand.

Nothing is judged here, and nothing believed: what lies outside of the file raises struct.error or
IndexError, which `guest.image.elf` tells as damage. It is read here and not by pyelftools, which
takes longer to import than a guest to run.

Source: System V ABI, "ELF-64 Object File Format".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
ET_NONE, ET_REL, ET_EXEC, ET_DYN, ET_CORE = range(5)
SHT_PROGBITS, SHT_SYMTAB, SHT_RELA, SHT_NOBITS = 1, 2, 4, 8
SHF_ALLOC, SHF_COMPRESSED = 0x2, 0x800
SHN_UNDEF = 0
STT_NOTYPE, STT_OBJECT, STT_FUNC = 0, 1, 2
DT_NULL, DT_NEEDED = 0, 1
HEADER_SIZE = 64
_PN_XNUM, _SHN_XINDEX = 0xFFFF, 0xFFFF  # the number stands in section 0

_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")
_DYNAMIC = struct.Struct("<qQ")


class ProgramHeader(NamedTuple):
    """Elf64_Phdr."""

    p_type: int
    p_flags: int
    p_offset: int
    p_vaddr: int
    p_paddr: int
    p_filesz: int
    p_memsz: int
    p_align: int


class Section(NamedTuple):
    """Elf64_Shdr."""

    sh_name: int
    sh_type: int
    sh_flags: int
    sh_addr: int
    sh_offset: int
    sh_size: int
    sh_link: int
    sh_info: int
    sh_addralign: int
    sh_entsize: int


class Symbol(NamedTuple):
    """Elf64_Sym; ``kind``: the low half of st_info."""

    name: str
    kind: int
    st_shndx: int
    st_value: int
    st_size: int


class ElfTables:
    """The tables of ``data``, an ELF-64 file of the low byte first."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        (
            self.e_type, self.e_machine, _version, self.e_entry, self.e_phoff, self._shoff, _flags,
            _ehsize, self.e_phentsize, self._phnum, self._shentsize, self._shnum, self._shstrndx,
        ) = _HEADER.unpack_from(data)  # fmt: skip

    @property
    def e_phnum(self) -> int:
        """How many program headers there are."""
        return self._phnum if self._phnum != _PN_XNUM else self._section(0).sh_info

    @property
    def e_shnum(self) -> int:
        """How many section headers there are."""
        if not self._shoff:
            return 0
        return self._shnum or self._section(0).sh_size

    @cached_property
    def program_headers(self) -> list[ProgramHeader]:
        """All of them, in their order."""
        places = (self.e_phoff + i * self.e_phentsize for i in range(self.e_phnum))
        return [ProgramHeader(*_PROGRAM_HEADER.unpack_from(self.data, at)) for at in places]

    def _section(self, number: int) -> Section:
        return Section(
            *_SECTION_HEADER.unpack_from(self.data, self._shoff + number * self._shentsize)
        )

    @cached_property
    def sections(self) -> list[Section]:
        """All of them, in their order."""
        return [self._section(i) for i in range(self.e_shnum)]

    def section(self, name: str) -> Section | None:
        """The first section of that name."""
        if not self.sections or self._shstrndx == SHN_UNDEF:
            return None
        first = self.sections[0]
        index = first.sh_link if self._shstrndx == _SHN_XINDEX else self._shstrndx
        names, wanted = self.sections[index].sh_offset, name.encode() + b"\0"
        return next((s for s in self.sections if self._is_at(wanted, names + s.sh_name)), None)

    def _is_at(self, text: bytes, offset: int) -> bool:
        return self.data[offset : offset + len(text)] == text

    def contents(self, section: Section) -> bytes:
        """The bytes of a section, none of one that has none in the file. Raises IndexError."""
        if section.sh_type == SHT_NOBITS:
            return b""
        end = section.sh_offset + section.sh_size
        if end > len(self.data):
            raise IndexError(f"a section ends {end - len(self.data)} bytes behind the file")
        return self.data[section.sh_offset : end]

    def _entries(self, section: Section, layout: struct.Struct) -> Iterator[tuple[int, ...]]:
        contents = self.contents(section)
        if section.sh_entsize != layout.size:
            raise IndexError(f"a table of entries of {section.sh_entsize} bytes")
        yield from layout.iter_unpack(contents[: len(contents) // layout.size * layout.size])

    def relocations(self, section: Section) -> Iterator[tuple[int, int, int]]:
        """Offset, type and addend of each entry of an SHT_RELA section."""
        for offset, info, addend in self._entries(section, _RELA):
            yield offset, info & 0xFFFF_FFFF, addend

    def symbols(self, table: Section) -> Iterator[Symbol]:
        """Each symbol of an SHT_SYMTAB section."""
        if table.sh_type != SHT_SYMTAB:
            raise IndexError(f"a symbol table of type {table.sh_type}")
        names = self.contents(self.sections[table.sh_link])
        for name, info, _other, shndx, value, size in self._entries(table, _SYMBOL):
            text = names[name : names.index(b"\0", name)].decode("utf-8", "replace") if name else ""
            yield Symbol(text, info & 0xF, shndx, value, size)

    def dynamic(self, header: ProgramHeader) -> Iterator[tuple[int, int]]:
        """Tag and value of each entry of a PT_DYNAMIC segment, up to DT_NULL."""
        for at in range(header.p_offset, header.p_offset + header.p_filesz, _DYNAMIC.size):
            tag, value = _DYNAMIC.unpack_from(self.data, at)
            if tag == DT_NULL:
                return
            yield tag, value
