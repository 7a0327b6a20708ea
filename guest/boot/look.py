"""A machine's page tables to look at: of a snapshot, whatever its guest is.

For a Linux kernel the parts of its address space have names; for any guest a System.map or
/proc/kallsyms gives names to addresses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from emu.board import memory_map as board
from emu.debug.snapshot import view as snapshot_view
from emu.debug.symbols import Symbols
from emu.ram import Ram
from emu.spec.paging import PAGE_SIZE, PagingMode, describe_pte, satp_root
from emu.spec.tables import Range, ranges, size_text
from emu.spec.walk import Access, Translation, WalkConfig, walk
from guest.boot import linux_layout
from guest.boot.outcome import UsageError
from guest.boot.system_map import read_system_map
from mm.what import MAPPINGS_SHOWN, What

# Lets the walk see every page, whosever it is.
_ANY = WalkConfig(sum=True, mxr=True)
NOWHERE = "neither RAM nor a device"


@dataclass(frozen=True)
class Tables:
    """RAM and the tables that ``satp`` selects.

    ``regions``: the named parts of the address space, none for a guest that is not known.
    """

    ram: Ram
    mode: PagingMode
    satp: int
    symbols: Symbols = field(default_factory=Symbols)
    regions: tuple[linux_layout.Region, ...] = ()

    @property
    def root(self) -> int:
        """The PA of the root table."""
        return satp_root(self.satp)

    def ranges(self) -> Iterator[Range]:
        """What is mapped, see `emu.spec.tables.ranges`."""
        return ranges(self.ram, self.mode, self.root)

    def region(self, va: int) -> str:
        """The name of the part that ``va`` lies in, "" for none."""
        return linux_layout.region_of(self.regions, va)

    def place(self, va: int) -> str:
        """Symbol and region of ``va`` in words, "" for neither."""
        return ", ".join(filter(None, (self.symbols.name(va), self.region(va))))


def load_symbols(path: Path | None) -> Symbols:
    """The names in a System.map or /proc/kallsyms. Raises UsageError."""
    return Symbols() if path is None else Symbols(read_system_map(path, "tTwWdDrRbB"))


def load_snapshot(path: Path, symbols: Path | None) -> Tables:
    """The tables that the snapshot's hart stands in. Raises SnapshotError, UsageError."""
    names = load_symbols(symbols)
    view = snapshot_view.view(path)
    if view.mode is None:
        raise UsageError(
            f"{path}: translation is off (satp=0) where it was saved: pc {view.pc:#x}, "
            f"{view.priv.name}-mode"
        )
    root = satp_root(view.satp)
    is_linux = linux_layout.is_linux(view.ram, view.mode, root)
    regions = linux_layout.regions(view.mode) if is_linux else ()
    return Tables(view.ram, view.mode, view.satp, names, regions)


def at_physical(ram: Ram, pa: int) -> str:
    """What of the board is at ``pa`` (PA): RAM, a device by its node's name, "" for nothing."""
    if ram.contains(pa):
        return "RAM"
    device = next((d for d in (*board.DEVICES, board.ROM) if d.base <= pa < d.base + d.size), None)
    return "" if device is None else f"{device.node}@{device.base:x}"


def what(tables: Tables, address: int) -> What:
    """What ``address`` is by the tables alone: its part, what maps it, who else maps that frame.

    An address that is mapped is a VA; else it is a PA, if the board has something there.
    """
    mode = tables.mode
    found = walk(tables.ram, mode, tables.root, address, Access.READ, _ANY)
    place = at_physical(tables.ram, address)
    if not isinstance(found, Translation) and place:
        it = What(address, "physical")
        it.say("address", f"{address:#x}: physical, {place}", place=place)
        _mappings(tables, address, it)
        return it
    if not mode.is_canonical(address):
        it = What(address, "non-canonical")
        it.say("address", f"{address:#x}: not canonical in {mode.name}: every access faults")
        return it
    it = What(address, "virtual")
    region, name = tables.region(address), tables.symbols.name(address)
    words = ", ".join(["virtual", *filter(None, (region, name))])
    it.say("address", f"{address:#018x}: {words}", region=region or None, symbol=name)
    if not isinstance(found, Translation):
        it.say("maps to", f"nothing: {found.rule.value}", mapped=False)
        return it
    step = found.steps[-1]
    place = at_physical(tables.ram, found.pa) or NOWHERE
    it.say(
        "maps to",
        f"PA {found.pa:#x} ({place}) by the PTE at PA "
        f"{step.pte_pa:#x}: {size_text(mode.span(found.level))} {describe_pte(found.pte)}",
        mapped=True,
        pa=found.pa,
        pte=found.pte,
        pte_pa=step.pte_pa,
        level=found.level,
    )
    _mappings(tables, found.pa, it)
    return it


def _mappings(tables: Tables, pa: int, it: What) -> None:
    frame = pa & -PAGE_SIZE
    found = [
        (r.va + frame - r.pa, r.attributes)
        for r in tables.ranges()
        if r.pa <= frame < r.pa + r.size
    ]
    it.facts["mapped_at"] = [{"va": va, "attr": attributes} for va, attributes in found]
    if not found:
        it.say("mapped at", "no VA of these tables")
    for va, attributes in found[:MAPPINGS_SHOWN]:
        place = tables.place(va)
        it.say("mapped at", f"{va:#018x} {attributes}{f' ({place})' if place else ''}")
    if len(found) > MAPPINGS_SHOWN:
        it.say("mapped at", f"{len(found) - MAPPINGS_SHOWN} VAs more")
