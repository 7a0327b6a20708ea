"""The slab allocators' part of mm.check: every slab, list and counter, from RAM alone.

Each function returns ``{slab pfn: objects handed out}`` or raises CheckError. What guest
code does to the per-CPU part between two checks is as good as what Python does: a cpu slab
is checked by what is on both of its freelists together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mm.errors import BadFree, CheckError, ListCorruption, SlabError
from mm.page import W_OWNER
from mm.slab.cache import KmemCache
from mm.slab.flags import (
    MAX_CACHES,
    SLAB_STORE_USER,
)
from mm.slab.slab import SlabCache
from mm.slab.slab_caches import Slab as SlabSlab
from mm.slab.slob import PAGE_UNITS, PG_SLOB_FREE, Slob, slob_units
from mm.slab.slub import SlubCache
from mm.slab.slub_caches import Slub
from mm.slab.slub_sizes import order_objects
from mm.slab.structs import (
    FREELIST_IN_OBJECT,
    FREELIST_OFF_SLAB,
    FROZEN,
    NODE_PARTIAL,
    OO_SHIFT,
    PG_WORKINGSET,
    W_COUNTERS,
    W_FREELIST,
    W_SLAB_CACHE,
    W_SLABS,
)

CLOBBERED_MAX = 8  # overwritten patterns of one slab that are named
Slabs = Iterable[int]  # PFNs of all frames that head a slab


def _listed(structure: str, blame: int, walk: Callable[[], Iterable[int]]) -> list[int]:
    try:
        return list(walk())
    except ListCorruption as e:
        raise CheckError(structure, e.va, f"list is corrupt: {e}") from e
    except SlabError as e:
        raise CheckError(structure, blame, str(e)) from e


def _common(cache: KmemCache) -> None:
    s = cache.struct
    if not s.refcount:
        raise CheckError("kmem_cache", cache.va, f"{s.name}: refcount is not 0")
    if not s.object_size or s.object_size > s.size:
        raise CheckError("kmem_cache", cache.va, f"{s.name}: an object fits its size")
    problem = s.problem(cache.space) or cache.problem(cache.space, s)
    if problem is not None:
        raise CheckError("kmem_cache", cache.va, f"{s.name}: {problem}")


def _counters(cache: KmemCache, slabs: int, objects: int) -> None:
    node = cache.struct.node
    if (node.nr_slabs, node.total_objects) != (slabs, objects):
        raise CheckError(
            "kmem_cache_node",
            cache.va,
            f"{cache.name}: nr_slabs and total_objects are {node.nr_slabs} and "
            f"{node.total_objects}, there are {slabs} and {objects}",
        )


def _by_cache(
    allocator: Slub | SlabSlab, slabs: Slabs
) -> tuple[list[KmemCache], dict[int, list[int]]]:
    """The caches, and the PFNs of the slabs of each by the VA of the cache."""
    links = _listed(
        "kmem_cache", 0, lambda: allocator.lists.walk(allocator.slab_caches, MAX_CACHES)
    )
    del links
    caches = allocator.caches()
    owned: dict[int, list[int]] = {cache.va: [] for cache in caches}
    for pfn in slabs:
        owner = allocator.ram.u64[allocator.space.page_index(pfn) + W_SLAB_CACHE]
        if owner not in owned:
            raise CheckError(
                "slab",
                allocator.space.page_pa(pfn),
                f"slab_cache {owner:#x} is no cache of the list",
            )
        owned[owner].append(pfn)
    return caches, owned


def _none_foreign(cache: KmemCache, listed: Iterable[int], own: set[int]) -> None:
    for pfn in listed:
        if pfn not in own:
            raise CheckError(
                "slab",
                cache.space.page_pa(pfn),
                f"pfn {pfn:#x}: an entry of a list of {cache.name} is a slab of it",
            )


# SLUB


def check_slub(slub: Slub, slabs: Slabs) -> dict[int, int]:
    """All of SLUB."""
    caches, owned = _by_cache(slub, slabs)
    used: dict[int, int] = {}
    for cache in caches:
        if isinstance(cache, SlubCache):
            _common(cache)
            used.update(_slub_cache(slub, cache, owned[cache.va]))
    return used


@dataclass(frozen=True)
class _SlubLists:
    """Where the slabs of a SLUB cache are: PFNs. ``cpu``: -1 if there is none."""

    partial: frozenset[int]
    full: frozenset[int]
    cpu_partial: frozenset[int]
    cpu: int


def _slub_cache(slub: Slub, cache: SlubCache, pfns: list[int]) -> dict[int, int]:
    lists = _slub_lists(slub, cache, set(pfns))
    used = {}
    total_objects = 0
    for pfn in pfns:
        used[pfn], total = _slub_slab(slub, cache, pfn, lists)
        total_objects += total
    _counters(cache, len(pfns), total_objects)
    return used


def _slub_lists(slub: Slub, cache: SlubCache, own: set[int]) -> _SlubLists:
    """The lists of a cache and its CPU's part: every entry is a slab of it, in one place."""
    s, name, u64 = cache.struct, cache.name, slub.ram.u64
    if s.cpu_slab != cache.va + s.cpu.pa - s.pa:
        raise CheckError("kmem_cache", cache.va, f"{name}: cpu_slab points to its per-CPU part")
    node_va = cache.va + NODE_PARTIAL
    partial = _listed("kmem_cache_node", node_va, cache.partial_slabs)
    if len(partial) != s.node.nr_partial:
        raise CheckError(
            "kmem_cache_node",
            cache.va,
            f"{name}: nr_partial is {s.node.nr_partial}, {len(partial)} are listed",
        )
    full = _listed("kmem_cache_node", node_va, cache.full_slabs)
    cpu_partial = _listed("kmem_cache_cpu", s.cpu_slab, cache.cpu_partial_slabs)
    for n, pfn in enumerate(cpu_partial):
        if u64[slub.space.page_index(pfn) + W_SLABS] != len(cpu_partial) - n:
            raise CheckError(
                "slab", slub.space.page_pa(pfn), f"{name}: slabs counts the cpu partial list"
            )
    c = s.cpu
    cpu = -1
    if c.slab:
        try:
            cpu = slub.space.page_to_pfn(c.slab)
        except Exception as e:
            raise CheckError("kmem_cache_cpu", s.cpu_slab, f"{name}: slab is a slab") from e
        _none_foreign(cache, [cpu], own)
    elif c.freelist:
        raise CheckError(
            "kmem_cache_cpu", s.cpu_slab, f"{name}: without a slab there is no freelist"
        )
    if (c.slab or c.freelist or c.partial) and cache.without_cpu_slab:
        raise CheckError(
            "kmem_cache_cpu", s.cpu_slab, f"{name}: a cache with debugging has no cpu slab"
        )
    for listed in (partial, full, cpu_partial):
        _none_foreign(cache, listed, own)
    where = [*partial, *full, *cpu_partial, *([cpu] if cpu >= 0 else [])]
    if len(set(where)) < len(where):
        raise CheckError("kmem_cache", cache.va, f"{name}: a slab is in one place")
    return _SlubLists(frozenset(partial), frozenset(full), frozenset(cpu_partial), cpu)


