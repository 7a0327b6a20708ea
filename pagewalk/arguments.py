"""What callers pass, checked: each message begins with the argument's name."""

from __future__ import annotations

from typing import TypeVar

from emu.board.ram_size import parse_ram_size
from emu.spec.csr import Priv
from emu.spec.paging import MODES, PagingMode
from emu.spec.walk import Access

_PRIVS = {"U": Priv.U, "S": Priv.S, "M": Priv.M}
_ACCESSES = {access.verb: access for access in Access}
_Choice = TypeVar("_Choice")


def integer(name: str, value: object, bits: int = 64, align: int = 1) -> int:
    """An unsigned number of ``bits`` bits that is a multiple of ``align``.

    Raises TypeError, ValueError.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: an int is wanted, not {_kind(value)}")
    if not 0 <= value < 1 << bits:
        raise ValueError(f"{name}: {value:#x} does not fit in {bits} bits")
    if value % align:
        raise ValueError(f"{name}: {value:#x} is not a multiple of {align}")
    return value


def register_value(name: str, value: object) -> int:
    """The 64 bits of a number from -2**63 to 2**64 - 1. Raises TypeError, ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 0:
        value &= (1 << 64) - 1
    return integer(name, value)


def count(name: str, value: object) -> int:
    """A number of things, at least one. Raises TypeError, ValueError."""
    if integer(name, value, 63) == 0:
        raise ValueError(f"{name}: at least 1 is wanted")
    assert isinstance(value, int)
    return value


def seconds(name: str, value: object) -> float:
    """A time to wait. Raises TypeError, ValueError."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name}: seconds are wanted, not {_kind(value)}")
    if not 0 < value < 1e9:
        raise ValueError(f"{name}: {value} s cannot be waited")
    return float(value)


def data(name: str, value: object) -> bytes:
    """Bytes of any kind; a text is none. Raises TypeError."""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{name}: bytes are wanted, not {_kind(value)}")
    return bytes(value)


def text(name: str, value: object) -> bytes:
    """A text or bytes, as bytes. Raises TypeError."""
    return value.encode() if isinstance(value, str) else data(name, value)


def ram_size(name: str, value: object) -> int:
    """Bytes of RAM, given as an int or as "64M". Raises TypeError, ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise TypeError(f'{name}: bytes or a text like "64M" is wanted, not {_kind(value)}')
    try:
        return parse_ram_size(value)
    except ValueError as e:
        raise ValueError(f"{name}: {e}") from None


def priv(name: str, value: object) -> Priv:
    """A privilege level: "U", "S", "M", or a `Priv`. Raises TypeError, ValueError."""
    return value if isinstance(value, Priv) else _choice(name, value, _PRIVS)


def access(name: str, value: object) -> Access:
    """A kind of access: "read", "write", "execute", or an `Access`. Raises as `priv`."""
    return value if isinstance(value, Access) else _choice(name, value, _ACCESSES)


def paging(name: str, value: object) -> PagingMode:
    """A translation scheme: "sv39", "sv48", "sv57". Raises as `priv`."""
    return value if isinstance(value, PagingMode) else _choice(name, value, MODES)


def _choice(name: str, value: object, choices: dict[str, _Choice]) -> _Choice:
    words = ", ".join(f'"{word}"' for word in choices)
    if not isinstance(value, str):
        raise TypeError(f"{name}: one of {words} is wanted, not {_kind(value)}")
    if value not in choices:
        raise ValueError(f"{name}: {value!r} is none of {words}")
    return choices[value]


def _kind(value: object) -> str:
    return "None" if value is None else f"{type(value).__name__} {value!r:.40}"
