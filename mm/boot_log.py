"""What Linux prints about memory while it boots, made from what is in RAM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from emu.spec.paging import PAGE_SHIFT
from mm.addrspace import (
    KERNEL_LINK_ADDR,
    MODULES_END,
    MODULES_VADDR,
    Space,
)
from mm.memblock import Memblock
from mm.zone import (
    Zone,
)


def boot_log(
    space: Space, memblock: Memblock, zones: Sequence[Zone], slab_kind: str
) -> Iterator[str]:
    """The lines, in dmesg's style."""
    layout, ram = space.layout, space.ram
    for region in memblock.reserved:
        yield f"memblock_reserve: [{region.base:#018x}-{region.end - 1:#018x}]"
    yield "Zone ranges:"
    for zone in zones:
        start, end = zone.zone_start_pfn << PAGE_SHIFT, (zone.zone_end_pfn << PAGE_SHIFT) - 1
        if zone.spanned_pages:
            yield f"  {zone.name:<8} [mem {start:#018x}-{end:#018x}]"
        else:
            yield f"  {zone.name:<8} empty"
    yield "Early memory node ranges"
    for region in memblock.memory:
        yield f"  node   0: [mem {region.base:#018x}-{region.end - 1:#018x}]"
    yield f"Initmem setup node 0 [mem {ram.base:#018x}-{ram.end - 1:#018x}]"
    managed = sum(z.managed_pages for z in zones) << (PAGE_SHIFT - 10)
    total = ram.size >> 10
    reserved = total - managed
    yield f"Memory: {managed}K/{total}K available ({reserved}K reserved)"
    yield "Virtual kernel memory layout:"
    areas = (
        ("vmemmap", layout.vmemmap_start, layout.vmemmap_start + layout.vmemmap_size),
        ("vmalloc", layout.vmalloc_start, layout.vmalloc_end),
        ("modules", MODULES_VADDR, MODULES_END),
        ("lowmem", layout.page_offset, space.direct_end),
        ("kernel", KERNEL_LINK_ADDR, (1 << 64) - 1),
    )
    for name, low, high in areas:
        size, unit = high - low, "B"
        for scale, letter in ((50, "PB"), (40, "TB"), (30, "GB"), (20, "MB"), (10, "kB")):
            if size >= 1 << scale:
                size, unit = size >> scale, letter
                break
        yield f"      {name:>7} : {low:#018x} - {high:#018x}   ({size:4d} {unit})"
    if slab_kind == "slub":
        yield "SLUB: HWalign=64, Order=0-3, MinObjects=0, CPUs=1, Nodes=1"
