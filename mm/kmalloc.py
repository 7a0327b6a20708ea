"""kmalloc: memory of any size, from the size class that fits, or from whole pages.

| size | from |
|---|---|
| 0 | ZERO_SIZE_PTR: an address that may be freed but not touched |
| 1 to 8192 | the caches kmalloc-8, 16, 32, 64, 96, 128, 192, 256, 512, 1k, 2k, 4k, 8k |
| to 4 MiB | a compound page of the least order that holds it |
| above | never |

Powers of two are aligned to their size. The 13 pointers to the caches lie in vmcoreinfo.
Source: Linux mm/slab_common.c.
"""

from __future__ import annotations

from emu.ram import PAGE_SIZE, Ram
from mm.addrspace import Space
from mm.buddy import Buddy
from mm.errors import BadFree, GfpError
from mm.gfp import GFP_COMP, GFP_HIGHMEM, GFP_KERNEL, GFP_ZERO
from mm.layout import IntArray
from mm.page import ALLOCATED_WORD, PG_HEAD, W_OWNER, W_TYPE_REF
from mm.slab import KMALLOC_MAX_CACHE_SIZE, KMALLOC_MAX_SIZE
from mm.slab.slub import Slub, SlubCache, get_order

ZERO_SIZE_PTR = 16
KMALLOC_SIZES = (8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192)
NR_KMALLOC_CACHES = len(KMALLOC_SIZES)


def kmalloc_index(size: int) -> int:
    """The index in KMALLOC_SIZES of the smallest class that holds ``size`` bytes (1..8192)."""
    for i, limit in enumerate(KMALLOC_SIZES):
        if size <= limit:
            return i
    raise ValueError(f"{size} bytes are no size class of kmalloc")


def kmalloc_name(size: int) -> str:
    """The name of a size class: kmalloc-96, kmalloc-2k."""
    return f"kmalloc-{size >> 10}k" if size >= 1024 else f"kmalloc-{size}"


class Kmalloc:
    """kmalloc over the caches that ``caches`` (13 VAs in RAM) points to."""

    def __init__(self, space: Space, buddy: Buddy, slub: Slub, caches: IntArray) -> None:
        self.space = space
        self.ram: Ram = space.ram
        self.buddy = buddy
        self.slub = slub
        self._pointers = caches
        self._caches: list[SlubCache] = []  # derived
        self._class_of: list[int] = []  # by (size - 1) // 8

    def create_caches(self) -> None:
        """create_kmalloc_caches. Raises OutOfMemory."""
        for i, size in enumerate(KMALLOC_SIZES):
            align = size if size & (size - 1) == 0 else 0
            self._pointers[i] = self.slub.create(
                kmalloc_name(size), size, align=min(align, PAGE_SIZE)
            ).va
        self.load()

    def load(self) -> None:
        """Derive the index from the pointers in RAM. Raises SlabError."""
        self._caches = [self.slub.cache_at(self._pointers[i]) for i in range(NR_KMALLOC_CACHES)]
        self._class_of = [kmalloc_index(size) for size in range(8, KMALLOC_MAX_CACHE_SIZE + 1, 8)]

    def cache_for(self, size: int) -> SlubCache:
        """The cache that kmalloc of ``size`` bytes (1..8192) uses."""
        return self._caches[self._class_of[(size - 1) >> 3]]

    def kmalloc(self, size: int, gfp: int = GFP_KERNEL) -> int | None:
        """At least ``size`` bytes: their VA, None if there is no memory or above 4 MiB.

        Raises ValueError for a negative size, GfpError.
        """
        if size <= 0:
            if size < 0:
                raise ValueError(f"kmalloc of {size} bytes")
            return ZERO_SIZE_PTR
        if size <= KMALLOC_MAX_CACHE_SIZE:
            return self._caches[self._class_of[(size - 1) >> 3]].alloc(gfp)
        if gfp & GFP_HIGHMEM:
            raise GfpError(f"gfp {gfp:#x}: __GFP_HIGHMEM makes no sense for kmalloc")
        if size > KMALLOC_MAX_SIZE:
            return None
        pfn = self.buddy.alloc_pages(gfp | GFP_COMP, get_order(size))
        return None if pfn is None else self.space.pfn_to_virt(pfn)

    def kzalloc(self, size: int, gfp: int = GFP_KERNEL) -> int | None:
        """kmalloc of zeroed memory."""
        return self.kmalloc(size, gfp | GFP_ZERO)

    def _large(self, va: int) -> tuple[int, int]:
        """``(pfn, order)`` of a large allocation that starts at ``va``. Raises BadFree."""
        if not self.space.page_offset <= va < self.space.direct_end:
            raise BadFree(va, "not an address of the direct map")
        pfn = self.space.virt_to_pfn(va)
        i = self.space.page_index(pfn)
        u64 = self.ram.u64
        if va % PAGE_SIZE or not u64[i] & PG_HEAD or u64[i + W_TYPE_REF] != ALLOCATED_WORD:
            raise BadFree(va, "not memory of kmalloc (foreign, or freed already)")
        return pfn, u64[i + W_OWNER] & 0xFFFF

    def kfree(self, va: int) -> None:
        """Free what kmalloc gave; 0 and ZERO_SIZE_PTR are fine. Raises BadFree."""
        if va in (0, ZERO_SIZE_PTR):
            return
        cache = self.slub.cache_of(va)
        if cache is not None:
            cache.free(va)
        else:
            self.buddy.free_pages(*self._large(va))

    def ksize(self, va: int) -> int:
        """The bytes that may be used of an allocation. Raises BadFree for none of kmalloc's."""
        if va in (0, ZERO_SIZE_PTR):
            return 0
        cache = self.slub.cache_of(va)
        if cache is not None:
            cache.check_object(va)
            return cache.object_size
        return PAGE_SIZE << self._large(va)[1]
