"""Translated code that never goes stale, whoever writes to its bytes and through which page.

The engine drops the translation of code when a store goes through the page that the code
was fetched through. A store through another mapping of the same frame (Linux patches itself
through a fixmap; a page that was code is used again and filled through the direct map) leaves
the old translation in place, and `fence.i` changes nothing about that.

So the first time that code is translated in a chunk of physical memory, an inert hook is
bound to that chunk: the engine then takes its slow way for each store to it, whatever the
mapping, and that way looks for translated code. Chunks without code keep their fast stores.

A kernel that is written in Python needs none of this: it knows when a frame becomes code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import unicorn.unicorn_const as ucc

from emu import inside, words
from emu.csr import Priv
from emu.paging import PAGE_SHIFT
from emu.ram import sparse
from emu.walk import Access, Refusal

if TYPE_CHECKING:
    from emu.hart import Hart

_CHUNK_SHIFT = 16
_CHUNK = 1 << _CHUNK_SHIFT  # bytes
# Each refill of the TLB looks through all hooks: one hook covers chunks that lie this near
# to each other. Linux's boot made 173 hooks without it and took 3.6 s, 17 and 2.2 s with it.
_NEAR = 512 << 10  # bytes


@dataclass(slots=True)
class _Extent:
    """One hook, and the bytes ``[first, end)`` (PA) that it is bound to."""

    handle: int
    first: int
    end: int


class Coherence:
    """Keeps the translated code of ``hart`` coherent with RAM. Attach before the first run."""

    def __init__(self, hart: Hart) -> None:
        self._hart = hart
        self._extents: list[_Extent] = []
        self._inert = inside.MEM_CB(lambda *_: False)
        # A byte for each chunk of RAM, not 0: code there is watched. Linux's boot makes 65,000
        # blocks, and calls Python for some hundred of them.
        self._seen = sparse(-(-hart.ram.size >> _CHUNK_SHIFT))
        edge = inside.EDGE_CB(self._on_block)
        hart.callbacks.extend((self._inert, edge))
        callback, data = hart.access.new_block_hook(hart.ram.base, self._seen, _CHUNK_SHIFT, edge)
        inside.hook(hart.uc, ucc.UC_HOOK_EDGE_GENERATED, callback, data=data)
        hart.access.speed_bare_stores()

    def holds_code(self, pa: int, size: int) -> bool:
        """Whether any of ``[pa, pa + size)`` lies where code has been translated."""
        return any(e.first < pa + size and pa < e.end for e in self._extents)

    def _on_block(self, _uc: int, block: int, _previous: int, _data: int) -> None:
        try:
            found = inside.Block.from_address(block)
            first = found.pc
            self._see(first)
            last = first + max(found.size, 1) - 1
            if (first ^ last) >> PAGE_SHIFT:
                self._see(last)
        except BaseException as e:  # nothing may pass through the engine's C frames
            self._hart.fail(e)

    def _see(self, va: int) -> None:
        """Code at ``va`` has been translated."""
        hart = self._hart
        hart.access.load()
        # Of M-mode's fetches MPRV says nothing; `physical` looks as a load would.
        pa = va if hart.words[words.PRIV] == Priv.M else hart.access.physical(va)
        if pa is None:  # the public way, or a page that may be executed but not read
            result = hart.walk(va, Access.EXECUTE)
            if isinstance(result, Refusal):
                return
            pa = va if result is None else result.pa
        if not any(extent.first <= pa < extent.end for extent in self._extents):
            self._watch(pa & -_CHUNK)
        if hart.ram.contains(pa):
            self._seen[pa - hart.ram.base >> _CHUNK_SHIFT] = 1

    def _watch(self, first: int) -> None:
        """Make stores to the chunk at ``first`` (PA) slow."""
        hart, end = self._hart, first + _CHUNK
        extent = next(
            (e for e in self._extents if first - _NEAR <= e.end and e.first <= end + _NEAR), None
        )
        if extent is None or not hart.access.in_place:
            kind = ucc.UC_HOOK_MEM_WRITE_UNMAPPED
            handle = inside.hook(hart.uc, kind, self._inert, first, end - 1)
            self._extents.append(_Extent(handle, first, end))
        else:
            extent.first, extent.end = min(extent.first, first), max(extent.end, end)
            inside.grow_hook(extent.handle, self._inert, extent.first, extent.end - 1)
        hart.access.flush_tlb()  # entries made before take the fast way
