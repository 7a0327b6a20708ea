"""Guest physical memory."""

from __future__ import annotations

import resource

import numpy as np
import pytest

from emu.ram import Ram, RamError

BASE = 0x8000_0000


@pytest.fixture
def ram() -> Ram:
    return Ram(0x4000)


def test_is_zero_and_where_it_should_be(ram: Ram) -> None:
    assert (ram.base, ram.size, ram.end) == (0x8000_0000, 0x4000, 0x8000_4000)
    assert ram.read(BASE, 0x4000) == bytes(0x4000)
    assert repr(ram) == "<Ram 0x80000000-0x80004000>"


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_scalars_are_little_endian_and_reach_both_ends(ram: Ram, bits: int) -> None:
    size = bits // 8
    write, read = getattr(ram, f"write{bits}"), getattr(ram, f"read{bits}")
    value = 0xF1E2D3C4B5A69788 >> (64 - bits)
    for pa in (BASE, BASE + size, BASE + 0x4000 - size):
        write(pa, value)
        assert read(pa) == value
        assert ram.read(pa, size) == value.to_bytes(size, "little")


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_scalars_outside_are_refused(ram: Ram, bits: int) -> None:
    size = bits // 8
    for pa in (BASE - size, BASE + 0x4000, 0, -size, 1 << 63, 1 << 64):
        for call in (
            lambda pa=pa: getattr(ram, f"read{bits}")(pa),
            lambda pa=pa: getattr(ram, f"write{bits}")(pa, 0),
        ):
            with pytest.raises(RamError, match="RAM is 0x80000000-0x80004000") as caught:
                call()
            assert (caught.value.pa, caught.value.size) == (pa, size)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_misaligned_scalars_are_refused(ram: Ram, bits: int) -> None:
    for pa in {BASE + 1, BASE + 0x100 + bits // 16, BASE + 0x4000 - bits // 16}:
        before = ram.read(BASE, 0x4000)
        with pytest.raises(RamError):
            getattr(ram, f"read{bits}")(pa)
        with pytest.raises(RamError):
            getattr(ram, f"write{bits}")(pa, 1)
        assert ram.read(BASE, 0x4000) == before


def test_a_value_that_does_not_fit_is_refused(ram: Ram) -> None:
    for write, value in ((ram.write8, 256), (ram.write32, 1 << 32), (ram.write64, -1)):
        with pytest.raises((ValueError, OverflowError)):
            write(BASE, value)
    assert ram.read64(BASE) == 0


def test_bulk_is_of_any_alignment_and_bounded(ram: Ram) -> None:
    ram.write(BASE + 3, b"hello")
    assert ram.read(BASE + 2, 7) == b"\0hello\0"
    ram.write(BASE + 0x3FFF, bytearray(b"z"))
    assert ram.read8(BASE + 0x3FFF) == ord("z")
    ram.fill(BASE + 5, 3, 0xAA)
    assert ram.read(BASE + 3, 6) == b"he\xaa\xaa\xaa\0"
    ram.fill(BASE + 3, 5)
    assert ram.read(BASE, 16) == bytes(16)
    assert ram.read(BASE + 0x4000, 0) == b""
    for call in (
        lambda: ram.read(BASE + 0x3FFF, 2),
        lambda: ram.read(BASE - 1, 1),
        lambda: ram.read(BASE, -1),
        lambda: ram.write(BASE + 0x3FFE, b"abc"),
        lambda: ram.fill(BASE + 0x3000, 0x1001),
        lambda: ram.array(BASE, 0x801),
        lambda: ram.array(BASE + 4, 1),
    ):
        with pytest.raises(RamError):
            call()
    assert ram.read(BASE + 0x3FFE, 2) == b"\0z"


def test_views_share_the_memory(ram: Ram) -> None:
    view = ram.array(BASE + 0x1000, 512)
    assert (view.dtype, view.shape) == (np.uint64, (512,))
    view[3] = 0x1122334455667788
    assert ram.read64(BASE + 0x1018) == 0x1122334455667788
    ram.write8(BASE + 0x1018, 0xFF)
    assert int(view[3]) == 0x11223344556677FF
    assert ram.u64[0x1018 >> 3] == 0x11223344556677FF
    ram.u64[0] = 7
    assert ram.read64(BASE) == 7
    halves = ram.array(BASE + 0x1002, 4, "<u2")
    halves[:] = 0xBEEF
    assert ram.read(BASE + 0x1000, 12) == b"\0\0" + b"\xef\xbe" * 4 + b"\0\0"
    record = ram.array(BASE + 0x2000, 2, np.dtype([("a", "<u4"), ("b", "<u8")], align=True))
    record["b"][1] = 5
    assert ram.read64(BASE + 0x2000 + 16 + 8) == 5


def test_contains(ram: Ram) -> None:
    assert ram.contains(BASE) and ram.contains(BASE + 0x3FFF) and ram.contains(BASE, 0x4000)
    assert ram.contains(BASE + 0x4000, 0)
    assert not ram.contains(BASE - 1) and not ram.contains(BASE + 0x4000)
    assert not ram.contains(BASE + 1, 0x4000) and not ram.contains(BASE, -1)


@pytest.mark.parametrize(
    ("size", "base"),
    [(0, BASE), (-4096, BASE), (4095, BASE), (4096, BASE + 8), (4096, -4096), (4096, 1 << 56),
     (1 << 62, 0), (8192, (1 << 56) - 4096)],
)  # fmt: skip
def test_impossible_ram_is_refused(size: int, base: int) -> None:
    with pytest.raises(ValueError, match="RAM of"):
        Ram(size, base)


def test_a_quarter_of_a_tebibyte_costs_nothing() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ram = Ram(256 << 30)
    last = ram.end - 8
    for pa in (ram.base, ram.base + (100 << 30), last):
        ram.write64(pa, pa)
    assert [ram.read64(pa) for pa in (ram.base, ram.base + (100 << 30), last)] == [
        BASE, BASE + (100 << 30), BASE + (256 << 30) - 8
    ]  # fmt: skip
    assert int(ram.array(last, 1)[0]) == last
    assert ram.read64(ram.base + (200 << 30)) == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB


def test_other_bases() -> None:
    low = Ram(4096, 0)
    low.write64(4088, 1)
    assert low.read64(4088) == 1
    with pytest.raises(RamError):
        low.read64(-8)
    high = Ram(4096, (1 << 56) - 4096)
    high.write64((1 << 56) - 8, 2)
    assert high.read64((1 << 56) - 8) == 2
