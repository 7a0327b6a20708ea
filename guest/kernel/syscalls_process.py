"""System calls about the process itself, time, and random numbers.

There is one process, with one thread, and root owns it.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING

from emu.stop import Stop, StopReason
from guest import ending
from guest.kernel.descriptors import DESCRIPTORS_MAX
from guest.kernel.linux_errno import EAGAIN, EINVAL, ENOSYS, EPERM, ESRCH, ETIMEDOUT

if TYPE_CHECKING:
    from guest.kernel.process import Process

_M64 = (1 << 64) - 1
_NS = 1_000_000_000

# What uname tells (struct new_utsname): its fields have 65 bytes each.
_UTSNAME = ("Linux", "pagewalk", "6.12.0", "#1 pagewalk", "riscv64", "(none)")
_UTSNAME_FIELD_SIZE = 65

# include/uapi/linux/prctl.h; TASK_COMM_LEN
_PR_SET_NAME, _PR_GET_NAME, _COMM_SIZE = 15, 16, 16

_ROBUST_LIST_HEAD_SIZE = 24
_GETRANDOM_FLAGS = 0x7  # GRND_NONBLOCK, GRND_RANDOM, GRND_INSECURE
_RANDOM_SIZE_MAX = 1 << 20  # bytes of one call

# include/uapi/asm-generic/resource.h
_RLIMIT_STACK, _RLIMIT_CORE, _RLIMIT_NPROC, _RLIMIT_NOFILE, _RLIMITS = 3, 4, 6, 7, 16

# include/uapi/linux/time.h: REALTIME and its coarse form; MONOTONIC, RAW, coarse, BOOTTIME;
# the CPU time of the process, and of its thread.
_REALTIME, _MONOTONIC, _CPU_TIME = (0, 5), (1, 4, 6, 7), (2, 3)
_TIMER_ABSTIME = 1

# include/uapi/linux/futex.h
_FUTEX_WAIT, _FUTEX_WAKE, _FUTEX_WAIT_BITSET, _FUTEX_WAKE_BITSET = 0, 1, 9, 10
_FUTEX_COMMAND, _FUTEX_CLOCK_REALTIME = 0x7F, 0x100


def exit_group(process: Process, status: int, *_: int) -> Stop:
    return Stop(StopReason.EXIT, status & 0xFF, detail="exit")


def zero(process: Process, *_: int) -> int:
    """getuid and its like: root; getppid: nobody; sched_yield: to nobody."""
    return 0


def getpid(process: Process, *_: int) -> int:
    return process.pid


def getpgid(process: Process, pid: int, *_: int) -> int:
    """Its process group and its session are its own."""
    return process.pid if pid in (0, process.pid) else -ESRCH


def set_tid_address(process: Process, address: int, *_: int) -> int:
    """The word is cleared when a thread ends and others go on: never, where there is one."""
    return process.pid


def set_robust_list(process: Process, head: int, size: int, *_: int) -> int:
    """The list is looked at when a thread dies while others wait for its locks."""
    return 0 if size == _ROBUST_LIST_HEAD_SIZE else -EINVAL


def uname(process: Process, buffer: int, *_: int) -> int:
    fields = (text.encode().ljust(_UTSNAME_FIELD_SIZE, b"\0") for text in _UTSNAME)
    process.kernel.copy_to_user(process.mm, buffer, b"".join(fields))
    return 0


def prctl(process: Process, option: int, argument: int, *_: int) -> int:
    """The name that ps and the kernel's messages show."""
    kernel, mm = process.kernel, process.mm
    if option == _PR_SET_NAME:
        process.comm = kernel.strncpy_from_user(mm, argument, _COMM_SIZE - 1)
        kernel.set_current(process.pid, process.comm.decode("utf-8", "replace"))
        return 0
    if option == _PR_GET_NAME:
        kernel.copy_to_user(mm, argument, process.comm.ljust(_COMM_SIZE, b"\0"))
        return 0
    return -ENOSYS


