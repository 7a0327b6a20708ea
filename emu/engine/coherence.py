"""Translated code that never goes stale, whoever writes to its bytes and through which page.

The engine drops the translation of code when a store goes through the page that the code
was fetched through. A store through another mapping of the same frame (Linux patches itself
through a fixmap; a page that was code is used again and filled through the direct map) leaves
the old translation in place, and `fence.i` changes nothing about that.

So the first time that code is translated in a page of physical memory, an inert hook is
bound to that page: the engine then takes its slow way for each store to it, whatever the
mapping, and that way looks for translated code. Pages without code keep their fast stores.

Each refill of the TLB looks through all hooks, so there are few: a guest whose code lies in
many places gets hooks that cover what lies between them, too. Linux's boot made 173 hooks of
64 KiB each without that and took 3.6 s, 17 hooks and 2.2 s with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import unicorn.unicorn_const as ucc

from emu.engine import calls
from emu.engine.layout import move_hook
from emu.engine.layout_proof import proven_layout
from emu.ram import sparse
from emu.spec import insn, words
from emu.spec.csr import Priv
from emu.spec.paging import PAGE_SHIFT, PAGE_SIZE
from emu.spec.walk import Access, Refusal

if TYPE_CHECKING:
    from emu.engine.hart import Hart

_M64 = (1 << 64) - 1
_EXTENTS_MAX = 16
# What an extent grows by, once there are that many: each time costs the TLB.
_GROWS_BY = 64 << 10  # bytes


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
        self._inert = calls.MEM_CB(lambda *_: False)
        # A byte for each page of RAM, not 0: code there is watched. Linux's boot makes 65,000
        # blocks, and calls Python for some hundred of them.
        self._seen = sparse(-(-hart.ram.size >> PAGE_SHIFT))
        edge = calls.EDGE_CB(self._on_block)
        hart.callbacks.extend((self._inert, edge))
        callback, data = hart.access.new_block_hook(hart.ram.base, self._seen, PAGE_SHIFT, edge)
        calls.hook(hart.uc, ucc.UC_HOOK_EDGE_GENERATED, callback, data=data)
        hart.access.speed_bare_stores()

    def holds_code(self, pa: int, size: int) -> bool:
        """Whether any of ``[pa, pa + size)`` lies where code has been translated."""
        return any(e.first < pa + size and pa < e.end for e in self._extents)

    def enters(self, va: int) -> None:
        """The engine is about to start at ``va``: of the block that it starts with, if that is
        new, it does not tell."""
        # By the reference walk: the engine's own sets A bits, and this may not be fetched at all.
        pa = self._fetched(va)
        if pa is None:
            return
        self._see_at(pa)
        last = va | PAGE_SIZE - 2
        if insn.length(self._hart.fetch16(last) or 0) == 4:  # it may go on in the next page
            pa = self._fetched(last + 2 & _M64)
            if pa is not None:
                self._see_at(pa)

    def _fetched(self, va: int) -> int | None:
        """The PA that the hart would fetch from, None: it would trap."""
        result = self._hart.walk(va, Access.EXECUTE)
        if isinstance(result, Refusal):
            return None
        return va if result is None else result.pa

    def _on_block(self, _uc: int, block: int, _previous: int, _data: int) -> None:
        try:
            found = calls.Block.from_address(block)
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
            pa = self._fetched(va)
        if pa is not None:
            self._see_at(pa)

    def _see_at(self, pa: int) -> None:
        ram = self._hart.ram
        if ram.contains(pa) and self._seen[pa - ram.base >> PAGE_SHIFT]:
            return
        if not any(extent.first <= pa < extent.end for extent in self._extents):
            self._watch(pa & -PAGE_SIZE)
        self._saw(pa & -PAGE_SIZE, PAGE_SIZE)

    def _saw(self, first: int, size: int) -> None:
        """All code in ``size`` bytes at ``first`` (PA, whole pages) is watched."""
        ram = self._hart.ram
        begin, end = max(first, ram.base), min(first + size, ram.end)
        if begin < end:
            page, count = begin - ram.base >> PAGE_SHIFT, end - begin >> PAGE_SHIFT
            self._seen[page : page + count] = b"\1" * count

    def _watch(self, first: int) -> None:
        """Make stores to the page at ``first`` (PA) slow."""
        if not self._hart.access.in_place:
            first &= -_GROWS_BY
            self._add(first, first + _GROWS_BY)
        elif len(self._extents) < _EXTENTS_MAX:
            self._add(first, first + PAGE_SIZE)
        else:
            self._make_room(first)
        self._hart.access.flush_tlb()  # entries made before take the fast way

    def _add(self, first: int, end: int) -> None:
        kind = ucc.UC_HOOK_MEM_WRITE_UNMAPPED
        handle = calls.hook(self._hart.uc, kind, self._inert, first, end - 1)
        self._extents.append(_Extent(handle, first, end))

    def _make_room(self, first: int) -> None:
        """Cover the page by what is there: of all gaps, the smallest is closed.

        That is the one to the nearest extent, which grows, or one between two others, of which
        one takes all and the other is free for the page.
        """
        extents = sorted(self._extents, key=lambda extent: extent.first)
        nearest = min(extents, key=lambda e: max(e.first - first, first - e.end))
        left, right = min(pairwise(extents), key=lambda pair: pair[1].first - pair[0].end)
        to_page = max(nearest.first - first - PAGE_SIZE, first - nearest.end)
        if to_page > right.first - left.end:
            self._move(left, left.first, right.end)
            self._move(right, first, first + PAGE_SIZE)
        else:
            chunk = first & -_GROWS_BY
            self._move(nearest, min(nearest.first, chunk), max(nearest.end, chunk + _GROWS_BY))

    def _move(self, extent: _Extent, first: int, end: int) -> None:
        before, after = (extent.first, extent.end - 1), (first, end - 1)
        move_hook(extent.handle, proven_layout(), self._inert, before, after)
        extent.first, extent.end = first, end
        self._saw(first, end - first)
