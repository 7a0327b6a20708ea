"""The checker: every structure corrupted on purpose, the structure and the rule named."""

from __future__ import annotations

from check_world import Break, Cases, World, names_the_broken_rule
from work import lines_run

import mm
from emu.ram import Ram
from mm.addrspace import KERNEL_LINK_ADDR
from mm.gfp import GFP_KERNEL
from mm.page import PG_RESERVED
from mm.slab.slub import SlubCache
from mm.vm_struct import VmStruct

case = Cases()


@case("free_area", "nr_free")
def nr_free(w: World) -> int | None:
    area = w.k.zones[0].free_area[10]
    area.nr_free += 1
    return area.pa


@case("zone", "nr_free_pages")
def nr_free_pages(w: World) -> int | None:
    w.k.zones[0].nr_free_pages -= 1
    return w.k.zones[0].pa


@case("zone", "managed_pages")
def managed(w: World) -> int | None:
    w.k.zones[0].managed_pages += 1
    return w.k.zones[0].pa


@case("zone", "without a gap")
def zone_start(w: World) -> int | None:
    w.k.zones[0].zone_start_pfn += 1
    return w.k.zones[0].pa


@case("zone", "deferred")
def deferred_range(w: World) -> int | None:
    w.k.zones[0].deferred_end_pfn = 0x80000 + 1024
    w.k.zones[0].first_deferred_pfn = 0x80000 + 2048
    return w.k.zones[0].pa


@case("free_list", "list is corrupt")
def free_list_prev(w: World) -> int | None:
    pfn = w.free_head()
    w.k.page(pfn).lru.prev += 64
    return w.k.space.page_va(pfn) + 8


@case("free_list", "list is corrupt")
def free_list_wild(w: World) -> int | None:
    w.k.page(w.free_head()).lru.next = 0x1234
    return None


@case("free_list", "list is corrupt")
def free_list_cycle(w: World) -> int | None:
    page = w.k.page(w.free_head())
    page.lru.next = w.k.space.page_va(w.free_head()) + 8
    return None


@case("page", "page_type buddy")
def buddy_type(w: World) -> int | None:
    pfn = w.free_head()
    w.k.page(pfn).page_type = 0xFFFFFFFF
    return w.page_pa(pfn)


@case("page", "_refcount 0")
def buddy_refcount(w: World) -> int | None:
    pfn = w.free_head()
    w.k.page(pfn)._refcount = 1
    return w.page_pa(pfn)


@case("page", "is its order")
def buddy_order(w: World) -> int | None:
    pfn = w.free_head()
    w.k.page(pfn).private += 1
    return w.page_pa(pfn)


@case("page", "zone in its flags")
def buddy_flags(w: World) -> int | None:
    pfn = w.free_head()
    w.k.page(pfn).flags |= 1
    return w.page_pa(pfn)


@case("page", "inside of a free block are zero")
def inside_free(w: World) -> int | None:
    pfn = w.free_head(10) + 77
    w.k.page(pfn).index = 5
    return w.page_pa(pfn)


@case("page", "a free frame has _refcount 0|inside of a free block")
def allocated_in_free(w: World) -> int | None:
    pfn = w.free_head(10) + 77
    w.k.page(pfn)._refcount = 1
    return w.page_pa(pfn)


@case("page", "is on a free list")
def buddy_unlisted(w: World) -> int | None:
    pfn = w.free_head(10)
    w.k.lists.delete(w.k.space.page_va(pfn) + 8)
    w.k.zones[0].free_area[10].nr_free -= 1
    w.k.zones[0].nr_free_pages -= 1024
    return w.page_pa(pfn)


@case("page", "not merged")
def missed_merge(w: World) -> int | None:
    pfn = w.free_head(10)
    zone = w.k.page_alloc.buddy.index[0]
    w.k.page_alloc.buddy.del_block(zone, pfn, 10)
    w.k.page_alloc.buddy.add_block(zone, pfn, 9, 1)
    w.k.page_alloc.buddy.add_block(zone, pfn + 512, 9, 1)
    return None


@case("page", "aligned to its size")
def misaligned(w: World) -> int | None:
    pfn = w.free_head(10)
    zone = w.k.page_alloc.buddy.index[0]
    w.k.page_alloc.buddy.del_block(zone, pfn, 10)
    w.k.page_alloc.buddy.add_block(zone, pfn + 4, 9, 1)
    w.k.zones[0].nr_free_pages -= 512
    return w.page_pa(pfn + 4)


