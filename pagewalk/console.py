"""The guest's serial line: what it prints, and what is typed to it."""

from __future__ import annotations

from collections.abc import Callable

_KEEP = 16 << 20  # bytes of what was printed


class ConsoleError(Exception):
    """What was waited for has not come. ``output``: what came instead."""

    def __init__(self, why: str, output: str) -> None:
        last = "".join(f"\n  | {line}" for line in output.splitlines()[-10:])
        super().__init__(why + last)
        self.output = output


class Console:
    """Keeps the last ``_KEEP`` bytes of output, and says when an awaited text has come."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._found: Callable[[], None] = lambda: None
        self._taken = 0  # bytes of `data` that an `expect` has given out
        self._wanted = b""

    def write(self, data: bytes) -> None:
        """What the guest prints."""
        self.data += data
        if len(self.data) > 2 * _KEEP:
            cut = len(self.data) - _KEEP
            del self.data[:cut]
            self._taken = max(0, self._taken - cut)
        # Only what is new can end it.
        start = max(self._taken, len(self.data) - len(data) - len(self._wanted) + 1)
        if self._wanted and self.data.find(self._wanted, start) >= 0:
            self._found()

    def await_text(self, wanted: bytes, found: Callable[[], None] = lambda: None) -> None:
        """Call ``found``, from the device's callback, when ``wanted`` comes; empty: never."""
        self._wanted, self._found = wanted, found

    def take(self, wanted: bytes) -> str | None:
        """What nobody has taken yet, up to the end of ``wanted``; None where that has not come."""
        at = self.data.find(wanted, self._taken)
        if at < 0:
            return None
        start, self._taken = self._taken, at + len(wanted)
        return self.data[start : self._taken].decode(errors="replace")

    def rest(self) -> str:
        """What nobody has taken yet; it stays."""
        return self.data[self._taken :].decode(errors="replace")
