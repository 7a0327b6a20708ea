"""Signals that a program sends to itself: abort() and raise() end it, or are ignored.

Actions and the mask are kept as they are set. Handlers are not run: where one would have
to be, the program is ended, and told so. Source: Linux kernel/signal.c, signal(7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.stop import Stop, StopReason
from guest.kernel.linux_errno import EINVAL, ESRCH

if TYPE_CHECKING:
    from guest.kernel.process import Process

_NAMES = """HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT
STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"""
_SIGNALS = 64
_SIGSET_SIZE = 8  # bytes
_SIGKILL, _SIGSTOP = 9, 19
_UNTOUCHABLE = 1 << _SIGKILL - 1 | 1 << _SIGSTOP - 1
_SIG_DFL, _SIG_IGN = 0, 1
# By default nothing comes of CHLD, CONT, URG, WINCH.
_IGNORED = (17, 18, 23, 28)
_ACTION_SIZE = 24  # struct sigaction without a restorer: handler, flags, mask
_BLOCK, _UNBLOCK, _SETMASK = 0, 1, 2
_M32 = (1 << 32) - 1


def name_of(number: int) -> str:
    """SIGABRT for 6 (include/uapi/asm-generic/signal.h)."""
    names = _NAMES.split()
    return f"SIG{names[number - 1]}" if number <= len(names) else f"signal {number}"


def handler_of(process: Process, number: int) -> int:
    """The VA of the program's handler, SIG_DFL or SIG_IGN."""
    return int.from_bytes(process.actions.get(number, b"")[:8], "little")


def rt_sigaction(process: Process, number: int, new: int, old: int, set_size: int, *_: int) -> int:
    kernel, mm = process.kernel, process.mm
    if set_size != _SIGSET_SIZE or not 1 <= number <= _SIGNALS:
        return -EINVAL
    if new and number in (_SIGKILL, _SIGSTOP):
        return -EINVAL
    action = kernel.copy_from_user(mm, new, _ACTION_SIZE) if new else None
    before = process.actions.get(number, bytes(_ACTION_SIZE))
    if action is not None:
        process.actions[number] = action
    if old:
        kernel.copy_to_user(mm, old, before)
    return 0


def rt_sigprocmask(
    process: Process, how: int, new: int, old: int, set_size: int, *_: int
) -> int | Stop:
    kernel, mm = process.kernel, process.mm
    if set_size != _SIGSET_SIZE:
        return -EINVAL
    before = process.blocked
    if new:
        bits = int.from_bytes(kernel.copy_from_user(mm, new, _SIGSET_SIZE), "little")
        masks = {_BLOCK: before | bits, _UNBLOCK: before & ~bits, _SETMASK: bits}
        if how not in masks:
            return -EINVAL
        process.blocked = masks[how] & ~_UNTOUCHABLE
    if old:
        kernel.copy_to_user(mm, old, before.to_bytes(_SIGSET_SIZE, "little"))
    return _deliver(process)


def kill(process: Process, pid: int, number: int, *_: int) -> int | Stop:
    return _send(process, number) if pid & _M32 in (0, process.pid) else -ESRCH


def tkill(process: Process, tid: int, number: int, *_: int) -> int | Stop:
    return _send(process, number) if tid == process.pid else -ESRCH


def tgkill(process: Process, group: int, tid: int, number: int, *_: int) -> int | Stop:
    return _send(process, number) if group == tid == process.pid else -ESRCH


def _send(process: Process, number: int) -> int | Stop:
    if number > _SIGNALS:
        return -EINVAL
    if number:
        process.pending |= 1 << number - 1
    return _deliver(process)


def _deliver(process: Process) -> int | Stop:
    """What comes of the signals that wait and are not blocked."""
    for number in range(1, _SIGNALS + 1):
        bit = 1 << number - 1
        if not process.pending & bit & ~process.blocked:
            continue
        process.pending &= ~bit
        handler = handler_of(process, number)
        if handler == _SIG_IGN or (handler == _SIG_DFL and number in _IGNORED):
            continue
        process.killed_by = name_of(number)
        if handler != _SIG_DFL:
            process.killed_by += f", whose handler at {handler:#x} this kernel cannot run"
        return Stop(StopReason.EXIT, 128 + number, detail="signal")
    return 0
