"""SLUB: slabs are (compound) pages, and the free list of a slab runs through its objects.

    struct slab (over the head's struct page)        the slab's frames
    +------------+                                   +--------+--------+--------+--
    | freelist   |---------------------------------->| object | object | object | ...
    | inuse      | objects handed out                |   |    |  ^ |   |        |
    | objects    | objects that fit                  |   +-------+ +--> NULL    |
    | slab_list  | link of the node's partial list   +--------+--------+--------+--
    +------------+

A free object holds the VA of the next one at ``offset``: ALIGN_DOWN(object_size / 2, 8), in
its middle, where overruns of the neighbours do not reach; after the object if it has a
constructor, whose work must survive. States of a slab:

| state   | freelist | inuse         | on the partial list |
|---------|----------|---------------|---------------------|
| full    | NULL     | = objects     | no                  |
| partial | set      | 0 < inuse     | yes                 |
| empty   | set      | 0             | yes, while nr_partial allows |

Allocation takes from the first partial slab, else makes a slab. Freeing into a full slab
lists it at the tail; a slab that becomes empty is discarded once nr_partial reaches
min_partial. Per-CPU slabs come on top of this and leave the node's part as it is.

kmem_cache structs come from the cache ``kmem_cache``, which allocates itself (bootstrap).
Source: Linux mm/slub.c (calculate_order, calculate_sizes, __slab_free, add_partial).
"""

from __future__ import annotations

from collections.abc import Iterator

from emu.ram import PAGE_SHIFT, PAGE_SIZE
from mm.addrspace import Space
from mm.buddy import Buddy
from mm.errors import BadAddress, BadFree, GfpError, OutOfMemory, SlabError
from mm.gfp import __GFP_DMA as GFP_DMA
from mm.gfp import __GFP_DMA32 as GFP_DMA32
from mm.gfp import __GFP_HIGHMEM as GFP_HIGHMEM
from mm.gfp import __GFP_RECLAIMABLE as GFP_RECLAIMABLE
from mm.gfp import GFP_COMP, GFP_KERNEL, GFP_ZERO
from mm.layout import ListHead, Struct, chars, nested, ptr, s32, u32, u64
from mm.lists import Lists
from mm.page import ALLOCATED_WORD, SLAB_WORD, W_TYPE_REF
from mm.slab import (
    ARCH_SLAB_MINALIGN,
    CACHE_LINE,
    KMALLOC_MAX_SIZE,
    SLAB_CACHE_DMA,
    SLAB_CACHE_DMA32,
    SLAB_FLAGS,
    SLAB_HWCACHE_ALIGN,
    SLAB_RECLAIM_ACCOUNT,
    Constructor,
    KmemCache,
    SlabAllocator,
)
from mm.zone import MAX_PAGE_ORDER

SLUB_MAX_ORDER = 3
MIN_PARTIAL = 5
MAX_PARTIAL = 10
MAX_OBJS_PER_PAGE = 32767  # 15 bits
MAX_CACHES = 4096
HAS_CTOR = 1  # the value of kmem_cache.ctor for a constructor that Python holds
OO_SHIFT = 16


class Slab(Struct, c_name="slab", size=64):
    """The overlay of a slab's head page."""

    flags = u64()
    slab_cache = ptr("struct kmem_cache")
    slab_list = nested(ListHead)
    freelist = ptr()
    counters = u64()  # inuse:16 objects:15 frozen:1
    page_type = u32()
    _refcount = s32()

    @property
    def inuse(self) -> int:
        return self.counters & 0xFFFF

    @property
    def objects(self) -> int:
        return self.counters >> 16 & 0x7FFF

    @property
    def frozen(self) -> int:
        return self.counters >> 31 & 1


W_SLAB_CACHE = Slab.word_of("slab_cache")
W_SLAB_LIST = Slab.word_of("slab_list")
W_FREELIST = Slab.word_of("freelist")
W_COUNTERS = Slab.word_of("counters")


class KmemCacheNode(Struct, c_name="kmem_cache_node"):
    nr_partial = u64()
    partial = nested(ListHead)
    nr_slabs = u64()
    total_objects = u64()


