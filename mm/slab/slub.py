"""SLUB: slabs are (compound) pages, and the free list of a slab runs through its objects.

    struct slab (over the head's struct page)        the slab's frames
    +------------+                                   +--------+--------+--------+--
    | freelist   |---------------------------------->| object | object | object | ...
    | inuse      | objects handed out                |   |    |  ^ |   |        |
    | objects    | objects that fit                  |   +-------+ +--> NULL    |
    | frozen     | it is the CPU's                   +--------+--------+--------+--
    | slab_list  | link of the node's partial list
    +------------+

A free object holds the VA of the next one at ``offset``: ALIGN_DOWN(object_size / 2, 8), in
its middle, where overruns of the neighbours do not reach; after the object if it has a
constructor, whose work must survive, or if it is poisoned (see slub_debug.py).

    kmem_cache.cpu_slab -> +----------+
                           | freelist | -> free objects of ``slab``, the CPU's alone
                           | tid      |    counts the kernel's own operations
                           | slab     | -> the frozen slab: freelist NULL, inuse = objects
                           | partial  | -> slab -> slab -> NULL  (by next; slabs counts them)
                           +----------+

| state of a slab | freelist | inuse | frozen | where |
|---|---|---|---|---|
| cpu slab | NULL | = objects | 1 | cpu_slab->slab; what is free is on cpu_slab->freelist |
| full | NULL | = objects | 0 | nowhere (debug: node.full) |
| cpu partial | set | any | 0 | cpu_slab->partial |
| node partial | set | any | 0 | node.partial, and PG_workingset is set |

Allocation takes from the cpu freelist; else from the cpu slab's own freelist, the first
slab of the cpu partial list, the node's partial list (freezing its first slab and moving a
few more to the cpu partial list), or a new slab. A slab that was full and is freed into
goes to the cpu partial list; when that holds ``cpu_partial_slabs`` it moves to the tail of
the node's list as a whole, where empty slabs beyond ``min_partial`` are discarded.

**Guest code shares the per-CPU part.** In RAM it pops cpu_slab->freelist, and pushes onto
it what lies in cpu_slab->slab; all else traps. So every operation here
reads that state anew. Caches with slub_debug or hardened pointers have no cpu slab, ever
(nor have the others while fault injection or kmemleak must see every allocation):
NULL sends guest code to the trap, and each object is taken from, and put back to, its slab
on the node's lists (alloc_single_from_partial, free_to_partial_list).

Source: Linux mm/slub.c (___slab_alloc, __slab_free, get_partial_node, put_cpu_partial,
deactivate_slab, calculate_order, calculate_sizes).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from emu.ram import PAGE_SHIFT, PAGE_SIZE
from mm.errors import BadFree, CorruptionError, SlabError
from mm.gfp import GFP_NOFAIL, GFP_NORETRY, GFP_NOWARN, GFP_RETRY_MAYFAIL
from mm.layout import count_down, count_up
from mm.page import SLAB_WORD, W_TYPE_REF
from mm.slab.common import (
    DEBUG_LAYOUT_FLAGS,
    KmemCache,
    ObjectInfo,
    SlabAllocator,
    SlabInfo,
    calculate_alignment,
    get_order,
)
from mm.slab.flags import (
    MAX_CACHES,
    OBJECT_POISON,
    SLAB_DEBUG_FLAGS,
    SLAB_KMALLOC,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
)
from mm.slab.structs import (
    FROZEN,
    NODE_FULL,
    NODE_PARTIAL,
    OO_MASK,
    OO_SHIFT,
    PG_WORKINGSET,
    W_COUNTERS,
    W_FREELIST,
    W_NEXT,
    W_NR_PARTIAL,
    W_SLAB_CACHE,
    W_SLAB_LIST,
    W_SLABS,
    KmemCacheCpu,
    KmemCacheNode,
    KmemCacheStruct,
    Slab,
    Track,
)
from mm.zone import MAX_PAGE_ORDER

if TYPE_CHECKING:
    from mm.slab.slub_debug import SlubDebug

__all__ = ["MAX_CACHES", "KmemCacheNode", "KmemCacheStruct", "Slab", "Slub", "SlubCache"]

SLUB_MAX_ORDER = 3
MIN_PARTIAL = 5
MAX_PARTIAL = 10
MAX_OBJS_PER_PAGE = 32767  # 15 bits
SHRINK_PROMOTE_MAX = 32
_OBJECTS = 0x7FFF
_M64 = (1 << 64) - 1


def order_objects(order: int, size: int) -> int:
    """How many objects of ``size`` bytes fit a slab of 2^order pages."""
    return (PAGE_SIZE << order) // size


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


def swab(value: int) -> int:
    """The bytes of a 64-bit word in the other order."""
    return int.from_bytes(value.to_bytes(8, "little"), "big")


class SlubCache(KmemCache):
    """A SLUB cache."""

    allocator: Slub

    def __init__(self, slub: SlabAllocator, pa: int) -> None:
        super().__init__(slub, pa)
        s = self.struct
        self._lists = slub.lists
        self._offset = s.offset
        self._offset_words = s.offset >> 3
        self._order = s.oo >> OO_SHIFT
        self._objects = s.oo & OO_MASK
        self._left = s.red_left_pad
        self._min_partial = s.min_partial
        self._cpu_partial_slabs = s.cpu_partial_slabs
        self._random = s.random
        self._debug = bool(self._flags & SLAB_DEBUG_FLAGS)
        self._single = self._debug or bool(self._random) or slub.hooked
        self._partial = self.va + NODE_PARTIAL
        self._full = self.va + NODE_FULL
        self._nr_partial = self._index + W_NR_PARTIAL
        # Words of the per-CPU part: + 0 freelist, + 1 tid, + 2 slab, + 3 partial.
        self._cpu = self._index + (KmemCacheStruct.offset_of("cpu") >> 3)

    @staticmethod
    def problem(allocator: SlabAllocator, s: KmemCacheStruct) -> str | None:
        for name, value in (("oo", s.oo), ("min", s.min)):
            order, objects = value >> OO_SHIFT, value & OO_MASK
            if order > MAX_PAGE_ORDER or objects != order_objects(order, s.size) or not objects:
                return f"{name} {value:#x}: objects of {s.size} bytes in a slab"
        if s.size % 8 or s.offset % 8 or s.offset + 8 > max(s.size, 8):
            return f"size {s.size}, offset {s.offset}: no room for a free pointer"
        return None

    @property
    def order(self) -> int:
        return self._order

    @property
    def objects_per_slab(self) -> int:
        return self._objects

    @property
    def nr_partial(self) -> int:
        """Slabs on the node's partial list."""
        return self._u64[self._nr_partial]

    @property
    def cpu_slab(self) -> KmemCacheCpu:
        """The per-CPU part."""
        return self.struct.cpu

    # free pointers

    def _get(self, va: int) -> int:
        """get_freepointer: the object after ``va``, as its slab has it; may be garbage."""
        w = ((va - self._page_offset) >> 3) + self._offset_words
        value = self._u64[w]
        if self._random:
            value ^= self._random ^ swab(va + self._offset)
        return value

    def _set(self, va: int, next_: int) -> None:
        """set_freepointer."""
        if self._random:
            next_ ^= self._random ^ swab(va + self._offset)
        self._u64[((va - self._page_offset) >> 3) + self._offset_words] = next_

    def _valid(self, i: int, va: int) -> bool:
        """check_valid_pointer: NULL, or the start of an object of the slab at ``i``."""
        if not va:
            return True
        off = va - self._slab_base(i) - self._left
        objects = self._total(i)
        return 0 <= off < objects * self._size and not off % self._size

    def _total(self, i: int) -> int:
        """How many objects the slab at ``i`` has; never more than fit one of the cache."""
        return min(self._u64[i + W_COUNTERS] >> 16 & _OBJECTS, self._objects)

    def _corrupt(self, i: int, va: int) -> SlabError:
        return SlabError(
            f"cache {self.name}: freelist of the slab at {self._slab_base(i):#x} "
            f"holds {va:#x}, which is no object of it"
        )

    def _walk(self, i: int, va: int) -> list[int]:
        """The objects of a freelist from ``va`` on. Raises SlabError when it leaves the
        slab, or runs in a circle."""
        limit = self._total(i)
        found: list[int] = []
        while va:
            if not self._valid(i, va):
                raise self._corrupt(i, va)
            if len(found) >= limit:
                raise SlabError(
                    f"cache {self.name}: freelist cycle in the slab at {self._slab_base(i):#x}"
                )
            found.append(va)
            va = self._get(va)
        return found

    def free_objects(self, pfn: int) -> list[int]:
        """VAs of the free objects of slab ``pfn``, in freelist order, those on the cpu
        freelist first. Raises SlabError when a freelist leaves the slab or has a cycle."""
        i = self._space.page_index(pfn)
        found = self._walk(i, self._u64[i + W_FREELIST])
        if self._u64[self._cpu + 2] == self._page_va(i):
            found = self._walk(i, self._u64[self._cpu]) + found
        if len(set(found)) < len(found):
            raise SlabError(
                f"cache {self.name}: an object of the slab at {self._slab_base(i):#x} "
                "is on both of its freelists (cycle)"
            )
        return found

    # slabs

    def _objects_of(self, i: int) -> Iterable[int]:
        first = self._slab_base(i) + self._left
        objects = self._total(i)
        return range(first, first + objects * self._size, self._size)

    def _new_slab(self, gfp: int) -> int | None:
        """A slab with every object on its freelist, on no list: its index (allocate_slab)."""
        self._need_ctor()
        order = self._order
        least = self.struct.min >> OO_SHIFT
        if order > least:  # worth a try, not worth any effort
            mild = gfp & ~(GFP_NOFAIL | GFP_RETRY_MAYFAIL) | GFP_NOWARN | GFP_NORETRY
            i = self._alloc_slab_page(mild, order)
            if i is None:
                order = least
                i = self._alloc_slab_page(gfp, order)
        else:
            i = self._alloc_slab_page(gfp, order)
        if i is None:
            return None
        count = order_objects(order, self._size) if order != self._order else self._objects
        base = self._slab_base(i)
        size = self._size
        if self._debug:
            self.allocator.debugger.setup_slab(self, base, order, count)
        first = base + self._left
        if self._random:
            for n in range(count):
                self._set(first + n * size, first + (n + 1) * size if n < count - 1 else 0)
        else:
            words = self.allocator.ram.array(
                self._space.pa(first + self._offset), (count - 1) * (size >> 3) + 1
            )[:: size >> 3]
            words[:-1] = np.arange(1, count, dtype=np.uint64) * np.uint64(size) + np.uint64(first)
            words[-1] = 0
        u64 = self._u64
        u64[i + W_FREELIST] = first
        u64[i + W_COUNTERS] = count << 16
        self._account(1, count)
        self._run_ctor(range(first, first + count * size, size))
        return i

    def _enough_partial(self) -> bool:
        """Whether one more slab that is empty should go back to the page allocator."""
        return self._u64[self._nr_partial] >= self._min_partial and not self._keeps_slabs()

    def _discard_slab(self, i: int) -> None:
        counters = self._u64[i + W_COUNTERS]
        self._account(-1, -(counters >> 16 & _OBJECTS))
        if self._debug:
            self.allocator.debugger.check_discarded(self, i)
        self._free_slab_page(i)

    def _add_partial(self, i: int, tail: bool) -> None:
        link = self._page_va(i) + 8 * W_SLAB_LIST
        if tail:
            self._lists.add_tail(link, self._partial)
        else:
            self._lists.add(link, self._partial)
        self._u64[i] |= PG_WORKINGSET
        count_up(self._u64, self._nr_partial, 1, "kmem_cache_node.nr_partial")

    def _remove_partial(self, i: int) -> None:
        self._lists.delete(self._page_va(i) + 8 * W_SLAB_LIST)
        self._u64[i] &= ~PG_WORKINGSET
        count_down(self._u64, self._nr_partial, 1, "kmem_cache_node.nr_partial")

    def _add_full(self, i: int) -> None:
        if self._flags & SLAB_STORE_USER:
            self._lists.add(self._page_va(i) + 8 * W_SLAB_LIST, self._full)

    def _remove_full(self, i: int) -> None:
        if self._flags & SLAB_STORE_USER:
            self._lists.delete(self._page_va(i) + 8 * W_SLAB_LIST)

    def _walk_slabs(self, head: int) -> Iterator[int]:
        limit = self._space.end_pfn - self._space.start_pfn
        for link in self._lists.walk(head, limit):
            yield self._page_index_of(link - 8 * W_SLAB_LIST)

    def partial_slabs(self) -> Iterator[int]:
        """PFNs of the slabs on the node's partial list. Raises ListCorruption."""
        for i in self._walk_slabs(self._partial):
            yield self._pfn(i)

    def full_slabs(self) -> Iterator[int]:
        """PFNs of the slabs on the node's list of full ones: with slub_debug=U only."""
        for i in self._walk_slabs(self._full):
            yield self._pfn(i)

    def cpu_partial_slabs(self) -> list[int]:
        """PFNs of the slabs on the per-CPU partial list, first to last.

        Raises SlabError when it is no list of this cache's slabs, or has a cycle.
        """
        return [self._pfn(i) for i in self._cpu_partial_list(self._u64[self._cpu + 3])]

    def _cpu_partial_list(self, page_va: int) -> list[int]:
        u64 = self._u64
        found: list[int] = []
        limit = self.nr_slabs
        while page_va:
            i = self._page_index_of(page_va)
            self._check_slab(i)
            if len(found) >= limit:
                raise SlabError(f"cache {self.name}: its cpu partial list has a cycle")
            found.append(i)
            page_va = u64[i + W_NEXT]
        return found

    def _check_slab(self, i: int) -> None:
        if self._u64[i + W_TYPE_REF] != SLAB_WORD or self._u64[i + W_SLAB_CACHE] != self.va:
            raise SlabError(
                f"cache {self.name}: page {self._pfn(i):#x} on one of its lists is no slab of it"
            )

    # the per-CPU part

    def _put_cpu_partial(self, i: int, drain: bool) -> None:
        u64 = self._u64
        old = u64[self._cpu + 3]
        slabs = 0
        to_put = 0
        if old:
            at = self._page_index_of(old)
            self._check_slab(at)
            slabs = u64[at + W_SLABS]
            if drain and slabs >= self._cpu_partial_slabs:
                to_put, old, slabs = old, 0, 0
        u64[i + W_NEXT] = old
        u64[i + W_SLABS] = slabs + 1
        u64[self._cpu + 3] = self._page_va(i)
        if to_put:
            self._put_partials(to_put)

    def _put_partials(self, page_va: int) -> None:
        """A per-CPU partial list to the node's (__put_partials)."""
        u64 = self._u64
        discard = []
        for i in self._cpu_partial_list(page_va):
            u64[i + W_NEXT] = u64[i + W_SLABS] = 0
            if not u64[i + W_COUNTERS] & 0xFFFF and self._enough_partial():
                discard.append(i)
            else:
                self._add_partial(i, tail=True)
        for i in reversed(discard):
            self._discard_slab(i)

    def _deactivate_slab(self, i: int, freelist: int) -> None:
        """The cpu slab back to the node, its cpu freelist in front of its own."""
        u64 = self._u64
        free = self._walk(i, freelist)
        own = u64[i + W_FREELIST]
        counters = u64[i + W_COUNTERS] & ~FROZEN
        if free:
            counters -= len(free)
            self._set(free[-1], own)
            u64[i + W_FREELIST] = freelist
        u64[i + W_COUNTERS] = counters
        if not counters & 0xFFFF and self._enough_partial():
            self._discard_slab(i)
        elif u64[i + W_FREELIST]:
            self._add_partial(i, tail=bool(own))

    def flush(self) -> None:
        """flush_slab: the cpu slab and the cpu partial list go back to the node.

        Raises SlabError for a corrupt cpu freelist."""
        u64, c = self._u64, self._cpu
        slab, freelist = u64[c + 2], u64[c]
        if slab:
            i = self._page_index_of(slab)
            self._check_slab(i)
            self._walk(i, freelist)
            u64[c] = u64[c + 2] = 0
            u64[c + 1] = u64[c + 1] + 1 & _M64
            self._deactivate_slab(i, freelist)
        partial, u64[c + 3] = u64[c + 3], 0
        if partial:
            self._put_partials(partial)

    def _get_partial(self) -> int | None:
        """A slab of the node's partial list, off it; some more to the cpu's (get_partial_node)."""
        first = self._lists.first(self._partial)
        if not first:
            return None
        found: int | None = None
        taken = 0
        for i in self._walk_slabs(self._partial):
            self._check_slab(i)
            self._remove_partial(i)
            if found is None:
                found = i
                if not self._cpu_partial_slabs:
                    break
            else:
                self._put_cpu_partial(i, drain=False)
                taken += 1
                if taken > self._cpu_partial_slabs // 2:
                    break
        return found

    def _freeze(self, i: int) -> int:
        """Make the slab the CPU's: its freelist (freeze_slab)."""
        u64 = self._u64
        freelist = u64[i + W_FREELIST]
        objects = u64[i + W_COUNTERS] >> 16 & _OBJECTS
        u64[i + W_FREELIST] = 0
        u64[i + W_COUNTERS] = FROZEN | objects << 16 | objects
        return freelist

    def _slow_alloc(self, gfp: int) -> int | None:
        """___slab_alloc: the cpu freelist is empty. The object, the rest on the cpu freelist."""
        u64, c = self._u64, self._cpu
        slab = u64[c + 2]
        if slab:
            i = self._page_index_of(slab)
            self._check_slab(i)
            if u64[i + W_FREELIST]:
                return self._load(i, self._freeze(i))
            u64[i + W_COUNTERS] &= ~FROZEN  # full, and nobody's
            u64[c + 2] = 0
            u64[c + 1] = u64[c + 1] + 1 & _M64
        partial = u64[c + 3]
        if partial:
            i = self._page_index_of(partial)
            self._check_slab(i)
            u64[c + 3] = u64[i + W_NEXT]
            u64[i + W_NEXT] = u64[i + W_SLABS] = 0
        else:
            found = self._get_partial()
            if found is None:
                found = self._new_slab(gfp)
            if found is None:
                return None
            i = found
        u64[c + 2] = self._page_va(i)
        return self._load(i, self._freeze(i))

    def _load(self, i: int, va: int) -> int:
        if not va or not self._valid(i, va):
            raise self._corrupt(i, va)
        self._u64[self._cpu] = self._get(va)
        self._u64[self._cpu + 1] = self._u64[self._cpu + 1] + 1 & _M64
        return va

    # objects

    def _alloc(self, gfp: int, orig_size: int) -> int | None:
        u64, c = self._u64, self._cpu
        va = u64[c]
        if not va:
            if self._single:
                return self._alloc_single(gfp, orig_size)
            return self._slow_alloc(gfp)
        # The fast path, the same that guest code has.
        i = self._memmap + ((u64[c + 2] - self._vmemmap) >> 3)
        off = va - self._page_offset - ((i - self._memmap) << (PAGE_SHIFT - 3))
        try:
            if off < 0 or off >= (u64[i + W_COUNTERS] >> 16 & _OBJECTS) * self._size:
                raise IndexError
            next_ = u64[((va - self._page_offset) >> 3) + self._offset_words]
        except IndexError:
            i = self._page_index_of(u64[c + 2])
            raise self._corrupt(i, va) from None
        if off % self._size:
            raise self._corrupt(i, va)
        u64[c] = next_
        u64[c + 1] = u64[c + 1] + 1 & _M64
        return va

    def _alloc_single(self, gfp: int, orig_size: int) -> int | None:
        """alloc_single_from_partial, alloc_single_from_new_slab: without a cpu slab."""
        u64 = self._u64
        for _ in range(self.nr_slabs + 2):
            link = self._lists.first(self._partial)
            if link:
                i = self._page_index_of(link - 8 * W_SLAB_LIST)
                self._check_slab(i)
            else:
                new = self._new_slab(gfp)
                if new is None:
                    return None
                i = new
            va = u64[i + W_FREELIST]
            debug = self.allocator.debugger
            if self._debug and not debug.alloc_processing(self, i, va, orig_size):
                if u64[i] & PG_WORKINGSET:  # not even a slab
                    self._remove_partial(i)
                elif not link:
                    self._add_full(i)
                continue
            if not va or not self._valid(i, va):
                raise self._corrupt(i, va)
            next_ = self._get(va)
            u64[i + W_FREELIST] = next_
            count_up(u64, i + W_COUNTERS, 1, "slab.counters")
            if self._debug:
                self.allocator.debugger.alloc_done(self, va, orig_size)
            counters = u64[i + W_COUNTERS]
            if counters & 0xFFFF == counters >> 16 & _OBJECTS:
                if link:
                    self._remove_partial(i)
                self._add_full(i)
            elif not link:
                self._add_partial(i, tail=False)
            return va
        raise SlabError(f"cache {self.name}: every one of its slabs is corrupt")

    def _zero_size(self, orig_size: int) -> int:
        if orig_size and self._flags & SLAB_KMALLOC and self._flags & SLAB_STORE_USER:
            return orig_size
        return self.struct.object_size

    def _check(self, va: int) -> int:
        """The index of the slab of the object at ``va``. Raises BadFree."""
        i = self.allocator.slab_index(va)
        if i < 0 or self._u64[i + W_SLAB_CACHE] != self.va:
            raise BadFree(va, f"not an object of cache {self.name}")
        off = va - self._slab_base(i) - self._left
        if off % self._size or not (
            0 <= off < (self._u64[i + W_COUNTERS] >> 16 & _OBJECTS) * self._size
        ):
            raise BadFree(va, f"inside of a slab of {self.name}, but not the start of an object")
        return i

    def check_object(self, va: int) -> int:
        i = self._check(va)
        if va in (self._u64[i + W_FREELIST], self._u64[self._cpu]):
            raise self._double(va)
        return self._pfn(i)

    def _double(self, va: int) -> BadFree:
        return BadFree(va, f"object of {self.name} is free already (double free)")

    def free(self, va: int) -> None:
        self._free(va, self.allocator.slab_index(va))

    def _free(self, va: int, i: int) -> None:
        u64 = self._u64
        off = va - self._page_offset - ((i - self._memmap) << (PAGE_SHIFT - 3)) - self._left
        if (
            i < 0
            or u64[i + W_SLAB_CACHE] != self.va
            or off % self._size
            or off < 0
            or off >= (u64[i + W_COUNTERS] >> 16 & _OBJECTS) * self._size
        ):
            if self._debug and i >= 0 and u64[i + W_SLAB_CACHE] == self.va:
                self.allocator.debugger.report_invalid_free(self, i, va)
            self._check(va)
        c = self._cpu
        if u64[c + 2] == self._vmemmap + ((i - self._memmap) << 3):
            head = u64[c]
            if head == va:
                raise self._double(va)
            u64[((va - self._page_offset) >> 3) + self._offset_words] = head
            u64[c] = va
            u64[c + 1] = u64[c + 1] + 1 & _M64
        elif self._single:
            self._free_single(i, va)
        else:
            self._slow_free(i, va)
        allocator = self.allocator
        if allocator.hooked and allocator.kmemleak:
            allocator.kmemleak.free(va)

    def _slow_free(self, i: int, va: int) -> None:
        """__slab_free: an object into a slab that is not the cpu's."""
        u64 = self._u64
        prior = u64[i + W_FREELIST]
        counters = u64[i + W_COUNTERS]
        if prior == va:
            raise self._double(va)
        if not counters & 0xFFFF:
            raise BadFree(
                va, f"slab of {self.name} has no objects in use: free already (double free)"
            )
        self._set(va, prior)
        counters -= 1
        u64[i + W_FREELIST] = va
        u64[i + W_COUNTERS] = counters
        if not prior:
            self._put_cpu_partial(i, drain=True)
        elif not counters & 0xFFFF and u64[i] & PG_WORKINGSET and self._enough_partial():
            self._remove_partial(i)
            self._discard_slab(i)

    def _free_single(self, i: int, va: int) -> None:
        """free_to_partial_list: without a cpu slab."""
        u64 = self._u64
        if self._debug:
            if not self.allocator.debugger.free_processing(self, i, va):
                return
        elif u64[i + W_FREELIST] == va or not u64[i + W_COUNTERS] & 0xFFFF:
            raise self._double(va)
        prior = u64[i + W_FREELIST]
        counters = u64[i + W_COUNTERS] - 1
        self._set(va, prior)
        u64[i + W_FREELIST] = va
        u64[i + W_COUNTERS] = counters
        empty = not counters & 0xFFFF and self._enough_partial()
        if not prior:
            self._remove_full(i)
            if not empty:
                self._add_partial(i, tail=True)
        elif empty:
            self._remove_partial(i)
        if empty:
            self._discard_slab(i)

    # the rest of the interface

    def shrink(self) -> int:
        self._need_dtor()
        before = self.nr_slabs
        self.flush()
        promote: list[list[int]] = [[] for _ in range(SHRINK_PROMOTE_MAX)]
        discard = []
        for i in self._walk_slabs(self._partial):
            counters = self._u64[i + W_COUNTERS]
            free = (counters >> 16 & _OBJECTS) - (counters & 0xFFFF)
            if free < 0:
                why = f"counters {counters:#x}: more objects in use than there are"
                raise CorruptionError("slab", self._page_va(i), why)
            if not counters & 0xFFFF:
                self._remove_partial(i)
                discard.append(i)
            elif free <= SHRINK_PROMOTE_MAX:
                promote[free - 1].append(i)
        # The fullest slabs first, so that the emptiest have time to become empty.
        for slabs in reversed(promote):
            for i in slabs:
                link = self._page_va(i) + 8 * W_SLAB_LIST
                self._lists.delete(link)
                self._lists.add(link, self._partial)
        for i in discard:
            self._discard_slab(i)
        return before - self.nr_slabs

    def slabs(self) -> list[int]:
        """PFNs of all slabs, wherever they are; a scan of the struct pages for the full
        ones, which are on no list."""
        return [self._pfn(i) for i in self.allocator.slab_indexes(self.va)]

    def live_objects(self) -> list[int]:
        live: list[int] = []
        for i in self.allocator.slab_indexes(self.va):
            free = set(self.free_objects(self._pfn(i)))
            live += [va for va in self._objects_of(i) if va not in free]
        return live

    def _cpu_free(self) -> int:
        """Free objects of the cpu slab that are on the cpu freelist."""
        slab = self._u64[self._cpu + 2]
        return len(self._walk(self._page_index_of(slab), self._u64[self._cpu])) if slab else 0

    def active_objects(self) -> int:
        u64 = self._u64
        free = self._cpu_free()
        slabs = [self._space.page_index(pfn) for pfn in self.partial_slabs()]
        slabs += self._cpu_partial_list(u64[self._cpu + 3])
        for i in slabs:
            counters = u64[i + W_COUNTERS]
            free += (counters >> 16 & _OBJECTS) - (counters & 0xFFFF)
        return self.struct.node.total_objects - free

    def info(self) -> SlabInfo:
        # As Linux: what is free in slabs that are the CPU's counts as active.
        node = self.struct.node
        free = 0
        for pfn in self.partial_slabs():
            counters = self._u64[self._space.page_index(pfn) + W_COUNTERS]
            free += (counters >> 16 & _OBJECTS) - (counters & 0xFFFF)
        total, slabs = node.total_objects, node.nr_slabs
        return SlabInfo(
            self.name, total - free, total, self._size, self._objects, self._order,
            0, 0, 0, slabs, slabs,
        )  # fmt: skip

    def usable_size(self, va: int) -> int:
        if self._debug:
            self.allocator.debugger.skip_orig_size_check(self, va)
        return self.struct.object_size

    def orig_size(self, va: int) -> int:
        return self.allocator.debugger.orig_size(self, va)

    def set_orig_size(self, va: int, size: int) -> None:
        self.allocator.debugger.krealloc(self, va, size)

    def object_info(self, va: int, pfn: int) -> ObjectInfo:
        i = self._space.page_index(pfn)
        off = va - self._slab_base(i) - self._left
        n = off // self._size
        objects = self._u64[i + W_COUNTERS] >> 16 & _OBJECTS
        if not 0 <= n < objects or off - n * self._size >= self.struct.object_size:
            return ObjectInfo(self, pfn, None, False)
        start = self._slab_base(i) + self._left + n * self._size
        live = start not in self.free_objects(pfn)
        tracks = self.allocator.debugger.tracks(self, start)
        return ObjectInfo(self, pfn, start, live, *tracks)

    def validate(self) -> int:
        return self.allocator.debugger.validate(self) if self._debug else 0


