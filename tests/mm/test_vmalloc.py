"""vmalloc: lazy unmapping, huge mappings, vmap, the nested page array, lookup, growth."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import mm
from emu.ram import PAGE_SHIFT, PAGE_SIZE, Ram
from emu.spec.paging import SV39, SV48, SV57, PagingMode
from emu.spec.walk import Access, Translation, walk
from mm.addrspace import MODULES_END, MODULES_VADDR
from mm.errors import BadFree, CheckError, VmaError
from mm.gfp import GFP_KERNEL
from mm.hart import Recorder
from mm.pgtable import PAGE_KERNEL, PAGE_KERNEL_EXEC, PAGE_KERNEL_READ
from mm.vm_struct import (
    PMD_SIZE,
    VM_ALLOC,
    VM_LAZY_FREE,
    VM_MAP,
    VM_MAP_PUT_PAGES,
    VmStruct,
)
from mm.vmap_area import lazy_max_pages

Booter = Callable[..., mm.Kernel]
MODES = pytest.mark.parametrize("mode", [SV39, SV48, SV57], ids=lambda m: m.name)
MIB = 1 << 20


def need(value: int | None) -> int:
    assert value is not None
    return value


def translate(k: mm.Kernel, va: int, access: Access = Access.READ) -> int | None:
    found = walk(k.ram, k.mode, k.pgtable.root(k.init_mm), va, access)
    return found.pa if isinstance(found, Translation) else None


def flushes(k: mm.Kernel) -> list[tuple[str | int, ...]]:
    assert isinstance(k.hart, Recorder)
    return k.hart.take()


def area_of(k: mm.Kernel, va: int) -> VmStruct:
    area = k.find_vm_area(va)
    assert area is not None
    return area


def settled(k: mm.Kernel) -> int:
    """Free pages, with nothing kept back."""
    k.vm_unmap_aliases()
    for cache in k.slab.caches():
        cache.shrink()
    return k.page_alloc.nr_free_pages()


# lazy unmapping


def test_one_flush_for_many(kernel: mm.Kernel) -> None:
    k = kernel
    areas = [need(k.vmalloc(3 * PAGE_SIZE)) for _ in range(20)]
    assert flushes(k) == []  # invalid -> valid owes none
    for va in areas:
        k.vfree(va)
    assert flushes(k) == []
    assert k.vmalloc_areas.lazy_pages == 20 * 4
    assert [a.addr for a in k.vmalloc_areas.lazy_areas()] == areas
    assert all(translate(k, va) is None for va in areas)  # the PTEs went at once
    assert k.find_vm_area(areas[0]) is None
    mm.check(k)
    k.vm_unmap_aliases()
    assert flushes(k) == [("all",)]
    assert k.vmalloc_areas.lazy_pages == 0 and k.vmalloc_areas.all_areas() == []
    k.vm_unmap_aliases()
    assert flushes(k) == []  # nothing to flush for
    mm.check(k)


def test_frames_are_free_at_once_addresses_after_the_purge(kernel: mm.Kernel) -> None:
    k = kernel
    va = need(k.vmalloc(100 * PAGE_SIZE))
    pfns = k.vmalloc_areas.pages_of(area_of(k, va))
    before = k.page_alloc.nr_free_pages()
    k.vfree(va)
    assert k.page_alloc.nr_free_pages() >= before + 100
    other = need(k.vmalloc(PAGE_SIZE))
    assert other == va + 101 * PAGE_SIZE
    assert k.alloc_page() is not None and pfns
    k.vm_unmap_aliases()
    assert k.vmalloc(PAGE_SIZE) == va


def test_purge_above_lazy_max_pages(boot: Booter) -> None:
    assert (lazy_max_pages(1), lazy_max_pages(2), lazy_max_pages(8)) == (8192, 16384, 32768)
    k = boot(16)
    start = k.layout.vmalloc_start
    for i in range(7):
        va = need(k.vmalloc(1023 * PAGE_SIZE))
        # The array of 1023 pointers takes an area of two pages and a guard page itself.
        assert va == start + i * 1027 * PAGE_SIZE
        k.vfree(va)
        assert flushes(k) == [] and k.vmalloc_areas.lazy_pages == (i + 1) * 1027
    k.vfree(need(k.vmalloc(1023 * PAGE_SIZE)))
    assert flushes(k) == [("all",)] and k.vmalloc_areas.lazy_pages == 0
    mm.check(k)


def test_exactly_at_the_limit_nothing_is_purged(boot: Booter) -> None:
    k = boot(64)
    for pages in (511, 511):
        k.vfree(need(k.vmalloc(pages * PAGE_SIZE)))
    left = 8192 - k.vmalloc_areas.lazy_pages
    while left:
        pages = min(left, 512) - 1
        k.vfree(need(k.vmalloc(pages * PAGE_SIZE)))
        left -= pages + 1
    assert k.vmalloc_areas.lazy_pages == 8192 and flushes(k) == []
    k.vfree(need(k.vmalloc(PAGE_SIZE)))
    assert flushes(k) == [("all",)] and k.vmalloc_areas.lazy_pages == 0


def test_purge_when_addresses_run_out(kernel: mm.Kernel) -> None:
    k = kernel
    start = k.layout.vmalloc_start
    a = need(k.vmalloc_range(PAGE_SIZE, start, start + 2 * PAGE_SIZE))
    k.vfree(a)
    flushes(k)
    assert k.vmalloc_range(PAGE_SIZE, start, start + 2 * PAGE_SIZE) == a
    assert flushes(k) == [("all",)]


def test_purge_when_frames_run_out(boot: Booter) -> None:
    """Lazily freed areas keep page tables; when frames lack, those go."""
    k = boot(16)
    mapped_by = set()
    gib = 1 << 30
    start = k.layout.vmalloc_start
    for i in range(8):  # a level 0 table each
        at = start + gib + i * PMD_SIZE
        va = need(k.vmalloc_range(PAGE_SIZE, at, at + PMD_SIZE))
        found = k.pgtable.lookup(k.init_mm, va)
        assert found is not None
        mapped_by.add(found[1] >> PAGE_SHIFT)
        k.vfree(va)
    flushes(k)
    assert k.vmalloc_areas.lazy_pages == 16
    hold = []
    while (pfn := k.alloc_page()) is not None:
        hold.append(pfn)
    assert flushes(k) == [("all",)] and k.vmalloc_areas.lazy_pages == 0
    tables = [table for table in hold if table in mapped_by]
    assert len(tables) == 8
    mm.check(k)


def test_nothing_is_purged_while_an_area_is_being_mapped(boot: Booter) -> None:
    """The shrinker must not free an empty table that the mapping at hand is about to use."""
    k = boot(16)
    k.vfree(need(k.vmalloc(PAGE_SIZE)))  # its table waits, empty
    taken: list[int] = []

    def shrinks(gfp: int, order: int) -> bool:
        if k.vmalloc_areas._mapping:
            taken.append(k.vmalloc_areas.shrink())
        return False

    k.page_alloc.should_fail = shrinks  # called from within every allocation
    at = k.layout.vmalloc_start + PMD_SIZE - 4 * PAGE_SIZE
    va = k.vmalloc_range(8 * PAGE_SIZE, at, at + MIB)  # the waiting table, and a new one
    k.page_alloc.should_fail = None
    assert va == at and taken == [0] and k.vmalloc_areas.lazy_pages == 2
    mm.check(k)


def test_tables_and_structs_leave_after_the_flush(boot: Booter) -> None:
    class Watch(Recorder):
        free_at_flush = -1

        def flush_tlb_all(self) -> None:
            self.free_at_flush = k.page_alloc.nr_free_pages()

    watch = Watch()
    k = mm.boot(Ram(16 * MIB), hart=watch)
    k.vfree(need(k.vmalloc(PAGE_SIZE)))
    free = k.page_alloc.nr_free_pages()
    k.vm_unmap_aliases()
    assert watch.free_at_flush == free == k.page_alloc.nr_free_pages() - 1


def test_nothing_is_kept(boot: Booter) -> None:
    k = boot(32)
    k.vfree(need(k.vmalloc(PAGE_SIZE)))
    k.vfree(need(k.vmalloc_huge(PMD_SIZE)))
    free = settled(k)
    held = [need(k.vmalloc(n * PAGE_SIZE)) for n in (1, 7, 600, 1023, 2, 513)]
    held.append(need(k.vmalloc_huge(2 * PMD_SIZE)))
    mm.check(k)
    for va in held:
        k.vfree(va)
    assert settled(k) == free
    mm.check(k)


def test_code_is_flushed_before_its_frames_are_free(boot: Booter) -> None:
    k = boot(16)
    va = need(k.module_alloc(2 * PAGE_SIZE))
    k.set_memory(va, PAGE_SIZE, PAGE_KERNEL_EXEC)
    pfn = k.vmalloc_areas.pages_of(area_of(k, va))[0]
    flushes(k)
    k.vfree(va)
    calls = flushes(k)
    assert calls[:2] == [("icache", pfn, 1), ("all",)]
    alias = k.space.pfn_to_virt(pfn)
    assert ("page", alias, -1) in calls[2:]
    assert translate(k, alias, Access.WRITE) == pfn << PAGE_SHIFT
    assert k.vmalloc_areas.lazy_pages == 0
    mm.check(k)


# attach


def test_attach_knows_lazy_areas(boot: Booter) -> None:
    k = boot(16)
    a, b = need(k.vmalloc(PAGE_SIZE)), need(k.vmalloc(3 * PAGE_SIZE))
    k.vfree(a)
    hart = Recorder()
    again = mm.attach(k.ram, hart)
    mm.check(again)
    assert again.vmalloc_areas.lazy_pages == 2
    assert [x.addr for x in again.vmalloc_areas.areas] == [b]
    assert need(again.vmalloc(PAGE_SIZE)) == b + 4 * PAGE_SIZE
    again.vm_unmap_aliases()
    assert hart.take() == [("all",)]
    assert again.vmalloc(PAGE_SIZE) == a


# scattered frames


def test_fragmented_frames_behind_contiguous_addresses(boot: Booter) -> None:
    k = boot(16)
    k.vfree(need(k.vmalloc(500 * PAGE_SIZE)))  # its slabs and tables stay
    held = k.alloc_pages_bulk(GFP_KERNEL, 2000)
    for pfn in held[::2]:
        k.free_page(pfn)
    while (large := k.alloc_pages(GFP_KERNEL, 1)) is not None:  # no two neighbours are free
        assert large
    va = need(k.vmalloc(500 * PAGE_SIZE))
    pas = [need(translate(k, va + i * PAGE_SIZE, Access.WRITE)) for i in range(500)]
    pfns = [pa >> PAGE_SHIFT for pa in pas]
    assert pfns == k.vmalloc_areas.pages_of(area_of(k, va))
    assert len(set(pfns)) == 500
    assert all(abs(a - b) != 1 for a, b in pairwise(pfns))
    mm.check(k)


def test_the_page_array_is_an_area_above_one_page(boot: Booter) -> None:
    k = boot(32)
    small = need(k.vmalloc(512 * PAGE_SIZE))
    assert k.space.page_offset <= area_of(k, small).pages < k.space.direct_end
    large = need(k.vmalloc(513 * PAGE_SIZE, caller="load_everything"))
    area = area_of(k, large)
    holder = area_of(k, area.pages)
    assert holder.addr == area.pages == large + 514 * PAGE_SIZE
    assert holder.nr_pages == 2 and holder.caller == area.caller == "load_everything"
    # Guest code finds the pointers where ``pages`` says, through the walk.
    for i in (0, 511, 512):
        pa = need(translate(k, area.pages + 8 * i))
        page = k.ram.read64(pa)
        assert k.space.page_to_pfn(page) << PAGE_SHIFT == translate(k, large + i * PAGE_SIZE)
    mm.check(k)
    k.vfree(large)
    assert [a.addr for a in k.vmalloc_areas.areas] == [small]
    mm.check(k)


def test_array_of_an_array(boot: Booter) -> None:
    """Above 262,144 pages even the array's array is an area. RAM is sparse: 2 GiB of it."""
    k = boot(2048)
    va = need(k.vmalloc(262145 * PAGE_SIZE))
    area = area_of(k, va)
    holder = area_of(k, area.pages)
    inner = area_of(k, holder.pages)
    assert (holder.nr_pages, inner.nr_pages) == (513, 2)
    pfns = k.vmalloc_areas.pages_of(area)
    assert translate(k, va + 262144 * PAGE_SIZE) == pfns[-1] << PAGE_SHIFT
    k.vfree(va)
    assert k.vmalloc_areas.areas == []


