"""What the three slab allocators have in common: caches, their list, merging, destroying.

A ``KmemCache`` hands out objects of one size, a ``SlabAllocator`` makes caches and knows
which cache an address belongs to. Objects are named by their direct-map VA; sizes are in
bytes. SLUB, SLAB and SLOB are three pairs of subclasses.

    vmcoreinfo.slab_caches <-> kmem_cache <-> kmem_cache <-> ...      (struct kmem_cache.list)

kmem_cache structs are objects of the first cache, ``kmem_cache``, which allocates itself
(bootstrap). Two caches that would hold the same objects become one (merging): no
constructor, the same flags, less than a word of difference; ``refcount`` counts the users.

Constructors and destructors are Python's and not in RAM: after ``attach`` they are given
again with ``set_ctor``. Until then what needs one raises SlabError and changes nothing: a new
slab the constructor; shrinking and destroying a cache the destructor, for which slabs that
become empty wait. Source: Linux mm/slab_common.c.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Protocol

from emu.ram import PAGE_SHIFT, PAGE_SIZE
from mm.addrspace import KERNEL_LINK_ADDR, PAGE_STRUCT_SHIFT, Space
from mm.errors import BadFree, CorruptionError, GfpError, OutOfMemory, SlabError
from mm.gfp import __GFP_DMA as GFP_DMA
from mm.gfp import __GFP_DMA32 as GFP_DMA32
from mm.gfp import __GFP_RECLAIMABLE as GFP_RECLAIMABLE
from mm.gfp import GFP_COMP, GFP_KERNEL, GFP_ZERO, format_gfp
from mm.layout import count_down
from mm.lists import Lists
from mm.page import ALLOCATED_WORD, PG_HEAD, SLAB_WORD, W_TYPE_REF, format_flags
from mm.page_alloc import PageAllocator
from mm.page_ext import PageAllocInfo
from mm.slab.flags import (
    _LETTERS,
    ARCH_SLAB_MINALIGN,
    CACHE_LINE,
    DEBUG_DEFAULT_FLAGS,
    GFP_SLAB_BUG_MASK,
    GFP_SLAB_MASK,
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
    SLAB_NOLEAKTRACE,
    SLAB_POISON,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
)
from mm.slab.structs import (
    CACHE_LINK,
    HAS_CTOR,
    NODE_FREE,
    NODE_FULL,
    NODE_PARTIAL,
    OPTION_HARDENED,
    OPTION_NOMERGE,
    W_COUNTERS,
    W_FREELIST,
    W_NR_SLABS,
    W_SLAB_CACHE,
    W_TOTAL_OBJECTS,
    KmemCacheStruct,
    SlabRoot,
)
from mm.zone import MAX_PAGE_ORDER

if TYPE_CHECKING:
    from mm.kmemleak import Kmemleak

Constructor = Callable[[int], None]  # called with the VA of each object of a new slab
TAINT_BAD_PAGE = 1 << 5
_UNUSUAL = GFP_ZERO | GFP_SLAB_BUG_MASK


def get_order(size: int) -> int:
    """The smallest order whose block holds ``size`` bytes."""
    return max(0, (size - 1).bit_length() - PAGE_SHIFT)


def calculate_alignment(flags: int, align: int, size: int) -> int:
    """The alignment of a cache's objects: a cache line, or the part of it that a small
    object fills, if asked for; at least a word."""
    if flags & SLAB_HWCACHE_ALIGN:
        line = CACHE_LINE
        while size <= line // 2:
            line //= 2
        align = max(align, line)
    return -(-max(align, ARCH_SLAB_MINALIGN) // 8) * 8


def parse_slub_debug(text: str) -> list[tuple[int, bool, list[str]]]:
    """``slub_debug=``: blocks ``letters[,cache,cache*]``, separated by ``;``.

    Each becomes (flags, whether O was given, cache patterns; none: all caches). ``-``
    switches off; no letters mean FZPU. Raises ValueError for an unknown letter.
    """
    blocks = []
    for block in text.split(";"):
        letters, *names = block.split(",")
        letters = letters.strip().upper()
        flags = DEBUG_DEFAULT_FLAGS if not letters else 0
        for letter in letters:
            if letter not in "O-" and letter not in _LETTERS:
                raise ValueError(f"slub_debug option {letter!r} unknown: one of FZPUTO-")
            flags |= _LETTERS.get(letter, 0)
        if "-" in letters:
            flags = 0
        blocks.append((flags, "O" in letters, [n.strip() for n in names if n.strip()]))
    return blocks


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


class FailSlab(Protocol):
    """should_failslab: whether this allocation shall fail (fault injection)."""

    def __call__(self, cache_name: str, cache_flags: int, gfp: int, size: int) -> bool: ...


class KmemCache(ABC):
    """The cache whose ``struct kmem_cache`` is at ``pa`` (PA)."""

    def __init__(self, allocator: SlabAllocator, pa: int) -> None:
        self.allocator = allocator
        self.struct = KmemCacheStruct(allocator.ram, pa)
        self.va = allocator.space.va(pa)
        self._space = allocator.space
        self._u64 = allocator.ram.u64
        self._index = (pa - allocator.ram.base) >> 3
        # Constants of the cache, derived once.
        self._size = self.struct.size
        self._flags = self.struct.flags
        self._page_offset = self._space.page_offset
        self._memmap = self._space.memmap_index
        self._vmemmap = self._space.vmemmap

    def __repr__(self) -> str:
        return f"<kmem_cache {self.name}>"

    @staticmethod
    @abstractmethod
    def problem(allocator: SlabAllocator, s: KmemCacheStruct) -> str | None:
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
        if gfp & _UNUSUAL or self.allocator.hooked:
            return self._alloc_unusual(gfp, orig_size)
        return self._alloc(gfp, orig_size)

    def _alloc_unusual(self, gfp: int, orig_size: int) -> int | None:
        """alloc with what is rare around it: slab_pre_alloc_hook, slab_post_alloc_hook."""
        a = self.allocator
        if gfp & GFP_SLAB_BUG_MASK:
            names = format_gfp(gfp & GFP_SLAB_BUG_MASK)
            raise GfpError(f"gfp {gfp:#x}: {names} makes no sense for slab objects")
        if a.failslab and a.failslab(self.name, self._flags, gfp, orig_size or self.object_size):
            return None
        va = self._alloc(gfp, orig_size)
        if va is None:
            return None
        if gfp & GFP_ZERO:
            a.ram.fill(self._space.pa(va), self._zero_size(orig_size))
        if a.kmemleak and not self._flags & SLAB_NOLEAKTRACE:
            a.kmemleak.alloc(va, orig_size or self.object_size)
        return va

    def _zero_size(self, orig_size: int) -> int:
        return self.object_size

    @abstractmethod
    def _alloc(self, gfp: int, orig_size: int) -> int | None: ...

    @abstractmethod
    def free(self, va: int) -> None:
        """kmem_cache_free. Raises BadFree, nothing changed, for what is no live object here."""

    def _free(self, va: int, i: int) -> None:
        """free of an address in the slab at word ``i``, or -1."""
        self.free(va)

    # the rest of the interface

    @abstractmethod
    def check_object(self, va: int) -> int:
        """The PFN of the slab of an object of this cache that starts at ``va``.

        Raises BadFree if there is none, or if it is plainly free."""

    @abstractmethod
    def shrink(self) -> int:
        """kmem_cache_shrink: give empty slabs back; the number of slabs released."""

    def destroy(self) -> None:
        """kmem_cache_destroy, or one user less of a merged cache.

        Raises SlabError, naming them in the log, while objects are alive."""
        self.allocator.destroy(self)

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

    def validate(self) -> int:
        """validate_slab_cache: check every slab; report and repair what is corrupt.

        Returns how many things were wrong. Without slub_debug there is nothing to check."""
        return 0

    # slabs

    def _slab_base(self, i: int) -> int:
        """The VA of the slab whose struct page is at word ``i``."""
        return self._page_offset + ((i - self._memmap) << (PAGE_SHIFT - 3))

    def _alloc_slab_page(self, gfp: int, order: int) -> int | None:
        """Frames for a slab (alloc_slab_page): the word index of the head's struct page."""
        flags = gfp & GFP_SLAB_MASK | self.struct.allocflags
        flags = flags | GFP_COMP if order else flags & ~GFP_COMP
        pfn = self.allocator.page_alloc.alloc_pages(flags, order)
        if pfn is None:
            return None
        i = self._space.page_index(pfn)
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
        u64, order = self._u64, self.allocator.slab_order(i)
        self._run_dtor(self._objects_of(i))
        u64[i + W_SLAB_CACHE] = u64[i + W_FREELIST] = u64[i + W_COUNTERS] = 0
        u64[i + W_SLAB_CACHE + 1] = u64[i + W_SLAB_CACHE + 2] = 0
        u64[i + W_TYPE_REF] = ALLOCATED_WORD
        pfn = self._space.start_pfn + ((i - self._memmap) >> 3)
        self.allocator.page_alloc.free_pages(pfn, order)

    def _objects_of(self, i: int) -> Iterable[int]:
        """The VAs of all objects of a slab, free or not."""
        return ()

    def _need_ctor(self) -> Constructor | None:
        """The cache's constructor, None if it has none. Raises SlabError for one that an
        attached kernel was not given: to be called before anything is changed."""
        if not self.struct.ctor:
            return None
        ctor = self.allocator.ctors.get(self.va)
        if ctor is None:
            raise SlabError(f"cache {self.name}: its constructor was not given to attach")
        return ctor

    def _need_dtor(self) -> Constructor | None:
        """As _need_ctor, of the destructor."""
        if not self.struct.dtor:
            return None
        dtor = self.allocator.dtors.get(self.va)
        if dtor is None:
            raise SlabError(f"cache {self.name}: its destructor was not given to attach")
        return dtor

    def _keeps_slabs(self) -> bool:
        """Whether empty slabs stay, as nobody knows how to destruct their objects (yet)."""
        return bool(self.struct.dtor) and self.va not in self.allocator.dtors

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

    def _pfn(self, i: int) -> int:
        return self._space.start_pfn + ((i - self._memmap) >> 3)

    def _page_va(self, i: int) -> int:
        return self._vmemmap + ((i - self._memmap) << 3)

    def _page_index_of(self, page_va: int) -> int:
        """The word index of the struct page at ``page_va``. Raises SlabError for none."""
        i = page_va - self._vmemmap
        if i & 63 or not 0 <= i < self._space.vmemmap_end - self._vmemmap:
            raise SlabError(f"cache {self.name}: {page_va:#x} is no struct slab")
        return self._memmap + (i >> 3)