class Slub(SlabAllocator):
    """All SLUB caches of a kernel."""

    KIND = "slub"
    cache_type = SlubCache
    debugger: SlubDebug

    def __init__(self, *args: object, **keywords: object) -> None:
        super().__init__(*args, **keywords)  # type: ignore[arg-type]
        from mm.slab.slub_debug import SlubDebug

        self.debugger = SlubDebug(self)

    def slab_indexes(self, cache_va: int) -> list[int]:
        """The word indexes of the struct pages of all slabs of a cache, by a scan."""
        return slab_indexes(self, cache_va)

    def flush_all(self) -> None:
        for cache in self.caches():
            if isinstance(cache, SlubCache):
                cache.flush()

    def _hooks_changed(self) -> None:
        """While every allocation must be seen, guest code finds no cpu slab to take from."""
        super()._hooks_changed()
        if self.hooked:
            self.flush_all()
        for cache in self.caches():
            if isinstance(cache, SlubCache):
                cache._single = cache._debug or bool(cache._random) or self.hooked

    def _give_up(self, boot: KmemCache) -> None:
        if isinstance(boot, SlubCache):
            boot.flush()

    def _moved(self, pa: int, old_va: int) -> KmemCache:
        s = KmemCacheStruct(self.ram, pa)
        s.cpu_slab = self.space.va(pa) + KmemCacheStruct.offset_of("cpu")
        return super()._moved(pa, old_va)

    def _fill(
        self, pa: int, name: str, object_size: int, align: int, flags: int, ctor: bool
    ) -> None:
        """calculate_sizes. ``align`` is calculate_alignment's."""
        align = calculate_alignment(flags, align, object_size)
        no_higher = self._debug_flags(name, 0)[1]
        if no_higher:
            size, *_ = self._sizes(object_size, align, flags, ctor)
            if get_order(size) > get_order(object_size):
                flags &= ~DEBUG_LAYOUT_FLAGS
        size, inuse, offset, left = self._sizes(object_size, align, flags, ctor)
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
        if self.hardened:
            s.random = self._random_key(name)
        if not flags & SLAB_DEBUG_FLAGS and not s.random:
            s.cpu_partial = calculate_cpu_partial(size)
            s.cpu_partial_slabs = -(-2 * s.cpu_partial // objects)

    @staticmethod
    def _sizes(object_size: int, align: int, flags: int, ctor: bool) -> tuple[int, int, int, int]:
        """(size, inuse, offset, red_left_pad) of an object with its metadata."""
        size = -(-object_size // 8) * 8
        if flags & SLAB_RED_ZONE and size == object_size:
            size += 8  # room for the right red zone
        inuse = size
        orig_size = flags & SLAB_KMALLOC and flags & SLAB_STORE_USER
        if (
            flags & SLAB_POISON
            or ctor
            or (flags & SLAB_RED_ZONE and (object_size < 8 or orig_size))
        ):
            offset = size
            size += 8
        else:
            offset = object_size // 2 & ~7
        if flags & SLAB_STORE_USER:
            size += 2 * Track.SIZE
            if flags & SLAB_KMALLOC:
                size += 4
        left = 0
        if flags & SLAB_RED_ZONE:
            left = -(-8 // align) * align
            size += 8 + left
        return -(-size // align) * align, inuse, offset, left

    def _random_key(self, name: str) -> int:
        """The key of a cache: not random but different for each, so that a boot is repeatable."""
        key = 0xCBF29CE484222325
        for byte in name.encode():
            key = (key ^ byte) * 0x100000001B3 & _M64
        return key | 1

    def _print_object_tracks(self, cache: KmemCache, va: int) -> None:
        if isinstance(cache, SlubCache):
            self.debugger.print_tracking(cache, va)


def slab_indexes(allocator: SlabAllocator, cache_va: int) -> list[int]:
    """The word indexes of the struct pages of all slabs of a cache, ascending, by a scan of
    the struct pages outside of the zones' deferred ranges; ``cache_va`` 0: of no cache."""
    found: list[int] = []
    space = allocator.space
    at = space.start_pfn
    holes = sorted(
        (z.first_deferred_pfn, z.deferred_end_pfn)
        for z in allocator.page_alloc.zones
        if z.first_deferred_pfn < z.deferred_end_pfn
    )
    for start, end in [*holes, (space.end_pfn, space.end_pfn)]:
        if start > at:
            pages = allocator.ram.array(space.page_pa(at), (start - at) * 8).reshape(-1, 8)
            mine = (pages[:, W_TYPE_REF] == SLAB_WORD) & (pages[:, W_SLAB_CACHE] == cache_va)
            found += [space.page_index(at) + 8 * n for n in mine.nonzero()[0].tolist()]
        at = max(at, end)
    return found
