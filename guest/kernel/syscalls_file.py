"""System calls on files: descriptors 0, 1 and 2 are the console, and others their copies.

The console is a terminal whose modes cannot be changed: so C libraries write line by line,
and what a program printed before it faulted is seen. There is no file system.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from guest.kernel.descriptors import DESCRIPTORS_MAX, Way
from guest.kernel.linux_errno import (
    EBADF,
    EFAULT,
    EINVAL,
    EMFILE,
    ENOENT,
    ENOSYS,
    ENOTTY,
    ERANGE,
    ESPIPE,
)
from mm.errors import UserFault

if TYPE_CHECKING:
    from guest.kernel.process import Process

_O_WRONLY, _O_CLOEXEC = 1, 0o2000000
_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_DUPFD_CLOEXEC = 0, 1, 2, 3, 1030
_WRITE_SIZE_MAX = 1 << 20  # bytes that one call moves; a longer one is cut, as POSIX allows
_IOVECS_MAX = 1024  # IOV_MAX
_PATH_MAX = 4096
_AT_EMPTY_PATH = 0x1000

# include/uapi/asm-generic/ioctls.h, termbits.h; the modes are tty_std_termios's: lines are
# edited, echoed and end in \r\n on the wire.
_TCGETS, _TIOCGWINSZ = 0x5401, 0x5413
_CONTROL_CHARACTERS = bytes.fromhex("031c7f1504000100111300001a00120f17160000")[:19]
_TERMIOS = struct.pack("<4IB", 0x500, 0x5, 0x4BF, 0x8A3B, 0) + _CONTROL_CHARACTERS
_WINDOW_SIZE = bytes(8)  # a serial line does not know

# include/uapi/asm-generic/stat.h; /dev/console is character device 5, 1.
_STAT = struct.Struct("<QQIIIIQQqiiq6Q2I")
_S_IFCHR, _CONSOLE_RDEV = 0o020000, 5 << 8 | 1


def write(process: Process, fd: int, buffer: int, size: int, *_: int) -> int:
    if process.descriptors.get(fd, Way.IN) is not Way.OUT:
        return -EBADF
    size = min(size, _WRITE_SIZE_MAX)
    process.output(process.kernel.copy_from_user(process.mm, buffer, size))
    return size


def read(process: Process, fd: int, buffer: int, size: int, *_: int) -> int:
    if process.descriptors.get(fd, Way.OUT) is not Way.IN:
        return -EBADF
    data = process.input(min(size, _WRITE_SIZE_MAX))
    process.kernel.copy_to_user(process.mm, buffer, data)
    return len(data)


def writev(process: Process, fd: int, vector: int, count: int, *_: int) -> int:
    return _vector(process, write, fd, vector, count)


def readv(process: Process, fd: int, vector: int, count: int, *_: int) -> int:
    return _vector(process, read, fd, vector, count)


def _vector(process: Process, move: object, fd: int, vector: int, count: int) -> int:
    """readv or writev: ``move`` for each buffer, until one is not filled or emptied."""
    assert callable(move)
    if count > _IOVECS_MAX:
        return -EINVAL
    done = 0
    for i in range(count):
        try:
            entry = process.kernel.copy_from_user(process.mm, vector + 16 * i, 16)
            base, size = struct.unpack("<QQ", entry)
            result: int = move(process, fd, base, size)
        except UserFault:
            return done or -EFAULT
        if result < 0:
            return done or result
        done += result
        if result < size:
            break
    return done


def close(process: Process, fd: int, *_: int) -> int:
    return -EBADF if process.descriptors.pop(fd, None) is None else 0


def dup(process: Process, fd: int, *_: int) -> int:
    return _dup_from(process, fd, 0)


def _dup_from(process: Process, fd: int, lowest: int) -> int:
    """``fd`` under the first free number from ``lowest`` on."""
    way = process.descriptors.get(fd)
    if way is None:
        return -EBADF
    if lowest >= DESCRIPTORS_MAX:
        return -EINVAL
    free = (n for n in range(lowest, DESCRIPTORS_MAX) if n not in process.descriptors)
    new = next(free, None)
    if new is None:
        return -EMFILE
    process.descriptors[new] = way
    return new


def dup3(process: Process, old: int, new: int, flags: int, *_: int) -> int:
    way = process.descriptors.get(old)
    if old == new or flags & ~_O_CLOEXEC:
        return -EINVAL
    if way is None or new >= DESCRIPTORS_MAX:
        return -EBADF
    process.descriptors[new] = way
    return new


def fcntl(process: Process, fd: int, command: int, argument: int, *_: int) -> int:
    """Copies, and the flags: FD_CLOEXEC means nothing where nothing is executed later."""
    way = process.descriptors.get(fd)
    if way is None:
        return -EBADF
    if command in (_F_DUPFD, _F_DUPFD_CLOEXEC):
        return _dup_from(process, fd, argument)
    if command in (_F_GETFD, _F_SETFD):
        return 0
    if command == _F_GETFL:
        return _O_WRONLY if way is Way.OUT else 0
    return -ENOSYS


def lseek(process: Process, fd: int, *_: int) -> int:
    return -ESPIPE if fd in process.descriptors else -EBADF


def ioctl(process: Process, fd: int, request: int, argument: int, *_: int) -> int:
    if fd not in process.descriptors:
        return -EBADF
    answer = {_TCGETS: _TERMIOS, _TIOCGWINSZ: _WINDOW_SIZE}.get(request & 0xFFFFFFFF)
    if answer is None:
        return -ENOTTY
    process.kernel.copy_to_user(process.mm, argument, answer)
    return 0


def fstat(process: Process, fd: int, buffer: int, *_: int) -> int:
    if fd not in process.descriptors:
        return -EBADF
    mode, links, block_size = _S_IFCHR | 0o600, 1, 1024
    stat = _STAT.pack(
        0, 1, mode, links, 0, 0, _CONSOLE_RDEV, 0, 0, block_size, 0, 0, *(0,) * 6, 0, 0
    )
    process.kernel.copy_to_user(process.mm, buffer, stat)
    return 0


def newfstatat(process: Process, fd: int, path: int, buffer: int, flags: int, *_: int) -> int:
    """fstat, where the path is empty; a path needs a file system."""
    if not flags & _AT_EMPTY_PATH or _path(process, path):
        return -ENOSYS
    return fstat(process, fd, buffer)


def getcwd(process: Process, buffer: int, size: int, *_: int) -> int:
    """The root, where every process begins."""
    path = b"/\0"
    if size < len(path):
        return -ERANGE
    process.kernel.copy_to_user(process.mm, buffer, path)
    return len(path)


def readlinkat(process: Process, fd: int, path: int, buffer: int, size: int, *_: int) -> int:
    """No link is there to be read: /proc/self/exe, which glibc asks for, is none either."""
    if size == 0 or size >> 31:
        return -EINVAL
    _path(process, path)
    return -ENOENT


def _path(process: Process, path: int) -> bytes:
    return process.kernel.strncpy_from_user(process.mm, path, _PATH_MAX)
