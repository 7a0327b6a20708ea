"""One interface to the slab allocators: caches of objects of one size.

A ``KmemCache`` hands out objects, a ``SlabAllocator`` makes caches and knows which cache an
address belongs to. SLUB stands behind it (slub.py); another allocator is another pair of
subclasses. Objects are named by their direct-map VA; sizes are in bytes.

Source: the kernel's include/linux/slab.h.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from mm.gfp import GFP_KERNEL

# Cache flags (include/linux/slab.h).
SLAB_HWCACHE_ALIGN = 0x2000
SLAB_CACHE_DMA = 0x4000
SLAB_CACHE_DMA32 = 0x8000
SLAB_PANIC = 0x40000
SLAB_RECLAIM_ACCOUNT = 0x20000
SLAB_FLAGS = (
    SLAB_HWCACHE_ALIGN | SLAB_CACHE_DMA | SLAB_CACHE_DMA32 | SLAB_PANIC | SLAB_RECLAIM_ACCOUNT
)

ARCH_SLAB_MINALIGN = 8
CACHE_LINE = 64
KMALLOC_MAX_CACHE_SIZE = 8192
KMALLOC_MAX_SIZE = 4 << 20

Constructor = Callable[[int], None]  # called with the VA of each object of a new slab


class KmemCache(ABC):
    """One cache."""

    @property
    @abstractmethod
    def name(self) -> str:
        """As in /proc/slabinfo."""

    @property
    @abstractmethod
    def object_size(self) -> int:
        """Bytes that the user of an object may touch."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes from one object to the next."""

    @abstractmethod
    def alloc(self, gfp: int = GFP_KERNEL) -> int | None:
        """kmem_cache_alloc: the VA of an object, None without memory. Raises GfpError."""

    @abstractmethod
    def free(self, va: int) -> None:
        """kmem_cache_free. Raises BadFree, nothing changed, for what is no live object here."""

    @abstractmethod
    def shrink(self) -> int:
        """kmem_cache_shrink: give empty slabs back; the number of slabs released."""

    @abstractmethod
    def destroy(self) -> None:
        """kmem_cache_destroy. Raises SlabError while objects are alive."""


class SlabAllocator(ABC):
    """Makes caches."""

    @abstractmethod
    def create(
        self,
        name: str,
        object_size: int,
        align: int = 0,
        flags: int = 0,
        ctor: Constructor | None = None,
    ) -> KmemCache:
        """kmem_cache_create. Raises ValueError for a bad size, alignment, flag or name,
        OutOfMemory without memory for the cache itself."""

    @abstractmethod
    def caches(self) -> list[KmemCache]:
        """All caches, oldest first."""

    @abstractmethod
    def cache_of(self, va: int) -> KmemCache | None:
        """The cache whose slab the direct-map address lies in, None if in no slab."""