def _slub_slab(slub: Slub, cache: SlubCache, pfn: int, lists: _SlubLists) -> tuple[int, int]:
    """One slab: (objects handed out, objects)."""
    s, name, u64 = cache.struct, cache.name, slub.ram.u64
    i = slub.space.page_index(pfn)
    pa = slub.space.page_pa(pfn)
    counters = u64[i + W_COUNTERS]
    inuse, total = counters & 0xFFFF, counters >> 16 & 0x7FFF
    order = u64[i + W_OWNER] & 0xFFFF
    allowed = {s.oo >> OO_SHIFT, s.min >> OO_SHIFT}
    if order not in allowed or total != min(order_objects(order, cache.size), 0x7FFF):
        raise CheckError("slab", pa, f"{name}: order and objects are those of the cache")
    try:
        free = cache.free_objects(pfn)
    except SlabError as e:
        raise CheckError("slab", pa, f"freelist: {e}") from e
    if bool(counters & FROZEN) != (pfn == lists.cpu):
        raise CheckError("slab", pa, f"{name}: the cpu slab is frozen, and no other")
    own_free = len(cache.walk_freelist(i, u64[i + W_FREELIST]))
    if inuse != total - own_free:
        raise CheckError(
            "slab",
            pa,
            f"{name}: inuse is {inuse}, "
            f"{total - own_free} of {total} objects are not on the freelist",
        )
    if bool(u64[i] & PG_WORKINGSET) != (pfn in lists.partial):
        raise CheckError("slab", pa, f"{name}: PG_workingset iff it is on the node's partial list")
    has_room = bool(u64[i + W_FREELIST])
    if pfn != lists.cpu and (pfn in lists.partial or pfn in lists.cpu_partial) != has_room:
        raise CheckError("slab", pa, f"{name}: a slab is on the partial list iff it has room")
    if s.flags & SLAB_STORE_USER and (pfn in lists.full) == has_room:
        raise CheckError("slab", pa, f"{name}: a full slab is on the list of full ones")
    if cache.debug:
        _none_clobbered(cache, pa, slub.debugger.clobbered(cache, i, set(free)))
    return total - len(free), total


