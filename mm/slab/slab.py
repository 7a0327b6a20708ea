"""SLAB: an index array tracks a slab's free objects, and the CPU keeps a stack of them.

    |<- colour ->| object 0 | object 1 | ... | object num-1 | left over | index array |
    ^            ^ s_mem                                                  ^ freelist
    slab

``freelist`` is ``num`` one-byte indexes; the first ``active`` of them are handed out, the
rest name the free objects. Where it lies is tried in this order:

| kind | where | condition |
|---|---|---|
| FREELIST_IN_OBJECT | in a free object | no constructor, no poison, and the array fits an object |
| FREELIST_OFF_SLAB | kmalloc'ed | of at most half an object, and no room behind the objects |
| FREELIST_ON_SLAB | at the slab's end | else |

In a free object it is the last one to be handed out; ``freelist`` is NULL in a full slab
and the object freed first takes the array. Slabs start their objects at different colours,
multiples of a cache line within what is left over, so that equal objects of neighbouring
slabs do not compete for the same cache lines.

    kmem_cache.cpu_slab -> struct array_cache {avail, limit, batchcount, touched}
                           entry[limit]: free objects, the last one is the next to go

An empty stack is refilled with ``batchcount`` objects from slabs_partial, else slabs_free,
else a new slab; a full one gives its oldest ``batchcount`` back. Free slabs beyond
``free_limit`` objects go back to the page allocator. Lists: node.partial, .full, .free.

Debugging: slab_debug.py. Source: Linux 6.1 mm/slab.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from emu.ram import PAGE_SIZE
from mm.addrspace import Space
from mm.errors import BadFree, SlabError
from mm.layout import count_down, count_up
from mm.page import ALLOCATED_WORD, SLAB_WORD, W_TYPE_REF
from mm.slab.cache import KmemCache, ObjectInfo, SlabInfo
from mm.slab.core import SlabCore
from mm.slab.flags import (
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
)
from mm.slab.slab_debug import SlabDebug
from mm.slab.structs import (
    FREELIST_IN_OBJECT,
    FREELIST_OFF_SLAB,
    FREELIST_ON_SLAB,
    NODE_FREE,
    NODE_FULL,
    NODE_PARTIAL,
    W_COUNTERS,
    W_FREE_OBJECTS,
    W_FREELIST,
    W_SLAB_CACHE,
    W_SLAB_LIST,
    ArrayCache,
    KmemCacheStruct,
)
from mm.zone import MAX_PAGE_ORDER

SLAB_OBJ_MAX_NUM = 255  # one-byte indexes
BATCHREFILL_LIMIT = 16
ARRAY_LIMIT_MAX = 120
_ACTIVE = 1 << 32  # struct slab_active: s_mem in the low half, active in the high one
_LOW32 = 0xFFFFFFFF


class IndexArrays(Protocol):
    """Where index arrays that lie off their slab come from."""

    def freelist_cache(self, size: int) -> KmemCache:
        """The cache that such arrays of ``size`` bytes are from. Raises SlabError."""


class SlabCache(KmemCache):
    """A SLAB cache."""

    def __init__(self, core: SlabCore, pa: int, index_arrays: IndexArrays) -> None:
        super().__init__(core, pa)
        s = self.struct
        self.index_arrays = index_arrays
        self._lists = core.lists
        self._num = s.num
        self._order = s.min  # gfporder
        self._kind = s.freelist_kind
        self.obj_offset = s.obj_offset
        self._partial = self.va + NODE_PARTIAL
        self._full = self.va + NODE_FULL
        self._free_slabs = self.va + NODE_FREE
        debug = self.flags & (SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER)
        self.debug = SlabDebug(self, core) if debug else None
        ac_index = (self.space.pa(s.array_cache) - self.ram.base) >> 3
        self._ac = ac_index + ArrayCache.word_of("avail")
        self._entry = ac_index + (ArrayCache.SIZE >> 3)
        ac = self.array_cache
        self.limit, self._batchcount = ac.limit, ac.batchcount

    @staticmethod
    def problem(space: Space, s: KmemCacheStruct) -> str | None:
        if s.min > MAX_PAGE_ORDER or not 0 < s.num <= SLAB_OBJ_MAX_NUM:
            return f"min {s.min}, num {s.num}: no such slab"
        if s.num * s.size > PAGE_SIZE << s.min or s.freelist_size != s.num:
            return f"num {s.num} of size {s.size}, freelist_size {s.freelist_size}"
        if s.freelist_kind > FREELIST_IN_OBJECT or s.obj_offset >= s.size or not s.colour_off:
            return f"freelist_kind {s.freelist_kind}, obj_offset {s.obj_offset}"
        if s.array_cache != s.pa - space.ram.base + space.page_offset + KmemCacheStruct.SIZE:
            return f"array_cache {s.array_cache:#x} is not right behind"
        ac = ArrayCache(space.ram, s.pa + KmemCacheStruct.SIZE)
        if not 0 < ac.batchcount <= ac.limit <= ARRAY_LIMIT_MAX:
            return f"array_cache: limit {ac.limit}, batchcount {ac.batchcount}"
        return None

    @property
    def order(self) -> int:
        return self._order

    @property
    def objects_per_slab(self) -> int:
        return self._num

    @property
    def nr_partial(self) -> int:
        """Slabs with some objects handed out, to the user or the CPU's stack."""
        return sum(1 for _ in self._walk_slabs(self._partial))

    @property
    def array_cache(self) -> ArrayCache:
        """The CPU's stack."""
        return ArrayCache(self.ram, self.space.pa(self.struct.array_cache))

    def array_entries(self) -> list[int]:
        """What is on the CPU's stack, the next object to go last. Raises SlabError."""
        avail = self._u64[self._ac] & _LOW32
        if avail > self.limit:
            raise SlabError(f"cache {self.name}: array_cache.avail is {avail} of {self.limit}")
        return self._u64[self._entry : self._entry + avail].tolist()

    # slabs

    def _s_mem(self, i: int) -> int:
        return self.slab_base(i) + (self._u64[i + W_COUNTERS] & _LOW32)

    def objects_of(self, i: int) -> Iterable[int]:
        first = self._s_mem(i) + self.obj_offset
        return range(first, first + self._num * self._size, self._size)

    def _walk_slabs(self, head: int) -> Iterator[int]:
        limit = self.space.end_pfn - self.space.start_pfn
        for link in self._lists.walk(head, limit):
            i = self.page_index_of(link - 8 * W_SLAB_LIST)
            if self._u64[i + W_TYPE_REF] != SLAB_WORD or self._u64[i + W_SLAB_CACHE] != self.va:
                raise SlabError(
                    f"cache {self.name}: page {self.pfn(i):#x} on one of its lists is no slab of it"
                )
            yield i

    def partial_slabs(self) -> Iterator[int]:
        """PFNs on slabs_partial."""
        return (self.pfn(i) for i in self._walk_slabs(self._partial))

    def full_slabs(self) -> Iterator[int]:
        """PFNs on slabs_full."""
        return (self.pfn(i) for i in self._walk_slabs(self._full))

    def free_slabs(self) -> Iterator[int]:
        """PFNs on slabs_free."""
        return (self.pfn(i) for i in self._walk_slabs(self._free_slabs))

    def freelist_pa(self, i: int) -> int:
        """The PA of the index array of the slab at word ``i``. Raises SlabError."""
        va = self._u64[i + W_FREELIST]
        base = self.slab_base(i)
        if self._kind == FREELIST_ON_SLAB:
            good = va == base + (PAGE_SIZE << self._order) - self.struct.freelist_size
        elif self._kind == FREELIST_IN_OBJECT:
            off = va - self._s_mem(i) - self.obj_offset
            good = not off % self._size and 0 <= off < self._num * self._size
        else:
            good = self.space.page_offset <= va < self.space.direct_end - SLAB_OBJ_MAX_NUM
        if not good:
            raise SlabError(f"cache {self.name}: the slab at {base:#x} has its freelist at {va:#x}")
        return self.space.pa(va)

    def free_objects(self, pfn: int) -> list[int]:
        """VAs of the free objects of slab ``pfn``, in the order in which they would go; those
        on the CPU's stack are not among them. Raises SlabError for a bad index array."""
        i = self.space.page_index(pfn)
        active = self._u64[i + W_COUNTERS] >> 32
        if active > self._num:
            raise SlabError(f"cache {self.name}: active is {active} of {self._num}")
        if active == self._num:
            return []
        indexes = self.ram.read(self.freelist_pa(i) + active, self._num - active)
        if max(indexes) >= self._num or len(set(indexes)) < len(indexes):
            raise SlabError(
                f"cache {self.name}: the freelist of the slab at {self.slab_base(i):#x} "
                f"is no list of objects: {indexes.hex(' ')}"
            )
        first = self._s_mem(i) + self.obj_offset
        return [first + n * self._size for n in indexes]

    def _grow(self, gfp: int) -> int | None:
        """cache_grow_begin: a new slab, on no list."""
        self._need_ctor()
        i = self._alloc_slab_page(gfp, self._order)
        if i is None:
            return None
        s, node, u64 = self.struct, self.struct.node, self._u64
        colour = node.colour_next + 1
        if colour >= s.colour:
            colour = 0
        base = self.slab_base(i)
        s_mem = colour * s.colour_off
        size = s.freelist_size
        if self._kind == FREELIST_OFF_SLAB:
            freelist = self.index_arrays.freelist_cache(size).alloc(gfp)
            if freelist is None:
                u64[i + W_SLAB_CACHE] = 0
                self._undo_slab_page(i)
                return None
            if self.core.kmemleak:  # found through the struct slab
                self.core.kmemleak.free(freelist)
        elif self._kind == FREELIST_ON_SLAB:
            freelist = base + (PAGE_SIZE << self._order) - size
        else:
            freelist = base + s_mem + (self._num - 1) * self._size + self.obj_offset
        node.colour_next = colour
        u64[i + W_COUNTERS] = s_mem
        u64[i + W_FREELIST] = freelist
        objects = self.objects_of(i)
        if self.debug:
            for va in objects:
                self.debug.init_object(va)
        self._run_ctor(objects)
        self.ram.write(self.space.pa(freelist), bytes(range(self._num)))
        self._account(1, self._num)
        return i

    def _undo_slab_page(self, i: int) -> None:
        """Frames that did not become a slab go back."""
        order = self.core.slab_order(i)
        self._u64[i + W_TYPE_REF] = ALLOCATED_WORD
        self.core.page_alloc.free_pages(self.pfn(i), order)

    def _destroy_slab(self, i: int) -> None:
        """slab_destroy: to the page allocator; it is off its list already."""
        freelist = self._u64[i + W_FREELIST]
        self._account(-1, -self._num)
        if self.debug:
            for va in self.objects_of(i):
                self.debug.check_poison(va)
        self._free_slab_page(i)
        if self._kind == FREELIST_OFF_SLAB:
            self.index_arrays.freelist_cache(self.struct.freelist_size).free(freelist)

    def _list(self, i: int, head: int, tail: bool = False) -> None:
        link = self.page_va(i) + 8 * W_SLAB_LIST
        if tail:
            self._lists.add_tail(link, head)
        else:
            self._lists.add(link, head)

    def _unlist(self, i: int) -> None:
        self._lists.delete(self.page_va(i) + 8 * W_SLAB_LIST)

    def _fixup_list(self, i: int) -> None:
        """fixup_slab_list: an unlisted slab that has objects handed out."""
        if self._u64[i + W_COUNTERS] >> 32 == self._num:
            self._list(i, self._full)
            if self._kind == FREELIST_IN_OBJECT:
                self._u64[i + W_FREELIST] = 0
        else:
            self._list(i, self._partial)

    # the CPU's stack

    def _alloc_block(self, i: int, count: int) -> int:
        """Up to ``count`` objects of a slab onto the stack; how many are still wanted."""
        u64 = self._u64
        active = u64[i + W_COUNTERS] >> 32
        take = min(count, self._num - active)
        if take <= 0:
            return count
        free = self.free_objects(self.pfn(i))[:take]
        avail = u64[self._ac] & _LOW32
        for n, va in enumerate(free):
            u64[self._entry + avail + n] = va
        count_up(u64, self._ac, take, "array_cache.avail")
        count_up(u64, i + W_COUNTERS, take * _ACTIVE, "slab.counters")
        return count - take

    def _refill(self, gfp: int) -> bool:
        """cache_alloc_refill: some objects onto an empty stack; False without memory."""
        u64, node = self._u64, self._index + W_FREE_OBJECTS
        want = self._batchcount
        if not u64[self._ac + 1] >> 32 and want > BATCHREFILL_LIMIT:
            want = BATCHREFILL_LIMIT
        if u64[node]:
            while want > 0:
                head = self._partial if not self._lists.empty(self._partial) else self._free_slabs
                link = self._lists.first(head)
                if not link:
                    break
                i = self.page_index_of(link - 8 * W_SLAB_LIST)
                if u64[i + W_TYPE_REF] != SLAB_WORD or u64[i + W_SLAB_CACHE] != self.va:
                    raise SlabError(
                        f"cache {self.name}: page {self.pfn(i):#x} on one of its lists "
                        "is no slab of it"
                    )
                if u64[i + W_COUNTERS] >> 32 >= self._num:
                    raise SlabError(f"cache {self.name}: a full slab is listed as one with room")
                want = self._alloc_block(i, want)
                self._unlist(i)
                self._fixup_list(i)
            count_down(u64, node, u64[self._ac] & _LOW32, "kmem_cache_node.free_objects")
        if not u64[self._ac] & _LOW32:
            grown = self._grow(gfp)
            if grown is None:
                return False
            self._alloc_block(grown, want)
            active = u64[grown + W_COUNTERS] >> 32
            self._fixup_list(grown)
            count_up(u64, node, self._num - active, "kmem_cache_node.free_objects")
        return True

    def _free_block(self, count: int) -> None:
        """The ``count`` oldest entries of the stack back to their slabs (free_block,
        cache_flusharray). Raises SlabError, nothing changed, if one is no object of ours."""
        u64, node = self._u64, self._index + W_FREE_OBJECTS
        entries = self.array_entries()
        gone, kept = entries[:count], entries[count:]
        slabs = [self.slab_of(va) for va in gone]
        for i, va in zip(slabs, gone, strict=True):
            self._unlist(i)
            active = (u64[i + W_COUNTERS] >> 32) - 1
            count_down(u64, i + W_COUNTERS, _ACTIVE, "slab.counters")
            if not u64[i + W_FREELIST]:
                u64[i + W_FREELIST] = va
            index = (va - self.obj_offset - self._s_mem(i)) // self._size
            self.ram.write8(self.freelist_pa(i) + active, index)
            if active:
                self._list(i, self._partial, tail=True)
            else:
                self._list(i, self._free_slabs)
        for n, va in enumerate(kept):
            u64[self._entry + n] = va
        count_down(u64, self._ac, len(gone), "array_cache.avail")
        count_up(u64, node, len(gone), "kmem_cache_node.free_objects")
        self._trim(self.struct.node.free_limit)

    def _trim(self, limit: int) -> int:
        """Free slabs while there are more than ``limit`` free objects; how many went."""
        u64, node = self._u64, self._index + W_FREE_OBJECTS
        if self._keeps_slabs():
            return 0
        gone = []
        while u64[node] > limit and not self._lists.empty(self._free_slabs):
            last = u64[self.space.index(self._free_slabs) + 1]
            i = self.page_index_of(last - 8 * W_SLAB_LIST)
            self._unlist(i)
            count_down(u64, node, self._num, "kmem_cache_node.free_objects")
            gone.append(i)
        for i in gone:
            self._destroy_slab(i)
        return len(gone)

    # objects

    def alloc_unhooked(self, gfp: int, orig_size: int) -> int | None:
        u64, ac = self._u64, self._ac
        avail = u64[ac] & _LOW32
        if not avail:
            if not self._refill(gfp):
                return None
            avail = u64[ac] & _LOW32
        if avail > self.limit:
            raise SlabError(f"cache {self.name}: array_cache.avail is {avail} of {self.limit}")
        va = u64[self._entry + avail - 1]
        i = self.core.slab_index(va)
        if i < 0 or u64[i + W_SLAB_CACHE] != self.va:
            raise SlabError(f"cache {self.name}: {va:#x} in its array_cache is no object of it")
        count_down(u64, ac, 1, "array_cache.avail")
        u64[ac + 1] |= 1 << 32  # touched
        if self.debug:
            self.debug.alloc(va)
        return va

    def slab_of(self, va: int) -> int:
        """The index of the slab of the object at ``va``. Raises BadFree."""
        u64 = self._u64
        i = self.core.slab_index(va)
        if i < 0 or u64[i + W_SLAB_CACHE] != self.va:
            raise BadFree(va, f"not an object of cache {self.name}")
        off = va - self._s_mem(i) - self.obj_offset
        if off % self._size or not 0 <= off < self._num * self._size:
            raise BadFree(va, f"inside of a slab of {self.name}, but not the start of an object")
        if not u64[i + W_COUNTERS] >> 32:
            raise self.double_free(va)
        return i

    def double_free(self, va: int) -> BadFree:
        """The error of an object that is free already."""
        return BadFree(va, f"object of {self.name} is free already (double free)")

    def check_object(self, va: int) -> int:
        i = self.slab_of(va)
        avail = self._u64[self._ac] & _LOW32
        if avail and self._u64[self._entry + min(avail, self.limit) - 1] == va:
            raise self.double_free(va)
        return self.pfn(i)

    def free_in_slab(self, va: int, i: int) -> None:
        self.free(va)

    def free(self, va: int) -> None:
        u64, ac = self._u64, self._ac
        self.slab_of(va)
        avail = u64[ac] & _LOW32
        if avail > self.limit:
            raise SlabError(f"cache {self.name}: array_cache.avail is {avail} of {self.limit}")
        if self.debug:
            self.debug.free(va)
        if avail and u64[self._entry + avail - 1] == va:
            raise self.double_free(va)
        if avail == self.limit:
            self._free_block(self._batchcount)
            avail = u64[ac] & _LOW32
        u64[self._entry + avail] = va
        count_up(u64, ac, 1, "array_cache.avail")
        if self.core.kmemleak:
            self.core.kmemleak.free(va)

    # the rest of the interface

    def all_slabs(self) -> list[int]:
        return [
            i
            for head in (self._full, self._partial, self._free_slabs)
            for i in self._walk_slabs(head)
        ]

    def freelist_words(self) -> list[int]:
        return [self.ram.base + 8 * (i + W_FREELIST) for i in self.all_slabs()]

    def validate(self) -> int:
        return self.debug.validate() if self.debug else 0

    def flush(self) -> None:
        """drain_cpu_caches: the CPU's stack back to the slabs."""
        while self._u64[self._ac] & _LOW32:
            self._free_block(self._u64[self._ac] & _LOW32)

    def shrink(self) -> int:
        self._need_dtor()
        before = self.nr_slabs
        self.flush()
        self._trim(0)
        return before - self.nr_slabs

    def live_objects(self) -> list[int]:
        on_stack = set(self.array_entries())
        live: list[int] = []
        for i in sorted(self.all_slabs()):
            free = set(self.free_objects(self.pfn(i))) | on_stack
            live += [va for va in self.objects_of(i) if va not in free]
        return live

    def active_objects(self) -> int:
        active = sum(self._u64[i + W_COUNTERS] >> 32 for i in self.all_slabs())
        return active - len(self.array_entries())

    def info(self) -> SlabInfo:
        # As Linux: what is on the CPU's stack counts as active.
        node = self.struct.node
        total, slabs = node.total_objects, node.nr_slabs
        free = sum(1 for _ in self._walk_slabs(self._free_slabs))
        return SlabInfo(
            self.name, total - node.free_objects, total, self._size, self._num, self._order,
            self.limit, self._batchcount, 0, slabs - free, slabs,
        )  # fmt: skip

    def object_info(self, va: int, pfn: int) -> ObjectInfo:
        i = self.space.page_index(pfn)
        off = va - self._s_mem(i) - self.obj_offset
        n = off // self._size
        if not 0 <= n < self._num or off - n * self._size >= self.struct.object_size:
            return ObjectInfo(self, pfn, None, False)
        start = va - off + n * self._size
        live = start not in self.free_objects(pfn) and start not in self.array_entries()
        track = None
        user = self.debug.last_user(start) if self.debug else 0
        if user:
            track = (user, 0, 0)
        return ObjectInfo(self, pfn, start, live, track if live else None, None if live else track)
