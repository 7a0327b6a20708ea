"""Kernel files made byte by byte, for the tests of loading and placing them."""

from __future__ import annotations

import struct

from elf_kit import P_PADDR, Load, R, W, X, make, patch, phdr

NOP = bytes.fromhex("13000000")
RISCV64, RV32, X86_64, AARCH64 = 0x5064, 0x5032, 0x8664, 0xAA64


def image(
    size: int = 0x3000,
    text_offset: int = 0x20_0000,
    image_size: int = 0x5000,
    flags: int = 0,
    code: bytes = NOP,
    magic: bytes = b"RISCV\0\0\0",
    magic2: bytes = b"RSC\x05",
    pe: bytes = b"",
) -> bytes:
    """A flat image: the boot header by its table (boot-image-header.rst), then ``pe``, 0xa5."""
    header = code.ljust(8, b"\0")  # code0, code1
    header += struct.pack("<QQQ", text_offset, image_size, flags)
    header += struct.pack("<IIQ", 2, 0, 0)  # version 0.2, res1, res2
    header += magic + magic2 + struct.pack("<I", 0x40 if pe else 0)
    assert len(header) == 64
    return (header + pe).ljust(size, b"\xa5")


def pe(machine: int = RISCV64, ends: tuple[int, ...] = (0x1000, 0x3000)) -> bytes:
    """A PE header whose sections' contents end at those offsets of the file."""
    header = b"PE\0\0" + struct.pack("<HHIIIHH", machine, len(ends), 0, 0, 0, 16, 0) + bytes(16)
    for i, end in enumerate(ends):
        header += struct.pack("<8sIIII", b".s%d" % i, 0x9000, 0, 0x800, end - 0x800) + bytes(16)
    return header


def efi_image(machine: int = RISCV64, size: int = 0x3000) -> bytes:
    """An image with an EFI stub, as distributions ship it."""
    return image(size, code=b"MZ\x6f\x10\x60\x0d", pe=pe(machine))


def zboot(payload: bytes, how: bytes = b"gzip", machine: int = RISCV64) -> bytes:
    """A compressed image in an EFI program (zboot-header.S)."""
    headers = pe(machine, ())
    header = b"MZ\0\0zimg" + struct.pack("<IIII", 64 + len(headers), len(payload), 0, 0)
    header += how.ljust(32, b"\0") + struct.pack("<II", 0x818223CD, 64)
    assert len(header) == 64
    return header + headers + payload + b"\0" * 16


def kernel_elf(
    pa: int = 0x8020_0000, va: int | None = None, entry: int | None = None, kind: int = 2
) -> bytes:
    """Code of 8 bytes at ``pa``, and 0x10 bytes of data in 0x3000 of memory a page above."""
    va = pa if va is None else va
    loads = [Load(va, NOP * 2, R | X), Load(va + 0x1000, b"\x5a" * 0x10, R | W, 0x3000)]
    data = make(loads, va if entry is None else entry, kind)
    for i in range(2):
        data = patch(data, phdr(i, P_PADDR), pa + 0x1000 * i, 8)
    return data
