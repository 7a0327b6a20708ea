"""kmalloc: memory of any size, from the size class that fits, or from whole pages.

| size | from |
|---|---|
| 0 | ZERO_SIZE_PTR: an address that may be freed but not touched |
| 1 to 8192 | the caches kmalloc-8, 16, 32, 64, 96, 128, 192, 256, 512, 1k, 2k, 4k, 8k |
| to 4 MiB | a compound page of the least order that holds it |
| above | never |

Objects are aligned to the largest power of two that divides the size of their class, with
slub_debug too: powers of two to their size, kmalloc-96 to 32, kmalloc-192 to 64. The 13
pointers to the caches lie in vmcoreinfo, and 13 more to those of DMA memory (dma-kmalloc-8
...) on a machine with a DMA zone, which GFP_DMA selects; without one it means nothing here.
SLOB has no caches for kmalloc: there the pointers are NULL, and each object carries its size
in front of it (see slob.py). Source: Linux mm/slab_common.c.
"""

from __future__ import annotations

from collections.abc import Callable

from emu.ram import PAGE_SHIFT, PAGE_SIZE, Ram
from mm.addrspace import Space
from mm.errors import BadFree, CorruptionError, GfpError
from mm.gfp import GFP_COMP, GFP_DMA, GFP_KERNEL, GFP_ZERO, ZoneType, format_gfp
from mm.layout import IntArray
from mm.page import ALLOCATED_WORD, PG_HEAD, W_OWNER, W_TYPE_REF
from mm.page_alloc import PageAllocator
from mm.slab import (
    KMALLOC_MAX_CACHE_SIZE,
    KMALLOC_MAX_SIZE,
    SLAB_CACHE_DMA,
    KmemCache,
    SlabAllocator,
)
from mm.slab.flags import GFP_SLAB_BUG_MASK, GFP_SLAB_UNUSUAL, SLAB_KMALLOC
from mm.slab.options import get_order
from mm.slab.slob import Slob
from mm.slab.structs import W_SLAB_CACHE

ZERO_SIZE_PTR = 16
KMALLOC_SIZES = (8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192)
NR_KMALLOC_CACHES = len(KMALLOC_SIZES)
NR_KMALLOC_TYPES = 2  # normal, DMA
SIZE_MAX = (1 << 64) - 1
_UNUSUAL = GFP_DMA | GFP_SLAB_UNUSUAL


def kmalloc_index(size: int) -> int:
    """The index in KMALLOC_SIZES of the smallest class that holds ``size`` bytes (1..8192)."""
    for i, limit in enumerate(KMALLOC_SIZES):
        if size <= limit:
            return i
    raise ValueError(f"{size} bytes are no size class of kmalloc")


_CLASS_OF = [kmalloc_index(size) for size in range(8, KMALLOC_MAX_CACHE_SIZE + 1, 8)]


def kmalloc_align(size: int) -> int:
    """The alignment of the objects of a size class: the largest power of two that divides it."""
    return size & -size


def kmalloc_name(size: int) -> str:
    """The name of a size class: kmalloc-96, kmalloc-2k."""
    return f"kmalloc-{size >> 10}k" if size >= 1024 else f"kmalloc-{size}"


