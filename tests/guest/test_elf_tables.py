"""The tables of an ELF file, beside what pyelftools reads of it."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from guest.image.elf import ElfError, parse
from guest.image.elf_tables import SHT_RELA, ElfTables
from guest.image.shipped import shipped


@pytest.mark.parametrize("name", sorted(shipped()))
def test_they_are_what_pyelftools_reads(name: str) -> None:
    data = shipped()[name].read_bytes()
    ours, theirs = ElfTables(data), ELFFile(io.BytesIO(data))
    assert (ours.e_entry, ours.e_machine) == (theirs["e_entry"], 243)
    assert (ours.e_phoff, ours.e_phentsize) == (theirs["e_phoff"], theirs["e_phentsize"])
    found = [h._asdict() for h in ours.program_headers]
    for one, other in zip(found, theirs.iter_segments(), strict=True):
        del one["p_type"]  # a number here, a name there
        assert one == {key: other[key] for key in one}
    for section, other in zip(ours.sections, theirs.iter_sections(), strict=True):
        assert (section.sh_offset, section.sh_size) == (other["sh_offset"], other["sh_size"])
        if other.name:
            same = ours.section(other.name)
            assert same is not None and ours.contents(same) == (
                b"" if other["sh_type"] == "SHT_NOBITS" else other.data()
            )
        if section.sh_type == SHT_RELA:
            assert list(ours.relocations(section)) == [
                (r["r_offset"], r["r_info_type"], r["r_addend"]) for r in other.iter_relocations()
            ]
    table, other = ours.section(".symtab"), theirs.get_section_by_name(".symtab")
    assert table is not None and isinstance(other, SymbolTableSection)
    assert [(s.name, s.st_value, s.st_size) for s in ours.symbols(table)] == [
        (s.name, s["st_value"], s["st_size"]) for s in other.iter_symbols()
    ]


def test_what_is_damaged_is_refused_and_nothing_else_is_raised() -> None:
    data = shipped()["page_struct"].read_bytes()
    rng, refused = random.Random(5), 0
    shoff = struct.unpack_from("<Q", data, 40)[0]
    for _ in range(2000):
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            # The header, a program header, or a section header.
            place = rng.choice((rng.randrange(16, 64), rng.randrange(64, 400), shoff))
            place += rng.randrange(len(data) - shoff) if place == shoff else 0
            damaged[place] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        try:
            assert parse(bytes(damaged), "damaged").names is not None
        except ElfError as e:
            refused += 1
            assert "\n" not in str(e)
    assert refused > 100


def test_more_headers_than_the_header_can_count() -> None:
    """e_phnum 0xffff: the number is sh_info of section 0; e_shnum 0: it is its sh_size."""
    first = struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 3, 0, 70_000, 0, 0)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 243, 1, 0, 64, 64, 0, 64, 56, 0xFFFF, 64, 0, 0)
    tables = ElfTables(b"\x7fELF".ljust(16, b"\0") + header + first)
    assert (tables.e_phnum, tables.e_shnum) == (70_000, 3)


def test_running_a_guest_imports_nothing_that_it_does_not_need() -> None:
    """Each of these takes as long to import as the guest to run."""
    code = (
        "import sys; from guest.cli.main import main; sys.argv = ['pagewalk', 'run', 'hello']\n"
        "try: main()\nexcept SystemExit: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "unicorn" in loaded
    assert not loaded & {"elftools", "difflib", "capstone", "fdt", "secrets", "hmac", "asyncio"}
