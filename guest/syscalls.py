"""The system calls of U-mode programs, under Linux's numbers and error codes.

Each takes the process and its six arguments (unsigned 64-bit) and returns a result, a
negative error number, or a Stop. What is not here returns -ENOSYS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.paging import PAGE_SIZE
from emu.stop import Stop, StopReason
from guest.abi import Sys
from mm.errors import OutOfMemory, UserFault, VmaError
from mm.vma import VM_EXEC, VM_READ, VM_WRITE

if TYPE_CHECKING:
    from guest.process import Process

EBADF, ENOMEM, EFAULT, EINVAL, ENOTTY, ENOSYS = 9, 12, 14, 22, 25, 38
_MAP_FIXED, _MAP_ANONYMOUS = 0x10, 0x20
_PROT_TO_VM = ((1, VM_READ), (2, VM_WRITE), (4, VM_EXEC))
_WRITE_SIZE_MAX = 1 << 20  # bytes that one call moves; a longer one is cut, as POSIX allows
_IOVECS_MAX = 1024  # IOV_MAX

Result = int | Stop
SystemCall = Callable[["Process", int, int, int, int, int, int], Result]


def sys_write(process: Process, fd: int, buffer: int, size: int, *_: int) -> Result:
    if fd not in (1, 2):
        return -EBADF
    size = min(size, _WRITE_SIZE_MAX)
    try:
        process.output(process.kernel.copy_from_user(process.mm, buffer, size))
    except UserFault:
        return -EFAULT
    return size


def sys_writev(process: Process, fd: int, vector: int, count: int, *_: int) -> Result:
    if count > _IOVECS_MAX:
        return -EINVAL
    written = 0
    for i in range(count):
        try:
            entry = process.kernel.copy_from_user(process.mm, vector + 16 * i, 16)
        except UserFault:
            return written or -EFAULT
        base, size = (int.from_bytes(entry[k : k + 8], "little") for k in (0, 8))
        result = sys_write(process, fd, base, size)
        if isinstance(result, Stop) or result < 0:
            return written or result
        written += result
        if result < size:
            break
    return written


def sys_read(process: Process, fd: int, buffer: int, size: int, *_: int) -> Result:
    if fd != 0:
        return -EBADF
    data = process.input(min(size, _WRITE_SIZE_MAX))
    try:
        process.kernel.copy_to_user(process.mm, buffer, data)
    except UserFault:
        return -EFAULT
    return len(data)


def sys_exit(process: Process, status: int, *_: int) -> Result:
    return Stop(StopReason.EXIT, status & 0xFF, detail="exit")


def sys_getpid(process: Process, *_: int) -> Result:
    return process.pid


def sys_ioctl(process: Process, *_: int) -> Result:
    return -ENOTTY


def sys_brk(process: Process, *_: int) -> Result:
    # There is no brk: the break never moves, and a C library falls back to mmap.
    return 0


def _vm_flags(prot: int) -> int:
    return sum(vm for bit, vm in _PROT_TO_VM if prot & bit)


def sys_mmap(
    process: Process, address: int, size: int, prot: int, flags: int, fd: int, offset: int
) -> Result:
    """Anonymous memory only; ``address`` is a hint unless MAP_FIXED."""
    if not flags & _MAP_ANONYMOUS:
        return -ENOSYS
    if size == 0 or (address % PAGE_SIZE and flags & _MAP_FIXED):
        return -EINVAL
    if size > process.mm.task_size:
        return -ENOMEM
    size = -(-size // PAGE_SIZE) * PAGE_SIZE
    if flags & _MAP_FIXED:
        place: int | None = address
        try:
            process.kernel.munmap(process.mm, address, size)
        except ValueError:
            return -EINVAL
    else:
        place = process.unmapped_area(size)
    if place is None:
        return -ENOMEM
    try:
        process.kernel.mmap_region(process.mm, place, size, _vm_flags(prot))
    except (OutOfMemory, VmaError):
        return -ENOMEM
    except ValueError:
        return -EINVAL  # W and X at once, or outside of user space
    return place


def sys_munmap(process: Process, address: int, size: int, *_: int) -> Result:
    size = -(-size // PAGE_SIZE) * PAGE_SIZE
    try:
        process.kernel.munmap(process.mm, address, size)
    except ValueError:
        return -EINVAL
    except OutOfMemory:
        return -ENOMEM
    return 0


def sys_mprotect(process: Process, address: int, size: int, prot: int, *_: int) -> Result:
    size = -(-size // PAGE_SIZE) * PAGE_SIZE
    try:
        process.kernel.mprotect(process.mm, address, size, _vm_flags(prot))
    except ValueError:
        return -EINVAL
    except (VmaError, OutOfMemory):
        return -ENOMEM
    return 0


TABLE: dict[int, SystemCall] = {
    Sys.IOCTL.value: sys_ioctl,
    Sys.READ.value: sys_read,
    Sys.WRITE.value: sys_write,
    Sys.WRITEV.value: sys_writev,
    Sys.EXIT.value: sys_exit,
    Sys.EXIT_GROUP.value: sys_exit,
    Sys.SET_TID_ADDRESS.value: sys_getpid,
    Sys.GETPID.value: sys_getpid,
    Sys.BRK.value: sys_brk,
    Sys.MUNMAP.value: sys_munmap,
    Sys.MMAP.value: sys_mmap,
    Sys.MPROTECT.value: sys_mprotect,
}
