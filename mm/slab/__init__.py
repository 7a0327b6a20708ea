"""The slab allocators behind one ``kmem_cache`` interface: SLUB, SLAB and SLOB.

Which one a kernel uses is chosen at boot (``Config.slab``) and recorded in vmcoreinfo.

| file | idea |
|---|---|
| flags, structs | cache flags; the C structures in RAM |
| common | the interface; creating, merging and destroying caches |
| slub, slub_debug | freelists through the objects; red zones, poison, tracking |
| slab | index arrays, colours, a stack of objects for the CPU |
| slob | first fit among blocks of 2-byte units |
"""

from __future__ import annotations

from mm.slab.common import Constructor, KmemCache, ObjectInfo, SlabAllocator, SlabInfo
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
    SLAB_KINDS,
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
    "SLAB_KINDS",
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
