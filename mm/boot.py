"""Building the memory manager in RAM, from nothing.

    ram.base                                    ram.base + 2 MiB
    +-------------------+-----------------------+------------+--------------+------ ... --+
    | firmware (nomap)  | free                  | vmcoreinfo | image        | free        |
    +-------------------+-----------------------+------------+--------------+------ ... --+
     ... ---------------+---------+---------+----------+
     free               | boot    | memmap  | memblock |   top of RAM, by memblock_alloc
     ... ---------------+---------+---------+----------+

``boot`` writes RAM phase by phase; from the moment that vmcoreinfo has its magic number it
works through the Kernel object that is attached to what was written, so there is one way in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from emu.ram import Ram
from emu.spec.paging import PAGE_SHIFT, PAGE_SIZE, SV39, PagingMode
from mm.addrspace import (
    KERNEL_END,
    KERNEL_IMAGE_OFFSET,
    KERNEL_LINK_ADDR,
    MODULES_END,
    MODULES_VADDR,
    PAGE_STRUCT_SIZE,
    PKMAP_SIZE,
    Space,
    VaLayout,
    layout_for,
)
from mm.gfp import ZoneType
from mm.hart import HartOps, NoHart
from mm.kernel import SLAB_ALLOCATORS, SLAB_KINDS, Kernel
from mm.lists import Lists
from mm.memblock import MEMBLOCK_NOMAP, MEMBLOCK_SIZE, Memblock
from mm.page import (
    ALLOCATED_WORD,
    PG_RESERVED,
    W_FLAGS,
    W_TYPE_REF,
    zone_flags,
)
from mm.page_ext import (
    NR_STACK_RECORDS,
    PageAllocInfo,
    PageOwnerRecord,
    Pkmap,
    StackRecord,
)
from mm.pgtable import (
    PAGE_KERNEL,
    PAGE_KERNEL_EXEC,
    PAGE_KERNEL_READ,
    MmStruct,
)
from mm.slab import (
    SLAB_ACCOUNT,
    SLAB_HWCACHE_ALIGN,
    SLAB_NO_MERGE,
    SlabAllocator,
)
from mm.slab.options import parse_slub_debug
from mm.slab.structs import OPTION_HARDENED, OPTION_NOMERGE, SlabRoot
from mm.vm_struct import VmStruct
from mm.vma import VmArea
from mm.vmcoreinfo import VMCOREINFO_MAGIC, VMCOREINFO_VERSION, Vmcoreinfo
from mm.zone import (
    DEFAULT_ZONES,
    MAX_ORDER_NR_PAGES,
    PAGEBLOCK_ORDER,
    ZONE_NAMES,
    Zone,
    ZoneConfig,
    highmem_start,
    min_free_kbytes,
    setup_pageset,
    setup_per_zone_lowmem_reserve,
    setup_per_zone_wmarks,
    zone_ranges,
)

MIN_RAM_SIZE = 8 << 20
MEMMAP_ALIGN = 2 << 20
IMAGE_PROT = {"r": PAGE_KERNEL_READ, "rx": PAGE_KERNEL_EXEC, "rw": PAGE_KERNEL}


@dataclass(frozen=True)
class ImageSegment:
    """A part of the kernel image, already in RAM at ``pa``, linked to run at ``va``.

    ``va - KERNEL_LINK_ADDR`` equals ``pa - ram.base - 2 MiB``; ``prot`` is "r", "rx" or
    "rw". Starts on a page and takes whole pages (``size`` in bytes is rounded up).
    """

    pa: int
    va: int
    size: int
    prot: str

    @property
    def end(self) -> int:
        """PA of the first byte after its last page."""
        return -(-(self.pa + self.size) // PAGE_SIZE) * PAGE_SIZE


@dataclass(frozen=True)
class Config:
    """What a machine is booted with. ``firmware_size`` in bytes, from the start of RAM, at
    most 2 MiB; ``reserved``: further ``(pa, size)`` that nobody may allocate.

    ``min_free_kbytes``: None is Linux's formula, 0 no reserves. ``direct_map_end``: the PA
    from which on RAM has no address, where zone HighMem starts unless it is given.

    ``slab``: "slub", "slab" or "slob". ``slub_debug``: "FZPU" or a part of it, for some
    caches "FZ,kmalloc-64"; "" is FZPU. ``slab_freelist_hardened``: SLUB's free pointers are
    stored xored. ``kmemleak``: every allocation is recorded, to say who leaked what.
    """

    paging: PagingMode = SV39
    zones: ZoneConfig = DEFAULT_ZONES
    firmware_size: int = 2 << 20
    image: tuple[ImageSegment, ...] = ()
    reserved: tuple[tuple[int, int], ...] = ()
    eager: bool = False  # list every free block at boot (to compare with)
    pcp: bool = True  # per-CPU page lists
    min_free_kbytes: int | None = None
    direct_map_end: int | None = None
    page_owner: bool = False
    page_poison: bool = False
    slab: str = "slub"
    slub_debug: str | None = None
    slab_nomerge: bool = False
    slab_freelist_hardened: bool = False
    kmemleak: bool = False


def boot(ram: Ram, config: Config | None = None, hart: HartOps | None = None) -> Kernel:
    """Build the memory manager in ``ram`` and return it.

    The memmap is taken to be zero, as fresh RAM is; a kernel that was booted before in the
    same RAM is recognised and its remains are cleared. Raises ValueError when RAM is too
    small (below 8 MiB) or too large for the mode, or when the config contradicts itself.
    """
    config = config or Config()
    slab_type = _slab_type(config)
    layout = layout_for(config.paging, ram.size)
    if ram.size < MIN_RAM_SIZE:
        raise ValueError(f"RAM of {ram.size >> 10} KiB: the kernel needs at least 8 MiB")
    taken = _check_config(ram, config)
    high = _high_memory(ram, config)

    memblock = _setup_bootmem(ram, config, layout, taken, high)
    places = _alloc_boot_structures(ram, config, memblock, slab_type, high)
    space = Space(ram, layout, places.memmap_pa, high)
    info = _write_vmcoreinfo(space, config, memblock, places)
    free = _whole_free_pages(memblock)
    _write_zones(space, info, places, free)
    info.magic = VMCOREINFO_MAGIC

    kernel = Kernel(ram, hart or NoHart())
    _init_reserved_pages(kernel)
    _free_all_pages(kernel, config, free)
    _set_up_zones(kernel, config)
    _map_kernel(kernel, config)
    info.swapper_pg_dir_pa = kernel.pgtable.root(kernel.init_mm)
    _create_caches(kernel, places)
    kernel.attach_objects()
    if config.kmemleak:
        kernel.kmemleak.enable()
    return kernel


# the phases, in their order


@dataclass(frozen=True)
class _Places:
    """Where the boot structures are: PAs. ``zones``: ``(zone, start_pfn, end_pfn)`` of each."""

    memblock_pa: int
    memmap_pa: int
    zones_pa: int
    init_mm_pa: int
    boot_cache_pa: int
    pageblock_pa: int
    zones: list[tuple[ZoneType, int, int]]


def _setup_bootmem(
    ram: Ram, config: Config, layout: VaLayout, taken: list[tuple[int, int]], high: int
) -> Memblock:
    """The memory map, at the top of RAM: what there is, and what is taken from the start."""
    memblock_pa = _highest_hole(ram, taken, MEMBLOCK_SIZE, high)
    memblock = Memblock.create(ram, memblock_pa, layout.page_offset)
    memblock.memblock_add(ram.base, ram.size)
    memblock.memblock_reserve(memblock_pa, MEMBLOCK_SIZE)
    for start, end in taken:
        memblock.memblock_reserve(start, end - start)
    if config.firmware_size:
        memblock.memblock_mark_nomap(ram.base, config.firmware_size)
    return memblock


def _alloc_boot_structures(
    ram: Ram, config: Config, memblock: Memblock, slab_type: type[SlabAllocator], high: int
) -> _Places:
    """Room for the memmap, and, cleared, for the zones, init_mm, the first kmem_cache and the
    types of the pageblocks."""
    pages = ram.size >> PAGE_SHIFT
    memmap_size = -(-pages * PAGE_STRUCT_SIZE // PAGE_SIZE) * PAGE_SIZE
    align = MEMMAP_ALIGN if memmap_size >= MEMMAP_ALIGN else PAGE_SIZE
    memmap_pa = memblock.memblock_alloc(memmap_size, align, high)
    if ram.read64(ram.base + KERNEL_IMAGE_OFFSET) == VMCOREINFO_MAGIC:  # booted before
        ram.fill(memmap_pa, memmap_size)
    zones = zone_ranges(config.zones, ram.base >> PAGE_SHIFT, ram.end >> PAGE_SHIFT)
    start_block = ram.base >> PAGE_SHIFT >> PAGEBLOCK_ORDER
    blocks = ((ram.end - 1) >> PAGE_SHIFT >> PAGEBLOCK_ORDER) - start_block + 1
    zones_size = len(zones) * Zone.SIZE
    size = zones_size + MmStruct.SIZE + slab_type.cache_struct_size + blocks
    size = -(-size // PAGE_SIZE) * PAGE_SIZE
    zones_pa = memblock.memblock_alloc(size, limit=high)
    ram.fill(zones_pa, size)
    init_mm_pa = zones_pa + zones_size
    boot_cache_pa = init_mm_pa + MmStruct.SIZE
    pageblock_pa = boot_cache_pa + slab_type.cache_struct_size
    return _Places(memblock.pa, memmap_pa, zones_pa, init_mm_pa, boot_cache_pa, pageblock_pa, zones)


def _write_vmcoreinfo(
    space: Space, config: Config, memblock: Memblock, places: _Places
) -> Vmcoreinfo:
    """All of vmcoreinfo but its magic number."""
    ram, layout = space.ram, space.layout
    info_pa = ram.base + KERNEL_IMAGE_OFFSET
    ram.fill(info_pa, PAGE_SIZE)
    info = Vmcoreinfo(ram, info_pa)
    info.version = VMCOREINFO_VERSION
    info.ram_base, info.ram_size = ram.base, ram.size
    info.satp_mode = config.paging.satp_mode
    info.page_offset, info.vmemmap = layout.page_offset, layout.vmemmap_start
    info.vmalloc_start, info.vmalloc_end = layout.vmalloc_start, layout.vmalloc_end
    info.start_pfn, info.memmap_pa = space.start_pfn, places.memmap_pa
    info.nr_zones, info.zones_pa = len(places.zones), places.zones_pa
    info.zones = space.va(places.zones_pa)
    info.pageblock_flags, info.pageblock_pa = space.va(places.pageblock_pa), places.pageblock_pa
    info.memblock, info.memblock_pa = space.va(places.memblock_pa), places.memblock_pa
    info.init_mm = space.va(places.init_mm_pa)
    info.asid_next = 1
    lists = Lists(space)
    for name in ("slab_caches", "mmlist", "vmap_area_list", "purge_vmap_area_list"):
        lists.init(space.va(info_pa) + Vmcoreinfo.offset_of(name))
    _init_page_alloc_info(info.page_alloc, space, memblock, config)
    _init_slab_root(info.slab_root, config)
    return info


def _whole_free_pages(memblock: Memblock) -> list[tuple[int, int]]:
    """What memblock has not reserved: frames ``[start, end)`` (PFN)."""
    ranges = [(-(-r.base // PAGE_SIZE), r.end >> PAGE_SHIFT) for r in memblock.free_ranges()]
    return [(start, end) for start, end in ranges if start < end]


def _write_zones(
    space: Space, info: Vmcoreinfo, places: _Places, free: list[tuple[int, int]]
) -> None:
    """Each zone's range and sizes (free_area_init)."""
    for i, (kind, start, end) in enumerate(places.zones):
        zone = Zone(space.ram, places.zones_pa + i * Zone.SIZE)
        zone.zone_idx, zone.name = kind, ZONE_NAMES[kind]
        zone.zone_start_pfn = start
        zone.spanned_pages = zone.present_pages = end - start
        zone.managed_pages = sum(max(0, min(e, end) - max(s, start)) for s, e in free)
        info.page_alloc.node_zones[kind] = space.va(zone.pa)


