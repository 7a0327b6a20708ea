"""All caches of a kernel: their list, making, merging, finding and destroying them.

A ``KmemCache`` hands out objects of one size, a ``SlabAllocator`` makes caches and knows
which cache an address belongs to. Objects are named by their direct-map VA; sizes are in
bytes. SLUB, SLAB and SLOB are three pairs of subclasses.

    vmcoreinfo.slab_caches <-> kmem_cache <-> kmem_cache <-> ...      (struct kmem_cache.list)

kmem_cache structs are objects of the first cache, ``kmem_cache``, which allocates itself
(bootstrap). Two caches that would hold the same objects become one (merging): no
constructor, the same flags, less than a word of difference; ``refcount`` counts the users.

Source: Linux mm/slab_common.c.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from emu.ram import PAGE_SIZE
from mm.errors import BadFree, CorruptionError, OutOfMemory, SlabError
from mm.gfp import __GFP_DMA as GFP_DMA
from mm.gfp import __GFP_DMA32 as GFP_DMA32
from mm.gfp import __GFP_RECLAIMABLE as GFP_RECLAIMABLE
from mm.gfp import GFP_KERNEL
from mm.slab.cache import KmemCache, ObjectInfo
from mm.slab.core import Constructor, FailSlab, LeakTracker, SlabCore
from mm.slab.flags import (
    KMALLOC_MAX_CACHE_SIZE,
    KMALLOC_MAX_SIZE,
    MAX_CACHES,
    SLAB_CACHE_DMA,
    SLAB_CACHE_DMA32,
    SLAB_FLAGS,
    SLAB_HWCACHE_ALIGN,
    SLAB_KMALLOC,
    SLAB_MERGE_SAME,
    SLAB_NEVER_MERGE,
    SLAB_NO_MERGE,
    SLAB_RECLAIM_ACCOUNT,
)
from mm.slab.options import calculate_alignment, debug_flags
from mm.slab.structs import (
    CACHE_LINK,
    HAS_CTOR,
    NODE_FREE,
    NODE_FULL,
    NODE_PARTIAL,
    W_SLAB_CACHE,
    KmemCacheStruct,
)


class SlabAllocator(ABC):
    """All caches of a kernel; ``slab_caches`` is the VA of the head of their list."""

    KIND = ""
    cache_type: type[KmemCache]
    cache_struct_size = KmemCacheStruct.SIZE  # bytes of an object of the cache kmem_cache

    def __init__(self, core: SlabCore, slab_caches: int) -> None:
        self.core = core
        core.destroy_cache = self._destroy_at
        self.space = core.space
        self.ram = core.ram
        self.lists = core.lists
        self.page_alloc = core.page_alloc
        self.root = core.root
        self.printk = core.printk
        self.slab_caches = slab_caches
        self.slab_index = core.slab_index
        self.slab_pfn = core.slab_pfn
        self._u64 = core.ram.u64
        self.by_va: dict[int, KmemCache] = {}  # derived: every cache that was asked for
        self._memmap = core.space.memmap_index

    @abstractmethod
    def make_cache(self, pa: int) -> KmemCache:
        """The object for the struct kmem_cache at ``pa`` (PA), which can be believed."""

    # what of the core its users change

    @property
    def caller(self) -> int:
        """The VA that tracks and kmemleak's records are stamped with."""
        return self.core.caller

    @caller.setter
    def caller(self, va: int) -> None:
        self.core.caller = va

    @property
    def tainted(self) -> int:
        """The kernel's taint bits."""
        return self.core.tainted

    @property
    def failslab(self) -> FailSlab | None:
        """Who is asked before every allocation."""
        return self.core.failslab

    @property
    def kmemleak(self) -> LeakTracker | None:
        """Who records every allocation."""
        return self.core.kmemleak

    def set_failslab(self, fail: FailSlab | None) -> None:
        """Ask ``fail`` before every allocation; None: no more."""
        self.core.failslab = fail
        self._hooks_changed()

    def set_kmemleak(self, kmemleak: LeakTracker | None) -> None:
        """Record every allocation from now on."""
        self.core.kmemleak = kmemleak
        self._hooks_changed()

    def _hooks_changed(self) -> None:
        core = self.core
        core.hooked = core.failslab is not None or core.kmemleak is not None
        for cache in self.caches():
            cache.hooks_changed()

    def flush_all(self) -> None:
        """Take back what the CPU holds of every cache."""
        for cache in self.caches():
            cache.flush()

    # creating

    def bootstrap(self, boot_pa: int) -> KmemCache:
        """Make the cache ``kmem_cache``: built at ``boot_pa``, then moved into itself.

        Raises OutOfMemory.
        """
        size = self.cache_struct_size
        flags = debug_flags(self.core.debug, "kmem_cache", SLAB_HWCACHE_ALIGN)[0]
        align = calculate_alignment(flags, 0, size)
        self._fill(boot_pa, "kmem_cache", size, align, flags, False)
        boot = self.make_cache(boot_pa)
        self.by_va[boot.va] = boot
        va = boot.alloc(GFP_KERNEL)
        if va is None:
            raise OutOfMemory("no memory for kmem_cache")
        boot.flush()
        pa = self.space.pa(va)
        self.ram.write(pa, self.ram.read(boot_pa, size))
        self.ram.write(boot_pa, bytes(size))
        del self.by_va[boot.va]
        s = KmemCacheStruct(self.ram, pa)
        s.refcount = -1
        moved = self.by_va[va] = self._moved(pa, boot.va)
        self.lists.add_tail(va + CACHE_LINK, self.slab_caches)
        return moved

    def _moved(self, pa: int, old_va: int) -> KmemCache:
        """A cache whose struct was copied from ``old_va`` to ``pa``: its lists and slabs, all
        of which are on them, are made to know."""
        u64, va = self.ram.u64, self.space.va(pa)
        for offset in (NODE_PARTIAL, NODE_FULL, NODE_FREE):
            head = (pa + offset - self.ram.base) >> 3
            if u64[head] == old_va + offset:
                self.lists.init(va + offset)
                continue
            for end, word in ((u64[head], 1), (u64[head + 1], 0)):
                u64[self.space.index(end) + word] = va + offset
            limit = self.space.end_pfn - self.space.start_pfn
            for link in self.lists.walk(va + offset, limit):
                u64[self.space.index(link - 16) + W_SLAB_CACHE] = va
        return self.make_cache(pa)

    @abstractmethod
    def _fill(
        self, pa: int, name: str, object_size: int, align: int, flags: int, ctor: bool
    ) -> None:
        """Write a whole struct kmem_cache (__kmem_cache_create). Raises ValueError for an
        object that no slab can hold."""

    def _fill_common(
        self, pa: int, name: str, object_size: int, align: int, flags: int, ctor: bool
    ) -> KmemCacheStruct:
        self.ram.fill(pa, self.cache_struct_size)
        s = KmemCacheStruct(self.ram, pa)
        s.flags, s.object_size, s.align, s.name = flags, object_size, align, name
        s.refcount = 1
        s.ctor = HAS_CTOR if ctor else 0
        s.allocflags = (
            (GFP_DMA if flags & SLAB_CACHE_DMA else 0)
            | (GFP_DMA32 if flags & SLAB_CACHE_DMA32 else 0)
            | (GFP_RECLAIMABLE if flags & SLAB_RECLAIM_ACCOUNT else 0)
        )
        for offset in (NODE_PARTIAL, NODE_FULL, NODE_FREE):
            self.lists.init(self.space.va(pa) + offset)
        return s

    def create(
        self,
        name: str,
        object_size: int,
        align: int = 0,
        flags: int = 0,
        ctor: Constructor | None = None,
        dtor: Constructor | None = None,
    ) -> KmemCache:
        """kmem_cache_create: a cache of objects of ``object_size`` bytes.

        ``ctor`` is called with the VA of every object of a new slab, ``dtor`` before its
        slab is given back. A cache that fits may be another one, merged. Raises ValueError
        for a bad size, alignment, flag or name, OutOfMemory without memory for the cache.
        """
        if not name or len(name) > 31 or not name.isascii():
            raise ValueError(f"cache name {name!r}: 1 to 31 ASCII characters")
        if not 1 <= object_size <= KMALLOC_MAX_SIZE:
            raise ValueError(f"cache {name}: object size {object_size} is not 1 to 4 MiB")
        most = PAGE_SIZE if not flags & SLAB_KMALLOC else KMALLOC_MAX_CACHE_SIZE
        if align < 0 or align & (align - 1) or align > most:
            raise ValueError(f"cache {name}: alignment {align} is no power of two up to a page")
        if flags & ~SLAB_FLAGS:
            raise ValueError(f"cache {name}: unknown flags {flags & ~SLAB_FLAGS:#x}")
        if any(cache.name == name for cache in self.caches()):
            raise ValueError(f"cache {name} exists already")
        if dtor is not None:
            flags |= SLAB_NO_MERGE
        merged = None if ctor else self.find_mergeable(name, object_size, align, flags)
        if merged is not None:
            s = merged.struct
            s.refcount += 1
            s.object_size = max(s.object_size, object_size)
            s.inuse = max(s.inuse, -(-object_size // 8) * 8)
            return merged
        flags = debug_flags(self.core.debug, name, flags)[0]
        align = calculate_alignment(flags, align, object_size)
        va = self.caches()[0].alloc(GFP_KERNEL)
        if va is None:
            raise OutOfMemory(f"no memory for cache {name}")
        pa = self.space.pa(va)
        try:
            self._fill(pa, name, object_size, align, flags, ctor is not None)
        except ValueError:
            self.caches()[0].free(va)
            raise
        if dtor is not None:
            KmemCacheStruct(self.ram, pa).dtor = HAS_CTOR
            self.core.dtors[va] = dtor
        self.lists.add_tail(va + CACHE_LINK, self.slab_caches)
        if ctor:
            self.core.ctors[va] = ctor
        cache = self.by_va[va] = self.make_cache(pa)
        return cache

    def set_ctor(
        self, cache: KmemCache, ctor: Constructor | None, dtor: Constructor | None = None
    ) -> None:
        """Give an attached kernel the constructor and destructor of a cache again."""
        for known, function in ((self.core.ctors, ctor), (self.core.dtors, dtor)):
            if function is not None:
                known[cache.va] = function

    def find_mergeable(
        self, name: str, object_size: int, align: int, flags: int
    ) -> KmemCache | None:
        """The youngest cache whose objects would be the same (find_mergeable)."""
        flags = debug_flags(self.core.debug, name, flags)[0]
        if self.core.nomerge or flags & SLAB_NEVER_MERGE:
            return None
        size = -(-object_size // 8) * 8
        align = calculate_alignment(flags, align, size)
        size = -(-size // align) * align
        for cache in reversed(self.caches()):
            s = cache.struct
            if s.flags & SLAB_NEVER_MERGE or s.ctor or s.dtor or s.refcount < 0:
                continue
            if size > s.size or s.size - size >= 8:
                continue
            if (flags ^ s.flags) & SLAB_MERGE_SAME or s.size % align:
                continue
            if not self._mergeable_alignment(s, align):
                continue
            return cache
        return None

    def _mergeable_alignment(self, s: KmemCacheStruct, align: int) -> bool:
        return True

    # looking up

    def caches(self) -> list[KmemCache]:
        """All caches, oldest first. Raises ListCorruption."""
        return [
            self._view(link - CACHE_LINK) for link in self.lists.walk(self.slab_caches, MAX_CACHES)
        ]

    def cache_at(self, va: int) -> KmemCache:
        """The cache whose struct kmem_cache is at ``va`` (VA). Raises SlabError for none that is
        on the list of caches, CorruptionError for one that was clobbered."""
        cache = self.by_va.get(va)
        if cache is None:
            self.caches()
            cache = self.by_va.get(va)
        if cache is None:
            raise SlabError(f"no kmem_cache at {va:#x}")
        return cache

    def _cache_of_slab(self, i: int) -> KmemCache | None:
        """The cache of the slab whose struct page is at word ``i``, None for one of SLOB's.
        Raises CorruptionError."""
        va = self.ram.u64[i + W_SLAB_CACHE]
        try:
            return self.cache_at(va) if va else None
        except SlabError as e:
            raise CorruptionError("slab", self.core.page_va(i), f"slab_cache: {e}") from None

    def _view(self, va: int) -> KmemCache:
        cache = self.by_va.get(va)
        if cache is None:
            struct = KmemCacheStruct.at(self.space, va)
            problem = self.cache_type.problem(self.space, struct)
            if problem is not None:
                raise CorruptionError("kmem_cache", va, problem)
            cache = self.by_va[va] = self.make_cache(struct.pa)
        return cache

    def cache_of(self, va: int) -> KmemCache | None:
        """The cache whose slab the direct-map address lies in, None if in no slab of one."""
        i = self.slab_index(va)
        if i < 0:
            return None
        return self._cache_of_slab(i)

    def object_info(self, va: int) -> ObjectInfo | None:
        """What lies at an address (kmem_obj_info): None if it is in no slab."""
        pfn = self.slab_pfn(va)
        cache = self.cache_of(va)
        if pfn is None:
            return None
        if cache is None:
            return ObjectInfo(None, pfn, None, False)
        return cache.object_info(va, pfn)

    def kfree(self, va: int) -> bool:
        """Free an object of whatever cache it is of; False if it is in no slab of one.

        Raises BadFree.
        """
        i = self.slab_index(va)
        if i < 0:
            return False
        cache = self._cache_of_slab(i)
        if cache is None:
            raise BadFree(va, "in a slab of no cache")
        cache.free_in_slab(va, i)
        return True

    # destroying

    def destroy(self, cache: KmemCache) -> None:
        """Free a cache and its empty slabs, or drop one user of a merged cache.

        Raises SlabError while objects are alive, after a report that names them.
        """
        first = self.caches()[0]
        if cache.va == first.va:
            raise SlabError("the cache kmem_cache cannot be destroyed")
        if cache.struct.refcount > 1:
            cache.struct.refcount -= 1
            return
        name = cache.name
        cache.shrink()
        alive = cache.active_objects()
        if alive or cache.nr_slabs:
            self._report_remaining(cache)
            self.printk(f"kmem_cache_destroy {name}: Slab cache still has objects")
            raise SlabError(
                f"Objects remaining in {name} on __kmem_cache_shutdown(): "
                f"{alive} objects are still alive"
            )
        self.lists.delete(cache.va + CACHE_LINK)
        self.core.ctors.pop(cache.va, None)
        self.core.dtors.pop(cache.va, None)
        self.by_va.pop(cache.va, None)
        first.free(cache.va)

    def _destroy_at(self, va: int) -> None:
        self.destroy(self.cache_at(va))

    def _report_remaining(self, cache: KmemCache) -> None:
        """list_slab_objects, for every slab that has some."""
        seen: dict[int, list[int]] = {}
        for va in cache.live_objects():
            seen.setdefault(self.slab_index(va), []).append(va)
        for i, objects in seen.items():
            text = f"Objects remaining in {cache.name} on __kmem_cache_shutdown()"
            self.core.slab_err(cache.name, i, text)
            base = self.core.slab_base(i)
            for va in objects:
                self.printk(f"Object {va:#018x} @offset={va - base}")
                self._print_object_tracks(cache, va)

    def _print_object_tracks(self, cache: KmemCache, va: int) -> None:  # noqa: B027
        """print_tracking of an object that is still alive."""
