"""kmemleak: a scan of RAM that names the objects nobody points to.

Roots are what the kernel itself has: the data of its image, vmcoreinfo, the pages of vmalloc
and module areas (stacks, module data), and the lists in the structures of the memory
manager. Every 8 bytes of them that hold an address in an object make it referenced; the
objects so found are searched in turn, until nothing new comes up. What is left is
unreferenced. The search is conservative, as any number may look like a pointer.

Which objects there are is known from the slabs themselves: all that is handed out. Booted
with ``Config.kmemleak``, every allocation is also recorded in RAM, with its size, task and
time, in objects of a cache of its own; large kmallocs, and everything under SLOB, are known
that way only. Then per-CPU freelists that guest code pops from are kept empty.

    slab_root.kmemleak_object_list <-> kmemleak_object <-> kmemleak_object <-> ...

Source: Linux mm/kmemleak.c (kmemleak_scan, print_unreferenced).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from emu.ram import PAGE_SHIFT, PAGE_SIZE, Ram
from mm.addrspace import Space
from mm.errors import SlabError
from mm.gfp import GFP_NOWARN
from mm.layout import ListHead, Struct, chars, nested, ptr, s32, u64
from mm.lists import Lists
from mm.memblock import Memblock
from mm.pgtable import MmStruct
from mm.slab import SLAB_NOLEAKTRACE, KmemCache, SlabAllocator
from mm.slab.flags import SLAB_STORE_USER
from mm.slab.structs import KmemCacheStruct, SlabRoot
from mm.vmalloc import Vmalloc
from mm.vmcoreinfo import Vmcoreinfo

HEX_MAX_LINES = 2
MAX_OBJECTS = 1 << 24
_GFP = 0x2800 | GFP_NOWARN  # GFP_NOWAIT


class KmemleakObject(Struct, c_name="kmemleak_object"):
    """The record of one allocation. ``size`` in bytes."""

    list = nested(ListHead)
    pointer = ptr()
    size = u64()
    jiffies = u64()
    pid = s32()
    comm = chars(16)

    def problem(self, space: Space) -> str | None:
        end = self.pointer + self.size
        if not space.page_offset <= self.pointer < end <= space.direct_end:
            return f"pointer {self.pointer:#x}, size {self.size:#x}: no object of RAM"
        return None


@dataclass(frozen=True)
class Unreferenced:
    """An object that nothing points to. ``pid``, ``comm`` and ``jiffies`` are those of its
    allocation where that is recorded, else 0 and "unknown"."""

    pointer: int
    size: int
    comm: str
    pid: int
    jiffies: int
    data: bytes

    def report(self) -> str:
        """print_unreferenced's text."""
        lines = [
            f"unreferenced object 0x{self.pointer:08x} (size {self.size}):",
            f'  comm "{self.comm}", pid {self.pid}, jiffies {self.jiffies}',
            f"  hex dump (first {len(self.data)} bytes):",
        ]
        for at in range(0, len(self.data), 16):
            row = self.data[at : at + 16]
            text = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
            lines.append(f"    {' '.join(f'{b:02x}' for b in row):<47}  {text}")
        return "\n".join(lines) + "\n"


class Searched(Protocol):
    """A kernel, as far as the scan needs it."""

    ram: Ram
    space: Space
    lists: Lists
    memblock: Memblock
    slab: SlabAllocator
    vmcoreinfo: Vmcoreinfo
    vmalloc_areas: Vmalloc
    init_mm: MmStruct

    def va(self, pa: int) -> int: ...
    def pa(self, va: int) -> int: ...


