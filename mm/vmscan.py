"""Direct reclaim: what can be given back when an allocation finds nothing.

There is no page cache and no swap. What can be freed is what other parts keep for later:
the pages of the per-CPU lists, and whatever registered shrinkers hold (empty slabs, areas
of vmalloc that wait for a purge). A shrinker is a function that frees what it can and
returns how many pages that was; it is Python's, registered anew by each attach.

Source: Linux mm/vmscan.c (try_to_free_pages), mm/shrinker.c.
"""

from __future__ import annotations

from collections.abc import Callable

MAX_RECLAIM_RETRIES = 16

Shrinker = Callable[[], int]


class Reclaim:
    """The shrinkers of a kernel. ``active`` while one of them runs: what it allocates then
    may use the reserves and must not reclaim again (Linux's PF_MEMALLOC)."""

    def __init__(self) -> None:
        self.shrinkers: list[Shrinker] = []
        self.active = False

    def register_shrinker(self, shrinker: Shrinker) -> None:
        """Call ``shrinker`` when memory is short; it returns the pages that it freed."""
        self.shrinkers.append(shrinker)

    def shrink(self) -> int:
        """Run every shrinker once; the pages freed, 0 when called from within one."""
        if self.active:
            return 0
        self.active = True
        try:
            return sum(shrinker() for shrinker in self.shrinkers)
        finally:
            self.active = False
