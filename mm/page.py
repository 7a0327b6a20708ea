"""struct page: 64 bytes for every frame of RAM, in one array (the memmap), valid when zero.

    offset  free block head   per-CPU list    allocated head     tail of compound   reserved
     0      flags: zone       flags: zone     flags: zone, head  flags: zone        reserved
     8      lru.next          lru.next        the owner's        compound_head | 1  0
    16      lru.prev          lru.prev        the owner's        0                  0
    24      0                 0               mapping            0                  0
    32      0                 0               index              0                  0
    40      private: order    0               private            0                  0
    48      page_type: buddy  -1              -1, or a type      -1                 -1
    52      _refcount 0       0               1 or more          0                  1
    56      0                 the last one's  page_owner         0                  0

All others are 0: the frames inside of a free block, those of the deferred range (see
zone.py), and the later frames of a huge reserved region. Their struct page was never
touched, which is what makes boot independent of the size of RAM. page_owner's order (its
8 bytes live in the pad) tells how many frames an allocated head stands for; the tails of a
block that is not compound, and those of a block on a per-CPU list, look like compound ones
without the pointer. In the second page of a compound block, the low byte of ``flags`` is
the order.

Source: include/linux/mm_types.h, page-flags.h, page_owner.c of Linux 6.12.
"""

from __future__ import annotations

from mm.layout import ListHead, Struct, nested, ptr, s16, s32, u16, u32, u64
from mm.mmzone import ZoneType

# Page flags: bit numbers.
PAGE_FLAGS = (
    "locked", "writeback", "referenced", "uptodate", "dirty", "lru", "head", "waiters",
    "active", "workingset", "owner_priv_1", "owner_2", "arch_1", "reserved", "private",
    "private_2", "reclaim", "swapbacked", "unevictable", "mlocked",
)  # fmt: skip
PG_BIT = {name: 1 << bit for bit, name in enumerate(PAGE_FLAGS)}
PG_LOCKED = PG_BIT["locked"]
PG_HEAD = PG_BIT["head"]
PG_RESERVED = PG_BIT["reserved"]
NR_PAGEFLAGS = len(PAGE_FLAGS)

# The top bits: node (6 bits), zone (3 bits).
NODES_PGSHIFT = 58
ZONES_PGSHIFT = 55
ZONES_MASK = 7

# No page may be freed with one of these set (PAGE_FLAGS_CHECK_AT_FREE).
PAGE_FLAGS_CHECK_AT_FREE = (
    PG_BIT["lru"] | PG_BIT["locked"] | PG_BIT["private"] | PG_BIT["private_2"]
    | PG_BIT["writeback"] | PG_BIT["reserved"] | PG_BIT["active"] | PG_BIT["unevictable"]
    | PG_BIT["mlocked"]
)  # fmt: skip

# page_type: the top byte names the type; UINT_MAX is "no type", the same bits as _mapcount -1.
PGTY_BUDDY = 0xF0
PGTY_OFFLINE = 0xF1
PGTY_TABLE = 0xF2
PGTY_GUARD = 0xF3
PGTY_HUGETLB = 0xF4
PGTY_SLAB = 0xF5
PAGE_TYPE_NONE = 0xFFFFFFFF
PAGE_TYPE_BUDDY = PGTY_BUDDY << 24
PAGE_TYPE_TABLE = PGTY_TABLE << 24
PAGE_TYPE_SLAB = PGTY_SLAB << 24
PAGE_TYPES = {
    "buddy": PGTY_BUDDY,
    "offline": PGTY_OFFLINE,
    "table": PGTY_TABLE,
    "guard": PGTY_GUARD,
    "hugetlb": PGTY_HUGETLB,
    "slab": PGTY_SLAB,
}


class Page(Struct, c_name="page", size=64):
    """A frame of RAM: the generic view."""

    flags = u64()
    lru = nested(ListHead)  # free blocks: the link of the free list (buddy_list)
    mapping = ptr()
    index = u64()
    private = u64()  # free block head: its order
    page_type = u32()
    _mapcount = s32(at=48)
    _refcount = s32()
    order = u16()  # page_owner: the order of the allocation that this page heads
    last_migrate_reason = s16()
    gfp_mask = u32()

    @property
    def zone(self) -> ZoneType:
        """The zone number in the flags (0 for a struct page that is all zero)."""
        return ZoneType(self.flags >> ZONES_PGSHIFT & ZONES_MASK)

    def has_type(self, pgty: int) -> bool:
        """Whether the page is of type ``pgty`` (a PGTY_ value)."""
        return self.page_type >> 24 == pgty


class PageTail(Struct, c_name="page_tail", size=64):
    """The second and later pages of a compound block."""

    flags = u64()  # in the first tail, the low byte is the block's order
    compound_head = u64()  # VA of the head's struct page, with bit 0 set


class Ptdesc(Struct, c_name="ptdesc", size=64):
    """A frame that is a page table (include/linux/mm_types.h struct ptdesc)."""

    flags = u64()
    pt_list = nested(ListHead)
    mapping = ptr()
    pt_mm = ptr("struct mm_struct")  # the address space that the table belongs to
    ptl = u64()
    page_type = u32()
    _refcount = s32()


# Words of a struct page, for indexing ram.u64 from Space.page_index.
W_FLAGS = 0
W_LRU_NEXT = 1
W_LRU_PREV = 2
W_MAPPING = 3
W_PT_MM = 4
W_PRIVATE = 5
W_TYPE_REF = 6  # page_type in the low half, _refcount in the high one
W_OWNER = 7  # order | last_migrate_reason << 16 | gfp_mask << 32
PAGE_WORDS = 8

BUDDY_WORD = PAGE_TYPE_BUDDY  # word 6 of a free block's head: refcount 0
ALLOCATED_WORD = 1 << 32 | PAGE_TYPE_NONE  # word 6 of a fresh head: refcount 1
TAIL_WORD = PAGE_TYPE_NONE  # word 6 of a tail: refcount 0
PCP_WORD = PAGE_TYPE_NONE  # word 6 of a head on a per-CPU list: refcount 0
TABLE_WORD = 1 << 32 | PAGE_TYPE_TABLE
SLAB_WORD = 1 << 32 | PAGE_TYPE_SLAB


def zone_flags(zone: int) -> int:
    """The flag bits of a page of zone number ``zone`` on node 0."""
    return zone << ZONES_PGSHIFT


def format_flags(flags: int) -> str:
    """Linux's ``%pGp``: names joined by ``|`` with node and zone, in ``0x..(..)``."""
    names = [name for name, bit in PG_BIT.items() if flags & bit]
    names.append(f"node={flags >> NODES_PGSHIFT}")
    names.append(f"zone={flags >> ZONES_PGSHIFT & ZONES_MASK}")
    return f"{flags:#x}({'|'.join(names)})"
