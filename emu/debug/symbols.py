"""Symbols: names for addresses, and addresses for names."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable

_LABEL_SIZE_MAX = 0x10000  # bytes


class Symbols:
    """Names with the VA at which each starts and its size in bytes (0: unknown)."""

    def __init__(self, entries: Iterable[tuple[int, int, str]] = ()) -> None:
        self._entries: list[tuple[int, int, str]] = []
        self._starts: list[int] = []  # of the entries: searching these is three times as fast
        self._sources: list[tuple[Callable[[], Iterable[tuple[int, int, str]]], int]] = []
        self.add(entries)

    def add(self, entries: Iterable[tuple[int, int, str]], bias: int = 0) -> None:
        """Add ``(va, size, name)``, with ``bias`` bytes added to each VA."""
        self._entries.extend((va + bias, size, name) for va, size, name in entries)
        self._entries.sort()
        self._starts = [entry[0] for entry in self._entries]

    def add_source(
        self, source: Callable[[], Iterable[tuple[int, int, str]]], bias: int = 0
    ) -> None:
        """Add what ``source`` returns, when a name or an address is first looked up."""
        self._sources.append((source, bias))

    def _load(self) -> list[tuple[int, int, str]]:
        while self._sources:
            source, bias = self._sources.pop(0)
            self.add(source(), bias)
        return self._entries

    def remove_range(self, start: int, end: int) -> None:
        """Forget the names in ``[start, end)``: what they named is gone."""
        self._entries = [e for e in self._load() if not start <= e[0] < end]
        self._starts = [entry[0] for entry in self._entries]

    def address(self, name: str) -> int | None:
        """The VA of ``name``, None when there is no such symbol."""
        return next((va for va, _, found in self._load() if found == name), None)

    def _covering(self, va: int) -> tuple[int, str] | None:
        entries = self._load()
        at = bisect.bisect_right(self._starts, va) - 1
        if at < 0:
            return None
        start, size, name = entries[at]
        # A label without a size does not name what lies far behind it.
        if va >= start + (size or _LABEL_SIZE_MAX):
            return None
        return start, name

    def start(self, va: int) -> int | None:
        """The VA of the symbol that covers ``va``."""
        found = self._covering(va)
        return found[0] if found else None

    def name(self, va: int) -> str | None:
        """``name+0x12`` for the symbol that covers ``va``, None when there is none."""
        found = self._covering(va)
        if found is None:
            return None
        start, name = found
        return name if va == start else f"{name}+{va - start:#x}"