def _none_clobbered(cache: KmemCache, pa: int, found: list[str]) -> None:
    """Red zones and poison are whole, although nobody has freed anything."""
    if found:
        more = f"; and {len(found) - CLOBBERED_MAX} more" if len(found) > CLOBBERED_MAX else ""
        raise CheckError("slab", pa, f"{cache.name}: {'; '.join(found[:CLOBBERED_MAX])}{more}")


# SLAB


def check_slab(slab: SlabSlab, slabs: Slabs) -> dict[int, int]:
    """All of SLAB."""
    caches, owned = _by_cache(slab, slabs)
    used: dict[int, int] = {}
    freelists: list[tuple[SlabCache, int, int]] = []
    for cache in caches:
        if isinstance(cache, SlabCache):
            _common(cache)
            used.update(_slab_cache(slab, cache, owned[cache.va], freelists))
    for cache, pa, va in freelists:
        home = slab.freelist_cache(cache.struct.freelist_size)
        try:
            good = slab.cache_of(va) is home and bool(home.check_object(va))
        except BadFree:
            good = False
        if not good:
            raise CheckError(
                "slab", pa, f"{cache.name}: freelist {va:#x} is an object of {home.name}"
            )
    return used


def _slab_cache(
    slab: SlabSlab,
    cache: SlabCache,
    pfns: list[int],
    freelists: list[tuple[SlabCache, int, int]],
) -> dict[int, int]:
    s, name = cache.struct, cache.name
    stack = _array_cache(cache)
    own = set(pfns)
    node_va = cache.va + NODE_PARTIAL
    partial = _listed("kmem_cache_node", node_va, cache.partial_slabs)
    full = _listed("kmem_cache_node", node_va, cache.full_slabs)
    free_list = _listed("kmem_cache_node", node_va, cache.free_slabs)
    where = [*partial, *full, *free_list]
    _none_foreign(cache, where, own)
    if len(where) != len(pfns) or set(where) != own:
        raise CheckError(
            "kmem_cache_node", cache.va, f"{name}: every slab is on one of the three lists"
        )
    on_stack = _by_slab(cache, stack)
    used = {}
    free_objects = 0
    for pfns_here, in_use in (
        (partial, _InUse("a slab on slabs_partial has some objects in use", 1, s.num - 1)),
        (full, _InUse("a slab on slabs_full has all objects in use", s.num, s.num)),
        (free_list, _InUse("a slab on slabs_free has no objects in use", 0, 0)),
    ):
        for pfn in pfns_here:
            on_it = on_stack.get(pfn, set())
            free = _slab_slab(slab, cache, pfn, on_it, in_use)
            if s.freelist_kind == FREELIST_OFF_SLAB:
                freelist = slab.ram.u64[slab.space.page_index(pfn) + W_FREELIST]
                freelists.append((cache, slab.space.page_pa(pfn), freelist))
            free_objects += free
            used[pfn] = s.num - free - len(on_it)
    if s.node.free_objects != free_objects:
        raise CheckError(
            "kmem_cache_node",
            cache.va,
            f"{name}: free_objects is {s.node.free_objects}, there are {free_objects}",
        )
    _counters(cache, len(pfns), len(pfns) * s.num)
    return used


def _array_cache(cache: SlabCache) -> list[int]:
    """The CPU's stack: the objects on it."""
    s, name = cache.struct, cache.name
    ac = cache.array_cache
    if ac.avail > ac.limit or not 0 < ac.batchcount <= ac.limit or ac.limit != cache.limit:
        raise CheckError(
            "array_cache",
            s.array_cache,
            f"{name}: avail {ac.avail} and batchcount {ac.batchcount} are at most limit {ac.limit}",
        )
    stack = cache.array_entries()
    if len(set(stack)) < len(stack):
        raise CheckError("array_cache", s.array_cache, f"{name}: an object is there once")
    return stack


def _by_slab(cache: SlabCache, stack: list[int]) -> dict[int, set[int]]:
    """The objects on the CPU's stack, by the PFN of their slab."""
    on_stack: dict[int, set[int]] = {}
    for va in stack:
        try:
            i = cache.slab_of(va)
        except BadFree as e:
            where = cache.struct.array_cache
            raise CheckError("array_cache", where, f"{cache.name}: {e}") from e
        on_stack.setdefault(cache.pfn(i), set()).add(va)
    return on_stack