def _free_all_pages(kernel: Kernel, config: Config, free: list[tuple[int, int]]) -> None:
    """Give the free frames to the page allocator (memblock_free_all)."""
    kernel.page_alloc.buddy.init_lists()
    for zone in kernel.zones:
        pieces = [
            (max(s, zone.zone_start_pfn), min(e, zone.zone_end_pfn))
            for s, e in free
            if max(s, zone.zone_start_pfn) < min(e, zone.zone_end_pfn)
        ]
        whole = [p for p in pieces if _has_max_order_block(*p)]
        for piece in pieces:
            defer = not config.eager and bool(whole) and piece == whole[-1]
            kernel.page_alloc.buddy.free_boot_range(zone.zone_idx, *piece, defer=defer)


def _set_up_zones(kernel: Kernel, config: Config) -> None:
    """Watermarks, reserves and per-CPU lists, from the sizes of the zones."""
    info = kernel.vmcoreinfo
    setup_per_zone_wmarks(kernel.zones, config.min_free_kbytes)
    setup_per_zone_lowmem_reserve(kernel.zones)
    if config.min_free_kbytes is None:
        lowmem = sum(z.managed_pages for z in kernel.zones if z.type < ZoneType.HIGHMEM)
        info.page_alloc.min_free_kbytes = min_free_kbytes(lowmem)
    info.page_alloc.page_group_by_mobility_disabled = int(kernel.page_alloc.mobility_disabled)
    for zone in kernel.zones:
        setup_pageset(zone, config.pcp)
        zone.per_cpu_pageset.debug = int(config.page_owner or config.page_poison)


