"""System calls on an address space: brk, anonymous mmap and what goes with it.

Memory is there when it is mapped (`mm.vma`), so there is nothing to be reserved, locked or
populated later. Source: Linux mm/mmap.c, mm/mremap.c, mm/madvise.c, mmap(2), mremap(2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.spec.paging import PAGE_SIZE
from guest.kernel.linux_errno import EBADF, EEXIST, EFAULT, EINVAL, ENODEV, ENOMEM
from mm.errors import OutOfMemory, VmaError
from mm.vma import STACK_GUARD_GAP, VM_EXEC, VM_GROWSDOWN, VM_READ, VM_WRITE

if TYPE_CHECKING:
    from guest.kernel.process import Process

_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS = 0x1, 0x2, 0x10, 0x20
_MAP_FIXED_NOREPLACE = 0x100000
_PROT_TO_VM = ((1, VM_READ), (2, VM_WRITE), (4, VM_EXEC))
_MREMAP_MAYMOVE = 1
_MADV_DONTNEED = 4
# What the kernel may do or leave: NORMAL, RANDOM, SEQUENTIAL, WILLNEED, FREE, HUGEPAGE,
# NOHUGEPAGE, DONTDUMP, DODUMP, COLD, PAGEOUT.
_MADV_HINTS = (0, 1, 2, 3, 8, 14, 15, 16, 17, 20, 21)
_COPY_SIZE = 1 << 20  # bytes at a time
_ACCESS = VM_READ | VM_WRITE | VM_EXEC


def _pages_up(size: int) -> int:
    return -(-size // PAGE_SIZE) * PAGE_SIZE


def brk(process: Process, address: int, *_: int) -> int:
    """The new end of the heap, or the old one where it cannot be moved there."""
    kernel, mm = process.kernel, process.mm
    if not mm.start_brk <= address <= mm.task_size:
        return mm.brk
    old_end, end = _pages_up(mm.brk), _pages_up(address)
    try:
        if end > old_end:
            kernel.mmap_region(mm, old_end, end - old_end, VM_READ | VM_WRITE, "[heap]")
        elif end < old_end:
            kernel.munmap(mm, end, old_end - end)
    except (OutOfMemory, VmaError, ValueError):
        return mm.brk
    mm.brk = address
    return address


def _vm_flags(prot: int) -> int:
    return sum(vm for bit, vm in _PROT_TO_VM if prot & bit)


def _is_free(process: Process, start: int, size: int) -> bool:
    """Whether user space has nothing at ``[start, start + size)``, nor a stack right above."""
    if start < PAGE_SIZE or start + size > process.mm.task_size:
        return False
    after = process.kernel.address_spaces.find_vma(process.mm, start)
    if after is None:
        return True
    gap = STACK_GUARD_GAP if after.vm_flags & VM_GROWSDOWN else 0  # vm_start_gap
    return start + size <= after.vm_start - gap


def mmap(
    process: Process, address: int, size: int, prot: int, flags: int, fd: int, offset: int
) -> int:
    """Anonymous memory; ``address`` is taken where it is free, or by force (MAP_FIXED)."""
    if not flags & _MAP_ANONYMOUS:  # the console cannot be mapped, and there are no files
        return -ENODEV if fd in process.descriptors else -EBADF
    fixed = flags & (_MAP_FIXED | _MAP_FIXED_NOREPLACE)
    if size == 0 or (address % PAGE_SIZE and fixed) or offset % PAGE_SIZE:
        return -EINVAL
    if not flags & (_MAP_SHARED | _MAP_PRIVATE):
        return -EINVAL
    task_size = process.mm.task_size
    if size > task_size:
        return -ENOMEM
    size = _pages_up(size)
    wanted = address // PAGE_SIZE * PAGE_SIZE
    access = _vm_flags(prot)
    place: int | None = wanted
    if flags & _MAP_FIXED_NOREPLACE:
        if wanted + size <= task_size and not _is_free(process, wanted, size):
            return -EEXIST
    elif not fixed and not (wanted and _is_free(process, wanted, size)):
        place = process.unmapped_area(size)
    if place is None:
        return -ENOMEM
    if access == 0 or (access & VM_WRITE and access & VM_EXEC):
        return -EINVAL  # `mm.vma` has no mapping of that kind
    try:
        if flags & _MAP_FIXED and not flags & _MAP_FIXED_NOREPLACE:
            process.kernel.munmap(process.mm, place, size)
        process.kernel.mmap_region(process.mm, place, size, access)
    except (OutOfMemory, VmaError):
        return -ENOMEM
    except ValueError:
        return -EINVAL  # outside of user space
    return place


def munmap(process: Process, address: int, size: int, *_: int) -> int:
    try:
        process.kernel.munmap(process.mm, address, _pages_up(size))
    except ValueError:
        return -EINVAL
    except OutOfMemory:
        return -ENOMEM
    return 0


def mprotect(process: Process, address: int, size: int, prot: int, *_: int) -> int:
    if size == 0 and address % PAGE_SIZE == 0:
        return 0
    try:
        process.kernel.mprotect(process.mm, address, _pages_up(size), _vm_flags(prot))
    except ValueError:
        return -EINVAL
    except (VmaError, OutOfMemory):
        return -ENOMEM
    return 0


def mremap(process: Process, old: int, old_size: int, size: int, flags: int, *_: int) -> int:
    """Shrink or grow where it is, or, with MREMAP_MAYMOVE, move what lies within one VMA."""
    kernel, mm = process.kernel, process.mm
    old_size, size = _pages_up(old_size), _pages_up(size)
    if old % PAGE_SIZE or size == 0 or old_size == 0 or flags & ~_MREMAP_MAYMOVE:
        return -EINVAL  # MREMAP_FIXED and MREMAP_DONTUNMAP are not there
    vma = kernel.address_spaces.vma_lookup(mm, old)
    if vma is None or old + old_size > vma.vm_end:
        return -EFAULT
    if size > mm.task_size:
        return -ENOMEM
    access, name = vma.vm_flags & _ACCESS, vma.name
    try:
        if size <= old_size:
            if size < old_size:
                kernel.munmap(mm, old + size, old_size - size)
            return old
        if _is_free(process, old + old_size, size - old_size):
            kernel.mmap_region(mm, old + old_size, size - old_size, access, name)
            return old
        place = process.unmapped_area(size) if flags & _MREMAP_MAYMOVE else None
        if place is None:
            return -ENOMEM
        kernel.mmap_region(mm, place, size, VM_READ | VM_WRITE, name)
        if not access & VM_READ:
            kernel.mprotect(mm, old, old_size, VM_READ)
        for done in range(0, old_size, _COPY_SIZE):
            part = kernel.copy_from_user(mm, old + done, min(_COPY_SIZE, old_size - done))
            kernel.copy_to_user(mm, place + done, part)
        kernel.mprotect(mm, place, size, access)
        kernel.munmap(mm, old, old_size)
    except (OutOfMemory, VmaError):
        return -ENOMEM
    return place


def madvise(process: Process, address: int, size: int, advice: int, *_: int) -> int:
    """MADV_DONTNEED: anonymous memory reads as zero from then on. Hints change nothing."""
    kernel, mm = process.kernel, process.mm
    end = address + _pages_up(size)
    if address % PAGE_SIZE or end > mm.task_size or advice not in (*_MADV_HINTS, _MADV_DONTNEED):
        return -EINVAL
    at = address
    while at < end:
        vma = kernel.address_spaces.vma_lookup(mm, at)
        if vma is None:
            return -ENOMEM
        part_end = min(end, vma.vm_end)
        if advice == _MADV_DONTNEED:
            access = vma.vm_flags & _ACCESS
            kernel.mprotect(mm, at, part_end - at, VM_READ | VM_WRITE)
            for place in range(at, part_end, _COPY_SIZE):
                zeros = bytes(min(_COPY_SIZE, part_end - place))
                kernel.copy_to_user(mm, place, zeros)
            kernel.mprotect(mm, at, part_end - at, access)
        at = part_end
    return 0
