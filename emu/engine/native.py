"""The engine's C (`emu/engine/*.c`), for those who give its functions to the engine or call them.

Linux reads `sstatus` a hundred thousand times while it boots, and a clock of executed
instructions has to look at every block: a Python callback costs a microsecond each time, C a
nanosecond. Where the library is not there `available` says no: the direct way is not there then,
and on the public way Python callbacks do the same, more slowly.
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


ASK_PYTHON, HOST_CLOCK, BLOCKS = range(3)  # kinds of a Clock
NEVER = (1 << 64) - 1


class Clock(ctypes.Structure):
    """What `time` reads, in ticks; see `emu/engine/hart.h`."""

    _fields_ = [
        ("kind", ctypes.c_uint64),
        ("host_clock", ctypes.c_uint64),
        ("start", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("per_tick", ctypes.c_uint64),
        ("since", ctypes.c_uint64),
    ]


class Hart(ctypes.Structure):
    """What the C and Python share of a hart; see `emu/engine/hart.h`."""

    _fields_ = [
        ("words", ctypes.c_uint64),
        ("next", ctypes.c_uint64),
        ("cpu", ctypes.c_uint64),
        ("lock", ctypes.c_uint64),
        ("wires", ctypes.c_uint64),
        ("written", ctypes.c_uint64),
        ("timer_is_wire", ctypes.c_uint64),
        ("pending", ctypes.c_uint64),
        ("held", ctypes.c_uint64),
        ("python_levels", ctypes.c_uint64),
        ("stimecmp", ctypes.c_uint64),
        ("alarm_at", ctypes.c_uint64),
        ("take", ctypes.c_uint64),
        ("set_alarm", ctypes.c_uint64),
        ("clock", ctypes.c_uint64),
        ("mcounteren", ctypes.c_uint64),
        ("scounteren", ctypes.c_uint64),
        ("python_csr", ctypes.c_uint64),
        ("by_python", ctypes.c_uint64 * 64),
    ]


class HartEngine(ctypes.Structure):
    """What the C for CSRs and interrupts needs to know: functions, and offsets in a CPU."""

    _fields_ = [
        ("tlb_flush", ctypes.c_uint64),
        ("get_csr", ctypes.c_uint64),
        ("set_csr", ctypes.c_uint64),
        ("clock_gettime", ctypes.c_uint64),
        ("sched_yield", ctypes.c_uint64),
        ("interrupt_request", ctypes.c_uint64),
        ("icount_high", ctypes.c_uint64),
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


def call(name: str, *arguments: int) -> None:
    """Call a function of the library with integers and addresses, for what it does."""
    library = _library()
    assert library is not None
    getattr(library, name)(*(ctypes.c_uint64(argument) for argument in arguments))


def use_engine(engine: Engine) -> None:
    """Tell the library of Unicorn's; again, and nothing changes."""
    library = _library()
    assert library is not None
    library.use_engine(ctypes.byref(engine))


@cache
def functions() -> ctypes.PyDLL:
    """The library's functions for who calls them from Python: they take no time, and with the
    interpreter's lock held they need none to be fetched again. Call only where `available`."""
    library = ctypes.PyDLL(str(_LIBRARY))
    u64, hart = ctypes.c_uint64, ctypes.c_void_p
    for name, result, *arguments in (
        ("use_hart_engine", None, ctypes.c_void_p),
        ("add_hart", None, hart),
        ("remove_hart", None, hart),
        ("install_repairs", None),
        ("install_csr", None, ctypes.c_int),
        ("original_csr", ctypes.c_int, u64, ctypes.c_int, ctypes.c_void_p, u64, u64),
        ("present", None, hart),
        ("present_as", None, hart, u64, u64),
        ("drive", u64, hart, u64, u64),
        ("write_pending", u64, hart, u64, u64),
        ("set_interrupt", u64, hart, u64, u64),
        ("become_pending", None, hart, u64, u64),
        ("reset_pending", None, hart),
        ("let_timer_be_wire", None, hart, u64),
        ("look_shown", u64, hart),
        ("hart_time", u64, hart),
        ("compare_time", u64, hart, u64),
        ("write_stimecmp", None, hart, u64),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