# vmap


def test_vmap(kernel: mm.Kernel) -> None:
    k = kernel
    pfns = [need(k.alloc_page()) for _ in range(3)]
    order = [pfns[2], pfns[0], pfns[0]]
    va = need(k.vmap(order, caller="me"))
    assert [need(translate(k, va + i * PAGE_SIZE)) >> PAGE_SHIFT for i in range(3)] == order
    area = area_of(k, va)
    assert (area.flags, area.nr_pages, area.pages) == (VM_MAP, 0, 0)
    assert translate(k, va + 3 * PAGE_SIZE) is None
    mm.check(k)
    for wrong, call in (("vunmap", k.vfree), ("no area", lambda _: k.vunmap(va + PAGE_SIZE))):
        with pytest.raises(BadFree, match=wrong):
            call(va)
    k.vunmap(va)
    k.vunmap(0)
    with pytest.raises(BadFree):
        k.vunmap(va)
    mm.check(k)
    for pfn in pfns:
        k.free_page(pfn)
    read = need(k.vmap([need(k.alloc_page())], prot=PAGE_KERNEL_READ))
    assert translate(k, read, Access.WRITE) is None
    with pytest.raises(VmaError, match="vmap"):
        k.set_memory(read, PAGE_SIZE, PAGE_KERNEL)
    mm.check(k)


