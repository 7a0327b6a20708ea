"""What `mm` asks of a hart (`mm.hart.HartOps`), done on the machine's."""

from __future__ import annotations

from emu.hart import Hart


class Fences:
    """The engine's TLB has no ASIDs and knows no single entries: each flush drops all."""

    def __init__(self, hart: Hart) -> None:
        self._hart = hart

    def flush_tlb_page(self, va: int, asid: int) -> None:
        self._hart.access.flush_tlb()

    def flush_tlb_mm(self, asid: int) -> None:
        self._hart.access.flush_tlb()

    def flush_tlb_all(self) -> None:
        self._hart.access.flush_tlb()

    def flush_icache(self, pfn: int, count: int) -> None:
        self._hart.access.flush_code()
