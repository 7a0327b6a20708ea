"""GFP flags: what an allocation may do, and where its memory may lie.

Values of Linux 6.12 (include/linux/gfp_types.h). ``gfp_zone`` and ``gfp_migratetype`` are
total: a combination without a meaning raises GfpError and names the flags at fault.
"""

from __future__ import annotations

from collections.abc import Container

from mm.errors import GfpError
from mm.mmzone import MAX_NR_ZONES as MAX_NR_ZONES
from mm.mmzone import MIGRATE_TYPES as MIGRATE_TYPES
from mm.mmzone import MigrateType as MigrateType
from mm.mmzone import ZoneType as ZoneType

GFP_DMA = __GFP_DMA = 0x1
__GFP_HIGHMEM = 0x2
GFP_DMA32 = __GFP_DMA32 = 0x4
__GFP_MOVABLE = 0x8
__GFP_RECLAIMABLE = 0x10
__GFP_HIGH = 0x20
__GFP_IO = 0x40
__GFP_FS = 0x80
__GFP_ZERO = 0x100
__GFP_DIRECT_RECLAIM = 0x400
__GFP_KSWAPD_RECLAIM = 0x800
__GFP_WRITE = 0x1000
__GFP_NOWARN = 0x2000
__GFP_RETRY_MAYFAIL = 0x4000
__GFP_NOFAIL = 0x8000
__GFP_NORETRY = 0x10000
__GFP_MEMALLOC = 0x20000
__GFP_COMP = 0x40000
__GFP_NOMEMALLOC = 0x80000
__GFP_HARDWALL = 0x100000
__GFP_THISNODE = 0x200000
__GFP_ACCOUNT = 0x400000
__GFP_ZEROTAGS = 0x800000

# Python mangles names with two leading underscores inside of classes; code in classes
# imports these short ones.
GFP_ZERO = __GFP_ZERO
GFP_COMP = __GFP_COMP
GFP_HIGHMEM = __GFP_HIGHMEM
GFP_MOVABLE = __GFP_MOVABLE
GFP_HIGH = __GFP_HIGH
GFP_DIRECT_RECLAIM = __GFP_DIRECT_RECLAIM
GFP_NOWARN = __GFP_NOWARN
GFP_RETRY_MAYFAIL = __GFP_RETRY_MAYFAIL
GFP_NOFAIL = __GFP_NOFAIL
GFP_NORETRY = __GFP_NORETRY
GFP_MEMALLOC = __GFP_MEMALLOC
GFP_NOMEMALLOC = __GFP_NOMEMALLOC

GFP_ATOMIC = 0x820
GFP_KERNEL = 0xCC0
GFP_NOWAIT = 0x2800
GFP_NOIO = 0xC00
GFP_NOFS = 0xC40
GFP_USER = 0x100CC0
GFP_HIGHUSER = 0x100CC2
GFP_HIGHUSER_MOVABLE = 0x100CCA

GFP_ZONEMASK = 0xF
_VALID = 0xFFFDFF  # bit 9 is unassigned

# Largest first, as Linux's __def_gfpflag_names: a composite name swallows its bits.
_COMPOSITES = (
    ("GFP_HIGHUSER_MOVABLE", GFP_HIGHUSER_MOVABLE),
    ("GFP_HIGHUSER", GFP_HIGHUSER),
    ("GFP_USER", GFP_USER),
    ("GFP_KERNEL", GFP_KERNEL),
    ("GFP_NOFS", GFP_NOFS),
    ("GFP_ATOMIC", GFP_ATOMIC),
    ("GFP_NOIO", GFP_NOIO),
    ("GFP_NOWAIT", GFP_NOWAIT),
    ("GFP_DMA", GFP_DMA),
    ("__GFP_HIGHMEM", __GFP_HIGHMEM),
    ("GFP_DMA32", GFP_DMA32),
)
FLAG_NAMES = (
    ("__GFP_MOVABLE", __GFP_MOVABLE),
    ("__GFP_RECLAIMABLE", __GFP_RECLAIMABLE),
    ("__GFP_HIGH", __GFP_HIGH),
    ("__GFP_IO", __GFP_IO),
    ("__GFP_FS", __GFP_FS),
    ("__GFP_ZERO", __GFP_ZERO),
    ("__GFP_DIRECT_RECLAIM", __GFP_DIRECT_RECLAIM),
    ("__GFP_KSWAPD_RECLAIM", __GFP_KSWAPD_RECLAIM),
    ("__GFP_WRITE", __GFP_WRITE),
    ("__GFP_NOWARN", __GFP_NOWARN),
    ("__GFP_RETRY_MAYFAIL", __GFP_RETRY_MAYFAIL),
    ("__GFP_NOFAIL", __GFP_NOFAIL),
    ("__GFP_NORETRY", __GFP_NORETRY),
    ("__GFP_MEMALLOC", __GFP_MEMALLOC),
    ("__GFP_COMP", __GFP_COMP),
    ("__GFP_NOMEMALLOC", __GFP_NOMEMALLOC),
    ("__GFP_HARDWALL", __GFP_HARDWALL),
    ("__GFP_THISNODE", __GFP_THISNODE),
    ("__GFP_ACCOUNT", __GFP_ACCOUNT),
    ("__GFP_ZEROTAGS", __GFP_ZEROTAGS),
)