def _create_caches(kernel: Kernel, places: _Places) -> None:
    """The slab caches that the kernel itself needs (kmem_cache_init, vmalloc_init, fork_init)."""
    info, create = kernel.vmcoreinfo, kernel.slab.create
    kernel.slab.bootstrap(places.boot_cache_pa)
    kernel.kmalloc_caches.create_caches()
    flags = SLAB_HWCACHE_ALIGN | SLAB_ACCOUNT
    info.mm_cachep = create("mm_struct", MmStruct.SIZE, flags=flags).va
    info.vm_area_cachep = create("vm_area_struct", VmArea.SIZE, flags=SLAB_ACCOUNT).va
    info.vmap_area_cachep = create("vmap_area", VmStruct.SIZE, flags=SLAB_NO_MERGE).va


def _check_config(ram: Ram, config: Config) -> list[tuple[int, int]]:
    """The PA ranges that are taken from the start. Raises ValueError."""
    image_pa = ram.base + KERNEL_IMAGE_OFFSET
    if not 0 <= config.firmware_size <= KERNEL_IMAGE_OFFSET or config.firmware_size % PAGE_SIZE:
        raise ValueError(f"firmware of {config.firmware_size:#x} bytes: whole pages up to 2 MiB")
    taken = [(image_pa, image_pa + PAGE_SIZE)]
    if config.firmware_size:
        taken.append((ram.base, ram.base + config.firmware_size))
    for s in config.image:
        if s.pa % PAGE_SIZE or s.size <= 0 or not ram.contains(s.pa, s.end - s.pa):
            raise ValueError(f"image segment at {s.pa:#x}: not whole pages of RAM")
        if s.va - KERNEL_LINK_ADDR != s.pa - image_pa or s.va + s.size > KERNEL_END:
            raise ValueError(
                f"image segment at PA {s.pa:#x} must be linked at "
                f"{KERNEL_LINK_ADDR + s.pa - image_pa:#x}, not {s.va:#x}"
            )
        if s.prot not in IMAGE_PROT:
            raise ValueError(f"image segment at {s.pa:#x}: prot {s.prot!r} is not r, rx or rw")
        taken.append((s.pa, s.end))
    for (_, end), (start, _) in zip(sorted(taken), sorted(taken)[1:], strict=False):
        if start < end:
            raise ValueError(
                f"the image overlaps itself, firmware or vmcoreinfo at {start:#x}: "
                f"segments start at {image_pa + PAGE_SIZE:#x} or above"
            )
    for pa, size in config.reserved:
        if size <= 0 or not ram.contains(pa, size):
            raise ValueError(f"reserved range of {size:#x} bytes at {pa:#x} is not RAM")
        taken.append((pa // PAGE_SIZE * PAGE_SIZE, -(-(pa + size) // PAGE_SIZE) * PAGE_SIZE))
    return sorted(taken)


def _high_memory(ram: Ram, config: Config) -> int:
    """The PA where the direct map ends. Raises ValueError where a zone of frames that need an
    address reaches above it, and for too little memory below."""
    start, end = ram.base >> PAGE_SHIFT, ram.end >> PAGE_SHIFT
    high = config.direct_map_end
    if high is None:
        high = highmem_start(config.zones, start, end) << PAGE_SHIFT
    for zone, low, limit in zone_ranges(config.zones, start, end):
        if zone < ZoneType.HIGHMEM and low < limit << PAGE_SHIFT and limit << PAGE_SHIFT > high:
            raise ValueError(f"zone {zone.name} reaches above the direct map's end {high:#x}")
    if high % PAGE_SIZE or not ram.base + MIN_RAM_SIZE <= high <= ram.end:
        raise ValueError(f"the direct map cannot end at {high:#x}: it needs 8 MiB of RAM")
    return high


def _init_page_alloc_info(
    info: PageAllocInfo, space: Space, memblock: Memblock, config: Config
) -> None:
    """What the page allocator has in RAM beside the zones, as far as it is configured."""
    ram, high = space.ram, space.high_memory
    frames = ram.size >> PAGE_SHIFT
    info.high_memory = high
    info.current_comm = "swapper"
    info.min_free_kbytes = config.min_free_kbytes or 0

    def reserve(size: int) -> int:
        size = -(-size // PAGE_SIZE) * PAGE_SIZE
        pa = memblock.memblock_alloc(size, limit=high)
        ram.fill(pa, size)
        return pa

    if config.page_owner:
        info.page_owner_pa = reserve(frames * PageOwnerRecord.SIZE)
        info.page_owner = space.va(info.page_owner_pa)
        info.stack_depot_pa = reserve(NR_STACK_RECORDS * StackRecord.SIZE)
        info.stack_depot = space.va(info.stack_depot_pa)
    if config.page_poison:
        info.page_poison_pa = reserve(frames)
        info.page_poison = space.va(info.page_poison_pa)
    if high < ram.end:
        info.pkmap_pa = reserve(Pkmap.SIZE)
        info.pkmap = space.va(info.pkmap_pa)


def _highest_hole(ram: Ram, taken: Iterable[tuple[int, int]], size: int, top: int) -> int:
    """The highest PA below ``top`` with ``size`` bytes that are not taken. Raises ValueError."""
    for start, end in sorted(taken, key=lambda r: -r[1]):
        if top - end >= size:
            break
        top = min(top, start)
    if top - size < ram.base:
        raise ValueError("the reserved ranges leave no room for the kernel")
    return top - size


def _slab_type(config: Config) -> type[SlabAllocator]:
    """The allocator that ``config.slab`` names. Raises ValueError for a bad slab option."""
    if config.slab not in SLAB_KINDS:
        raise ValueError(f"slab allocator {config.slab!r}: one of {', '.join(SLAB_KINDS)}")
    if config.slub_debug is not None:
        parse_slub_debug(config.slub_debug)
        if len(config.slub_debug) > 63 or not config.slub_debug.isascii():
            raise ValueError("slub_debug: at most 63 ASCII characters")
    return SLAB_ALLOCATORS[SLAB_KINDS.index(config.slab)]


def _init_slab_root(root: SlabRoot, config: Config) -> None:
    root.kind = SLAB_KINDS.index(config.slab)
    root.options = (OPTION_NOMERGE if config.slab_nomerge else 0) | (
        OPTION_HARDENED if config.slab_freelist_hardened else 0
    )
    if config.slub_debug is not None:
        root.slub_debug = config.slub_debug or "FZPU"


def _has_max_order_block(start: int, end: int) -> bool:
    first = -(-start // MAX_ORDER_NR_PAGES) * MAX_ORDER_NR_PAGES
    return first + MAX_ORDER_NR_PAGES <= end


def _init_reserved_pages(kernel: Kernel) -> None:
    """Mark the frames of every reserved region (memmap_init_reserved_pages)."""
    for zone in kernel.zones:
        for start, end in kernel.reserved_pfn_ranges():
            start, end = max(start, zone.zone_start_pfn), min(end, zone.zone_end_pfn)
            if start < end:
                pages = kernel.page_alloc.buddy.struct_pages(start, end - start)
                pages[:, W_FLAGS] = zone_flags(zone.zone_idx) | PG_RESERVED
                pages[:, W_TYPE_REF] = ALLOCATED_WORD


def _map_kernel(kernel: Kernel, config: Config) -> None:
    """Build swapper_pg_dir: direct map, vmemmap, image, roots of vmalloc and modules."""
    ram, layout, pgtable, mm = kernel.ram, kernel.layout, kernel.pgtable, kernel.init_mm
    pgtable.pgd_alloc(mm)
    pgtable.preallocate_pgd_range(layout.vmalloc_start, layout.vmalloc_end)
    pgtable.preallocate_pgd_range(MODULES_VADDR, MODULES_END)
    if kernel.space.high_memory < ram.end:
        pgtable.preallocate_pgd_range(layout.pkmap_base, layout.pkmap_base + PKMAP_SIZE)
    # Text and rodata must not be writable through their alias.
    read_only = sorted((s.pa, s.end) for s in config.image if "w" not in s.prot)
    for region in kernel.memblock.memory:
        if region.flags & MEMBLOCK_NOMAP:
            continue
        at = region.base
        region_end = min(region.end, kernel.space.high_memory)
        for start, end in [*read_only, (region_end, region_end)]:
            if start > at:
                pgtable.map_range(mm, kernel.va(at), at, start - at, PAGE_KERNEL)
            if end > start:
                pgtable.map_range(mm, kernel.va(start), start, end - start, PAGE_KERNEL_READ)
            at = max(at, end)
    info_pa = kernel.vmcoreinfo.pa
    pgtable.map_range(mm, KERNEL_LINK_ADDR, info_pa, PAGE_SIZE, PAGE_KERNEL_READ)
    for s in config.image:
        pgtable.map_range(mm, s.va, s.pa, s.end - s.pa, IMAGE_PROT[s.prot])
    memmap_pa = kernel.space.memmap_pa
    size = -(-(ram.size >> PAGE_SHIFT) * PAGE_STRUCT_SIZE // PAGE_SIZE) * PAGE_SIZE
    pgtable.map_range(mm, layout.vmemmap_start, memmap_pa, size, PAGE_KERNEL)
