"""mm.check's rules for vmcoreinfo: guest code and attach believe every word of it."""

from __future__ import annotations

from collections.abc import Iterator

from emu.spec.paging import SATP_ASID_MASK
from mm.addrspace import PAGE_STRUCT_SIZE
from mm.errors import CheckError
from mm.gfp import ZoneType
from mm.kernel import SLAB_KINDS, Kernel
from mm.kmalloc import KMALLOC_SIZES, kmalloc_name
from mm.pgtable import MmStruct
from mm.slab import KmemCache
from mm.slab.slob import Slob
from mm.slab.structs import OPTION_HARDENED, OPTION_NOMERGE
from mm.vm_struct import VmStruct
from mm.vma import VmArea
from mm.vmcoreinfo import VMCOREINFO_MAGIC, VMCOREINFO_VERSION


def check_root(kernel: Kernel) -> None:
    """Every field of vmcoreinfo that follows from something else is what follows."""
    info = kernel.vmcoreinfo
    for name, found, right in (
        *_layout(kernel),
        *_pointers(kernel),
        *_page_alloc(kernel),
        *_slab_root(kernel),
    ):
        if found != right:
            raise CheckError(
                "vmcoreinfo", info.pa, f"{name} is {found:#x}, it should be {right:#x}"
            )
    if not 1 <= info.asid_next <= SATP_ASID_MASK:
        raise CheckError("vmcoreinfo", info.pa, f"asid_next is {info.asid_next:#x}: 1 to 65535")
    frames = kernel.space.end_pfn - kernel.space.start_pfn
    for what, pa, size in (
        ("memmap", info.memmap_pa, frames * PAGE_STRUCT_SIZE),
        ("zones", info.zones_pa, 1),
        ("pageblock", info.pageblock_pa, 1),
        ("memblock", info.memblock_pa, 1),
    ):
        inside = any(r.base <= pa and pa + size <= r.end for r in kernel.memblock.reserved)
        if not inside:
            raise CheckError("vmcoreinfo", info.pa, f"{what}_pa {pa:#x} is of reserved memory")


Rule = tuple[str, int, int]  # field, what it is, what it should be


def _layout(kernel: Kernel) -> Iterator[Rule]:
    info, layout = kernel.vmcoreinfo, kernel.layout
    yield "magic", info.magic, VMCOREINFO_MAGIC
    yield "version", info.version, VMCOREINFO_VERSION
    yield "ram_base", info.ram_base, kernel.ram.base
    yield "ram_size", info.ram_size, kernel.ram.size
    yield "satp_mode", info.satp_mode, kernel.mode.satp_mode
    yield "page_offset", info.page_offset, layout.page_offset
    yield "vmemmap", info.vmemmap, layout.vmemmap_start
    yield "start_pfn", info.start_pfn, kernel.space.start_pfn
    yield "memmap_pa", info.memmap_pa, kernel.space.memmap_pa
    yield "vmalloc_start", info.vmalloc_start, layout.vmalloc_start
    yield "vmalloc_end", info.vmalloc_end, layout.vmalloc_end


def _pointers(kernel: Kernel) -> Iterator[Rule]:
    """Each structure is where its PA, its VA and the kernel at hand say it is."""
    info = kernel.vmcoreinfo
    yield "nr_zones", info.nr_zones, len(kernel.zones)
    yield "zones_pa", info.zones_pa, kernel.zones[0].pa
    yield "zones", info.zones, kernel.va(kernel.zones[0].pa)
    yield "pageblock_pa", info.pageblock_pa, kernel.page_alloc.buddy.pageblock_pa
    yield "pageblock_flags", info.pageblock_flags, kernel.va(kernel.page_alloc.buddy.pageblock_pa)
    yield "memblock_pa", info.memblock_pa, kernel.memblock.pa
    yield "memblock", info.memblock, kernel.va(kernel.memblock.pa)
    yield "init_mm", info.init_mm, kernel.va(kernel.init_mm.pa)
    yield "swapper_pg_dir_pa", info.swapper_pg_dir_pa, kernel.pgtable.root(kernel.init_mm)
    by_va = {cache.va: cache for cache in kernel.slab.caches()}
    for name, va, size in (
        ("mm_cachep", info.mm_cachep, MmStruct.SIZE),
        ("vm_area_cachep", info.vm_area_cachep, VmArea.SIZE),
        ("vmap_area_cachep", info.vmap_area_cachep, VmStruct.SIZE),
    ):
        _is_cache(kernel, name, by_va.get(va), size)
    for name, pointers, prefix in (
        ("kmalloc_caches", info.kmalloc_caches, ""),
        ("kmalloc_dma_caches", info.slab_root.kmalloc_dma_caches, "dma-"),
    ):
        without = isinstance(kernel.slab, Slob) or (prefix and not pointers[0])
        for i, size in enumerate(KMALLOC_SIZES):
            if without:
                yield f"{name}[{i}]", pointers[i], 0
                continue
            cache = by_va.get(pointers[i])
            _is_cache(kernel, f"{name}[{i}]", cache, size)
            if cache is not None and cache.name != prefix + kmalloc_name(size):
                raise CheckError("vmcoreinfo", info.pa, f"{name}[{i}] is {cache.name}")


def _is_cache(kernel: Kernel, name: str, cache: KmemCache | None, size: int) -> None:
    if cache is None or cache.object_size < size:
        raise CheckError(
            "vmcoreinfo", kernel.vmcoreinfo.pa, f"{name} is a cache of objects of {size} bytes"
        )


def _page_alloc(kernel: Kernel) -> Iterator[Rule]:
    info = kernel.vmcoreinfo.page_alloc
    zones = {zone.zone_idx: kernel.va(zone.pa) for zone in kernel.zones}
    for number in ZoneType:
        yield f"page_alloc.node_zones[{number}]", info.node_zones[number], zones.get(number, 0)
    off = int(kernel.page_alloc.mobility_disabled)
    yield "page_alloc.page_group_by_mobility_disabled", info.page_group_by_mobility_disabled, off
    yield "page_alloc.high_memory", info.high_memory, kernel.space.high_memory
    for name in ("page_owner", "stack_depot", "page_poison", "pkmap"):
        pa = getattr(info, f"{name}_pa")
        yield f"page_alloc.{name}", getattr(info, name), kernel.va(pa) if pa else 0


def _slab_root(kernel: Kernel) -> Iterator[Rule]:
    root = kernel.vmcoreinfo.slab_root
    yield "slab_root.kind", root.kind, SLAB_KINDS.index(kernel.slab.KIND)
    yield "slab_root.options", root.options, root.options & (OPTION_NOMERGE | OPTION_HARDENED)
