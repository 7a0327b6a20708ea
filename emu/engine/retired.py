"""How many instructions have retired: `minstret`, to the instruction.

The C counts block by block (`count_block`), from a table of how many instructions a block has.
What it does not find there is counted here, where it lies in memory. A block that is translated
anew is forgotten by the table (`forget_block`), for its code may have changed.

A block is counted as a whole when it begins. So at an exception in the middle of one the rest
of it, the trapping instruction included, is taken back: it has not retired (section 3.3.1 says
so of `ecall` and `ebreak` too). The instruction that reads a counter ends its block, as all
accesses of CSRs do.
"""

from __future__ import annotations

import ctypes as C
from collections.abc import Callable
from typing import TYPE_CHECKING

import unicorn.unicorn_const as ucc

from emu.engine import calls, native
from emu.engine.direct_access import DirectAccess
from emu.spec import insn, words
from emu.spec.csr import Priv
from emu.spec.paging import PAGE_SIZE

if TYPE_CHECKING:
    from emu.engine.hart import Hart

_BITS = 18  # of the table's size: 4 MiB, of which the host keeps what is used
_M64 = (1 << 64) - 1


class Retired:
    """Counts for ``hart``; attach before its first run. ``counter`` counts its blocks."""

    def __init__(self, hart: Hart, access: DirectAccess, counter: native.BlockCounter) -> None:
        self._hart = hart
        self._counter = counter
        self._lengths = (native.Length * ((1 << _BITS) + native.WAYS))()
        # Of U-mode's blocks, by VA and size, how many instructions they had first. Where another
        # address space has another block, the engine may keep both, and tells of neither when
        # it changes from one to the other: those are counted each time.
        self._known: dict[tuple[int, int], int] = {}
        self._ambiguous: set[tuple[int, int]] = set()
        self._trapped = False
        unknown = calls.BLOCK_CB(self._on_unknown)
        new = calls.EDGE_CB(native.function("forget_block"))
        hart.callbacks.extend((unknown, new, self))
        counter.bits = _BITS
        counter.unknown = C.cast(unknown, C.c_void_p).value or 0
        counter.leaves = access.leaves_at
        counter.lengths = C.addressof(self._lengths)
        kind = ucc.UC_HOOK_EDGE_GENERATED
        calls.hook(hart.uc, kind, new, data=C.addressof(counter))

    @property
    def count(self) -> int:
        """Instructions, of the block at hand all of them."""
        return int(self._counter.instructions)

    def counted(self, pc: int, limit: int, start: Callable[[], int]) -> int:
        """Run the engine from ``pc``, by ``start``; ``limit`` 1: for one instruction."""
        self._trapped = False
        # The block that it begins with may be new, and the engine would not tell.
        self._put(pc, 0, 0)
        before = self.count
        status = start()
        if limit == 1:  # the block, or what it would be, goes on behind it
            self._counter.instructions = before + (not self._trapped)
            # An access to a hole is found to trap when the engine has returned.
            self._counter.va = pc
            self._counter.size = insn.length(self._hart.fetch16(pc) or 0)
        return status

    def trapped(self, pc: int) -> None:
        """The instruction at ``pc`` has trapped."""
        self._trapped = True
        begin, size = self._counter.va, self._counter.size
        if pc - begin & _M64 < size:
            left = self._instructions(pc, size - (pc - begin & _M64))
            self._counter.instructions -= left

    def _on_unknown(self, _uc: int, va: int, size: int, _data: int) -> None:
        try:
            count = self._instructions(va, size)
            if self._hart.words[words.PRIV] == Priv.U:
                key = va, size
                if self._known.setdefault(key, count) != count:
                    self._ambiguous.add(key)
                if key in self._ambiguous:
                    self._put(va, 0, 0)
                    self._counter.instructions += count
                    return
            self._put(va, size, count)
            self._counter.instructions += count
        except BaseException as e:  # nothing may pass through the engine's C frames
            self._hart.fail(e)

    def _put(self, va: int, size: int, instructions: int) -> None:
        """Into the table; ``size`` 0: out of it."""
        place = (va * native.HASH & _M64) >> 64 - _BITS
        ways = [self._lengths[place + i] for i in range(native.WAYS)]
        if size == 0:
            for way in ways:
                if way.va == va:
                    way.size = 0
            return
        free = next((way for way in ways if way.size == 0), ways[size >> 1 & native.WAYS - 1])
        free.va, free.size, free.instructions = va, size, instructions

    def _instructions(self, va: int, size: int) -> int:
        """How many lie in ``size`` bytes at ``va``."""
        code = self._code(va, size)
        count, at = 0, 0
        while at < size:
            bits = code[at] if code is not None else self._hart.fetch16(va + at & _M64)
            at += insn.length(bits or 0)
            count += 1
        return count

    def _code(self, va: int, size: int) -> bytes | None:
        """The bytes at ``va``, None where they are not in one page of RAM that can be read."""
        hart = self._hart
        if va % PAGE_SIZE + size > PAGE_SIZE:
            return None
        pa = va if hart.words[words.PRIV] == Priv.M else hart.access.physical(va)
        if pa is None or not hart.ram.contains(pa, size):
            return None
        return bytes(hart.ram.read(pa, size))