@case("page", "belongs to one block")
def overlap(w: World) -> int | None:
    pfn = w.free_head(10)
    w.k.page_alloc.buddy.add_block(w.k.page_alloc.buddy.index[0], pfn + 512, 8, 1)
    w.k.zones[0].nr_free_pages += 256
    return w.page_pa(pfn + 512)


@case("page", "reserved frame is free|is PG_reserved|zone in its flags")
def reserved_freed(w: World) -> int | None:
    pfn = 0x80000 + 512  # vmcoreinfo's
    w.k.page(pfn).flags &= ~PG_RESERVED
    return w.page_pa(pfn)


@case("page", "memblock has not reserved")
def stray_reserved(w: World) -> int | None:
    w.k.page(w.single).flags |= PG_RESERVED
    return w.page_pa(w.single)


@case("page", "free, reserved, or part of an allocated")
def leaked_frame(w: World) -> int | None:
    w.ram.write(w.page_pa(w.single), bytes(64))
    return w.page_pa(w.single)


@case("page", "_refcount is negative")
def negative_refcount(w: World) -> int | None:
    w.k.page(w.single)._refcount = -1
    return w.page_pa(w.single)


@case("page", "_mapcount -1")
def owner_order(w: World) -> int | None:
    w.k.page(w.block + 3)._mapcount = 0
    return w.page_pa(w.block + 3)


@case("page", "part of an allocated block|belongs to one block|_mapcount")
def owner_shrunk(w: World) -> int | None:
    w.k.page(w.block).order = 2
    return None


@case("page", "at most MAX_PAGE_ORDER")
def owner_absurd(w: World) -> int | None:
    w.k.page(w.block).order = 60
    return w.page_pa(w.block)


@case("page", "the zone of the frame")
def wrong_zone(w: World) -> int | None:
    w.k.page(w.single).flags ^= 1 << 55
    return w.page_pa(w.single)


@case("page_tail", "compound_head")
def compound_head(w: World) -> int | None:
    w.k.page(w.comp + 5).lru.next -= 64
    return w.page_pa(w.comp + 5)


@case("page_tail", "holds its order")
def compound_order(w: World) -> int | None:
    w.k.page(w.comp + 1).flags ^= 1
    return w.page_pa(w.comp + 1)


@case("memblock.memory", "sorted")
def memblock_order(w: World) -> int | None:
    w.ram.write64(w.k.memblock._array_pa(0), w.ram.base + (3 << 20))
    return None


@case("memblock.reserved", "total_size")
def memblock_total(w: World) -> int | None:
    w.k.memblock.head.reserved.total_size += 1
    return None


@case("memblock", "claims")
def memblock_count(w: World) -> int | None:
    w.k.memblock.head.memory.cnt = 1 << 40
    return None


@case("slab", "freelist")
def slab_freelist_wild(w: World) -> int | None:
    w.k.page(w.slab).index = 0x1000  # struct slab's freelist
    return w.page_pa(w.slab)


@case("slab", "cycle")
def slab_freelist_cycle(w: World) -> int | None:
    cache = w.k.slab.cache_of(w.object)
    assert cache is not None
    first = cache.struct.cpu.freelist
    w.ram.write64(w.k.pa(first) + 32, first)
    return w.page_pa(w.slab)


@case("slab", "frozen")
def slab_frozen(w: World) -> int | None:
    w.k.page(w.slab).private &= ~(1 << 31)
    return w.page_pa(w.slab)


@case("slab", "PG_workingset")
def slab_partial_flag(w: World) -> int | None:
    w.k.page(w.slab).flags |= 1 << 9
    return w.page_pa(w.slab)


@case("kmem_cache_cpu", "without a slab")
def cpu_slab_gone(w: World) -> int | None:
    cache = w.k.slab.cache_of(w.object)
    assert cache is not None
    cache.struct.cpu.slab = 0
    return cache.struct.cpu_slab


@case("kmem_cache", "per-CPU part")
def cpu_slab_pointer(w: World) -> int | None:
    cache = w.k.slab.cache_of(w.object)
    assert cache is not None
    cache.struct.cpu_slab += 8
    return cache.va


@case("slab", "inuse")
def slab_inuse(w: World) -> int | None:
    w.k.page(w.slab).private += 1
    return w.page_pa(w.slab)


