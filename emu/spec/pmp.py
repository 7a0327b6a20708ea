"""Physical memory protection: which bytes of physical memory may be touched, and how.

Privileged spec 20240411, section 3.7. Sixteen entries, as QEMU's `virt` has them; a granularity of
four bytes, so every way to match can be chosen. Entries are tried in order, and the first that
matches any byte of an access decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

PMP_ENTRIES = 16
PMP_R, PMP_W, PMP_X = 1 << 0, 1 << 1, 1 << 2
PMP_RWX = PMP_R | PMP_W | PMP_X
PMP_A_SHIFT = 3
PMP_A = 3 << PMP_A_SHIFT
PMP_L = 1 << 7
_ADDRESS_MASK = (1 << 54) - 1  # pmpaddr holds bits 55 to 2 of an address
ENTRIES_PER_PMPCFG = 8  # in RV64, where the odd configuration registers do not exist


class Matching(IntEnum):
    """How an entry names its bytes (field A of its configuration)."""

    OFF = 0
    TOR = 1
    NA4 = 2
    NAPOT = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the PMP says of an access: ``rights`` (PMP_R, PMP_W, PMP_X) and the ``entry`` by which.

    ``entry`` is None where none matches. ``partial``: it matches some bytes of the access only, and
    so it fails, whatever the entry allows.
    """

    rights: int
    entry: int | None
    partial: bool = False


@dataclass(slots=True)
class Pmp:
    """The registers of one hart: ``addr[i]`` and ``cfg[i]`` are those of entry i."""

    addr: list[int] = field(default_factory=lambda: [0] * PMP_ENTRIES)
    cfg: list[int] = field(default_factory=lambda: [0] * PMP_ENTRIES)

    def matching(self, entry: int) -> Matching:
        """How ``entry`` matches."""
        return Matching(self.cfg[entry] >> PMP_A_SHIFT & 3)

    def range(self, entry: int) -> tuple[int, int] | None:
        """The bytes ``[first, end)`` (PA) that ``entry`` matches, None: it matches nothing."""
        address = self.addr[entry]
        matching = self.matching(entry)
        if matching is Matching.OFF:
            return None
        if matching is Matching.TOR:
            bottom = self.addr[entry - 1] if entry else 0
            return (bottom << 2, address << 2) if bottom < address else None
        if matching is Matching.NA4:
            return address << 2, (address << 2) + 4
        ones = address ^ address + 1  # the trailing ones, which say how large, and the zero above
        first = (address & ~ones) << 2
        return first, first + ((ones + 1) << 2)

    def verdict(self, pa: int, size: int, machine: bool) -> Verdict:
        """Of an access to ``size`` bytes at ``pa``; ``machine``: it is one of M-mode."""
        for entry in range(PMP_ENTRIES):
            matched = self.range(entry)
            if matched is None or pa + size <= matched[0] or pa >= matched[1]:
                continue
            if pa < matched[0] or pa + size > matched[1]:
                return Verdict(0, entry, partial=True)
            if machine and not self.cfg[entry] & PMP_L:
                return Verdict(PMP_RWX, entry)
            return Verdict(self.cfg[entry] & PMP_RWX, entry)
        return Verdict(PMP_RWX if machine else 0, None)

    # registers

    def is_locked(self, entry: int) -> bool:
        """Whether pmpaddr of ``entry`` takes no writes (section 3.7.1)."""
        if self.cfg[entry] & PMP_L:
            return True
        above = entry + 1
        return (
            above < PMP_ENTRIES
            and bool(self.cfg[above] & PMP_L)
            and self.matching(above) is Matching.TOR
        )

    def write_addr(self, entry: int, value: int) -> None:
        """A write of pmpaddr: nothing where it is locked, and of 64 bits 54 are kept."""
        if not self.is_locked(entry):
            self.addr[entry] = value & _ADDRESS_MASK

    def read_cfg(self, first: int) -> int:
        """The register pmpcfg that holds the configurations from entry ``first`` on."""
        return int.from_bytes(self.cfg[first : first + ENTRIES_PER_PMPCFG], "little")

    def write_cfg(self, first: int, value: int) -> None:
        """A write of that register: entries that are locked keep what they have."""
        for entry in range(first, first + ENTRIES_PER_PMPCFG):
            cfg = value >> 8 * (entry - first) & 0xFF
            if not self.cfg[entry] & PMP_L:
                self.cfg[entry] = legal_cfg(cfg)

    def describe(self, entry: int) -> str:
        """``entry`` in words: how it matches, what, and what it allows."""
        cfg, matched = self.cfg[entry], self.range(entry)
        rights = "".join(
            letter if cfg & bit else "-"
            for bit, letter in ((PMP_R, "r"), (PMP_W, "w"), (PMP_X, "x"))
        )
        where = "nothing" if matched is None else f"{matched[0]:#x}-{matched[1] - 1:#x}"
        locked = ", locked" if cfg & PMP_L else ""
        return f"PMP entry {entry} ({self.matching(entry).name} {where}, {rights}{locked})"


def legal_cfg(cfg: int) -> int:
    """What an entry's configuration takes of a write: bits 5 and 6 are zero, and W without R is
    reserved: then it allows nothing."""
    cfg &= ~(3 << 5)
    if cfg & PMP_W and not cfg & PMP_R:
        cfg &= ~PMP_RWX
    return cfg
