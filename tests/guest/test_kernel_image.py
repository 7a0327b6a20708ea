"""Kernel files: what each is, an error for each bad one, and random damage."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from elf_kit import CLASS, DATA, MACHINE, P_FILESZ, P_MEMSZ, P_PADDR, TYPE, Load, R, X, make, phdr
from elf_kit import patch as patched
from hypothesis import given, settings
from hypothesis import strategies as st
from image_kit import (
    AARCH64,
    NOP,
    RV32,
    X86_64,
    efi_image,
    image,
    kernel_elf,
    pe,
    zboot,
)

from guest.image.kernel_image import KernelImage, KernelImageError, Kind, load, parse

RAM_SIZE = 1 << 20


def read(data: bytes) -> KernelImage:
    return parse(data, "k", RAM_SIZE)


def pieces(found: KernelImage) -> list[tuple[int, bytes, int]]:
    return [(p.offset, p.data, p.memory_size) for p in found.pieces]


# what it is


def test_image() -> None:
    data = image()
    found = read(data)
    assert (found.kind, found.path, found.compression) == (Kind.IMAGE, "k", None)
    # 0x3000 bytes in the file, and .bss up to image_size
    assert pieces(found) == [(0, data, 0x5000)]
    assert (found.text_offset, found.entry, found.memory_size) == (0x20_0000, 0, 0x5000)
    assert found.start is None and found.is_movable


def test_images_of_other_versions() -> None:
    old = read(image(magic2=bytes(4), image_size=0))  # 0.1
    assert (old.kind, old.memory_size) == (Kind.IMAGE, 0x3000)
    assert read(image(magic=bytes(8))).kind is Kind.IMAGE  # once the old magic is gone
    assert read(image(text_offset=0)).text_offset == 0  # for M-mode
    assert read(image(magic=bytes(8), magic2=bytes(4))).kind is Kind.RAW


def test_image_with_an_efi_stub() -> None:
    data = efi_image()
    assert pieces(read(data)) == [(0, data, 0x5000)]
    assert read(data[:0x40] + b"no PE" + data[0x45:]).kind is Kind.IMAGE  # EFI's loss


def test_raw() -> None:
    found = read(NOP * 5)
    assert (found.kind, found.start, found.text_offset) == (Kind.RAW, None, None)
    assert pieces(found) == [(0, NOP * 5, 20)]
    assert (found.entry, found.memory_size, found.is_movable) == (0, 20, False)


def test_elf() -> None:
    found = read(kernel_elf())
    assert found.kind is Kind.ELF and not found.is_movable
    assert pieces(found) == [(0, NOP * 2, 8), (0x1000, b"\x5a" * 16, 0x3000)]
    assert (found.start, found.entry, found.memory_size) == (0x8020_0000, 0, 0x4000)
    assert found.elf is not None and found.elf.entry == 0x8020_0000


@pytest.mark.parametrize("entry", [0xFFFF_FFFF_8000_0004, 0x8020_0004])
def test_elf_linked_at_virtual_addresses(entry: int) -> None:
    """Its entry may be given as either."""
    found = read(kernel_elf(0x8020_0000, 0xFFFF_FFFF_8000_0000, entry))
    assert (found.start, found.entry, found.memory_size) == (0x8020_0000, 4, 0x4000)


def test_elf_whose_segments_are_in_another_order_in_physical_memory() -> None:
    data = make([Load(0x1000, NOP, R | X), Load(0x2000, b"data", R)], 0x1000)
    data = patched(data, phdr(0, P_PADDR), 0x8000_9000, 8)
    data = patched(data, phdr(1, P_PADDR), 0x8000_3000, 8)
    found = read(data)
    assert (found.start, found.entry, found.memory_size) == (0x8000_3000, 0x6000, 0x6004)
    assert pieces(found) == [(0, b"data", 4), (0x6000, NOP, 4)]


def test_elf_that_is_position_independent() -> None:
    found = read(kernel_elf(0, kind=3))
    assert (found.start, found.entry, found.is_movable) == (0, 0, True)


def elf_that_relocates_itself() -> bytes:
    """With a dynamic relocation of type R_RISCV_64, as OpenSBI and U-Boot have them."""
    data = kernel_elf(0, kind=3)
    names = b"\0.rela.dyn\0.shstrtab\0"
    rela = struct.pack("<QQq", 0x1000, 1 << 32 | 2, 0)
    at = len(data)
    sections = bytes(64)
    sections += struct.pack("<IIQQQQIIQQ", 1, 4, 2, 0x1000, at, 24, 0, 0, 8, 24)
    sections += struct.pack("<IIQQQQIIQQ", 11, 3, 0, 0, at + 24, len(names), 0, 0, 1, 0)
    data += rela + names + sections
    data = patched(data, 40, at + 24 + len(names), 8)  # e_shoff
    return patched(patched(data, 60, 3, 2), 62, 2, 2)  # e_shnum, e_shstrndx


def test_elf_that_relocates_itself() -> None:
    assert read(elf_that_relocates_itself()).memory_size == 0x4000


# compressed

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
}


@pytest.mark.parametrize("how", COMPRESSORS)
def test_compressed(how: str) -> None:
    pack = COMPRESSORS[how]
    for data in (image(), efi_image(), kernel_elf(), NOP):
        plain = read(data)
        for packed in (pack(data), zboot(pack(data), how.encode())):
            found = read(packed)
            assert found.compression == how
            assert (found.kind, pieces(found)) == (plain.kind, pieces(plain))


def test_members_of_gzip_follow_each_other() -> None:
    data = image()
    assert pieces(read(gzip.compress(data[:500]) + gzip.compress(data[500:]))) == [
        (0, data, 0x5000)
    ]


@pytest.mark.parametrize("how", COMPRESSORS)
def test_a_bomb_does_not_go_off(how: str) -> None:
    bomb = COMPRESSORS[how](bytes(64 << 20))
    assert len(bomb) < RAM_SIZE
    tracemalloc.start()
    try:
        with pytest.raises(KernelImageError, match=f"inflates .{how}. to more than 1024 KiB"):
            read(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 << 20  # of it 8 MiB are xz's dictionary


def test_inflated_to_all_of_ram() -> None:
    assert read(gzip.compress(NOP * (RAM_SIZE // 4))).memory_size == RAM_SIZE
    with pytest.raises(KernelImageError, match="more than 1024 KiB"):
        read(gzip.compress(NOP * (RAM_SIZE // 4) + b"1"))


# bad files


def damaged_gzip() -> bytes:
    data = bytearray(gzip.compress(image()))
    data[-8] ^= 1  # the checksum
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "an empty file"),
        # Images
        (b"MZ", "truncated Image header (2 bytes)"),
        (efi_image()[:63], "truncated Image header (63 bytes)"),
        (efi_image()[:-1], "truncated, the file ends 1 bytes early"),
        (efi_image()[:0x1000], "truncated, the file ends 8192 bytes early"),
        (image(flags=1), "a big-endian Image"),
        (image(text_offset=0x20_0800), "text_offset 0x200800 is in the midst of a page"),
        (image(image_size=RAM_SIZE + 1), "takes 1025 KiB of memory, and RAM has 1024 KiB"),
        (image(image_size=(1 << 64) - 1), "takes 18014398509481984 KiB of memory"),
        (image(RAM_SIZE + 4), "takes 1025 KiB of memory"),
        (NOP * (RAM_SIZE // 4) + b"1", "takes 1025 KiB of memory"),
        # other machines
        (efi_image(RV32), "an EFI program for RV32, not for RV64"),
        (efi_image(AARCH64), "an EFI program for AArch64, not for RV64"),
        (efi_image(0x1234), "an EFI program for machine 0x1234, not for RV64"),
        (zboot(gzip.compress(image()), machine=AARCH64), "an EFI program for AArch64"),
        (image(code=b"MZ", magic=bytes(8), magic2=bytes(4), pe=pe(X86_64)), "for x86-64"),
        (image(code=b"MZ", magic=bytes(8), magic2=bytes(4), pe=pe()), "without the RISC-V boot"),
        (image(magic=bytes(8), magic2=b"ARM\x64"), "a Linux kernel for AArch64 (Image), not for"),
        (gzip.compress(image(magic2=b"ARM\x64")), "a Linux kernel for AArch64 (Image), not for"),
        (NOP * 9 + b"\x18\x28\x6f\x01", "a Linux kernel for ARM (zImage)"),
        (b"MZ" + bytes(0x200) + b"HdrS", "a Linux kernel for x86 (bzImage)"),
        (patched(kernel_elf(), MACHINE, 62, 2), "for machine x86-64, not RISC-V"),
        (patched(kernel_elf(), MACHINE, 40, 2), "for machine ARM, not RISC-V"),
        (patched(kernel_elf(), CLASS, 1, 1), "a 32-bit ELF; this hart is RV64"),
        (patched(kernel_elf(), DATA, 2, 1), "a big-endian ELF"),
        # ELFs
        (kernel_elf()[:20], "truncated ELF header (20 bytes)"),
        (kernel_elf()[:-1], "truncated, the file ends 1 bytes early"),
        (patched(kernel_elf(), TYPE, 1, 2), "an object file that is not linked"),
        (kernel_elf(entry=0x8020_0001), "no instruction begins at an odd address: 0x80200001"),
        (patched(kernel_elf(0, kind=3), phdr(1, P_MEMSZ), 1 << 40, 8), "takes 1073741828 KiB"),
        (patched(kernel_elf(), phdr(1, P_FILESZ), 0x4000, 8), "16384 bytes in the file, 12288 in"),
        # compressed
        (gzip.compress(image())[:-9], "truncated: its gzip data end too early"),
        (lzma.compress(image())[:-9], "truncated: its xz data end too early"),
        (bz2.compress(image())[:-9], "truncated: its bzip2 data end too early"),
        (damaged_gzip(), "damaged gzip data (CRC check failed"),
        (b"\x1f\x8b\x08\x00", "truncated: its gzip data end too early"),
        (b"\x1f\x8b" + b"\xff" * 60, "damaged gzip data"),
        (b"BZh" + b"\xff" * 60, "damaged bzip2 data"),
        (b"\xfd7zXZ\0" + b"\xff" * 60, "damaged xz data"),
        (gzip.compress(b""), "its gzip data hold nothing"),
        (gzip.compress(gzip.compress(image())), "its gzip data hold more compressed data"),
        (gzip.compress(zboot(gzip.compress(image()))), "its gzip data hold more compressed data"),
        (b"\x28\xb5\x2f\xfd" + bytes(60), "compressed with 'zstd', which is not known here"),
        (b"\x02\x21\x4c\x18" + bytes(60), "compressed with 'lz4'"),
        (zboot(b"x", b"zstd"), "compressed with 'zstd'"),
        (zboot(b"x", b"\n\x1b[0m"), r"compressed with '\n\x1b[0m'"),
        (zboot(gzip.compress(image()))[:63], "truncated EFI header (63 bytes)"),
        (zboot(gzip.compress(image()))[:-17], "truncated, the file ends 1 bytes early"),
        # no kernels
        (b"\x27\x05\x19\x56" + bytes(60), "a uImage of U-Boot's tools, not a kernel"),
        (bytes.fromhex("d00dfeed") + bytes(60), "a device tree or a FIT image, not a kernel"),
        (b"070701" + b"0" * 104, "an initramfs (cpio archive), not a kernel"),
        (gzip.compress(b"070701" + b"0" * 104), "an initramfs (cpio archive), not a kernel"),
        (b"#!/bin/sh\n", "a script, not a kernel"),
        (bytes(4096), "it has no code at its start"),
        (b"\xff" * 4096, "it has no code at its start"),
        (b"\x13", "it has no code at its start"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad(data: bytes, why: str) -> None:
    with pytest.raises(KernelImageError) as error:
        read(data)
    text = str(error.value)
    assert text.startswith("k: ") and why in text and text.isprintable()


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(efi_image())
    found = load(path, RAM_SIZE)
    assert (found.path, pieces(found)) == (str(path), [(0, efi_image(), 0x5000)])
    path.write_bytes(gzip.compress(kernel_elf()))
    assert load(path, RAM_SIZE).start == 0x8020_0000
    path.write_bytes(kernel_elf() + bytes(RAM_SIZE))  # debug information is not loaded
    assert load(path, RAM_SIZE).memory_size == 0x4000


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def error(path: Path) -> str:
        with pytest.raises(KernelImageError) as e:
            load(path, RAM_SIZE)
        return str(e.value)

    nothing, empty, pipe, huge = (tmp_path / n for n in ("nothing", "empty", "pipe", "huge"))
    empty.write_bytes(b"")
    os.mkfifo(pipe)
    with huge.open("wb") as file:
        file.write(NOP)
        file.truncate(1 << 40)  # sparse
    assert error(nothing) == f"{nothing}: No such file or directory"
    assert error(tmp_path) == f"{tmp_path}: is a directory"
    assert error(empty) == f"{empty}: an empty file"
    assert error(pipe) == f"{pipe}: not a regular file"
    assert error(Path("/dev/zero")) == "/dev/zero: not a regular file"
    assert error(huge) == f"{huge}: 1073741824 KiB, and there is room for 1024 KiB"
    assert "no file's name" in error(Path("a\0b"))
    with huge.open("r+b") as file:
        file.write(b"\x7fELF")
    assert error(huge) == f"{huge}: 1073741824 KiB, and there is room for 2097152 KiB"


SAMPLES = (
    image(),
    efi_image(),
    kernel_elf(),
    elf_that_relocates_itself(),
    gzip.compress(efi_image()),
    lzma.compress(image()),
    zboot(gzip.compress(kernel_elf())),
)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(st.data())
def test_random_damage(draw: st.DataObject) -> None:
    data = bytearray(draw.draw(st.sampled_from(SAMPLES)))
    # Most of it in the headers.
    places = st.one_of(st.integers(0, 255), st.integers(0, len(data) - 1))
    for _ in range(draw.draw(st.integers(0, 5))):
        at = min(draw.draw(places), len(data) - 1)
        data[at] = draw.draw(st.sampled_from((0, 1, 2, 0x7F, 0x80, 0xFF)) | st.integers(0, 255))
    if draw.draw(st.booleans()):
        del data[draw.draw(st.integers(0, len(data))) :]
    try:
        found = read(bytes(data)).within(0x8020_0000, 0x8020_0000 + RAM_SIZE)
    except KernelImageError as e:
        assert str(e).isprintable()
        return
    assert 0 < found.memory_size <= RAM_SIZE and 0 <= found.entry < found.memory_size
    end = 0
    for piece in found.pieces:
        assert piece.offset >= end and len(piece.data) <= piece.memory_size
        end = piece.offset + piece.memory_size
    assert end == found.memory_size