@dataclass(frozen=True)
class _InUse:
    """How many objects of a slab on some list are in use: ``low`` to ``high``."""

    rule: str
    low: int
    high: int


def _slab_slab(
    slab: SlabSlab, cache: SlabCache, pfn: int, on_stack: set[int], in_use: _InUse
) -> int:
    """One slab: how many of its objects are free, those on the CPU's stack not counted."""
    s, name, u64 = cache.struct, cache.name, slab.ram.u64
    i = slab.space.page_index(pfn)
    pa = slab.space.page_pa(pfn)
    active, s_mem = u64[i + W_COUNTERS] >> 32, u64[i + W_COUNTERS] & 0xFFFFFFFF
    if u64[i + W_OWNER] & 0xFFFF != cache.order:
        raise CheckError("slab", pa, f"{name}: its order is that of the cache")
    if not in_use.low <= active <= in_use.high:
        raise CheckError("slab", pa, f"{name}: {in_use.rule}, active is {active}")
    if s_mem % s.colour_off or s_mem // s.colour_off >= max(s.colour, 1):
        raise CheckError("slab", pa, f"{name}: s_mem {s_mem} is one of the colours")
    try:
        free = set(cache.free_objects(pfn))
    except SlabError as e:
        raise CheckError("slab", pa, f"freelist: {e}") from e
    if len(free) != s.num - active:
        raise CheckError("slab", pa, f"{name}: active counts the objects in use")
    if cache.debug:
        idle = free | on_stack
        _none_clobbered(cache, pa, cache.debug.clobbered(i, idle))
    if free & on_stack:
        raise CheckError("array_cache", s.array_cache, f"{name}: a free object is on the stack too")
    if s.freelist_kind == FREELIST_IN_OBJECT:
        holder = u64[i + W_FREELIST]
        if bool(holder) != bool(free) or (holder and holder not in free):
            raise CheckError("slab", pa, f"{name}: the freelist is in a free object of the slab")
    return len(free)


# SLOB


def check_slob(slob: Slob, slabs: Slabs) -> dict[int, int]:
    """All of SLOB: the values returned are 0 or 1, objects are not known."""
    _listed("kmem_cache", 0, lambda: slob.lists.walk(slob.slab_caches, MAX_CACHES))
    for cache in slob.caches():
        _common(cache)
    pfns = set(slabs)
    u64 = slob.ram.u64
    listed: set[int] = set()
    for n in range(3):
        head = slob.lists_va + 16 * n
        for i in _listed("slob", head, lambda head=head: slob.list_pages(head)):  # type: ignore[misc]
            pfn = slob.space.start_pfn + ((i - slob.space.memmap_index) >> 3)
            if pfn in listed:
                raise CheckError("slob", head, f"pfn {pfn:#x}: a page is on one list")
            listed.add(pfn)
    for pfn in listed - pfns:
        raise CheckError("slob", slob.space.page_pa(pfn), "an entry of a list is a page of SLOB")
    used = {}
    for pfn in sorted(pfns):
        i = slob.space.page_index(pfn)
        pa = slob.space.page_pa(pfn)
        if bool(u64[i] & PG_SLOB_FREE) != (pfn in listed):
            raise CheckError("slob", pa, "PG_private iff the page is on one of the lists")
        if u64[i + W_SLAB_CACHE]:
            raise CheckError("slob", pa, "a page of SLOB is no cache's")
        try:
            blocks = slob.free_blocks(pfn)
        except SlabError as e:
            raise CheckError("slob", pa, f"freelist: {e}") from e
        end = -1
        for at, units in blocks:
            if at <= end:
                raise CheckError("slob", pa, "free blocks are in address order and do not touch")
            end = at + units
        free = sum(units for _, units in blocks)
        if u64[i + W_COUNTERS] != free:
            raise CheckError("slob", pa, f"units is {u64[i + W_COUNTERS]}, {free} are free")
        if bool(free) != (pfn in listed):
            raise CheckError("slob", pa, "a page is on a list iff it has room")
        if free >= PAGE_UNITS:
            raise CheckError("slob", pa, "a page without used blocks goes back")
        used[pfn] = 0
    total = sum(slob_units(c.size) * c.active_objects() for c in slob.caches() if c.size < 4096)
    held = sum(PAGE_UNITS - u64[slob.space.page_index(p) + W_COUNTERS] for p in pfns)
    if total > held:
        raise CheckError(
            "slob", slob.lists_va, f"objects of caches take {total} units, {held} are in use"
        )
    return used