def prlimit64(process: Process, pid: int, resource: int, new: int, old: int, *_: int) -> int:
    """The limits are what the machine has, and stay so."""
    if pid not in (0, process.pid):
        return -ESRCH
    if resource >= _RLIMITS:
        return -EINVAL
    if new:
        return -EPERM
    if old:
        fixed = {
            _RLIMIT_STACK: process.stack_size,
            _RLIMIT_CORE: 0,
            _RLIMIT_NPROC: 1,
            _RLIMIT_NOFILE: DESCRIPTORS_MAX,
        }
        limit = fixed.get(resource, _M64)  # RLIM_INFINITY
        process.kernel.copy_to_user(process.mm, old, struct.pack("<QQ", limit, limit))
    return 0


def getrandom(process: Process, buffer: int, size: int, flags: int, *_: int) -> int:
    """Bytes of a generator that begins in every process in the same state."""
    if flags & ~_GETRANDOM_FLAGS:
        return -EINVAL
    size = min(size, _RANDOM_SIZE_MAX)
    process.kernel.copy_to_user(process.mm, buffer, process.random.randbytes(size))
    return size


def _now(process: Process, clock: int) -> int | None:
    """Nanoseconds; None for a clock that there is not."""
    if clock in _REALTIME:
        return time.time_ns()
    if clock in _MONOTONIC:
        return process.now()
    if clock in _CPU_TIME:
        return time.process_time_ns() - process.cpu_time_start
    return None


def _timespec(nanoseconds: int) -> bytes:
    return struct.pack("<qq", *divmod(nanoseconds, _NS))


def _read_timespec(process: Process, va: int) -> int | None:
    """Nanoseconds; None for what is no time."""
    data = process.kernel.copy_from_user(process.mm, va, 16)
    seconds, nanoseconds = struct.unpack("<qq", data)
    return seconds * _NS + nanoseconds if seconds >= 0 and 0 <= nanoseconds < _NS else None


def clock_gettime(process: Process, clock: int, buffer: int, *_: int) -> int:
    now = _now(process, clock)
    if now is None:
        return -EINVAL
    process.kernel.copy_to_user(process.mm, buffer, _timespec(now))
    return 0


def clock_getres(process: Process, clock: int, buffer: int, *_: int) -> int:
    if _now(process, clock) is None:
        return -EINVAL
    if buffer:
        process.kernel.copy_to_user(process.mm, buffer, _timespec(process.clock_tick))
    return 0


def nanosleep(process: Process, request: int, *_: int) -> int:
    wanted = _read_timespec(process, request)
    if wanted is None:
        return -EINVAL
    ending.sleep(wanted / _NS)
    return 0


def clock_nanosleep(process: Process, clock: int, flags: int, request: int, *_: int) -> int:
    now, wanted = _now(process, clock), _read_timespec(process, request)
    if now is None or wanted is None or clock in _CPU_TIME:
        return -EINVAL
    ending.sleep(max(0, wanted - now if flags & _TIMER_ABSTIME else wanted) / _NS)
    return 0


def futex(process: Process, word: int, operation: int, value: int, timeout: int, *_: int) -> int:
    """Nobody waits, so nobody is woken; who waits for a change waits until the time is up."""
    command = operation & _FUTEX_COMMAND
    if word % 4:
        return -EINVAL
    if command in (_FUTEX_WAKE, _FUTEX_WAKE_BITSET):
        return 0
    if command not in (_FUTEX_WAIT, _FUTEX_WAIT_BITSET):
        return -ENOSYS
    found = int.from_bytes(process.kernel.copy_from_user(process.mm, word, 4), "little")
    if found != value & 0xFFFFFFFF:
        return -EAGAIN
    if not timeout:
        return -ENOSYS  # for ever: only another thread could end it
    wanted = _read_timespec(process, timeout)
    if wanted is None:
        return -EINVAL
    if command == _FUTEX_WAIT_BITSET:  # its time is absolute
        wanted -= time.time_ns() if operation & _FUTEX_CLOCK_REALTIME else process.now()
    ending.sleep(max(0, wanted) / _NS)
    return -ETIMEDOUT
