"""What the page allocator keeps in RAM beside struct page and the zones.

``struct page_alloc_info`` lies in vmcoreinfo and says where the rest is; every pointer in it
is 0 for what the machine was booted without:

    page_owner   struct page_owner[frames]   who allocated and who freed each frame
    stack_depot  struct stack_record[]       the call chains that page_owner's handles name
    page_poison  uint8_t[frames]             1: the frame was filled with 0xaa when it was freed
    pkmap        struct pkmap                the kmap slots of a machine with HighMem

All are reserved at boot. Source: Linux mm/page_ext.c, page_owner.c, lib/stackdepot.c.
"""

from __future__ import annotations

from mm.layout import Struct, chars, ptr, ptr_array, s16, s32, u16, u32, u64, u64_array
from mm.mmzone import MAX_NR_ZONES

TASK_COMM_LEN = 16
STACK_RECORD_TEXT = 184
NR_STACK_RECORDS = 1024
LAST_PKMAP = 512  # kmap slots: one table of PTEs

PAGE_EXT_OWNER = 1
PAGE_EXT_OWNER_ALLOCATED = 2


class PageAllocInfo(Struct, c_name="page_alloc_info"):
    """State of the page allocator that is not a zone's."""

    node_zones = ptr_array("struct zone", MAX_NR_ZONES)  # by zone number; 0: no such zone
    page_group_by_mobility_disabled = u64()
    high_memory = u64()  # PA of the first byte that the direct map does not show
    min_free_kbytes = u64()
    current_pid = s32()  # the task on whose behalf the kernel works
    current_tgid = s32()
    current_comm = chars(TASK_COMM_LEN)
    page_clock = u64()  # page_owner's time: events so far, taken as nanoseconds
    nr_stacks = u64()
    page_owner = ptr("struct page_owner")
    page_owner_pa = u64()
    stack_depot = ptr("struct stack_record")
    stack_depot_pa = u64()
    page_poison = ptr("uint8_t")
    page_poison_pa = u64()
    pkmap = ptr("struct pkmap")
    pkmap_pa = u64()


class PageOwnerRecord(Struct, c_name="page_owner"):
    """One frame's history."""

    flags = u64()  # PAGE_EXT_
    order = u16()
    last_migrate_reason = s16()
    gfp_mask = u32()
    handle = u32()
    free_handle = u32()
    ts_nsec = u64()
    free_ts_nsec = u64()
    comm = chars(TASK_COMM_LEN)
    pid = s32()
    tgid = s32()
    free_pid = s32()
    free_tgid = s32()


class StackRecord(Struct, c_name="stack_record"):
    """One call chain, innermost first, a name a line."""

    hits = u64()
    text = chars(STACK_RECORD_TEXT)


class Pkmap(Struct, c_name="pkmap"):
    """The slots of kmap. ``count``: 0 free, 1 mapped and unused, n + 1 used n times."""

    last_nr = u64()
    count = u64_array(LAST_PKMAP)
