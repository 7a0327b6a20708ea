"""struct mm_struct: an address space."""

from __future__ import annotations

from emu.spec.paging import (
    PAGE_SIZE,
    SATP_ASID_MASK,
)
from mm.addrspace import Space
from mm.layout import ListHead, Struct, nested, ptr, s32, u32, u64

MAX_MMS = 1 << 16  # as many as there are ASIDs


class MmStruct(Struct, c_name="mm_struct"):
    """An address space. VAs in bytes; *_vm in pages."""

    mmlist = nested(ListHead)  # all address spaces, headed in vmcoreinfo
    mmap = nested(ListHead)  # head of the list of VMAs, by address
    map_count = u64()
    pgd = ptr("uint64_t")
    mm_users = s32()
    asid = u32()
    pgtables_bytes = u64()
    total_vm = u64()
    task_size = u64()
    mmap_base = u64()
    start_brk = u64()
    brk = u64()
    start_stack = u64()

    def problem(self, space: Space) -> str | None:
        if self.pgd and (
            self.pgd % PAGE_SIZE or not space.page_offset <= self.pgd < space.direct_end
        ):
            return f"pgd {self.pgd:#x} is no frame"
        if self.asid > SATP_ASID_MASK:
            return f"asid {self.asid:#x} is of more than 16 bits"
        return None
