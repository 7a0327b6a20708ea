"""Fault injection: its rules, and the sweep that makes every single allocation fail in turn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

import mm
from emu.ram import PAGE_SIZE, Ram
from mm.errors import MmError, OutOfMemory
from mm.gfp import __GFP_NOFAIL, __GFP_ZERO, GFP_ATOMIC, GFP_KERNEL
from mm.pgtable import PAGE_KERNEL_EXEC, PAGE_KERNEL_READ
from mm.vma import VM_EXEC, VM_READ, VM_WRITE

Booter = Callable[..., mm.Kernel]


def settled(k: mm.Kernel) -> int:
    """Free pages with nothing kept back. What one cache gives up may be another's last."""
    k.vm_unmap_aliases()
    before = -1
    while before != k.page_alloc.nr_free_pages():
        before = k.page_alloc.nr_free_pages()
        for cache in k.slab.caches():
            cache.shrink()
        k.page_alloc.drain_all_pages()
    return before


# the rules


def failures(k: mm.Kernel, count: int, **values: int) -> list[int]:
    k.fault_injection.set("fail_page_alloc", **values)
    failed = []
    for i in range(count):
        pfn = k.alloc_page()
        if pfn is None:
            failed.append(i)
        else:
            k.free_page(pfn)
    k.fault_injection.off()
    return failed


def test_off_is_off(kernel: mm.Kernel) -> None:
    assert kernel.page_alloc.should_fail is None and kernel.slab.failslab is None
    kernel.fault_injection.set("failslab", probability=100)
    assert kernel.slab.failslab is not None and kernel.page_alloc.should_fail is None
    assert kernel.kmalloc(64) is None and kernel.alloc_page() is not None
    kernel.fault_injection.off()
    assert kernel.slab.failslab is None and kernel.kmalloc(64) is not None


def test_times_and_interval(kernel: mm.Kernel) -> None:
    assert failures(kernel, 5, probability=100, times=2) == [0, 1]
    assert failures(kernel, 12, probability=100, times=-1, interval=4) == [3, 7, 11]
    assert failures(kernel, 5, probability=100, times=0) == []
    assert failures(kernel, 5, probability=0, times=-1, interval=1) == []


def test_space(kernel: mm.Kernel) -> None:
    got = failures(kernel, 6, probability=100, times=-1, interval=1, space=3 * PAGE_SIZE + 1)
    assert got == [3, 4, 5]


def test_probability_is_seeded(boot: Booter) -> None:
    runs = []
    for seed in (1, 1, 2):
        k = boot()
        k.fault_injection.seed(seed)
        runs.append(failures(k, 400, probability=25, times=-1))
    assert runs[0] == runs[1] != runs[2]
    assert 70 < len(runs[0]) < 130


def test_fail_nth_counts_slabs_and_pages_alike(kernel: mm.Kernel) -> None:
    k = kernel
    va = k.kmalloc(64)  # its slab is there
    assert va is not None
    k.fault_injection.fail_nth = 3
    assert k.alloc_page() is not None and k.kmalloc(64) is not None
    assert k.fault_injection.fail_nth == 1
    assert k.alloc_page() is None
    assert k.fault_injection.fail_nth == 0 and k.page_alloc.should_fail is None
    assert k.alloc_page() is not None


def test_nofail_min_order_and_ignore_gfp_wait(kernel: mm.Kernel) -> None:
    k = kernel
    k.fault_injection.set("fail_page_alloc", probability=100, times=-1)
    assert k.alloc_pages(GFP_KERNEL | __GFP_NOFAIL, 0) is not None
    k.fault_injection.set("fail_page_alloc", min_order=1)
    assert k.alloc_pages(GFP_KERNEL, 0) is not None and k.alloc_pages(GFP_KERNEL, 1) is None
    k.fault_injection.set("fail_page_alloc", min_order=0, ignore_gfp_wait=1)
    assert k.alloc_pages(GFP_KERNEL, 0) is not None and k.alloc_pages(GFP_ATOMIC, 0) is None


def test_verbose_speaks_linux(kernel: mm.Kernel) -> None:
    k = kernel
    k.fault_injection.set("failslab", probability=100, times=5, verbose=1)
    k.messages.clear()
    assert k.kmalloc(8) is None
    assert list(k.messages)[:2] == [
        "FAULT_INJECTION: forcing a failure.",
        "name failslab, interval 1, probability 100, space 0, times 5",
    ]
    assert k.fault_injection.state.failslab.failures == 1


def test_refuses(kernel: mm.Kernel) -> None:
    f = kernel.fault_injection
    for call in (
        lambda: f.set("failslob"),
        lambda: f.set("failslab", chance=1),
        lambda: f.set("failslab", probability=101),
    ):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(ValueError):
        f.fail_nth = -1


def test_state_survives_attach(boot: Booter) -> None:
    k = boot()
    k.fault_injection.set("fail_page_alloc", probability=100, times=-1)
    k.fault_injection.fail_nth = 2
    again = mm.attach(k.ram)
    assert again.alloc_page() is not None and again.alloc_page() is None
    assert again.alloc_page() is None  # by probability
    again.fault_injection.off()
    assert mm.attach(k.ram).page_alloc.should_fail is None


# the sweep


class World:
    """A kernel, and what a workload took of it and has to give back."""

    def __init__(self, config: dict[str, object]) -> None:
        self.k = mm.boot(Ram(32 << 20), mm.Config(**config))  # type: ignore[arg-type]
        self.undo: list[Callable[[], object]] = []

    def keep(self, value: int | None, undo: Callable[[int], object]) -> int:
        if value is None:
            raise OutOfMemory("None")
        self.undo.append(lambda: undo(value))
        return value

    def end(self) -> None:
        while self.undo:
            self.undo.pop()()


