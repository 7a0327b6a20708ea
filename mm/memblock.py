"""memblock: the memory map, and the allocator from before there is an allocator.

Two sorted arrays of regions, ``memory`` (what RAM there is) and ``reserved`` (what of it is
taken), live in RAM and are kept after boot, as riscv keeps them: they say forever which
frames the page allocator was given. The arrays do not grow: 128 regions each, as in Linux
before memblock_double_array.

    +-----------------+------------------------+------------------------+
    | struct memblock | memory.regions[128]    | reserved.regions[128]  |
    +-----------------+------------------------+------------------------+

Source: Linux mm/memblock.c. Addresses are PAs in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from emu.ram import PAGE_SIZE, Ram
from mm.errors import CorruptionError, MemblockError
from mm.layout import Struct, chars, nested, ptr, s32, u8, u32, u64

INIT_MEMBLOCK_REGIONS = 128
MEMBLOCK_NONE = 0
MEMBLOCK_NOMAP = 4  # not in the direct map: firmware


class MemblockRegion(Struct, c_name="memblock_region"):
    base = u64()
    length = u64()  # bytes (Linux: size)
    flags = u32()
    nid = s32()


class MemblockType(Struct, c_name="memblock_type"):
    cnt = u64()
    max = u64()
    total_size = u64()
    regions = ptr("struct memblock_region")
    name = chars(16)


class MemblockHead(Struct, c_name="memblock"):
    bottom_up = u8()
    current_limit = u64()
    memory = nested(MemblockType)
    reserved = nested(MemblockType)


@dataclass(frozen=True)
class Region:
    """``[base, end)`` in bytes, with its MEMBLOCK_ flags."""

    base: int
    end: int
    flags: int = MEMBLOCK_NONE


_ARRAY_SIZE = INIT_MEMBLOCK_REGIONS * MemblockRegion.SIZE
MEMBLOCK_SIZE = -(-(MemblockHead.SIZE + 2 * _ARRAY_SIZE) // PAGE_SIZE) * PAGE_SIZE  # bytes


class Memblock:
    """The memory map whose ``struct memblock`` is at ``pa``; ``create`` makes an empty one."""

    def __init__(self, ram: Ram, pa: int) -> None:
        self.ram = ram
        self.pa = pa
        self.head = MemblockHead(ram, pa)

    @classmethod
    def create(cls, ram: Ram, pa: int, page_offset: int) -> Memblock:
        """An empty map in MEMBLOCK_SIZE bytes at ``pa``, which it does not reserve itself."""
        ram.fill(pa, MEMBLOCK_SIZE)
        block = cls(ram, pa)
        block.head.current_limit = ram.end
        for i, (name, kind) in enumerate(
            (("memory", block.head.memory), ("reserved", block.head.reserved))
        ):
            kind.name = name
            kind.max = INIT_MEMBLOCK_REGIONS
            kind.regions = block._array_pa(i) - ram.base + page_offset
        return block

    def _array_pa(self, i: int) -> int:
        return self.pa + MemblockHead.SIZE + i * _ARRAY_SIZE

    def _load(self, i: int) -> list[Region]:
        kind = self.head.reserved if i else self.head.memory
        count = kind.cnt
        if count > INIT_MEMBLOCK_REGIONS:
            raise CorruptionError(f"memblock.{kind.name}", kind.pa, f"it claims {count} regions")
        regions = []
        for n in range(count):
            region = MemblockRegion(self.ram, self._array_pa(i) + n * MemblockRegion.SIZE)
            end = region.base + region.length
            regions.append(Region(region.base, end, region.flags))
        return regions

    def _store(self, i: int, regions: list[Region]) -> None:
        kind = self.head.reserved if i else self.head.memory
        if len(regions) > INIT_MEMBLOCK_REGIONS:
            raise MemblockError(f"memblock.{kind.name}: more than {INIT_MEMBLOCK_REGIONS} regions")
        for n, region in enumerate(regions):
            slot = MemblockRegion(self.ram, self._array_pa(i) + n * MemblockRegion.SIZE)
            slot.base = region.base
            slot.length = region.end - region.base
            slot.flags = region.flags
            slot.nid = 0
        kind.cnt = len(regions)
        kind.total_size = sum(r.end - r.base for r in regions)

    @property
    def memory(self) -> list[Region]:
        """The RAM there is, sorted, neighbours merged."""
        return self._load(0)

    @property
    def reserved(self) -> list[Region]:
        """What of it is taken, sorted, neighbours merged."""
        return self._load(1)

    def _range(self, base: int, size: int) -> tuple[int, int]:
        if size <= 0 or base < 0 or base + size > 1 << 64:
            raise ValueError(f"memblock region of {size} bytes at {base:#x}")
        return base, base + size

    def memblock_add(self, base: int, size: int) -> None:
        """Declare RAM. What overlaps a region keeps that region's flags. ValueError if empty."""
        self._store(0, _add(self._load(0), *self._range(base, size), MEMBLOCK_NONE))

    def memblock_reserve(self, base: int, size: int) -> None:
        """Take a range; what is taken already stays taken. ValueError if empty."""
        self._store(1, _add(self._load(1), *self._range(base, size), MEMBLOCK_NONE))

    def memblock_free(self, base: int, size: int) -> None:
        """Give a range back; parts that were not reserved do not matter (memblock_phys_free)."""
        self._store(1, _remove(self._load(1), *self._range(base, size)))

    def memblock_mark_nomap(self, base: int, size: int) -> None:
        """Leave the part of RAM in the range out of the direct map."""
        start, end = self._range(base, size)
        marked = []
        for region in self._load(0):
            low, high = max(region.base, start), min(region.end, end)
            if low >= high:
                marked.append(region)
                continue
            pieces = (
                Region(region.base, low, region.flags),
                Region(low, high, region.flags | MEMBLOCK_NOMAP),
                Region(high, region.end, region.flags),
            )
            marked.extend(p for p in pieces if p.base < p.end)
        self._store(0, _merge(marked))

    def memblock_alloc(self, size: int, align: int = PAGE_SIZE, limit: int | None = None) -> int:
        """Reserve ``size`` bytes, as high below ``limit`` as they fit; not zeroed.

        Top-down, at a multiple of ``align`` (memblock_phys_alloc). Returns the PA.
        Raises MemblockError when nothing fits, ValueError for a bad size or alignment.
        """
        if size <= 0 or align <= 0 or align & (align - 1):
            raise ValueError(f"memblock_alloc of {size} bytes aligned to {align}")
        for region in reversed(list(self.free_ranges())):
            end = region.end if limit is None else min(region.end, limit)
            base = (end - size) & -align
            if base >= region.base:
                self.memblock_reserve(base, size)
                return base
        raise MemblockError(f"memblock: no {size} bytes aligned to {align:#x} left")

    def free_ranges(self) -> Iterator[Region]:
        """RAM that is neither reserved nor nomap, ascending (for_each_free_mem_range)."""
        reserved = self._load(1)
        for region in self._load(0):
            if region.flags & MEMBLOCK_NOMAP:
                continue
            at = region.base
            for taken in reserved:
                if taken.end <= at or taken.base >= region.end:
                    continue
                if taken.base > at:
                    yield Region(at, taken.base)
                at = max(at, taken.end)
            if at < region.end:
                yield Region(at, region.end)

    def is_reserved(self, pa: int) -> bool:
        """Whether the byte at ``pa`` is reserved, or no RAM of the map at all."""
        if any(r.base <= pa < r.end for r in self._load(1)):
            return True
        return not any(r.base <= pa < r.end for r in self._load(0))


def _merge(regions: list[Region]) -> list[Region]:
    merged: list[Region] = []
    for region in regions:
        last = merged[-1] if merged else None
        if last and last.end == region.base and last.flags == region.flags:
            merged[-1] = Region(last.base, region.end, last.flags)
        else:
            merged.append(region)
    return merged


def _add(regions: list[Region], base: int, end: int, flags: int) -> list[Region]:
    """memblock_add_range: only the gaps of ``[base, end)`` become new regions."""
    added = list(regions)
    at = base
    for region in regions:
        if region.end <= at or region.base >= end:
            continue
        if region.base > at:
            added.append(Region(at, region.base, flags))
        at = max(at, region.end)
    if at < end:
        added.append(Region(at, end, flags))
    return _merge(sorted(added, key=lambda r: r.base))


def _remove(regions: list[Region], base: int, end: int) -> list[Region]:
    kept = []
    for region in regions:
        if region.base < min(region.end, base):
            kept.append(Region(region.base, min(region.end, base), region.flags))
        if max(region.base, end) < region.end:
            kept.append(Region(max(region.base, end), region.end, region.flags))
    return kept
