"""Kernel and firmware files: what one is, and what of it goes into memory.

    ELF     at the physical addresses of its segments; position-independent: anywhere
    Image   Linux's flat image with the RISC-V boot header, which says how far from the start
            of RAM it goes and how much memory it takes
    raw     a flat binary that says nothing of itself (U-Boot's and OpenSBI's .bin)

Each may be compressed, and an Image may be in an EFI program that decompresses itself.
Sources: Linux's Documentation/arch/riscv/boot-image-header.rst, its
drivers/firmware/efi/libstub/zboot-header.S and Documentation/arch/{arm64,x86}/boot*.rst, the
PE format; for ELF, see `guest.image.elf`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from guest.image import elf, user_file
from guest.image.elf import Elf, ElfError, Segment
from guest.image.inflate import InflateError, compression, inflate
from guest.image.user_file import UserFileError

_ELF_MAGIC = b"\x7fELF"
_ELF_FILE_SIZE_MAX = 2 << 30  # bytes; debug information is many times what is loaded

_PAGE_SIZE = 4096

# The boot header, 64 bytes: code0, code1, text_offset, image_size, flags, version, res1,
# res2, magic, magic2, res3 (the offset of the PE header).
_HEADER = struct.Struct("<IIQQQIIQQII")
_MAGIC_AT, _MAGIC = 0x30, b"RISCV\0\0\0"  # up to version 0.1 the only one
_MAGIC2_AT, _MAGIC2 = 0x38, b"RSC\x05"
_FLAG_BIG_ENDIAN = 1

_PE_RISCV64 = 0x5064
_PE_MACHINES = {
    0x14C: "x86",
    0x1C0: "ARM",
    0x1C2: "ARM",
    0x1C4: "ARM",
    0x5032: "RV32",
    0x5128: "RV128",
    0x6232: "LoongArch32",
    0x6264: "LoongArch64",
    0x8664: "x86-64",
    0xAA64: "AArch64",
}

# Kernels of other machines: where their headers say so.
_FOREIGN = (
    (0x202, b"HdrS", "a Linux kernel for x86 (bzImage)"),
    (0x38, b"ARM\x64", "a Linux kernel for AArch64 (Image)"),
    (0x24, b"\x18\x28\x6f\x01", "a Linux kernel for ARM (zImage)"),
)
# What people give by mistake; a raw binary may begin with anything else.
_NO_KERNEL = (
    (b"\x27\x05\x19\x56", "a uImage of U-Boot's tools"),
    (b"\xd0\x0d\xfe\xed", "a device tree or a FIT image"),
    (b"070701", "an initramfs (cpio archive)"),
    (b"070702", "an initramfs (cpio archive)"),
    (b"QFI\xfb", "a disk image (qcow2)"),
    (b"!<arch>\n", "an archive"),
    (b"PK\3\4", "a zip archive"),
    (b"#!", "a script"),
)


class KernelImageError(ValueError):
    """The file cannot be booted; the text says which and why, in one line."""


class Kind(Enum):
    ELF = "ELF"
    IMAGE = "Image"
    RAW = "raw binary"


@dataclass(frozen=True)
class Piece:
    """Contents, ``offset`` bytes from the start, and how much memory they take (bytes).

    What the contents do not fill must be zero.
    """

    offset: int
    data: bytes = field(repr=False)
    memory_size: int


@dataclass(frozen=True)
class KernelImage:
    """A checked file.

    ``start``: the PA that it is linked for, None where it does not say. ``is_movable``: it
    may go elsewhere. ``text_offset``: how far from the start of RAM it wants to be (bytes).
    ``entry``: offset of its first instruction from the start. ``memory_size``: bytes from the
    start to the end of the last piece. ``compression``: what it was compressed with.
    """

    path: str
    kind: Kind
    pieces: tuple[Piece, ...]
    entry: int
    memory_size: int
    start: int | None = None
    is_movable: bool = True
    text_offset: int | None = None
    compression: str | None = None
    elf: Elf | None = field(default=None, repr=False)

    @property
    def is_fixed(self) -> bool:
        """Whether it runs at no other address than ``start``."""
        return self.start is not None and not self.is_movable

    def within(self, low: int, high: int) -> KernelImage:
        """What of it goes into memory at the PAs ``[low, high)``.

        Of an ELF that cannot be moved, the headers below it do not. Raises KernelImageError, for
        one that cannot be moved, with the segment that has no place there.
        """
        if not self.is_fixed or self.elf is None:
            return self
        try:
            return _of_segments(self.elf, self.elf.loaded(low, high), self.compression)
        except ElfError as e:
            raise KernelImageError(str(e)) from None


def load(path: Path, size_max: int) -> KernelImage:
    """Read and check a file for a machine with ``size_max`` bytes of RAM.

    Raises KernelImageError.
    """
    try:
        is_elf = user_file.head(path, len(_ELF_MAGIC)) == _ELF_MAGIC
        data = user_file.read(path, _ELF_FILE_SIZE_MAX if is_elf else size_max)
    except UserFileError as e:
        raise KernelImageError(str(e)) from None
    return parse(data, str(path), size_max)


def parse(data: bytes, name: str, size_max: int) -> KernelImage:
    """Check the bytes of a file for ``size_max`` bytes of RAM. Raises KernelImageError."""
    if not data:
        raise KernelImageError(f"{name}: an empty file")
    how, packed = _packed(data, name)
    if how is not None:
        try:
            data = inflate(packed, how, size_max)
        except InflateError as e:
            raise KernelImageError(f"{name}: {e}") from None
        if not data or _packed(data, name)[0] is not None:
            what = "more compressed data" if data else "nothing"
            raise KernelImageError(f"{name}: its {how} data hold {what}")
    image = _plain(data, name, how)
    if image.memory_size > size_max and not image.is_fixed:  # `within` looks at its segments
        raise KernelImageError(
            f"{name}: takes {_kib(image.memory_size)} of memory, and RAM has {_kib(size_max)}"
        )
    return image


def _packed(data: bytes, name: str) -> tuple[str | None, bytes]:
    """What compressed it, and the compressed bytes in it."""
    if data[:2] != b"MZ" or data[4:8] != b"zimg":
        return compression(data), data
    if len(data) < _HEADER.size:
        raise KernelImageError(f"{name}: truncated EFI header ({len(data)} bytes)")
    _check_pe(data, name)
    offset, size = struct.unpack_from("<II", data, 8)
    if offset + size > len(data):
        raise KernelImageError(
            f"{name}: truncated, the file ends {offset + size - len(data)} bytes early"
        )
    how = data[24:0x38].split(b"\0")[0].decode("ascii", "replace")
    return how, data[offset : offset + size]


def _plain(data: bytes, name: str, how: str | None) -> KernelImage:
    for at, magic, what in _FOREIGN:
        if data.startswith(magic, at):
            raise KernelImageError(f"{name}: {what}, not for RISC-V")
    for magic, what in _NO_KERNEL:
        if data.startswith(magic):
            raise KernelImageError(f"{name}: {what}, not a kernel")
    if data[:4] == _ELF_MAGIC:
        return _elf(data, name, how)
    if data[:2] == b"MZ":
        if len(data) < _HEADER.size:
            raise KernelImageError(f"{name}: truncated Image header ({len(data)} bytes)")
        _check_pe(data, name)
        if not _has_boot_header(data):
            raise KernelImageError(f"{name}: an EFI program without the RISC-V boot header")
    if _has_boot_header(data):
        return _image(data, name, how)
    return _raw(data, name, how)


def _has_boot_header(data: bytes) -> bool:
    return len(data) >= _HEADER.size and (
        data.startswith(_MAGIC2, _MAGIC2_AT) or data.startswith(_MAGIC, _MAGIC_AT)
    )


def _image(data: bytes, name: str, how: str | None) -> KernelImage:
    _, _, text_offset, image_size, flags, *_ = _HEADER.unpack_from(data)
    if flags & _FLAG_BIG_ENDIAN:
        raise KernelImageError(f"{name}: a big-endian Image; this hart is little-endian")
    if text_offset % _PAGE_SIZE:
        raise KernelImageError(
            f"{name}: damaged Image header: text_offset {text_offset:#x} is in the midst of a page"
        )
    size = max(image_size, len(data))  # image_size counts .bss; 0 in old ones
    piece = Piece(0, data, size)
    return KernelImage(
        name, Kind.IMAGE, (piece,), 0, size, text_offset=text_offset, compression=how
    )


def _check_pe(data: bytes, name: str) -> None:
    """The PE header that EFI reads: for which machine, and whether the file is whole.

    One that is damaged is not looked at: only EFI would miss it.
    """
    (at,) = struct.unpack_from("<I", data, 0x3C)
    if not data.startswith(b"PE\0\0", at) or at + 24 > len(data):
        return
    machine, section_count = struct.unpack_from("<HH", data, at + 4)
    (optional_size,) = struct.unpack_from("<H", data, at + 20)
    if machine != _PE_RISCV64:
        what = _PE_MACHINES.get(machine, f"machine {machine:#x}")
        raise KernelImageError(f"{name}: an EFI program for {what}, not for RV64")
    sections = at + 24 + optional_size
    end = 0
    for i in range(section_count):
        if sections + 40 * (i + 1) > len(data):
            break
        size, offset = struct.unpack_from("<II", data, sections + 40 * i + 16)
        end = max(end, offset + size)
    if end > len(data):
        raise KernelImageError(f"{name}: truncated, the file ends {end - len(data)} bytes early")


def _raw(data: bytes, name: str, how: str | None) -> KernelImage:
    # Zeros are no instruction, nor is erased flash memory (ISA manual, 1.5).
    if len(data) < 2 or data[:2] == b"\0\0" or data[:4] == b"\xff\xff\xff\xff":
        raise KernelImageError(
            f"{name}: not an ELF, not an Image, and as a raw binary it has no code at its start"
        )
    piece = Piece(0, data, len(data))
    return KernelImage(name, Kind.RAW, (piece,), 0, len(data), is_movable=False, compression=how)


def _elf(data: bytes, name: str, how: str | None) -> KernelImage:
    try:
        file = elf.parse(data, name, physical=True)
        return _of_segments(file, sorted(file.segments, key=lambda s: s.pa), how)
    except ElfError as e:
        raise KernelImageError(str(e)) from None


def _of_segments(file: Elf, segments: list[Segment], how: str | None) -> KernelImage:
    """Raises ElfError for an entry that is none."""
    entry = file.physical_entry(segments)
    start = segments[0].pa
    return KernelImage(
        file.path,
        Kind.ELF,
        tuple(Piece(s.pa - start, s.data, s.memory_size) for s in segments),
        entry - start,
        max(s.pa_end for s in segments) - start,
        start,
        file.is_position_independent,
        compression=how,
        elf=file,
    )


def _kib(size: int) -> str:
    return f"{-(-size >> 10)} KiB"
