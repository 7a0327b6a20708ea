"""struct vm_struct: an area of the kernel's virtual address space (include/linux/vmalloc.h)."""

from __future__ import annotations

from emu.ram import PAGE_SHIFT, PAGE_SIZE
from mm.addrspace import MODULES_END, MODULES_VADDR, Space
from mm.layout import ListHead, Struct, chars, nested, ptr, u32, u64
from mm.zone import PAGEBLOCK_ORDER

# vm_struct.flags
VM_ALLOC = 0x2
VM_MAP = 0x4
VM_UNINITIALIZED = 0x20
VM_FLUSH_RESET_PERMS = 0x100
VM_MAP_PUT_PAGES = 0x200
VM_ALLOW_HUGE_VMAP = 0x400
VM_LAZY_FREE = 0x10000  # on the purge list (of Linux's vmap_area, which has no flag of ours)

MAX_AREAS = 1 << 20
PMD_ORDER = PAGEBLOCK_ORDER  # 2 MiB
PMD_SIZE = PAGE_SIZE << PMD_ORDER
_CALLER_SIZE = 32


class VmStruct(Struct, c_name="vm_struct"):
    """One area. ``size`` includes the guard page; ``caller`` is who asked for it."""

    list = nested(ListHead)  # all areas, by address
    addr = ptr()
    size = u64()
    flags = u64()
    pages = ptr("struct page *")
    nr_pages = u64()
    requested_size = u64()
    purge_list = nested(ListHead)  # VM_LAZY_FREE: what the next purge takes
    page_order = u32()  # of the blocks behind it: 0, or PMD_ORDER
    caller = chars(_CALLER_SIZE)

    def problem(self, space: Space) -> str | None:
        addr, size, layout = self.addr, self.size, space.layout
        if size % PAGE_SIZE or size < 2 * PAGE_SIZE:
            return f"size {size:#x} is not that of pages and a guard page"
        if addr % PAGE_SIZE or not any(
            low <= addr and addr + size <= high
            for low, high in (
                (layout.vmalloc_start, layout.vmalloc_end),
                (MODULES_VADDR, MODULES_END),
            )
        ):
            return f"addr {addr:#x}, size {size:#x}: not in vmalloc's or the modules' range"
        if self.nr_pages not in (0, (size >> PAGE_SHIFT) - 1):
            return f"nr_pages {self.nr_pages:#x} is not that of size {size:#x}"
        if bool(self.pages) != bool(self.nr_pages) or self.pages & 7:
            return f"pages {self.pages:#x} is no array of {self.nr_pages} pages"
        if self.page_order not in (0, PMD_ORDER):
            return f"page_order {self.page_order} is neither 0 nor {PMD_ORDER}"
        return None
