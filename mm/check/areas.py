"""mm.check's rules for vmalloc: areas, their frames and the pages that map them."""

from __future__ import annotations

import numpy as np

from emu.spec.paging import PAGE_SHIFT
from mm.addrspace import MODULES_END, MODULES_VADDR
from mm.check.frames import Array, Frames
from mm.check.tables import Leaves
from mm.errors import CheckError
from mm.vm_struct import (
    MAX_AREAS,
    VM_ALLOC,
    VM_LAZY_FREE,
    VM_MAP_PUT_PAGES,
    VM_UNINITIALIZED,
    VmStruct,
)

PURGE_LINK = VmStruct.offset_of("purge_list")


def check_areas(frames: Frames, kernel: list[Leaves]) -> None:
    """Every area, its pages and what maps them; ``kernel``: the leaves of init_mm."""
    k = frames.k
    v = k.vmalloc_areas
    links = frames.walk("vm_struct", v.vmap_area_list, MAX_AREAS)
    lazy = {n - PURGE_LINK for n in frames.walk("vm_struct", v.purge_list, MAX_AREAS)}
    vas, pfns = _area_leaves(frames, kernel)
    at, done, lazy_pages = 0, 0, 0
    owned: list[Array] = []
    for link in links:
        area = VmStruct(frames.ram, k.lists.resolve(link))
        if area.addr < at:
            raise CheckError("vm_struct", link, "areas are sorted and do not overlap")
        at = area.addr + area.size
        pages = (area.size >> PAGE_SHIFT) - 1
        if area.addr & 0xFFF or area.size & 0xFFF or pages < 1:
            raise CheckError("vm_struct", link, "size is that of the pages and one guard page")
        if not any(low <= area.addr and at <= high for low, high in _area_ranges(frames)):
            raise CheckError("vm_struct", link, "an area lies in vmalloc's or modules' range")
        low, guard, high = (
            int(np.searchsorted(vas, np.uint64(x))) for x in (area.addr, at - (1 << PAGE_SHIFT), at)
        )
        _in_no_area(vas[done:low])
        done = high
        if guard < high:
            raise CheckError("vm_struct", link, "the guard page is not mapped")
        is_lazy = bool(area.flags & VM_LAZY_FREE)
        if is_lazy != (link in lazy):
            raise CheckError("vm_struct", link, "VM_LAZY_FREE iff it is on the purge list")
        if is_lazy:
            lazy_pages += pages + 1
            if low < high or area.pages or area.nr_pages:
                raise CheckError("vm_struct", link, "a lazily freed area maps and owns nothing")
            continue
        if area.flags & VM_UNINITIALIZED:
            raise CheckError("vm_struct", link, "an area is not left half made")
        if area.flags & VM_ALLOC or area.flags & VM_MAP_PUT_PAGES:
            if area.nr_pages != pages:
                raise CheckError("vm_struct", link, "size is that of the pages and one guard page")
            own = np.array(v.pages_of(area), dtype=np.int64)
            owned.append(own)
            _maps_its_pages(link, area.addr, own, vas[low:guard], pfns[low:guard])
        elif guard - low != pages:
            raise CheckError("vm_struct", link, "every page of an area is mapped")
        frames.report.vm_areas += 1
    _in_no_area(vas[done:])
    if lazy - set(links):
        raise CheckError("vm_struct", min(lazy - set(links)), "it waits for a purge, unlisted")
    if v.lazy_pages != lazy_pages:
        raise CheckError(
            "vmcoreinfo",
            k.vmcoreinfo.pa,
            f"vmap_lazy_nr is {v.lazy_pages}, {lazy_pages} pages wait for a purge",
        )
    every = np.sort(np.concatenate(owned)) if owned else np.zeros(0, np.int64)
    twice = every[1:][np.diff(every) == 0]
    if len(twice):
        raise frames.page_error(int(twice[0]), "a frame belongs to one area of vmalloc")


def _maps_its_pages(link: int, addr: int, own: Array, vas: Array, pfns: Array) -> None:
    """What is mapped in an area at ``addr``, ``pfns`` at ``vas``, are the frames ``own``."""
    if len(vas) == len(own) and not (pfns != own).any():
        return
    mapped = dict(zip(vas.tolist(), pfns.tolist(), strict=True))
    expected = [addr + (i << PAGE_SHIFT) for i in range(len(own))]
    i = next(i for i, va in enumerate(expected) if mapped.get(va) != own[i])
    raise CheckError("vm_struct", link, f"{expected[i]:#x} maps pages[{i}]")


def _area_ranges(frames: Frames) -> tuple[tuple[int, int], tuple[int, int]]:
    layout = frames.space.layout
    return (layout.vmalloc_start, layout.vmalloc_end), (MODULES_VADDR, MODULES_END)


def _area_leaves(frames: Frames, kernel: list[Leaves]) -> tuple[Array, Array]:
    """Every page mapped in the vmalloc and modules ranges: VAs, sorted, and PFNs."""
    all_vas, all_pfns = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for leaves in kernel:
        mine = np.zeros(len(leaves.vas), dtype=bool)
        for low, high in _area_ranges(frames):
            mine |= (leaves.vas >= np.uint64(low)) & (leaves.vas < np.uint64(high))
        some = leaves.where(mine)
        step = np.arange(some.pages, dtype=np.int64)
        offsets = step.astype(np.uint64) << np.uint64(PAGE_SHIFT)
        all_vas.append((some.vas[:, None] + offsets).ravel())
        all_pfns.append((some.pfns[:, None] + step).ravel())
    vas, pfns = np.concatenate(all_vas), np.concatenate(all_pfns)
    order = vas.argsort()
    return vas[order], pfns[order]


def _in_no_area(vas: Array) -> None:
    if len(vas):
        raise CheckError("pte", int(vas[0]), "a page of vmalloc's ranges lies in an area")