def test_vmap_put_pages(kernel: mm.Kernel) -> None:
    k = kernel
    k.vunmap(need(k.vmap([k.space.end_pfn - 1])))
    free = settled(k)
    pfns = [need(k.alloc_page()) for _ in range(4)]
    va = need(k.vmap(pfns, VM_MAP | VM_MAP_PUT_PAGES))
    assert k.vmalloc_areas.pages_of(area_of(k, va)) == pfns
    mm.check(k)
    with pytest.raises(BadFree, match="owns"):
        k.vunmap(va)
    k.vfree(va)
    assert settled(k) == free


def test_vmap_refuses(kernel: mm.Kernel) -> None:
    k = kernel
    pfn = need(k.alloc_page())
    for call in (
        lambda: k.vmap([]),
        lambda: k.vmap([1]),
        lambda: k.vmap([pfn], VM_ALLOC),
        lambda: k.vmap([pfn], prot=PAGE_KERNEL_EXEC),
    ):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(BadFree, match="vfree"):
        k.vunmap(need(k.vmalloc(1)))
    mm.check(k)


# huge mappings


@MODES
def test_huge_mappings(boot: Booter, mode: PagingMode) -> None:
    k = boot(64, paging=mode)
    k.vmalloc(PAGE_SIZE)
    va = need(k.vmalloc_huge(3 * MIB))
    assert va % PMD_SIZE == 0
    area = area_of(k, va)
    assert (area.size, area.nr_pages, area.page_order) == (2 * PMD_SIZE + PAGE_SIZE, 1024, 9)
    assert area.requested_size == 3 * MIB
    for i in range(2):
        found = k.pgtable.lookup(k.init_mm, va + i * PMD_SIZE)
        assert found is not None and found[0] == 1
    assert translate(k, va + 2 * PMD_SIZE) is None  # the guard page
    small = need(k.vmalloc_huge(PMD_SIZE - PAGE_SIZE))
    assert area_of(k, small).page_order == 0
    mm.check(k)
    k.set_memory(va + PAGE_SIZE, PAGE_SIZE, PAGE_KERNEL_READ)  # splits one of them
    assert translate(k, va + PAGE_SIZE, Access.WRITE) is None
    assert translate(k, va, Access.WRITE) is not None
    mm.check(k)
    k.vfree(va)
    mm.check(k)


