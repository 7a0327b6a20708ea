"""The slab allocators behind one ``kmem_cache`` interface: SLUB, SLAB and SLOB.

Which one a kernel uses is chosen at boot (``Config.slab``) and recorded in vmcoreinfo.

| file | idea |
|---|---|
| flags, structs, options | cache flags; the C structures in RAM; slub_debug=, alignment, orders |
| core | what all caches of a kernel share: hooks, reports, from an object to its slab |
| cache | one cache: the interface |
| allocator | all caches: making, merging, finding and destroying them |
| slub | the CPU's freelist and its slabs, in front of slub_slabs: slabs and the node's lists |
| slub_caches, slub_sizes | what a new SLUB cache is like |
| slub_debug | red zones, poison, tracking |
| slab | index arrays, colours, a stack of objects for the CPU |
| slab_caches, slab_debug | what a new SLAB cache is like; its debugging |
| slob | first fit among blocks of 2-byte units |
"""

from __future__ import annotations

from mm.slab.allocator import SlabAllocator
from mm.slab.cache import KmemCache, ObjectInfo, SlabInfo
from mm.slab.core import Constructor
from mm.slab.flags import (
    ARCH_SLAB_MINALIGN,
    CACHE_LINE,
    KMALLOC_MAX_CACHE_SIZE,
    KMALLOC_MAX_SIZE,
    SLAB_ACCOUNT,
    SLAB_CACHE_DMA,
    SLAB_CACHE_DMA32,
    SLAB_FLAGS,
    SLAB_HWCACHE_ALIGN,
    SLAB_NO_MERGE,
    SLAB_NOLEAKTRACE,
    SLAB_PANIC,
    SLAB_RECLAIM_ACCOUNT,
)

__all__ = [
    "ARCH_SLAB_MINALIGN",
    "CACHE_LINE",
    "KMALLOC_MAX_CACHE_SIZE",
    "KMALLOC_MAX_SIZE",
    "SLAB_ACCOUNT",
    "SLAB_CACHE_DMA",
    "SLAB_CACHE_DMA32",
    "SLAB_FLAGS",
    "SLAB_HWCACHE_ALIGN",
    "SLAB_NOLEAKTRACE",
    "SLAB_NO_MERGE",
    "SLAB_PANIC",
    "SLAB_RECLAIM_ACCOUNT",
    "Constructor",
    "KmemCache",
    "ObjectInfo",
    "SlabAllocator",
    "SlabInfo",
]
