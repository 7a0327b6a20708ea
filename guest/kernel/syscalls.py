"""The system calls of U-mode programs, under Linux's numbers and error codes.

Each takes the process and its six arguments (unsigned 64-bit) and returns a result, a
negative error number, or a Stop. What is not here returns -ENOSYS, and is told once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.stop import Stop
from guest.kernel import syscalls_file as files
from guest.kernel import syscalls_memory as memory
from guest.kernel import syscalls_process as processes
from guest.kernel import syscalls_signal as signals
from guest.kernel.abi import Sys
from guest.kernel.linux_errno import EFAULT, ENOSYS
from mm.errors import UserFault

if TYPE_CHECKING:
    from guest.kernel.process import Process

Result = int | Stop
SystemCall = Callable[..., Result]

TABLE: dict[int, SystemCall] = {
    Sys.GETCWD.value: files.getcwd,
    Sys.DUP.value: files.dup,
    Sys.DUP3.value: files.dup3,
    Sys.FCNTL.value: files.fcntl,
    Sys.IOCTL.value: files.ioctl,
    Sys.CLOSE.value: files.close,
    Sys.LSEEK.value: files.lseek,
    Sys.READ.value: files.read,
    Sys.WRITE.value: files.write,
    Sys.READV.value: files.readv,
    Sys.WRITEV.value: files.writev,
    Sys.READLINKAT.value: files.readlinkat,
    Sys.NEWFSTATAT.value: files.newfstatat,
    Sys.FSTAT.value: files.fstat,
    Sys.EXIT.value: processes.exit_group,
    Sys.EXIT_GROUP.value: processes.exit_group,
    Sys.SET_TID_ADDRESS.value: processes.set_tid_address,
    Sys.FUTEX.value: processes.futex,
    Sys.SET_ROBUST_LIST.value: processes.set_robust_list,
    Sys.NANOSLEEP.value: processes.nanosleep,
    Sys.CLOCK_GETTIME.value: processes.clock_gettime,
    Sys.CLOCK_GETRES.value: processes.clock_getres,
    Sys.CLOCK_NANOSLEEP.value: processes.clock_nanosleep,
    Sys.SCHED_YIELD.value: processes.zero,
    Sys.KILL.value: signals.kill,
    Sys.TKILL.value: signals.tkill,
    Sys.TGKILL.value: signals.tgkill,
    Sys.RT_SIGACTION.value: signals.rt_sigaction,
    Sys.RT_SIGPROCMASK.value: signals.rt_sigprocmask,
    Sys.GETPGID.value: processes.getpgid,
    Sys.GETSID.value: processes.getpgid,
    Sys.UNAME.value: processes.uname,
    Sys.PRCTL.value: processes.prctl,
    Sys.GETPID.value: processes.getpid,
    Sys.GETPPID.value: processes.zero,
    Sys.GETUID.value: processes.zero,
    Sys.GETEUID.value: processes.zero,
    Sys.GETGID.value: processes.zero,
    Sys.GETEGID.value: processes.zero,
    Sys.GETTID.value: processes.getpid,
    Sys.BRK.value: memory.brk,
    Sys.MUNMAP.value: memory.munmap,
    Sys.MREMAP.value: memory.mremap,
    Sys.MMAP.value: memory.mmap,
    Sys.MPROTECT.value: memory.mprotect,
    Sys.MADVISE.value: memory.madvise,
    Sys.PRLIMIT64.value: processes.prlimit64,
    Sys.GETRANDOM.value: processes.getrandom,
}

# Each C library asks for these when it starts, to see whether the kernel has them, and does
# without: it misses nothing.
OPTIONAL = frozenset({Sys.RISCV_HWPROBE.value, Sys.RSEQ.value})


def call(process: Process, number: int, arguments: tuple[int, ...]) -> Result:
    """The result of system call ``number``; ``process`` notes the one that is missing."""
    action = TABLE.get(number)
    try:
        result = -ENOSYS if action is None else action(process, *arguments)
    except UserFault:
        return -EFAULT
    if result == -ENOSYS and number not in OPTIONAL:
        process.misses(number)
    return result