@case("slab", "objects are those of the cache")
def slab_objects(w: World) -> int | None:
    w.k.page(w.slab).private += 1 << 16
    return w.page_pa(w.slab)


@case("slab", "is no cache")
def slab_cache_pointer(w: World) -> int | None:
    w.k.page(w.slab).lru.next += 8
    return w.page_pa(w.slab)


@case("slab", "partial list iff it has room")
def slab_unlisted(w: World) -> int | None:
    cache = w.k.slab.cache_of(w.object)
    assert isinstance(cache, SlubCache)
    cache.flush()
    cache.remove_partial(w.k.space.page_index(w.slab))
    return w.page_pa(w.slab)


@case("kmem_cache_node", "nr_partial")
def nr_partial(w: World) -> int | None:
    cache = w.k.slab.cache_of(w.object)
    assert cache is not None
    cache.struct.node.nr_partial += 1
    return cache.va


@case("kmem_cache_node", "nr_slabs")
def nr_slabs(w: World) -> int | None:
    cache = w.k.slab.cache_of(w.object)
    assert cache is not None
    cache.struct.node.nr_slabs += 1
    return cache.va


@case("kmem_cache_node", "list is corrupt")
def partial_list(w: World) -> int | None:
    cache = w.k.slab.cache_of(w.object)
    assert cache is not None
    cache.struct.node.partial.prev += 8
    return None


@case("kmem_cache", "list is corrupt")
def cache_list(w: World) -> int | None:
    w.k.slab.caches()[2].struct.list.next = 0
    return None


@case("ptdesc", "page_type table")
def table_type(w: World) -> int | None:
    pfn = w.k.pgtable.root(w.mm) >> 12
    w.k.page(pfn).page_type = 0xFFFFFFFF
    return w.page_pa(pfn)


@case("ptdesc", "pt_mm")
def table_owner(w: World) -> int | None:
    pfn = w.k.pgtable.root(w.mm) >> 12
    w.k.page(pfn).index += 64
    return w.page_pa(pfn)


@case("ptdesc", "leaked")
def table_leak(w: World) -> int | None:
    (table,) = w.k.pgtable.ops.alloc_tables(w.mm, 1)
    w.mm.pgtables_bytes -= 4096
    return w.page_pa(table >> 12)


@case("mm_struct", "pgtables_bytes")
def table_count(w: World) -> int | None:
    w.mm.pgtables_bytes += 4096
    return w.k.va(w.mm.pa)


@case("page table", "one place")
def table_shared(w: World) -> int | None:
    root = w.k.pgtable.root(w.mm)
    w.ram.write64(root + 8, w.ram.read64(root))
    return None


@case("page table", "outside of RAM")
def table_outside(w: World) -> int | None:
    w.ram.write64(w.k.pgtable.root(w.mm) + 8, 0x10 << 10 | 1)
    return None


@case("page table", "one place")
def table_loop(w: World) -> int | None:
    root = w.k.pgtable.root(w.mm)
    w.ram.write64(root + 8, root >> 12 << 10 | 1)
    return None


@case("mm_struct", "kernel half")
def kernel_half(w: World) -> int | None:
    w.ram.write64(w.k.pgtable.root(w.mm) + 8 * 300, 0)
    w.ram.write64(w.k.pgtable.root(w.mm) + 8 * 511, 0)
    return w.k.va(w.mm.pa)


@case("mm_struct", "ASID")
def asid_twice(w: World) -> int | None:
    other = w.k.mm_alloc()
    other.asid = w.mm.asid
    return w.k.va(other.pa)


@case("pte", "a user page maps a free frame")
def user_maps_free(w: World) -> int | None:
    free = w.free_head()
    return w.set_pte(w.mm, 0x11000, lambda pte: free << 10 | pte & 0x3FF)


@case("pte", "a user page maps a reserved frame")
def user_maps_reserved(w: World) -> int | None:
    return w.set_pte(w.mm, 0x11000, lambda pte: 0x80000 << 10 | pte & 0x3FF)


@case("pte", "a user page maps a page table")
def user_maps_table(w: World) -> int | None:
    root = w.k.pgtable.root(w.mm) >> 12
    return w.set_pte(w.mm, 0x12000, lambda pte: root << 10 | pte & 0x3FF)


@case("pte", "a user page maps a slab")
def user_maps_slab(w: World) -> int | None:
    return w.set_pte(w.mm, 0x10000, lambda pte: w.slab << 10 | pte & 0x3FF)