class Kmemleak:
    """The records (if the machine was booted with them), and the scan."""

    def __init__(self, kernel: Searched) -> None:
        self.kernel = kernel
        self.slab = kernel.slab
        self.root = kernel.vmcoreinfo.slab_root
        self.head = kernel.va(self.root.pa + SlabRoot.offset_of("kmemleak_object_list"))
        self.cache: KmemCache | None = None
        self._records: dict[int, int] = {}  # derived: pointer -> VA of its record
        if self.root.kmemleak_cachep:
            self._start(self.slab.cache_at(self.root.kmemleak_cachep))

    def enable(self) -> None:
        """Record every allocation from now on, at boot. Raises OutOfMemory."""
        self.kernel.lists.init(self.head)
        cache = self.slab.create("kmemleak_object", KmemleakObject.SIZE, 0, SLAB_NOLEAKTRACE)
        self.root.kmemleak_cachep = cache.va
        self._start(cache)

    def _start(self, cache: KmemCache) -> None:
        self.cache = cache
        for link in self.kernel.lists.walk(self.head, MAX_OBJECTS):
            record = KmemleakObject.at(self.kernel.space, link)
            self._records[record.pointer] = link
        self.slab.set_kmemleak(self)

    # records

    def alloc(self, va: int, size: int) -> None:
        """kmemleak_alloc. Without memory for the record the object is not known."""
        if self.cache is None:
            return
        link = self.cache.alloc_unhooked(_GFP, 0)
        if link is None:
            return
        record = KmemleakObject(self.kernel.ram, self.kernel.pa(link))
        record.pointer, record.size, record.jiffies = va, size, self.slab.core.jiffies
        record.pid, record.comm = self.slab.core.pid, self.slab.core.comm
        self.kernel.lists.add_tail(link, self.head)
        self._records[va] = link

    def free(self, va: int) -> None:
        """kmemleak_free; nothing if the object is not known."""
        link = self._records.pop(va, None)
        if link is not None and self.cache is not None:
            self.kernel.lists.delete(link)
            self.cache.free(link)

    def objects(self) -> list[tuple[int, int, str, int, int]]:
        """(pointer, size, comm, pid, jiffies) of every object there is, by address.

        Raises SlabError under SLOB without records, and for a corrupt slab.
        """
        known: dict[int, tuple[int, int, str, int, int]] = {}
        if self.cache is not None:
            for link in self.kernel.lists.walk(self.head, MAX_OBJECTS):
                r = KmemleakObject.at(self.kernel.space, link)
                known[r.pointer] = r.pointer, r.size, r.comm, r.pid, r.jiffies
        elif self.slab.KIND == "slob":
            raise SlabError("SLOB does not know its objects: boot with kmemleak to have them")
        if self.slab.KIND != "slob":
            # What no record tells of: allocated before, or popped by guest code.
            for cache in self.slab.caches():
                if cache.struct.flags & SLAB_NOLEAKTRACE:
                    continue
                for va in cache.live_objects():
                    if va not in known:
                        known[va] = self._from_slab(cache, va)
        return [known[va] for va in sorted(known)]

    def _from_slab(self, cache: KmemCache, va: int) -> tuple[int, int, str, int, int]:
        info = self.slab.object_info(va) if cache.struct.flags & SLAB_STORE_USER else None
        _, pid, when = (info and info.alloc_track) or (0, 0, 0)
        return va, cache.object_size, "unknown", pid, when

    # the scan

    def scan(self) -> list[Unreferenced]:
        """kmemleak_scan: the objects that nothing points to, by address.

        Raises SlabError as objects().
        """
        objects = self.objects()
        starts = np.array([o[0] for o in objects], dtype=np.uint64)
        ends = np.array([o[0] + max(o[1], 1) for o in objects], dtype=np.uint64)
        seen = np.zeros(len(objects), dtype=bool)
        gray: list[int] = []

        def look(words: npt.NDArray[Any]) -> None:
            if not len(starts):
                return
            words = words[(words >= starts[0]) & (words < ends[-1])]
            at = np.searchsorted(starts, words, side="right") - 1
            hit = np.unique(at[(at >= 0) & (words < ends[at])])
            new = hit[~seen[hit]]
            seen[new] = True
            gray.extend(new.tolist())

        for pa, size in self._roots():
            look(self._words(pa, size))
        caches = {cache.va for cache in self.slab.caches()}
        while gray:
            pointer, size, *_ = objects[gray.pop()]
            if pointer in caches:  # not SLAB's stack of objects behind it
                size = KmemCacheStruct.SIZE
            look(self._words(self.kernel.pa(pointer), size))
        left = []
        for (pointer, size, comm, pid, when), is_seen in zip(objects, seen.tolist(), strict=True):
            if not is_seen:
                shown = self.kernel.ram.read(self.kernel.pa(pointer), min(size, 16 * HEX_MAX_LINES))
                left.append(Unreferenced(pointer, size, comm, pid, when, shown))
        return left

    def _words(self, pa: int, size: int) -> npt.NDArray[Any]:
        start = -(-pa // 8) * 8
        return self.kernel.ram.array(start, max(pa + size - start, 0) // 8)

    def _roots(self) -> list[tuple[int, int]]:
        """(PA, bytes) of what is searched from the start."""
        k = self.kernel
        info = k.vmcoreinfo
        roots = [(info.pa, PAGE_SIZE), (k.init_mm.pa, k.init_mm.SIZE)]
        # The image: what is reserved of RAM right behind vmcoreinfo.
        for region in k.memblock.reserved:
            start = max(region.base, info.pa + PAGE_SIZE)
            if region.base <= info.pa + PAGE_SIZE <= region.end and start < region.end:
                roots.append((start, region.end - start))
        for area in k.vmalloc_areas.areas:
            if area.pages:
                roots += [(pfn << PAGE_SHIFT, PAGE_SIZE) for pfn in k.vmalloc_areas.pages_of(area)]
        # Off-slab index arrays of SLAB hang on their struct slab.
        for cache in self.slab.caches():
            roots += [(pa, 8) for pa in cache.freelist_words()]
        return roots
