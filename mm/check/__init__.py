"""One checker for every invariant of the memory manager, over RAM alone.

``check(kernel)`` reads what is in RAM and either returns counts or raises CheckError, which
names the structure, its address and the rule that it breaks. Nothing here trusts the code
that wrote RAM: sizes of blocks are recomputed, lists are walked both ways, page tables are
followed from their roots. Every walk is bounded.

| file | what it checks |
|---|---|
| frames | memblock, zones, free lists, per-CPU lists, pageblocks, every struct page, slabs |
| root | vmcoreinfo: every pointer and number that guest code or attach reads from it |
| tables | page tables, the kernel's mappings, address spaces and their VMAs |
| areas | vmalloc |
| mm/slab/check.py | the slab allocators |

Scans over all frames and tables are numpy's; the struct pages of the deferred range and of
the later part of a huge memmap are known to be untouched by design and are not read, so that
checking a huge sparse machine stays cheap.

The address in an error is a PA for struct pages (the struct, not the frame), page tables and
pointers between them, and a VA for leaves and for what the kernel knows by VA (lists, slabs,
VMAs, areas).
"""

from __future__ import annotations

from mm.check.areas import check_areas
from mm.check.frames import Frames, Report
from mm.check.root import check_root
from mm.check.tables import Tables
from mm.errors import BadAddress, CheckError, ListCorruption, PageTableError
from mm.kernel import Kernel

__all__ = ["Report", "check"]


def check(kernel: Kernel) -> Report:
    """Check everything. Raises CheckError for the first rule that is broken."""
    frames = Frames(kernel)
    tables = Tables(frames)
    try:
        frames.memblock()
        frames.zones()
        frames.pages()
        frames.page_poison()
        frames.pkmap()
        frames.slabs()
        tables.page_tables()
        check_areas(frames, tables.kernel)
        check_root(kernel)
    except ListCorruption as e:
        raise CheckError("list_head", e.va, str(e)) from e
    except PageTableError as e:
        raise CheckError("page table", 0, str(e)) from e
    except BadAddress as e:
        raise CheckError("pointer", e.va, str(e)) from e
    return frames.report
