"""The proc views, read by parsers made from Linux's format strings, checked against RAM."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mm
from emu.ram import PAGE_SIZE
from mm import proc
from mm.gfp import __GFP_RECLAIMABLE, GFP_ATOMIC, GFP_HIGHUSER_MOVABLE, GFP_KERNEL, ZoneType
from mm.page import SLAB_WORD, W_TYPE_REF
from mm.proc import NoSuchFile
from mm.vma import VM_EXEC, VM_READ, VM_WRITE

sys.path.insert(0, str(Path(__file__).parent))
from cscan import matches, scan

Booter = Callable[..., mm.Kernel]
TWO_ZONES = ((ZoneType.DMA32, 0x8200_0000), (ZoneType.NORMAL, None), (ZoneType.MOVABLE, None))


def need(value: int | None) -> int:
    assert value is not None
    return value


def busy(k: mm.Kernel) -> None:
    """Some of everything."""
    for gfp in (GFP_KERNEL, GFP_HIGHUSER_MOVABLE, GFP_KERNEL | __GFP_RECLAIMABLE, GFP_ATOMIC):
        pfns = [need(k.alloc_page(gfp)) for _ in range(9)]
        for pfn in pfns[::2]:
            k.free_page(pfn)
    for size in (8, 100, 1000, 5000):
        for _ in range(7):
            k.kmalloc(size)


@pytest.fixture
def k(boot: Booter) -> mm.Kernel:
    kernel = boot(64, zones=TWO_ZONES)
    busy(kernel)
    return kernel


# the reader itself


def test_scan() -> None:
    assert scan("Node %d, zone %8s ", "Node 0, zone    DMA32 ") == [0, "DMA32"]
    assert scan("0x%px-0x%px %7ld", "0xffffffc600000000-0xffffffc600002000    8192") == [
        0xFFFFFFC600000000, 0xFFFFFFC600002000, 8192
    ]  # fmt: skip
    assert scan("%2d.%03d ", "-1.000 ") == [-1, 0]
    for line in ("Node 0, zone DMA32 ", "Node 0, zone    DMA32", "Node x, zone    DMA32 "):
        assert not matches("Node %d, zone %8s ", line)


# free blocks


def buddy_rows(text: str) -> dict[str, list[int]]:
    rows = {}
    for line in text.splitlines():
        _, name, *counts = scan("Node %d, zone %8s " + "%6lu " * 11, line)
        rows[str(name)] = [int(n) for n in counts]
    return rows


def test_buddyinfo(k: mm.Kernel) -> None:
    text = proc.buddyinfo(k)
    assert text.endswith("\n")
    rows = buddy_rows(text)
    assert list(rows) == ["DMA32", "Normal"]  # Movable is empty: left out
    for zone in k.zones[:2]:
        counts = rows[zone.name]
        assert sum(n << order for order, n in enumerate(counts)) == zone.nr_free_pages
        assert counts == [zone.free_area[order].nr_free for order in range(11)]


def test_buddyinfo_counts_deferred_blocks(boot: Booter) -> None:
    k = boot(1024)
    (counts,) = buddy_rows(proc.buddyinfo(k)).values()
    assert sum(n << o for o, n in enumerate(counts)) == k.page_alloc.nr_free_pages()


def test_pagetypeinfo(k: mm.Kernel) -> None:
    lines = proc.pagetypeinfo(k).split("\n")
    assert scan("Page block order: %d", lines[0]) == [9]
    assert scan("Pages per block:  %lu", lines[1]) == [512]
    assert lines[2] == ""
    header = "Free pages count per migrate type at order"
    assert scan("%-43s " + "%6d " * 11, lines[3].replace(header, "x" * len(header)))[1:] == [
        *range(11)
    ]
    assert lines[3].startswith(header)
    types = ["Unmovable", "Movable", "Reclaimable", "HighAtomic"]
    at = 4
    free = buddy_rows(proc.buddyinfo(k))
    for name in ("DMA32", "Normal"):
        total = [0] * 11
        for kind in types:
            fmt = "Node %4d, zone %8s, type %12s " + "%6lu " * 11
            node, zone, migratetype, *counts = scan(fmt, lines[at])
            assert (node, zone, migratetype) == (0, name, kind)
            total = [a + int(b) for a, b in zip(total, counts, strict=True)]
            at += 1
        assert total == free[name]
    assert lines[at] == ""
    assert lines[at + 1].startswith("Number of blocks type  ")
    assert scan("%12s " * 4, lines[at + 1][23:]) == types
    for i, zone in enumerate(k.zones[:2]):
        _, name, *blocks = scan("Node %d, zone %8s " + "%12lu " * 4, lines[at + 2 + i])
        assert name == zone.name and sum(map(int, blocks)) == zone.spanned_pages // 512
    assert lines[at + 4 :] == [""]


def test_pagetypeinfo_counts_deferred_blocks(boot: Booter) -> None:
    k = boot(1024)
    line = proc.pagetypeinfo(k).splitlines()[5]
    *_, highest = scan("Node %4d, zone %8s, type %12s " + "%6lu " * 11, line)
    assert highest == buddy_rows(proc.buddyinfo(k))["DMA32"][10]


ZONEINFO = (
    ("  pages free     %lu", lambda z: z.nr_free_pages),
    ("        boost    %lu", lambda z: z.watermark_boost),
    ("        min      %lu", lambda z: z._watermark[0]),
    ("        low      %lu", lambda z: z._watermark[1]),
    ("        high     %lu", lambda z: z._watermark[2]),
    ("        promo    %lu", lambda z: z._watermark[3]),
    ("        spanned  %lu", lambda z: z.spanned_pages),
    ("        present  %lu", lambda z: z.present_pages),
    ("        managed  %lu", lambda z: z.managed_pages),
    ("        cma      %lu", lambda z: 0),
)


def test_zoneinfo(k: mm.Kernel) -> None:
    lines = proc.zoneinfo(k).splitlines()
    at = 0
    for zone in k.zones:
        assert scan("Node %d, zone %8s", lines[at]) == [0, zone.name]
        at += 1
        for fmt, value in ZONEINFO:
            assert scan(fmt, lines[at]) == [value(zone)]
            at += 1
        fmt = "        protection: (%ld" + ", %ld" * 4 + ")"
        assert scan(fmt, lines[at]) == [zone.lowmem_reserve[j] for j in range(5)]
        at += 1
        if not zone.present_pages:
            continue
        assert scan("      %-12s %lu", lines[at]) == ["nr_free_pages", zone.nr_free_pages]
        while lines[at].startswith("      nr_"):
            at += 1
        pcp = zone.per_cpu_pageset
        assert lines[at] == "  pagesets"
        assert scan("    cpu: %i", lines[at + 1]) == [0]
        assert scan("              count: %i", lines[at + 2]) == [pcp.count]
        assert scan("              high:  %i", lines[at + 3]) == [pcp.high]
        assert scan("              batch: %i", lines[at + 4]) == [pcp.batch]
        at += 7
        assert scan("  start_pfn:           %lu", lines[at]) == [zone.zone_start_pfn]
        at += 1
    assert at == len(lines)


def test_fragmentation_indexes(boot: Booter) -> None:
    k = boot(16)
    held = k.alloc_pages_bulk(GFP_KERNEL, 100000)
    for pfn in held[::2]:
        k.free_page(pfn)
    k.page_alloc.drain_all_pages()
    (line,) = proc.extfrag_index(k).splitlines()
    values = scan("Node %d, zone %8s " + "%2d.%03d " * 11, line)[2:]
    assert values[:2] == [-1, 0]  # an order 0 request does not fail
    assert all(int(values[2 * o]) * 1000 + int(values[2 * o + 1]) > 500 for o in range(3, 11))
    (line,) = proc.unusable_index(k).splitlines()
    values = scan("Node %d, zone %8s " + "%d.%03d " * 11, line)[2:]
    assert values[:2] == [0, 0]
    thousandths = [int(values[2 * o]) * 1000 + int(values[2 * o + 1]) for o in range(11)]
    assert thousandths == sorted(thousandths) and thousandths[10] == 1000


# caches and areas


HEADER = (
    "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>"
    " : tunables <limit> <batchcount> <sharedfactor>"
    " : slabdata <active_slabs> <num_slabs> <sharedavail>"
)
ROW = (
    "%-17s %6lu %6lu %6u %4u %4d : tunables %4u %4u %4u : slabdata %6lu %6lu %6lu"
)  # fmt: skip


def slab_rows(text: str) -> dict[str, list[int]]:
    version, header, *rows = text.splitlines()
    assert version == "slabinfo - version: 2.1" and header == HEADER
    found = {}
    for row in rows:
        name, *numbers = scan(ROW, row)
        found[str(name)] = [int(n) for n in numbers]
    return found


@pytest.mark.parametrize("slab", ["slub", "slab"])
def test_slabinfo(boot: Booter, slab: str) -> None:
    k = boot(64, slab=slab)
    busy(k)
    cache = k.kmem_cache_create("a_cache", 136)
    objects = [need(cache.alloc()) for _ in range(100)]
    for va in objects[10:20]:
        cache.free(va)
    rows = slab_rows(proc.slabinfo(k))
    assert list(rows) == [c.name for c in reversed(k.slab.caches())]
    active, total, size, per_slab, pages, *tunables, active_slabs, slabs, shared = rows["a_cache"]
    assert size == 136 and total == slabs * per_slab and 90 <= active <= total
    assert active_slabs <= slabs and pages == 1 << cache.order
    assert (tunables == [0, 0, 0]) == (slab == "slub") and shared == 0
    # Each cache's slabs, counted in RAM, are those that the view says.
    words = k.ram.array(k.space.memmap_pa, (k.ram.size >> 12) * 8).reshape(-1, 8)
    assert int((words[:, W_TYPE_REF] == SLAB_WORD).sum()) == sum(r[-2] for r in rows.values())


def test_slob_has_no_slabinfo(boot: Booter) -> None:
    with pytest.raises(NoSuchFile, match="SLOB"):
        proc.slabinfo(boot(16, slab="slob"))


def test_vmallocinfo(kernel: mm.Kernel) -> None:
    k = kernel
    start = k.layout.vmalloc_start
    one = need(k.vmalloc(PAGE_SIZE, caller="one"))
    gone = need(k.vmalloc(2 * PAGE_SIZE))
    big = need(k.vmalloc(600 * PAGE_SIZE, caller="big"))
    mapped = need(k.vmap([need(k.alloc_page())], caller="mapper"))
    module = need(k.module_alloc(PAGE_SIZE, caller="load_module"))
    k.vfree(gone)
    lines = proc.vmallocinfo(k).splitlines()
    fmt = "0x%px-0x%px %7ld"
    line = scan(fmt + " %s pages=%d vmalloc N%u=%u", lines[0])
    assert line == [one, one + 0x2000, 8192, "one", 1, 0, 1]
    line = scan(fmt + " %s pages=%d vmalloc vpages N%u=%u", lines[1])
    assert line == [big, big + 601 * 4096, 601 * 4096, "big", 600, 0, 600]
    line = scan(fmt + " %s pages=%d vmalloc N%u=%u", lines[2])
    assert line[3:5] == ["big", 2]  # the array of page pointers
    assert scan(fmt + " %s vmap", lines[3]) == [mapped, mapped + 0x2000, 8192, "mapper"]
    assert scan(fmt + " %s pages=%d vmalloc N%u=%u", lines[4])[:4] == [
        module, module + 0x2000, 8192, "load_module"
    ]  # fmt: skip
    # The sum says what is mapped.
    assert scan(fmt + " unpurged vm_area", lines[5]) == [gone, gone + 0x3000, 0x3000]
    assert len(lines) == 6 and one == start


# where memory is


def memory(k: mm.Kernel) -> dict[str, int]:
    rows = {}
    for line in proc.meminfo(k).splitlines():
        name, rest = line[:16], line[16:]
        assert re.fullmatch(r"[A-Za-z_()]+: *", name), line
        (value,) = scan("%8lu kB", rest)
        rows[name.rstrip().rstrip(":")] = int(value)
    return rows


def test_meminfo_adds_up(boot: Booter) -> None:
    k = boot(64)
    before = memory(k)
    assert before["MemTotal"] == sum(z.managed_pages for z in k.zones) * 4
    pcp = sum(z.per_cpu_pageset.count for z in k.zones) * 4
    used = sum(before[name] for name in ("Slab", "PageTables", "AnonPages", "VmallocUsed"))
    assert before["MemTotal"] == before["MemFree"] + pcp + used
    m = k.mm_alloc()
    k.mmap_region(m, 0x10000, 0x5000, VM_READ | VM_WRITE)
    k.vmalloc(64 * PAGE_SIZE)
    held = [need(k.alloc_page()) for _ in range(5)]
    after = memory(k)
    assert after["AnonPages"] == 20 and after["Committed_AS"] == 20
    assert after["VmallocUsed"] == before["VmallocUsed"] + 256
    pcp = sum(z.per_cpu_pageset.count for z in k.zones) * 4
    used = sum(after[name] for name in ("Slab", "PageTables", "AnonPages", "VmallocUsed"))
    assert after["MemTotal"] == after["MemFree"] + pcp + used + len(held) * 4
    assert after["Slab"] == after["SReclaimable"] + after["SUnreclaim"]
    assert 0 < after["MemAvailable"] < after["MemFree"]
    assert after["VmallocTotal"] == 64 << 20


def test_meminfo_knows_highmem(boot: Booter) -> None:
    base = 0x8000_0000
    k = boot(
        64,
        zones=((ZoneType.NORMAL, base + (32 << 20)), (ZoneType.HIGHMEM, None)),
        direct_map_end=base + (32 << 20),
    )
    rows = memory(k)
    assert rows["HighTotal"] == k.zones[1].managed_pages * 4
    assert rows["LowTotal"] + rows["HighTotal"] == rows["MemTotal"]
    assert rows["LowFree"] + rows["HighFree"] == rows["MemFree"]


# processes


def test_maps(kernel: mm.Kernel) -> None:
    k, m = kernel, kernel.mm_alloc()
    k.mmap_region(m, 0x10000, 0x3000, VM_READ | VM_EXEC, "prog")
    k.mmap_region(m, 0x20000, 0x1000, VM_READ | VM_WRITE)
    top = m.task_size
    k.mmap_region(m, top - 0x4000, 0x4000, VM_READ | VM_WRITE, "[stack]")
    lines = proc.maps(k, m).split("\n")
    fmt = "%08lx-%08lx %sp %08lx %02x:%02x %lu "
    assert scan(fmt, lines[0][: lines[0].index("prog")].rstrip() + " ") == [
        0x10000, 0x13000, "r-x", 0, 0, 0, 0
    ]  # fmt: skip
    assert lines[0].index("prog") == 73 and lines[0].endswith("prog")
    assert scan(fmt, lines[1]) == [0x20000, 0x21000, "rw-", 0, 0, 0, 0]  # nothing padded
    assert lines[2].startswith(f"{top - 0x4000:x}-{top:x} rw-p ")
    assert lines[2].index("[stack]") == 73 and lines[3:] == [""]
    k.mmdrop(m)


# who holds it


def test_page_owner(boot: Booter) -> None:
    with pytest.raises(NoSuchFile, match="page_owner"):
        proc.page_owner(boot(16))
    k = boot(16, page_owner=True)
    pfn = need(k.alloc_pages(GFP_KERNEL, 2))
    records = proc.page_owner(k).split("\n\n")
    assert records.pop() == ""
    mine = [r for r in records if f"PFN {pfn:#x} " in r]
    assert len(mine) == 1
    first, second, *stack = mine[0].splitlines()
    assert scan(
        "Page allocated via order %u, mask 0x%x(GFP_KERNEL), pid %d, tgid %d (%s ts %llu ns", first
    )[:4] == [2, GFP_KERNEL, 0, 0]
    assert re.fullmatch(
        rf"PFN {pfn:#x} type Unmovable Block {pfn >> 9} type Unmovable Flags 0x[0-9a-f]+\(.*\)",
        second,
    )
    assert any("test_page_owner" in line for line in stack)
    # As many frames as are allocated, but for those that boot took before it was on.
    total = 0
    for record in records:
        match = re.match(r"Page allocated via order (\d+), ", record)
        assert match is not None
        total += 1 << int(match[1])
    report = mm.check(k)
    assert total == report.allocated


def test_every_file_can_be_read_in_every_mode(boot: Booter) -> None:
    from emu.spec.paging import SV39, SV48, SV57

    for mode in (SV39, SV48, SV57):
        k = boot(16, paging=mode, page_owner=True, kmemleak=True)
        busy(k)
        for name, view in proc.FILES.items():
            text = view(k)
            assert not text or text.endswith("\n"), name
        mm.check(k)
