"""what: every kind of address is named for what it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import mm
from emu.ram import PAGE_SIZE
from emu.spec.paging import SV39, SV48, SV57, PagingMode
from mm.gfp import GFP_COMP, GFP_KERNEL, ZoneType
from mm.vma import VM_READ, VM_WRITE
from mm.what import mappings, what, what_user

Booter = Callable[..., mm.Kernel]
MODES = pytest.mark.parametrize("mode", [SV39, SV48, SV57], ids=lambda m: m.name)
BASE = 0x8000_0000


def need(value: int | None) -> int:
    assert value is not None
    return value


def test_slab_object_by_va_and_pa(kernel: mm.Kernel) -> None:
    k = kernel
    a, b = need(k.kmalloc(100)), need(k.kmalloc(100))
    k.kfree(b)
    for address in (a + 5, k.pa(a) + 5):
        found = what(k, address).facts
        assert (found["cache"], found["object"], found["offset"]) == ("kmalloc-128", a, 5)
        assert found["object_state"] == "allocated" and found["type"] == "slab"
        assert found["object_index"] == (a - found["slab"]) // 128
    assert what(k, b).facts["object_state"] == "free"
    assert "cache kmalloc-128" in str(what(k, a)) and what(k, a).kind == "virtual"
    assert what(k, k.pa(a)).kind == "physical"


def test_red_zones_are_named(boot: Booter) -> None:
    k = boot(slub_debug="FZPU")
    cache = k.kmem_cache_create("guarded", 100)
    va = need(cache.alloc())
    assert what(k, va + 99).facts["object"] == va
    assert "right red zone of object" in str(what(k, va + 100))
    assert "left red zone of object" in str(what(k, va - 1))
    assert "free pointer of object" in str(what(k, va + cache.struct.offset))
    assert "tracks" in str(what(k, va + cache.struct.offset + 8))


@pytest.mark.parametrize("slab", ["slab", "slob"])
def test_other_allocators(boot: Booter, slab: str) -> None:
    k = boot(slab=slab)
    va = need(k.kmalloc(200))
    text = str(what(k, va))
    assert "type slab" in text and ("records no caches" in text or "object" in text)


def test_blocks_free_and_allocated(boot: Booter) -> None:
    k = boot(64)
    pfn = need(k.alloc_pages(GFP_KERNEL | GFP_COMP, 3))
    found = what(k, (pfn + 5) << 12).facts
    assert (found["state"], found["head"], found["order"], found["compound"]) == (
        "allocated", pfn, 3, True
    )  # fmt: skip
    assert found["zone"] == "DMA32" and found["refcount"] == 1
    k.free_pages(pfn, 3)
    found = what(k, (pfn + 5) << 12).facts
    assert found["state"] == "free" and found["head"] <= pfn + 5
    assert found["head"] + (1 << found["order"]) > pfn + 5
    k.page_alloc.drain_all_pages()
    assert what(k, (pfn + 5) << 12).facts["state"] == "free"
    deferred = boot(1024)
    at = deferred.zones[0].first_deferred_pfn + 7
    assert "deferred" in str(what(deferred, at << 12))


@pytest.mark.slow
def test_every_frame_has_a_state_that_check_agrees_with(boot: Booter) -> None:
    k = boot(16)
    for size in (8, 100, 1000, 9000):
        k.kmalloc(size)
    held = [need(k.alloc_pages(GFP_KERNEL, order)) for order in (0, 1, 4)]
    k.free_pages(held[1], 1)
    counts = {"free": 0, "allocated": 0, "reserved": 0}
    for pfn in range(k.space.start_pfn, k.space.end_pfn):
        counts[what(k, pfn << 12).facts["state"]] += 1
    report = mm.check(k)
    assert counts["allocated"] == report.allocated and counts["reserved"] == report.reserved
    assert counts["free"] == report.frames - report.allocated - report.reserved


def test_reserved_frames_say_for_what(boot: Booter) -> None:
    k = boot(64)
    for pa, text in (
        (BASE, "firmware"),
        (k.vmcoreinfo.pa, "vmcoreinfo"),
        (k.space.page_pa(0x80300), "struct page of pfn 0x80300"),
        (k.zones[0].pa, "zones"),
        (k.memblock.pa, "memblock"),
    ):
        found = what(k, pa)
        assert found.facts["state"] == "reserved" and text in str(found)
    assert what(k, BASE).facts["mappings"] == []
    assert what(k, BASE).facts["memblock_memory"] == (BASE, BASE + (2 << 20))


@MODES
def test_page_tables(boot: Booter, mode: PagingMode) -> None:
    k = boot(paging=mode)
    m = k.mm_alloc()
    k.mmap_region(m, 0x40_3000, 0x1000, VM_READ)
    leaf = k.pgtable.lookup(m, 0x40_3000)
    assert leaf is not None
    found = what(k, leaf[1]).facts
    assert (found["type"], found["table_of"], found["table_level"]) == ("table", m.asid, 0)
    assert (found["table_va"], found["entry"], found["entry_va"]) == (0x40_0000, 3, 0x40_3000)
    root = what(k, k.pgtable.root(k.init_mm) + 8 * 511).facts
    assert root["table_of"] == 0 and root["table_level"] == mode.levels - 1
    assert root["entry_va"] == (1 << 64) - mode.span(mode.levels - 1)


@MODES
def test_vmalloc_areas(boot: Booter, mode: PagingMode) -> None:
    k = boot(paging=mode)
    va = need(k.vmalloc(3 * PAGE_SIZE, caller="somebody"))
    lazy = need(k.vmalloc(PAGE_SIZE))
    k.vfree(lazy)
    found = what(k, va + 2 * PAGE_SIZE + 9)
    area = k.find_vm_area(va)
    assert area is not None
    pfn = k.vmalloc_areas.pages_of(area)[2]
    assert (found.facts["area"], found.facts["caller"], found.facts["pfn"]) == (va, "somebody", pfn)
    assert found.facts["pa"] == (pfn << 12) + 9 and found.facts["level"] == 0
    assert {m["va"] for m in found.facts["mappings"]} == {
        va + 2 * PAGE_SIZE, k.space.pfn_to_virt(pfn)
    }  # fmt: skip
    guard = what(k, va + 3 * PAGE_SIZE)
    assert guard.facts["guard"] and not guard.facts["mapped"] and "overrun" in str(guard)
    assert "purge" in str(what(k, lazy)) and what(k, lazy).facts["lazy"]
    assert what(k, lazy + (1 << 20)).facts["area"] is None
    # By its PA the frame is known as the area's too.
    assert what(k, pfn << 12).facts["area"] == va


def test_user_addresses(kernel: mm.Kernel) -> None:
    k, m = kernel, kernel.mm_alloc()
    other = k.mm_alloc()
    k.mmap_region(m, 0x10000, 0x2000, VM_READ | VM_WRITE, "[heap]")
    k.mmap_region(other, 0x7000, 0x1000, VM_READ)
    found = what(k, 0x11008, m)
    assert (found.facts["vma"], found.facts["vma_name"]) == (0x10000, "[heap]")
    rows = {(row["asid"], row["va"]) for row in found.facts["mappings"]}
    assert (m.asid, 0x11000) in rows and len(rows) == 2
    assert "no vm_area_struct" in str(what_user(k, 0x5000, m))
    assert "the next starts at 0x10000 [heap]" in str(what_user(k, 0x5000, m))
    assert not what_user(k, 0x7000, m).facts["mapped"]
    assert what_user(k, 0x7000, other).facts["mapped"]
    assert [row[0].asid for row in mappings(k, found.facts["pfn"])] == [0, m.asid]


def test_modules_and_image_and_vmemmap(kernel: mm.Kernel) -> None:
    k = kernel
    va = need(k.module_alloc(PAGE_SIZE, caller="load_module"))
    found = what(k, va)
    assert found.facts["region"] == "modules area" and found.facts["caller"] == "load_module"
    assert what(k, 0xFFFFFFFF80000000).facts["region"] == "kernel image"
    page = what(k, k.space.page_va(0x80500) + 8)
    assert page.facts["region"] == "vmemmap" and page.facts["page_of"] == 0x80500
    assert "beyond the end of RAM" in str(what(k, k.space.vmemmap_end + 64))


@MODES
def test_what_is_nothing(boot: Booter, mode: PagingMode) -> None:
    k = boot(paging=mode)
    assert what(k, 1 << 62).kind == "non-canonical"
    assert what_user(k, k.layout.kernel_start - 1, k.init_mm).kind == "non-canonical"
    assert "not canonical" in str(what(k, k.layout.kernel_start - 1))
    assert what(k, 0x1000).kind == "none" and "no RAM" in str(what(k, 0x1000))
    hole = what(k, k.layout.page_offset - PAGE_SIZE)
    assert not hole.facts["mapped"]
    assert "hole" in str(what(k, k.space.direct_end + (1 << 30)))
    for bad in (-1, 1 << 64):
        with pytest.raises(ValueError):
            what(k, bad)


def test_highmem_has_no_address(boot: Booter) -> None:
    end = BASE + (32 << 20)
    k = boot(64, zones=((ZoneType.NORMAL, end), (ZoneType.HIGHMEM, None)), direct_map_end=end)
    found = what(k, end + (8 << 20))
    assert found.facts["zone"] == "HighMem" and found.facts["highmem"]
    assert found.facts["mappings"] == []


def test_page_owner_is_told(boot: Booter) -> None:
    k = boot(page_owner=True)

    def somebody() -> int:
        return need(k.alloc_page())

    text = str(what(k, somebody() << 12))
    assert "page_owner tracks the page as allocated" in text and "somebody" in text
