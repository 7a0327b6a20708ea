"""The hart's translation and its PMP: `walk.c`, with the state that it works on.

Where the C is loaded, `Mmu.take_over` puts `fill` in the place of the engine's own function, and
from then on each access that the TLB cannot answer is walked by the spec's letter. The registers
of the PMP are kept here; what menvcfg says of translation is told by who has it.
"""

from __future__ import annotations

import ctypes as C
from typing import Any

from emu.engine import native
from emu.ram import Ram
from emu.spec.csr import MENVCFG_ADUE, MENVCFG_PBMTE
from emu.spec.extensions import Extensions
from emu.spec.pmp import ENTRIES_PER_PMPCFG, PMP_ENTRIES, PMP_R, PMP_RWX, PMP_W, PMP_X, Pmp
from emu.spec.walk import Access, Rule

_ACCESS_NUMBER = {Access.READ: 0, Access.WRITE: 1, Access.EXECUTE: 2}  # QEMU's MMUAccessType
_RULES = tuple(Rule)
_NOWHERE = (1 << 64) - 1


class _Region(C.Structure):
    _fields_ = [("first", C.c_uint64), ("size", C.c_uint64), ("rights", C.c_uint64)]


class _Match(C.Structure):
    _fields_ = [
        ("first", C.c_uint64),
        ("last", C.c_uint64),
        ("entry", C.c_int32),
        ("cfg", C.c_uint32),
    ]


class _Uniform(C.Structure):
    _fields_ = [
        ("first", C.c_uint64),
        ("last", C.c_uint64),
        ("rights", C.c_int32),
        ("unused", C.c_int32),
    ]


class _Mmu(C.Structure):
    """`struct mmu` of walk.h."""

    _fields_ = [
        ("cpu", C.c_uint64),
        ("words", C.c_uint64),
        ("ram", C.c_uint64),
        ("ram_base", C.c_uint64),
        ("ram_size", C.c_uint64),
        ("regions", C.c_uint64),
        ("region_count", C.c_uint64),
        ("pmpaddr", C.c_uint64 * PMP_ENTRIES),
        ("pmpcfg", C.c_uint8 * PMP_ENTRIES),
        ("has_pmp", C.c_uint8),
        ("has_svnapot", C.c_uint8),
        ("pbmte", C.c_uint8),
        ("updates_ad", C.c_uint8),
        ("splits", C.c_uint8),
        ("stops_before", C.c_uint64),
        ("store_va", C.c_uint64),
        ("store_size", C.c_uint64),
        ("store_from", C.c_uint64),
        ("matches", _Match * PMP_ENTRIES),
        ("match_count", C.c_uint64),
        ("uniform", _Uniform * 2),
        ("next", C.c_uint64),
    ]


class Outcome(C.Structure):
    """`struct outcome` of walk.h: what `walk.c` makes of an access."""

    _fields_ = [
        ("pa", C.c_uint64),
        ("pte_pa", C.c_uint64),
        ("pte", C.c_uint64),
        ("missing", C.c_uint64),
        ("pte_at", C.c_uint64),
        ("rule_number", C.c_int32),
        ("level", C.c_int32),
        ("pmp_entry", C.c_int32),
        ("prot", C.c_int32),
        ("is_uniform", C.c_uint8),
    ]

    @property
    def rule(self) -> Rule | None:
        """The rule that refused, None: it is allowed."""
        return _RULES[self.rule_number - 1] if self.rule_number else None