class KmemCacheStruct(Struct, c_name="kmem_cache"):
    """struct kmem_cache. ``oo`` and ``min`` are order << 16 | objects."""

    cpu_slab = ptr()  # per-CPU slabs: none yet
    flags = u32()
    size = u32()  # bytes from object to object
    object_size = u32()
    offset = u32()  # bytes from an object to its free pointer
    min_partial = u64()
    cpu_partial = u32()
    oo = u32()
    min = u32()
    allocflags = u32()
    refcount = s32()
    inuse = u32()  # bytes up to the metadata
    align = u32()
    red_left_pad = u32()
    ctor = u64()
    random = u64()  # the key of hardened free pointers; 0: not hardened
    list = nested(ListHead)
    name = chars(32)
    node = nested(KmemCacheNode)


_LINK = KmemCacheStruct.offset_of("list")
_NR_PARTIAL = (KmemCacheStruct.offset_of("node") + KmemCacheNode.offset_of("nr_partial")) >> 3
_PARTIAL = KmemCacheStruct.offset_of("node") + KmemCacheNode.offset_of("partial")


def order_objects(order: int, size: int) -> int:
    """How many objects of ``size`` bytes fit a slab of 2^order pages."""
    return (PAGE_SIZE << order) // size


def get_order(size: int) -> int:
    """The smallest order whose block holds ``size`` bytes."""
    return max(0, (size - 1).bit_length() - PAGE_SHIFT)


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


