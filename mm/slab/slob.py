"""SLOB: a heap of blocks for machines with little memory. First fit, full coalescing.

    struct slab (over the page)        a page of 2048 units of 2 bytes
    +----------+                       +-------+------+----------+------+-------+--------+
    | freelist |---------------------->| free  | used |  free    | used | free  |  used  |
    | units    | free units            | u  n -|------|> u   n - |------|> -n   |        |
    | list     |                       +-------+------+----------+------+-------+--------+
    +----------+

A free block of more than one unit holds its size in units, then the offset (in units, from
the start of the page) of the next free block; a block of one unit has room for one number,
minus the offset. The next block of the last one is the end of the page. Free blocks are in
address order and never touch: a block that is freed melts with its neighbours.

Pages with room are on one of three lists, for requests below 256 bytes, below 1024, and the
rest; a page stays on the list that it was first asked for. A search starts where the last
one ended (next fit: the list is rotated), takes the first page that has the units and a
block that fits, and in it the first such block (first fit). A page without used blocks goes
back. Aligned requests skip to the first aligned place in a block and leave what is before.

kmalloc keeps the size of an object in a header of 8 bytes in front of it; a kmem_cache knows
the size of its objects. From a page less the header on, whole pages are used. Objects are
not recorded: a live object cannot be told from its neighbour, so caches are counted
(node.total_objects), not listed. There is no slabinfo, no merging, no debugging.
Source: Linux 6.1 mm/slob.c.
"""

from __future__ import annotations

from collections.abc import Iterator

from emu.ram import PAGE_SHIFT, PAGE_SIZE
from mm.addrspace import Space
from mm.errors import BadFree, SlabError
from mm.gfp import GFP_COMP, GFP_ZERO
from mm.layout import count_down, count_up
from mm.page import ALLOCATED_WORD, PG_BIT, SLAB_WORD, W_OWNER, W_TYPE_REF
from mm.slab.allocator import SlabAllocator
from mm.slab.cache import KmemCache, ObjectInfo, SlabInfo
from mm.slab.core import SlabCore
from mm.slab.flags import ARCH_SLAB_MINALIGN, GFP_SLAB_MASK
from mm.slab.options import calculate_alignment, get_order
from mm.slab.structs import (
    W_COUNTERS,
    W_FREELIST,
    W_SLAB_CACHE,
    W_SLAB_LIST,
    W_TOTAL_OBJECTS,
    KmemCacheStruct,
    SlabRoot,
)

SLOB_UNIT = 2
SLOB_BREAK1, SLOB_BREAK2 = 256, 1024
PAGE_UNITS = PAGE_SIZE // SLOB_UNIT
MINALIGN = ARCH_SLAB_MINALIGN
PG_SLOB_FREE = PG_BIT["private"]  # the page is on one of the lists