class SlabAllocator(ABC):
    """All caches of a kernel; ``slab_caches`` is the VA of the head of their list.

    ``root`` is its part of vmcoreinfo; ``task`` says who the current task is; ``printk``
    takes the lines of reports.
    """

    KIND = ""
    cache_type: type[KmemCache]
    cache_struct_size = KmemCacheStruct.SIZE  # bytes of an object of the cache kmem_cache

    def __init__(
        self,
        space: Space,
        lists: Lists,
        page_alloc: PageAllocator,
        slab_caches: int,
        root: SlabRoot,
        task: PageAllocInfo,
        printk: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.space = space
        self.ram = space.ram
        self.lists = lists
        self.page_alloc = page_alloc
        self.slab_caches = slab_caches
        self.printk = printk
        self.root = root
        self.task = task
        text = root.slub_debug
        try:
            self.debug = parse_slub_debug(text) if text else []
        except ValueError as e:
            raise CorruptionError("slab_root", root.pa, f"slub_debug: {e}") from None
        self.ctors: dict[int, Constructor] = {}
        self.dtors: dict[int, Constructor] = {}
        self.failslab: FailSlab | None = None
        self.kmemleak: Kmemleak | None = None
        self.hooked = False
        # Of whoever calls, for SLAB_STORE_USER and kmemleak: set before a call.
        self.caller = KERNEL_LINK_ADDR
        self._by_va: dict[int, KmemCache] = {}  # derived
        self._memmap = space.memmap_index

    # vmcoreinfo

    @property
    def nomerge(self) -> bool:
        """slab_nomerge: never merge caches."""
        return bool(self.root.options & OPTION_NOMERGE)

    @property
    def hardened(self) -> bool:
        """CONFIG_SLAB_FREELIST_HARDENED: free pointers are stored xored."""
        return bool(self.root.options & OPTION_HARDENED)

    @property
    def tainted(self) -> int:
        """The kernel's taint bits."""
        return self.root.tainted

    @property
    def jiffies(self) -> int:
        """The kernel's clock as it stamps tracks: whoever has a timer counts it up."""
        return self.root.jiffies

    @property
    def pid(self) -> int:
        """The current task's."""
        return self.task.current_pid

    @property
    def comm(self) -> str:
        """The current task's name."""
        return self.task.current_comm or "swapper"

    def set_failslab(self, fail: FailSlab | None) -> None:
        """Ask ``fail`` before every allocation; None: no more."""
        self.failslab = fail
        self._hooks_changed()

    def set_kmemleak(self, kmemleak: Kmemleak | None) -> None:
        """Record every allocation from now on."""
        self.kmemleak = kmemleak
        self._hooks_changed()

    def _hooks_changed(self) -> None:
        self.hooked = self.failslab is not None or self.kmemleak is not None

    def flush_all(self) -> None:  # noqa: B027
        """Take back what the CPU holds of every cache."""

    # reports

    def print_tainted(self) -> str:
        """As in every report's first line (print_tainted)."""
        if not self.tainted:
            return "Not tainted"
        letters = (
            "G"
            + "".join(
                c if self.tainted >> bit & 1 else " " for bit, c in enumerate("PFSRMBUDAWCIOELKXTN")
            )[1:]
        )
        return f"Tainted: {letters}"

    def slab_bug(self, name: str, text: str) -> None:
        """The head of a report."""
        self.printk("=" * 77)
        self.printk(f"BUG {name} ({self.print_tainted()}): {text}")
        self.printk("-" * 77)
        self.printk("")

    def slab_err(self, cache: KmemCache, i: int, text: str) -> None:
        """A report on the slab whose struct page is at word ``i``; the kernel is tainted."""
        self.slab_bug(cache.name, text)
        self.print_slab_info(i)
        self.add_taint()

    def add_taint(self) -> None:
        """TAINT_BAD_PAGE."""
        self.root.tainted |= TAINT_BAD_PAGE

    def print_slab_info(self, i: int) -> None:
        """The line about a slab in every report."""
        u64 = self.ram.u64
        counters = u64[i + W_COUNTERS]
        page = self.space.vmemmap + ((i - self._memmap) << 3)
        self.printk(
            f"Slab {page:#018x} objects={counters >> 16 & 0x7FFF} used={counters & 0xFFFF} "
            f"fp={u64[i + W_FREELIST]:#018x} flags={format_flags(u64[i])}"
        )

    # creating

    def _debug_flags(self, name: str, flags: int) -> tuple[int, bool]:
        """kmem_cache_flags: ``flags`` with slub_debug's, and whether O was given."""
        found, no_higher = 0, False
        for add, o, names in self.debug:
            if not names:
                found, no_higher = add, o
        for add, o, names in self.debug:
            if any(fnmatchcase(name, pattern) for pattern in names):
                found, no_higher = add, o
        return flags | found, no_higher

    def bootstrap(self, boot_pa: int) -> KmemCache:
        """Make the cache ``kmem_cache``: built at ``boot_pa``, then moved into itself.

        Raises OutOfMemory.
        """
        size = self.cache_struct_size
        flags = self._debug_flags("kmem_cache", SLAB_HWCACHE_ALIGN)[0]
        align = calculate_alignment(flags, 0, size)
        self._fill(boot_pa, "kmem_cache", size, align, flags, False)
        boot = self.cache_type(self, boot_pa)
        self._by_va[boot.va] = boot
        va = boot.alloc(GFP_KERNEL)
        if va is None:
            raise OutOfMemory("no memory for kmem_cache")
        self._give_up(boot)
        pa = self.space.pa(va)
        self.ram.write(pa, self.ram.read(boot_pa, size))
        self.ram.write(boot_pa, bytes(size))
        del self._by_va[boot.va]
        s = KmemCacheStruct(self.ram, pa)
        s.refcount = -1
        moved = self._by_va[va] = self._moved(pa, boot.va)
        self.lists.add_tail(va + CACHE_LINK, self.slab_caches)
        return moved

    def _give_up(self, boot: KmemCache) -> None:  # noqa: B027
        """Before a cache moves: what its CPU holds goes back to the node."""

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
        return self.cache_type(self, pa)

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
        flags = self._debug_flags(name, flags)[0]
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
            self.dtors[va] = dtor
        self.lists.add_tail(va + CACHE_LINK, self.slab_caches)
        if ctor:
            self.ctors[va] = ctor
        cache = self._by_va[va] = self.cache_type(self, pa)
        return cache

    def set_ctor(
        self, cache: KmemCache, ctor: Constructor | None, dtor: Constructor | None = None
    ) -> None:
        """Give an attached kernel the constructor and destructor of a cache again."""
        for known, function in ((self.ctors, ctor), (self.dtors, dtor)):
            if function is not None:
                known[cache.va] = function

    def find_mergeable(
        self, name: str, object_size: int, align: int, flags: int
    ) -> KmemCache | None:
        """The youngest cache whose objects would be the same (find_mergeable)."""
        flags = self._debug_flags(name, flags)[0]
        if self.nomerge or flags & SLAB_NEVER_MERGE:
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
        cache = self._by_va.get(va)
        if cache is None:
            self.caches()
            cache = self._by_va.get(va)
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
            page = self.space.vmemmap + ((i - self._memmap) << 3)
            raise CorruptionError("slab", page, f"slab_cache: {e}") from None

    def _view(self, va: int) -> KmemCache:
        cache = self._by_va.get(va)
        if cache is None:
            struct = KmemCacheStruct.at(self.space, va)
            problem = self.cache_type.problem(self, struct)
            if problem is not None:
                raise CorruptionError("kmem_cache", va, problem)
            cache = self._by_va[va] = self.cache_type(self, struct.pa)
        return cache

    def slab_index(self, va: int) -> int:
        """The word index of the head struct page of the slab around a direct-map address;
        -1 if it is in no slab."""
        i = va - self.space.page_offset
        if not 0 <= i < self.space.direct_end - self.space.page_offset:
            return -1
        u64 = self.ram.u64
        i = self._memmap + (i >> PAGE_SHIFT << 3)
        head = u64[i + 1]
        if head & 1:  # a tail: compound_head
            page = head - 1 - self.space.vmemmap
            if page & 63 or not 0 <= page < self.space.vmemmap_end - self.space.vmemmap:
                return -1
            i = self._memmap + (page >> PAGE_STRUCT_SHIFT << 3)
        return i if u64[i + W_TYPE_REF] == SLAB_WORD else -1

    def slab_pfn(self, va: int) -> int | None:
        """The PFN of the head of the slab that ``va`` lies in, None if in no slab."""
        i = self.slab_index(va)
        return None if i < 0 else self.space.start_pfn + ((i - self._memmap) >> 3)

    def slab_order(self, i: int) -> int:
        """The order of the slab whose head struct page is at word ``i``."""
        order = self.ram.u64[i + 8] & 0xFF if self.ram.u64[i] & PG_HEAD else 0
        if order > MAX_PAGE_ORDER:
            pfn = self.space.start_pfn + ((i - self._memmap) >> 3)
            raise CorruptionError("slab", self.space.page_va(pfn), f"its order is {order}")
        return order

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
        cache = self._by_va.get(self.ram.u64[i + W_SLAB_CACHE]) or self._cache_of_slab(i)
        if cache is None:
            raise BadFree(va, "in a slab of no cache")
        cache._free(va, i)
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
        self.ctors.pop(cache.va, None)
        self.dtors.pop(cache.va, None)
        self._by_va.pop(cache.va, None)
        first.free(cache.va)

    def _report_remaining(self, cache: KmemCache) -> None:
        """list_slab_objects, for every slab that has some."""
        seen: dict[int, list[int]] = {}
        for va in cache.live_objects():
            seen.setdefault(self.slab_index(va), []).append(va)
        for i, objects in seen.items():
            text = f"Objects remaining in {cache.name} on __kmem_cache_shutdown()"
            self.slab_err(cache, i, text)
            base = self.space.page_offset + ((i - self._memmap) << (PAGE_SHIFT - 3))
            for va in objects:
                self.printk(f"Object {va:#018x} @offset={va - base}")
                self._print_object_tracks(cache, va)

    def _print_object_tracks(self, cache: KmemCache, va: int) -> None:  # noqa: B027
        """print_tracking of an object that is still alive."""


def print_hex_dump(prefix: str, va: int, data: bytes) -> list[str]:
    """print_hex_dump(prefix, DUMP_PREFIX_ADDRESS, 16, 1, ..., ascii): lines of 16 bytes."""
    lines = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        lines.append(f"{prefix}{va + at:016x}: {' '.join(f'{b:02x}' for b in row):<47}  {text}")
    return lines


DEBUG_LAYOUT_FLAGS = SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER

__all__ = ["BadFree", "Constructor", "KmemCache", "SlabAllocator"]
