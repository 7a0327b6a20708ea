"""A memory manager that is in RAM: the object through which all of it is reached.

``attach`` rebuilds it from ``struct vmcoreinfo`` (vmcoreinfo.py); ``boot`` (boot.py) writes
RAM first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from emu.ram import Ram
from emu.spec.paging import PAGE_SHIFT, PAGE_SIZE
from mm.addrspace import (
    KERNEL_IMAGE_OFFSET,
    LAYOUTS,
    PAGE_STRUCT_SIZE,
    Space,
    layout_for,
)
from mm.boot_log import boot_log
from mm.compaction import Compaction
from mm.errors import BadAddress, CorruptionError, MmError, wild_access
from mm.fault_inject import FaultInjection
from mm.hart import HartOps, NoHart
from mm.highmem import Highmem
from mm.kmalloc import Kmalloc
from mm.kmemleak import Kmemleak
from mm.layout import IntArray
from mm.lists import Lists
from mm.memblock import Memblock
from mm.page import (
    Page,
)
from mm.page_alloc import PageAllocator
from mm.pgtable import (
    MmStruct,
    PageTables,
)
from mm.slab import (
    SlabAllocator,
)
from mm.slab.core import SlabCore
from mm.slab.slab_caches import Slab
from mm.slab.slob import Slob
from mm.slab.slub_caches import Slub
from mm.uaccess import Uaccess
from mm.vma import AddressSpaces
from mm.vmalloc import Vmalloc
from mm.vmap_area import VmapAreas
from mm.vmcoreinfo import VMCOREINFO_MAGIC, VMCOREINFO_VERSION, Vmcoreinfo, trust_root, trust_zones
from mm.zone import (
    Zone,
)

# The struct pages of the memmap's own frames, after this many, are left zero like those of
# deferred free blocks: they are 1/64 of RAM. Being reserved they are known by memblock.
MEMMAP_INIT_PAGES = 1024

# The index is vmcoreinfo.slab_kind; the names are those of Config.slab.
SLAB_ALLOCATORS: tuple[type[SlabAllocator], ...] = (Slub, Slab, Slob)
SLAB_KINDS = tuple(allocator.KIND for allocator in SLAB_ALLOCATORS)
LOG_LINES = 4096  # that kernel.messages keeps


class Kernel:
    """A memory manager that is in RAM: views and operations, no state of its own.

    Raises MmError when there is none in ``ram``.
    """

    def __init__(self, ram: Ram, hart: HartOps) -> None:
        ram = ram.refusing_with(wild_access)
        info_pa = ram.base + KERNEL_IMAGE_OFFSET
        if not ram.contains(info_pa, PAGE_SIZE) or ram.read64(info_pa) != VMCOREINFO_MAGIC:
            raise MmError(f"no vmcoreinfo at {info_pa:#x}: no kernel was booted in this RAM")
        info = self.vmcoreinfo = Vmcoreinfo(ram, info_pa)
        if info.version != VMCOREINFO_VERSION:
            raise MmError(f"vmcoreinfo version {info.version}, not {VMCOREINFO_VERSION}")
        if info.ram_base != ram.base or info.ram_size != ram.size:
            raise MmError(
                f"vmcoreinfo is of RAM of {info.ram_size:#x} bytes at {info.ram_base:#x}, "
                f"this is {ram.size:#x} at {ram.base:#x}"
            )
        mode = {m.satp_mode: m for m in LAYOUTS}.get(info.satp_mode)
        if mode is None:
            raise CorruptionError("vmcoreinfo", info_pa, f"satp_mode {info.satp_mode:#x}")
        trust_root(ram, info)
        self.ram = ram
        self.hart = hart
        self.mode = mode
        self.layout = layout_for(mode, ram.size)
        self.messages: deque[str] = deque(maxlen=LOG_LINES)
        self.space = Space(ram, self.layout, info.memmap_pa, info.page_alloc.high_memory)
        self.lists = Lists(self.space)
        self.memblock = Memblock(ram, info.memblock_pa)
        self.zones = [Zone(ram, info.zones_pa + i * Zone.SIZE) for i in range(info.nr_zones)]
        trust_zones(self.space, self.zones)
        self.page_alloc = PageAllocator(
            self.space, self.lists, self.zones, info.pageblock_pa, info.page_alloc, self.printk
        )
        self.buddy = self.page_alloc  # as scripts know it
        self.init_mm = MmStruct.at(self.space, info.init_mm)
        va = self.space.va(info_pa)
        mmlist = va + Vmcoreinfo.offset_of("mmlist")
        self.pgtable = PageTables(
            self.space, self.lists, self.page_alloc, hart, self.init_mm, mmlist
        )
        root = info.slab_root
        if root.kind >= len(SLAB_ALLOCATORS):
            raise CorruptionError("vmcoreinfo", info_pa, f"no slab allocator {root.kind}")
        core = SlabCore(self.space, self.lists, self.page_alloc, root, info.page_alloc, self.printk)
        slab_caches = va + Vmcoreinfo.offset_of("slab_caches")
        self.slab: SlabAllocator = SLAB_ALLOCATORS[root.kind](core, slab_caches)
        self.kmalloc_caches = Kmalloc(
            self.space, self.page_alloc, self.slab, info.kmalloc_caches, root.kmalloc_dma_caches
        )
        self.uaccess = Uaccess(self.pgtable)
        self.highmem = Highmem(self.space, self.pgtable, self.init_mm, info.page_alloc)
        if info.mm_cachep:
            self.attach_objects()

    def attach_objects(self) -> None:
        """Build the parts that stand on slab caches; once, as soon as the caches are there."""
        info = self.vmcoreinfo
        va = self.space.va(info.pa)
        self.kmalloc_caches.load()
        vmap_areas = VmapAreas(
            self.pgtable,
            self.slab.cache_at(info.vmap_area_cachep),
            va + Vmcoreinfo.offset_of("vmap_area_list"),
            va + Vmcoreinfo.offset_of("purge_vmap_area_list"),
            IntArray(self.ram, info.pa + Vmcoreinfo.offset_of("vmap_lazy_nr"), 1),
        )
        self.vmalloc_areas = Vmalloc(vmap_areas, self.page_alloc, self.kmalloc_caches)
        self.register_shrinker(self.vmalloc_areas.shrink)
        self.fault_injection = FaultInjection(
            info.fault_injection, self.page_alloc, self.slab, self.printk
        )
        self.address_spaces = AddressSpaces(
            self.page_alloc,
            self.pgtable,
            self.slab.cache_at(info.mm_cachep),
            self.slab.cache_at(info.vm_area_cachep),
            va + Vmcoreinfo.offset_of("mmlist"),
            IntArray(self.ram, info.pa + Vmcoreinfo.offset_of("asid_next"), 1),
        )
        self.compaction = Compaction(
            self.page_alloc, self.pgtable, self.address_spaces, self.hart, self.highmem
        )
        self.page_alloc.compactor = self.compaction.compact_zone
        self.kmemleak = Kmemleak(self)
        self._name_as_linux_does()

    def _name_as_linux_does(self) -> None:
        """Linux's functions of memory management are flat names: so are the kernel's."""
        self.alloc_pages = self.page_alloc.alloc_pages
        self.get_free_pages = self.page_alloc.get_free_pages
        self.get_zeroed_page = self.page_alloc.get_zeroed_page
        self.alloc_pages_exact = self.page_alloc.alloc_pages_exact
        self.free_pages_exact = self.page_alloc.free_pages_exact
        self.split_page = self.page_alloc.split_page
        self.page_address = self.highmem.page_address
        self.kmap = self.highmem.kmap
        self.kunmap = self.highmem.kunmap
        self.alloc_page = self.page_alloc.alloc_page
        self.alloc_pages_bulk = self.page_alloc.alloc_pages_bulk
        self.free_pages = self.page_alloc.free_pages
        self.free_page = self.page_alloc.free_page
        self.kmalloc = self.kmalloc_caches.kmalloc
        self.kzalloc = self.kmalloc_caches.kzalloc
        self.kfree = self.kmalloc_caches.kfree
        self.kmalloc_array = self.kmalloc_caches.kmalloc_array
        self.kcalloc = self.kmalloc_caches.kcalloc
        self.krealloc = self.kmalloc_caches.krealloc
        self.ksize = self.kmalloc_caches.ksize
        self.kmem_cache_create = self.slab.create
        self.vmalloc = self.vmalloc_areas.vmalloc
        self.vzalloc = self.vmalloc_areas.vzalloc
        self.vmalloc_range = self.vmalloc_areas.vmalloc_range
        self.module_alloc = self.vmalloc_areas.module_alloc
        self.vmalloc_huge = self.vmalloc_areas.vmalloc_huge
        self.vfree = self.vmalloc_areas.vfree
        self.vmap = self.vmalloc_areas.vmap
        self.vunmap = self.vmalloc_areas.vunmap
        self.vm_unmap_aliases = self.vmalloc_areas.vm_unmap_aliases
        self.set_memory = self.vmalloc_areas.set_memory
        self.find_vm_area = self.vmalloc_areas.find_vm_area
        self.mm_alloc = self.address_spaces.mm_alloc
        self.mmdrop = self.address_spaces.mmdrop
        self.exit_mmap = self.address_spaces.exit_mmap
        self.mmap_region = self.address_spaces.mmap_region
        self.munmap = self.address_spaces.munmap
        self.mprotect = self.address_spaces.mprotect
        self.find_vma = self.address_spaces.find_vma
        self.copy_from_user = self.uaccess.copy_from_user
        self.copy_to_user = self.uaccess.copy_to_user
        self.strncpy_from_user = self.uaccess.strncpy_from_user

    # messages, reclaim, the current task

    def printk(self, line: str) -> None:
        """Append one line to ``messages``, of which the last LOG_LINES are kept."""
        self.messages.append(line)

    def register_shrinker(self, shrinker: Callable[[], int]) -> None:
        """Have ``shrinker`` called when memory is short; it returns the pages it freed."""
        self.page_alloc.reclaim.register_shrinker(shrinker)

    def set_current(self, pid: int, comm: str) -> None:
        """Say for which task the kernel works: reports and page_owner name it."""
        task = self.vmcoreinfo.page_alloc
        task.current_pid = task.current_tgid = pid
        task.current_comm = comm

    # conversions

    def va(self, pa: int) -> int:
        """``__va``: the direct map's VA. Raises BadAddress."""
        return self.space.va(pa)

    def pa(self, va: int) -> int:
        """``__pa`` of the direct map, vmemmap or the image. Raises BadAddress."""
        return self.space.pa(va)

    def page(self, pfn: int) -> Page:
        """``pfn_to_page``, as a view. Raises BadAddress if ``pfn`` is no frame of RAM."""
        if not self.space.pfn_valid(pfn):
            raise BadAddress(pfn << PAGE_SHIFT, "not a physical address of RAM")
        return Page(self.ram, self.space.page_pa(pfn))

    def satp(self, mm: MmStruct | None = None) -> int:
        """The satp that selects ``mm``, or the kernel's own tables."""
        return self.pgtable.satp(mm or self.init_mm)

    def page_is_reserved(self, pfn: int) -> bool:
        """Whether a frame is reserved: PG_reserved, or in a reserved region of memblock."""
        return self.memblock.is_reserved(pfn << PAGE_SHIFT)

    def memmap_implicit(self) -> tuple[int, int]:
        """The frames ``[start, end)`` (PFN) of the memmap whose struct page stays zero."""
        start = self.space.memmap_pa >> PAGE_SHIFT
        pages = self.ram.size >> PAGE_SHIFT
        end = start + -(-pages * PAGE_STRUCT_SIZE // PAGE_SIZE)
        return min(start + MEMMAP_INIT_PAGES, end), end

    def reserved_pfn_ranges(self) -> list[tuple[int, int]]:
        """The frames ``[start, end)`` that carry PG_reserved: all that memblock has reserved
        but those of memmap_implicit()."""
        low, high = self.memmap_implicit()
        ranges = []
        for region in self.memblock.reserved:
            start, end = region.base >> PAGE_SHIFT, -(-region.end // PAGE_SIZE)
            ranges += [(start, min(end, low)), (max(start, high), end)]
        return [(start, end) for start, end in ranges if start < end]

    # what Linux prints

    @property
    def log(self) -> list[str]:
        """The boot messages, in dmesg's style; made from what is in RAM."""
        return list(boot_log(self.space, self.memblock, self.zones, self.slab.KIND))


def attach(ram: Ram, hart: HartOps | None = None) -> Kernel:
    """The kernel that is in ``ram`` already. Raises MmError if there is none."""
    kernel = Kernel(ram, hart or NoHart())
    if not kernel.vmcoreinfo.mm_cachep:
        raise CorruptionError("vmcoreinfo", kernel.vmcoreinfo.pa, "mm_cachep is NULL")
    return kernel
