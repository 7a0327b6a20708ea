"""What one hart asks of others (SBI 2.0): IPI (chapter 7) and RFENCE (chapter 8).

A list that names a hart which the machine does not have is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from emu.hart import Hart
from emu.spec import words as W
from emu.spec.csr import IRQ_SSI
from firmware.sbi.numbers import (
    ERR_INVALID_ADDRESS,
    ERR_INVALID_PARAM,
    ERR_NOT_SUPPORTED,
    SUCCESS,
    Extension,
)

_ALL = (1 << 64) - 1


class Harts:
    """The calls of ``hart`` on a list of the machine's ``harts``.

    Each takes ``hart_mask`` and ``hart_mask_base`` (section 3.1) and returns an error code.
    """

    def __init__(self, hart: Hart, harts: Sequence[Hart]) -> None:
        self._hart = hart
        self._harts = {each.hartid: each for each in harts}

    def ipi_extension(self) -> Extension:
        w = self._hart.words
        return {0: lambda: (self.send_ipi(w[W.A0], w[W.A1]), 0)}

    def rfence_extension(self) -> Extension:
        w = self._hart.words

        def fence_vma() -> tuple[int, int]:
            return self.sfence_vma(w[W.A0], w[W.A1], w[W.A2], w[W.A3]), 0

        return {
            0: lambda: (self.fence_i(w[W.A0], w[W.A1]), 0),
            1: fence_vma,
            2: fence_vma,  # the ASID in a4 would only make it weaker, see `sfence_vma`
            # hfence.gvma and hfence.vvma: the hart has no hypervisor extension.
            **dict.fromkeys(range(3, 7), lambda: (ERR_NOT_SUPPORTED, 0)),
        }

    def send_ipi(self, mask: int, base: int) -> int:
        """A supervisor software interrupt."""
        return self._on_each(mask, base, lambda hart: hart.set_pending(IRQ_SSI, True))

    def fence_i(self, mask: int, base: int) -> int:
        """`fence.i`: on each, what was stored is what is fetched from then on.

        The hart's own stores drop the code that was translated from what they overwrite,
        and who else writes RAM tells so, so that there should be nothing left to do. But
        a kernel that has one hart has no reason to come here often: all translated code
        goes, and that alias that someone forgot with it.
        """
        return self._on_each(mask, base, lambda hart: hart.access.flush_code())

    def sfence_vma(self, mask: int, base: int, start: int, size: int) -> int:
        """`sfence.vma` of [start, start + size) (VA, bytes), in whatever address space.

        The engine's TLB knows neither single entries nor ASIDs: all of it is dropped.
        """
        if size != _ALL and start + size > 1 << 64:
            return ERR_INVALID_ADDRESS
        return self._on_each(mask, base, lambda hart: hart.access.flush_tlb())

    def _on_each(self, mask: int, base: int, action: Callable[[Hart], None]) -> int:
        """``action`` on each hart of the list; nothing is done if one of them is not valid."""
        if base == _ALL:
            named = list(self._harts)
        else:
            named = [base + place for place in range(64) if mask >> place & 1]
        if not self._harts.keys() >= set(named):
            return ERR_INVALID_PARAM
        for hartid in named:
            action(self._harts[hartid])
        return SUCCESS
