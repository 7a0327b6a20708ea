"""Clobbered structures: an MmError that names what is corrupt, from every entry point, and an
end; never another exception. Some by hand, then hundreds at random (see clobber.py)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from check_world import World
from clobber import Populated, Trial, Untyped

import mm
from emu.ram import RAM_BASE, Ram, RamError
from mm.errors import CorruptionError, MmError
from mm.kmalloc import KMALLOC_SIZES
from mm.page import BUDDY_WORD, W_PRIVATE, W_TYPE_REF
from mm.proc import FILES, maps
from mm.vm_struct import VmStruct
from mm.what import what

TRIALS = 300

CONFIGS: list[dict[str, object]] = [
    {"slab": "slub"},
    {"slab": "slub", "slub_debug": "FZPU"},
    {"slab": "slub", "slab_freelist_hardened": True, "page_owner": True, "page_poison": True},
    {"slab": "slab"},
    {"slab": "slab", "slub_debug": "FZPU", "kmemleak": True},
    {"slab": "slob"},
    {"slab": "slob", "kmemleak": True, "pcp": False},
]


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: "-".join(map(str, c.values())))
def test_words_of_ram_at_random(config: dict[str, object]) -> None:
    world = Populated(**config)
    refused = sum(Trial(world, seed).run() for seed in range(TRIALS // 2))
    assert refused > TRIALS // 4  # they do hit something


def test_the_trials_would_find_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A RamError in mm comes out of a trial as the trial's own failure."""

    def wild(*_: object) -> int:
        raise RamError(0, 8, "outside")

    world = Populated()
    monkeypatch.setattr(Trial, "_check", wild)
    with pytest.raises(Untyped, match="RamError"):
        for seed in range(10):
            Trial(world, seed).run()


# by hand: a field of each structure, and the call that meets it


def area_of(w: World) -> VmStruct:
    found = w.k.find_vm_area(w.area)
    assert found is not None
    return found


Clobber = Callable[[World], object]
Call = Callable[[World, mm.Kernel], object]


def case(name: str, structure: str, why: str, clobber: Clobber, call: Call) -> object:
    return pytest.param(structure, why, clobber, call, id=name)


def store(view: Callable[[World], object], field: str, value: int) -> Clobber:
    return lambda w: setattr(view(w), field, value)


def vfree(w: World, k: mm.Kernel) -> object:
    return k.vfree(w.area)


def area(field: str, value: int, why: str) -> object:
    return case(f"vm_struct.{field}", "vm_struct", why, store(area_of, field, value), vfree)


def cache(field: str, value: int, why: str) -> object:
    """Only for who attaches: what is derived from a cache is derived once."""
    return case(
        f"kmem_cache.{field}", "kmem_cache", why,
        store(lambda w: w.k.kmalloc_caches.cache_for(64).struct, field, value),
        lambda w, k: mm.attach(w.ram),
    )  # fmt: skip


def zone(field: str, value: int, why: str) -> object:
    return case(
        f"zone.{field}", "zone", why, store(lambda w: w.k.zones[0], field, value),
        lambda w, k: mm.attach(w.ram),
    )  # fmt: skip


def root(field: str, value: int, why: str) -> object:
    return case(
        f"vmcoreinfo.{field}", "vmcoreinfo", why, store(lambda w: w.k.vmcoreinfo, field, value),
        lambda w, k: mm.attach(w.ram),
    )  # fmt: skip


