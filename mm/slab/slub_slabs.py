"""SLUB's slabs: the free list that runs through their objects, and the node's lists of them.

The picture is in slub.py, which puts the CPU in front of this.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator

import numpy as np

from mm.addrspace import Space
from mm.errors import SlabError
from mm.gfp import GFP_NOFAIL, GFP_NORETRY, GFP_NOWARN, GFP_RETRY_MAYFAIL
from mm.layout import count_down, count_up
from mm.page import SLAB_WORD, W_TYPE_REF
from mm.slab.cache import KmemCache
from mm.slab.core import SlabCore
from mm.slab.flags import (
    SLAB_DEBUG_FLAGS,
    SLAB_STORE_USER,
)
from mm.slab.slub_debug import SlubDebug
from mm.slab.slub_sizes import order_objects
from mm.slab.structs import (
    NODE_FULL,
    NODE_PARTIAL,
    OO_MASK,
    OO_SHIFT,
    PG_WORKINGSET,
    W_COUNTERS,
    W_FREELIST,
    W_NR_PARTIAL,
    W_SLAB_CACHE,
    W_SLAB_LIST,
    KmemCacheStruct,
)
from mm.zone import MAX_PAGE_ORDER

_OBJECTS = 0x7FFF


def swab(value: int) -> int:
    """The bytes of a 64-bit word in the other order."""
    return int.from_bytes(value.to_bytes(8, "little"), "big")


class SlubSlabs(KmemCache):
    """The slabs of a SLUB cache."""

    def __init__(self, core: SlabCore, pa: int, debugger: SlubDebug) -> None:
        super().__init__(core, pa)
        s = self.struct
        self.debugger = debugger
        self.offset = s.offset
        self.red_left_pad = s.red_left_pad
        self.debug = bool(self.flags & SLAB_DEBUG_FLAGS)
        self._lists = core.lists
        self._order = s.oo >> OO_SHIFT
        self._objects = s.oo & OO_MASK
        self._min_partial = s.min_partial
        self._random = s.random
        self._partial = self.va + NODE_PARTIAL
        self._full = self.va + NODE_FULL
        self._nr_partial = self._index + W_NR_PARTIAL
        # The free pointer of the object at ``va`` is in word (va >> 3) + _pointer_word.
        self._pointer_word = (self.offset >> 3) - (self._page_offset >> 3)
        # Objects start below this in every slab; 0: they have different numbers of them.
        self._slab_bytes = self._objects * self._size if s.oo == s.min else 0
        self.without_cpu_slab = self.debug or bool(self._random) or core.hooked

    @staticmethod
    def problem(space: Space, s: KmemCacheStruct) -> str | None:
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

    # free pointers

    def get_freepointer(self, va: int) -> int:
        """get_freepointer: the object after ``va``, as its slab has it; may be garbage."""
        value = self._u64[(va >> 3) + self._pointer_word]
        if self._random:
            value ^= self._random ^ swab(va + self.offset)
        return value

    def set_freepointer(self, va: int, next_: int) -> None:
        """set_freepointer."""
        if self._random:
            next_ ^= self._random ^ swab(va + self.offset)
        self._u64[(va >> 3) + self._pointer_word] = next_

    def check_valid_pointer(self, i: int, va: int) -> bool:
        """check_valid_pointer: NULL, or the start of an object of the slab at ``i``."""
        if not va:
            return True
        off = va - self.slab_base(i) - self.red_left_pad
        objects = self._total(i)
        return 0 <= off < objects * self._size and not off % self._size

    def _total(self, i: int) -> int:
        """How many objects the slab at ``i`` has; never more than fit one of the cache."""
        return min(self._u64[i + W_COUNTERS] >> 16 & _OBJECTS, self._objects)

    def _corrupt(self, i: int, va: int) -> SlabError:
        return SlabError(
            f"cache {self.name}: freelist of the slab at {self.slab_base(i):#x} "
            f"holds {va:#x}, which is no object of it"
        )

    def walk_freelist(self, i: int, va: int) -> list[int]:
        """The objects of a freelist from ``va`` on. Raises SlabError when it leaves the
        slab, or runs in a circle."""
        limit = self._total(i)
        found: list[int] = []
        while va:
            if not self.check_valid_pointer(i, va):
                raise self._corrupt(i, va)
            if len(found) >= limit:
                raise SlabError(
                    f"cache {self.name}: freelist cycle in the slab at {self.slab_base(i):#x}"
                )
            found.append(va)
            va = self.get_freepointer(va)
        return found

    @abstractmethod
    def free_objects(self, pfn: int) -> list[int]:
        """VAs of the free objects of slab ``pfn``, in freelist order."""

    # slabs

    def objects_of(self, i: int) -> Iterable[int]:
        first = self.slab_base(i) + self.red_left_pad
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
        base = self.slab_base(i)
        size = self._size
        if self.debug:
            self.debugger.setup_slab(self, base, order, count)
        first = base + self.red_left_pad
        if self._random:
            for n in range(count):
                self.set_freepointer(
                    first + n * size, first + (n + 1) * size if n < count - 1 else 0
                )
        else:
            words = self.ram.array(
                self.space.pa(first + self.offset), (count - 1) * (size >> 3) + 1
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
        if self.debug:
            self.debugger.check_discarded(self, i)
        self._free_slab_page(i)

    # the node's lists

    def _add_partial(self, i: int, tail: bool) -> None:
        link = self.page_va(i) + 8 * W_SLAB_LIST
        if tail:
            self._lists.add_tail(link, self._partial)
        else:
            self._lists.add(link, self._partial)
        self._u64[i] |= PG_WORKINGSET
        count_up(self._u64, self._nr_partial, 1, "kmem_cache_node.nr_partial")

    def remove_partial(self, i: int) -> None:
        self._lists.delete(self.page_va(i) + 8 * W_SLAB_LIST)
        self._u64[i] &= ~PG_WORKINGSET
        count_down(self._u64, self._nr_partial, 1, "kmem_cache_node.nr_partial")

    def add_full(self, i: int) -> None:
        if self.flags & SLAB_STORE_USER:
            self._lists.add(self.page_va(i) + 8 * W_SLAB_LIST, self._full)

    def _remove_full(self, i: int) -> None:
        if self.flags & SLAB_STORE_USER:
            self._lists.delete(self.page_va(i) + 8 * W_SLAB_LIST)

    def _walk_slabs(self, head: int) -> Iterator[int]:
        limit = self.space.end_pfn - self.space.start_pfn
        for link in self._lists.walk(head, limit):
            yield self.page_index_of(link - 8 * W_SLAB_LIST)

    def partial_slabs(self) -> Iterator[int]:
        """PFNs of the slabs on the node's partial list. Raises ListCorruption."""
        for i in self._walk_slabs(self._partial):
            yield self.pfn(i)

    def full_slabs(self) -> Iterator[int]:
        """PFNs of the slabs on the node's list of full ones: with slub_debug=U only."""
        for i in self._walk_slabs(self._full):
            yield self.pfn(i)

    def _check_slab(self, i: int) -> None:
        if self._u64[i + W_TYPE_REF] != SLAB_WORD or self._u64[i + W_SLAB_CACHE] != self.va:
            raise SlabError(
                f"cache {self.name}: page {self.pfn(i):#x} on one of its lists is no slab of it"
            )

    def all_slabs(self) -> list[int]:
        """The word indexes of all slabs, ascending: a scan."""
        return slab_indexes(self.core, self.va)

    def slabs(self) -> list[int]:
        """PFNs of all slabs, wherever they are; a scan of the struct pages for the full
        ones, which are on no list."""
        return [self.pfn(i) for i in self.all_slabs()]


def slab_indexes(core: SlabCore, cache_va: int) -> list[int]:
    """The word indexes of the struct pages of all slabs of a cache, ascending, by a scan of
    the struct pages outside of the zones' deferred ranges; ``cache_va`` 0: of no cache."""
    found: list[int] = []
    space = core.space
    at = space.start_pfn
    holes = sorted(
        (z.first_deferred_pfn, z.deferred_end_pfn)
        for z in core.page_alloc.zones
        if z.first_deferred_pfn < z.deferred_end_pfn
    )
    for start, end in [*holes, (space.end_pfn, space.end_pfn)]:
        if start > at:
            pages = core.ram.array(space.page_pa(at), (start - at) * 8).reshape(-1, 8)
            mine = (pages[:, W_TYPE_REF] == SLAB_WORD) & (pages[:, W_SLAB_CACHE] == cache_va)
            found += [space.page_index(at) + 8 * n for n in mine.nonzero()[0].tolist()]
        at = max(at, end)
    return found
