"""Sv39, Sv48 and Sv57 as data (RISC-V privileged spec 20240411, sections 12.4 to 12.6).

A mode is a number of levels; everything else follows from it. Levels are numbered as in
the spec: 0 holds the PTEs of 4 KiB pages, ``levels - 1`` is the root.
"""

from __future__ import annotations

from dataclasses import dataclass

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
PTE_SIZE = 8  # bytes
VPN_BITS = 9  # bits of the VA that one level consumes
PTES_PER_TABLE = 1 << VPN_BITS

# PTE bits (figure "Sv39 page table entry")
PTE_V = 1 << 0
PTE_R = 1 << 1
PTE_W = 1 << 2
PTE_X = 1 << 3
PTE_U = 1 << 4
PTE_G = 1 << 5
PTE_A = 1 << 6
PTE_D = 1 << 7
PTE_RSW = 3 << 8
PTE_PPN_SHIFT = 10
PTE_PPN_MASK = ((1 << 44) - 1) << PTE_PPN_SHIFT
PTE_RESERVED = ((1 << 7) - 1) << 54  # bits 54-60: no extension uses them
PTE_PBMT = 3 << 61  # Svpbmt
PTE_N = 1 << 63  # Svnapot
NAPOT_SIZE = 64 << 10  # bytes: the only size that Svnapot has

# The letters in the order in which QEMU's `info mem` and Linux's dump show them.
PTE_LETTERS = (
    (PTE_R, "r"),
    (PTE_W, "w"),
    (PTE_X, "x"),
    (PTE_U, "u"),
    (PTE_G, "g"),
    (PTE_A, "a"),
    (PTE_D, "d"),
)

SATP_MODE_SHIFT = 60
SATP_ASID_SHIFT = 44
SATP_ASID_MASK = 0xFFFF
SATP_PPN_MASK = (1 << 44) - 1


@dataclass(frozen=True)
class PagingMode:
    """One translation scheme: ``name``, the value of ``satp.MODE``, the number of levels."""

    name: str
    satp_mode: int
    levels: int

    @property
    def va_bits(self) -> int:
        """Bits of a virtual address that are translated (39, 48 or 57)."""
        return PAGE_SHIFT + VPN_BITS * self.levels

    def shift(self, level: int) -> int:
        """log2 of the bytes that one PTE of ``level`` covers."""
        return PAGE_SHIFT + VPN_BITS * level

    def span(self, level: int) -> int:
        """Bytes that one PTE of ``level`` covers."""
        return 1 << self.shift(level)

    def index(self, va: int, level: int) -> int:
        """``va.vpn[level]``: the index into the table of ``level``."""
        return (va >> (PAGE_SHIFT + VPN_BITS * level)) & (PTES_PER_TABLE - 1)

    def split(self, va: int) -> tuple[int, ...]:
        """``(vpn[levels-1], ..., vpn[0], offset)`` of a VA."""
        vpn = tuple(self.index(va, i) for i in reversed(range(self.levels)))
        return (*vpn, va & (PAGE_SIZE - 1))

    def is_canonical(self, va: int) -> bool:
        """Whether bits 63 to ``va_bits`` all equal bit ``va_bits - 1`` (section 12.4.1)."""
        top = va >> (self.va_bits - 1)
        return top == 0 or top == (1 << (64 - self.va_bits + 1)) - 1

    def canonical(self, va: int) -> int:
        """``va`` with the upper bits copied from bit ``va_bits - 1``."""
        va &= (1 << self.va_bits) - 1
        if va >> (self.va_bits - 1):
            va |= (1 << 64) - (1 << self.va_bits)
        return va

    def satp(self, root_pa: int, asid: int = 0) -> int:
        """The ``satp`` that selects this mode with the root table at ``root_pa`` (PA).

        Raises ValueError when the table is not page-aligned, or a field does not fit.
        """
        ppn = root_pa >> PAGE_SHIFT
        if root_pa % PAGE_SIZE or ppn & ~SATP_PPN_MASK or asid & ~SATP_ASID_MASK:
            raise ValueError(f"no satp for a root table at {root_pa:#x} and ASID {asid:#x}")
        return self.satp_mode << SATP_MODE_SHIFT | asid << SATP_ASID_SHIFT | ppn


SV39 = PagingMode("sv39", 8, 3)
SV48 = PagingMode("sv48", 9, 4)
SV57 = PagingMode("sv57", 10, 5)
MODES = {mode.name: mode for mode in (SV39, SV48, SV57)}
_BY_SATP_MODE = {mode.satp_mode: mode for mode in MODES.values()}


def mode_of_satp(satp: int) -> PagingMode | None:
    """The mode that ``satp`` selects, None for Bare.

    Raises ValueError for a reserved ``satp.MODE``.
    """
    field = satp >> SATP_MODE_SHIFT
    if field == 0:
        return None
    if field not in _BY_SATP_MODE:
        raise ValueError(f"satp {satp:#018x}: MODE {field} is reserved")
    return _BY_SATP_MODE[field]


def satp_root(satp: int) -> int:
    """The PA of the root table that ``satp`` names."""
    return (satp & SATP_PPN_MASK) << PAGE_SHIFT


def satp_asid(satp: int) -> int:
    """The address-space identifier in ``satp``."""
    return satp >> SATP_ASID_SHIFT & SATP_ASID_MASK


def make_pte(pfn: int, flags: int) -> int:
    """A PTE for page frame number ``pfn`` (the spec's PPN) with the bits ``flags``."""
    return pfn << PTE_PPN_SHIFT | flags


def pte_pfn(pte: int) -> int:
    """The page frame number in a PTE."""
    return (pte & PTE_PPN_MASK) >> PTE_PPN_SHIFT


def is_leaf(pte: int) -> bool:
    """Whether a valid PTE maps memory, rather than pointing to a table (spec step 4)."""
    return bool(pte & (PTE_R | PTE_X))


def pte_attributes(pte: int) -> str:
    """The seven letters ``rwxugad`` with ``-`` for a clear bit, as QEMU's `info mem` has it."""
    return "".join(letter if pte & bit else "-" for bit, letter in PTE_LETTERS)


def describe_pte(pte: int) -> str:
    """A PTE in words: what it is, the frame it names, and its bits."""
    if not pte & PTE_V:
        return "not valid" if pte == 0 else f"not valid (other bits set: {pte:#x})"
    what = "page" if is_leaf(pte) else "table"
    words = f"{what} at PA {pte_pfn(pte) << PAGE_SHIFT:#x} {pte_attributes(pte)}"
    if pte & PTE_RSW:
        words += f" rsw={(pte & PTE_RSW) >> 8}"
    if pte & PTE_RESERVED:
        words += " reserved bits set"
    if pte & PTE_PBMT:
        words += f" pbmt={(pte & PTE_PBMT) >> 61}"
    if pte & PTE_N:
        words += " napot"
    return words
