"""Unicorn's functions as the hart calls them: with raw ctypes callbacks and no wrapper between.

The binding's own wrappers cost twice as much for each callback (see bench/).
"""

from __future__ import annotations

import ctypes as C
from typing import Any

from unicorn.unicorn_py3.unicorn import Uc, UcError, uclib

from emu.engine import native
from emu.engine.polled_register import PolledRegister

library = uclib

# Raw callback types: the binding's own wrappers cost twice as much (see bench/).
INTR_CB = C.CFUNCTYPE(None, C.c_void_p, C.c_uint32, C.c_void_p)
INSN_INVALID_CB = C.CFUNCTYPE(C.c_bool, C.c_void_p, C.c_void_p)
MEM_CB = C.CFUNCTYPE(C.c_bool, C.c_void_p, C.c_int, C.c_uint64, C.c_int, C.c_int64, C.c_void_p)
CODE_CB = C.CFUNCTYPE(None, C.c_void_p, C.c_uint64, C.c_uint32, C.c_void_p)
BLOCK_CB = C.CFUNCTYPE(None, C.c_void_p, C.c_uint64, C.c_uint32, C.c_void_p)
EDGE_CB = C.CFUNCTYPE(None, C.c_void_p, C.c_void_p, C.c_void_p, C.c_void_p)
MMIO_READ_CB = C.CFUNCTYPE(C.c_uint64, C.c_void_p, C.c_uint64, C.c_uint, C.c_void_p)
MMIO_WRITE_CB = C.CFUNCTYPE(None, C.c_void_p, C.c_uint64, C.c_uint, C.c_uint64, C.c_void_p)


class Block(C.Structure):
    """Unicorn's uc_tb, as UC_HOOK_EDGE_GENERATED gives it: VA, instructions, bytes."""

    _fields_ = [("pc", C.c_uint64), ("icount", C.c_uint16), ("size", C.c_uint16)]


class EngineError(Exception):
    """Unicorn is not what these files know; the text says what differs."""


def address(function: Any) -> int:
    """Where a function of the library, or a callback of ours, is in this process."""
    return C.cast(function, C.c_void_p).value or 0


def hook(
    uc: Uc, kind: int, callback: Any, first: int = 1, last: int = 0, data: int | None = None
) -> int:
    """Add a raw ctypes callback; ``first > last`` means everywhere. Returns Unicorn's handle.

    ``data`` is the callback's last argument.

    The caller keeps ``callback`` alive as long as the engine lives. Raises UcError.
    """
    handle = C.c_size_t()
    # uc_hook_add is variadic for some kinds, so every argument is given its C type here.
    status = library.uc_hook_add(
        uc._uch,
        C.byref(handle),
        C.c_int(kind),
        C.cast(callback, C.c_void_p),
        C.c_void_p(data),
        C.c_uint64(first),
        C.c_uint64(last),
    )
    if status:
        raise UcError(status)
    return handle.value


def unhook(uc: Uc, handle: int) -> None:
    """Take a hook away. Code that was translated with it goes on asking for hooks."""
    library.uc_hook_del(uc._uch, C.c_size_t(handle))


def mmio_map(
    uc: Uc, pa: int, size: int, read: Any, write: Any, polled: PolledRegister | None = None
) -> None:
    """Map ``size`` bytes at ``pa`` (whole pages) to raw read and write callbacks.

    ``polled``: a register that need not be asked for by ``read``. The caller keeps all three
    alive as long as the engine lives. Raises UcError.
    """
    data = None
    if polled is not None and native.available():
        data = C.c_void_p(polled.connect(address(read)))
        read = MMIO_READ_CB(native.function("read_register"))
    status = library.uc_mmio_map(uc._uch, C.c_uint64(pa), C.c_size_t(size), read, data, write, None)
    if status:
        raise UcError(status)


def emu_start(uc: Uc, pc: int, count: int = 0) -> int:
    """Run from ``pc`` (VA), ``count`` instructions or without limit; returns a uc_err."""
    return int(
        library.uc_emu_start(
            uc._uch, C.c_uint64(pc), C.c_uint64(0), C.c_uint64(0), C.c_size_t(count)
        )
    )


def emu_stop(uc: Uc) -> None:
    """Ask the running engine to stop; safe from callbacks and from other threads."""
    library.uc_emu_stop(uc._uch)
