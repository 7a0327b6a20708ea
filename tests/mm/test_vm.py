"""vmalloc, address spaces and user copies."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

import mm
from emu.spec.paging import SV39, SV48, SV57, PagingMode
from emu.spec.walk import Access, Refusal, Rule, Translation, WalkConfig, walk
from mm.addrspace import MODULES_END, MODULES_VADDR
from mm.errors import BadFree, OutOfMemory, UserFault, VmaError
from mm.hart import Recorder
from mm.pgtable import PAGE_KERNEL, PAGE_KERNEL_EXEC, PAGE_KERNEL_READ
from mm.vma import VM_EXEC, VM_READ, VM_WRITE

Booter = Callable[..., mm.Kernel]
MODES = pytest.mark.parametrize("mode", [SV39, SV48, SV57], ids=lambda m: m.name)


def can(k: mm.Kernel, va: int, access: Access) -> bool:
    return isinstance(walk(k.ram, k.mode, k.pgtable.root(k.init_mm), va, access), Translation)


# vmalloc


@MODES
def test_lowest_address_with_a_guard_page(boot: Booter, mode: PagingMode) -> None:
    k = boot(paging=mode)
    start = k.layout.vmalloc_start
    a, b, c = k.vmalloc(1), k.vmalloc(8192), k.vmalloc(4096)
    assert (a, b, c) == (start, start + 0x2000, start + 0x5000)
    assert not can(k, start + 0x1000, Access.READ)
    assert b is not None
    k.vfree(b)
    k.vm_unmap_aliases()
    assert k.vmalloc(3 * 4096) == start + 0x7000
    assert k.vmalloc(2 * 4096) == b
    area = k.find_vm_area(start + 0x3FFF)
    assert area is not None and area.addr == b and area.size == 0x3000
    assert k.find_vm_area(start + 0x4000) is None  # the guard page
    mm.check(k)


def test_vmalloc_memory_is_there(kernel: mm.Kernel) -> None:
    va = kernel.vzalloc(10 * 4096)
    assert va is not None
    for i in range(10):
        found = walk(kernel.ram, SV39, kernel.pgtable.root(kernel.init_mm), va + i * 4096,
                     Access.WRITE)  # fmt: skip
        assert isinstance(found, Translation)
        assert not any(kernel.ram.read(found.pa, 4096))


def test_vfree_refuses_and_returns_everything(kernel: mm.Kernel) -> None:
    k = kernel
    k.kfree(k.kmalloc(8) or 0)
    warm = k.vmalloc(4096)
    assert warm is not None
    k.vfree(warm)
    free = k.page_alloc.nr_free_pages()
    va = k.vmalloc(100 * 4096)
    assert va is not None
    with pytest.raises(BadFree):
        k.vfree(va + 4096)
    k.vfree(va)
    k.vfree(0)
    with pytest.raises(BadFree):
        k.vfree(va)
    k.vm_unmap_aliases()
    k.slab.caches()[7].shrink()
    for cache in k.slab.caches():
        cache.shrink()
    assert k.page_alloc.nr_free_pages() >= free
    mm.check(k)


def test_no_addresses_and_no_memory(kernel: mm.Kernel) -> None:
    k = kernel
    start = k.layout.vmalloc_start
    assert k.vmalloc_range(8192, start, start + 0x2000) is None  # no room for the guard page
    assert k.vmalloc_range(4096, start, start + 0x2000) == start
    assert k.vmalloc_range(4096, start, start + 0x2000) is None
    free = k.page_alloc.nr_free_pages()
    assert k.vmalloc(1 << 30) is None
    with pytest.raises(ValueError):
        k.vmalloc(0)
    with pytest.raises(ValueError):
        k.vmalloc_range(4096, start, start + (1 << 30), prot=0x2 | 0x4 | 0x8)
    assert k.page_alloc.nr_free_pages() == free
    mm.check(k)


@pytest.mark.parametrize("prot", [PAGE_KERNEL, PAGE_KERNEL_EXEC])
def test_vmalloc_out_of_memory_at_every_point(boot: Booter, prot: int) -> None:
    k = boot(16)
    warm = k.module_alloc(20 * 4096)  # the direct map is split where it will be
    assert warm is not None
    hold = k.page_alloc.alloc_page_runs(0xCC0, k.page_alloc.nr_free_pages() - 30)
    assert hold is not None
    outcomes = set()
    for keep in range(31):
        extra = [k.alloc_page() for _ in range(30 - keep)]
        before = k.page_alloc.nr_free_pages()
        assert before == keep
        start = k.layout.vmalloc_start
        va = k.vmalloc_range(20 * 4096, start, start + (1 << 30), prot=prot)
        outcomes.add(va is not None)
        if va is not None:
            k.vfree(va)
        k.vm_unmap_aliases()
        for pfn in extra:
            assert pfn is not None
            k.free_page(pfn)
        mm.check(k)
        for cache in k.slab.caches():
            cache.shrink()
        split = k.page_alloc.nr_free_pages()  # a table that split the direct map stays
        assert split == 30 or (prot == PAGE_KERNEL_EXEC and split == 29)
        if split == 29:
            k.free_page(hold[0][0])
            hold[0] = hold[0][0] + 1, hold[0][1] - 1
    assert outcomes == {True, False}


def test_find_vm_area_against_a_list(kernel: mm.Kernel) -> None:
    rng = random.Random(5)
    live: dict[int, int] = {}
    for _ in range(200):
        if live and rng.random() < 0.45:
            va = rng.choice(sorted(live))
            kernel.vfree(va)
            kernel.vm_unmap_aliases()
            del live[va]
        else:
            pages = rng.randrange(1, 6)
            va2 = kernel.vmalloc(pages * 4096)
            assert va2 is not None
            # The lowest hole that fits pages + 1.
            at = kernel.layout.vmalloc_start
            for start, n in sorted(live.items()):
                if start - at >= (pages + 1) * 4096:
                    break
                at = start + (n + 1) * 4096
            assert va2 == at
            live[va2] = pages
        probe = kernel.layout.vmalloc_start + rng.randrange(60) * 4096
        area = kernel.find_vm_area(probe)
        inside = [v for v, n in live.items() if v <= probe < v + n * 4096]
        assert [area.addr] == inside if area else not inside
    mm.check(kernel)


@MODES
def test_module_text_is_never_writable_anywhere(boot: Booter, mode: PagingMode) -> None:
    k = boot(64, paging=mode)
    va = k.module_alloc(3 * 4096)
    assert va is not None and MODULES_VADDR <= va < MODULES_END
    area = k.find_vm_area(va)
    assert area is not None
    aliases = [k.space.pfn_to_virt(p) for p in k.vmalloc_areas.pages_of(area)]
    assert isinstance(k.hart, Recorder)
    k.hart.take()
    k.set_memory(va, 8192, PAGE_KERNEL_EXEC)
    calls = k.hart.take()
    pfns = k.vmalloc_areas.pages_of(area)
    assert {c for c in calls if c[0] == "icache"} <= {
        ("icache", pfns[0], 2), ("icache", pfns[0], 1), ("icache", pfns[1], 1)
    }  # fmt: skip
    assert {("page", va, -1), ("page", va + 4096, -1)} <= set(calls)
    assert can(k, va, Access.EXECUTE) and not can(k, va, Access.WRITE)
    assert [can(k, a, Access.WRITE) for a in aliases] == [False, False, True]
    mm.check(k)
    k.set_memory(va, 4096, PAGE_KERNEL)
    assert [can(k, a, Access.WRITE) for a in aliases] == [True, False, True]
    mm.check(k)
    with pytest.raises(ValueError):
        k.set_memory(va, 4096, PAGE_KERNEL | 0x8)
    with pytest.raises(VmaError):
        k.set_memory(va, 4 * 4096, PAGE_KERNEL_READ)
    k.vfree(va)
    assert [can(k, a, Access.WRITE) for a in aliases] == [True, True, True]
    mm.check(k)


# address spaces


def test_mmap_region_and_lookup(kernel: mm.Kernel) -> None:
    k, m = kernel, kernel.mm_alloc()
    a = k.mmap_region(m, 0x10000, 0x3000, VM_READ | VM_WRITE, "[heap]")
    b = k.mmap_region(m, 0x20000, 0x1000, VM_READ | VM_EXEC)
    assert a.name == "[heap]" and (m.map_count, m.total_vm) == (2, 4)
    assert k.find_vma(m, 0x0) == a and k.find_vma(m, 0x12FFF) == a
    assert k.find_vma(m, 0x13000) == b and k.find_vma(m, 0x21000) is None
    assert k.address_spaces.vma_lookup(m, 0x13000) is None
    for start, size in ((0x12000, 0x1000), (0xF000, 0x2000), (0x0, 0x100000), (0x20000, 0x1000)):
        with pytest.raises(VmaError):
            k.mmap_region(m, start, size, VM_READ)
    for flags in (VM_WRITE | VM_EXEC, 0):
        with pytest.raises(ValueError):
            k.mmap_region(m, 0x40000, 0x1000, flags)
    with pytest.raises(ValueError):
        k.mmap_region(m, k.layout.task_size, 0x1000, VM_READ)
    mm.check(k)
    k.mmdrop(m)
    mm.check(k)


def test_munmap_cuts(kernel: mm.Kernel) -> None:
    k, m = kernel, kernel.mm_alloc()
    k.mmap_region(m, 0x10000, 0x8000, VM_READ | VM_WRITE)
    k.copy_to_user(m, 0x10000, bytes(range(256)) * 128)
    k.munmap(m, 0x12000, 0x2000)
    k.munmap(m, 0x0, 0x11000)
    assert [(v.vm_start, v.vm_end) for v in k.address_spaces.vmas(m)] == [
        (0x11000, 0x12000), (0x14000, 0x18000)
    ]  # fmt: skip
    mm.check(k)
    k.mprotect(m, 0x15000, 0x1000, VM_READ)
    with pytest.raises(UserFault):
        k.copy_to_user(m, 0x15000, b"x")
    with pytest.raises(VmaError):
        k.mprotect(m, 0x11000, 0x4000, VM_READ)
    assert len(k.address_spaces.vmas(m)) == 4
    mm.check(k)
    k.exit_mmap(m)
    assert m.map_count == 0 and m.pgtables_bytes == 4096
    k.mmdrop(m)
    mm.check(k)


def test_address_spaces_give_everything_back(kernel: mm.Kernel) -> None:
    k = kernel
    k.mmdrop(k.mm_alloc())
    for cache in k.slab.caches():
        cache.shrink()
    free = k.page_alloc.nr_free_pages()
    mms = [k.mm_alloc() for _ in range(5)]
    assert len({m.asid for m in mms}) == 5 and 0 not in {m.asid for m in mms}
    for i, m in enumerate(mms):
        k.mmap_region(m, 0x10000 + 0x1000 * i, 0x20000, VM_READ | VM_WRITE)
    assert mm.check(k).mms == 5
    for m in mms[::2] + mms[1::2]:
        asid = m.asid
        k.mmdrop(m)
        assert isinstance(k.hart, Recorder) and ("mm", asid) in k.hart.take()
    for cache in k.slab.caches():
        cache.shrink()
    assert k.page_alloc.nr_free_pages() == free
    mm.check(k)


def test_asids_are_taken_in_turn_and_wrap(kernel: mm.Kernel) -> None:
    m = kernel.mm_alloc()
    kernel.vmcoreinfo.asid_next = 65535
    last, first = kernel.mm_alloc(), kernel.mm_alloc()
    assert (last.asid, first.asid, m.asid) == (65535, 2, 1)


def test_mmap_out_of_memory_changes_nothing(boot: Booter) -> None:
    k = boot(8)
    m = k.mm_alloc()
    k.mmap_region(m, 0x10000, 0x1000, VM_READ)
    free = k.page_alloc.nr_free_pages()
    for pages in (free, free - 1, free + 1, 1 << 20):
        with pytest.raises(OutOfMemory):
            k.mmap_region(m, 1 << 30, pages * 4096, VM_READ)
        assert k.page_alloc.nr_free_pages() == free and m.map_count == 1
        mm.check(k)


# user copies


@MODES
def test_user_copies(boot: Booter, mode: PagingMode) -> None:
    k = boot(paging=mode)
    m = k.mm_alloc()
    k.mmap_region(m, 0x10000, 0x3000, VM_READ | VM_WRITE)
    k.mmap_region(m, 0x14000, 0x1000, VM_READ)
    data = bytes(i * 7 & 0xFF for i in range(0x2100))
    k.copy_to_user(m, 0x10EF1, data)
    assert k.copy_from_user(m, 0x10EF1, len(data)) == data
    with pytest.raises(UserFault) as e:
        k.copy_to_user(m, 0x12F00, b"a" * 0x200)
    assert (e.value.va, e.value.done) == (0x13000, 0x100)
    assert k.copy_from_user(m, 0x12F00, 0x100) == b"a" * 0x100
    for va in (0x14000, 0x0, k.layout.page_offset + (4 << 20), 1 << 63, k.layout.task_size):
        with pytest.raises(UserFault) as e:
            k.copy_to_user(m, va, b"x")
        assert (e.value.va, e.value.done) == (va, 0)
    with pytest.raises(UserFault):
        k.copy_from_user(m, k.layout.page_offset + (4 << 20), 8)
    assert k.copy_from_user(m, 0, 0) == b""


def test_strncpy_from_user(kernel: mm.Kernel) -> None:
    k, m = kernel, kernel.mm_alloc()
    k.mmap_region(m, 0x10000, 0x2000, VM_READ | VM_WRITE)
    k.copy_to_user(m, 0x10FFD, b"hello\0")
    assert k.strncpy_from_user(m, 0x10FFD, 100) == b"hello"
    assert k.strncpy_from_user(m, 0x10FFD, 4) == b"hell"
    k.copy_to_user(m, 0x11FFE, b"ab")
    assert k.strncpy_from_user(m, 0x11FFE, 2) == b"ab"
    with pytest.raises(UserFault) as e:
        k.strncpy_from_user(m, 0x11FFE, 3)
    assert e.value.va == 0x12000


def test_kernel_pages_are_refused_to_users_by_the_u_bit(kernel: mm.Kernel) -> None:
    m = kernel.mm_alloc()
    va = kernel.va(kernel.ram.end - 8)
    root = kernel.pgtable.root(m)
    found = walk(kernel.ram, SV39, root, va, Access.READ, WalkConfig(user=True))
    assert isinstance(found, Refusal) and found.rule is Rule.USER_PAGE_NOT_USER
