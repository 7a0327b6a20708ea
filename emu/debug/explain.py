"""Why did it fault? The whole answer, as text.

Registers, the code around the fault, the virtual address split into indices, each PTE on
the way with its bits in words, and the rule that refused. Everything is computed by the
reference walk over the RAM as it stands at the fault.
"""

from __future__ import annotations

from emu.debug.disasm import listing
from emu.debug.symbols import Symbols
from emu.hart import Hart
from emu.spec import csr as CSR
from emu.spec import insn, words
from emu.spec.paging import (
    PAGE_SIZE,
    PagingMode,
    describe_pte,
    mode_of_satp,
    pte_attributes,
    satp_asid,
    satp_root,
)
from emu.spec.tables import size_text
from emu.spec.trap import ACCESS_FAULTS, PAGE_FAULTS, Trap
from emu.spec.walk import ACCESS_OF_CAUSE, Access, Refusal, Rule, Translation, walk

_FUNCTION_SIZE_MAX = 4096  # bytes that are read to find where instructions start
_CODE_BEFORE, _CODE_AFTER = 4, 4  # instructions shown around the faulting one


def explain(hart: Hart, trap: Trap, symbols: Symbols | None = None) -> str:
    """The explanation of an unhandled trap, many lines without the last newline."""
    symbols = symbols or Symbols()
    status = hart.words[words.MSTATUS]
    lines = [
        f"{trap.text} in {CSR.Priv(trap.priv).name}-mode at "
        f"{trap.epc:#x}{_named(symbols, trap.epc)}"
    ]
    is_access = not trap.interrupt and trap.cause in PAGE_FAULTS | ACCESS_FAULTS
    if is_access:
        verb = ACCESS_OF_CAUSE[trap.cause].verb
        lines[0] += f", {verb} of {trap.tval:#x}{_named(symbols, trap.tval)}"
    lines += ["", *_registers(hart, trap)]
    lines += ["", "code:", *_code(hart, trap.epc, symbols)]
    if is_access:
        lines += ["", *_translation(hart, trap.tval, ACCESS_OF_CAUSE[trap.cause])]
    elif trap.cause == 2 and not trap.interrupt:
        lines += [
            "",
            f"the bits {trap.tval:#x} are no instruction that this hart has at this level",
        ]
    if trap.priv != 3 and status & CSR.MSTATUS_SUM:
        lines.append("sstatus.SUM=1: S-mode may touch U pages")
    return "\n".join(lines)


def _named(symbols: Symbols, va: int) -> str:
    name = symbols.name(va)
    return f" <{name}>" if name else ""


def _registers(hart: Hart, trap: Trap) -> list[str]:
    w = hart.words
    level = "s" if trap.target == 1 else "m"
    lines = [
        f"{level}epc   {trap.epc:#018x}  {level}cause {trap.xcause:#x} ({trap.text})",
        f"{level}tval  {trap.tval:#018x}  satp   {hart.satp:#018x}",
    ]
    for row in range(0, 32, 4):
        cells = (f"{words.ABI_NAMES[i]:<5} {w[i]:#018x}" for i in range(row, row + 4))
        lines.append("  ".join(cells))
    return lines


def _code(hart: Hart, pc: int, symbols: Symbols) -> list[str]:
    """The instructions around ``pc`` that can be fetched."""
    starts = _starts_before(hart, pc, symbols)
    lines = []
    va = starts[0] if starts else pc
    shown_after = 0
    while shown_after <= _CODE_AFTER:
        bits = hart.fetch(va)
        if bits is None:
            lines.append(f"{'=>' if va == pc else '  '} {va:#x}: cannot be fetched")
            break
        lines.append(f"{'=>' if va == pc else '  '} {listing(bits, va, symbols.name(va))}")
        if va >= pc:
            shown_after += 1
        va += insn.length(bits)
    return lines


def _starts_before(hart: Hart, pc: int, symbols: Symbols) -> list[int]:
    """Addresses of up to _CODE_BEFORE instructions that lead up to ``pc``.

    Instructions are 2 or 4 bytes long, so code cannot be read backwards: read forwards from
    the start of the function, or else take the longest chain that ends exactly at ``pc``.
    """
    function = symbols.start(pc)
    if function is not None and pc - function <= _FUNCTION_SIZE_MAX:
        chain = _chain(hart, function, pc)
        if chain is not None:
            return chain[-_CODE_BEFORE:]
    chains = (_chain(hart, pc - back, pc) for back in range(2, 4 * _CODE_BEFORE + 1, 2))
    fitting = [chain for chain in chains if chain and len(chain) <= _CODE_BEFORE]
    return max(fitting, key=len, default=[])


