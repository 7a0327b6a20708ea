"""All SLUB caches of a kernel: what a new cache's struct kmem_cache says."""

from __future__ import annotations

from mm.slab.allocator import SlabAllocator
from mm.slab.cache import KmemCache
from mm.slab.core import SlabCore
from mm.slab.flags import (
    DEBUG_LAYOUT_FLAGS,
    OBJECT_POISON,
    SLAB_DEBUG_FLAGS,
    SLAB_POISON,
)
from mm.slab.options import calculate_alignment, debug_flags, get_order
from mm.slab.slub import SlubCache
from mm.slab.slub_debug import SlubDebug
from mm.slab.slub_sizes import (
    MAX_OBJS_PER_PAGE,
    calculate_cpu_partial,
    calculate_min_partial,
    calculate_order,
    calculate_sizes,
    order_objects,
    random_key,
)
from mm.slab.structs import (
    OO_SHIFT,
    KmemCacheStruct,
)


class Slub(SlabAllocator):
    """All SLUB caches of a kernel."""

    KIND = "slub"
    cache_type = SlubCache

    def __init__(self, core: SlabCore, slab_caches: int) -> None:
        super().__init__(core, slab_caches)
        self.debugger = SlubDebug(core)

    def make_cache(self, pa: int) -> KmemCache:
        return SlubCache(self.core, pa, self.debugger)

    def _moved(self, pa: int, old_va: int) -> KmemCache:
        s = KmemCacheStruct(self.ram, pa)
        s.cpu_slab = self.space.va(pa) + KmemCacheStruct.offset_of("cpu")
        return super()._moved(pa, old_va)

    def _fill(
        self, pa: int, name: str, object_size: int, align: int, flags: int, ctor: bool
    ) -> None:
        """calculate_sizes. ``align`` is calculate_alignment's."""
        align = calculate_alignment(flags, align, object_size)
        no_higher = debug_flags(self.core.debug, name, 0)[1]
        if no_higher:
            size, *_ = calculate_sizes(object_size, align, flags, ctor)
            if get_order(size) > get_order(object_size):
                flags &= ~DEBUG_LAYOUT_FLAGS
        size, inuse, offset, left = calculate_sizes(object_size, align, flags, ctor)
        order = calculate_order(size)
        objects = order_objects(order, size)
        if objects > MAX_OBJS_PER_PAGE:
            raise ValueError(f"{objects} objects do not fit a slab's counters")
        if flags & SLAB_POISON and not ctor:
            flags |= OBJECT_POISON
        s = self._fill_common(pa, name, object_size, align, flags, ctor)
        s.size, s.offset, s.inuse, s.red_left_pad = size, offset, inuse, left
        s.min_partial = calculate_min_partial(size)
        s.oo = order << OO_SHIFT | objects
        least = get_order(size)
        s.min = least << OO_SHIFT | order_objects(least, size)
        s.cpu_slab = self.space.va(pa) + KmemCacheStruct.offset_of("cpu")
        if self.core.hardened:
            s.random = random_key(name)
        if not flags & SLAB_DEBUG_FLAGS and not s.random:
            s.cpu_partial = calculate_cpu_partial(size)
            s.cpu_partial_slabs = -(-2 * s.cpu_partial // objects)

    def _print_object_tracks(self, cache: KmemCache, va: int) -> None:
        if isinstance(cache, SlubCache):
            self.debugger.print_tracking(cache, va)
