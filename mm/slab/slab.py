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

With slub_debug (Z, P, U): a red word before and behind each object, poison in free ones,
the last caller behind. Source: Linux 6.1 mm/slab.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from emu.ram import PAGE_SHIFT, PAGE_SIZE
from mm.errors import BadFree, SlabError
from mm.layout import count_down, count_up
from mm.page import ALLOCATED_WORD, SLAB_WORD, W_TYPE_REF
from mm.slab.common import (
    KmemCache,
    ObjectInfo,
    SlabAllocator,
    SlabInfo,
    calculate_alignment,
    get_order,
)
from mm.slab.flags import (
    CACHE_LINE,
    KMALLOC_MAX_CACHE_SIZE,
    OBJECT_POISON,
    POISON_END,
    POISON_FREE,
    SLAB_CONSISTENCY_CHECKS,
    SLAB_POISON,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TRACE,
)
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

SLAB_OBJ_MIN_SIZE = 16
SLAB_OBJ_MAX_NUM = 255  # one-byte indexes
SLAB_MAX_ORDER_LO, SLAB_MAX_ORDER_HI = 0, 1
BATCHREFILL_LIMIT = 16
ARRAY_LIMIT_MAX = 120
RED_INACTIVE = 0x09F911029D74E35B
RED_ACTIVE = 0xD84156C5635688C0
_ACTIVE = 1 << 32  # struct slab_active: s_mem in the low half, active in the high one
_LOW32 = 0xFFFFFFFF


def array_cache_limit(size: int) -> int:
    """How many objects of ``size`` bytes the CPU's stack holds (enable_cpucache)."""
    for most, limit in ((131072, 1), (PAGE_SIZE, 8), (1024, 24), (256, 54)):
        if size > most:
            return limit
    return ARRAY_LIMIT_MAX


def cache_estimate(order: int, size: int, in_slab_bytes: int) -> tuple[int, int]:
    """(objects, bytes left over) of a slab, with ``in_slab_bytes`` of index for each object."""
    slab_size = PAGE_SIZE << order
    return slab_size // (size + in_slab_bytes), slab_size % (size + in_slab_bytes)


