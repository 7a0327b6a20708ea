"""The functions of `emu/engine/engine.c`, for those who give them to the engine.

Linux reads `sstatus` a hundred thousand times while it boots, and a clock of executed
instructions has to look at every block: a Python callback costs a microsecond each time, C a
nanosecond. Where the library is not there `available` says no, and the same is done by Python
callbacks, more slowly.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

_LIBRARY = Path(__file__).resolve().parent / "built" / "engine.so"


class Engine(ctypes.Structure):
    """What the C needs to know: addresses of functions, and where a CPU has its words (bytes)."""

    _fields_ = [
        ("tlb_fill", ctypes.c_uint64),
        ("pmp_allows", ctypes.c_uint64),
        ("set_page", ctypes.c_uint64),
        ("physical_page", ctypes.c_uint64),
        ("exec_interrupt", ctypes.c_uint64),
        ("tlb_flush", ctypes.c_uint64),
        ("words_at", ctypes.c_uint64),
    ]


class Length(ctypes.Structure):
    """Of a block at ``va``: ``size`` in bytes and in instructions."""

    _fields_ = [
        ("va", ctypes.c_uint64),
        ("size", ctypes.c_uint32),
        ("instructions", ctypes.c_uint32),
    ]


WAYS = 4  # places of the table, one behind the other, in which a block may be found
HASH = 0x9E37_79B9_7F4A_7C15  # the first is the VA's product with it, its highest bits


class BlockCounter(ctypes.Structure):
    """What `count_block` works on; ``reached`` and ``unknown`` are addresses of what it calls.

    ``lengths``: the address of a table of 2 ** ``bits`` + WAYS `Length`, or 0.
    """

    _fields_ = [
        ("count", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("reached", ctypes.c_uint64),
        ("lengths", ctypes.c_uint64),
        ("bits", ctypes.c_uint64),
        ("unknown", ctypes.c_uint64),
        ("leaves", ctypes.c_uint64),
        ("instructions", ctypes.c_uint64),
        ("va", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
    ]


class BlockFilter(ctypes.Structure):
    """What `filter_block` works on: the CPU and its words, the chunks of RAM, whom to call.

    ``seen`` is the address of a byte for each of ``chunks`` chunks from ``ram_base`` (PA) on.
    """

    _fields_ = [
        ("cpu", ctypes.c_uint64),
        ("words", ctypes.c_uint64),
        ("ram_base", ctypes.c_uint64),
        ("chunks", ctypes.c_uint64),
        ("chunk_shift", ctypes.c_uint64),
        ("seen", ctypes.c_uint64),
        ("unseen", ctypes.c_uint64),
    ]


class Register(ctypes.Structure):
    """What `read_register` works on; ``read`` is the address of what it calls."""

    _fields_ = [
        ("offset", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("reads", ctypes.c_uint64),
        ("read", ctypes.c_uint64),
    ]


@cache
def _library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(_LIBRARY))
    except OSError:  # not built, or not for this host
        return None


def available() -> bool:
    """Whether the library is there."""
    return _library() is not None


def function(name: str) -> int:
    """The host address of a function of the library. Call only where `available`."""
    library = _library()
    assert library is not None
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0


def use_engine(engine: Engine) -> None:
    """Tell the library of Unicorn's; again, and nothing changes."""
    library = _library()
    assert library is not None
    library.use_engine(ctypes.byref(engine))
