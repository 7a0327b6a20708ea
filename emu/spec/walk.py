"""The reference translation: the privileged spec's algorithm, one rule a branch.

Section 12.3.2 "Virtual Address Translation Process" (privileged spec 20240411). The walk
predicts, explains and checks what the hart does; no guest access is ever served by it.
It writes nothing: where the hart would set A or D, the result says so. `emu/engine/walk.c` is
the same in C, and the one that runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from emu.ram import Ram
from emu.spec.paging import (
    NAPOT_SIZE,
    PAGE_SHIFT,
    PTE_A,
    PTE_D,
    PTE_N,
    PTE_PBMT,
    PTE_R,
    PTE_RESERVED,
    PTE_SIZE,
    PTE_U,
    PTE_V,
    PTE_W,
    PTE_X,
    PagingMode,
    is_leaf,
    pte_attributes,
    pte_pfn,
)
from emu.spec.pmp import PMP_R, PMP_RWX, PMP_W, PMP_X, Pmp, Verdict

_NAPOT_64K = 8  # the low bits of the PPN that say so


class Access(Enum):
    """The kind of the original access, with its two exception codes (table 14)."""

    EXECUTE = ("execute", 12, 1)
    READ = ("read", 13, 5)
    WRITE = ("write", 15, 7)

    def __init__(self, verb: str, page_fault: int, access_fault: int) -> None:
        self.verb = verb
        self.page_fault = page_fault
        self.access_fault = access_fault


ACCESS_OF_CAUSE = {
    cause: access for access in Access for cause in (access.page_fault, access.access_fault)
}


RIGHTS = {Access.READ: PMP_R, Access.WRITE: PMP_W, Access.EXECUTE: PMP_X}


class Rule(Enum):
    """The rules that can refuse an access, in the order in which they are applied."""

    NON_CANONICAL = "the upper bits of the VA do not all equal its topmost translated bit"
    TABLE_NOT_RAM = "the page table lies outside of RAM"
    TABLE_NOT_READABLE = "the PMP does not let S-mode read the page table"
    NOT_VALID = "the PTE is not valid (V=0)"
    WRITE_WITHOUT_READ = "the PTE has W=1 and R=0, which is reserved"
    RESERVED_BITS = "the PTE has reserved bits set (54-60, or PBMT or N without their extension)"
    PBMT_RESERVED = "the PTE has PBMT=3, which is reserved"
    NAPOT_RESERVED = (
        "the PTE has N=1 with a size that is reserved (64 KiB at level 0 is the only one)"
    )
    POINTER_HAS_AD_U = "the PTE points to a table but has A, D or U set, which is reserved"
    NO_LEAF = "the PTE at level 0 points to a table: there is no further level"
    MISALIGNED_SUPERPAGE = "the superpage's PPN is not aligned to its size"
    USER_PAGE_NOT_USER = "U-mode may not touch a page with U=0"
    USER_PAGE_NO_SUM = "S-mode may not touch a page with U=1 while sstatus.SUM=0"
    USER_PAGE_EXECUTE = "S-mode may never execute from a page with U=1"
    NOT_READABLE = "the PTE does not allow reading (R=0, and X=1 with MXR does not help)"
    NOT_WRITABLE = "the PTE does not allow writing (W=0)"
    NOT_EXECUTABLE = "the PTE does not allow execution (X=0)"
    NOT_ACCESSED = "the PTE has A=0 and the hart does not set it (Svade)"
    NOT_DIRTY = "the PTE has D=0 on a write and the hart does not set it (Svade)"
    TABLE_NOT_WRITABLE = "the PMP does not let the hart set A or D in the page table"
    NOT_MEMORY = "no memory or device allows such an access at the PA"
    PMP_DENIES = "the PMP denies the access"

    @property
    def is_access_fault(self) -> bool:
        """Whether it is physical memory that refuses, and the exception an access fault."""
        return self in _ACCESS_FAULTS


def rule_number(rule: Rule) -> int:
    """The number that `emu/engine/walk.c` has for ``rule``: from 1 on, in their order."""
    return list(Rule).index(rule) + 1


_ACCESS_FAULTS = frozenset(
    (
        Rule.TABLE_NOT_RAM,
        Rule.TABLE_NOT_READABLE,
        Rule.TABLE_NOT_WRITABLE,
        Rule.NOT_MEMORY,
        Rule.PMP_DENIES,
    )
)


@dataclass(frozen=True, slots=True)
class Step:
    """One PTE that the walk read: its level, its index in the table, its PA, its value."""

    level: int
    index: int
    pte_pa: int
    pte: int


@dataclass(frozen=True, slots=True, repr=False)
class Translation:
    """A walk that succeeded.

    ``pa`` is the physical address; ``level`` the leaf's level; ``pte`` the leaf;
    ``set_bits`` the A and D bits that the hart sets in it on this access (Svadu).
    """

    va: int
    pa: int
    level: int
    pte: int
    set_bits: int
    steps: tuple[Step, ...]

    def __repr__(self) -> str:
        what = f"level {self.level}, {pte_attributes(self.pte)}"
        return f"<Translation of {self.va:#x}: PA {self.pa:#x}, {what}>"


@dataclass(frozen=True, slots=True, repr=False)
class Refusal:
    """A walk that was refused: by which rule, at which level, with which exception code.

    ``level`` is None when the VA was refused before any table was read.
    ``pte_pa`` is the PTE's PA, where one was at fault. ``pmp_entry`` is the PMP's entry that
    refused, where one did; None with a rule of the PMP: none matches.
    """

    va: int
    rule: Rule
    level: int | None
    pte_pa: int | None
    cause: int
    steps: tuple[Step, ...]
    pmp_entry: int | None = None

    def __repr__(self) -> str:
        at = "" if self.level is None else f" at level {self.level}"
        return f"<Refusal of {self.va:#x}{at}: {self.rule.value}, cause {self.cause}>"


@dataclass(frozen=True, slots=True)
class WalkConfig:
    """What of the hart's state and extensions bears on a translation.

    ``user``: the effective privilege is U (else S). ``sum``, ``mxr``: the bits of mstatus.
    ``svade``: the hart raises a page fault where A or D needs setting; without it the hart
    sets them, as Svadu has it and QEMU does. ``svnapot``; ``svpbmt``: the extension is there,
    and menvcfg.PBMTE is set. ``pmp``: its registers, None: the hart has none.
    """

    user: bool = False
    sum: bool = False
    mxr: bool = False
    svade: bool = False
    svnapot: bool = False
    svpbmt: bool = False
    pmp: Pmp | None = None


def walk(
    ram: Ram,
    mode: PagingMode,
    root_pa: int,
    va: int,
    access: Access,
    config: WalkConfig = WalkConfig(),
) -> Translation | Refusal:
    """Translate ``va`` (VA) for ``access`` through the tables at ``root_pa`` (PA).

    Returns a Translation, or the Refusal that names the rule. Reads at most
    ``mode.levels`` PTEs. Raises nothing for any content of RAM. Whether the page at the end may
    be accessed is `check_access`'s.
    """
    steps: list[Step] = []

    def refuse(
        rule: Rule, level: int | None, pte_pa: int | None = None, entry: int | None = None
    ) -> Refusal:
        cause = access.access_fault if rule.is_access_fault else access.page_fault
        return Refusal(va, rule, level, pte_pa, cause, tuple(steps), entry)

    def table_rights(pte_pa: int) -> Verdict:
        """Of the walk's own accesses, which are S-mode's (section 3.7.1)."""
        if config.pmp is None:
            return Verdict(PMP_RWX, None)
        return config.pmp.verdict(pte_pa, PTE_SIZE, machine=False)

    # Section 12.4.1: before the walk, the VA itself.
    if not mode.is_canonical(va):
        return refuse(Rule.NON_CANONICAL, None)

    # Steps 1 and 2: a is the table, i the level.
    a = root_pa
    i = mode.levels - 1
    while True:
        pte_pa = a + mode.index(va, i) * PTE_SIZE
        if not ram.contains(pte_pa, PTE_SIZE):
            return refuse(Rule.TABLE_NOT_RAM, i, pte_pa)
        verdict = table_rights(pte_pa)
        if not verdict.rights & PMP_R:
            return refuse(Rule.TABLE_NOT_READABLE, i, pte_pa, verdict.entry)
        pte = ram.read64(pte_pa)
        steps.append(Step(i, mode.index(va, i), pte_pa, pte))

        # Step 3: valid, and nothing reserved set.
        if not pte & PTE_V:
            return refuse(Rule.NOT_VALID, i, pte_pa)
        if pte & PTE_W and not pte & PTE_R:
            return refuse(Rule.WRITE_WITHOUT_READ, i, pte_pa)
        reserved = _reserved(pte, i, config)
        if reserved is not None:
            return refuse(reserved, i, pte_pa)

        # Step 4: a leaf, or one level down.
        if is_leaf(pte):
            break
        if pte & (PTE_A | PTE_D | PTE_U):
            return refuse(Rule.POINTER_HAS_AD_U, i, pte_pa)
        if i == 0:
            return refuse(Rule.NO_LEAF, i, pte_pa)
        i -= 1
        a = pte_pfn(pte) << PAGE_SHIFT

    # Step 5: a superpage is aligned to its size.
    if (pte_pfn(pte) << PAGE_SHIFT) & (mode.span(i) - 1):
        return refuse(Rule.MISALIGNED_SUPERPAGE, i, pte_pa)

    # Step 6: the U bit against the privilege.
    if config.user:
        if not pte & PTE_U:
            return refuse(Rule.USER_PAGE_NOT_USER, i, pte_pa)
    elif pte & PTE_U:
        if access is Access.EXECUTE:
            return refuse(Rule.USER_PAGE_EXECUTE, i, pte_pa)
        if not config.sum:
            return refuse(Rule.USER_PAGE_NO_SUM, i, pte_pa)

    # Step 8: R, W and X (step 7 is the shadow stack's, an extension that is absent).
    if access is Access.READ:
        if not pte & PTE_R and not (config.mxr and pte & PTE_X):
            return refuse(Rule.NOT_READABLE, i, pte_pa)
    elif access is Access.WRITE:
        if not pte & PTE_W:
            return refuse(Rule.NOT_WRITABLE, i, pte_pa)
    elif not pte & PTE_X:
        return refuse(Rule.NOT_EXECUTABLE, i, pte_pa)

    # Step 9: A and D.
    wanted = PTE_A | (PTE_D if access is Access.WRITE else 0)
    set_bits = wanted & ~pte
    if set_bits and config.svade:
        rule = Rule.NOT_ACCESSED if set_bits & PTE_A else Rule.NOT_DIRTY
        return refuse(rule, i, pte_pa)
    if set_bits:
        verdict = table_rights(pte_pa)
        if not verdict.rights & PMP_W:
            return refuse(Rule.TABLE_NOT_WRITABLE, i, pte_pa, verdict.entry)

    # Step 10: the offset inside the (super)page, or NAPOT range, comes from the VA.
    span = NAPOT_SIZE if pte & PTE_N else mode.span(i)
    offset = va & (span - 1)
    pa = (pte_pfn(pte) << PAGE_SHIFT & -span) + offset
    return Translation(va, pa, i, pte, set_bits, tuple(steps))


def _reserved(pte: int, level: int, config: WalkConfig) -> Rule | None:
    """The rule about reserved bits and encodings that ``pte`` breaks (chapters 13 and 14)."""
    if pte & PTE_RESERVED:
        return Rule.RESERVED_BITS
    if pte & PTE_PBMT:
        if not is_leaf(pte) or not config.svpbmt:
            return Rule.RESERVED_BITS
        if pte & PTE_PBMT == PTE_PBMT:
            return Rule.PBMT_RESERVED
    if pte & PTE_N:
        if not is_leaf(pte) or not config.svnapot:
            return Rule.RESERVED_BITS
        if level != 0 or pte_pfn(pte) & 15 != _NAPOT_64K:
            return Rule.NAPOT_RESERVED
    return None


def check_access(
    pa: int, size: int, access: Access, board_rights: int, pmp: Pmp | None, machine: bool
) -> tuple[Rule, int | None] | None:
    """Whether physical memory allows ``size`` bytes at ``pa`` (all in one page): None, or the rule
    and the PMP's entry that refuse.

    ``board_rights``: PMP_R, PMP_W and PMP_X as far as the board goes, 0 where nothing is.
    ``machine``: the access is one of M-mode (or of M through MPRV=0).
    """
    want = RIGHTS[access]
    if not board_rights & want:
        return Rule.NOT_MEMORY, None
    if pmp is None:
        return None
    verdict = pmp.verdict(pa, size, machine)
    return None if verdict.rights & want else (Rule.PMP_DENIES, verdict.entry)
