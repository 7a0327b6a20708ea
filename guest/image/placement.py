"""Where firmware, kernel, initrd and device tree go in RAM, as QEMU places them.

    ram.base              firmware (an ELF: where it is linked)
    ram.base + 2 MiB      kernel (an Image: at its text_offset; an ELF: where it is linked); in
                          M-mode, without firmware, a raw one at ram.base
    kernel + min(half of RAM, 128 MiB)    initrd; lower where it does not fit there
    the top, below 3 GiB  device tree, on a boundary of 2 MiB, and room for it to grow

Firmware that only jumps has the kernel's address built in: 2 MiB is what everyone agreed
upon. Source: QEMU's hw/riscv/boot.c (riscv_load_initrd, riscv_load_fdt).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emu.ram import PAGE_SIZE, Ram
from guest.image.kernel_image import KernelImage, KernelImageError, Kind

KERNEL_OFFSET = 2 << 20  # bytes from the start of RAM
INITRD_OFFSET_MAX = 128 << 20  # bytes from the kernel
DTB_ALIGN = 2 << 20
DTB_TOP = 3 << 30  # PA; what firmware of 32 bits can reach
DTB_SIZE_MAX = 1 << 20  # bytes
# OpenSBI and U-Boot write into the tree where it lies: it grows.
DTB_ROOM = 64 << 10  # bytes

Initrd = tuple[int, int]  # its first PA, and the PA behind it


class PlacementError(ValueError):
    """Something does not fit; the text says what, and the sizes, in one line."""


@dataclass(frozen=True)
class Range:
    """What is in ``[start, end)`` (PA)."""

    name: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.name} at {self.start:#x}-{self.end:#x}"


@dataclass(frozen=True)
class Placement:
    """Where everything is, as PA.

    ``entry``: where the hart begins: that of the firmware, or of the kernel without one.
    ``kernel_entry``: what the firmware is to start, None without a kernel. ``ranges``: all of
    it, by address.
    """

    entry: int
    kernel_entry: int | None
    dtb_pa: int
    initrd: Initrd | None
    ranges: tuple[Range, ...]


def place(
    ram: Ram,
    kernel: KernelImage | None,
    firmware: KernelImage | None,
    initrd: bytes | None,
    dtb: Callable[[Initrd | None], bytes],
    kernel_offset: int = KERNEL_OFFSET,
) -> Placement:
    """Find a place for everything and write it there; nothing is written unless all fits.

    ``dtb`` makes the device tree for an initrd's place (first PA, PA behind): it is asked
    twice, and its length must not depend on the place. ``kernel_offset``: where a kernel goes that
    does not say, in bytes from the start of RAM; 0 where it is alone there, in M-mode.

    Code that has run already is stale after this: tell the hart. Raises PlacementError.
    """
    if kernel is None and firmware is None:
        raise PlacementError("nothing to boot: neither a kernel nor firmware")
    taken: list[Range] = []
    loads: list[tuple[int, KernelImage]] = []
    for role, image, offset in (("firmware", firmware, 0), ("kernel", kernel, kernel_offset)):
        if image is not None:
            loads.append(_place_image(ram, role, image, offset, taken))
    entries = [start + image.entry for start, image in loads]
    lowest = loads[-1][0]  # many kernels give up the memory below them

    size = 0 if initrd is None else len(initrd)
    wanted = lowest + min(ram.size // 2, INITRD_OFFSET_MAX)
    length = len(dtb(None if initrd is None else (wanted, wanted + size)))
    # Where RAM is short a kernel alone has its tree without room; firmware would write behind it.
    rooms = (DTB_ROOM, 0) if firmware is None else (DTB_ROOM,)
    taken.append(_place_tree(ram, length, rooms, lowest, taken))
    dtb_pa = taken[-1].start
    where: Initrd | None = None
    if initrd is not None:
        pa = _initrd_pa(ram, size, wanted, lowest, taken)
        where = (pa, pa + size)
        taken.append(Range("initrd", *where))
    tree = dtb(where)
    if len(tree) != length:
        raise PlacementError(f"a device tree of {len(tree)} bytes that had {length} before")

    for start, image in loads:
        _write(ram, start, image)
    if initrd is not None and where is not None:
        ram.write(where[0], initrd)
    ram.write(dtb_pa, tree)
    return Placement(
        entries[0],
        None if kernel is None else entries[-1],
        dtb_pa,
        where,
        tuple(sorted(taken, key=lambda r: r.start)),
    )


def _place_image(
    ram: Ram, role: str, image: KernelImage, offset: int, taken: list[Range]
) -> tuple[int, KernelImage]:
    """The PA where an image begins, and what of it is loaded; its ranges are ``taken`` then."""
    try:
        image = image.within(ram.base, ram.end)
    except KernelImageError as e:
        raise PlacementError(str(e)) from None  # it begins with the path
    start = _start(ram, image, offset, taken)
    for new in _ranges(f"{role} {image.path}", start, image):
        _check(ram, new, taken)
        taken.append(new)
    return start, image


def _start(ram: Ram, image: KernelImage, offset: int, taken: list[Range]) -> int:
    """The PA where it begins; an Image makes way for firmware that is large."""
    if image.start is not None and (ram.contains(image.start) or not image.is_movable):
        return image.start
    if image.text_offset is not None:
        offset = image.text_offset
    start = ram.base + offset
    if image.kind is Kind.IMAGE and taken and start < taken[0].end:
        start = max(start, ram.base + _up(taken[0].end - ram.base, KERNEL_OFFSET))
    return start


def _ranges(name: str, start: int, image: KernelImage) -> list[Range]:
    """One, or two and more where much lies between the pieces that nobody said a word about."""
    found: list[Range] = []
    for piece in image.pieces:
        low = start + piece.offset
        if found and low - found[-1].end < KERNEL_OFFSET:
            low = found.pop().start
        found.append(Range(name, low, start + piece.offset + piece.memory_size))
    return found


def _check(ram: Ram, new: Range, taken: list[Range]) -> None:
    if not ram.contains(new.start, new.end - new.start):
        raise PlacementError(
            f"{new}, {_kib(new.end - new.start)}, is not in RAM, "
            f"{ram.base:#x}-{ram.end:#x}, {_kib(ram.size)}"
        )
    for old in taken:
        if _overlap(new.start, new.end, old):
            raise PlacementError(f"{new} overlaps {old}")


def _place_tree(
    ram: Ram, length: int, rooms: tuple[int, ...], lowest: int, taken: list[Range]
) -> Range:
    """A place for a device tree of ``length`` bytes and the first of ``rooms`` that there is."""
    if length > DTB_SIZE_MAX:
        raise PlacementError(f"a device tree of {_kib(length)}; {_kib(DTB_SIZE_MAX)} at most")
    top = min(ram.end, DTB_TOP) if ram.base < DTB_TOP else ram.end
    for room in rooms:
        for align, low in ((DTB_ALIGN, lowest), (PAGE_SIZE, lowest), (PAGE_SIZE, ram.base)):
            pa = _highest(length + room, low, top, align, taken)
            if pa is not None:
                return Range("device tree", pa, pa + length + room)
    raise _no_room("device tree", length + rooms[-1], ram.base, top, taken)


def _initrd_pa(ram: Ram, size: int, wanted: int, lowest: int, taken: list[Range]) -> int:
    for pa in (
        _lowest(size, wanted, ram.end, taken),
        _highest(size, lowest, ram.end, PAGE_SIZE, taken),
        _highest(size, ram.base, ram.end, PAGE_SIZE, taken),
    ):
        if pa is not None:
            return pa
    raise _no_room("initrd", size, ram.base, ram.end, taken)


def _lowest(size: int, low: int, high: int, taken: list[Range]) -> int | None:
    """The lowest free PA at ``low`` or above, on a page, with ``size`` bytes below ``high``."""
    at = _up(low, PAGE_SIZE)
    for old in sorted(taken, key=lambda r: r.start):
        if _overlap(at, at + size, old):
            at = _up(old.end, PAGE_SIZE)
    return at if at + size <= high else None


def _highest(size: int, low: int, high: int, align: int, taken: list[Range]) -> int | None:
    """The highest free multiple of ``align`` with ``size`` bytes in ``[low, high)``."""
    at = (high - size) // align * align
    for old in sorted(taken, key=lambda r: r.start, reverse=True):
        if _overlap(at, at + size, old):
            at = (old.start - size) // align * align
    return at if at >= low else None


def _no_room(what: str, size: int, low: int, high: int, taken: list[Range]) -> PlacementError:
    free = 0
    at = low
    for old in sorted(taken, key=lambda r: r.start):
        free = max(free, min(old.start, high) - at)
        at = max(at, old.end)
    free = max(free, high - at, 0)
    others = ", ".join(str(r) for r in taken)
    return PlacementError(
        f"the {what} does not fit: {_kib(size)}, and {free >> 10} KiB are free in one piece "
        f"of RAM {low:#x}-{high:#x} ({others})"
    )


def _write(ram: Ram, start: int, image: KernelImage) -> None:
    for piece in image.pieces:
        pa = start + piece.offset
        ram.write(pa, piece.data)
        _zero(ram, pa + len(piece.data), piece.memory_size - len(piece.data))


def _zero(ram: Ram, pa: int, size: int) -> None:
    """Only where it is not zero: RAM that nobody touched costs the host nothing."""
    zeros = bytes(1 << 20)
    for at in range(pa, pa + size, len(zeros)):
        count = min(len(zeros), pa + size - at)
        if ram.read(at, count) != zeros[:count]:
            ram.fill(at, count)


def _overlap(start: int, end: int, old: Range) -> bool:
    return start < old.end and old.start < end


def _up(value: int, align: int) -> int:
    return -(-value // align) * align


def _kib(size: int) -> str:
    return f"{-(-size >> 10)} KiB"
