"""All SLAB caches of a kernel: how large a new cache's slabs are, and where their index arrays lie.

Source: Linux 6.1 mm/slab.c (__kmem_cache_create, calculate_slab_order, enable_cpucache).
"""

from __future__ import annotations

from emu.ram import PAGE_SHIFT, PAGE_SIZE
from mm.errors import SlabError
from mm.slab.allocator import SlabAllocator
from mm.slab.cache import KmemCache
from mm.slab.core import SlabCore
from mm.slab.flags import (
    CACHE_LINE,
    KMALLOC_MAX_CACHE_SIZE,
    OBJECT_POISON,
    SLAB_POISON,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
)
from mm.slab.options import calculate_alignment, get_order
from mm.slab.slab import ARRAY_LIMIT_MAX, SLAB_OBJ_MAX_NUM, SlabCache
from mm.slab.structs import (
    FREELIST_IN_OBJECT,
    FREELIST_OFF_SLAB,
    FREELIST_ON_SLAB,
    ArrayCache,
    KmemCacheStruct,
)
from mm.zone import MAX_PAGE_ORDER

SLAB_OBJ_MIN_SIZE = 16
SLAB_MAX_ORDER_LO, SLAB_MAX_ORDER_HI = 0, 1


def array_cache_limit(size: int) -> int:
    """How many objects of ``size`` bytes the CPU's stack holds (enable_cpucache)."""
    for most, limit in ((131072, 1), (PAGE_SIZE, 8), (1024, 24), (256, 54)):
        if size > most:
            return limit
    return ARRAY_LIMIT_MAX


def cache_estimate(order: int, size: int, in_slab_bytes: int) -> tuple[int, int]:
    """(objects, bytes left over) of a slab, with ``in_slab_bytes`` of index for each object."""
    slab_size = PAGE_SIZE << order
    return slab_size // (size + in_slab_bytes), slab_size % (size + in_slab_bytes)


class Slab(SlabAllocator):
    """All SLAB caches of a kernel."""

    KIND = "slab"
    cache_type = SlabCache
    # The CPU's stack lies right behind the struct.
    cache_struct_size = KmemCacheStruct.SIZE + ArrayCache.SIZE + 8 * ARRAY_LIMIT_MAX

    def __init__(self, core: SlabCore, slab_caches: int) -> None:
        super().__init__(core, slab_caches)
        self._freelist_caches: dict[int, KmemCache] = {}  # derived

    def make_cache(self, pa: int) -> KmemCache:
        return SlabCache(self.core, pa, self)

    def _mergeable_alignment(self, s: KmemCacheStruct, align: int) -> bool:
        return align <= s.align and not s.align % align

    def find_freelist_cache(self, size: int) -> KmemCache | None:
        """The kmalloc cache for an index array of ``size`` bytes, None before there is one
        or above 8 KiB."""
        best: KmemCache | None = None
        for cache in self.caches():
            s = cache.struct
            if not s.name.startswith("kmalloc-") or s.object_size < size:
                continue
            if best is None or s.size < best.struct.size:
                best = cache
        return best

    def freelist_cache(self, size: int) -> KmemCache:
        """The cache that off-slab index arrays of ``size`` bytes are from."""
        cache = self._freelist_caches.get(size)
        if cache is None:
            cache = self.find_freelist_cache(size)
            if cache is None:
                raise SlabError(f"no cache for an index array of {size} bytes")
            self._freelist_caches[size] = cache
        return cache

    def _moved(self, pa: int, old_va: int) -> KmemCache:
        s = KmemCacheStruct(self.ram, pa)
        s.array_cache = self.space.va(pa) + KmemCacheStruct.SIZE
        return super()._moved(pa, old_va)

    def calculate_slab_order(self, size: int, flags: int, kind: int) -> tuple[int, int, int]:
        """(objects, order, bytes left over) for index arrays of ``kind``; (0, 0, 0): impossible."""
        found = 0, 0, 0
        ram_pages = self.space.end_pfn - self.space.start_pfn
        high = ram_pages > (32 << 20) >> PAGE_SHIFT
        most = SLAB_MAX_ORDER_HI if high else SLAB_MAX_ORDER_LO
        for order in range(get_order(size), MAX_PAGE_ORDER + 1):
            num, left = cache_estimate(order, size, int(kind == FREELIST_ON_SLAB))
            if not num:
                continue
            if num > SLAB_OBJ_MAX_NUM:
                break
            if kind == FREELIST_OFF_SLAB:
                cache = self.find_freelist_cache(num)
                if cache is None or num > KMALLOC_MAX_CACHE_SIZE:
                    continue
                if cache.struct.freelist_kind == FREELIST_OFF_SLAB or cache.size > size // 2:
                    continue
            found = num, order, left
            if flags & SLAB_RECLAIM_ACCOUNT or order >= most:
                break
            if left * 8 <= PAGE_SIZE << order:
                break
        return found

    def _fill(
        self, pa: int, name: str, object_size: int, align: int, flags: int, ctor: bool
    ) -> None:
        align = calculate_alignment(flags, align, object_size)
        if align > 8 or object_size > PAGE_SIZE:
            flags &= ~(SLAB_RED_ZONE | SLAB_STORE_USER)
        if flags & SLAB_POISON and not ctor:
            flags |= OBJECT_POISON
        size = -(-object_size // 8) * 8
        obj_offset = 0
        if flags & SLAB_RED_ZONE:
            obj_offset = 8
            size += 16
        if flags & SLAB_STORE_USER:
            size += 8
        size = -(-size // align) * align
        if size < SLAB_OBJ_MIN_SIZE:
            size = -(-SLAB_OBJ_MIN_SIZE // align) * align
        num = order = left = kind = 0
        for kind in (FREELIST_IN_OBJECT, FREELIST_OFF_SLAB, FREELIST_ON_SLAB):
            if kind == FREELIST_IN_OBJECT and (ctor or flags & OBJECT_POISON):
                continue
            num, order, left = self.calculate_slab_order(size, flags, kind)
            if not num or (kind == FREELIST_IN_OBJECT and num > object_size):
                num = 0
                continue
            if kind == FREELIST_OFF_SLAB and left >= num:
                num = 0
                continue  # it fits behind the objects
            break
        if not num:
            raise ValueError(f"no slab can hold an object of {object_size} bytes")
        s = self._fill_common(pa, name, object_size, align, flags, ctor)
        s.size, s.num, s.freelist_size, s.freelist_kind = size, num, num, kind
        s.min, s.inuse, s.obj_offset = order, size, obj_offset
        s.colour_off = max(CACHE_LINE, align)
        s.colour = left // s.colour_off
        s.array_cache = self.space.va(pa) + KmemCacheStruct.SIZE
        ac = ArrayCache(self.ram, pa + KmemCacheStruct.SIZE)
        ac.limit = array_cache_limit(size)
        ac.batchcount = (ac.limit + 1) // 2
        s.node.free_limit = 2 * ac.batchcount + num