class SlabCache(KmemCache):
    """A SLAB cache."""

    allocator: Slab

    def __init__(self, allocator: SlabAllocator, pa: int) -> None:
        super().__init__(allocator, pa)
        s = self.struct
        self._lists = allocator.lists
        self._ram = allocator.ram
        self._num = s.num
        self._order = s.min  # gfporder
        self._kind = s.freelist_kind
        self._obj_offset = s.obj_offset
        self._partial = self.va + NODE_PARTIAL
        self._full = self.va + NODE_FULL
        self._free_slabs = self.va + NODE_FREE
        self._debug = bool(self._flags & (SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER))
        ac_index = (self._space.pa(s.array_cache) - self._ram.base) >> 3
        self._ac = ac_index + ArrayCache.word_of("avail")
        self._entry = ac_index + (ArrayCache.SIZE >> 3)
        ac = self.array_cache
        self._limit, self._batchcount = ac.limit, ac.batchcount

    @staticmethod
    def problem(allocator: SlabAllocator, s: KmemCacheStruct) -> str | None:
        if s.min > MAX_PAGE_ORDER or not 0 < s.num <= SLAB_OBJ_MAX_NUM:
            return f"min {s.min}, num {s.num}: no such slab"
        if s.num * s.size > PAGE_SIZE << s.min or s.freelist_size != s.num:
            return f"num {s.num} of size {s.size}, freelist_size {s.freelist_size}"
        if s.freelist_kind > FREELIST_IN_OBJECT or s.obj_offset >= s.size or not s.colour_off:
            return f"freelist_kind {s.freelist_kind}, obj_offset {s.obj_offset}"
        space = allocator.space
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
        return ArrayCache(self._ram, self._space.pa(self.struct.array_cache))

    def array_entries(self) -> list[int]:
        """What is on the CPU's stack, the next object to go last. Raises SlabError."""
        avail = self._u64[self._ac] & _LOW32
        if avail > self._limit:
            raise SlabError(f"cache {self.name}: array_cache.avail is {avail} of {self._limit}")
        return self._u64[self._entry : self._entry + avail].tolist()

    # slabs

    def _s_mem(self, i: int) -> int:
        return self._slab_base(i) + (self._u64[i + W_COUNTERS] & _LOW32)

    def _objects_of(self, i: int) -> Iterable[int]:
        first = self._s_mem(i) + self._obj_offset
        return range(first, first + self._num * self._size, self._size)

    def _walk_slabs(self, head: int) -> Iterator[int]:
        limit = self._space.end_pfn - self._space.start_pfn
        for link in self._lists.walk(head, limit):
            i = self._page_index_of(link - 8 * W_SLAB_LIST)
            if self._u64[i + W_TYPE_REF] != SLAB_WORD or self._u64[i + W_SLAB_CACHE] != self.va:
                raise SlabError(
                    f"cache {self.name}: page {self._pfn(i):#x} on one of its lists "
                    "is no slab of it"
                )
            yield i

    def partial_slabs(self) -> Iterator[int]:
        """PFNs on slabs_partial."""
        return (self._pfn(i) for i in self._walk_slabs(self._partial))

    def full_slabs(self) -> Iterator[int]:
        """PFNs on slabs_full."""
        return (self._pfn(i) for i in self._walk_slabs(self._full))

    def free_slabs(self) -> Iterator[int]:
        """PFNs on slabs_free."""
        return (self._pfn(i) for i in self._walk_slabs(self._free_slabs))

    def freelist_pa(self, i: int) -> int:
        """The PA of the index array of the slab at word ``i``. Raises SlabError."""
        va = self._u64[i + W_FREELIST]
        base = self._slab_base(i)
        if self._kind == FREELIST_ON_SLAB:
            good = va == base + (PAGE_SIZE << self._order) - self.struct.freelist_size
        elif self._kind == FREELIST_IN_OBJECT:
            off = va - self._s_mem(i) - self._obj_offset
            good = not off % self._size and 0 <= off < self._num * self._size
        else:
            good = self._space.page_offset <= va < self._space.direct_end - SLAB_OBJ_MAX_NUM
        if not good:
            raise SlabError(f"cache {self.name}: the slab at {base:#x} has its freelist at {va:#x}")
        return self._space.pa(va)

    def free_objects(self, pfn: int) -> list[int]:
        """VAs of the free objects of slab ``pfn``, in the order in which they would go; those
        on the CPU's stack are not among them. Raises SlabError for a bad index array."""
        i = self._space.page_index(pfn)
        active = self._u64[i + W_COUNTERS] >> 32
        if active > self._num:
            raise SlabError(f"cache {self.name}: active is {active} of {self._num}")
        if active == self._num:
            return []
        indexes = self._ram.read(self.freelist_pa(i) + active, self._num - active)
        if max(indexes) >= self._num or len(set(indexes)) < len(indexes):
            raise SlabError(
                f"cache {self.name}: the freelist of the slab at {self._slab_base(i):#x} "
                f"is no list of objects: {indexes.hex(' ')}"
            )
        first = self._s_mem(i) + self._obj_offset
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
        base = self._slab_base(i)
        s_mem = colour * s.colour_off
        size = s.freelist_size
        if self._kind == FREELIST_OFF_SLAB:
            freelist = self.allocator.freelist_cache(size).alloc(gfp)
            if freelist is None:
                u64[i + W_SLAB_CACHE] = 0
                self.allocator.undo_slab_page(i)
                return None
            if self.allocator.kmemleak:  # found through the struct slab
                self.allocator.kmemleak.free(freelist)
        elif self._kind == FREELIST_ON_SLAB:
            freelist = base + (PAGE_SIZE << self._order) - size
        else:
            freelist = base + s_mem + (self._num - 1) * self._size + self._obj_offset
        node.colour_next = colour
        u64[i + W_COUNTERS] = s_mem
        u64[i + W_FREELIST] = freelist
        objects = self._objects_of(i)
        if self._debug:
            for va in objects:
                self._init_debug(va)
        self._run_ctor(objects)
        self._ram.write(self._space.pa(freelist), bytes(range(self._num)))
        self._account(1, self._num)
        return i

    def _destroy_slab(self, i: int) -> None:
        """slab_destroy: to the page allocator; it is off its list already."""
        freelist = self._u64[i + W_FREELIST]
        self._account(-1, -self._num)
        if self._debug:
            for va in self._objects_of(i):
                self._check_poison(va)
        self._free_slab_page(i)
        if self._kind == FREELIST_OFF_SLAB:
            self.allocator.freelist_cache(self.struct.freelist_size).free(freelist)

    def _list(self, i: int, head: int, tail: bool = False) -> None:
        link = self._page_va(i) + 8 * W_SLAB_LIST
        if tail:
            self._lists.add_tail(link, head)
        else:
            self._lists.add(link, head)

    def _unlist(self, i: int) -> None:
        self._lists.delete(self._page_va(i) + 8 * W_SLAB_LIST)

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
        free = self.free_objects(self._pfn(i))[:take]
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
                i = self._page_index_of(link - 8 * W_SLAB_LIST)
                if u64[i + W_TYPE_REF] != SLAB_WORD or u64[i + W_SLAB_CACHE] != self.va:
                    raise SlabError(
                        f"cache {self.name}: page {self._pfn(i):#x} on one of its lists "
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
        slabs = [self._check(va) for va in gone]
        for i, va in zip(slabs, gone, strict=True):
            self._unlist(i)
            active = (u64[i + W_COUNTERS] >> 32) - 1
            count_down(u64, i + W_COUNTERS, _ACTIVE, "slab.counters")
            if not u64[i + W_FREELIST]:
                u64[i + W_FREELIST] = va
            index = (va - self._obj_offset - self._s_mem(i)) // self._size
            self._ram.write8(self.freelist_pa(i) + active, index)
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
            last = u64[self._space.index(self._free_slabs) + 1]
            i = self._page_index_of(last - 8 * W_SLAB_LIST)
            self._unlist(i)
            count_down(u64, node, self._num, "kmem_cache_node.free_objects")
            gone.append(i)
        for i in gone:
            self._destroy_slab(i)
        return len(gone)

    # objects

    def _alloc(self, gfp: int, orig_size: int) -> int | None:
        u64, ac = self._u64, self._ac
        avail = u64[ac] & _LOW32
        if not avail:
            if not self._refill(gfp):
                return None
            avail = u64[ac] & _LOW32
        if avail > self._limit:
            raise SlabError(f"cache {self.name}: array_cache.avail is {avail} of {self._limit}")
        va = u64[self._entry + avail - 1]
        i = self.allocator.slab_index(va)
        if i < 0 or u64[i + W_SLAB_CACHE] != self.va:
            raise SlabError(f"cache {self.name}: {va:#x} in its array_cache is no object of it")
        count_down(u64, ac, 1, "array_cache.avail")
        u64[ac + 1] |= 1 << 32  # touched
        if self._debug:
            self._debug_alloc(va)
        return va

    def _check(self, va: int) -> int:
        """The index of the slab of the object at ``va``. Raises BadFree."""
        u64 = self._u64
        i = self.allocator.slab_index(va)
        if i < 0 or u64[i + W_SLAB_CACHE] != self.va:
            raise BadFree(va, f"not an object of cache {self.name}")
        off = va - self._s_mem(i) - self._obj_offset
        if off % self._size or not 0 <= off < self._num * self._size:
            raise BadFree(va, f"inside of a slab of {self.name}, but not the start of an object")
        if not u64[i + W_COUNTERS] >> 32:
            raise self._double(va)
        return i

    def _double(self, va: int) -> BadFree:
        return BadFree(va, f"object of {self.name} is free already (double free)")

    def check_object(self, va: int) -> int:
        i = self._check(va)
        avail = self._u64[self._ac] & _LOW32
        if avail and self._u64[self._entry + min(avail, self._limit) - 1] == va:
            raise self._double(va)
        return self._pfn(i)

    def free(self, va: int) -> None:
        u64, ac = self._u64, self._ac
        self._check(va)
        avail = u64[ac] & _LOW32
        if avail > self._limit:
            raise SlabError(f"cache {self.name}: array_cache.avail is {avail} of {self._limit}")
        if self._debug:
            self._debug_free(va)
        if avail and u64[self._entry + avail - 1] == va:
            raise self._double(va)
        if avail == self._limit:
            self._free_block(self._batchcount)
            avail = u64[ac] & _LOW32
        u64[self._entry + avail] = va
        count_up(u64, ac, 1, "array_cache.avail")
        allocator = self.allocator
        if allocator.hooked and allocator.kmemleak:
            allocator.kmemleak.free(va)

    # debugging: | red word | object | red word | last caller |

    def _red_pas(self, va: int) -> tuple[int, int]:
        pa = self._space.pa(va - self._obj_offset)
        back = self._size - 8 - (8 if self._flags & SLAB_STORE_USER else 0)
        return pa, pa + back

    def _init_debug(self, va: int) -> None:
        if self._flags & SLAB_RED_ZONE:
            for pa in self._red_pas(va):
                self._ram.write64(pa, RED_INACTIVE)
        if self._flags & SLAB_STORE_USER:
            self._ram.write64(self._space.pa(va - self._obj_offset) + self._size - 8, 0)
        if self._flags & OBJECT_POISON:
            self._poison(va)

    def _poison(self, va: int) -> None:
        size = self.struct.object_size
        pa = self._space.pa(va)
        self._ram.fill(pa, size - 1, POISON_FREE)
        self._ram.write8(pa + size - 1, POISON_END)

    def _slab_error(self, function: str, va: int, text: str) -> None:
        a = self.allocator
        a.printk(f"slab error in {function}(): cache `{self.name}': {text}")
        if self._flags & SLAB_RED_ZONE:
            one, two = (self._ram.read64(pa) for pa in self._red_pas(va))
            a.printk(f"{va - self._obj_offset:016x}: redzone 1:{one:#x}, redzone 2:{two:#x}")
        a.add_taint()
        a.errors += 1

    def _last_user(self, va: int) -> int:
        return self._ram.read64(self._space.pa(va - self._obj_offset) + self._size - 8)

    def _check_poison(self, va: int) -> bool:
        """check_poison_obj: whether a free object is poison; reported and repaired if not."""
        if not self._flags & OBJECT_POISON:
            return True
        size = self.struct.object_size
        data = self._ram.read(self._space.pa(va), size)
        want = bytes([POISON_FREE]) * (size - 1) + bytes([POISON_END])
        if data == want:
            return True
        a = self.allocator
        a.printk(f"Slab corruption ({a.print_tainted()}): {self.name} start={va:016x}, len={size}")
        if self._flags & SLAB_RED_ZONE:
            one, two = (self._ram.read64(pa) for pa in self._red_pas(va))
            a.printk(f"Redzone: {one:#x}/{two:#x}")
        if self._flags & SLAB_STORE_USER:
            a.printk(f"Last user: ({self._last_user(va):#x})")
        lines = [at for at in range(0, size, 16) if data[at : at + 16] != want[at : at + 16]]
        for at in lines[:16]:
            a.printk(f"{at:03x}: {data[at : at + 16].hex(' ')}")
        self._poison(va)
        a.add_taint()
        a.errors += 1
        return False

    def _debug_alloc(self, va: int) -> None:
        """cache_alloc_debugcheck_after."""
        self._check_poison(va)
        if self._flags & OBJECT_POISON:
            self._ram.fill(self._space.pa(va), self.struct.object_size, 0x5A)
        if self._flags & SLAB_RED_ZONE:
            pas = self._red_pas(va)
            if any(self._ram.read64(pa) != RED_INACTIVE for pa in pas):
                self._slab_error(
                    "cache_alloc_debugcheck_after",
                    va,
                    "double free, or memory outside object was overwritten",
                )
            for pa in pas:
                self._ram.write64(pa, RED_ACTIVE)
        self._note_user(va)
        self._trace(va, "alloc")

    def _note_user(self, va: int) -> None:
        if self._flags & SLAB_STORE_USER:
            pa = self._space.pa(va - self._obj_offset) + self._size - 8
            self._ram.write64(pa, self.allocator.caller)

    def _trace(self, va: int, what: str) -> None:
        if self._flags & SLAB_TRACE:
            self.allocator.printk(f"TRACE {self.name} {what} {va:#018x}")

    def _debug_free(self, va: int) -> None:
        """cache_free_debugcheck. Raises BadFree for what is free already."""
        if self._flags & SLAB_RED_ZONE:
            self._verify_redzone_free(va)
            for pa in self._red_pas(va):
                self._ram.write64(pa, RED_INACTIVE)
        if self._flags & SLAB_CONSISTENCY_CHECKS and va in self.array_entries():
            raise self._double(va)
        self._note_user(va)
        self._trace(va, "free")
        if self._flags & OBJECT_POISON:
            self._poison(va)

    def _verify_redzone_free(self, va: int) -> None:
        reds = {self._ram.read64(pa) for pa in self._red_pas(va)}
        if reds == {RED_ACTIVE}:
            return
        if reds == {RED_INACTIVE}:
            self._slab_error("verify_redzone_free", va, "double free detected")
            raise self._double(va)
        self._slab_error("verify_redzone_free", va, "memory outside object was overwritten")

    def validate(self) -> int:
        if not self._debug:
            return 0
        a = self.allocator
        a.errors = 0
        on_stack = set(self.array_entries())
        for i in self._all_slabs():
            free = set(self.free_objects(self._pfn(i)))
            for va in self._objects_of(i):
                is_free = va in free or va in on_stack
                if is_free:
                    self._check_poison(va)
                if self._flags & SLAB_RED_ZONE:
                    want = RED_INACTIVE if is_free else RED_ACTIVE
                    pas = self._red_pas(va)
                    if any(self._ram.read64(pa) != want for pa in pas):
                        self._slab_error("validate", va, "memory outside object was overwritten")
                        for pa in pas:
                            self._ram.write64(pa, want)
        return a.errors

    # the rest of the interface

    def _all_slabs(self) -> list[int]:
        return [
            i
            for head in (self._full, self._partial, self._free_slabs)
            for i in self._walk_slabs(head)
        ]

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
        for i in sorted(self._all_slabs()):
            free = set(self.free_objects(self._pfn(i))) | on_stack
            live += [va for va in self._objects_of(i) if va not in free]
        return live

    def active_objects(self) -> int:
        active = sum(self._u64[i + W_COUNTERS] >> 32 for i in self._all_slabs())
        return active - len(self.array_entries())

    def info(self) -> SlabInfo:
        # As Linux: what is on the CPU's stack counts as active.
        node = self.struct.node
        total, slabs = node.total_objects, node.nr_slabs
        free = sum(1 for _ in self._walk_slabs(self._free_slabs))
        return SlabInfo(
            self.name, total - node.free_objects, total, self._size, self._num, self._order,
            self._limit, self._batchcount, 0, slabs - free, slabs,
        )  # fmt: skip

    def object_info(self, va: int, pfn: int) -> ObjectInfo:
        i = self._space.page_index(pfn)
        off = va - self._s_mem(i) - self._obj_offset
        n = off // self._size
        if not 0 <= n < self._num or off - n * self._size >= self.struct.object_size:
            return ObjectInfo(self, pfn, None, False)
        start = va - off + n * self._size
        live = start not in self.free_objects(pfn) and start not in self.array_entries()
        track = None
        if self._flags & SLAB_STORE_USER and self._last_user(start):
            track = (self._last_user(start), 0, 0)
        return ObjectInfo(self, pfn, start, live, track if live else None, None if live else track)


class Slab(SlabAllocator):
    """All SLAB caches of a kernel."""

    KIND = "slab"
    cache_type = SlabCache
    # The CPU's stack lies right behind the struct.
    cache_struct_size = KmemCacheStruct.SIZE + ArrayCache.SIZE + 8 * ARRAY_LIMIT_MAX

    def __init__(self, *args: object, **keywords: object) -> None:
        super().__init__(*args, **keywords)  # type: ignore[arg-type]
        self._freelist_caches: dict[int, KmemCache] = {}  # derived
        self.errors = 0

    def flush_all(self) -> None:
        for cache in self.caches():
            if isinstance(cache, SlabCache):
                cache.flush()

    def _mergeable_alignment(self, s: KmemCacheStruct, align: int) -> bool:
        return align <= s.align and not s.align % align

    def find_freelist_cache(self, size: int) -> KmemCache | None:
        """The kmalloc cache for an index array of ``size`` bytes, None before there is one
        or above 8 KiB."""
        best: KmemCache | None = None
        for cache in self.caches():
            s = cache.struct
            if not s.name.startswith("kmalloc-") or s.object_size < size:
                continue
            if best is None or s.size < best.struct.size:
                best = cache
        return best

    def freelist_cache(self, size: int) -> KmemCache:
        """The cache that off-slab index arrays of ``size`` bytes are from."""
        cache = self._freelist_caches.get(size)
        if cache is None:
            cache = self.find_freelist_cache(size)
            if cache is None:
                raise SlabError(f"no cache for an index array of {size} bytes")
            self._freelist_caches[size] = cache
        return cache

    def undo_slab_page(self, i: int) -> None:
        """Frames that did not become a slab go back."""
        order = self.slab_order(i)
        self.ram.u64[i + W_TYPE_REF] = ALLOCATED_WORD
        self.page_alloc.free_pages(self.space.start_pfn + ((i - self._memmap) >> 3), order)

    def _give_up(self, boot: KmemCache) -> None:
        if isinstance(boot, SlabCache):
            entries = boot.array_entries()
            boot._free_block(len(entries))

    def _moved(self, pa: int, old_va: int) -> KmemCache:
        s = KmemCacheStruct(self.ram, pa)
        s.array_cache = self.space.va(pa) + KmemCacheStruct.SIZE
        return super()._moved(pa, old_va)

    def calculate_slab_order(self, size: int, flags: int, kind: int) -> tuple[int, int, int]:
        """(objects, order, bytes left over) for index arrays of ``kind``; (0, 0, 0): impossible."""
        found = 0, 0, 0
        ram_pages = self.space.end_pfn - self.space.start_pfn
        high = ram_pages > (32 << 20) >> PAGE_SHIFT
        most = SLAB_MAX_ORDER_HI if high else SLAB_MAX_ORDER_LO
        for order in range(get_order(size), MAX_PAGE_ORDER + 1):
            num, left = cache_estimate(order, size, int(kind == FREELIST_ON_SLAB))
            if not num:
                continue
            if num > SLAB_OBJ_MAX_NUM:
                break
            if kind == FREELIST_OFF_SLAB:
                cache = self.find_freelist_cache(num)
                if cache is None or num > KMALLOC_MAX_CACHE_SIZE:
                    continue
                if cache.struct.freelist_kind == FREELIST_OFF_SLAB or cache.size > size // 2:
                    continue
            found = num, order, left
            if flags & SLAB_RECLAIM_ACCOUNT or order >= most:
                break
            if left * 8 <= PAGE_SIZE << order:
                break
        return found

    def _fill(
        self, pa: int, name: str, object_size: int, align: int, flags: int, ctor: bool
    ) -> None:
        align = calculate_alignment(flags, align, object_size)
        if align > 8 or object_size > PAGE_SIZE:
            flags &= ~(SLAB_RED_ZONE | SLAB_STORE_USER)
        if flags & SLAB_POISON and not ctor:
            flags |= OBJECT_POISON
        size = -(-object_size // 8) * 8
        obj_offset = 0
        if flags & SLAB_RED_ZONE:
            obj_offset = 8
            size += 16
        if flags & SLAB_STORE_USER:
            size += 8
        size = -(-size // align) * align
        if size < SLAB_OBJ_MIN_SIZE:
            size = -(-SLAB_OBJ_MIN_SIZE // align) * align
        num = order = left = kind = 0
        for kind in (FREELIST_IN_OBJECT, FREELIST_OFF_SLAB, FREELIST_ON_SLAB):
            if kind == FREELIST_IN_OBJECT and (ctor or flags & OBJECT_POISON):
                continue
            num, order, left = self.calculate_slab_order(size, flags, kind)
            if not num or (kind == FREELIST_IN_OBJECT and num > object_size):
                num = 0
                continue
            if kind == FREELIST_OFF_SLAB and left >= num:
                num = 0
                continue  # it fits behind the objects
            break
        if not num:
            raise ValueError(f"no slab can hold an object of {object_size} bytes")
        s = self._fill_common(pa, name, object_size, align, flags, ctor)
        s.size, s.num, s.freelist_size, s.freelist_kind = size, num, num, kind
        s.min, s.inuse, s.obj_offset = order, size, obj_offset
        s.colour_off = max(CACHE_LINE, align)
        s.colour = left // s.colour_off
        s.array_cache = self.space.va(pa) + KmemCacheStruct.SIZE
        ac = ArrayCache(self.ram, pa + KmemCacheStruct.SIZE)
        ac.limit = array_cache_limit(size)
        ac.batchcount = (ac.limit + 1) // 2
        s.node.free_limit = 2 * ac.batchcount + num
