"""Page tables: exact tables and flushes, refusals, running out of memory, and a model.

Every answer about a mapping is the reference walk's (emu.spec.walk), never the builder's.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from work import lines_run

import mm
from emu.ram import Ram
from emu.spec.paging import SV39, SV48, SV57, PagingMode
from emu.spec.walk import Access, Translation, WalkConfig, walk
from mm.errors import MappingExists, OutOfMemory
from mm.gfp import GFP_KERNEL
from mm.hart import FLUSH_TLB_NO_ASID, Recorder
from mm.pgtable import (
    PAGE_EXEC,
    PAGE_KERNEL,
    PAGE_KERNEL_EXEC,
    PAGE_READ,
    PAGE_WRITE,
    MmStruct,
    runs_of,
)

Booter = Callable[..., mm.Kernel]
MODES = pytest.mark.parametrize("mode", [SV39, SV48, SV57], ids=lambda m: m.name)
K2 = 2 << 20
G1 = 1 << 30
FAR = 0x80_0000_0000  # PAs need not be RAM to be mapped


def translate(k: mm.Kernel, m: MmStruct, va: int, access: Access = Access.READ) -> int | None:
    user = m != k.init_mm
    found = walk(k.ram, k.mode, k.pgtable.root(m), va, access, WalkConfig(user=user))
    return found.pa if isinstance(found, Translation) else None


def flushes(k: mm.Kernel) -> list[tuple[str | int, ...]]:
    assert isinstance(k.hart, Recorder)
    return k.hart.take()


def snapshot(k: mm.Kernel) -> bytes:
    return k.ram.read(k.ram.base, k.ram.size)


@MODES
def test_map_uses_the_largest_pages_that_fit(boot: Booter, mode: PagingMode) -> None:
    k = boot(paging=mode)
    m = k.mm_alloc()
    va, pa, size = G1 - K2 - 4096, FAR + G1 - K2 - 4096, 4096 + K2 + G1 + K2 + 8192
    k.pgtable.map_range(m, va, pa, size, PAGE_READ)
    leaves = list(k.pgtable.leaves(k.pgtable.root(m), user_only=True))
    assert sorted((v, level) for v, level, _ in leaves) == [
        (va, 0), (G1 - K2, 1), (G1, 2), (2 * G1, 1), (2 * G1 + K2, 0), (2 * G1 + K2 + 4096, 0)
    ]  # fmt: skip
    for offset in (0, 4095, 4096, K2, G1, size - 1):
        assert translate(k, m, va + offset) == pa + offset
    assert translate(k, m, va - 1) is None and translate(k, m, va + size) is None
    runs = k.pgtable.unmap_range(m, va, size)
    assert runs == [(pa >> 12, size >> 12)]
    k.mmdrop(m)
    mm.check(k)


@pytest.mark.parametrize("max_level", [0, 1, 2])
def test_max_level(boot: Booter, max_level: int) -> None:
    k = boot(paging=SV48)
    m = k.mm_alloc()
    size = G1 if max_level == 2 else 4 * K2
    k.pgtable.map_range(m, 4 * G1, FAR, size, PAGE_READ, max_level=max_level)
    levels = {level for _, level, _ in k.pgtable.leaves(k.pgtable.root(m), user_only=True)}
    assert levels == {max_level}


def test_incongruent_range_gets_small_pages(kernel: mm.Kernel) -> None:
    m = kernel.mm_alloc()
    kernel.pgtable.map_range(m, K2, FAR + 4096, 2 * K2, PAGE_READ)
    assert {lv for _, lv, _ in kernel.pgtable.leaves(kernel.pgtable.root(m), True)} == {0}


def test_refusals_change_nothing(kernel: mm.Kernel) -> None:
    k, m = kernel, kernel.mm_alloc()
    p = k.pgtable
    p.map_range(m, 0x40_0000, FAR, K2, PAGE_READ)
    p.map_range(m, 0x10_0000, FAR, 4096, PAGE_READ)
    image = snapshot(k)
    top = k.layout.task_size
    for call, why in (
        (lambda: p.map_range(m, 0x1000, FAR, 4096, 0x2 | 0x4 | 0x8 | 0x10), r"W\^X"),
        (lambda: p.map_range(m, 0x1000, FAR, 4096, 0x4 | 0x10), "W=1, R=0"),
        (lambda: p.map_range(m, 0x1000, FAR, 4096, 0), "pointer"),
        (lambda: p.map_range(m, 0x1000, FAR, 4096, PAGE_READ | 1 << 8), "no permission"),
        (lambda: p.map_range(m, 0x1001, FAR, 4096, PAGE_READ), "whole pages"),
        (lambda: p.map_range(m, 0x1000, FAR + 1, 4096, PAGE_READ), "not that of a page"),
        (lambda: p.map_range(m, 0x1000, FAR, 0, PAGE_READ), "whole pages"),
        (lambda: p.map_range(m, top - 4096, FAR, 8192, PAGE_READ), "user half"),
        (lambda: p.map_range(m, k.layout.vmalloc_start, FAR, 4096, PAGE_READ), "user half"),
        (lambda: p.map_range(k.init_mm, 0x1000, FAR, 4096, PAGE_KERNEL), "kernel half"),
        (lambda: p.map_range(k.init_mm, top, FAR, 4096, PAGE_KERNEL), "kernel half"),
        (lambda: p.map_range(m, 0x1000, FAR, 4096, PAGE_KERNEL), "global"),
        (lambda: p.map_range(k.init_mm, k.layout.vmalloc_start, FAR, 4096, PAGE_READ), "user"),
        (lambda: p.protect_range(m, 0x40_0000, 4096, 0x4 | 0x10), "W=1, R=0"),
        (lambda: p.unmap_range(m, 5, 4096), "whole pages"),
    ):
        with pytest.raises(ValueError, match=why):
            call()
    for va, size, first in (
        (0x40_0000, 4096, 0x40_0000),
        (0x3F_F000, 8192, 0x40_0000),
        (0xF_F000, 0x3000, 0x10_0000),
    ):
        with pytest.raises(MappingExists) as e:
            p.map_range(m, va, FAR, size, PAGE_READ, max_level=0)
        assert e.value.va == first
        with pytest.raises(MappingExists):
            p.map_pages(m, va, list(range(size >> 12)), PAGE_READ)
    with pytest.raises(MappingExists):
        p.map_range(m, 0, FAR, G1, PAGE_READ)  # a 1 GiB page over small ones
    assert snapshot(k) == image
    assert flushes(k) == []


def test_flushes_owed(kernel: mm.Kernel) -> None:
    k, m = kernel, kernel.mm_alloc()
    p, asid = k.pgtable, m.asid
    p.map_range(m, 0x1000, FAR, 0x5000, PAGE_WRITE)
    assert flushes(k) == []  # invalid -> valid
    p.protect_range(m, 0x2000, 0x2000, PAGE_READ)
    assert flushes(k) == [("page", 0x2000, asid), ("page", 0x3000, asid)]
    p.protect_range(m, 0x2000, 0x2000, PAGE_READ)
    assert flushes(k) == []  # nothing changed
    p.unmap_range(m, 0x1000, 0x1000)
    assert flushes(k) == [("page", 0x1000, asid)]
    p.unmap_range(m, 0x1000, 0x1000)
    assert flushes(k) == []  # there was nothing
    p.protect_range(m, 0x5000, 0x1000, PAGE_EXEC)
    assert flushes(k) == [("page", 0x5000, asid), ("icache", (FAR >> 12) + 4, 1)]
    p.unmap_range(m, 0, 0x8000)  # the last pages of the table: it goes, and needs more than pages
    assert flushes(k) == [("mm", asid), ("icache", (FAR >> 12) + 4, 1)]
    p.map_range(m, 0x40_0000, FAR, K2, PAGE_EXEC)
    assert flushes(k) == [("icache", FAR >> 12, 512)]
    p.protect_range(m, 0x40_0000, K2, PAGE_READ)
    assert flushes(k) == [("page", 0x40_0000, asid), ("icache", FAR >> 12, 512)]
    p.protect_range(m, 0x40_1000, 4096, PAGE_WRITE)  # splits: same translation but for one page
    assert flushes(k) == [("page", 0x40_1000, asid)]
    p.protect_range(m, 0x40_0000, 65 * 4096, PAGE_EXEC)
    calls = flushes(k)
    assert calls[0] == ("mm", asid)
    assert calls[1:] == [("icache", FAR >> 12, 65)]


def test_kernel_flushes_reach_global_entries(kernel: mm.Kernel) -> None:
    k = kernel
    va = k.vmalloc(4096)
    assert va is not None
    assert flushes(k) == []
    k.vfree(va)
    assert flushes(k) == []  # lazy: the purge flushes
    k.vm_unmap_aliases()
    assert flushes(k) == [("all",)]
    k.pgtable.map_pages(k.init_mm, va, [k.space.end_pfn - 1, k.space.end_pfn - 2], PAGE_KERNEL)
    k.pgtable.unmap_range(k.init_mm, va, 4096)
    assert flushes(k) == [("page", va, FLUSH_TLB_NO_ASID)]
    k.pgtable.unmap_range(k.init_mm, va, 8192)
    assert flushes(k) == [("all",)]  # the level 0 table went too


def test_freed_tables_leave_after_the_flush(boot: Booter) -> None:
    """A hart must never walk a table that somebody else owns already."""

    class Watch(Recorder):
        free_at_flush = -1

        def flush_tlb_mm(self, asid: int) -> None:
            self.free_at_flush = k.page_alloc.nr_free_pages()

    watch = Watch()
    k = mm.boot(Ram(16 << 20), hart=watch)
    m = k.mm_alloc()
    k.pgtable.map_range(m, 0x1000, FAR, 4096, PAGE_READ)
    before = k.page_alloc.nr_free_pages()
    k.pgtable.unmap_range(m, 0x1000, 4096)
    assert watch.free_at_flush == before and k.page_alloc.nr_free_pages() == before + 2


@MODES
def test_split_keeps_every_translation(boot: Booter, mode: PagingMode) -> None:
    k = boot(paging=mode)
    m = k.mm_alloc()
    k.pgtable.map_range(m, G1, FAR, G1, PAGE_WRITE)
    k.pgtable.protect_range(m, G1 + K2 + 4096, 4096, PAGE_READ)
    for offset in (0, K2, K2 + 4095, K2 + 4096, K2 + 8192, 5 * K2, G1 - 1):
        assert translate(k, m, G1 + offset) == FAR + offset
        writable = translate(k, m, G1 + offset, Access.WRITE) is not None
        assert writable == (offset >> 12 != (K2 >> 12) + 1)
    runs = k.pgtable.unmap_range(m, G1 + 4096, 4096)
    assert runs == [((FAR >> 12) + 1, 1)]
    assert translate(k, m, G1 + 4096) is None and translate(k, m, G1 + 8192) == FAR + 8192


def drain(k: mm.Kernel, keep: int) -> list[tuple[int, int]]:
    """Take all memory but ``keep`` pages."""
    runs = k.page_alloc.alloc_page_runs(GFP_KERNEL, k.page_alloc.nr_free_pages() - keep)
    assert runs is not None
    return runs


@MODES
def test_running_out_of_memory_at_every_point_of_map_range(boot: Booter, mode: PagingMode) -> None:
    k = boot(8, paging=mode)
    m = k.mm_alloc()
    va, size = G1 - 2 * K2 - 8192, 4 * K2 + 5 * 4096
    drain(k, 12)
    failures = 0
    for keep in range(13):
        extra = [k.alloc_page() for _ in range(12 - keep)]
        free = k.page_alloc.nr_free_pages()
        tables = m.pgtables_bytes
        try:
            k.pgtable.map_range(m, va, FAR + va, size, PAGE_WRITE)
        except OutOfMemory:
            failures += 1
            assert list(k.pgtable.leaves(k.pgtable.root(m), True)) == []
            assert k.page_alloc.nr_free_pages() == free and m.pgtables_bytes == tables
        else:
            assert translate(k, m, va + size - 1) == FAR + va + size - 1
            k.pgtable.unmap_range(m, va, size)
            assert k.page_alloc.nr_free_pages() == free
        assert flushes(k) in ([], [("mm", m.asid)])
        for pfn in extra:
            assert pfn is not None
            k.free_page(pfn)
        mm.check(k)
    # Two leaf tables, and for each GiB a level 1 table; higher modes add one a level.
    assert failures == {SV39: 4, SV48: 5, SV57: 6}[mode]


def test_running_out_of_memory_in_a_split(boot: Booter) -> None:
    k = boot(8)
    m = k.mm_alloc()
    k.pgtable.map_range(m, G1, FAR, 2 * G1, PAGE_WRITE)
    drain(k, 4)
    for keep in range(5):
        extra = [k.alloc_page() for _ in range(4 - keep)]
        image = set(k.pgtable.leaves(k.pgtable.root(m), True))
        # Both ends cut a 1 GiB and a 2 MiB page: four tables.
        if keep < 4:
            with pytest.raises(OutOfMemory):
                k.pgtable.unmap_range(m, G1 + 4096, G1)
            assert set(k.pgtable.leaves(k.pgtable.root(m), True)) == image
            assert k.page_alloc.nr_free_pages() == keep
        else:
            assert k.pgtable.unmap_range(m, G1 + 4096, G1) == [((FAR >> 12) + 1, G1 >> 12)]
        for pfn in extra:
            assert pfn is not None
            k.free_page(pfn)


def test_root_entries_of_the_kernel_reach_every_process(kernel: mm.Kernel) -> None:
    """Sv39's 1 GiB leaves of a direct map lie in the root itself."""
    k = mm.boot(Ram(4 << 30))
    m = k.mm_alloc()
    va = k.va(k.ram.base + G1)
    assert walk_level(k, m, va) == 2
    k.pgtable.protect_range(k.init_mm, va, 4096, PAGE_KERNEL & ~0x4)
    assert walk_level(k, m, va) == 0 and walk_level(k, m, va + K2) == 1
    mm.check(k)


