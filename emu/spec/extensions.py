"""The extensions that a machine's address translation may have or lack."""

from __future__ import annotations

from dataclasses import dataclass

MMU_EXTENSIONS = ("svade", "svadu", "svnapot", "svpbmt")


@dataclass(frozen=True)
class Extensions:
    """What the hart's MMU has beyond Sv39, Sv48 and Sv57.

    ``pmp``: physical memory protection; without it its CSRs are absent, and S and U may touch all.
    ``svade``: A and D bits are never set by the hart: it raises a page fault. ``svadu``:
    menvcfg.ADUE says whether it sets them (0 after reset: page faults). With neither the hart
    always sets them, as QEMU's does. ``svnapot``: 64 KiB pages; ``svpbmt``: memory types in PTEs,
    where menvcfg.PBMTE allows them.
    """

    pmp: bool = True
    svade: bool = False
    svadu: bool = False
    svnapot: bool = False
    svpbmt: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Those of MMU_EXTENSIONS that are there, as the device tree names them."""
        return tuple(name for name in MMU_EXTENSIONS if getattr(self, name))