class SlubCache(KmemCache):
    """The SLUB cache whose ``struct kmem_cache`` is at ``pa``."""

    def __init__(self, slub: Slub, pa: int) -> None:
        self.slub = slub
        self.struct = KmemCacheStruct(slub.ram, pa)
        self.va = slub.space.va(pa)
        self._space = slub.space
        self._u64 = slub.ram.u64
        self._lists = slub.lists
        # Constants of the cache, derived once.
        s = self.struct
        self._size = s.size
        self._offset_words = s.offset >> 3
        self._order = s.oo >> OO_SHIFT
        self._objects = s.oo & 0xFFFF
        self._allocflags = s.allocflags
        self._min_partial = s.min_partial
        self._partial = self.va + _PARTIAL
        self._nr_partial = ((pa - slub.ram.base) >> 3) + _NR_PARTIAL

    def __repr__(self) -> str:
        return f"<kmem_cache {self.name}>"

    @property
    def name(self) -> str:
        return self.struct.name

    @property
    def object_size(self) -> int:
        return self.struct.object_size

    @property
    def size(self) -> int:
        return self._size

    @property
    def order(self) -> int:
        """The order of its slabs."""
        return self._order

    @property
    def objects_per_slab(self) -> int:
        return self._objects

    # slabs

    def _new_slab(self, gfp: int) -> int | None:
        """A slab with every object on its freelist, on no list: its PFN."""
        slub = self.slub
        flags = gfp & ~GFP_ZERO | self._allocflags
        pfn = slub.buddy.alloc_pages(flags, self._order)
        if pfn is None:
            return None
        u64 = self._u64
        i = self._space.page_index(pfn)
        base = self._space.pfn_to_virt(pfn)
        size, count = self._size, self._objects
        word = ((base - self._space.page_offset) >> 3) + self._offset_words
        step = size >> 3
        for n in range(1, count):
            u64[word] = base + n * size
            word += step
        u64[word] = 0
        u64[i + W_SLAB_CACHE] = self.va
        u64[i + W_FREELIST] = base
        u64[i + W_COUNTERS] = count << 16
        u64[i + W_TYPE_REF] = SLAB_WORD
        node = self.struct.node
        node.nr_slabs += 1
        node.total_objects += count
        if self.struct.ctor:
            ctor = slub.ctors.get(self.va)
            if ctor is None:
                raise SlabError(f"cache {self.name}: its constructor was not given to attach")
            for n in range(count):
                ctor(base + n * size)
        return pfn

    def _discard_slab(self, pfn: int) -> None:
        i = self._space.page_index(pfn)
        u64 = self._u64
        node = self.struct.node
        node.nr_slabs -= 1
        node.total_objects -= u64[i + W_COUNTERS] >> 16 & 0x7FFF
        # Back to an ordinary compound page, which is what the buddy gave.
        u64[i + W_SLAB_CACHE] = u64[i + W_FREELIST] = u64[i + W_COUNTERS] = 0
        u64[i + W_TYPE_REF] = ALLOCATED_WORD
        self.slub.buddy.free_pages(pfn, self._order)

    def _add_partial(self, pfn: int, tail: bool) -> None:
        link = self._space.page_va(pfn) + 8 * W_SLAB_LIST
        if tail:
            self._lists.add_tail(link, self._partial)
        else:
            self._lists.add(link, self._partial)
        self._u64[self._nr_partial] += 1

    def _remove_partial(self, pfn: int) -> None:
        self._lists.delete(self._space.page_va(pfn) + 8 * W_SLAB_LIST)
        self._u64[self._nr_partial] -= 1

    def partial_slabs(self) -> Iterator[int]:
        """PFNs of the slabs on the partial list. Raises ListCorruption."""
        limit = self._space.end_pfn - self._space.start_pfn
        for link in self._lists.walk(self._partial, limit):
            yield self._space.page_to_pfn(link - 8 * W_SLAB_LIST)

    def free_objects(self, pfn: int) -> list[int]:
        """VAs of the free objects of slab ``pfn``, in freelist order.

        Raises SlabError when the freelist leaves the slab, or runs in a circle.
        """
        i = self._space.page_index(pfn)
        base = self._space.pfn_to_virt(pfn)
        end = base + self._objects * self._size
        found: list[int] = []
        va = self._u64[i + W_FREELIST]
        while va:
            if not base <= va < end or (va - base) % self._size:
                raise SlabError(
                    f"cache {self.name}: freelist of the slab at {base:#x} "
                    f"holds {va:#x}, which is no object of it"
                )
            if len(found) >= self._objects:
                raise SlabError(f"cache {self.name}: freelist cycle in the slab at {base:#x}")
            found.append(va)
            va = self._u64[self._space.index(va) + self._offset_words]
        return found

    # objects

    def alloc(self, gfp: int = GFP_KERNEL) -> int | None:
        if gfp & GFP_HIGHMEM:
            raise GfpError(f"gfp {gfp:#x}: __GFP_HIGHMEM makes no sense for slab objects")
        u64 = self._u64
        link = self._lists.first(self._partial)
        if link:
            pfn = self._space.page_to_pfn(link - 8 * W_SLAB_LIST)
            i = self._space.page_index(pfn)
            if u64[i + W_TYPE_REF] != SLAB_WORD or u64[i + W_SLAB_CACHE] != self.va:
                raise SlabError(f"cache {self.name}: page {pfn:#x} on its partial list is no slab")
        else:
            new = self._new_slab(gfp)
            if new is None:
                return None
            pfn = new
            i = self._space.page_index(pfn)
        base = self._space.pfn_to_virt(pfn)
        va = u64[i + W_FREELIST]
        if not base <= va < base + self._objects * self._size or (va - base) % self._size:
            raise SlabError(
                f"cache {self.name}: freelist of the slab at {base:#x} "
                f"holds {va:#x}, which is no object of it"
            )
        u64[i + W_FREELIST] = u64[((va - self._space.page_offset) >> 3) + self._offset_words]
        counters = u64[i + W_COUNTERS] + 1
        u64[i + W_COUNTERS] = counters
        full = counters & 0xFFFF == counters >> 16 & 0x7FFF
        if link and full:
            self._remove_partial(pfn)
        elif not link and not full:
            self._add_partial(pfn, tail=False)
        if gfp & GFP_ZERO:
            self.slub.ram.write(self._space.pa(va), bytes(self.struct.object_size))
        return va

    def check_object(self, va: int) -> int:
        """The PFN of the slab of a live object. Raises BadFree if ``va`` is none of ours."""
        pfn = self.slub.slab_pfn(va)
        i = self._space.page_index(pfn) if pfn is not None else 0
        if pfn is None or self._u64[i + W_SLAB_CACHE] != self.va:
            raise BadFree(va, f"not an object of cache {self.name}")
        base = self._space.pfn_to_virt(pfn)
        index, rest = divmod(va - base, self._size)
        if rest or index >= self._objects:
            raise BadFree(va, f"inside of a slab of {self.name}, but not the start of an object")
        # An object on the freelist holds NULL or a neighbour's VA at its free pointer;
        # only what looks like that is worth the walk.
        next_ = self._u64[((va - self._space.page_offset) >> 3) + self._offset_words]
        looks_free = not next_ or base <= next_ < base + self._objects * self._size
        if looks_free and va in self.free_objects(pfn):
            raise BadFree(va, f"object of {self.name} is free already (double free)")
        return pfn

    def free(self, va: int) -> None:
        pfn = self.check_object(va)
        u64 = self._u64
        i = self._space.page_index(pfn)
        counters = u64[i + W_COUNTERS]
        if not counters & 0xFFFF:
            raise SlabError(f"cache {self.name}: slab {pfn:#x} has no objects in use")
        prior = u64[i + W_FREELIST]
        u64[((va - self._space.page_offset) >> 3) + self._offset_words] = prior
        u64[i + W_FREELIST] = va
        counters -= 1
        u64[i + W_COUNTERS] = counters
        if not counters & 0xFFFF and u64[self._nr_partial] >= self._min_partial:
            if prior:
                self._remove_partial(pfn)
            self._discard_slab(pfn)
        elif not prior:
            self._add_partial(pfn, tail=True)

    def shrink(self) -> int:
        released = 0
        for pfn in list(self.partial_slabs()):
            if not self._u64[self._space.page_index(pfn) + W_COUNTERS] & 0xFFFF:
                self._remove_partial(pfn)
                self._discard_slab(pfn)
                released += 1
        return released

    def destroy(self) -> None:
        self.slub.destroy(self)

    @property
    def nr_partial(self) -> int:
        return self._u64[self._nr_partial]

    @property
    def nr_slabs(self) -> int:
        return self.struct.node.nr_slabs

    def active_objects(self) -> int:
        """Objects handed out: all of them, less the free ones of partial slabs."""
        free = 0
        for pfn in self.partial_slabs():
            counters = self._u64[self._space.page_index(pfn) + W_COUNTERS]
            free += (counters >> 16 & 0x7FFF) - (counters & 0xFFFF)
        return self.struct.node.total_objects - free


