"""Stacks that overflowed: telling such a fault from another, and what is said of it.

Below a stack nothing is mapped: of a program's because mmap keeps away from it, of the
modules' because an area of vmalloc ends with a guard page. So the first access beyond its
lowest page faults. As Linux does in `handle_exception` for its stacks, sp is what is looked
at; a function that reaches beyond the frame that it has made room for, or that has not yet
moved sp, is known by the address that it touched.
"""

from __future__ import annotations

from emu.spec.paging import PAGE_SIZE

# How far below its stack sp may be: a frame of that size is no stack's any more (bytes).
_FRAME_SIZE_MAX = 1 << 20
# How far from sp what a function touches of its own stack may be (bytes).
_NEAR_SP = 64 << 10


def has_overflowed(low: int, high: int, sp: int, va: int) -> bool:
    """Whether a fault at ``va`` left the stack ``[low, high)`` at its low end."""
    if not low - _FRAME_SIZE_MAX <= va < low:
        return False
    if low - _FRAME_SIZE_MAX <= sp < low:
        return True
    return low <= sp < high and sp - va <= _NEAR_SP and va >= low - PAGE_SIZE


def kernel_overflow(low: int, high: int, sp: int) -> str:
    """As Linux's handle_bad_stack has it: the words that a kernel log is searched for."""
    return (
        f"kernel stack overflow: Insufficient stack space to handle exception! "
        f"Task stack: [{low:#018x}..{high:#018x}], {(high - low) >> 10} KiB, sp {sp:#018x}"
    )


def user_overflow(low: int, high: int, va: int) -> str:
    """In one line."""
    return (
        f"stack overflow: {va:#x} is beyond the stack's lowest page, {low:#x}; "
        f"it has {(high - low) >> 10} KiB"
    )
