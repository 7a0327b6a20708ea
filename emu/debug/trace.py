"""Traces: what the hart does, a line an event.

  trap  every trap: cause, where, from which level to which
  insn  every instruction, disassembled
  mmu   every page that is used for the first time under a satp: VA, access, PTEs, PA

`insn` and `mmu` call Python for each instruction: about a million times slower than a run
without them is to be expected.
"""

from __future__ import annotations

from collections.abc import Callable

import unicorn.unicorn_const as ucc

from emu import inside, insn, words
from emu.csr import PRIV_NAMES
from emu.debug.disasm import listing
from emu.debug.symbols import Symbols
from emu.hart import Hart
from emu.paging import PAGE_SHIFT, pte_attributes
from emu.trap import Trap
from emu.walk import Access, Refusal

KINDS = ("insn", "trap", "mmu")
_STORES = frozenset((0x23, 0x27))  # major opcodes
_MASK64 = (1 << 64) - 1


def attach(hart: Hart, kind: str, emit: Callable[[str], None], symbols: Symbols) -> None:
    """Trace ``kind`` of `KINDS` on ``hart``, giving each line to ``emit``.

    Raises ValueError for another kind.
    """
    if kind == "trap":
        hart.trap_listener = lambda trap: emit(_trap_line(trap, symbols))
    elif kind == "insn":
        _hook_code(hart, lambda va: emit(_insn_line(hart, va, symbols)))
    elif kind == "mmu":
        _hook_code(hart, _MmuTrace(hart, emit).instruction)
    else:
        raise ValueError(f"trace is one of {', '.join(KINDS)}, not {kind!r}")


def _hook_code(hart: Hart, see: Callable[[int], None]) -> None:
    def code(_uc: int, va: int, _size: int, _data: int) -> None:
        try:
            hart.access.load()
            see(va)
        except BaseException as e:  # nothing may pass through the engine's C frames
            hart.fail(e)

    callback = inside.CODE_CB(code)
    hart.callbacks.append(callback)
    inside.hook(hart.uc, ucc.UC_HOOK_CODE, callback)
    hart.access.flush_code()  # code that is translated already does not call it


def _trap_line(trap: Trap, symbols: Symbols) -> str:
    name = symbols.name(trap.epc)
    where = f" <{name}>" if name else ""
    levels = f"{PRIV_NAMES[trap.priv]}->{PRIV_NAMES[trap.target]}"
    return f"trap {levels} {trap.text} epc={trap.epc:#x}{where} tval={trap.tval:#x}"


def _insn_line(hart: Hart, va: int, symbols: Symbols) -> str:
    bits = hart.fetch(va)
    level = PRIV_NAMES[hart.words[words.PRIV]]
    return f"{level} " + (f"{va:#x}: ?" if bits is None else listing(bits, va, symbols.name(va)))


class _MmuTrace:
    """Which pages have been shown since satp last changed."""

    def __init__(self, hart: Hart, emit: Callable[[str], None]) -> None:
        self._hart = hart
        self._emit = emit
        self._satp = -1
        self._seen: set[tuple[int, Access, int]] = set()

    def instruction(self, va: int) -> None:
        hart = self._hart
        if hart.satp != self._satp:
            self._satp = hart.satp
            self._seen.clear()
            self._emit(f"mmu satp={self._satp:#x}")
        self._page(va, Access.EXECUTE)
        bits = hart.fetch(va)
        if bits is None:
            return
        gpr = [hart.words[i] for i in range(32)]
        address = insn.effective_address(bits, gpr)
        if address is not None:
            self._page(address & _MASK64, self._data_access(bits))

    @staticmethod
    def _data_access(bits: int) -> Access:
        if bits & 3 == 3:
            store = bits & 0x7F in _STORES or insn.is_store_or_amo(bits)
        else:
            store = bits >> 15 & 1 == 1  # RVC: funct3 5 to 7 are the stores
        return Access.WRITE if store else Access.READ

    def _page(self, va: int, access: Access) -> None:
        hart = self._hart
        key = (va >> PAGE_SHIFT, access, hart.words[words.PRIV])
        if key in self._seen:
            return
        self._seen.add(key)
        result = hart.walk(va, access)
        level = PRIV_NAMES[hart.words[words.PRIV]]
        if result is None:
            self._emit(f"mmu {level} {access.verb} {va:#x}: physical, not translated")
        elif isinstance(result, Refusal):
            self._emit(f"mmu {level} {access.verb} {va:#x}: refused, {result.rule.value}")
        else:
            way = " ".join(f"L{s.level}[{s.index:#x}]" for s in result.steps)
            self._emit(
                f"mmu {level} {access.verb} {va:#x}: {way} -> PA {result.pa:#x} "
                f"{pte_attributes(result.pte)}"
            )