def objects(w: World) -> None:
    k = w.k
    for size in (8, 24, 64, 200, 1000, 3000, 8192, 8193, 70000):
        w.keep(k.kmalloc(size), k.kfree)
    for _ in range(70):
        w.keep(k.kmalloc(128), k.kfree)
    w.keep(k.kzalloc(500), k.kfree)


def caches(w: World) -> None:
    k = w.k
    first = k.kmem_cache_create("sweep_a", 300, flags=0x1000000)  # SLAB_NO_MERGE
    w.undo.append(first.destroy)
    for _ in range(40):
        w.keep(first.alloc(GFP_KERNEL | __GFP_ZERO), first.free)
    second = k.kmem_cache_create("sweep_b", 2000, align=64, flags=0x1000000)
    w.undo.append(second.destroy)
    w.keep(second.alloc(), second.free)
    for _ in range(20):
        w.keep(second.alloc(), second.free)


def pages(w: World) -> None:
    k = w.k
    for order in (0, 0, 1, 3, 5, 9):
        w.keep(k.alloc_pages(GFP_KERNEL, order), lambda pfn, o=order: k.free_pages(pfn, o))
    bulk = k.alloc_pages_bulk(GFP_KERNEL, 50)
    w.undo.append(lambda: k.page_alloc.free_page_runs([(pfn, 1) for pfn in bulk]))
    if len(bulk) < 50:
        raise OutOfMemory("bulk")


def vmalloc(w: World) -> None:
    k = w.k
    for size in (1, 10 * PAGE_SIZE, 600 * PAGE_SIZE):
        w.keep(k.vmalloc(size), k.vfree)
    w.keep(k.vzalloc(3 * PAGE_SIZE), k.vfree)
    w.keep(k.vmalloc_huge(5 << 20), k.vfree)
    pfns = [w.keep(k.alloc_page(), k.free_page) for _ in range(3)]
    w.keep(k.vmap(pfns), k.vunmap)


def modules(w: World) -> None:
    k = w.k
    va = w.keep(k.module_alloc(6 * PAGE_SIZE), k.vfree)
    k.set_memory(va, 2 * PAGE_SIZE, PAGE_KERNEL_EXEC)
    k.set_memory(va + 2 * PAGE_SIZE, PAGE_SIZE, PAGE_KERNEL_READ)
    other = w.keep(k.module_alloc(PAGE_SIZE), k.vfree)
    k.set_memory(other, PAGE_SIZE, PAGE_KERNEL_EXEC)


def processes(w: World) -> None:
    k = w.k
    for at in (0x10000, 0x4000_0000):
        m = k.mm_alloc()
        w.undo.append(lambda m=m: k.mmdrop(m))  # type: ignore[misc]
        k.mmap_region(m, at, 0x8000, VM_READ | VM_WRITE, "data")
        k.mmap_region(m, at + (1 << 30), 0x2000, VM_READ)
        k.copy_to_user(m, at, b"x" * 0x3000)
        k.mprotect(m, at + 0x2000, 0x3000, VM_READ)
        k.mprotect(m, at + 0x6000, 0x1000, VM_READ | VM_EXEC)
        k.munmap(m, at + 0x1000, 0x2000)
        k.munmap(m, at + (1 << 30) + 0x1000, 0x1000)
        k.mmap_region(m, at + 0x1000, 0x1000, VM_READ | VM_WRITE)


WORKLOADS = (objects, caches, pages, vmalloc, modules, processes)
LIMIT = 2000


def sweep(workload: Callable[[World], None], config: dict[str, object]) -> int:
    """The workload once for each n, the n-th allocation failing; how many there were."""
    w = World(config)
    workload(w)  # what it warms up (slabs kept, tables of the direct map) is there from now on
    w.end()
    start = settled(w.k)
    report = mm.check(w.k)
    for n in range(1, LIMIT):
        w.k.fault_injection.fail_nth = n
        with contextlib.suppress(OutOfMemory, MmError):
            workload(w)
        done = w.k.fault_injection.fail_nth > 0
        w.k.fault_injection.off()
        mm.check(w.k)
        w.end()
        mm.check(w.k)
        assert settled(w.k) == start, f"n = {n} leaks"
        after = mm.check(w.k)
        assert (after.objects, after.caches, after.mms, after.vmas, after.vm_areas) == (
            report.objects, report.caches, report.mms, report.vmas, report.vm_areas
        ), f"n = {n}"  # fmt: skip
        if done:
            return n - 1
    raise AssertionError(f"more than {LIMIT} allocations")


CONFIGS: tuple[dict[str, object], ...] = (
    {},
    {"slab": "slab"},
    {"slab": "slob"},
    {"slub_debug": "FZPU", "page_owner": True, "kmemleak": True},
    {"slab": "slab", "slub_debug": "FZPU", "page_poison": True},
)


@pytest.mark.parametrize(
    "config",
    [pytest.param(c, marks=[pytest.mark.slow] * ("slub_debug" in c)) for c in CONFIGS],
    ids=lambda c: "-".join(map(str, c.values())) or "slub",
)
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.__name__)
def test_every_single_allocation_fails_once(
    workload: Callable[[World], None], config: dict[str, object]
) -> None:
    assert sweep(workload, config) > 5
