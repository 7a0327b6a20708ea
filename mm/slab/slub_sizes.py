"""How large SLUB's objects and slabs are: order, objects, and where in an object its metadata is.

Source: Linux mm/slub.c (calculate_order, calculate_sizes, slub_set_cpu_partial).
"""

from __future__ import annotations

from emu.ram import PAGE_SIZE
from mm.slab.flags import (
    SLAB_KMALLOC,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
)
from mm.slab.options import get_order
from mm.slab.structs import (
    Track,
)
from mm.zone import MAX_PAGE_ORDER

SLUB_MAX_ORDER = 3
MIN_PARTIAL = 5
MAX_PARTIAL = 10
MAX_OBJS_PER_PAGE = 32767  # 15 bits
_M64 = (1 << 64) - 1


def order_objects(order: int, size: int) -> int:
    """How many objects of ``size`` bytes fit a slab of 2^order pages."""
    return (PAGE_SIZE << order) // size


def calculate_order(size: int, nr_cpus: int = 1) -> int:
    """The order of a cache's slabs: few enough objects wasted, not too large a slab.

    At least 4 * (fls(nr_cpus) + 1) objects if SLUB_MAX_ORDER allows; waste of at most
    1/16 of the slab, else 1/8, 1/4, 1/2. Raises ValueError for an object larger than
    any slab.
    """
    min_objects = min(4 * (nr_cpus.bit_length() + 1), max(order_objects(SLUB_MAX_ORDER, size), 1))
    min_order = get_order(min_objects * size)
    for fraction in (16, 8, 4, 2):
        for order in range(min_order, SLUB_MAX_ORDER + 1):
            slab_size = PAGE_SIZE << order
            if slab_size % size <= slab_size // fraction:
                return order
    order = get_order(size)
    if order > MAX_PAGE_ORDER:
        raise ValueError(f"no slab can hold an object of {size} bytes")
    return order


def calculate_min_partial(size: int) -> int:
    """Partial slabs that a node keeps even if empty."""
    return min(max((size.bit_length() - 1) // 2, MIN_PARTIAL), MAX_PARTIAL)


def calculate_cpu_partial(size: int) -> int:
    """Objects that a CPU may keep in partial slabs (slub_set_cpu_partial)."""
    if size >= PAGE_SIZE:
        return 6
    if size >= 1024:
        return 24
    return 52 if size >= 256 else 120


def calculate_sizes(
    object_size: int, align: int, flags: int, ctor: bool
) -> tuple[int, int, int, int]:
    """(size, inuse, offset, red_left_pad) of an object with its metadata, in bytes."""
    size = -(-object_size // 8) * 8
    if flags & SLAB_RED_ZONE and size == object_size:
        size += 8  # room for the right red zone
    inuse = size
    orig_size = flags & SLAB_KMALLOC and flags & SLAB_STORE_USER
    if flags & SLAB_POISON or ctor or (flags & SLAB_RED_ZONE and (object_size < 8 or orig_size)):
        offset = size
        size += 8
    else:
        offset = object_size // 2 & ~7
    if flags & SLAB_STORE_USER:
        size += 2 * Track.SIZE
        if flags & SLAB_KMALLOC:
            size += 4
    left = 0
    if flags & SLAB_RED_ZONE:
        left = -(-8 // align) * align
        size += 8 + left
    return -(-size // align) * align, inuse, offset, left


def random_key(name: str) -> int:
    """The key of a cache: not random but different for each, so that a boot is repeatable."""
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = (key ^ byte) * 0x100000001B3 & _M64
    return key | 1
