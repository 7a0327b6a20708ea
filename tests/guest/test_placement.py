"""Placement: addresses worked out by hand from QEMU's hw/riscv/boot.c, and what cannot fit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_kit import NOP, image, kernel_elf

from emu.ram import Ram
from guest.image.kernel_image import KernelImage, parse
from guest.image.placement import DTB_ROOM, PlacementError, place

M = 1 << 20
BASE = 0x8000_0000
RAW = parse(NOP * 64, "raw", M)
Initrd = tuple[int, int] | None


def linux(size: int = 0x3000, memory: int = 0x5000, text_offset: int = 2 * M) -> KernelImage:
    return parse(image(size, text_offset, memory), "linux", 1 << 40)


def elf(pa: int, kind: int = 2) -> KernelImage:
    return parse(kernel_elf(pa, kind=kind), "elf", M)


def tree(initrd: Initrd) -> bytes:
    """No device tree, but as long for every initrd, and it shows which it was made for."""
    return repr(initrd).encode().ljust(100, b".")


def test_kernel_alone() -> None:
    ram = Ram(64 * M)
    placed = place(ram, linux(), None, None, tree)
    assert (placed.entry, placed.kernel_entry) == (0x8020_0000, 0x8020_0000)
    assert placed.initrd is None
    # 100 bytes and 64 KiB to grow below the end at 0x84000000, down to a multiple of 2 MiB.
    assert placed.dtb_pa == 0x83E0_0000
    assert [(r.name, r.start, r.end) for r in placed.ranges] == [
        ("kernel linux", 0x8020_0000, 0x8020_5000),
        ("device tree", 0x83E0_0000, 0x83E1_0064),
    ]
    assert ram.read(0x8020_0000, 0x3000) == image()
    assert ram.read(0x83E0_0000, 101) == b"None".ljust(100, b".") + b"\0"


# RAM in MiB, then where a kernel at 0x80200000 finds its initrd and its device tree.
@pytest.mark.parametrize(
    ("size", "initrd", "dtb_pa"),
    [
        (32, 0x8120_0000, 0x81E0_0000),  # the kernel and half of RAM
        (64, 0x8220_0000, 0x83E0_0000),
        (256, 0x8820_0000, 0x8FE0_0000),  # the kernel and 128 MiB
        (1024, 0x8820_0000, 0xBFE0_0000),
        (3072, 0x8820_0000, 0xBFE0_0000),  # below 3 GiB
    ],
)
def test_everything(size: int, initrd: int, dtb_pa: int) -> None:
    ram = Ram(size * M)
    data = bytes(range(256)) * 16
    placed = place(ram, linux(), RAW, data, tree)
    assert (placed.entry, placed.kernel_entry) == (0x8000_0000, 0x8020_0000)
    assert placed.initrd == (initrd, initrd + 0x1000)
    assert placed.dtb_pa == dtb_pa
    assert ram.read(BASE, 256) == NOP * 64
    assert ram.read(0x8020_0000, 0x3000) == image()
    assert ram.read(initrd, 0x1000) == data
    assert ram.read(dtb_pa, 100) == tree((initrd, initrd + 0x1000))
    assert [r.name for r in placed.ranges] == [
        "firmware raw",
        "kernel linux",
        "initrd",
        "device tree",
    ]


def test_firmware_alone() -> None:
    placed = place(Ram(64 * M), None, RAW, b"initrd", tree)
    assert (placed.entry, placed.kernel_entry) == (BASE, None)
    assert placed.initrd == (0x8200_0000, 0x8200_0006)


def test_ram_above_3_gib() -> None:
    placed = place(Ram(64 * M, 0x1_0000_0000), linux(), None, None, tree)
    assert (placed.entry, placed.dtb_pa) == (0x1_0020_0000, 0x1_03E0_0000)


# kernels


def test_elf_where_it_is_linked() -> None:
    ram = Ram(16 * M)
    ram.fill(0x8030_0000, 0x5000, 0xEE)  # what an earlier guest left
    placed = place(ram, elf(0x8030_0000), None, None, tree)
    assert placed.entry == 0x8030_0000
    assert ram.read(0x8030_0000, 8) == NOP * 2
    assert ram.read(0x8030_0008, 8) == b"\xee" * 8  # between segments
    assert ram.read(0x8030_1000, 0x3000) == (b"\x5a" * 16).ljust(0x3000, b"\0")  # .bss
    assert ram.read(0x8030_4000, 8) == b"\xee" * 8


def test_position_independent_elf() -> None:
    placed = place(Ram(16 * M), elf(0x8030_0000, 3), elf(0, 3), None, tree)
    assert (placed.entry, placed.kernel_entry) == (BASE, 0x8030_0000)
    assert place(Ram(16 * M), elf(0, 3), None, None, tree).entry == 0x8020_0000


def test_an_image_says_where() -> None:
    assert place(Ram(16 * M), linux(text_offset=0), None, None, tree).entry == BASE
    assert place(Ram(16 * M), linux(text_offset=4 * M), RAW, None, tree).kernel_entry == 0x8040_0000


def test_an_image_makes_way_for_firmware() -> None:
    assert place(Ram(16 * M), linux(text_offset=0), RAW, None, tree).kernel_entry == 0x8020_0000
    large = parse(NOP * (M // 2 + 1), "large", 4 * M)  # a little more than 2 MiB
    assert place(Ram(16 * M), linux(), large, None, tree).kernel_entry == 0x8040_0000


# initrds


def test_initrd_above_a_kernel_that_is_larger_than_half_of_ram() -> None:
    placed = place(Ram(64 * M), linux(memory=40 * M + 1), None, bytes(M), tree)
    assert placed.initrd == (0x82A0_1000, 0x82B0_1000)


def test_initrd_lower_when_it_is_large() -> None:
    # From 0x82200000 to the tree at 0x83e00000 there are 28 MiB.
    assert place(Ram(64 * M), linux(), None, bytes(28 * M), tree).initrd == (
        0x8220_0000,
        0x83E0_0000,
    )
    placed = place(Ram(64 * M), linux(), None, bytes(28 * M + 1), tree)
    assert placed.initrd == (0x821F_F000, 0x83DF_F001)


def test_initrd_fills_what_is_left() -> None:
    # The kernel ends at 0x80205000; 0x83e00000 less that is 61,420 KiB.
    placed = place(Ram(64 * M), linux(), None, bytes(61_420 << 10), tree)
    assert placed.initrd == (0x8020_5000, 0x83E0_0000)
    with pytest.raises(PlacementError) as error:
        place(Ram(64 * M), linux(), RAW, bytes((61_420 << 10) + 1), tree)
    assert str(error.value).startswith(
        "the initrd does not fit: 61421 KiB, and 61420 KiB are free in one piece of RAM "
        "0x80000000-0x84000000 (firmware raw at 0x80000000-0x80000100, kernel linux at "
        "0x80200000-0x80205000, device tree at 0x83e00000-"
    )


def test_initrd_larger_than_ram() -> None:
    with pytest.raises(PlacementError, match="the initrd does not fit: 20480 KiB, and 12268 KiB"):
        place(Ram(16 * M), linux(), None, bytes(20 * M), tree)


def test_a_kernel_at_the_top_of_ram() -> None:
    """Below it is better than nowhere."""
    placed = place(Ram(16 * M), elf(0x80FF_C000), None, bytes(9 * M), tree)
    assert placed.dtb_pa == 0x80FE_B000  # 0x80ffc000 - 64 KiB - 100 bytes, down to a page
    assert placed.initrd == (0x806E_B000, 0x80FE_B000)


# small machines, and what does not fit


def test_a_small_machine() -> None:
    """Without 2 MiB boundaries to spare the tree goes to the last page that has room."""
    placed = place(Ram(3 * M), linux(), None, b"initrd", tree)
    assert placed.dtb_pa == 0x802E_F000  # 0x80300000 - 64 KiB - 100 bytes, down to a page
    assert placed.initrd == (0x802E_E000, 0x802E_E006)


@pytest.mark.parametrize(
    ("kernel", "firmware", "size", "why"),
    [
        (None, None, 16 * M, "nothing to boot"),
        (linux(), None, 2 * M, "kernel linux at 0x80200000-0x80205000, 20 KiB, is not in RAM, "
         "0x80000000-0x80200000, 2048 KiB"),
        (linux(memory=15 * M), None, 16 * M, "15360 KiB, is not in RAM"),
        (linux(text_offset=1 << 40), None, 16 * M, "is not in RAM"),
        (elf(0x1000), None, 16 * M, "elf: segment at PA 0x1000-0x1008 (number 0) is"),
        (elf(0x80FF_E000), None, 16 * M, "segment at PA 0x80fff000-0x81002000 (number 1) is"),
        (elf(BASE), RAW, 16 * M, "kernel elf at 0x80000000-0x80004000 overlaps firmware raw at "
         "0x80000000-0x80000100"),
        (RAW, elf(0x801F_F000), 16 * M, "kernel raw at 0x80200000-0x80200100 overlaps firmware"),
        (None, parse(b"\x13\0\0\0" * (M - 0xC00), "raw", 4 * M), 4 * M,
         "the device tree does not fit: 65 KiB, and 12 KiB are free"),
        (linux(0x3000, 4 * M, 0), None, 4 * M,
         "the device tree does not fit: 1 KiB, and 0 KiB are free"),
    ],
)  # fmt: skip
def test_what_does_not_fit(
    kernel: KernelImage | None, firmware: KernelImage | None, size: int, why: str
) -> None:
    ram = Ram(size)
    with pytest.raises(PlacementError) as error:
        place(ram, kernel, firmware, None, tree)
    assert why in str(error.value) and "\n" not in str(error.value)
    assert not ram.array(BASE, size // 8).any()  # nothing was written


def test_a_tree_without_room() -> None:
    """12 KiB behind the kernel: enough for the tree, where no firmware writes behind it."""
    ram = Ram(4 * M)
    placed = place(ram, linux(0x3000, 4 * M - 0x3000, 0), None, None, tree)
    assert placed.dtb_pa == BASE + 4 * M - 0x1000
    assert ram.read(placed.dtb_pa, 100) == tree(None)


def test_trees() -> None:
    with pytest.raises(PlacementError, match="a device tree of 1025 KiB; 1024 KiB at most"):
        place(Ram(16 * M), linux(), None, None, lambda initrd: bytes(M + 1))
    with pytest.raises(PlacementError, match=r"a device tree of .* bytes that had 4 before"):
        lengths = iter((4, 5))
        place(Ram(16 * M), linux(), None, None, lambda initrd: bytes(next(lengths)))


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 64),
    st.sampled_from((None, *range(0, 8 * M, M // 4))),
    st.integers(0x3000, 16 * M),
    st.sampled_from((None, 1, 0x1000, 0x1001, M, 9 * M)),
    st.sampled_from((None, RAW, elf(BASE), elf(0x8010_0000))),
)
def test_nothing_overlaps(
    size: int, text_offset: int | None, memory: int, initrd: int | None, firmware: KernelImage
) -> None:
    ram = Ram(size * M // 2 & ~0xFFF)
    kernel = None if text_offset is None else linux(0x3000, memory, text_offset)
    data = None if initrd is None else b"\x77" * initrd
    try:
        placed = place(ram, kernel, firmware, data, tree)
    except PlacementError:
        assert not ram.array(BASE, ram.size // 8).any()
        return
    end = ram.base
    for item in placed.ranges:
        assert item.start >= end
        end = item.end
    assert end <= ram.end
    assert ram.read(placed.dtb_pa, 100) == tree(placed.initrd)
    assert placed.dtb_pa % 0x1000 == 0 and ram.contains(placed.dtb_pa, 100 + DTB_ROOM)
    if data is not None:
        assert placed.initrd is not None
        start, end = placed.initrd
        assert start % 0x1000 == 0 and ram.read(start, end - start) == data
    if kernel is not None:
        assert placed.kernel_entry is not None
        assert ram.read(placed.kernel_entry, 0x3000) == kernel.pieces[0].data
