"""What is at an address: everything that the memory manager knows of it, in words.

``what(kernel, address)`` takes a VA or a PA. A VA is looked up in the kernel's layout, its
areas and the tables that map it; the frame behind it, or behind a PA, is then described from
its struct page: zone, flags, who holds it, as what. Both come out as ``What``: facts by
name, and ``lines`` for people.

    address      0xffffffd600545040: virtual, direct map
    maps to      pa 0x80745040 (2 MiB leaf, rw-)
    frame        pfn 0x80745, zone DMA32, node 0, reserved: no
    ...

Nothing here changes anything. An address that is none is said plainly to be so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emu.spec.paging import (
    PAGE_SHIFT,
    PAGE_SIZE,
    PTE_A,
    PTE_D,
    PTE_G,
    PTE_R,
    PTE_U,
    PTE_W,
    PTE_X,
    pte_pfn,
)
from mm.addrspace import KERNEL_END, KERNEL_LINK_ADDR, MODULES_END, MODULES_VADDR
from mm.errors import BadAddress, MmError
from mm.gfp import format_gfp
from mm.kernel import Kernel
from mm.memblock import MEMBLOCK_NOMAP
from mm.page import (
    BUDDY_WORD,
    PAGE_TYPE_SLAB,
    PAGE_TYPE_TABLE,
    PAGE_TYPES,
    PCP_WORD,
    PG_HEAD,
    PG_RESERVED,
    W_FLAGS,
    W_LRU_NEXT,
    W_OWNER,
    W_PRIVATE,
    W_PT_MM,
    W_TYPE_REF,
    format_flags,
)
from mm.pgtable import MmStruct
from mm.vm_struct import VM_LAZY_FREE, VM_MAP, VmStruct
from mm.vma import VM_EXEC, VM_READ, VM_WRITE
from mm.zone import MAX_PAGE_ORDER

MAPPINGS_SHOWN = 16


@dataclass
class What:
    """An address: ``facts`` by name (numbers are ints, addresses too), ``lines`` in words."""

    address: int
    kind: str  # "virtual", "physical", "non-canonical", "none"
    facts: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def say(self, label: str, text: str, **facts: Any) -> None:
        """Add a line, and the facts that it tells."""
        self.lines.append(f"{label:<12} {text}")
        self.facts.update(facts)

    def __str__(self) -> str:
        return "\n".join(self.lines)


def what(kernel: Kernel, address: int, mm: MmStruct | None = None) -> What:
    """What ``address`` is: a VA (in ``mm``, if it is a user's) or a PA.

    A VA of user space is one in ``mm`` when that is given and maps or holds it; else
    addresses below the top of the physical address space are PAs. Raises ValueError for
    what is no 64-bit number.
    """
    if not 0 <= address < 1 << 64:
        raise ValueError(f"{address:#x} is no 64-bit address")
    if address >= kernel.layout.kernel_start:
        return _virtual(kernel, address, kernel.init_mm)
    if kernel.ram.contains(address):
        return _physical(kernel, address)
    if address < kernel.layout.task_size and (mm is not None or address >= 1 << 56):
        return _virtual(kernel, address, mm or kernel.init_mm)
    if address < 1 << 56:
        return _physical(kernel, address)
    return _non_canonical(kernel, address)


def what_user(kernel: Kernel, address: int, mm: MmStruct) -> What:
    """What ``address`` is as a VA of ``mm``, even if it could be a PA."""
    if kernel.layout.task_size <= address < kernel.layout.kernel_start:
        return _non_canonical(kernel, address)
    return _virtual(kernel, address, mm)


def _non_canonical(kernel: Kernel, address: int) -> What:
    found = What(address, "non-canonical")
    layout = kernel.layout
    found.say(
        "address",
        f"{address:#x}: not canonical in {kernel.mode.name}: every access faults "
        f"(user space ends at {layout.task_size:#x}, the kernel's half starts at "
        f"{layout.kernel_start:#x})",
    )
    return found


# virtual addresses


def region_of(kernel: Kernel, va: int) -> str:
    """The part of the address space that ``va`` is in: a name of Linux's layout."""
    layout, space = kernel.layout, kernel.space
    regions = (
        (0, layout.task_size, "user space"),
        (layout.pkmap_base, layout.pkmap_base + (2 << 20), "kmap window"),
        (layout.vmemmap_start, layout.vmemmap_start + layout.vmemmap_size, "vmemmap"),
        (layout.vmalloc_start, layout.vmalloc_end, "vmalloc area"),
        (layout.page_offset, space.direct_end, "direct map"),
        (MODULES_VADDR, MODULES_END, "modules area"),
        (KERNEL_LINK_ADDR, KERNEL_END, "kernel image"),
    )
    for low, high, name in regions:
        if low <= va < high:
            return name
    return "a hole between the kernel's areas"


def _rights(pte: int) -> str:
    letters = (("r", PTE_R), ("w", PTE_W), ("x", PTE_X))
    return "".join(letter if pte & bit else "-" for letter, bit in letters)


def _leaf_text(kernel: Kernel, level: int, pte: int) -> str:
    size = {0: "4 KiB", 1: "2 MiB", 2: "1 GiB"}.get(level, f"{kernel.mode.span(level) >> 30} GiB")
    extra = "".join(
        f" {name}" for name, bit in (("U", PTE_U), ("G", PTE_G), ("A", PTE_A), ("D", PTE_D))
        if pte & bit
    )  # fmt: skip
    return f"{size} leaf {_rights(pte)}{extra}"


def _virtual(kernel: Kernel, va: int, mm: MmStruct) -> What:
    found = What(va, "virtual")
    region = region_of(kernel, va)
    whose = "" if mm == kernel.init_mm else f" of the mm with ASID {mm.asid}"
    found.say("address", f"{va:#018x}: virtual, {region}{whose}", region=region)
    if region in ("vmalloc area", "modules area"):
        _area(kernel, va, found)
    elif region == "vmemmap":
        _struct_page(kernel, va, found)
    if mm != kernel.init_mm and va < kernel.layout.task_size:
        _vma(kernel, va, mm, found)
    try:
        leaf = kernel.pgtable.lookup(mm, va)
    except MmError as e:
        found.say("maps to", f"nothing: {e}", mapped=False)
        return found
    if leaf is None:
        found.say("maps to", "nothing: no valid PTE; an access faults", mapped=False)
        return found
    level, pte_pa, pte = leaf
    pa = (pte_pfn(pte) << PAGE_SHIFT) + (va & kernel.mode.span(level) - 1)
    found.say(
        "maps to",
        f"PA {pa:#x} by the PTE {pte:#x} at PA {pte_pa:#x} ({_leaf_text(kernel, level, pte)})",
        mapped=True,
        pa=pa,
        pte=pte,
        pte_pa=pte_pa,
        level=level,
    )
    if kernel.ram.contains(pa):
        _frame(kernel, pa, found)
    else:
        found.say("frame", f"PA {pa:#x} is no RAM")
    return found


def _area(kernel: Kernel, va: int, found: What) -> None:
    area = kernel.vmalloc_areas.find_area_or_guard(va)
    if area is None:
        found.say("vm_struct", "no area of vmalloc is there", area=None)
        return
    end = area.addr + area.size
    text = f"{area.addr:#x}-{end:#x}, {area.size >> PAGE_SHIFT} pages with the guard page"
    if area.flags & VM_LAZY_FREE:
        text += ": freed, waits for the purge that flushes the TLB"
    else:
        text += f", {'vmap' if area.flags & VM_MAP else 'vmalloc'} by {area.caller}"
        text += f", {area.requested_size} bytes were asked for"
    guard = va >= end - PAGE_SIZE
    found.say(
        "vm_struct",
        text,
        area=area.addr,
        area_size=area.size,
        caller=area.caller,
        guard=guard,
        lazy=bool(area.flags & VM_LAZY_FREE),
    )
    if guard:
        found.say("guard page", "the address is in the area's guard page: an overrun ends here")


def _struct_page(kernel: Kernel, va: int, found: What) -> None:
    space = kernel.space
    if va >= space.vmemmap_end:
        found.say("struct page", "of no frame: beyond the end of RAM")
        return
    pfn = space.start_pfn + ((va - space.vmemmap) >> 6)
    rest = (va - space.vmemmap) & 63
    where = f"+{rest}" if rest else ""
    found.say("struct page", f"that of pfn {pfn:#x}{where}", page_of=pfn)


def _vma(kernel: Kernel, va: int, mm: MmStruct, found: What) -> None:
    vma = kernel.address_spaces.find_vma(mm, va)
    if vma is None or vma.vm_start > va:
        after = "" if vma is None else f"; the next starts at {vma.vm_start:#x} {vma.name}"
        found.say("vma", f"no vm_area_struct holds it{after}", vma=None)
        return
    rights = "".join(
        letter if vma.vm_flags & bit else "-"
        for letter, bit in (("r", VM_READ), ("w", VM_WRITE), ("x", VM_EXEC))
    )
    found.say(
        "vma",
        f"{vma.vm_start:#x}-{vma.vm_end:#x} {rights} {vma.name}".rstrip(),
        vma=vma.vm_start,
        vma_end=vma.vm_end,
        vma_name=vma.name,
    )


# physical addresses


def _physical(kernel: Kernel, pa: int) -> What:
    found = What(pa, "physical")
    if not kernel.ram.contains(pa):
        found.kind = "none"
        found.say(
            "address",
            f"{pa:#x}: no RAM (that is {kernel.ram.base:#x}-{kernel.ram.end:#x}), and no VA of "
            f"the kernel",
        )
        return found
    found.say("address", f"{pa:#x}: physical")
    _frame(kernel, pa, found)
    return found


def _memblock(kernel: Kernel, pa: int, found: What) -> None:
    parts = []
    for name, regions in (
        ("memory", kernel.memblock.memory),
        ("reserved", kernel.memblock.reserved),
    ):
        for i, region in enumerate(regions):
            if region.base <= pa < region.end:
                nomap = " nomap (firmware's)" if region.flags & MEMBLOCK_NOMAP else ""
                parts.append(f"{name}[{i}] {region.base:#x}-{region.end:#x}{nomap}")
                found.facts[f"memblock_{name}"] = (region.base, region.end)
    found.say("memblock", "; ".join(parts) or "in no region")


def _frame(kernel: Kernel, pa: int, found: What) -> None:
    space, u64 = kernel.space, kernel.ram.u64
    pfn = pa >> PAGE_SHIFT
    zone = kernel.page_alloc.page_zone(pfn)
    i = space.page_index(pfn)
    flags = u64[i + W_FLAGS]
    mt = kernel.page_alloc.get_pageblock_migratetype(pfn)
    found.say(
        "frame",
        f"pfn {pfn:#x}, zone {zone.name}, node {zone.node}, pageblock {pfn >> 9:#x} "
        f"({mt.name.capitalize()}), struct page at {space.page_va(pfn):#x}",
        pfn=pfn,
        zone=zone.name,
        migratetype=mt.name,
        page=space.page_va(pfn),
    )
    _memblock(kernel, pa, found)
    if pfn >= space.high_memory >> PAGE_SHIFT:
        found.say("HighMem", "no address in the direct map: kmap gives it one", highmem=True)
    _state(kernel, pa, pfn, zone, i, flags, found)
    _mappings(kernel, pfn, found)


def _state(kernel: Kernel, pa: int, pfn: int, zone: Any, i: int, flags: int, found: What) -> None:
    """What the frame is: free in a block, on a per-CPU list, reserved, or allocated as what."""
    space, u64 = kernel.space, kernel.ram.u64
    if zone.first_deferred_pfn <= pfn < zone.deferred_end_pfn:
        found.say(
            "free",
            "in the zone's deferred range: its struct page was never touched",
            state="free",
            order=10,
        )
        return
    low, high = kernel.memmap_implicit()
    if flags & PG_RESERVED or low <= pfn < high:
        found.say("reserved", f"{_reserved_as(kernel, pa)}; flags {format_flags(flags)}",
                  state="reserved")  # fmt: skip
        return
    head, order, is_free = _head_of(kernel, pfn)
    if head is not None and is_free:
        words = f"a block of order {order} at pfn {head:#x}"
        where = "the buddy's list" if u64[space.page_index(head) + W_TYPE_REF] == BUDDY_WORD else (
            "a per-CPU list"
        )  # fmt: skip
        found.say("free", f"in {words}, on {where}", state="free", order=order, head=head)
        _last_owner(kernel, head, found)
        return
    if head is None:
        found.say("state", "inside of no block: neither free, reserved nor allocated",
                  state="unknown")  # fmt: skip
        return
    h = space.page_index(head)
    word = u64[h + W_TYPE_REF]
    page_type = word & 0xFFFFFFFF
    name = next((n for n, v in PAGE_TYPES.items() if v == page_type >> 24), None)
    gfp = u64[h + W_OWNER] >> 32
    found.say(
        "allocated",
        f"block of order {order} at pfn {head:#x}"
        + (f", frame {pfn - head} of it" if pfn != head else "")
        + f", _refcount {word >> 32}, type {name or 'none'}, flags "
        + f"{format_flags(u64[h + W_FLAGS])}, gfp {gfp:#x}({format_gfp(gfp)})",
        state="allocated",
        order=order,
        head=head,
        refcount=word >> 32,
        type=name,
        gfp=gfp,
        compound=bool(u64[h + W_FLAGS] & PG_HEAD),
    )
    if page_type == PAGE_TYPE_TABLE:
        _table(kernel, pa, found)
    elif page_type == PAGE_TYPE_SLAB:
        _object(kernel, pa, found)
    _last_owner(kernel, head, found)
    _frame_of_area(kernel, pfn, found)


def _head_of(kernel: Kernel, pfn: int) -> tuple[int | None, int, bool]:
    """The block that frame ``pfn`` is in: ``(head's PFN, order, whether it is free)``.

    The head is None when no block around it says so.
    """
    space, u64 = kernel.space, kernel.ram.u64
    for order in range(MAX_PAGE_ORDER + 1):
        head = pfn & -(1 << order)
        if not space.pfn_valid(head):
            break
        i = space.page_index(head)
        word = u64[i + W_TYPE_REF]
        if word == BUDDY_WORD:
            free = u64[i + W_PRIVATE]
            if free <= MAX_PAGE_ORDER and head + (1 << free) > pfn:
                return head, free, True
        elif word >> 32:
            owned = u64[i + W_OWNER] & 0xFFFF
            if owned <= MAX_PAGE_ORDER and head + (1 << owned) > pfn:
                return head, owned, False
    for order in range(4):  # heads of per-CPU lists look like tails but for their link
        head = pfn & -(1 << order)
        if not space.pfn_valid(head):
            break
        i = space.page_index(head)
        link = u64[i + W_LRU_NEXT]
        if u64[i + W_TYPE_REF] == PCP_WORD and link and not link & 1:
            owned = u64[i + W_OWNER] & 0xFFFF
            if owned <= 3 and head + (1 << owned) > pfn:
                return head, owned, True
    return None, 0, False


def _reserved_as(kernel: Kernel, pa: int) -> str:
    """What boot reserved the byte for, by where its structures are."""
    info, space = kernel.vmcoreinfo, kernel.space
    memmap_end = space.memmap_pa + (space.end_pfn - space.start_pfn) * 64
    if space.memmap_pa <= pa < memmap_end:
        pfn = space.start_pfn + ((pa - space.memmap_pa) >> 6)
        return f"the memmap: struct page of pfn {pfn:#x}"
    if info.pa <= pa < info.pa + PAGE_SIZE:
        return "vmcoreinfo"
    if pa < info.pa:
        return "firmware's part of RAM"
    if info.memblock_pa <= pa < info.memblock_pa + (4 * PAGE_SIZE):
        return "memblock's regions"
    if info.zones_pa & ~0xFFF <= pa < (info.pageblock_pa | 0xFFF) + 1:
        return "boot structures: zones, init_mm, pageblock types"
    if info.pa < pa < info.pa + (2 << 20):
        return "the kernel image, or reserved at boot"
    return "reserved at boot"


def _table(kernel: Kernel, pa: int, found: What) -> None:
    """A page table: of which mm, which level, covering what; the PTE that the byte is in."""
    table = pa & -PAGE_SIZE
    i = kernel.space.page_index(pa >> PAGE_SHIFT)
    owner = kernel.ram.u64[i + W_PT_MM]
    try:
        mm = MmStruct(kernel.ram, kernel.pa(owner))
    except (BadAddress, MmError, ValueError):
        found.say("page table", f"of no mm ({owner:#x})", table_of=None)
        return
    whose = "init_mm" if mm == kernel.init_mm else f"the mm with ASID {mm.asid}"
    for at, level, va in kernel.pgtable.tables(kernel.pgtable.root(mm)):
        if at != table:
            continue
        span = kernel.mode.span(level)
        index = (pa - table) >> 3
        entry = va + index * span & (1 << 64) - 1
        if entry >= kernel.layout.task_size:
            entry |= kernel.layout.kernel_start
        pte = kernel.ram.u64[(table - kernel.ram.base >> 3) + index]
        root = " (its root)" if table == kernel.pgtable.root(mm) else ""
        found.say(
            "page table",
            f"of {whose}, level {level}{root}, from VA {va:#x}; entry {index}, for VA "
            f"{entry:#x}, is {pte:#x}",
            table_of=mm.asid,
            table_level=level,
            table_va=va,
            entry=index,
            entry_va=entry,
        )
        return
    found.say("page table", f"of {whose}, but it hangs in no place of its tree", table_of=mm.asid)


def _object(kernel: Kernel, pa: int, found: What) -> None:
    """An object of a slab: cache, index, free or not, what part of it the byte is."""
    va = kernel.va(pa)
    info = kernel.slab.object_info(va)
    if info is None:
        return
    if info.cache is None:
        found.say(
            "slab",
            f"a page of {kernel.slab.KIND.upper()}, which records no caches and no objects",
            cache=None,
        )
        return
    cache = info.cache
    base = kernel.space.pfn_to_virt(info.slab_pfn)
    text = f"cache {cache.name}, slab at {base:#x}, objects of {cache.object_size} bytes every "
    text += f"{cache.size}"
    facts: dict[str, Any] = {"cache": cache.name, "slab": base}
    if info.object is None:
        found.say("slab", f"{text}; {_padding(kernel, cache, va - base)}", object=None, **facts)
        return
    offset = va - info.object
    index = (info.object - base) // cache.size
    state = "allocated" if info.allocated else "free"
    found.say(
        "slab",
        f"{text}; object {index} at {info.object:#x}, {state}, byte {offset} of it",
        object=info.object,
        object_index=index,
        object_state=state,
        offset=offset,
        **facts,
    )
    for label, track in (("allocated by", info.alloc_track), ("freed by", info.free_track)):
        if track is not None and track[0]:
            found.say(label, f"{track[0]:#x}, pid {track[1]}, at jiffies {track[2]}")


def _padding(kernel: Kernel, cache: Any, offset: int) -> str:
    """What a byte of a slab is that is in no object, ``offset`` from the slab's start."""
    if kernel.slab.KIND == "slob":
        return "SLOB does not record where objects start"
    s = cache.struct
    if kernel.slab.KIND == "slab":
        return "colour, index array, debug words or padding"
    index, rest = divmod(offset, s.size)
    if index >= cache.objects_per_slab:
        return "behind the last object: the slab's padding"
    rest -= s.red_left_pad
    if rest < 0:
        return f"in the left red zone of object {index}"
    if rest < s.inuse:
        return f"in the right red zone of object {index}"
    if s.offset <= rest < s.offset + 8:
        return f"in the free pointer of object {index}"
    return f"in the allocator's own data behind object {index} (tracks, padding)"


def _last_owner(kernel: Kernel, head: int | None, found: What) -> None:
    owner = kernel.page_alloc.page_owner
    if owner is None or head is None:
        return
    found.say("page_owner", "")
    found.lines[-1] = found.lines[-1].rstrip()
    found.lines += [f"  {line}" for line in owner.dump(head)]


def _frame_of_area(kernel: Kernel, pfn: int, found: What) -> None:
    """The vmalloc areas whose frame it is, with what their callers are."""
    for va, _, pte in _leaves_of(kernel, kernel.init_mm, pfn):
        area: VmStruct | None = kernel.find_vm_area(va)
        if area is not None and "area" not in found.facts:
            page = pfn - pte_pfn(pte) + ((va - area.addr) >> PAGE_SHIFT)
            found.say(
                "vm_struct",
                f"page {page} of {area.addr:#x}-{area.addr + area.size:#x}, by {area.caller}",
                area=area.addr,
                caller=area.caller,
            )


# where it is mapped


def _leaves_of(kernel: Kernel, mm: MmStruct, pfn: int) -> Iterator[tuple[int, int, int]]:
    """The leaves of ``mm``'s half that map frame ``pfn``: ``(va of the leaf, level, pte)``."""
    first, last = (256, 511) if mm == kernel.init_mm else (0, 255)
    for vas, level, ptes in kernel.pgtable.leaf_arrays(kernel.pgtable.root(mm), first, last):
        frames = (ptes >> np.uint64(10)) & np.uint64((1 << 44) - 1)
        pages = kernel.mode.span(level) >> PAGE_SHIFT
        mine = (frames <= np.uint64(pfn)) & (np.uint64(pfn) < frames + np.uint64(pages))
        for n in mine.nonzero()[0].tolist():
            yield int(vas[n]), level, int(ptes[n])


def mappings(kernel: Kernel, pfn: int) -> list[tuple[MmStruct, int, int, int]]:
    """Every leaf that maps frame ``pfn``: ``(mm, VA of the frame, level, PTE)``, the kernel's
    first, then those of each process."""
    found = []
    for mm in (kernel.init_mm, *kernel.address_spaces.mms()):
        for va, level, pte in _leaves_of(kernel, mm, pfn):
            found.append((mm, va + ((pfn - pte_pfn(pte)) << PAGE_SHIFT), level, pte))
    return found


def _mappings(kernel: Kernel, pfn: int, found: What) -> None:
    every = mappings(kernel, pfn)
    found.facts["mappings"] = [
        {"asid": mm.asid, "va": va, "level": level, "pte": pte} for mm, va, level, pte in every
    ]
    if not every:
        found.say("mapped at", "nowhere")
    for mm, va, level, pte in every[:MAPPINGS_SHOWN]:
        who = "kernel" if mm == kernel.init_mm else f"ASID {mm.asid}"
        text = f"{va:#018x} {who}, {region_of(kernel, va)}, {_leaf_text(kernel, level, pte)}"
        vma = None
        if mm != kernel.init_mm:
            vma = kernel.address_spaces.vma_lookup(mm, va)
        found.say("mapped at", text + (f", {vma.name}" if vma is not None and vma.name else ""))
    if len(every) > MAPPINGS_SHOWN:
        found.say("mapped at", f"and in {len(every) - MAPPINGS_SHOWN} more places")