def format_gfp(gfp: int) -> str:
    """Linux's ``%pGg``: names joined by ``|``, unknown bits in hex, ``none`` for 0."""
    if not gfp:
        return "none"
    names = []
    for name, bits in _COMPOSITES + FLAG_NAMES:
        if gfp & bits == bits:
            names.append(name)
            gfp &= ~bits
    if gfp:
        names.append(f"{gfp:#x}")
    return "|".join(names)


def gfp_zone(gfp: int, configured: Container[int] = tuple(ZoneType)) -> ZoneType:
    """The highest zone that may satisfy ``gfp`` (Linux's gfp_zone).

    DMA, DMA32 and HighMem stand for Normal on a machine whose zones, ``configured``, are
    without them (OPT_ZONE_DMA and its like). Raises GfpError when more than one of the three
    is asked for.
    """
    names = [n for n, b in _COMPOSITES[-3:] if gfp & b]
    if len(names) > 1:
        raise GfpError(f"gfp {gfp:#x}: {' and '.join(names)} exclude each other")
    if gfp & __GFP_HIGHMEM and gfp & __GFP_MOVABLE:
        return ZoneType.MOVABLE
    for bit, zone in (
        (__GFP_HIGHMEM, ZoneType.HIGHMEM),
        (__GFP_DMA, ZoneType.DMA),
        (__GFP_DMA32, ZoneType.DMA32),
    ):
        if gfp & bit:
            return zone if zone in configured else ZoneType.NORMAL
    return ZoneType.NORMAL


def gfp_migratetype(gfp: int) -> MigrateType:
    """The migratetype of the pages (Linux's gfp_migratetype).

    Raises GfpError when both MOVABLE and RECLAIMABLE are asked for.
    """
    migratetype = (gfp >> 3) & 3
    if migratetype == 3:
        raise GfpError(f"gfp {gfp:#x}: __GFP_MOVABLE and __GFP_RECLAIMABLE exclude each other")
    return MigrateType(migratetype)


# How deep an allocation may reach into a zone (Linux's mm/internal.h): the low two bits are
# the watermark.
ALLOC_WMARK_MIN = 0
ALLOC_WMARK_LOW = 1
ALLOC_WMARK_MASK = 3
ALLOC_NO_WATERMARKS = 0x4
ALLOC_NON_BLOCK = 0x10
ALLOC_MIN_RESERVE = 0x20  # the value of __GFP_HIGH


def gfp_to_alloc_flags(gfp: int) -> int:
    """The ALLOC_ flags of the slow path (Linux's gfp_to_alloc_flags and
    __gfp_pfmemalloc_flags): the min watermark, less what ``gfp`` may dig into."""
    if gfp & __GFP_MEMALLOC and not gfp & __GFP_NOMEMALLOC:
        return ALLOC_NO_WATERMARKS
    flags = ALLOC_WMARK_MIN | gfp & __GFP_HIGH
    if not gfp & (__GFP_DIRECT_RECLAIM | __GFP_NOMEMALLOC):
        flags |= ALLOC_NON_BLOCK
    return flags


def check_gfp(gfp: int) -> None:
    """Raise GfpError for bits that are no GFP flag, and for flags that contradict each other."""
    unknown = gfp & ~_VALID
    if unknown or gfp < 0:
        raise GfpError(f"gfp {gfp:#x}: {unknown:#x} is no GFP flag")
    if gfp & __GFP_NOFAIL:
        if not gfp & __GFP_DIRECT_RECLAIM:
            raise GfpError(f"gfp {gfp:#x}: __GFP_NOFAIL needs __GFP_DIRECT_RECLAIM")
        for name, bits in (
            ("__GFP_NORETRY", __GFP_NORETRY),
            ("__GFP_RETRY_MAYFAIL", __GFP_RETRY_MAYFAIL),
        ):
            if gfp & bits:
                raise GfpError(f"gfp {gfp:#x}: __GFP_NOFAIL and {name} exclude each other")
    if gfp & __GFP_NORETRY and gfp & __GFP_RETRY_MAYFAIL:
        raise GfpError(f"gfp {gfp:#x}: __GFP_NORETRY and __GFP_RETRY_MAYFAIL exclude each other")
