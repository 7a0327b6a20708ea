"""Building, changing and tearing down page tables in RAM, for Sv39, Sv48 and Sv57 alike.

The work is done in pgtable_map.py (mapping) and pgtable_change.py (unmapping, protecting), on
pgtable_ops.py (a table, a PTE).

**Owners.** Every table frame is a ``ptdesc`` (page_type table) whose ``pt_mm`` points to the
``mm_struct`` it belongs to. The tables of the kernel half belong to init_mm alone; process
roots copy its root entries once. The second-level tables of the vmalloc and modules areas
are therefore made at boot and never freed, and should a root entry of init_mm change after
all (a 1 GiB leaf of Sv39's direct map is split), every root on the mm list gets the copy.

**Flushes owed** (privileged spec, section on SFENCE.VMA), performed through HartOps:

| change | flush |
|---|---|
| invalid -> valid | none (an implementation may fault spuriously, Unicorn does not) |
| valid leaf changed or cleared, at most TLB_FLUSH_ALL_THRESHOLD leaves | each page |
| more leaves, or a table unlinked (a page flush orders leaf PTEs only) | ASID; kernel: all |
| superpage split, same translation | none |
| frames become executable, or stop being so | icache, by runs of frames |

Frames of tables go back to the page allocator after the flush, as do those of pages, which are the
caller's. VAs, PAs and sizes are in bytes, multiples of a page.
"""

from __future__ import annotations

from emu.spec.paging import PTE_G, PTE_R, PTE_U, PTE_W, PTE_X, PagingMode
from mm.addrspace import Space
from mm.hart import HartOps
from mm.lists import Lists
from mm.mm_struct import MAX_MMS as MAX_MMS
from mm.mm_struct import MmStruct as MmStruct
from mm.page_alloc import PageAllocator
from mm.pgtable_change import TLB_FLUSH_ALL_THRESHOLD as TLB_FLUSH_ALL_THRESHOLD
from mm.pgtable_change import RangeChanger
from mm.pgtable_map import RangeMapper
from mm.pgtable_ops import PAGE_BASE, PgtableOps
from mm.pgtable_ops import Runs as Runs
from mm.pgtable_ops import runs_of as runs_of

PAGE_NONE = 0
PAGE_READ = PAGE_BASE | PTE_U | PTE_R
PAGE_WRITE = PAGE_BASE | PTE_U | PTE_R | PTE_W
PAGE_EXEC = PAGE_BASE | PTE_U | PTE_R | PTE_X
PAGE_EXEC_ONLY = PAGE_BASE | PTE_U | PTE_X
PAGE_KERNEL = PAGE_BASE | PTE_G | PTE_R | PTE_W
PAGE_KERNEL_READ = PAGE_BASE | PTE_G | PTE_R
PAGE_KERNEL_EXEC = PAGE_BASE | PTE_G | PTE_R | PTE_X


class PageTables:
    """Page-table operations of one kernel.

    ``init_mm``: the kernel's own mm_struct; ``mmlist``: VA of the head of all others.
    """

    def __init__(
        self,
        space: Space,
        lists: Lists,
        page_alloc: PageAllocator,
        hart: HartOps,
        init_mm: MmStruct,
        mmlist: int,
    ) -> None:
        self.space = space
        self.ram = space.ram
        self.mode: PagingMode = space.layout.mode
        self.lists = lists
        self.hart = hart
        self.init_mm = init_mm
        self.ops = ops = PgtableOps(space, lists, page_alloc, init_mm, mmlist)
        mapper, changer = RangeMapper(ops, hart), RangeChanger(ops, hart)
        # roots
        self.pgd_alloc = ops.pgd_alloc
        self.pgd_free = ops.pgd_free
        self.root = ops.root
        self.satp = ops.satp
        self.preallocate_pgd_range = ops.preallocate_pgd_range
        # changing
        self.check_range = ops.check_range
        self.check_prot = ops.check_prot
        self.map_range = mapper.map_range
        self.map_pages = mapper.map_pages
        self.map_runs = mapper.map_runs
        self.unmap_range = changer.unmap_range
        self.protect_range = changer.protect_range
        self.vunmap_range_noflush = changer.vunmap_range_noflush
        self.unlink_empty_tables = changer.unlink_empty_tables
        self.free_tables = changer.free_tables
        # reading
        self.lookup = ops.lookup
        self.tables = ops.tables
        self.leaf_arrays = ops.leaf_arrays
        self.leaves = ops.leaves
