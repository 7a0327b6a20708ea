"""What the memory manager asks of a hart, and nothing more.

``mm`` never sees a CPU. An operation that changes translations states which TLB entries
it made stale, and one that changes what may be executed states which frames; the machine's
hart obeys, a ``Recorder`` writes it down for tests, ``NoHart`` has nothing to flush.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

# The ASID of a flush that must reach global entries too: the kernel's mappings (Linux's name).
FLUSH_TLB_NO_ASID = -1


class HartOps(Protocol):
    """The flushes. VAs in bytes, PFNs, ASIDs as in satp or FLUSH_TLB_NO_ASID."""

    def flush_tlb_page(self, va: int, asid: int) -> None:
        """The leaf translation of ``va`` in ``asid`` is stale (sfence.vma va, asid)."""

    def flush_tlb_mm(self, asid: int) -> None:
        """Every non-global translation of ``asid`` is stale (sfence.vma zero, asid)."""

    def flush_tlb_all(self) -> None:
        """Every translation is stale (sfence.vma zero, zero)."""

    def flush_icache(self, pfn: int, count: int) -> None:
        """The bytes of ``count`` frames from ``pfn`` became code or are code no longer."""


class NoHart:
    """A memory manager without a CPU: nothing caches translations, nothing to do."""

    def flush_tlb_page(self, va: int, asid: int) -> None:
        """See HartOps."""

    def flush_tlb_mm(self, asid: int) -> None:
        """See HartOps."""

    def flush_tlb_all(self) -> None:
        """See HartOps."""

    def flush_icache(self, pfn: int, count: int) -> None:
        """See HartOps."""


@dataclass
class Recorder:
    """Writes down every flush, in order, as tuples: ``("page", va, asid)``,
    ``("mm", asid)``, ``("all",)``, ``("icache", pfn, count)``."""

    calls: list[tuple[str | int, ...]] = field(default_factory=list)

    def flush_tlb_page(self, va: int, asid: int) -> None:
        self.calls.append(("page", va, asid))

    def flush_tlb_mm(self, asid: int) -> None:
        self.calls.append(("mm", asid))

    def flush_tlb_all(self) -> None:
        self.calls.append(("all",))

    def flush_icache(self, pfn: int, count: int) -> None:
        self.calls.append(("icache", pfn, count))

    def take(self) -> list[tuple[str | int, ...]]:
        """The calls since the last take."""
        calls, self.calls = self.calls, []
        return calls
