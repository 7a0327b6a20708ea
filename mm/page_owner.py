"""page_owner: for every frame, who allocated it last and who freed it last.

One ``struct page_owner`` a frame, in RAM, written when a block is allocated (into each of
its frames) and when it is freed. A stack trace is the chain of Python functions that led to
the allocator, stored as text in the depot (``struct stack_record``, at most
NR_STACK_RECORDS; when it is full the handle is 0, "missing"). Time is a count of these
events: the same run gives the same record.

Source: Linux mm/page_owner.c (set_page_owner, reset_page_owner, __dump_page_owner).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType

from mm.addrspace import Space
from mm.errors import CorruptionError
from mm.gfp import format_gfp, gfp_migratetype
from mm.page import format_flags
from mm.page_ext import (
    NR_STACK_RECORDS,
    PAGE_EXT_OWNER,
    PAGE_EXT_OWNER_ALLOCATED,
    STACK_RECORD_TEXT,
    PageAllocInfo,
    PageOwnerRecord,
    StackRecord,
)
from mm.zone import MAX_PAGE_ORDER, PAGEBLOCK_ORDER

MIGRATETYPE_NAMES = ("Unmovable", "Movable", "Reclaimable", "HighAtomic")
MIGRATE_REASONS = ("compaction",)
MR_COMPACTION = 0
_STACK_DEPTH = 12
_ALLOCATOR = frozenset(
    (
        "mm.buddy",
        "mm.pcp",
        "mm.page_alloc",
        "mm.page_owner",
        "mm.page_poison",
        "mm.page_prep",
        "mm.page_runs",
        "mm.vmscan",
    )
)


class PageOwner:
    """The records of one kernel; ``info`` says where they are."""

    def __init__(self, space: Space, info: PageAllocInfo) -> None:
        self.space = space
        self.ram = space.ram
        self.info = info
        self._handles: dict[str, int] = {}  # derived: the depot by text
        for handle in range(1, min(info.nr_stacks, NR_STACK_RECORDS) + 1):
            self._handles[self.stack(handle)] = handle

    def record(self, pfn: int) -> PageOwnerRecord:
        """The record of frame ``pfn``, which must be a frame of RAM."""
        at = self.info.page_owner_pa + (pfn - self.space.start_pfn) * PageOwnerRecord.SIZE
        return PageOwnerRecord(self.ram, at)

    def _depot(self, handle: int) -> StackRecord:
        return StackRecord(self.ram, self.info.stack_depot_pa + (handle - 1) * StackRecord.SIZE)

    def stack(self, handle: int) -> str:
        """The call chain behind a handle, a name a line; empty for handle 0."""
        return self._depot(handle).text if 0 < handle <= self.info.nr_stacks else ""

    def _save_stack(self) -> int:
        text = _stack_text()
        handle = self._handles.get(text, 0)
        if not handle:
            if self.info.nr_stacks >= NR_STACK_RECORDS:
                return 0
            handle = self.info.nr_stacks + 1
            self.info.nr_stacks = handle
            self._depot(handle).text = text
            self._handles[text] = handle
        self._depot(handle).hits += 1
        return handle

    def _tick(self) -> int:
        self.info.page_clock += 1
        return self.info.page_clock

    def set_page_owner(self, pfn: int, count: int, order: int, gfp: int) -> None:
        """``count`` frames from ``pfn`` were allocated, in blocks of 2^order."""
        record = self.record(pfn)
        record.flags = PAGE_EXT_OWNER | PAGE_EXT_OWNER_ALLOCATED
        record.order, record.last_migrate_reason, record.gfp_mask = order, -1, gfp
        record.handle, record.ts_nsec = self._save_stack(), self._tick()
        record.comm = self.info.current_comm
        record.pid, record.tgid = self.info.current_pid, self.info.current_tgid
        table = self.ram.array(record.pa, count, PageOwnerRecord.dtype())
        for name in (
            "flags", "order", "last_migrate_reason", "gfp_mask", "handle", "ts_nsec", "comm",
            "pid", "tgid",
        ):  # fmt: skip
            table[name] = table[name][0]

    def reset_page_owner(self, pfn: int, count: int) -> None:
        """``count`` frames from ``pfn`` were freed."""
        record = self.record(pfn)
        handle, now = self._save_stack(), self._tick()
        table = self.ram.array(record.pa, count, PageOwnerRecord.dtype())
        table["flags"] &= ~PAGE_EXT_OWNER_ALLOCATED & 0xFF
        table["free_handle"], table["free_ts_nsec"] = handle, now
        table["free_pid"], table["free_tgid"] = self.info.current_pid, self.info.current_tgid

    def split_page_owner(self, pfn: int, count: int) -> None:
        """``count`` frames from ``pfn`` are single pages now (split_page_owner)."""
        self.ram.array(self.record(pfn).pa, count, PageOwnerRecord.dtype())["order"] = 0

    def copy_owner(self, old: int, new: int) -> None:
        """The contents of frame ``old`` moved to ``new`` (folio_copy_owner)."""
        size = PageOwnerRecord.SIZE
        self.ram.write(self.record(new).pa, self.ram.read(self.record(old).pa, size))
        self.record(new).last_migrate_reason = MR_COMPACTION

    def dump(self, pfn: int) -> Iterator[str]:
        """What Linux prints of it under a page dump (__dump_page_owner)."""
        r = self.record(pfn)
        if not r.flags & PAGE_EXT_OWNER:
            yield "page_owner info is not present (never set?)"
            return
        state = "allocated" if r.flags & PAGE_EXT_OWNER_ALLOCATED else "freed"
        yield f"page_owner tracks the page as {state}"
        yield (
            f"page last allocated via order {r.order}, migratetype "
            f"{MIGRATETYPE_NAMES[gfp_migratetype(r.gfp_mask)]}, gfp_mask {r.gfp_mask:#x}"
            f"({format_gfp(r.gfp_mask)}), pid {r.pid}, tgid {r.tgid} ({r.comm}), "
            f"ts {r.ts_nsec}, free_ts {r.free_ts_nsec}"
        )
        if r.handle:
            yield from (f" {name}" for name in self.stack(r.handle).splitlines())
        else:
            yield "page_owner allocation stack trace missing"
        if r.free_handle:
            yield f"page last free pid {r.free_pid} tgid {r.free_tgid} stack trace:"
            yield from (f" {name}" for name in self.stack(r.free_handle).splitlines())
        else:
            yield "page_owner free stack trace missing"
        if r.last_migrate_reason != -1:
            reason = _migrate_reason(r)
            yield f"page has been migrated, last migrate reason: {reason}"

    def lines(self, pfn: int, block_type: int, flags: int) -> list[str]:
        """The lines of one allocated block in /proc's page_owner (print_page_owner).

        ``block_type``: the migratetype of its pageblock; ``flags``: its struct page's.
        """
        r = self.record(pfn)
        found = [
            f"Page allocated via order {r.order}, mask {r.gfp_mask:#x}({format_gfp(r.gfp_mask)}), "
            f"pid {r.pid}, tgid {r.tgid} ({r.comm}), ts {r.ts_nsec} ns",
            f"PFN {pfn:#x} type {MIGRATETYPE_NAMES[gfp_migratetype(r.gfp_mask)]} "
            f"Block {pfn >> PAGEBLOCK_ORDER} type {MIGRATETYPE_NAMES[block_type]} "
            f"Flags {format_flags(flags)}",
        ]
        found += [f" {name}" for name in self.stack(r.handle).splitlines()]
        if r.last_migrate_reason != -1:
            reason = _migrate_reason(r)
            found.append(f"Page has been migrated, last migrate reason: {reason}")
        return found

    def allocated(self) -> Iterator[int]:
        """PFNs of the heads of all recorded blocks that are allocated, ascending."""
        frames = self.space.end_pfn - self.space.start_pfn
        table = self.ram.array(self.info.page_owner_pa, frames, PageOwnerRecord.dtype())
        at = (table["flags"] & PAGE_EXT_OWNER_ALLOCATED).nonzero()[0].tolist()
        end = 0
        for i in at:
            if i >= end:
                yield self.space.start_pfn + i
                order = int(table["order"][i])
                if order > MAX_PAGE_ORDER:
                    pa = self.record(self.space.start_pfn + i).pa
                    raise CorruptionError("page_owner", pa, f"order {order}")
                end = i + (1 << order)


def _migrate_reason(record: PageOwnerRecord) -> str:
    reason = record.last_migrate_reason
    if not 0 <= reason < len(MIGRATE_REASONS):
        raise CorruptionError(record.C_NAME, record.pa, f"last_migrate_reason {reason}")
    return MIGRATE_REASONS[reason]


def _stack_text() -> str:
    """The functions of this project that are being called, from above the allocator out to
    and with the first one that is not the project's."""
    frame: FrameType | None = sys._getframe(2)
    names: list[str] = []
    room = STACK_RECORD_TEXT - 1
    while frame is not None and len(names) < _STACK_DEPTH:
        module = frame.f_globals.get("__name__", "")
        if module not in _ALLOCATOR:
            name = frame.f_code.co_qualname
            room -= len(name) + 1
            if room < 0:
                break
            names.append(name)
            if not module.startswith(("mm.", "guest.")):
                break
        frame = frame.f_back
    return "\n".join(names)
