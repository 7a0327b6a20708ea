"""One cache of objects of one size: the interface, and what the three kinds have in common.

Objects are named by their direct-map VA; sizes are in bytes. Constructors and destructors are
Python's and not in RAM: after ``attach`` they are given again with ``set_ctor``. Until then what
needs one raises SlabError and changes nothing: a new slab the constructor; shrinking and
destroying a cache the destructor, for which slabs that become empty wait.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from emu.ram import PAGE_SHIFT
from mm.addrspace import Space
from mm.errors import CorruptionError, GfpError, SlabError
from mm.gfp import GFP_COMP, GFP_KERNEL, GFP_ZERO, format_gfp
from mm.layout import count_down
from mm.page import ALLOCATED_WORD, SLAB_WORD, W_TYPE_REF
from mm.slab.core import Constructor, SlabCore
from mm.slab.flags import (
    GFP_SLAB_BUG_MASK,
    GFP_SLAB_MASK,
    GFP_SLAB_UNUSUAL,
    SLAB_NOLEAKTRACE,
)
from mm.slab.structs import (
    W_COUNTERS,
    W_FREELIST,
    W_NR_SLABS,
    W_SLAB_CACHE,
    W_TOTAL_OBJECTS,
    KmemCacheStruct,
)


@dataclass(frozen=True)
class SlabInfo:
    """A row of /proc/slabinfo (struct slabinfo): counts, and SLAB's tunables."""

    name: str
    active_objs: int
    num_objs: int
    size: int
    objects_per_slab: int
    cache_order: int
    limit: int
    batchcount: int
    shared: int
    active_slabs: int
    num_slabs: int
    shared_avail: int = 0


@dataclass(frozen=True)
class ObjectInfo:
    """What an address in a slab is: kmem_obj_info.

    ``object`` is the VA of the object around it, None if it lies in none (padding, and
    anywhere in a SLOB page, which does not record where objects start). ``addr`` and
    ``pid`` of ``alloc_track`` and ``free_track`` are those of SLAB_STORE_USER.
    """

    cache: KmemCache | None
    slab_pfn: int
    object: int | None
    allocated: bool
    alloc_track: tuple[int, int, int] | None = None  # addr, pid, jiffies
    free_track: tuple[int, int, int] | None = None