def walk_level(k: mm.Kernel, m: MmStruct, va: int) -> int:
    found = walk(k.ram, k.mode, k.pgtable.root(m), va, Access.READ)
    assert isinstance(found, Translation)
    return found.level


@MODES
def test_kernel_half(boot: Booter, mode: PagingMode) -> None:
    k = boot(64, paging=mode)
    info = k.vmcoreinfo
    ram = k.ram
    assert translate(k, k.init_mm, 0xFFFFFFFF80000000) == info.pa
    assert translate(k, k.init_mm, 0xFFFFFFFF80000000, Access.WRITE) is None
    assert translate(k, k.init_mm, k.va(ram.base)) is None  # firmware
    for pa in (ram.base + K2, ram.base + 0x30_0000, ram.end - 8):
        assert translate(k, k.init_mm, k.va(pa), Access.WRITE) == pa
        assert translate(k, k.init_mm, k.va(pa), Access.EXECUTE) is None
    for pfn in (k.space.start_pfn, k.space.end_pfn - 1):
        assert translate(k, k.init_mm, k.space.page_va(pfn), Access.WRITE) == k.space.page_pa(pfn)
    m = k.mm_alloc()  # its copy of the kernel half sees what is mapped later
    va = k.vmalloc(8192)
    mod = k.module_alloc(4096)
    assert va is not None and mod is not None
    for address in (va + 4096, mod, k.va(ram.end - 8), k.space.page_va(k.space.start_pfn)):
        found = walk(ram, mode, k.pgtable.root(m), address, Access.READ)
        kernels = walk(ram, mode, k.pgtable.root(k.init_mm), address, Access.READ)
        assert isinstance(found, Translation) and isinstance(kernels, Translation)
        assert found.pa == kernels.pa


