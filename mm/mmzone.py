"""The kinds of zones and of pages (include/linux/mmzone.h)."""

from __future__ import annotations

from enum import IntEnum


class ZoneType(IntEnum):
    """Linux's ``enum zone_type``, lowest first; a machine has those it is configured with."""

    DMA = 0
    DMA32 = 1
    NORMAL = 2
    HIGHMEM = 3
    MOVABLE = 4


MAX_NR_ZONES = len(ZoneType)


class MigrateType(IntEnum):
    """Linux's ``enum migratetype``: how easily a page can be moved or reclaimed."""

    UNMOVABLE = 0
    MOVABLE = 1
    RECLAIMABLE = 2
    HIGHATOMIC = 3


MIGRATE_TYPES = len(MigrateType)
