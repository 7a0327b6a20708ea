"""What all caches of a kernel share: RAM, the page allocator, hooks, reports, and the arithmetic
between objects and their slabs.

A slab is named by the word index ``i`` of its head's struct page in ``ram.u64``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from emu.ram import PAGE_SHIFT
from mm.addrspace import KERNEL_LINK_ADDR, PAGE_STRUCT_SHIFT, Space
from mm.errors import CorruptionError
from mm.lists import Lists
from mm.page import PG_HEAD, SLAB_WORD, W_TYPE_REF, format_flags
from mm.page_alloc import PageAllocator
from mm.page_ext import PageAllocInfo
from mm.slab.options import parse_slub_debug
from mm.slab.structs import (
    OPTION_HARDENED,
    OPTION_NOMERGE,
    W_COUNTERS,
    W_FREELIST,
    SlabRoot,
)
from mm.zone import MAX_PAGE_ORDER

Constructor = Callable[[int], None]  # called with the VA of each object of a new slab
TAINT_BAD_PAGE = 1 << 5


class FailSlab(Protocol):
    """should_failslab: whether this allocation shall fail (fault injection)."""

    def __call__(self, cache_name: str, cache_flags: int, gfp: int, size: int) -> bool: ...


class LeakTracker(Protocol):
    """Who records every allocation (kmemleak). ``va``: of the object; ``size`` in bytes."""

    def alloc(self, va: int, size: int) -> None: ...
    def free(self, va: int) -> None: ...


class SlabCore:
    """The part of a kernel that its slab allocator and every cache work with.

    ``root`` is its part of vmcoreinfo; ``task`` says who the current task is; ``printk``
    takes the lines of reports.
    """

    def __init__(
        self,
        space: Space,
        lists: Lists,
        page_alloc: PageAllocator,
        root: SlabRoot,
        task: PageAllocInfo,
        printk: Callable[[str], None],
    ) -> None:
        self.space = space
        self.ram = space.ram
        self.lists = lists
        self.page_alloc = page_alloc
        self.root = root
        self.task = task
        self.printk = printk
        text = root.slub_debug
        try:
            self.debug = parse_slub_debug(text) if text else []
        except ValueError as e:
            raise CorruptionError("slab_root", root.pa, f"slub_debug: {e}") from None
        self.ctors: dict[int, Constructor] = {}
        self.dtors: dict[int, Constructor] = {}
        self.failslab: FailSlab | None = None
        self.kmemleak: LeakTracker | None = None
        self.hooked = False
        # Of whoever calls, for SLAB_STORE_USER and kmemleak: set before a call.
        self.caller = KERNEL_LINK_ADDR
        self.errors = 0  # reports since a validate() began
        # Frees the cache whose struct is at a VA: set by who has them all.
        self.destroy_cache: Callable[[int], None] = lambda va: None
        self._memmap = space.memmap_index

    # vmcoreinfo

    @property
    def nomerge(self) -> bool:
        """slab_nomerge: never merge caches."""
        return bool(self.root.options & OPTION_NOMERGE)

    @property
    def hardened(self) -> bool:
        """CONFIG_SLAB_FREELIST_HARDENED: free pointers are stored xored."""
        return bool(self.root.options & OPTION_HARDENED)

    @property
    def tainted(self) -> int:
        """The kernel's taint bits."""
        return self.root.tainted

    @property
    def jiffies(self) -> int:
        """The kernel's clock as it stamps tracks: whoever has a timer counts it up."""
        return self.root.jiffies

    @property
    def pid(self) -> int:
        """The current task's."""
        return self.task.current_pid

    @property
    def comm(self) -> str:
        """The current task's name."""
        return self.task.current_comm or "swapper"

    # objects and slabs

    def slab_index(self, va: int) -> int:
        """The word index of the head struct page of the slab around a direct-map address;
        -1 if it is in no slab."""
        i = va - self.space.page_offset
        if not 0 <= i < self.space.direct_end - self.space.page_offset:
            return -1
        u64 = self.ram.u64
        i = self._memmap + (i >> PAGE_SHIFT << 3)
        head = u64[i + 1]
        if head & 1:  # a tail: compound_head
            page = head - 1 - self.space.vmemmap
            if page & 63 or not 0 <= page < self.space.vmemmap_end - self.space.vmemmap:
                return -1
            i = self._memmap + (page >> PAGE_STRUCT_SHIFT << 3)
        return i if u64[i + W_TYPE_REF] == SLAB_WORD else -1

    def slab_pfn(self, va: int) -> int | None:
        """The PFN of the head of the slab that ``va`` lies in, None if in no slab."""
        i = self.slab_index(va)
        return None if i < 0 else self.pfn(i)

    def pfn(self, i: int) -> int:
        """The PFN of a slab's head."""
        return self.space.start_pfn + ((i - self._memmap) >> 3)

    def page_va(self, i: int) -> int:
        """The VA of a slab's head struct page."""
        return self.space.vmemmap + ((i - self._memmap) << 3)

    def slab_base(self, i: int) -> int:
        """The VA of the first byte of a slab."""
        return self.space.page_offset + ((i - self._memmap) << (PAGE_SHIFT - 3))

    def slab_order(self, i: int) -> int:
        """The order of a slab. Raises CorruptionError."""
        order = self.ram.u64[i + 8] & 0xFF if self.ram.u64[i] & PG_HEAD else 0
        if order > MAX_PAGE_ORDER:
            raise CorruptionError("slab", self.page_va(i), f"its order is {order}")
        return order

    # reports

    def print_tainted(self) -> str:
        """As in every report's first line (print_tainted)."""
        if not self.tainted:
            return "Not tainted"
        letters = (
            "G"
            + "".join(
                c if self.tainted >> bit & 1 else " " for bit, c in enumerate("PFSRMBUDAWCIOELKXTN")
            )[1:]
        )
        return f"Tainted: {letters}"

    def slab_bug(self, name: str, text: str) -> None:
        """The head of a report."""
        self.printk("=" * 77)
        self.printk(f"BUG {name} ({self.print_tainted()}): {text}")
        self.printk("-" * 77)
        self.printk("")

    def slab_err(self, name: str, i: int, text: str) -> None:
        """A report on a slab of the cache ``name``; the kernel is tainted."""
        self.slab_bug(name, text)
        self.print_slab_info(i)
        self.add_taint()

    def add_taint(self) -> None:
        """TAINT_BAD_PAGE."""
        self.root.tainted |= TAINT_BAD_PAGE

    def print_slab_info(self, i: int) -> None:
        """The line about a slab in every report."""
        u64 = self.ram.u64
        counters = u64[i + W_COUNTERS]
        self.printk(
            f"Slab {self.page_va(i):#018x} objects={counters >> 16 & 0x7FFF} "
            f"used={counters & 0xFFFF} "
            f"fp={u64[i + W_FREELIST]:#018x} flags={format_flags(u64[i])}"
        )


def print_hex_dump(prefix: str, va: int, data: bytes) -> list[str]:
    """print_hex_dump(prefix, DUMP_PREFIX_ADDRESS, 16, 1, ..., ascii): lines of 16 bytes."""
    lines = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        lines.append(f"{prefix}{va + at:016x}: {' '.join(f'{b:02x}' for b in row):<47}  {text}")
    return lines