def vma(field: str, value: int, why: str) -> object:
    return case(
        f"vm_area_struct.{field}", "vm_area_struct", why, store(lambda w: w.vma, field, value),
        lambda w, k: k.munmap(w.mm, 0x10000, 0x1000),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("structure", "why", "clobber", "call"),
    [
        area("size", 1 << 40, "size 0x10000000000"),
        area("size", 0x3001, "size 0x3001 is not that of pages"),
        area("size", 0, "size 0x0 is not that of pages"),
        area("addr", 1 << 40, "addr 0x10000000000"),
        area("nr_pages", 1 << 40, "nr_pages 0x10000000000 is not that of size 0x3000"),
        area("pages", 0, "pages 0x0 is no array of 2 pages"),
        area("pages", 1 << 40, "pages 0x10000000000 is no array of 2 pages"),
        area("page_order", 5, "page_order 5"),
        cache("size", 0, "size 0"),
        cache("size", 1 << 31, "size 2147483648"),
        cache("object_size", 0, "object_size 0"),
        cache("offset", 3, "no room for a free pointer"),
        cache("offset", 64, "no room for a free pointer"),
        cache("oo", 0x400000, "oo 0x400000"),
        cache("oo", 0xFFFFFFFF, "oo 0xffffffff"),
        cache("min", 0, "min 0x0"),
        cache("align", 3, "align 3 is no power of two"),
        cache("inuse", 65, "inuse 65"),
        zone("zone_idx", 9, "zone_idx 9"),
        zone("zone_start_pfn", 1 << 60, "zone_start_pfn"),
        zone("spanned_pages", 1 << 50, "spanned_pages"),
        zone("spanned_pages", 5, "zone_start_pfn"),
        zone("first_deferred_pfn", 1 << 50, "first_deferred_pfn"),
        root("satp_mode", 1 << 63, "satp_mode"),
        root("satp_mode", 5, "satp_mode"),
        root("memmap_pa", 0, "memmap_pa"),
        root("memmap_pa", RAM_BASE + 8, "memmap_pa"),
        root("nr_zones", 0, "nr_zones"),
        root("nr_zones", 6, "nr_zones"),
        root("zones_pa", 1 << 60, "zones_pa"),
        root("memblock_pa", 8, "memblock_pa"),
        root("pageblock_pa", 1 << 63, "pageblock_pa"),
        root("mm_cachep", 0, "mm_cachep"),
        vma("vm_start", 0x10001, "vm_start 0x10001"),
        vma("vm_end", 1 << 60, "vm_end 0x1000000000000000"),
        vma("vm_end", 0x40000, "not between its neighbours"),
        vma("vm_flags", 6, "vm_flags 0x6"),
        case(
            "vmcoreinfo.kmalloc_caches", "vmcoreinfo", "kmalloc_caches",
            lambda w: w.k.vmcoreinfo.kmalloc_caches.__setitem__(len(KMALLOC_SIZES) - 1, 0),
            lambda w, k: mm.attach(w.ram),
        ),
        case(
            "slab_root.slub_debug", "slab_root", "slub_debug",
            store(lambda w: w.k.vmcoreinfo.slab_root, "slub_debug", "Q"),  # type: ignore[arg-type]
            lambda w, k: mm.attach(w.ram),
        ),
        case(
            "mm_struct.pgd", "mm_struct", "pgd 0x10 is no frame",
            store(lambda w: w.mm, "pgd", 16), lambda w, k: k.copy_to_user(w.mm, 0x10000, b"x"),
        ),
        case(
            "mm_struct.asid", "mm_struct", "asid 0x10000",
            store(lambda w: w.mm, "asid", 1 << 16), lambda w, k: FILES["meminfo"](k),
        ),
        case(
            "zone.nr_free_pages", "zone.nr_free_pages", "it is 0, -1 cannot be",
            store(lambda w: w.k.zones[0], "nr_free_pages", 0),
            lambda w, k: k.page_alloc.buddy.rmqueue(
                k.page_alloc.buddy.index[0], 0, k.page_alloc.get_pageblock_migratetype(w.single), 0
            ),
        ),
        case(
            "pageblock", "pageblock", "is no migratetype",
            lambda w: w.ram.fill(w.k.vmcoreinfo.pageblock_pa, 8, 0x77),
            lambda w, k: k.free_page(w.single),
        ),
        case(
            "slab.slab_cache", "slab", "slab_cache: no kmem_cache at 0xffffffd600300000",
            lambda w: w.ram.write64(w.page_pa(w.slab) + 8, w.k.va(RAM_BASE + 0x300000)),
            lambda w, k: k.kfree(w.object),
        ),
        case(
            "mm_struct.map_count", "mm_struct", "map_count cannot be -1",
            store(lambda w: w.mm, "map_count", 0), lambda w, k: k.exit_mmap(w.mm),
        ),
    ],
)  # fmt: skip
def test_the_field_is_named(structure: str, why: str, clobber: Clobber, call: Call) -> None:
    w = World()
    clobber(w)
    with pytest.raises(CorruptionError) as e:
        call(w, w.k)
    assert e.value.structure == structure, e.value
    assert why in e.value.why, e.value
    assert "\n" not in str(e.value)
    with pytest.raises(MmError):
        call(w, mm.attach(w.ram))