@case("pte", "permissions")
def user_permissions(w: World) -> int | None:
    return w.set_pte(w.mm, 0x20000, lambda pte: pte | 0x4)


@case("pte", "permissions")
def user_without_u(w: World) -> int | None:
    return w.set_pte(w.mm, 0x20000, lambda pte: pte & ~0x10)


@case("pte", r"W\^X: writable and executable")
def user_wx(w: World) -> int | None:
    return w.set_pte(w.mm, 0x10000, lambda pte: pte | 0x8)


@case("pte", "inside of a VMA")
def user_outside(w: World) -> int | None:
    pa, pte = w.pte(w.mm, 0x20000)
    w.ram.write64(pa + 8, pte)
    return 0x21000


@case("pte", "which is free")
def kernel_maps_free(w: World) -> int | None:
    free = w.free_head()
    return w.set_pte(w.k.init_mm, w.area, lambda pte: free << 10 | pte & 0x3FF)


@case("pte", "U=0")
def kernel_user_bit(w: World) -> int | None:
    return w.set_pte(w.k.init_mm, w.area, lambda pte: pte | 0x10)


@case("pte", "writable elsewhere")
def text_alias_writable(w: World) -> int | None:
    found = w.k.find_vm_area(w.module)
    assert found is not None
    (pfn,) = w.k.vmalloc_areas.pages_of(found)
    w.set_pte(w.k.init_mm, w.k.space.pfn_to_virt(pfn), lambda pte: pte | 0x4)
    return w.module


@case("pte", "writable elsewhere")
def image_made_executable(w: World) -> int | None:
    w.set_pte(w.k.init_mm, KERNEL_LINK_ADDR, lambda pte: pte | 0x8)
    return KERNEL_LINK_ADDR


@case("vm_area_struct", "sorted")
def vma_order(w: World) -> int | None:
    w.vma2.vm_start = 0x11000
    return w.k.va(w.vma2.pa)


@case("vm_area_struct", "whole pages")
def vma_pages(w: World) -> int | None:
    w.vma.vm_end += 1
    return w.k.va(w.vma.pa)


@case("vm_area_struct", "vm_mm")
def vma_mm(w: World) -> int | None:
    w.vma.vm_mm += 8
    return w.k.va(w.vma.pa)


@case("vm_area_struct", "list is corrupt")
def vma_list(w: World) -> int | None:
    w.vma.list.next = 0
    return None


@case("mm_struct", "map_count")
def map_count(w: World) -> int | None:
    w.mm.map_count += 1
    return w.k.va(w.mm.pa)


@case("mm_struct", "total_vm")
def total_vm(w: World) -> int | None:
    w.mm.total_vm += 1
    return w.k.va(w.mm.pa)


@case("mm_struct", "list is corrupt")
def mm_list(w: World) -> int | None:
    w.mm.mmlist.prev += 16
    return None


def _vm_struct(w: World) -> VmStruct:
    found = w.k.find_vm_area(w.area)
    assert found is not None
    return found


@case("vm_struct", "guard page")
def area_size(w: World) -> int | None:
    area = _vm_struct(w)
    area.size += 4096
    return w.k.va(area.pa)


@case("vm_struct", "maps pages")
def area_pages(w: World) -> int | None:
    area = _vm_struct(w)
    w.ram.write64(w.k.pa(area.pages), w.k.space.page_va(w.single))
    return w.k.va(area.pa)


@case("vm_struct", "list is corrupt")
def area_list(w: World) -> int | None:
    _vm_struct(w).list.prev = 0
    return None


@case.each()
def test_corruption_is_named(structure: str, rule: str, corrupt: Break) -> None:
    names_the_broken_rule(structure, rule, corrupt)


def test_deferred_struct_pages_are_not_read() -> None:
    """By design: they are untouched, and reading them is what a large machine cannot afford."""
    k = mm.boot(Ram(1 << 30))
    assert mm.check(k).deferred == k.zones[0].deferred_end_pfn - k.zones[0].first_deferred_pfn


def test_check_is_little_work() -> None:
    """Less than 10 lines of Python for a frame in use, and 25 for a free block on its list."""
    k = mm.boot(Ram(64 << 20))
    held = k.alloc_pages_bulk(GFP_KERNEL, 12000)
    before = lines_run(lambda: mm.check(k))
    assert before < 10 * 16384
    for pfn in held[::2]:
        k.free_page(pfn)
    assert lines_run(lambda: mm.check(k)) - before < 25 * 6000