def test_huge_falls_back_without_blocks(boot: Booter) -> None:
    k = boot(16)
    held = []
    while (pfn := k.alloc_pages(GFP_KERNEL, 9)) is not None:
        held.append(pfn)
    for pfn in held:  # free again, but for one frame in each block
        k.page_alloc.split_page(pfn, 9)
        k.page_alloc.free_page_runs([(pfn + 1, 511)])
    va = need(k.vmalloc_huge(PMD_SIZE))
    area = area_of(k, va)
    assert (area.page_order, area.nr_pages, area.size) == (0, 512, PMD_SIZE + PAGE_SIZE)
    mm.check(k)
    assert k.vmalloc_huge(64 * MIB) is None
    mm.check(k)


# lookup and names


def test_caller_is_recorded(kernel: mm.Kernel) -> None:
    def load_module() -> int:
        return need(kernel.vmalloc(PAGE_SIZE))

    assert area_of(kernel, load_module()).caller == "load_module"
    assert area_of(kernel, need(kernel.vzalloc(1, caller="x" * 40))).caller == "x" * 31
    assert area_of(kernel, need(kernel.module_alloc(1))).caller == "test_caller_is_recorded"


# what check sees


def broken(k: mm.Kernel, structure: str, rule: str) -> None:
    with pytest.raises(CheckError, match=rule) as e:
        mm.check(k)
    assert e.value.structure == structure