class KmemCache(ABC):
    """The cache whose ``struct kmem_cache`` is at ``pa`` (PA)."""

    def __init__(self, core: SlabCore, pa: int) -> None:
        self.core = core
        self.space = core.space
        self.ram = core.ram
        self.struct = KmemCacheStruct(core.ram, pa)
        self.va = core.space.va(pa)
        self._u64 = core.ram.u64
        self._index = (pa - core.ram.base) >> 3
        # Constants of the cache, derived once.
        self._size = self.struct.size
        self.flags = self.struct.flags
        self._page_offset = self.space.page_offset
        self._memmap = self.space.memmap_index
        self._vmemmap = self.space.vmemmap

    def __repr__(self) -> str:
        return f"<kmem_cache {self.name}>"

    @staticmethod
    @abstractmethod
    def problem(space: Space, s: KmemCacheStruct) -> str | None:
        """What is impossible about a struct kmem_cache of this allocator, None if nothing:
        what is derived from it once is believed from then on."""

    @property
    def name(self) -> str:
        """As in /proc/slabinfo."""
        return self.struct.name

    @property
    def object_size(self) -> int:
        """Bytes that the user of an object may touch. Raises CorruptionError."""
        object_size = self.struct.object_size
        if not 0 < object_size <= self._size:
            raise CorruptionError(
                "kmem_cache", self.va, f"object_size {object_size} of a size of {self._size}"
            )
        return object_size

    @property
    def size(self) -> int:
        """Bytes from one object to the next."""
        return self._size

    @property
    def aliases(self) -> int:
        """How many further caches were merged into this one."""
        return max(self.struct.refcount - 1, 0)

    @property
    @abstractmethod
    def order(self) -> int:
        """The order of its slabs."""

    @property
    @abstractmethod
    def objects_per_slab(self) -> int:
        """Objects of a slab of that order."""

    @property
    def nr_slabs(self) -> int:
        """Slabs that the cache holds."""
        return self._u64[self._index + W_NR_SLABS]

    # allocating

    def alloc(self, gfp: int = GFP_KERNEL, orig_size: int = 0) -> int | None:
        """kmem_cache_alloc: the VA of an object, None without memory.

        ``orig_size``: the bytes that kmalloc was asked for, for debugging. Raises GfpError.
        """
        if gfp & GFP_SLAB_UNUSUAL or self.core.hooked:
            return self._alloc_unusual(gfp, orig_size)
        return self.alloc_unhooked(gfp, orig_size)

    def _alloc_unusual(self, gfp: int, orig_size: int) -> int | None:
        """alloc with what is rare around it: slab_pre_alloc_hook, slab_post_alloc_hook."""
        a = self.core
        if gfp & GFP_SLAB_BUG_MASK:
            names = format_gfp(gfp & GFP_SLAB_BUG_MASK)
            raise GfpError(f"gfp {gfp:#x}: {names} makes no sense for slab objects")
        if a.failslab and a.failslab(self.name, self.flags, gfp, orig_size or self.object_size):
            return None
        va = self.alloc_unhooked(gfp, orig_size)
        if va is None:
            return None
        if gfp & GFP_ZERO:
            a.ram.fill(self.space.pa(va), self._zero_size(orig_size))
        if a.kmemleak and not self.flags & SLAB_NOLEAKTRACE:
            a.kmemleak.alloc(va, orig_size or self.object_size)
        return va

    def _zero_size(self, orig_size: int) -> int:
        return self.object_size

    @abstractmethod
    def alloc_unhooked(self, gfp: int, orig_size: int) -> int | None:
        """alloc without what is rare around it: neither recorded nor made to fail."""

    @abstractmethod
    def free(self, va: int) -> None:
        """kmem_cache_free. Raises BadFree, nothing changed, for what is no live object here."""

    def alloc_from_cpu(self) -> int:
        """alloc, if that takes no more than an object that the CPU has: its VA; 0 if it does."""
        return 0

    def free_to_cpu(self, va: int) -> bool:
        """free, if that takes no more than to give the object to the CPU; False if it does.
        Raises BadFree for a double free that is seen at once."""
        return False

    def free_in_slab(self, va: int, i: int) -> None:
        """free of an address in the slab at word ``i``."""
        self.free(va)

    # the rest of the interface

    @abstractmethod
    def check_object(self, va: int) -> int:
        """The PFN of the slab of an object of this cache that starts at ``va``.

        Raises BadFree if there is none, or if it is plainly free."""

    def flush(self) -> None:  # noqa: B027
        """Take back what the CPU holds of the cache. Raises SlabError where that is corrupt."""

    @abstractmethod
    def shrink(self) -> int:
        """kmem_cache_shrink: give empty slabs back; the number of slabs released."""

    def destroy(self) -> None:
        """kmem_cache_destroy, or one user less of a merged cache.

        Raises SlabError, naming them in the log, while objects are alive."""
        self.core.destroy_cache(self.va)

    @abstractmethod
    def live_objects(self) -> list[int]:
        """VAs of all objects that are handed out, ascending within each slab.

        Raises SlabError for a corrupt slab, and under SLOB, which keeps no record."""

    @abstractmethod
    def active_objects(self) -> int:
        """How many objects are handed out."""

    @abstractmethod
    def info(self) -> SlabInfo:
        """The cache's row of /proc/slabinfo (get_slabinfo)."""

    def usable_size(self, va: int) -> int:
        """ksize of an object: from now on all of that is its user's."""
        return self.object_size

    def orig_size(self, va: int) -> int:
        """The bytes that kmalloc was asked for: object_size where that is not recorded."""
        return self.object_size

    def set_orig_size(self, va: int, size: int) -> None:  # noqa: B027
        """krealloc: from now on ``size`` bytes of the object at ``va`` are its user's."""

    @abstractmethod
    def object_info(self, va: int, pfn: int) -> ObjectInfo:
        """kmem_obj_info for an address in the slab at ``pfn``."""

    def freelist_words(self) -> list[int]:
        """PAs of the words of struct slabs that point to objects of other caches: what kmemleak
        has to follow besides objects."""
        return []

    def hooks_changed(self) -> None:  # noqa: B027
        """Fault injection or kmemleak were switched on or off."""

    def validate(self) -> int:
        """validate_slab_cache: check every slab; report and repair what is corrupt.

        Returns how many things were wrong. Without slub_debug there is nothing to check."""
        return 0

    # slabs

    def slab_base(self, i: int) -> int:
        """The VA of the slab whose struct page is at word ``i``."""
        return self._page_offset + ((i - self._memmap) << (PAGE_SHIFT - 3))

    def _alloc_slab_page(self, gfp: int, order: int) -> int | None:
        """Frames for a slab (alloc_slab_page): the word index of the head's struct page."""
        flags = gfp & GFP_SLAB_MASK | self.struct.allocflags
        flags = flags | GFP_COMP if order else flags & ~GFP_COMP
        pfn = self.core.page_alloc.alloc_pages(flags, order)
        if pfn is None:
            return None
        i = self.space.page_index(pfn)
        self._u64[i + W_SLAB_CACHE] = self.va
        self._u64[i + W_TYPE_REF] = SLAB_WORD
        return i

    def _account(self, slabs: int, objects: int) -> None:
        count_down(self._u64, self._index + W_NR_SLABS, -slabs, "kmem_cache_node.nr_slabs")
        count_down(
            self._u64, self._index + W_TOTAL_OBJECTS, -objects, "kmem_cache_node.total_objects"
        )

    def _free_slab_page(self, i: int) -> None:
        """Back to an ordinary block, which is what the buddy gave, and to the buddy."""
        u64, order = self._u64, self.core.slab_order(i)
        self._run_dtor(self.objects_of(i))
        u64[i + W_SLAB_CACHE] = u64[i + W_FREELIST] = u64[i + W_COUNTERS] = 0
        u64[i + W_SLAB_CACHE + 1] = u64[i + W_SLAB_CACHE + 2] = 0
        u64[i + W_TYPE_REF] = ALLOCATED_WORD
        self.core.page_alloc.free_pages(self.pfn(i), order)

    def objects_of(self, i: int) -> Iterable[int]:
        """The VAs of all objects of a slab, free or not."""
        return ()

    def _need_ctor(self) -> Constructor | None:
        """The cache's constructor, None if it has none. Raises SlabError for one that an
        attached kernel was not given: to be called before anything is changed."""
        if not self.struct.ctor:
            return None
        ctor = self.core.ctors.get(self.va)
        if ctor is None:
            raise SlabError(f"cache {self.name}: its constructor was not given to attach")
        return ctor

    def _need_dtor(self) -> Constructor | None:
        """As _need_ctor, of the destructor."""
        if not self.struct.dtor:
            return None
        dtor = self.core.dtors.get(self.va)
        if dtor is None:
            raise SlabError(f"cache {self.name}: its destructor was not given to attach")
        return dtor

    def _keeps_slabs(self) -> bool:
        """Whether empty slabs stay, as nobody knows how to destruct their objects (yet)."""
        return bool(self.struct.dtor) and self.va not in self.core.dtors

    def _run_ctor(self, objects: Iterable[int]) -> None:
        ctor = self._need_ctor()
        if ctor is not None:
            for va in objects:
                ctor(va)

    def _run_dtor(self, objects: Iterable[int]) -> None:
        dtor = self._need_dtor()
        if dtor is not None:
            for va in objects:
                dtor(va)

    def pfn(self, i: int) -> int:
        """The PFN of the head of the slab at word ``i``."""
        return self.space.start_pfn + ((i - self._memmap) >> 3)

    def page_va(self, i: int) -> int:
        """The VA of the head struct page of the slab at word ``i``."""
        return self._vmemmap + ((i - self._memmap) << 3)

    def page_index_of(self, page_va: int) -> int:
        """The word index of the struct page at ``page_va``. Raises SlabError for none."""
        i = page_va - self._vmemmap
        if i & 63 or not 0 <= i < self.space.vmemmap_end - self._vmemmap:
            raise SlabError(f"cache {self.name}: {page_va:#x} is no struct slab")
        return self._memmap + (i >> 3)
