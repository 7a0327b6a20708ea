"""Checked reading of a device's saved state: a snapshot file may hold anything."""

from __future__ import annotations

from typing import Any


def number(state: dict[str, Any], key: str, bits: int) -> int:
    """``state[key]``, an unsigned number of ``bits`` bits.

    Raises KeyError when it is missing, ValueError when it is something else.
    """
    value = state[key]
    if not isinstance(value, int) or value < 0 or value >> bits:
        raise ValueError(f"saved {key}: {value!r} is no number of {bits} bits")
    return int(value)


def flag(state: dict[str, Any], key: str) -> bool:
    """``state[key]``, a boolean; raises as `number`."""
    return bool(number(state, key, 1))


def numbers(state: dict[str, Any], key: str, count: int, bits: int) -> list[int]:
    """``state[key]``, a list of ``count`` numbers of ``bits`` bits; raises as `number`."""
    values = state[key]
    if not isinstance(values, list | tuple) or len(values) != count:
        raise ValueError(f"saved {key}: not a list of {count}")
    return [number({key: value}, key, bits) for value in values]


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
        raise ValueError(f"saved {key}: {value!r:.60} is no state")
    return value