def test_a_size_that_leaves_ram_is_a_corruption_and_no_ram_error() -> None:
    """The boundary itself: what mm reads by a pointer or size out of RAM."""
    k = mm.boot(Ram(8 << 20))
    with pytest.raises(CorruptionError, match=r"pointer at 0x10 .* leads to 8 bytes"):
        k.ram.read64(0x10)
    with pytest.raises(CorruptionError, match="no struct vm_struct can be there"):
        VmStruct(k.ram, 0x1000)
    machine = Ram(8 << 20)
    mm.boot(machine)
    with pytest.raises(RamError):  # the machine's own view of the same RAM is not changed
        machine.read64(0x10)


def test_views_of_one_ram_are_equal() -> None:
    ram = Ram(8 << 20)
    k = mm.boot(ram)
    assert mm.attach(ram).init_mm == k.init_mm


def test_looking_never_fails_untyped() -> None:
    """Every view of a kernel whose zone, mm and area are clobbered while it runs."""
    w = World()
    w.k.zones[0].spanned_pages = w.k.zones[0].present_pages = 1 << 40
    area_of(w).size = 1 << 50
    w.mm.pgd = 0x1234
    for name, file in FILES.items():
        try:
            file(w.k)
        except MmError as e:
            assert str(e), name
    for look in (
        lambda: what(w.k, w.area),
        lambda: what(w.k, RAM_BASE + 0x400000),
        lambda: what(w.k, 0x10000, w.mm),
        lambda: maps(w.k, w.mm),
        lambda: mm.check(w.k),
        lambda: w.k.log,
    ):
        try:
            look()
        except MmError as e:
            assert str(e)


def test_an_object_size_that_grew_under_slub_debug() -> None:
    """Red zones are filled from it: a negative number of bytes once."""
    k = mm.boot(Ram(8 << 20), mm.Config(slub_debug="FZPU"))
    cache = k.kmalloc_caches.cache_for(64)
    cache.struct.object_size = 1 << 20
    for use in (lambda: k.kmalloc(64), lambda: k.kmalloc(60), lambda: mm.attach(k.ram)):
        with pytest.raises(MmError):
            use()


def test_a_cache_of_kmalloc_under_slob() -> None:
    """SLOB has none: a pointer to one is no reason to believe in the other twelve."""
    k = mm.boot(Ram(8 << 20), mm.Config(slab="slob"))
    k.vmcoreinfo.kmalloc_caches[3] = k.vmcoreinfo.mm_cachep
    with pytest.raises(CorruptionError, match=r"vmcoreinfo .*kmalloc_caches\[3\]"):
        mm.attach(k.ram)


@pytest.mark.parametrize("order", [11, 63, 1 << 32, (1 << 64) - 1])
def test_a_free_block_of_an_impossible_order(order: int) -> None:
    """`what` once computed 2 to the power of whatever stood there."""
    kernel = mm.boot(Ram(16 << 20), mm.Config())
    pfn = kernel.page_alloc.alloc_pages(0xCC0, 3)
    assert pfn is not None
    kernel.page_alloc.free_pages(pfn, 3)
    ram = kernel.ram
    heads = [
        p
        for p in range(kernel.space.start_pfn, kernel.space.start_pfn + (ram.size >> 12))
        if ram.u64[kernel.space.page_index(p) + W_TYPE_REF] == BUDDY_WORD
    ]
    assert heads
    for head in heads:
        ram.u64[kernel.space.page_index(head) + W_PRIVATE] = order
        assert "order" not in str(what(kernel, kernel.va(head << 12)))


@pytest.mark.parametrize("slab", ["slub", "slab", "slob"])
def test_what_an_allocation_without_memory_gives_can_be_freed(slab: str) -> None:
    """None is NULL, as 0 is: kfree, vfree and their like do nothing with it."""
    kernel = mm.boot(Ram(16 << 20), mm.Config(slab=slab))
    assert kernel.vmalloc(64 << 20) is None
    for null in (None, 0):
        kernel.kfree(null)
        kernel.vfree(null)
        kernel.vunmap(null)
        assert kernel.ksize(null) == 0
        va = kernel.krealloc(null, 100)
        assert va
        kernel.kfree(va)
    mm.check(kernel)