class Kmalloc:
    """kmalloc over the caches that ``caches`` (13 VAs in RAM) and ``dma_caches`` point to."""

    def __init__(
        self,
        space: Space,
        page_alloc: PageAllocator,
        slab: SlabAllocator,
        caches: IntArray,
        dma_caches: IntArray,
    ) -> None:
        self.space = space
        self.ram: Ram = space.ram
        self.page_alloc = page_alloc
        self.slab = slab
        self._slob = slab if isinstance(slab, Slob) else None
        self._pointers = caches
        self._dma_pointers = dma_caches
        self._caches: list[KmemCache] = []  # derived
        self._dma_caches: list[KmemCache] = []
        self._class_of = _CLASS_OF
        self._by_va = slab.by_va
        self._u64 = space.ram.u64
        # The word that names the cache of the slab at page 0 of the address space, so to speak.
        pages = space.page_offset >> PAGE_SHIFT
        self._cache_word = space.memmap_index - (pages << 3) + W_SLAB_CACHE
        # The cache for each size, by (size - 1) >> 3, and how far that goes.
        self._cache_of_size: list[KmemCache] = []
        self._from_cpu: list[Callable[[], int]] = []  # alloc_from_cpu of each
        self._small_max = 0

    def create_caches(self) -> None:
        """create_kmalloc_caches. Raises OutOfMemory."""
        if self._slob is None:
            types = [(self._pointers, "", SLAB_KMALLOC)]
            if any(z.zone_idx == ZoneType.DMA and z.managed_pages for z in self.page_alloc.zones):
                types.append((self._dma_pointers, "dma-", SLAB_KMALLOC | SLAB_CACHE_DMA))
            for pointers, prefix, flags in types:
                for i, size in enumerate(KMALLOC_SIZES):
                    cache = self.slab.create(
                        prefix + kmalloc_name(size), size, kmalloc_align(size), flags
                    )
                    pointers[i] = cache.va
        self.load()

    def load(self) -> None:
        """Derive the index from the pointers in RAM. Raises SlabError."""
        for pointers, caches in (
            (self._pointers, self._caches),
            (self._dma_pointers, self._dma_caches),
        ):
            found = [pointers[i] for i in range(NR_KMALLOC_CACHES)]
            if any(found) and (self._slob is not None or not all(found)):
                i = (
                    found.index(0)
                    if self._slob is None
                    else next(i for i, p in enumerate(found) if p)
                )
                raise CorruptionError(
                    "vmcoreinfo", i, f"kmalloc_caches[{i}] is {found[i]:#x}, the others are not so"
                )
            caches[:] = [self.slab.cache_at(va) for va in found if va]
        if self._caches:
            self._cache_of_size = [self._caches[i] for i in self._class_of]
            self._from_cpu = [cache.alloc_from_cpu for cache in self._cache_of_size]
            self._small_max = KMALLOC_MAX_CACHE_SIZE

    def cache_for(self, size: int, gfp: int = GFP_KERNEL) -> KmemCache:
        """The cache that kmalloc of ``size`` bytes (1..8192) uses. IndexError under SLOB."""
        if gfp & GFP_DMA and self._dma_caches:
            return self._dma_caches[self._class_of[(size - 1) >> 3]]
        return self._cache_of_size[(size - 1) >> 3]

    def kmalloc(self, size: int, gfp: int = GFP_KERNEL) -> int | None:
        """At least ``size`` bytes: their VA, None if there is no memory or above 4 MiB.

        Raises ValueError for a negative size, GfpError.
        """
        if 0 < size <= self._small_max:
            if gfp & _UNUSUAL:
                return self.cache_for(size, gfp).alloc(gfp, size)
            i = (size - 1) >> 3
            return self._from_cpu[i]() or self._cache_of_size[i].alloc(gfp, size)
        if size <= 0:
            if size < 0:
                raise ValueError(f"kmalloc of {size} bytes")
            return ZERO_SIZE_PTR
        if gfp & GFP_SLAB_BUG_MASK:
            names = format_gfp(gfp & GFP_SLAB_BUG_MASK)
            raise GfpError(f"gfp {gfp:#x}: {names} makes no sense for kmalloc")
        slab = self.slab
        if self._slob is not None and self._slob.is_small(size):
            if slab.failslab and slab.failslab("", 0, gfp, size):
                return None
            va = self._slob.kmalloc(size, gfp)
        else:
            va = self._kmalloc_large(size, gfp)
        if va is not None and slab.kmemleak:
            slab.kmemleak.alloc(va, size)
        return va

    def _kmalloc_large(self, size: int, gfp: int) -> int | None:
        if size > KMALLOC_MAX_SIZE:
            return None
        order = get_order(size)
        pfn = self.page_alloc.alloc_pages(gfp | GFP_COMP if order else gfp & ~GFP_COMP, order)
        return None if pfn is None else self.space.pfn_to_virt(pfn)

    def kzalloc(self, size: int, gfp: int = GFP_KERNEL) -> int | None:
        """kmalloc of zeroed memory."""
        return self.kmalloc(size, gfp | GFP_ZERO)

    def kmalloc_array(self, n: int, size: int, gfp: int = GFP_KERNEL) -> int | None:
        """kmalloc of ``n * size`` bytes; None if that overflows a size_t."""
        if n < 0 or size < 0:
            raise ValueError(f"kmalloc_array of {n} times {size} bytes")
        if n * size > SIZE_MAX:
            return None
        return self.kmalloc(n * size, gfp)

    def kcalloc(self, n: int, size: int, gfp: int = GFP_KERNEL) -> int | None:
        """kmalloc_array of zeroed memory."""
        return self.kmalloc_array(n, size, gfp | GFP_ZERO)

    def krealloc(self, va: int | None, size: int, gfp: int = GFP_KERNEL) -> int | None:
        """An allocation of ``size`` bytes with the contents of the one at ``va``, which is
        gone unless it is the same; None without memory: then ``va`` is as it was.

        With __GFP_ZERO all that was not asked for before is zero, if every call for this
        allocation had the flag: where the old size is not recorded (it is with slub_debug=U)
        all of the object counts as asked for, but for what krealloc itself gave up.

        0 as ``va`` is kmalloc, 0 as ``size`` is kfree. Raises BadFree, GfpError, ValueError.
        """
        if size < 0:
            raise ValueError(f"krealloc to {size} bytes")
        if size == 0:
            self.kfree(va)
            return ZERO_SIZE_PTR
        if not va or va == ZERO_SIZE_PTR:
            return self.kmalloc(size, gfp)
        old, asked = self._sizes_of(va)
        if old >= size:
            self._krealloc_in_place(va, old, asked, size, gfp)
            return va
        new = self.kmalloc(size, gfp)
        if new is not None:
            self.ram.write(self.space.pa(new), self.ram.read(self.space.pa(va), asked))
            self.kfree(va)
        return new

    def _sizes_of(self, va: int) -> tuple[int, int]:
        """(bytes that fit, bytes that were asked for) of a live allocation: they are the same
        where the latter are not recorded. Raises BadFree."""
        cache = self.slab.cache_of(va)
        if cache is None:
            size = self.ksize(va)
            return size, size
        cache.check_object(va)
        return cache.object_size, cache.orig_size(va)

    def _krealloc_in_place(self, va: int, old: int, asked: int, size: int, gfp: int) -> None:
        """An object that holds ``old`` bytes is of ``size`` bytes from now on (__do_krealloc)."""
        if gfp & GFP_ZERO:
            start, end = (asked, size) if asked < size else (size, old)
            self.ram.fill(self.space.pa(va) + start, end - start)
        cache = self.slab.cache_of(va)
        if cache is not None:
            cache.set_orig_size(va, size)

    def _large(self, va: int) -> tuple[int, int]:
        """``(pfn, order)`` of a large allocation that starts at ``va``. Raises BadFree."""
        if not self.space.page_offset <= va < self.space.direct_end:
            raise BadFree(va, "not an address of the direct map")
        pfn = self.space.virt_to_pfn(va)
        i = self.space.page_index(pfn)
        u64 = self.ram.u64
        large = u64[i] & PG_HEAD or self._slob is not None  # SLOB: also single frames
        if va % PAGE_SIZE or not large or u64[i + W_TYPE_REF] != ALLOCATED_WORD:
            raise BadFree(va, "not memory of kmalloc (foreign, or freed already)")
        return pfn, u64[i + W_OWNER] & 0xFFFF

    def kfree(self, va: int | None) -> None:
        """Free what kmalloc gave; NULL (0, None) and ZERO_SIZE_PTR are fine. Raises BadFree."""
        if not va:
            return
        # The fast path: into the cpu slab of the cache that the struct page names, if that is
        # where the object is. Whatever else may be read here, free_to_cpu goes by the address.
        try:
            cache = self._by_va.get(self._u64[(va >> PAGE_SHIFT << 3) + self._cache_word])
            if cache is not None and cache.free_to_cpu(va):
                return
        except IndexError:
            pass  # no address of RAM
        if va == ZERO_SIZE_PTR or self.slab.kfree(va):
            return
        self.page_alloc.free_pages(*self._large(va))
        if self.slab.kmemleak:
            self.slab.kmemleak.free(va)

    def ksize(self, va: int | None) -> int:
        """The bytes that may be used of an allocation. Raises BadFree for none of kmalloc's."""
        if not va or va == ZERO_SIZE_PTR:
            return 0
        cache = self.slab.cache_of(va)
        if cache is not None:
            cache.check_object(va)
            return cache.usable_size(va)
        if self._slob is not None and self._slob.slab_pfn(va) is not None:
            return self._slob.ksize(va)
        return PAGE_SIZE << self._large(va)[1]
