"""Linux's own text views of memory, byte for byte: each is a function from a kernel to text.

| name | Linux | names |
|---|---|---|
| buddyinfo, pagetypeinfo, zoneinfo | mm/vmstat.c | free blocks, pageblocks, zones |
| slabinfo | mm/slab_common.c | caches |
| vmallocinfo | mm/vmalloc.c | areas, then those that wait for a purge |
| meminfo | fs/proc/meminfo.c | where memory is |
| maps | fs/proc/task_mmu.c | the VMAs of one process |
| page_owner, kmemleak | mm/page_owner.c, mm/kmemleak.c | who holds memory; who lost it |
| extfrag_index, unusable_index | mm/vmstat.c | external fragmentation by order |

``FILES`` has those that need a kernel only, by name; ``maps`` needs an address space too.
What is left out: zoneinfo's per-node statistics and meminfo's rows for what this kernel has
not (swap, page cache, huge pages ...), except those that every reader of /proc/meminfo
expects, which are 0. VmallocChunk is 0 in Linux too.

Nothing here changes anything; every walk is bounded. A view that a kernel has not, as with
Linux, is a missing file: ``NoSuchFile``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emu.ram import PAGE_SHIFT
from mm import fragmentation
from mm.errors import MmError
from mm.gfp import MIGRATE_TYPES, MigrateType, ZoneType
from mm.kernel import Kernel
from mm.page import PAGE_TYPE_SLAB, PG_HEAD, W_FLAGS, W_TYPE_REF
from mm.page_owner import MIGRATETYPE_NAMES
from mm.pgtable import MmStruct
from mm.slab import SLAB_RECLAIM_ACCOUNT
from mm.slab.structs import W_SLAB_CACHE, KmemCacheStruct
from mm.vm_struct import VM_ALLOC, VM_LAZY_FREE, VM_MAP
from mm.vma import VM_EXEC, VM_READ, VM_WRITE
from mm.zone import (
    MAX_PAGE_ORDER,
    NR_PAGE_ORDERS,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    WMARK_HIGH,
    WMARK_LOW,
    WMARK_PROMO,
    Zone,
)

_KB_SHIFT = PAGE_SHIFT - 10
_MAPS_NAME_COLUMN = 25 + 6 * 8 - 1  # as seq_setwidth in show_vma_header_prefix
# Of an LRU and zones with CMA, which are not here, zoneinfo still has the counters.
_ZONE_STATS = (
    "nr_zone_inactive_anon", "nr_zone_active_anon", "nr_zone_inactive_file",
    "nr_zone_active_file", "nr_zone_unevictable", "nr_zone_write_pending", "nr_mlock",
    "nr_bounce", "nr_free_cma",
)  # fmt: skip


class NoSuchFile(MmError):
    """ENOENT: this kernel, as it was booted, has no such view; the text says why."""


def _populated(kernel: Kernel) -> list[Zone]:
    return [zone for zone in kernel.zones if zone.present_pages]


# free blocks


def buddyinfo(kernel: Kernel) -> str:
    """Free blocks of each order, zone by zone (frag_show_print)."""
    return _by_order(kernel, lambda zone, order: f"{zone.free_area[order].nr_free:6d} ")


def free_blocks(kernel: Kernel, zone: Zone, order: int, migratetype: int) -> int:
    """Blocks on one free list, the zone's deferred ones (which are Movable) among them.

    Raises ListCorruption.
    """
    head = kernel.va(zone.free_area[order].free_list[migratetype].pa)
    count = sum(1 for _ in kernel.lists.walk(head, max(zone.spanned_pages >> order, 1)))
    if order == MAX_PAGE_ORDER and migratetype == MigrateType.MOVABLE:
        count += (zone.deferred_end_pfn - zone.first_deferred_pfn) >> MAX_PAGE_ORDER
    return count


def pagetypeinfo(kernel: Kernel) -> str:
    """Free blocks by migratetype and order, and pageblocks by migratetype.

    Linux counts a list of more than 100000 blocks as ``>100000``. Raises ListCorruption.
    """
    text = f"Page block order: {PAGEBLOCK_ORDER}\nPages per block:  {PAGEBLOCK_NR_PAGES}\n\n"
    text += f"{'Free pages count per migrate type at order':<43} "
    text += "".join(f"{order:6d} " for order in range(NR_PAGE_ORDERS)) + "\n"
    for zone in _populated(kernel):
        for mt in range(MIGRATE_TYPES):
            text += f"Node {zone.node:4d}, zone {zone.name:>8}, "
            text += f"type {MIGRATETYPE_NAMES[mt]:>12} "
            for order in range(NR_PAGE_ORDERS):
                count = free_blocks(kernel, zone, order, mt)
                text += f"{'>' if count >= 100000 else ''}{min(count, 100000):6d} "
            text += "\n"
    text += f"\n{'Number of blocks type ':<23}"
    text += "".join(f"{name:>12} " for name in MIGRATETYPE_NAMES) + "\n"
    for zone in _populated(kernel):
        start = zone.zone_start_pfn >> PAGEBLOCK_ORDER
        end = -(-zone.zone_end_pfn // PAGEBLOCK_NR_PAGES)
        first = kernel.space.start_pfn >> PAGEBLOCK_ORDER
        at = kernel.page_alloc.buddy.pageblock_pa + start - first
        types = kernel.ram.array(at, end - start, np.uint8) ^ np.uint8(MigrateType.MOVABLE)
        counts = np.bincount(types & 3, minlength=MIGRATE_TYPES)
        text += f"Node {zone.node}, zone {zone.name:>8} "
        text += "".join(f"{int(count):12d} " for count in counts) + "\n"
    return text


def zoneinfo(kernel: Kernel) -> str:
    """Every zone: watermarks, sizes, lowmem_reserve, per-CPU lists (zoneinfo_show_print)."""
    text = ""
    for zone in kernel.zones:
        marks = [zone._watermark[i] + zone.watermark_boost for i in range(WMARK_PROMO + 1)]
        rows = (
            ("boost", zone.watermark_boost),
            *zip(("min", "low", "high", "promo"), marks, strict=True),
            ("spanned", zone.spanned_pages),
            ("present", zone.present_pages),
            ("managed", zone.managed_pages),
            ("cma", 0),
        )
        text += f"Node {zone.node}, zone {zone.name:>8}"
        text += f"\n  pages free     {zone.nr_free_pages}"
        text += "".join(f"\n        {name:<8} {value}" for name, value in rows)
        reserve = ", ".join(str(zone.lowmem_reserve[j]) for j in ZoneType)
        text += f"\n        protection: ({reserve})"
        if not zone.present_pages:
            text += "\n"
            continue
        text += f"\n      {'nr_free_pages':<12} {zone.nr_free_pages}"
        text += "".join(f"\n      {name:<12} 0" for name in _ZONE_STATS)
        pcp = zone.per_cpu_pageset
        text += "\n  pagesets\n    cpu: 0"
        text += f"\n              count: {pcp.count}"
        text += f"\n              high:  {pcp.high}"
        text += f"\n              batch: {pcp.batch}"
        text += "\n  vm stats threshold: 0"
        text += "\n  node_unreclaimable:  0"
        text += f"\n  start_pfn:           {zone.zone_start_pfn}\n"
    return text


def extfrag_index(kernel: Kernel) -> str:
    """Why each order would fail, zone by zone (mm.fragmentation; debugfs extfrag_index)."""

    def cell(zone: Zone, order: int) -> str:
        index = fragmentation.extfrag_index(zone, order)
        # As C divides: towards zero.
        return f"{int(index / 1000):2d}.{abs(index) % 1000:03d} "

    return _by_order(kernel, cell)


def unusable_index(kernel: Kernel) -> str:
    """What each order cannot use, zone by zone (mm.fragmentation; debugfs unusable_index)."""

    def cell(zone: Zone, order: int) -> str:
        index = fragmentation.unusable_index(zone, order)
        return f"{index // 1000}.{index % 1000:03d} "

    return _by_order(kernel, cell)


def _by_order(kernel: Kernel, cell: Callable[[Zone, int], str]) -> str:
    """A line a zone, a cell an order."""
    text = ""
    for zone in _populated(kernel):
        cells = "".join(cell(zone, order) for order in range(NR_PAGE_ORDERS))
        text += f"Node {zone.node}, zone {zone.name:>8} {cells}\n"
    return text


# caches and areas


def slabinfo(kernel: Kernel) -> str:
    """Every cache, the newest first. Raises NoSuchFile under SLOB."""
    if kernel.slab.KIND == "slob":
        raise NoSuchFile("slabinfo: SLOB has none, as in Linux (its pages are in meminfo)")
    text = (
        "slabinfo - version: 2.1\n"
        "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>"
        " : tunables <limit> <batchcount> <sharedfactor>"
        " : slabdata <active_slabs> <num_slabs> <sharedavail>\n"
    )
    for cache in reversed(kernel.slab.caches()):
        i = cache.info()
        text += (
            f"{i.name:<17} {i.active_objs:6d} {i.num_objs:6d} {i.size:6d} "
            f"{i.objects_per_slab:4d} {1 << i.cache_order:4d}"
            f" : tunables {i.limit:4d} {i.batchcount:4d} {i.shared:4d}"
            f" : slabdata {i.active_slabs:6d} {i.num_slabs:6d} {i.shared_avail:6d}\n"
        )
    return text


def vmallocinfo(kernel: Kernel) -> str:
    """Every area by address; sizes include the guard page (vmalloc_info_show)."""
    text = unpurged = ""
    for area in kernel.vmalloc_areas.all_areas():
        line = f"{area.addr:#018x}-{area.addr + area.size:#018x} {area.size:7d}"
        if area.flags & VM_LAZY_FREE:
            unpurged += line + " unpurged vm_area\n"
            continue
        if area.caller:
            line += f" {area.caller}"
        if area.nr_pages:
            line += f" pages={area.nr_pages}"
        if area.flags & VM_ALLOC:
            line += " vmalloc"
        if area.flags & VM_MAP:
            line += " vmap"
        layout = kernel.layout
        if layout.vmalloc_start <= area.pages < layout.vmalloc_end:
            line += " vpages"
        if area.nr_pages:
            line += f" N0={area.nr_pages}"
        text += line + "\n"
    return text + unpurged


# where memory is


def slab_pages(kernel: Kernel) -> tuple[int, int]:
    """Pages of slabs: ``(reclaimable, unreclaimable)``, counted from the struct pages."""
    reclaimable = unreclaimable = 0
    flags_at = KmemCacheStruct.offset_of("flags")
    for start, end in _initialised(kernel):
        words = kernel.ram.array(kernel.space.page_pa(start), (end - start) * 8).reshape(-1, 8)
        slab = (words[:, W_TYPE_REF] & np.uint64(0xFFFFFFFF)) == PAGE_TYPE_SLAB
        for i in slab.nonzero()[0].tolist():
            order = int(words[i + 1, W_FLAGS]) & 0xFF if int(words[i, W_FLAGS]) & PG_HEAD else 0
            cache = int(words[i, W_SLAB_CACHE])
            flags = kernel.ram.read32(kernel.pa(cache) + flags_at) if cache else 0
            if flags & SLAB_RECLAIM_ACCOUNT:
                reclaimable += 1 << order
            else:
                unreclaimable += 1 << order
    return reclaimable, unreclaimable


def _initialised(kernel: Kernel) -> list[tuple[int, int]]:
    """The ranges of frames (PFN) whose struct pages were ever written."""
    holes = [(z.first_deferred_pfn, z.deferred_end_pfn) for z in kernel.zones]
    holes.append(kernel.memmap_implicit())
    ranges = []
    at = kernel.space.start_pfn
    for start, end in sorted(h for h in holes if h[0] < h[1]):
        ranges.append((at, start))
        at = end
    ranges.append((at, kernel.space.end_pfn))
    return [(start, end) for start, end in ranges if start < end]


def _resident(kernel: Kernel) -> int:
    """Distinct frames mapped in processes."""
    frames: set[int] = set()
    for mm in kernel.address_spaces.mms():
        for _, level, pte in kernel.pgtable.leaves(kernel.pgtable.root(mm), user_only=True):
            pfn = pte >> 10 & (1 << 44) - 1
            frames.update(range(pfn, pfn + (kernel.mode.span(level) >> PAGE_SHIFT)))
    return len(frames)


def _total_reserve(kernel: Kernel) -> int:
    """calculate_totalreserve_pages."""
    total = 0
    for zone in kernel.zones:
        reserve = max(zone.lowmem_reserve[j] for j in ZoneType) + zone._watermark[WMARK_HIGH]
        total += min(reserve, zone.managed_pages)
    return total


def meminfo(kernel: Kernel) -> str:
    """Where memory is, in kB (meminfo_proc_show)."""
    reclaimable, unreclaimable = slab_pages(kernel)
    free = sum(zone.nr_free_pages for zone in kernel.zones)
    total = sum(zone.managed_pages for zone in kernel.zones)
    low_mark = sum(zone._watermark[WMARK_LOW] for zone in kernel.zones)
    available = free - _total_reserve(kernel) + reclaimable - min(reclaimable // 2, low_mark)
    mms = [kernel.init_mm, *kernel.address_spaces.mms()]
    tables = sum(mm.pgtables_bytes for mm in mms) >> PAGE_SHIFT
    anon = _resident(kernel)
    layout = kernel.layout
    rows: list[tuple[str, int]] = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", max(available, 0)),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", 0),
        ("Inactive", 0),
    ]
    high = [zone for zone in kernel.zones if zone.type == ZoneType.HIGHMEM]
    if high:
        high_total = sum(zone.managed_pages for zone in high)
        high_free = sum(zone.nr_free_pages for zone in high)
        rows += [
            ("HighTotal", high_total),
            ("HighFree", high_free),
            ("LowTotal", total - high_total),
            ("LowFree", free - high_free),
        ]
    rows += [
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", anon),
        ("Mapped", 0),
        ("Shmem", 0),
        ("KReclaimable", reclaimable),
        ("Slab", reclaimable + unreclaimable),
        ("SReclaimable", reclaimable),
        ("SUnreclaim", unreclaimable),
        ("PageTables", tables),
        ("CommitLimit", total // 2),  # overcommit_ratio 50, no swap
        ("Committed_AS", sum(mm.total_vm for mm in mms)),
        ("VmallocTotal", (layout.vmalloc_end - layout.vmalloc_start) >> PAGE_SHIFT),
        ("VmallocUsed", kernel.vmalloc_areas.nr_pages()),
        ("VmallocChunk", 0),
        ("Percpu", 0),
    ]
    return "".join(f"{name + ':':<16}{pages << _KB_SHIFT:8d} kB\n" for name, pages in rows)


# processes


def maps(kernel: Kernel, mm: MmStruct) -> str:
    """The VMAs of an address space (show_map_vma). All memory is anonymous: no offset,
    no device, no inode."""
    text = ""
    for vma in kernel.address_spaces.vmas(mm):
        flags = "".join(
            letter if vma.vm_flags & bit else "-"
            for letter, bit in (("r", VM_READ), ("w", VM_WRITE), ("x", VM_EXEC))
        )
        line = f"{vma.vm_start:08x}-{vma.vm_end:08x} {flags}p {0:08x} {0:02x}:{0:02x} {0} "
        if vma.name:
            line = f"{line:<{_MAPS_NAME_COLUMN}} {vma.name}"
        text += line + "\n"
    return text


# who holds it


def page_owner(kernel: Kernel) -> str:
    """Every allocated block with who allocated it, a blank line after each.

    Raises NoSuchFile when the machine was booted without page_owner.
    """
    owner = kernel.page_alloc.page_owner
    if owner is None:
        raise NoSuchFile("page_owner: the kernel was booted without page_owner=on")
    text = ""
    for pfn in owner.allocated():
        mt = kernel.page_alloc.get_pageblock_migratetype(pfn)
        flags = kernel.ram.u64[kernel.space.page_index(pfn)]
        text += "\n".join(owner.lines(pfn, mt, flags)) + "\n\n"
    return text


def kmemleak(kernel: Kernel) -> str:
    """The objects that nothing in RAM points to, by a scan (kmemleak_seq_show).

    Without kmemleak=on it names no task and no time, and large kmallocs are not known.
    Raises NoSuchFile under SLOB then, which keeps no record of objects at all.
    """
    if kernel.slab.KIND == "slob" and not kernel.slab.kmemleak:
        raise NoSuchFile("kmemleak: SLOB keeps no record of objects: boot with kmemleak=on")
    return "".join(leak.report() for leak in kernel.kmemleak.scan())


FILES: dict[str, Callable[[Kernel], str]] = {
    "buddyinfo": buddyinfo,
    "pagetypeinfo": pagetypeinfo,
    "zoneinfo": zoneinfo,
    "slabinfo": slabinfo,
    "vmallocinfo": vmallocinfo,
    "meminfo": meminfo,
    "page_owner": page_owner,
    "kmemleak": kmemleak,
    "extfrag_index": extfrag_index,
    "unusable_index": unusable_index,
}
