"""The C structures of the slab allocators. Which allocator uses what:

    struct kmem_cache                    SLUB                 SLAB               SLOB
      cpu_slab ------------------------> kmem_cache_cpu       array_cache        NULL
      node.partial                       slabs with room      slabs_partial      -
      node.full                          debug: full slabs    slabs_full         -
      node.free                          -                    slabs_free         -
      node.total_objects                 in all slabs         in all slabs       handed out

    struct slab, over the head's struct page
      freelist                           first free object    index array        first free block
      counters                           inuse, objects,      s_mem, active      units
                                         frozen
      slab_list.next, .prev              or: next, slabs      list               list
                                         (per-CPU partial)

A pointer to the per-CPU part is the first word of a kmem_cache, so that guest code finds
it with one load. This machine has one CPU: its part lies in the kmem_cache object itself
(SLUB: the member ``cpu``; SLAB: right behind the struct, as its length is the cache's).
"""

from __future__ import annotations

from mm.addrspace import Space
from mm.layout import ListHead, Struct, chars, nested, ptr, ptr_array, s32, u16, u32, u64
from mm.slab.flags import KMALLOC_MAX_SIZE

PG_WORKINGSET = 1 << 9  # of a SLUB slab: it is on the node's partial list (SL_partial)
OO_SHIFT = 16
OO_MASK = 0xFFFF


class SlabCpuPartial(Struct, c_name="slab_cpu_partial"):
    """SLUB's slab on the per-CPU partial list: the next one, how many there are from here."""

    next = ptr("struct slab")
    slabs = u64()


class SlabActive(Struct, c_name="slab_active"):
    """SLAB's slab: bytes from its start to the first object; objects handed out."""

    s_mem = u32()
    active = u32()


class Slab(Struct, c_name="slab", size=64):
    """The overlay of a slab's head page."""

    flags = u64()
    slab_cache = ptr("struct kmem_cache")
    slab_list = nested(ListHead)
    cpu_partial = nested(SlabCpuPartial, at=16)
    freelist = ptr()
    counters = u64()  # SLUB: inuse:16 objects:15 frozen:1
    slab_active = nested(SlabActive, at=40)
    units = u64(at=40)  # SLOB: free units
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
W_NEXT = W_SLAB_LIST
W_SLABS = W_SLAB_LIST + 1
W_FREELIST = Slab.word_of("freelist")
W_COUNTERS = Slab.word_of("counters")
FROZEN = 1 << 31


class KmemCacheNode(Struct, c_name="kmem_cache_node"):
    nr_partial = u64()
    partial = nested(ListHead)
    nr_slabs = u64()
    total_objects = u64()
    full = nested(ListHead)
    free = nested(ListHead)  # from here on: SLAB
    free_objects = u64()
    free_limit = u64()
    colour_next = u64()


class KmemCacheCpu(Struct, c_name="kmem_cache_cpu"):
    """SLUB's CPU: pop ``freelist``, push an object of ``slab``."""

    freelist = ptr()
    tid = u64()
    slab = ptr("struct slab")  # frozen: its objects are this CPU's
    partial = ptr("struct slab")


class ArrayCache(Struct, c_name="array_cache"):
    """SLAB's CPU: a stack of free objects. ``limit`` pointers follow."""

    freelist = ptr()  # always NULL, where SLUB's CPU has its list: guest code finds it empty
    avail = u32()
    limit = u32()
    batchcount = u32()
    touched = u32()


class Track(Struct, c_name="track"):
    """Who allocated or freed an object (SLAB_STORE_USER)."""

    addr = u64()  # the caller's VA, 0: never
    handle = u32()
    cpu = s32()
    pid = s32()
    when = u64()  # jiffies


class KmemCacheStruct(Struct, c_name="kmem_cache"):
    """struct kmem_cache. ``oo`` and ``min`` are order << 16 | objects."""

    cpu_slab = ptr("struct kmem_cache_cpu")
    array_cache = ptr("struct array_cache", at=0)
    flags = u32()
    size = u32()  # bytes from object to object
    object_size = u32()
    offset = u32()  # bytes from an object to its free pointer
    min_partial = u64()
    cpu_partial = u32()
    oo = u32()
    min = u32()
    allocflags = u32()
    refcount = s32()  # users: 1 and those of merged caches; -1: never merge with this
    inuse = u32()  # bytes up to the metadata
    align = u32()
    red_left_pad = u32()
    ctor = u64()  # 1: Python holds it
    dtor = u64()
    random = u64()  # the key of hardened free pointers; 0: not hardened
    list = nested(ListHead)
    name = chars(32)
    node = nested(KmemCacheNode)
    cpu = nested(KmemCacheCpu)
    cpu_partial_slabs = u32()
    num = u32()  # SLAB: objects of a slab
    colour = u32()  # how many start offsets there are
    colour_off = u32()  # bytes from one to the next
    freelist_size = u32()
    freelist_kind = u16()  # 0 in the slab, 1 kmalloc'ed, 2 in a free object
    obj_offset = u32()  # bytes of debug words before the object

    def problem(self, space: Space) -> str | None:
        if not 0 < self.object_size <= self.size <= 4 * KMALLOC_MAX_SIZE:
            return f"object_size {self.object_size}, size {self.size}: no object is like that"
        if not 0 < self.align <= KMALLOC_MAX_SIZE or self.align & (self.align - 1):
            return f"align {self.align} is no power of two"
        if self.inuse > self.size or self.red_left_pad >= self.size:
            return f"inuse {self.inuse}, red_left_pad {self.red_left_pad} of size {self.size}"
        return None


FREELIST_ON_SLAB, FREELIST_OFF_SLAB, FREELIST_IN_OBJECT = range(3)
HAS_CTOR = 1  # the value of kmem_cache.ctor and .dtor for one that Python holds

CACHE_LINK = KmemCacheStruct.offset_of("list")
_NODE = KmemCacheStruct.offset_of("node")
NODE_PARTIAL = _NODE + KmemCacheNode.offset_of("partial")
NODE_FULL = _NODE + KmemCacheNode.offset_of("full")
NODE_FREE = _NODE + KmemCacheNode.offset_of("free")
W_NR_PARTIAL = (_NODE + KmemCacheNode.offset_of("nr_partial")) >> 3
W_NR_SLABS = (_NODE + KmemCacheNode.offset_of("nr_slabs")) >> 3
W_TOTAL_OBJECTS = (_NODE + KmemCacheNode.offset_of("total_objects")) >> 3
W_FREE_OBJECTS = (_NODE + KmemCacheNode.offset_of("free_objects")) >> 3


class SlabRoot(Struct, c_name="slab_root"):
    """The slab allocators' part of vmcoreinfo."""

    kind = u64()  # 0 SLUB, 1 SLAB, 2 SLOB
    options = u64()  # 1 slab_nomerge, 2 slab_freelist_hardened
    tainted = u64()  # bit 5: a report of corruption was made (TAINT_BAD_PAGE)
    jiffies = u64()  # what tracks are stamped with; whoever has a timer counts it up
    slub_debug = chars(64)
    kmalloc_dma_caches = ptr_array("struct kmem_cache", 13)
    free_slob_small = nested(ListHead)
    free_slob_medium = nested(ListHead)
    free_slob_large = nested(ListHead)
    kmemleak_object_list = nested(ListHead)
    kmemleak_cachep = ptr("struct kmem_cache")  # 0: allocations are not recorded


OPTION_NOMERGE, OPTION_HARDENED = 1, 2
