"""The memory manager's errors: each has a name, and names the thing that is wrong.

Running out of memory is not an error of the allocators (they return None, as Linux returns
NULL); it is one of the operations that have no such answer (``OutOfMemory``).
"""

from __future__ import annotations

from collections.abc import Sequence


class MmError(Exception):
    """Every error of the memory manager is one of these (or a ValueError of its caller)."""


class OutOfMemory(MmError):
    """ENOMEM: the operation needed frames that are not there. Nothing was changed."""


class GfpError(MmError, ValueError):
    """A combination of GFP flags that has no meaning; the text names the flags."""


class BadAddress(MmError):
    """``va`` is not an address of the kind that the operation wants."""

    def __init__(self, va: int, why: str) -> None:
        super().__init__(f"address {va:#018x}: {why}")
        self.va = va


class BadPage(MmError):
    """A page was freed that may not be (Linux's ``bad_page``). Nothing was changed.

    The text is Linux's report: ``dump`` are the lines of dump_page, with page_owner's.
    """

    def __init__(
        self, pfn: int, reason: str, process: str = "swapper", dump: Sequence[str] = ()
    ) -> None:
        lines = [f"BUG: Bad page state in process {process}  pfn:{pfn:05x}"]
        lines += dump or [f"page dumped because: {reason}"]
        super().__init__("\n".join(lines))
        self.pfn = pfn
        self.reason = reason


class CorruptionError(MmError):
    """A structure in RAM was clobbered: it holds what the memory manager never puts there.

    ``structure`` is its name in C, ``address`` where it is or should be (VA, PA), ``why`` the
    field and what is wrong with it.
    """

    def __init__(self, structure: str, address: int, why: str) -> None:
        super().__init__(f"{structure} at {address:#x} is corrupt: {why}")
        self.structure = structure
        self.address = address
        self.why = why


def wild_access(pa: int, size: int, why: str) -> CorruptionError:
    """The error of an access of the memory manager's own that RAM refuses: whatever pointer
    or size led there was clobbered."""
    return CorruptionError("pointer", pa, f"it leads to {size} bytes that cannot be: {why}")


class ListCorruption(CorruptionError):
    """A ``list_head`` in RAM is not linked both ways (Linux's CONFIG_DEBUG_LIST)."""

    def __init__(self, va: int, why: str) -> None:
        super().__init__("list_head", va, why)
        self.va = va


class MemblockError(MmError):
    """The memory map cannot take the region: table full, or no range that fits."""


class PageTableError(CorruptionError):
    """A page table in RAM is not a page table."""

    def __init__(self, why: str, address: int = 0) -> None:
        super().__init__("page table", address, why)


class MappingExists(MmError):
    """EEXIST: ``va`` is mapped already. Nothing was changed."""

    def __init__(self, va: int) -> None:
        super().__init__(f"{va:#018x} is mapped already")
        self.va = va


class SlabError(MmError):
    """A slab or its cache is corrupt, or the cache may not be destroyed; the text names it."""


class BadFree(SlabError):
    """An object was freed that is not there to be freed. Nothing was changed."""

    def __init__(self, va: int, why: str) -> None:
        super().__init__(f"kfree of {va:#018x}: {why}")
        self.va = va


class VmaError(MmError):
    """An address range that an address space cannot give or does not have."""


class UserFault(MmError):
    """EFAULT: user memory that the process itself could not touch.

    ``va`` is the first address that failed, ``done`` the number of bytes copied before it.
    """

    def __init__(self, va: int, done: int, why: str) -> None:
        super().__init__(f"EFAULT at {va:#018x}: {why}")
        self.va = va
        self.done = done


class CheckError(MmError):
    """An invariant does not hold: ``structure`` at ``address`` breaks ``rule``."""

    def __init__(self, structure: str, address: int, rule: str) -> None:
        super().__init__(f"{structure} at {address:#x}: {rule}")
        self.structure = structure
        self.address = address
        self.rule = rule
