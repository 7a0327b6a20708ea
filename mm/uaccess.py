"""The kernel's way to user memory: page by page through the reference walk, as user mode.

What the process could not touch itself the kernel does not touch for it: such an access
raises UserFault (EFAULT) with the first VA that failed and the number of bytes done before
it. VAs in bytes. Source: Linux lib/usercopy.c, lib/strncpy_from_user.c.
"""

from __future__ import annotations

from collections.abc import Iterator

from emu.spec.paging import PAGE_SIZE
from emu.spec.walk import Access, Refusal, WalkConfig, walk
from mm.errors import UserFault
from mm.pgtable import MmStruct, PageTables

_USER = WalkConfig(user=True)


class Uaccess:
    """User copies over the page tables of ``pgtable``."""

    def __init__(self, pgtable: PageTables) -> None:
        self.pgtable = pgtable
        self.ram = pgtable.ram

    def _chunks(
        self, mm: MmStruct, va: int, size: int, access: Access
    ) -> Iterator[tuple[int, int, int]]:
        """``(bytes done, PA, bytes)`` for each page of the range. Raises UserFault."""
        root = self.pgtable.root(mm)
        mode = self.pgtable.mode
        done = 0
        while done < size:
            at = va + done
            n = min(size - done, PAGE_SIZE - at % PAGE_SIZE)
            found = walk(self.ram, mode, root, at, access, _USER)
            if isinstance(found, Refusal):
                raise UserFault(at, done, found.rule.value)
            if not self.ram.contains(found.pa, n):
                raise UserFault(at, done, f"mapped to {found.pa:#x}, which is no RAM")
            if found.set_bits:
                self.ram.write64(found.steps[-1].pte_pa, found.pte | found.set_bits)
            yield done, found.pa, n
            done += n

    def copy_from_user(self, mm: MmStruct, va: int, size: int) -> bytes:
        """``size`` bytes at ``va``. Raises UserFault."""
        return b"".join(
            self.ram.read(pa, n) for _, pa, n in self._chunks(mm, va, size, Access.READ)
        )

    def copy_to_user(self, mm: MmStruct, va: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data`` at ``va``. Raises UserFault; its ``done`` bytes have been stored."""
        view = memoryview(data)
        for done, pa, n in self._chunks(mm, va, len(view), Access.WRITE):
            self.ram.write(pa, view[done : done + n])

    def strncpy_from_user(self, mm: MmStruct, va: int, limit: int) -> bytes:
        """The bytes at ``va`` up to a NUL, which is left out; at most ``limit`` of them.

        A result of ``limit`` bytes had no NUL among them. Raises UserFault when the string
        runs into memory that cannot be read.
        """
        found = b""
        for _, pa, n in self._chunks(mm, va, limit, Access.READ):
            head, nul, _ = self.ram.read(pa, n).partition(b"\0")
            found += head
            if nul:
                break
        return found