def test_check_names_what_is_wrong(boot: Booter) -> None:
    def world() -> tuple[mm.Kernel, VmStruct, VmStruct]:
        k = boot(16)
        lazy = area_of(k, need(k.vmalloc(PAGE_SIZE)))
        live = area_of(k, need(k.vmalloc(2 * PAGE_SIZE)))
        k.vfree(lazy.addr)
        mm.check(k)
        return k, lazy, live

    k, lazy, live = world()
    lazy.flags &= ~VM_LAZY_FREE
    broken(k, "vm_struct", "iff it is on the purge list")
    k, lazy, live = world()
    k.vmcoreinfo.vmap_lazy_nr += 1
    broken(k, "vmcoreinfo", "vmap_lazy_nr is 3, 2 pages")
    k, lazy, live = world()
    k.pgtable.map_pages(k.init_mm, lazy.addr, [need(k.alloc_page())], PAGE_KERNEL)
    broken(k, "vm_struct", "maps and owns nothing")
    k, lazy, live = world()
    k.pgtable.map_pages(k.init_mm, live.addr + 0x2000, [need(k.alloc_page())], PAGE_KERNEL)
    broken(k, "vm_struct", "the guard page is not mapped")
    k, lazy, live = world()
    k.pgtable.map_pages(k.init_mm, live.addr + 0x9000, [need(k.alloc_page())], PAGE_KERNEL)
    broken(k, "pte", "lies in an area")
    k, lazy, live = world()
    found = k.pgtable.lookup(k.init_mm, live.addr)
    assert found is not None
    k.ram.write64(found[1], 0)
    broken(k, "vm_struct", "maps pages")
    k, lazy, live = world()
    live.flags |= 0x20
    broken(k, "vm_struct", "half made")
    k, lazy, live = world()
    lazy.purge_list.next = lazy.purge_list.prev = 0
    broken(k, "vm_struct", "list is corrupt")
    k, lazy, live = world()
    va = need(k.vmap([need(k.alloc_page())]))
    found = k.pgtable.lookup(k.init_mm, va)
    assert found is not None
    k.ram.write64(found[1], 0)
    broken(k, "vm_struct", "every page of an area is mapped")
    k, lazy, live = world()
    pages = k.pa(live.pages)
    k.ram.write64(pages + 8, k.ram.read64(pages))
    broken(k, "vm_struct", "maps pages")


# against a model


