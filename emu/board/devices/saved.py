"""Checked reading of a device's saved state: a snapshot file may hold anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Restorable:
    """What becomes what a saved state says: whole, or not at all."""

    @property
    def bytes_max(self) -> int:
        """See `emu.board.devices.Device`."""
        return 0

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        """Check ``state`` and change nothing; what is returned applies it and does not fail."""
        raise NotImplementedError

    def restore(self, state: dict[str, Any]) -> None:
        """Become what ``state`` says. Raises as `prepare` does, with nothing changed."""
        self.prepare(state)()


def fields(state: dict[str, Any], *names: str) -> None:
    """Raise KeyError when ``state`` lacks one of these keys, ValueError when it has others."""
    if not isinstance(state, dict):
        raise ValueError(f"saved state: {_shown(state)} has no fields")
    for name in names:
        state[name]
    if len(state) != len(names):
        others = ", ".join(sorted(map(str, state.keys() - set(names))))
        raise ValueError(f"saved state: {others:.60} is not known")


def number(state: dict[str, Any], key: str, bits: int) -> int:
    """``state[key]``, an unsigned number of ``bits`` bits.

    Raises KeyError when it is missing, ValueError when it is something else.
    """
    value = state[key]
    if type(value) is not int or value < 0 or value >> bits:
        raise ValueError(f"saved {key}: {_shown(value)} is no number of {bits} bits")
    return value


def flag(state: dict[str, Any], key: str) -> bool:
    """``state[key]``, a boolean; raises as `number`."""
    value = state[key]
    if not isinstance(value, bool):
        raise ValueError(f"saved {key}: {_shown(value)} is neither true nor false")
    return value


def numbers(state: dict[str, Any], key: str, count: int, bits: int) -> list[int]:
    """``state[key]``, a list of ``count`` numbers of ``bits`` bits; raises as `number`."""
    values = state[key]
    if not isinstance(values, list | tuple) or len(values) != count:
        raise ValueError(f"saved {key}: not a list of {count}")
    return [number({key: value}, key, bits) for value in values]


def flags(state: dict[str, Any], key: str, count: int) -> list[bool]:
    """``state[key]``, a list of ``count`` booleans; raises as `number`."""
    values = state[key]
    if not isinstance(values, list | tuple) or len(values) != count:
        raise ValueError(f"saved {key}: not a list of {count}")
    return [flag({key: value}, key) for value in values]


def text(state: dict[str, Any], key: str, size_max: int) -> str:
    """``state[key]``, a text of at most ``size_max`` characters; raises as `number`."""
    value = state[key]
    if not isinstance(value, str) or len(value) > size_max:
        raise ValueError(f"saved {key}: {_shown(value)} is no text, or of more than {size_max}")
    return value


def data(state: dict[str, Any], key: str, size_max: int) -> bytes:
    """``state[key]``, at most ``size_max`` bytes; raises as `number`."""
    value = state[key]
    if not isinstance(value, bytes | bytearray) or len(value) > size_max:
        raise ValueError(f"saved {key}: not bytes, or more than {size_max}")
    return bytes(value)


def pairs(state: dict[str, Any], key: str, count_max: int) -> list[list[int]]:
    """``state[key]``, at most ``count_max`` pairs of 64-bit numbers; raises as `number`."""
    values = state[key]
    if not isinstance(values, list | tuple) or len(values) > count_max:
        raise ValueError(f"saved {key}: not a list, or of more than {count_max}")
    return [numbers({key: value}, key, 2, 64) for value in values]


def optional(state: dict[str, Any], key: str) -> dict[str, Any] | None:
    """``state[key]``, a state by itself or None; raises as `number`."""
    value = state[key]
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"saved {key}: {_shown(value)} is no state")
    return value


def _shown(value: Any) -> str:
    """``value`` for a message of one line; of a number with a million digits, not even those."""
    if isinstance(value, int) and value.bit_length() > 128:
        return "a number of more than 128 bits"
    text = repr(value) if isinstance(value, int | float | str | bytes | None) else ""
    return text if 0 < len(text) <= 40 else f"a {type(value).__name__}"