def slob_units(size: int) -> int:
    """How many units hold ``size`` bytes."""
    return -(-size // SLOB_UNIT)


class SlobCache(KmemCache):
    """A SLOB cache: little more than a size."""

    def __init__(self, core: SlabCore, pa: int, slob: Slob) -> None:
        super().__init__(core, pa)
        self.slob = slob

    @staticmethod
    def problem(space: Space, s: KmemCacheStruct) -> str | None:
        if s.size % SLOB_UNIT or (s.size > PAGE_SIZE and s.size & (s.size - 1)):
            return f"size {s.size} is that of no object"
        return None

    @property
    def order(self) -> int:
        return get_order(self._size) if self._size >= PAGE_SIZE else 0

    @property
    def objects_per_slab(self) -> int:
        return max((PAGE_SIZE << self.order) // self._size, 1)

    @property
    def nr_partial(self) -> int:
        """0: pages are not a cache's."""
        return 0

    def alloc_unhooked(self, gfp: int, orig_size: int) -> int | None:
        slob = self.slob
        self._need_ctor()
        gfp = gfp & GFP_SLAB_MASK | self.struct.allocflags
        if self._size < PAGE_SIZE:
            va = slob.alloc(self._size, gfp, self.struct.align, 0)
        else:
            va = slob.new_pages(gfp, get_order(self._size))
        if va is not None:
            count_up(self._u64, self._index + W_TOTAL_OBJECTS, 1, "kmem_cache_node.total_objects")
            self._run_ctor((va,))
        return va

    def _find(self, va: int) -> int:
        """The index of the page of the object at ``va``. Raises BadFree."""
        slob = self.slob
        if self._size < PAGE_SIZE:
            i = slob.slab_index(va)
            if i < 0:
                raise BadFree(va, f"not an object of cache {self.name}")
            slob.check_used(i, va, slob_units(self._size))
            return i
        if not self._page_offset <= va < self.space.direct_end or va % PAGE_SIZE:
            raise BadFree(va, f"not an object of cache {self.name}")
        i = self.space.page_index(self.space.virt_to_pfn(va))
        order = get_order(self._size)
        if self._u64[i + W_TYPE_REF] != ALLOCATED_WORD or self._u64[i + W_OWNER] & 0xFFFF != order:
            raise BadFree(va, f"not an object of cache {self.name} (freed already?)")
        return i

    def check_object(self, va: int) -> int:
        return self.pfn(self._find(va))

    def free(self, va: int) -> None:
        slob = self.slob
        i = self._find(va)
        if not self._u64[self._index + W_TOTAL_OBJECTS]:
            raise BadFree(va, f"cache {self.name} has no objects in use")
        self._run_dtor((va,))
        if self._size < PAGE_SIZE:
            slob.free_block(i, va, self._size)
        else:
            slob.page_alloc.free_pages(self.pfn(i), get_order(self._size))
        count_down(self._u64, self._index + W_TOTAL_OBJECTS, 1, "kmem_cache_node.total_objects")
        if self.core.kmemleak:
            self.core.kmemleak.free(va)

    def free_in_slab(self, va: int, i: int) -> None:
        self.free(va)

    def shrink(self) -> int:
        self._need_dtor()
        return 0

    def live_objects(self) -> list[int]:
        raise SlabError("SLOB keeps no record of the objects that are handed out")

    def active_objects(self) -> int:
        return self._u64[self._index + W_TOTAL_OBJECTS]

    def info(self) -> SlabInfo:
        n = self.active_objects()
        per = self.objects_per_slab
        slabs = -(-n // per)
        return SlabInfo(self.name, n, n, self._size, per, self.order, 0, 0, 0, slabs, slabs)

    def object_info(self, va: int, pfn: int) -> ObjectInfo:
        return ObjectInfo(self, pfn, None, True)


class Slob(SlabAllocator):
    """The heap, and the caches that take from it; ``lists_va``: VA of the three list heads."""

    KIND = "slob"
    cache_type = SlobCache

    def __init__(self, core: SlabCore, slab_caches: int) -> None:
        super().__init__(core, slab_caches)
        self.lists_va = self.space.va(self.root.pa + SlabRoot.offset_of("free_slob_small"))

    def make_cache(self, pa: int) -> KmemCache:
        return SlobCache(self.core, pa, self)

    # blocks: their encoding, offsets in units from the start of the page at ``base`` (PA)

    def set_slob(self, base: int, at: int, units: int, next_: int) -> None:
        """Make the unit ``at`` the head of a free block."""
        if units > 1:
            self.ram.write16(base + 2 * at, units)
            self.ram.write16(base + 2 * at + 2, next_)
        else:
            self.ram.write16(base + 2 * at, -next_ & 0xFFFF)

    def get_slob(self, base: int, at: int) -> tuple[int, int]:
        """(units, next) of the free block at ``at``. Raises SlabError if it cannot be one."""
        units = self.ram.read16(base + 2 * at)
        if units & 0x8000:
            units, next_ = 1, 0x10000 - units
        elif at + 1 < PAGE_UNITS:
            next_ = self.ram.read16(base + 2 * at + 2)
        else:
            units, next_ = 0, 0
        if not units or at + units > PAGE_UNITS or not at + units <= next_ <= PAGE_UNITS:
            raise SlabError(
                f"SLOB: the free block at {self.space.va(base + 2 * at):#x} has "
                f"{units} units and the next one is {next_}"
            )
        return units, next_

    def _base(self, i: int) -> int:
        """The PA of the page whose struct page is at word ``i``."""
        return self.ram.base + ((i - self._memmap) << (PAGE_SHIFT - 3))

    def _first(self, i: int, base: int) -> int:
        """The offset of a page's first free block, PAGE_UNITS if it has none."""
        if not self.ram.u64[i] & PG_SLOB_FREE:
            return PAGE_UNITS
        freelist = self.ram.u64[i + W_FREELIST]
        at = freelist - self.space.va(base)
        if at & 1 or not 0 <= at < PAGE_SIZE:
            raise SlabError(f"SLOB: freelist {freelist:#x} is not inside of its page")
        return at >> 1

    def _set_first(self, i: int, base: int, at: int) -> None:
        self.ram.u64[i + W_FREELIST] = self.space.va(base) + 2 * at

    def free_blocks(self, pfn: int) -> list[tuple[int, int]]:
        """(offset, units) of the free blocks of a page, ascending. Raises SlabError."""
        i = self.space.page_index(pfn)
        base = self._base(i)
        found = []
        at = self._first(i, base)
        while at < PAGE_UNITS:  # ascends: get_slob refuses what does not
            units, next_ = self.get_slob(base, at)
            found.append((at, units))
            at = next_
        return found

    # pages

    def list_for(self, size: int) -> int:
        """The VA of the head of the list for requests of ``size`` bytes."""
        if size < SLOB_BREAK1:
            return self.lists_va
        return self.lists_va + (16 if size < SLOB_BREAK2 else 32)

    def list_pages(self, head: int) -> Iterator[int]:
        """The word indexes of the pages of one list. Raises ListCorruption, SlabError."""
        u64 = self.ram.u64
        for link in self.lists.walk(head, self.space.end_pfn - self.space.start_pfn):
            page = link - 8 * W_SLAB_LIST - self.space.vmemmap
            if page & 63 or not 0 <= page < self.space.vmemmap_end - self.space.vmemmap:
                raise SlabError(f"SLOB: {link:#x} on one of its lists is in no struct page")
            i = self._memmap + (page >> 3)
            if u64[i + W_TYPE_REF] != SLAB_WORD or not u64[i] & PG_SLOB_FREE:
                raise SlabError(f"SLOB: {link:#x} on one of its lists is no page with room")
            yield i

    def _link(self, i: int) -> int:
        return self.space.vmemmap + ((i - self._memmap) << 3) + 8 * W_SLAB_LIST

    def _set_page_free(self, i: int, head: int) -> None:
        self.lists.add(self._link(i), head)
        self.ram.u64[i] |= PG_SLOB_FREE

    def _clear_page_free(self, i: int) -> None:
        self.lists.delete(self._link(i))
        self.ram.u64[i] &= ~PG_SLOB_FREE

    def new_pages(self, gfp: int, order: int) -> int | None:
        """slob_new_pages: whole pages, their VA."""
        gfp = gfp & ~GFP_ZERO
        pfn = self.page_alloc.alloc_pages(gfp | GFP_COMP if order else gfp & ~GFP_COMP, order)
        return None if pfn is None else self.space.pfn_to_virt(pfn)

    # blocks

    def alloc(self, size: int, gfp: int, align: int, align_offset: int) -> int | None:
        """slob_alloc: ``size`` bytes so that ``align_offset`` bytes behind their start is a
        multiple of ``align``; their VA, None without memory. Not zeroed."""
        units = slob_units(size)
        head = self.list_for(size)
        u64 = self.ram.u64
        for i in self.list_pages(head):
            if u64[i + W_COUNTERS] < units:
                continue
            va = self._page_alloc(i, units, align, align_offset)
            if va is not None:
                if u64[i] & PG_SLOB_FREE and self.lists.first(head) != self._link(i):
                    # list_rotate_to_front: the next search starts here.
                    self.lists.delete(head)
                    self.lists.add_tail(head, self._link(i))
                return va
        pfn = self.page_alloc.alloc_pages(gfp & ~(GFP_ZERO | GFP_COMP), 0)
        if pfn is None:
            return None
        i = self.space.page_index(pfn)
        u64[i + W_TYPE_REF] = SLAB_WORD
        u64[i + W_SLAB_CACHE] = 0
        u64[i + W_COUNTERS] = PAGE_UNITS
        base = self._base(i)
        self._set_first(i, base, 0)
        self.set_slob(base, 0, PAGE_UNITS, PAGE_UNITS)
        self._set_page_free(i, head)
        return self._page_alloc(i, units, align, align_offset)

    def _page_alloc(self, i: int, units: int, align: int, align_offset: int) -> int | None:
        """slob_page_alloc: the first block of the page that fits."""
        u64, base = self.ram.u64, self._base(i)
        page_va = self.space.va(base)
        prev = -1
        at = self._first(i, base)
        while at < PAGE_UNITS:
            avail, next_ = self.get_slob(base, at)
            delta = 0
            if align:
                va = page_va + 2 * at + align_offset
                delta = (-va & (align - 1)) >> 1
            if avail >= units + delta:
                if delta:  # what is before the aligned place stays free
                    self.set_slob(base, at, delta, at + delta)
                    prev, at, avail = at, at + delta, avail - delta
                if avail > units:
                    self.set_slob(base, at + units, avail - units, next_)
                    next_ = at + units
                if prev >= 0:
                    prev_units = delta or self.get_slob_units(base, prev)
                    self.set_slob(base, prev, prev_units, next_)
                else:
                    self._set_first(i, base, next_)
                count_down(u64, i + W_COUNTERS, units, "slab.units")
                if not u64[i + W_COUNTERS]:
                    u64[i + W_FREELIST] = 0
                    self._clear_page_free(i)
                return page_va + 2 * at
            prev, at = at, next_
        return None

    def get_slob_units(self, base: int, at: int) -> int:
        """The units of the free block at ``at``."""
        units = self.ram.read16(base + 2 * at)
        return 1 if units & 0x8000 else units

    def check_used(self, i: int, va: int, units: int) -> None:
        """Raise BadFree if ``units`` from ``va`` on are not all in use in the page at ``i``."""
        base = self._base(i)
        at = (va - self.space.va(base)) >> 1
        if va & 1 or not units or at + units > PAGE_UNITS:
            raise BadFree(va, "not a block of SLOB")
        cur = self._first(i, base)
        while cur < at + units:
            size, next_ = self.get_slob(base, cur)
            if cur + size > at:
                raise BadFree(va, "block of SLOB is free already (double free)")
            cur = next_

    def free_block(self, i: int, va: int, size: int) -> None:
        """slob_free: ``size`` bytes at ``va``, which check_used has let pass."""
        u64, base = self.ram.u64, self._base(i)
        units = slob_units(size)
        if u64[i + W_COUNTERS] + units == PAGE_UNITS:
            if u64[i] & PG_SLOB_FREE:
                self._clear_page_free(i)
            u64[i + W_FREELIST] = u64[i + W_COUNTERS] = 0
            u64[i + W_TYPE_REF] = ALLOCATED_WORD
            self.page_alloc.free_pages(self.space.start_pfn + ((i - self._memmap) >> 3), 0)
            return
        at = (va - self.space.va(base)) >> 1
        if not u64[i] & PG_SLOB_FREE:  # the page is about to have room
            u64[i + W_COUNTERS] = units
            self._set_first(i, base, at)
            self.set_slob(base, at, units, PAGE_UNITS)
            self._set_page_free(i, self.list_for(size))
            return
        count_up(u64, i + W_COUNTERS, units, "slab.counters")
        prev, prev_units, next_ = -1, 0, self._first(i, base)
        while next_ < at:
            prev = next_
            prev_units, next_ = self.get_slob(base, prev)
        if at + units == next_ and next_ < PAGE_UNITS:
            more, next_ = self.get_slob(base, next_)
            units += more
        if prev < 0:
            self.set_slob(base, at, units, next_)
            self._set_first(i, base, at)
        elif prev + prev_units == at:
            self.set_slob(base, prev, prev_units + units, next_)
        else:
            self.set_slob(base, at, units, next_)
            self.set_slob(base, prev, prev_units, at)

    # kmalloc: the size in a header of MINALIGN bytes before the object

    @staticmethod
    def is_small(size: int) -> bool:
        """Whether kmalloc takes ``size`` bytes from the heap, not whole pages."""
        return size < PAGE_SIZE - MINALIGN

    def kmalloc(self, size: int, gfp: int) -> int | None:
        """__do_kmalloc_node of a small size."""
        align = max(MINALIGN, size) if not size & (size - 1) else MINALIGN
        va = self.alloc(size + MINALIGN, gfp, align, MINALIGN)
        if va is None:
            return None
        pa = self.space.pa(va)
        self.ram.write64(pa, size)
        if gfp & GFP_ZERO:
            self.ram.fill(pa + MINALIGN, size)
        return va + MINALIGN

    def _header(self, va: int) -> tuple[int, int]:
        """(page, size) of the kmalloc'ed object at ``va``. Raises BadFree."""
        i = self.slab_index(va)
        if i < 0 or va % MINALIGN or not va & (PAGE_SIZE - 1):
            raise BadFree(va, "not an object of kmalloc")
        size = self.ram.read64(self.space.pa(va - MINALIGN))
        if not 0 < size < PAGE_SIZE - MINALIGN:
            raise BadFree(va, f"no kmalloc header before it: a size of {size:#x}")
        self.check_used(i, va - MINALIGN, slob_units(size + MINALIGN))
        return i, size

    def kfree(self, va: int) -> bool:
        if self.slab_index(va) < 0:
            return False
        i, size = self._header(va)
        self.free_block(i, va - MINALIGN, size + MINALIGN)
        if self.kmemleak:
            self.kmemleak.free(va)
        return True

    def ksize(self, va: int) -> int:
        """The bytes of the kmalloc'ed object at ``va``. Raises BadFree."""
        return slob_units(self._header(va)[1]) * SLOB_UNIT

    # caches

    def find_mergeable(
        self, name: str, object_size: int, align: int, flags: int
    ) -> KmemCache | None:
        return None

    def _fill(
        self, pa: int, name: str, object_size: int, align: int, flags: int, ctor: bool
    ) -> None:
        align = calculate_alignment(flags, align, object_size)
        s = self._fill_common(pa, name, object_size, align, flags, ctor)
        s.size = slob_units(object_size) * SLOB_UNIT
        if s.size >= PAGE_SIZE:
            s.size = PAGE_SIZE << get_order(object_size)
        s.inuse = s.size

    def bootstrap(self, boot_pa: int) -> KmemCache:
        for n in range(3):
            self.lists.init(self.lists_va + 16 * n)
        return super().bootstrap(boot_pa)

    def _report_remaining(self, cache: KmemCache) -> None:
        name = cache.name
        self.core.slab_bug(name, f"Objects remaining in {name} on __kmem_cache_shutdown()")
        self.printk(f"SLOB does not know where its {cache.active_objects()} objects are")
        self.core.add_taint()