class VmallocModel(RuleBasedStateMachine):
    """Against dictionaries: where areas lie, what they hold, what is left after them."""

    mode = SV39

    @initialize()
    def start(self) -> None:
        self.hart = Recorder()
        self.k = mm.boot(Ram(16 * MIB), mm.Config(paging=self.mode), self.hart)
        self.low = self.k.layout.vmalloc_start
        self.live: dict[int, int] = {}  # start -> bytes with the guard page
        self.lazy: dict[int, int] = {}
        self.content: dict[int, bytes] = {}
        self.frames: dict[int, list[int]] = {}  # of vmap
        self.hart.take()

    def expected(self, size: int) -> int:
        at = self.low
        for start, taken in sorted((self.live | self.lazy).items()):
            if start - at >= size:
                break
            at = start + taken
        return at

    def fill(self, va: int, pages: int, tag: int) -> None:
        for i in range(pages):
            pa = need(translate(self.k, va + i * PAGE_SIZE, Access.WRITE))
            data = (va ^ i ^ tag << 50).to_bytes(8, "little")
            self.k.ram.write(pa + 8 * (i % 500), data)
            self.content[va + i * PAGE_SIZE + 8 * (i % 500)] = data

    @rule(pages=st.integers(1, 40), tag=st.integers(0, 100))
    def vmalloc(self, pages: int, tag: int) -> None:
        want = self.expected((pages + 1) * PAGE_SIZE)
        va = self.k.vmalloc(pages * PAGE_SIZE - tag)
        assert va == want
        self.live[va] = (pages + 1) * PAGE_SIZE
        self.fill(va, pages, tag)
        assert self.hart.take() == []

    @rule(pages=st.integers(1, 6), tag=st.integers(0, 100))
    def vmap(self, pages: int, tag: int) -> None:
        pfns = self.k.alloc_pages_bulk(GFP_KERNEL, pages)
        if len(pfns) < pages:
            return
        pfns.reverse()
        want = self.expected((pages + 1) * PAGE_SIZE)
        assert self.k.vmap(pfns) == want
        self.live[want] = (pages + 1) * PAGE_SIZE
        self.frames[want] = pfns
        self.fill(want, pages, tag)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free(self, data: Any) -> None:
        va = data.draw(st.sampled_from(sorted(self.live)))
        size = self.live.pop(va)
        if va in self.frames:
            self.k.vunmap(va)
            for pfn in self.frames.pop(va):
                self.k.free_page(pfn)
        else:
            self.k.vfree(va)
        for at in [a for a in self.content if va <= a < va + size]:
            del self.content[at]
        self.lazy[va] = size
        assert self.hart.take() == []
        assert all(translate(self.k, a) is None for a in range(va, va + size, PAGE_SIZE))

    @rule()
    def unmap_aliases(self) -> None:
        self.k.vm_unmap_aliases()
        assert self.hart.take() == ([("all",)] if self.lazy else [])
        self.lazy.clear()

    @rule()
    def attach(self) -> None:
        self.k = mm.attach(self.k.ram, self.hart)

    @invariant()
    def contents_and_guards(self) -> None:
        if not hasattr(self, "k"):
            return
        for at, data in self.content.items():
            assert self.k.ram.read(need(translate(self.k, at)), 8) == data
        for va, size in self.live.items():
            assert translate(self.k, va + size - PAGE_SIZE) is None
            assert translate(self.k, va + size - PAGE_SIZE - 1) is not None
        assert [(a.addr, a.size) for a in self.k.vmalloc_areas.areas] == sorted(self.live.items())

    def teardown(self) -> None:
        if hasattr(self, "k"):
            mm.check(self.k)


class Vmalloc48(VmallocModel):
    mode = SV48


class Vmalloc57(VmallocModel):
    mode = SV57


_SETTINGS = settings(max_examples=12, stateful_step_count=30, deadline=None)
TestVmalloc39 = VmallocModel.TestCase
TestVmalloc39.settings = _SETTINGS
TestVmalloc48 = Vmalloc48.TestCase
TestVmalloc48.settings = _SETTINGS
TestVmalloc57 = Vmalloc57.TestCase
TestVmalloc57.settings = _SETTINGS


def test_modules_range_is_served_alike(kernel: mm.Kernel) -> None:
    a, b = need(kernel.module_alloc(PAGE_SIZE)), need(kernel.module_alloc(PAGE_SIZE))
    assert (a, b) == (MODULES_VADDR, MODULES_VADDR + 2 * PAGE_SIZE) and b < MODULES_END
