"""A machine that stands still: RAM and the hart's registers out of a snapshot, to look at.

No board is built, so no disk of the machine is needed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from emu.board.devices import saved
from emu.debug.snapshot.file import NOT_A_STATE, Reader, SnapshotError, one_line, read_pages
from emu.ram import Ram
from emu.spec.csr import Priv
from emu.spec.paging import PagingMode, mode_of_satp


@dataclass(frozen=True)
class SnapshotView:
    """``pc`` is a VA, or a PA without translation; ``satp`` and ``mstatus`` as the hart has them.

    ``mode``: what ``satp`` selects, None for no translation.
    """

    ram: Ram = field(repr=False)
    pc: int
    priv: Priv
    satp: int
    mstatus: int
    mode: PagingMode | None


def view(path: str | os.PathLike[str]) -> SnapshotView:
    """What the snapshot at ``path`` holds. Raises SnapshotError."""
    with Reader(path) as reader:
        reader.check(lambda done, total: None)
        try:
            ram = Ram(reader.header["ram"]["size"], reader.header["ram"]["base"])
            hart = reader.harts[0]
            pc, satp, mstatus = (saved.number(hart, name, 64) for name in ("pc", "satp", "mstatus"))
            found = SnapshotView(ram, pc, Priv(hart["priv"]), satp, mstatus, mode_of_satp(satp))
        except NOT_A_STATE as e:
            why = one_line(e)
            raise SnapshotError(f"{reader.path}: no machine can be made of it: {why}") from e
        read_pages(ram, reader)
        return found