def _chain(hart: Hart, va: int, end: int) -> list[int] | None:
    """The instructions from ``va`` on, when they end exactly at ``end``."""
    chain = []
    while 0 <= va < end:
        bits = hart.fetch(va)
        if not bits:
            return None
        chain.append(va)
        va += insn.length(bits)
    return chain if va == end else None


def _translation(hart: Hart, va: int, access: Access) -> list[str]:
    translated, config = hart.walk_config(access)
    mode = mode_of_satp(hart.satp)
    refused = _refusal(hart, va, access)
    if not translated or mode is None:
        lines = [f"{va:#x} is a physical address here (no translation); RAM is {hart.ram!r}"]
        if refused is not None:
            lines.append(f"refused: {_physical_reason(hart, va, refused)}")
        return lines
    result = walk(hart.ram, mode, satp_root(hart.satp), va, access, config)
    lines = describe_walk(mode, satp_root(hart.satp), va, result, satp_asid(hart.satp))
    if isinstance(result, Translation):
        if refused is not None:
            lines.append(f"refused: {_physical_reason(hart, result.pa, refused)}")
        else:
            lines.append(
                "the tables allow this access now: the hart used an older translation "
                "(a missing sfence.vma?), or the tables changed since"
            )
    return lines


def _refusal(hart: Hart, va: int, access: Access) -> Refusal | None:
    """Why an access of some size would be refused now; None: none would."""
    for size in (1, 2, 4, 8):
        found = hart.predict(va, access, min(size, PAGE_SIZE - va % PAGE_SIZE))
        if isinstance(found, Refusal):
            return found
    return None


def _physical_reason(hart: Hart, pa: int, refused: Refusal) -> str:
    """What of physical memory refuses, of a refusal by the board or the PMP."""
    if refused.rule is Rule.NOT_MEMORY:
        rights = hart.mmu.board_rights(pa)
        is_there = "a device or ROM that allows no such access" if rights else NO_MEMORY
        return f"PA {pa:#x} is {is_there}"
    if refused.pmp_entry is not None:
        return f"{hart.mmu.pmp.describe(refused.pmp_entry)} denies it at PA {pa:#x}"
    return f"no PMP entry matches PA {pa:#x}: S-mode and U-mode may not touch it. {NO_PMP_HINT}"


NO_MEMORY = "neither RAM nor a device"
NO_PMP_HINT = "A kernel that sets up no PMP runs with --no-pmp, as with QEMU's -cpu rv64,pmp=false"


def describe_walk(
    mode: PagingMode, root_pa: int, va: int, result: Translation | Refusal, asid: int = 0
) -> list[str]:
    """A walk in words, a line for the split VA, one for each PTE, one for the outcome."""
    *vpn, offset = mode.split(va)
    split = " ".join(
        f"vpn[{level}]={index:#x}"
        for level, index in zip(range(mode.levels - 1, -1, -1), vpn, strict=True)
    )
    lines = [
        f"VA {va:#x} in {mode.name}: {split} offset={offset:#x}",
        f"root table at PA {root_pa:#x}, ASID {asid}",
    ]
    for step in result.steps:
        lines.append(
            f"  level {step.level}: PTE {step.index:#x} at PA {step.pte_pa:#x} = "
            f"{step.pte:#018x}: {describe_pte(step.pte)}"
        )
    if isinstance(result, Refusal):
        at = "before any table" if result.level is None else f"at level {result.level}"
        if result.pte_pa is not None and len(result.steps) == 0:
            at += f" (PTE at PA {result.pte_pa:#x})"
        by = "" if result.pmp_entry is None else f" (PMP entry {result.pmp_entry})"
        lines.append(f"refused {at}: {result.rule.value}{by}")
    else:
        lines.append(
            f"PA {result.pa:#x}, a {size_text(mode.span(result.level))} page, "
            f"{pte_attributes(result.pte)}"
        )
    return lines
