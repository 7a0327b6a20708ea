"""What the engine does by itself and a trace must see all the same.

  CodeHooks       callbacks at instructions, which can be taken away again
  ReturnWatch     each `sret` and `mret`, at the price of a callback for each
  InterruptWatch  each interrupt that the engine delivers itself (`Hart.present`)

What reaches into the engine for them is in `emu.engine.direct_access`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import unicorn.unicorn_const as ucc

from emu.engine import calls
from emu.engine.calls import EngineError
from emu.engine.direct_access import DirectAccess
from emu.hart import Hart
from emu.spec import csr as CSR
from emu.spec import insn, words
from emu.spec.csr import Priv
from emu.spec.paging import PAGE_SIZE
from emu.spec.trap import Trap
from emu.spec.walk import Access, Refusal

_SRET, _MRET = 0x1020_0073, 0x3020_0073
_ENGINE_TSR = 1 << 30  # where the engine keeps mstatus.TSR, see emu.engine.csr_repairs
_PAGES_KEPT = 1 << 14


class CodeHooks:
    """Hooks on ``hart`` that are removed together."""

    def __init__(self, hart: Hart) -> None:
        self._hart = hart
        self._handles: list[int] = []
        self.removed = False

    def add(self, kind: int, callback: Any, first: int = 1, last: int = 0) -> None:
        """Bind a raw callback to ``[first, last]`` (VA); everywhere when first > last.

        Code that is translated already does not call it: see `apply`.
        """
        self._hart.callbacks.append(callback)
        self._handles.append(calls.hook(self._hart.uc, kind, callback, first, last))

    def code(self, see: Callable[[int], None], first: int = 1, last: int = 0) -> None:
        """``see(va)`` before each instruction in ``[first, last]``, the state up to date."""
        hart = self._hart
        load = hart.access.load

        def code(_uc: int, va: int, _size: int, _data: int) -> None:
            try:
                load()
                see(va)
            except BaseException as e:  # nothing may pass through the engine's C frames
                hart.fail(e)

        self.add(ucc.UC_HOOK_CODE, calls.CODE_CB(code), first, last)

    def apply(self) -> None:
        """Let code that is translated already obey. Not while the engine runs it."""
        self._hart.access.flush_code()

    def remove(self) -> None:
        """Take all of them away, for good. Not while the engine runs."""
        self.removed = True
        while self._handles:
            calls.unhook(self._hart.uc, self._handles.pop())
        self.apply()


class ReturnWatch:
    """``returned(level, target, pc)`` at each `sret` and `mret` that is not illegal.

    The engine tells of each block that it translates; one that ends in such an instruction
    makes it a hook of its own. Code between them runs as fast as ever.
    """

    def __init__(
        self, hart: Hart, hooks: CodeHooks, returned: Callable[[int, int, int], None]
    ) -> None:
        self._hart = hart
        self._hooks = hooks
        self._returned = returned
        self._hooked: set[int] = set()  # VAs
        self._found: dict[int, int] = {}  # VAs that wait for their hook, and what stands there
        self._pages: dict[tuple[int, int, int], int | None] = {}
        hooks.add(ucc.UC_HOOK_EDGE_GENERATED, calls.EDGE_CB(self._on_block))

    def _on_block(self, _uc: int, block: int, _previous: int, _data: int) -> None:
        try:
            hart = self._hart
            hart.access.load()
            if hart.words[words.PRIV] == Priv.U:
                return
            found = calls.Block.from_address(block)
            last = found.pc + found.size - 4
            if found.size < 4 or last in self._hooked:
                return
            bits = self._read(last)
            if bits in (_SRET, _MRET):
                self._found[last] = bits
                hart.call_soon(self._hook)  # the block at hand has not run yet
        except BaseException as e:  # nothing may pass through the engine's C frames
            self._hart.fail(e)

    def _hook(self) -> None:
        if self._hooks.removed:  # this task has waited for the next run
            return
        for va, bits in self._found.items():
            self._hooked.add(va)
            self._hooks.code(self._seer(va, bits), va, va)
        self._found.clear()
        self._hooks.apply()

    def _read(self, va: int) -> int:
        """The instruction at ``va``, 0 where there is no RAM behind it."""
        low = self._half(va)
        # A block's last four bytes can also be two short instructions.
        return low | self._half(va + 2) << 16 if insn.length(low) == 4 else 0

    def _half(self, va: int) -> int:
        pa = self._physical(va)
        return 0 if pa is None else self._hart.ram.read16(pa)

    def _physical(self, va: int) -> int | None:
        """The PA in RAM that the hart fetches from at ``va``."""
        hart = self._hart
        # The reference walk is too slow for each block.
        key = (va & -PAGE_SIZE, hart.satp, hart.words[words.PRIV])
        if key not in self._pages:
            if len(self._pages) >= _PAGES_KEPT:
                self._pages.clear()
            result = hart.walk(key[0], Access.EXECUTE)
            pa = None
            if not isinstance(result, Refusal):
                pa = key[0] if result is None else result.pa
            self._pages[key] = pa if pa is not None and hart.ram.contains(pa, PAGE_SIZE) else None
        page = self._pages[key]
        return None if page is None else page + va % PAGE_SIZE

    def _seer(self, va: int, bits: int) -> Callable[[int], None]:
        """What looks at the instruction ``bits`` at ``va`` each time it is about to run."""
        w, returned, ram = self._hart.words, self._returned, self._hart.ram
        low, high = self._physical(va), self._physical(va + 2)
        assert low is not None and high is not None
        is_mret = bits == _MRET
        # A closure over what never changes: this is half of what a trap costs.
        priv_word, status_word, read16 = words.PRIV, words.MSTATUS, ram.read16

        def see(_va: int) -> None:
            level, status = w[priv_word], w[status_word]
            if is_mret:
                least, target = 3, (status & CSR.MSTATUS_MPP) >> CSR.MSTATUS_MPP_SHIFT
            else:
                least, target = 3 if status & _ENGINE_TSR else 1, status >> 8 & 1  # SPP
            # Illegal at a lower level; and another instruction may stand there by now.
            if level >= least and read16(low) == bits & 0xFFFF and read16(high) == bits >> 16:
                returned(level, target, va)

        return see


class InterruptWatch:
    """``taken(trap)`` after each interrupt that the engine has delivered by itself.

    Raises EngineError where the engine cannot be watched, or somebody does already.
    """

    def __init__(self, hart: Hart, taken: Callable[[Trap], None]) -> None:
        access, w = hart.access, hart.words
        if not isinstance(access, DirectAccess):
            raise EngineError("the hart is on the public interface")

        def took(priv: int) -> None:
            try:
                to_m = w[words.PRIV] == Priv.M
                xcause = w[words.MCAUSE if to_m else words.SCAUSE]
                epc = w[words.MEPC if to_m else words.SEPC]
                taken(Trap(xcause & (1 << 63) - 1, epc, 0, priv, w[words.PRIV], True))
            except BaseException as e:  # nothing may pass through the engine's C frames
                hart.fail(e)

        self._end = access.watch_interrupts(took)

    def close(self) -> None:
        """Give the engine its own function back; safe from callbacks too."""
        self._end()
