"""The root of everything in RAM: ``struct vmcoreinfo``, and whether it can be believed.

It is the first page of the kernel image, at VA KERNEL_LINK_ADDR (read-only) in every paging
mode, and points to all else.
"""

from __future__ import annotations

from collections.abc import Sequence

from emu.ram import Ram
from emu.spec.paging import PAGE_SHIFT, PAGE_SIZE
from mm.addrspace import (
    PAGE_STRUCT_SIZE,
    Space,
)
from mm.errors import CorruptionError
from mm.fault_inject import FaultState
from mm.kmalloc import NR_KMALLOC_CACHES
from mm.layout import ListHead, Struct, nested, ptr, ptr_array, u64
from mm.memblock import MEMBLOCK_SIZE
from mm.page_ext import (
    NR_STACK_RECORDS,
    PageAllocInfo,
    PageOwnerRecord,
    Pkmap,
    StackRecord,
)
from mm.slab.structs import SlabRoot
from mm.zone import (
    PAGEBLOCK_ORDER,
    Zone,
)

VMCOREINFO_MAGIC = int.from_bytes(b"pagewalk", "little")
VMCOREINFO_VERSION = 1
MAX_ZONES = 5


class Vmcoreinfo(Struct, c_name="vmcoreinfo"):
    """The root of everything. ``*_pa`` are PAs, pointers are VAs, sizes are in bytes."""

    magic = u64()
    version = u64()
    ram_base = u64()
    ram_size = u64()
    satp_mode = u64()
    page_offset = u64()
    vmemmap = ptr("struct page")
    start_pfn = u64()  # the PFN of vmemmap[0]
    memmap_pa = u64()
    vmalloc_start = u64()
    vmalloc_end = u64()
    nr_zones = u64()
    zones = ptr("struct zone")
    zones_pa = u64()
    pageblock_flags = ptr("uint8_t")  # a byte for each pageblock: migratetype ^ 1
    pageblock_pa = u64()
    memblock = ptr("struct memblock")
    memblock_pa = u64()
    swapper_pg_dir_pa = u64()
    init_mm = ptr("struct mm_struct")
    slab_caches = nested(ListHead)
    mmlist = nested(ListHead)
    vmap_area_list = nested(ListHead)
    mm_cachep = ptr("struct kmem_cache")
    vm_area_cachep = ptr("struct kmem_cache")
    vmap_area_cachep = ptr("struct kmem_cache")
    kmalloc_caches = ptr_array("struct kmem_cache", NR_KMALLOC_CACHES)
    asid_next = u64()
    purge_vmap_area_list = nested(ListHead)  # areas that wait for a flush
    vmap_lazy_nr = u64()  # and their pages
    page_alloc = nested(PageAllocInfo)
    fault_injection = nested(FaultState)
    slab_root = nested(SlabRoot)


def trust_root(ram: Ram, info: Vmcoreinfo) -> None:
    """Raise CorruptionError where vmcoreinfo points to a structure that is not all in RAM."""
    frames = ram.size >> PAGE_SHIFT
    blocks = ((ram.end - 1) >> PAGE_SHIFT >> PAGEBLOCK_ORDER) - (
        ram.base >> PAGE_SHIFT >> PAGEBLOCK_ORDER
    )
    pages = info.page_alloc
    if not 0 < info.nr_zones <= MAX_ZONES:
        raise CorruptionError("vmcoreinfo", info.pa, f"nr_zones is {info.nr_zones}")
    if pages.high_memory % PAGE_SIZE or not ram.base < pages.high_memory <= ram.end:
        raise CorruptionError("vmcoreinfo", info.pa, f"high_memory is {pages.high_memory:#x}")
    parts = [
        ("memmap_pa", info.memmap_pa, frames * PAGE_STRUCT_SIZE, PAGE_SIZE),
        ("zones_pa", info.zones_pa, info.nr_zones * Zone.SIZE, 8),
        ("memblock_pa", info.memblock_pa, MEMBLOCK_SIZE, PAGE_SIZE),
        ("pageblock_pa", info.pageblock_pa, blocks + 1, 1),
    ]
    if pages.page_owner:
        depot = NR_STACK_RECORDS * StackRecord.SIZE
        parts.append(("page_owner_pa", pages.page_owner_pa, frames * PageOwnerRecord.SIZE, 8))
        parts.append(("stack_depot_pa", pages.stack_depot_pa, depot, 8))
    if pages.page_poison:
        parts.append(("page_poison_pa", pages.page_poison_pa, frames, 1))
    if pages.pkmap:
        parts.append(("pkmap_pa", pages.pkmap_pa, Pkmap.SIZE, 8))
    for name, pa, size, align in parts:
        if pa % align or not ram.contains(pa, size):
            raise CorruptionError("vmcoreinfo", info.pa, f"{name} {pa:#x}: {size} bytes of RAM")


def trust_zones(space: Space, zones: Sequence[Zone]) -> None:
    """Raise CorruptionError for zones that do not make up RAM."""
    at, previous = space.start_pfn, -1
    for zone in zones:
        zone.trust(space)
        if zone.zone_start_pfn != at or zone.zone_idx <= previous:
            raise CorruptionError(
                "zone",
                zone.pa,
                f"zone_start_pfn {zone.zone_start_pfn:#x}, zone_idx {zone.zone_idx}",
            )
        at, previous = zone.zone_end_pfn, zone.zone_idx
    if at != space.end_pfn:
        raise CorruptionError("zone", zones[-1].pa, "spanned_pages: the zones end where RAM does")
