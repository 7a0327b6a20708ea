"""What the two ways to a hart's state have in common.

The state is an array of 64-bit words (`emu.spec.words`).

``DirectAccess``  (`emu.engine.direct_access`) the words are QEMU's own ``CPURISCVState``, in
                  place, and QEMU's exported functions repair what Unicorn's interface cannot
                  reach.
``PublicAccess``  (`emu.engine.public_access`) the words are a ``uc_context``, saved before and
                  restored after each trap. Same behaviour, slower; what cannot be had is listed
                  in ``missing``.

`emu.engine.open_access` tries the first and falls back to the second.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any, Protocol

from emu.engine.mmu import Mmu


class StateAccess(Protocol):
    """The two ways' common interface."""

    name: str
    words: memoryview
    missing: tuple[str, ...]
    in_place: bool  # the words are the hart's own: load and store do nothing
    by_host: bool  # the CSR access under way is not an instruction's

    def load(self) -> None:
        """Bring the words up to date with the hart."""

    def store(self) -> None:
        """Make the words the hart's state."""

    def flush_tlb(self) -> None:
        """Drop every cached translation."""

    def flush_code(self) -> None:
        """Drop every translated block: the bytes of some code have changed."""

    def physical(self, va: int) -> int | None:
        """The PA that data at ``va`` is read from by the engine's own walk, None: unknown."""

    def drop_code(self, offset: int, size: int) -> None:
        """Drop what was translated from ``size`` bytes of RAM, ``offset`` from its base."""

    def walk_by(self, mmu: Mmu) -> None:
        """Let ``mmu`` translate from now on, in the place of the engine's own walk."""

    def speed_bare_stores(self) -> None:
        """Let stores be fast where nothing is translated, if that can be had.

        For those who see to it that code stays coherent: a store to a page that has been
        code is no longer slow by itself.
        """

    def new_block_hook(
        self, base: int, seen: mmap.mmap, chunk_shift: int, unseen: Any
    ) -> tuple[Any, int | None]:
        """A callback for UC_HOOK_EDGE_GENERATED, and its data, that calls ``unseen``.

        ``unseen`` is an EDGE_CB; it need not be called for blocks in chunks of memory whose byte
        in ``seen`` is not 0. The first chunk is at ``base`` (PA).
        """

    def obey_count(self, on: bool) -> None:
        """Prepare for `emu_start` with a count, or without one again.

        A count is looked at in code that was translated for it, so all is dropped.
        """

    def deny_memory(self, on: bool) -> None:
        """While on, no load or store takes place: what is left of a block stays undone."""

    def override_csr(self, csr: int, read: CsrRead | None, write: CsrWrite | None) -> None:
        """Give this hart's CSR its own behaviour, see `CsrRead` and `CsrWrite`."""

    def reset_pmp(self) -> None:
        """Clear the PMP's registers, locked ones too."""

    def csr(self, csr: int, value: int | None = None) -> int | None:
        """Read, or with ``value`` write, any CSR whatever the privilege; None: out of reach."""


class CsrIllegal(Exception):
    """The CSR access is an illegal instruction."""


# An override's read is given the original read and returns what the guest sees.
CsrRead = Callable[[Callable[[], int]], int]
# An override's write is given the guest's value and the original write. Both may raise
# CsrIllegal, and so may the originals.
CsrWrite = Callable[[int, Callable[[int], None]], None]