class Slub(SlabAllocator):
    """All SLUB caches of a kernel; ``slab_caches`` is the VA of the head of their list."""

    def __init__(self, space: Space, lists: Lists, buddy: Buddy, slab_caches: int) -> None:
        self.space = space
        self.ram = space.ram
        self.lists = lists
        self.buddy = buddy
        self.slab_caches = slab_caches
        self.ctors: dict[int, Constructor] = {}  # not in RAM: give them again after attach
        self._by_va: dict[int, SlubCache] = {}  # derived

    def bootstrap(self, boot_pa: int) -> SlubCache:
        """Make the cache ``kmem_cache``: built at ``boot_pa``, then moved into itself.

        Raises OutOfMemory.
        """
        self._fill(boot_pa, "kmem_cache", KmemCacheStruct.SIZE, 0, SLAB_HWCACHE_ALIGN, None)
        boot = SlubCache(self, boot_pa)
        va = boot.alloc(GFP_KERNEL)
        if va is None:
            raise OutOfMemory("no memory for kmem_cache")
        pa = self.space.pa(va)
        slabs = list(boot.partial_slabs())
        for pfn in slabs:
            boot._remove_partial(pfn)
        self.ram.write(pa, self.ram.read(boot_pa, KmemCacheStruct.SIZE))
        self.ram.write(boot_pa, bytes(KmemCacheStruct.SIZE))
        moved = SlubCache(self, pa)
        self.lists.init(moved._partial)
        for pfn in slabs:
            self.ram.u64[self.space.page_index(pfn) + W_SLAB_CACHE] = va
            moved._add_partial(pfn, tail=True)
        self.lists.add_tail(va + _LINK, self.slab_caches)
        self._by_va[va] = moved
        return moved

    def _fill(
        self,
        pa: int,
        name: str,
        object_size: int,
        align: int,
        flags: int,
        ctor: Constructor | None,
    ) -> None:
        """Write a struct kmem_cache (calculate_sizes)."""
        if flags & SLAB_HWCACHE_ALIGN:
            line = CACHE_LINE
            while object_size <= line // 2:
                line //= 2
            align = max(align, line)
        align = max(align, ARCH_SLAB_MINALIGN)
        inuse = -(-object_size // 8) * 8
        size = inuse
        if ctor is None:
            offset = object_size // 2 & ~7
        else:
            offset = inuse  # the constructor's work must survive being free
            size += 8
        size = -(-size // align) * align
        order = calculate_order(size)
        objects = order_objects(order, size)
        if objects > MAX_OBJS_PER_PAGE:
            raise ValueError(f"{objects} objects do not fit a slab's counters")
        self.ram.write(pa, bytes(KmemCacheStruct.SIZE))
        s = KmemCacheStruct(self.ram, pa)
        s.flags = flags
        s.size, s.object_size, s.offset, s.inuse, s.align = size, object_size, offset, inuse, align
        s.min_partial = calculate_min_partial(size)
        s.cpu_partial = calculate_cpu_partial(size)
        s.oo = order << OO_SHIFT | objects
        least = get_order(size)
        s.min = least << OO_SHIFT | order_objects(least, size)
        s.allocflags = (
            (GFP_COMP if order else 0)
            | (GFP_DMA if flags & SLAB_CACHE_DMA else 0)
            | (GFP_DMA32 if flags & SLAB_CACHE_DMA32 else 0)
            | (GFP_RECLAIMABLE if flags & SLAB_RECLAIM_ACCOUNT else 0)
        )
        s.refcount = 1
        s.name = name
        s.ctor = HAS_CTOR if ctor else 0
        self.lists.init(self.space.va(pa) + _PARTIAL)

    def create(
        self,
        name: str,
        object_size: int,
        align: int = 0,
        flags: int = 0,
        ctor: Constructor | None = None,
    ) -> SlubCache:
        if not name or len(name) > 31 or not name.isascii():
            raise ValueError(f"cache name {name!r}: 1 to 31 ASCII characters")
        if not 8 <= object_size <= KMALLOC_MAX_SIZE:
            raise ValueError(f"cache {name}: object size {object_size} is not 8 to 4 MiB")
        if align < 0 or align & (align - 1) or align > PAGE_SIZE:
            raise ValueError(f"cache {name}: alignment {align} is no power of two up to a page")
        if flags & ~SLAB_FLAGS:
            raise ValueError(f"cache {name}: unknown flags {flags & ~SLAB_FLAGS:#x}")
        calculate_order(-(-(object_size + 8) // max(align, 8)) * max(align, 8))
        if any(cache.name == name for cache in self.caches()):
            raise ValueError(f"cache {name} exists already")
        va = self.caches()[0].alloc(GFP_KERNEL)
        if va is None:
            raise OutOfMemory(f"no memory for cache {name}")
        pa = self.space.pa(va)
        self._fill(pa, name, object_size, align, flags, ctor)
        self.lists.add_tail(va + _LINK, self.slab_caches)
        if ctor:
            self.ctors[va] = ctor
        self._by_va[va] = cache = SlubCache(self, pa)
        return cache

    def caches(self) -> list[SlubCache]:  # type: ignore[override]
        return [
            self.cache_at(link - _LINK) for link in self.lists.walk(self.slab_caches, MAX_CACHES)
        ]

    def cache_at(self, va: int) -> SlubCache:
        """The cache whose struct kmem_cache is at ``va`` (VA). Raises SlabError."""
        cache = self._by_va.get(va)
        if cache is None:
            try:
                cache = SlubCache(self, self.space.pa(va))
            except (BadAddress, ValueError) as e:
                raise SlabError(f"no kmem_cache at {va:#x}") from e
            self._by_va[va] = cache
        return cache

    def slab_pfn(self, va: int) -> int | None:
        """The PFN of the head of the slab that ``va`` lies in, None if in no slab."""
        if not self.space.page_offset <= va < self.space.direct_end:
            return None
        u64 = self.ram.u64
        pfn = self.space.virt_to_pfn(va)
        i = self.space.page_index(pfn)
        head = u64[i + 1]
        if head & 1:  # a tail: compound_head
            try:
                pfn = self.space.page_to_pfn(head - 1)
            except BadAddress:
                return None
            i = self.space.page_index(pfn)
        return pfn if u64[i + W_TYPE_REF] == SLAB_WORD else None

    def cache_of(self, va: int) -> SlubCache | None:
        pfn = self.slab_pfn(va)
        if pfn is None:
            return None
        return self.cache_at(self.ram.u64[self.space.page_index(pfn) + W_SLAB_CACHE])

    def destroy(self, cache: SlubCache) -> None:
        """Free a cache and its empty slabs. Raises SlabError while objects are alive."""
        first = self.caches()[0]
        if cache.va == first.va:
            raise SlabError("the cache kmem_cache cannot be destroyed")
        cache.shrink()
        if cache.nr_slabs:
            raise SlabError(f"cache {cache.name}: {cache.active_objects()} objects are still alive")
        self.lists.delete(cache.va + _LINK)
        self.ctors.pop(cache.va, None)
        self._by_va.pop(cache.va, None)
        first.free(cache.va)
