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

from mm.errors import BadFree, CorruptionError, SlabError
from mm.gfp import GFP_KERNEL
from mm.layout import count_up
from mm.slab.cache import ObjectInfo, SlabInfo
from mm.slab.core import SlabCore
from mm.slab.flags import (
    GFP_SLAB_UNUSUAL,
    SLAB_KMALLOC,
    SLAB_STORE_USER,
)
from mm.slab.slub_debug import SlubDebug
from mm.slab.slub_slabs import SlubSlabs
from mm.slab.structs import (
    FROZEN,
    PG_WORKINGSET,
    W_COUNTERS,
    W_FREELIST,
    W_NEXT,
    W_SLAB_CACHE,
    W_SLAB_LIST,
    W_SLABS,
    KmemCacheCpu,
    KmemCacheStruct,
)

SHRINK_PROMOTE_MAX = 32
_OBJECTS = 0x7FFF
_M64 = (1 << 64) - 1


class SlubCache(SlubSlabs):
    """A SLUB cache."""

    def __init__(self, core: SlabCore, pa: int, debugger: SlubDebug) -> None:
        super().__init__(core, pa, debugger)
        s = self.struct
        self._cpu_partial_slabs = s.cpu_partial_slabs
        # Words of the per-CPU part: + 0 freelist, + 1 tid, + 2 slab, + 3 partial.
        self._cpu = self._index + (KmemCacheStruct.offset_of("cpu") >> 3)
        # Objects start below this in every slab; 0: they have different numbers of them.
        # (Those are left to the slower paths.)
        self._slab_bytes = self._objects * self._size if s.oo == s.min else 0
        self.without_cpu_slab = self.debug or bool(self._random) or core.hooked
        # A slab, and where its objects may start: derived.
        self._known_slab = self._known_start = self._known_end = 0

    def hooks_changed(self) -> None:
        # While every allocation must be seen, guest code finds no cpu slab to take from.
        if self.core.hooked:
            self.flush()
        self.without_cpu_slab = self.debug or bool(self._random) or self.core.hooked

    @property
    def cpu_slab(self) -> KmemCacheCpu:
        """The per-CPU part."""
        return self.struct.cpu

    def free_objects(self, pfn: int) -> list[int]:
        """VAs of the free objects of slab ``pfn``, in freelist order, those on the cpu
        freelist first. Raises SlabError when a freelist leaves the slab or has a cycle."""
        i = self.space.page_index(pfn)
        found = self.walk_freelist(i, self._u64[i + W_FREELIST])
        if self._u64[self._cpu + 2] == self.page_va(i):
            found = self.walk_freelist(i, self._u64[self._cpu]) + found
        if len(set(found)) < len(found):
            raise SlabError(
                f"cache {self.name}: an object of the slab at {self.slab_base(i):#x} "
                "is on both of its freelists (cycle)"
            )
        return found

    def cpu_partial_slabs(self) -> list[int]:
        """PFNs of the slabs on the per-CPU partial list, first to last.

        Raises SlabError when it is no list of this cache's slabs, or has a cycle.
        """
        return [self.pfn(i) for i in self._cpu_partial_list(self._u64[self._cpu + 3])]

    def _cpu_partial_list(self, page_va: int) -> list[int]:
        u64 = self._u64
        found: list[int] = []
        limit = self.nr_slabs
        while page_va:
            i = self.page_index_of(page_va)
            self._check_slab(i)
            if len(found) >= limit:
                raise SlabError(f"cache {self.name}: its cpu partial list has a cycle")
            found.append(i)
            page_va = u64[i + W_NEXT]
        return found

    # the per-CPU part

    def _put_cpu_partial(self, i: int, drain: bool) -> None:
        u64 = self._u64
        old = u64[self._cpu + 3]
        slabs = 0
        to_put = 0
        if old:
            at = self.page_index_of(old)
            self._check_slab(at)
            slabs = u64[at + W_SLABS]
            if drain and slabs >= self._cpu_partial_slabs:
                to_put, old, slabs = old, 0, 0
        u64[i + W_NEXT] = old
        u64[i + W_SLABS] = slabs + 1
        u64[self._cpu + 3] = self.page_va(i)
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
        free = self.walk_freelist(i, freelist)
        own = u64[i + W_FREELIST]
        counters = u64[i + W_COUNTERS] & ~FROZEN
        if free:
            counters -= len(free)
            self.set_freepointer(free[-1], own)
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
            i = self.page_index_of(slab)
            self._check_slab(i)
            self.walk_freelist(i, freelist)
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
            self.remove_partial(i)
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
            i = self.page_index_of(slab)
            self._check_slab(i)
            if u64[i + W_FREELIST]:
                return self._load(i, self._freeze(i))
            u64[i + W_COUNTERS] &= ~FROZEN  # full, and nobody's
            u64[c + 2] = 0
            u64[c + 1] = u64[c + 1] + 1 & _M64
        partial = u64[c + 3]
        if partial:
            i = self.page_index_of(partial)
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
        u64[c + 2] = self.page_va(i)
        return self._load(i, self._freeze(i))

    def _load(self, i: int, va: int) -> int:
        if not va or not self.check_valid_pointer(i, va):
            raise self._corrupt(i, va)
        self._u64[self._cpu] = self.get_freepointer(va)
        self._u64[self._cpu + 1] = self._u64[self._cpu + 1] + 1 & _M64
        return va

    # objects

    # The two fast paths, the same that guest code has: off and onto the cpu freelist, an object
    # of the cpu slab. Where every allocation must be seen there is none.

    def alloc_from_cpu(self) -> int:
        u64, c, start = self._u64, self._cpu, self._known_start
        va = u64[c]
        if (
            u64[c + 2] != self._known_slab
            or not start <= va < self._known_end
            or (va - start) % self._size
        ):
            return 0
        u64[c] = u64[(va >> 3) + self._pointer_word]
        c += 1
        u64[c] = u64[c] + 1 & _M64
        return va

    def free_to_cpu(self, va: int) -> bool:
        u64, c, start = self._u64, self._cpu, self._known_start
        if (
            u64[c + 2] != self._known_slab
            or not start <= va < self._known_end
            or (va - start) % self._size
        ):
            return False
        head = u64[c]
        if head == va:
            raise self._double(va)
        u64[(va >> 3) + self._pointer_word] = head
        u64[c] = va
        c += 1
        u64[c] = u64[c] + 1 & _M64
        return True

    def _know_cpu_slab(self) -> None:
        """Have the fast paths know where the cpu slab is that RAM names now."""
        slab = self._u64[self._cpu + 2]
        if slab != self._known_slab and slab:
            self._known_slab = slab
            self._known_start = self.slab_base(self.page_index_of(slab))
            self._known_end = self._known_start + self._slab_bytes

    def alloc(self, gfp: int = GFP_KERNEL, orig_size: int = 0) -> int | None:
        va = 0 if gfp & GFP_SLAB_UNUSUAL else self.alloc_from_cpu()
        return va or super().alloc(gfp, orig_size)

    def alloc_unhooked(self, gfp: int, orig_size: int) -> int | None:
        u64, c = self._u64, self._cpu
        va = u64[c]
        if not va:
            if self.without_cpu_slab:
                return self._alloc_single(gfp, orig_size)
            return self._slow_alloc(gfp)
        i = self.page_index_of(u64[c + 2])
        self._know_cpu_slab()
        off = va - self.slab_base(i)
        objects = u64[i + W_COUNTERS] >> 16 & _OBJECTS
        if not 0 <= off < objects * self._size or off % self._size:
            raise self._corrupt(i, va)
        return self._load(i, va)

    def _alloc_single(self, gfp: int, orig_size: int) -> int | None:
        """alloc_single_from_partial, alloc_single_from_new_slab: without a cpu slab."""
        u64 = self._u64
        for _ in range(self.nr_slabs + 2):
            link = self._lists.first(self._partial)
            if link:
                i = self.page_index_of(link - 8 * W_SLAB_LIST)
                self._check_slab(i)
            else:
                new = self._new_slab(gfp)
                if new is None:
                    return None
                i = new
            va = u64[i + W_FREELIST]
            debug = self.debugger
            if self.debug and not debug.alloc_processing(self, i, va, orig_size):
                if u64[i] & PG_WORKINGSET:  # not even a slab
                    self.remove_partial(i)
                elif not link:
                    self.add_full(i)
                continue
            if not va or not self.check_valid_pointer(i, va):
                raise self._corrupt(i, va)
            next_ = self.get_freepointer(va)
            u64[i + W_FREELIST] = next_
            count_up(u64, i + W_COUNTERS, 1, "slab.counters")
            if self.debug:
                self.debugger.alloc_done(self, va, orig_size)
            counters = u64[i + W_COUNTERS]
            if counters & 0xFFFF == counters >> 16 & _OBJECTS:
                if link:
                    self.remove_partial(i)
                self.add_full(i)
            elif not link:
                self._add_partial(i, tail=False)
            return va
        raise SlabError(f"cache {self.name}: every one of its slabs is corrupt")

    def _zero_size(self, orig_size: int) -> int:
        if orig_size and self.flags & SLAB_KMALLOC and self.flags & SLAB_STORE_USER:
            return orig_size
        return self.struct.object_size

    def _check(self, va: int) -> int:
        """The index of the slab of the object at ``va``. Raises BadFree."""
        i = self.core.slab_index(va)
        if i < 0 or self._u64[i + W_SLAB_CACHE] != self.va:
            raise BadFree(va, f"not an object of cache {self.name}")
        off = va - self.slab_base(i) - self.red_left_pad
        if off % self._size or not (
            0 <= off < (self._u64[i + W_COUNTERS] >> 16 & _OBJECTS) * self._size
        ):
            raise BadFree(va, f"inside of a slab of {self.name}, but not the start of an object")
        return i

    def check_object(self, va: int) -> int:
        i = self._check(va)
        if va in (self._u64[i + W_FREELIST], self._u64[self._cpu]):
            raise self._double(va)
        return self.pfn(i)

    def _double(self, va: int) -> BadFree:
        return BadFree(va, f"object of {self.name} is free already (double free)")

    def free(self, va: int) -> None:
        if not self.free_to_cpu(va):
            i = self.core.slab_index(va)
            self.free_in_slab(va, i if i >= 0 else self._check(va))

    def free_in_slab(self, va: int, i: int) -> None:
        u64, c = self._u64, self._cpu
        off = va - self.slab_base(i) - self.red_left_pad
        if (
            u64[i + W_SLAB_CACHE] != self.va
            or off % self._size
            or not 0 <= off < (u64[i + W_COUNTERS] >> 16 & _OBJECTS) * self._size
        ):
            if self.debug and u64[i + W_SLAB_CACHE] == self.va:
                self.debugger.report_invalid_free(self, i, va)
            self._check(va)
        if u64[c + 2] == self.page_va(i):
            self._know_cpu_slab()
            head = u64[c]
            if head == va:
                raise self._double(va)
            self.set_freepointer(va, head)
            u64[c] = va
            u64[c + 1] = u64[c + 1] + 1 & _M64
        elif self.without_cpu_slab:
            self._free_single(i, va)
        else:
            self._slow_free(i, va)
        if self.core.kmemleak:
            self.core.kmemleak.free(va)

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
        self.set_freepointer(va, prior)
        counters -= 1
        u64[i + W_FREELIST] = va
        u64[i + W_COUNTERS] = counters
        if not prior:
            self._put_cpu_partial(i, drain=True)
        elif not counters & 0xFFFF and u64[i] & PG_WORKINGSET and self._enough_partial():
            self.remove_partial(i)
            self._discard_slab(i)

    def _free_single(self, i: int, va: int) -> None:
        """free_to_partial_list: without a cpu slab."""
        u64 = self._u64
        if self.debug:
            if not self.debugger.free_processing(self, i, va):
                return
        elif u64[i + W_FREELIST] == va or not u64[i + W_COUNTERS] & 0xFFFF:
            raise self._double(va)
        prior = u64[i + W_FREELIST]
        counters = u64[i + W_COUNTERS] - 1
        self.set_freepointer(va, prior)
        u64[i + W_FREELIST] = va
        u64[i + W_COUNTERS] = counters
        empty = not counters & 0xFFFF and self._enough_partial()
        if not prior:
            self._remove_full(i)
            if not empty:
                self._add_partial(i, tail=True)
        elif empty:
            self.remove_partial(i)
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
                raise CorruptionError("slab", self.page_va(i), why)
            if not counters & 0xFFFF:
                self.remove_partial(i)
                discard.append(i)
            elif free <= SHRINK_PROMOTE_MAX:
                promote[free - 1].append(i)
        # The fullest slabs first, so that the emptiest have time to become empty.
        for slabs in reversed(promote):
            for i in slabs:
                link = self.page_va(i) + 8 * W_SLAB_LIST
                self._lists.delete(link)
                self._lists.add(link, self._partial)
        for i in discard:
            self._discard_slab(i)
        return before - self.nr_slabs

    def live_objects(self) -> list[int]:
        live: list[int] = []
        for i in self.all_slabs():
            free = set(self.free_objects(self.pfn(i)))
            live += [va for va in self.objects_of(i) if va not in free]
        return live

    def _cpu_free(self) -> int:
        """Free objects of the cpu slab that are on the cpu freelist."""
        slab = self._u64[self._cpu + 2]
        return (
            len(self.walk_freelist(self.page_index_of(slab), self._u64[self._cpu])) if slab else 0
        )

    def active_objects(self) -> int:
        u64 = self._u64
        free = self._cpu_free()
        slabs = [self.space.page_index(pfn) for pfn in self.partial_slabs()]
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
            counters = self._u64[self.space.page_index(pfn) + W_COUNTERS]
            free += (counters >> 16 & _OBJECTS) - (counters & 0xFFFF)
        total, slabs = node.total_objects, node.nr_slabs
        return SlabInfo(
            self.name, total - free, total, self._size, self._objects, self._order,
            0, 0, 0, slabs, slabs,
        )  # fmt: skip

    def usable_size(self, va: int) -> int:
        if self.debug:
            self.debugger.skip_orig_size_check(self, va)
        return self.struct.object_size

    def orig_size(self, va: int) -> int:
        return self.debugger.orig_size(self, va)

    def set_orig_size(self, va: int, size: int) -> None:
        self.debugger.krealloc(self, va, size)

    def object_info(self, va: int, pfn: int) -> ObjectInfo:
        i = self.space.page_index(pfn)
        off = va - self.slab_base(i) - self.red_left_pad
        n = off // self._size
        objects = self._u64[i + W_COUNTERS] >> 16 & _OBJECTS
        if not 0 <= n < objects or off - n * self._size >= self.struct.object_size:
            return ObjectInfo(self, pfn, None, False)
        start = self.slab_base(i) + self.red_left_pad + n * self._size
        live = start not in self.free_objects(pfn)
        tracks = self.debugger.tracks(self, start)
        return ObjectInfo(self, pfn, start, live, *tracks)

    def validate(self) -> int:
        return self.debugger.validate(self) if self.debug else 0