class Mmu:
    """Of one hart: ``pmp``, the map of physical memory, the options of translation."""

    def __init__(self, ram: Ram, extensions: Extensions) -> None:
        self.extensions = extensions
        self.pmp = Pmp()
        self.updates_ad = not (extensions.svade or extensions.svadu)
        self.pbmte = False
        self._ram = ram
        self._regions: list[tuple[int, int, int]] = []
        self._c = _Mmu(ram_base=ram.base, ram_size=ram.size, ram=ram.host_address)
        self._region_array: Any = None
        self.stop_before(None)
        self._added = False
        self._tell()

    # the map of physical memory

    def add_region(self, pa: int, size: int, rights: int) -> None:
        """Whole pages that are no RAM: a ROM (PMP_R | PMP_X), a device (PMP_R | PMP_W)."""
        self._regions.append((pa, size, rights))
        self._region_array = (_Region * len(self._regions))(*(_Region(*r) for r in self._regions))
        self._c.regions = C.addressof(self._region_array)
        self._c.region_count = len(self._regions)

    def board_rights(self, pa: int) -> int:
        """PMP_R, PMP_W and PMP_X as far as the board goes; 0 for a hole."""
        if self._ram.contains(pa):
            return PMP_RWX
        for first, size, rights in self._regions:
            if first <= pa < first + size:
                return rights
        return 0

    # registers

    def reset(self) -> None:
        """All off (section 3.7.1), locked entries too; menvcfg is 0."""
        self.pmp = Pmp()
        self.set_menvcfg(0)

    def write_pmpcfg(self, register: int, value: int) -> None:
        """pmpcfg0 (``register`` 0) or pmpcfg2 (2)."""
        self.pmp.write_cfg(register // 2 * ENTRIES_PER_PMPCFG, value)
        self._tell()

    def read_pmpcfg(self, register: int) -> int:
        """pmpcfg0 (``register`` 0) or pmpcfg2 (2)."""
        return self.pmp.read_cfg(register // 2 * ENTRIES_PER_PMPCFG)

    def write_pmpaddr(self, entry: int, value: int) -> None:
        """The address register of ``entry``."""
        self.pmp.write_addr(entry, value)
        self._tell()

    @property
    def menvcfg_fields(self) -> int:
        """The fields of menvcfg about translation that can be written (section 3.1.18)."""
        have = self.extensions
        return (MENVCFG_ADUE if have.svadu else 0) | (MENVCFG_PBMTE if have.svpbmt else 0)

    def set_menvcfg(self, value: int) -> None:
        """What menvcfg says about translation. Who calls drops the TLB."""
        have = self.extensions
        self.updates_ad = bool(value & MENVCFG_ADUE) if have.svadu else not have.svade
        self.pbmte = have.svpbmt and bool(value & MENVCFG_PBMTE)
        self._tell()

    def _tell(self) -> None:
        """Tell the C what has changed. Who calls drops the TLB."""
        c = self._c
        c.has_pmp = self.extensions.pmp
        c.has_svnapot = self.extensions.svnapot
        c.pbmte, c.updates_ad = self.pbmte, self.updates_ad
        c.pmpaddr[:] = self.pmp.addr
        c.pmpcfg[:] = self.pmp.cfg
        if native.available():
            native.call("update_pmp", C.addressof(c))

    # the engine

    def take_over(self, cpu: int, words: int) -> None:
        """From now on `fill` answers for the CPU at ``cpu`` (host), its words at ``words``."""
        self._c.cpu, self._c.words = cpu, words
        native.call("add_mmu", C.addressof(self._c))
        self._added = True

    def close(self) -> None:
        """The engine is about to go."""
        if self._added:
            native.call("remove_mmu", C.addressof(self._c))
            self._added = False

    def split_entries(self) -> None:
        """Loads and stores of a page with W and X no longer share an entry with fetches."""
        self._c.splits = 1

    def stop_before(self, va: int | None) -> None:
        """The engine will stop before the instruction at ``va`` and looks at it: let it."""
        self._c.stops_before = _NOWHERE if va is None else va

    def predict(self, va: int, size: int, access: Access, priv: int) -> Outcome:
        """What the C would make of an access of ``priv`` in the present state; nothing is set."""
        out = Outcome()
        number = _ACCESS_NUMBER[access]
        native.call("predict", C.addressof(self._c), va, size, number, priv, C.addressof(out))
        return out


ROM_RIGHTS = PMP_R | PMP_X
DEVICE_RIGHTS = PMP_R | PMP_W