def page_is_mapped_as(k: mm.Kernel, m: MmStruct, va: int, page: tuple[int, int] | None) -> None:
    """The reference walk finds the frame of ``(pfn, prot)`` with just that access; None: none."""
    pfn, prot = page or (0, 0)
    for access, bit in ((Access.READ, 2), (Access.WRITE, 4), (Access.EXECUTE, 8)):
        want = (pfn << 12) + 5 if prot & bit else None
        assert translate(k, m, va + 5, access) == want


@MODES
def test_against_a_dictionary(boot: Booter, mode: PagingMode) -> None:
    """Random map, unmap and protect; every page of the arena walked after every step."""
    k = boot(16, paging=mode)
    clean = {(v, lv) for v, lv, _ in k.pgtable.leaves(k.pgtable.root(k.init_mm))}
    free = k.page_alloc.nr_free_pages()
    m = k.mm_alloc()
    rng = random.Random(mode.levels)
    arena, pages = 3 * G1 - 3 * K2 - 8192, 4 * 512 + 40
    model: dict[int, tuple[int, int]] = {}  # page -> (pfn, prot)
    probes = sorted({*range(0, pages, 37), *range(8), *range(pages - 8, pages)})
    for step in range(120):
        first = rng.randrange(pages)
        count = min(rng.choice([1, 2, 9, 64, 512, 700, 1100]), pages - first)
        if rng.random() < 0.5:  # aligned to what superpages want
            first = max(0, (first - 2) // 512 * 512 + 2)
            count = min(count, pages - first)
        span = range(first, first + count)
        va, size = arena + first * 4096, count * 4096
        prot = rng.choice([PAGE_READ, PAGE_WRITE, PAGE_EXEC])
        kind = rng.randrange(4)
        if kind <= 1:
            pfns = [rng.randrange(1 << 30) for _ in span]
            base = (FAR + va) >> 12
            clash = [p for p in span if p in model]
            try:
                if kind == 0:
                    pfns = list(range(base, base + count))
                    k.pgtable.map_range(m, va, base << 12, size, prot)
                else:
                    k.pgtable.map_pages(m, va, pfns, prot)
            except MappingExists as e:
                first_clash = arena + clash[0] * 4096
                assert e.va == first_clash or (e.va - arena) >> 12 <= clash[0]
            else:
                assert not clash
                model.update((p, (pfn, prot)) for p, pfn in zip(span, pfns, strict=True))
        elif kind == 2:
            runs = k.pgtable.unmap_range(m, va, size)
            expected = runs_of([model.pop(p)[0] for p in span if p in model])
            assert runs == expected
        else:
            k.pgtable.protect_range(m, va, size, prot)
            for p in span:
                if p in model:
                    model[p] = model[p][0], prot
        near = {first - 1, first, first + count - 1, first + count} & set(range(pages))
        for p in sorted(near | set(probes if step % 4 == 0 else probes[::9])):
            page_is_mapped_as(k, m, arena + p * 4096, model.get(p))
        leaves = k.pgtable.leaves(k.pgtable.root(m), user_only=True)
        assert sum(mode.span(lv) >> 12 for _, lv, _ in leaves) == len(model)
    k.pgtable.unmap_range(m, arena, pages * 4096)
    assert m.pgtables_bytes == 4096
    k.mmdrop(m)
    k.slab.caches()[0].shrink()
    next(cache for cache in k.slab.caches() if cache.name == "mm_struct").shrink()
    assert k.page_alloc.nr_free_pages() == free
    assert {(v, lv) for v, lv, _ in k.pgtable.leaves(k.pgtable.root(k.init_mm))} == clean
    mm.check(k)


def test_a_superpage_that_has_the_permissions_already_stays_whole(kernel: mm.Kernel) -> None:
    k, m = kernel, kernel.mm_alloc()
    k.pgtable.map_range(m, G1, FAR, K2, PAGE_WRITE)
    assert k.pgtable.protect_range(m, G1 + 4096, 4096, PAGE_WRITE) == 0
    assert walk_level_user(k, m, G1 + 4096) == 1
    assert flushes(k) == []


def walk_level_user(k: mm.Kernel, m: MmStruct, va: int) -> int:
    found = walk(k.ram, k.mode, k.pgtable.root(m), va, Access.READ, WalkConfig(user=True))
    assert isinstance(found, Translation)
    return found.level


def test_text_mapping_in_the_kernel_is_flushed_from_the_icache(kernel: mm.Kernel) -> None:
    k = kernel
    pfn = k.alloc_page()
    assert pfn is not None
    k.pgtable.map_pages(k.init_mm, 0xFFFFFFFF00000000, [pfn], PAGE_KERNEL_EXEC)
    assert flushes(k) == [("icache", pfn, 1)]


def test_a_gib_of_small_pages_is_written_by_the_array() -> None:
    """262,144 PTEs: the work in Python is for their 512 tables."""
    k = mm.boot(Ram(2 << 30))
    m = k.mm_alloc()
    cost = lines_run(lambda: k.pgtable.map_range(m, G1, k.ram.base, G1, PAGE_WRITE, max_level=0))
    assert cost < 512 * 100
    assert translate(k, m, 2 * G1 - 1) == k.ram.base + G1 - 1
