"""The kernel log as printk fills it: records, levels, KERN_CONT, and the bugs among them.

A record is one call's text, of at most 1023 bytes with its level; the newline at its end is no
part of it, one in its midst begins another line. A text without a newline at its end can be gone
on with by KERN_CONT; anything else ends it. Source: Linux kernel/printk/printk.c (vprintk_store,
printk_parse_prefix).
"""

from __future__ import annotations

from collections.abc import Callable

RECORD_MAX = 1024  # bytes (PRINTKRB_RECORD_MAX), with a NUL
BUGS_MAX = 1000
LOGLEVEL_DEFAULT = 4  # of a text without a level
_SOH = 1
_LEVELS = b"01234567"
_CONT = ord("c")


class Printk:
    """Takes texts; ``log`` gets whole lines, without their level. ``bugs`` are reports."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._open: bytes | None = None  # a record that no newline has ended
        self.level = LOGLEVEL_DEFAULT  # of the last record
        self.bugs: list[str] = []

    def store(self, text: bytes, is_bug: bool = False) -> int:
        """One call of printk; how many bytes of it were logged."""
        text = text[: RECORD_MAX - 1]
        level, is_cont = None, False
        while len(text) > 1 and text[0] == _SOH and text[1] in _LEVELS + b"c":
            if text[1] == _CONT:
                is_cont = True
            elif level is None:
                level = text[1] - ord("0")
            text = text[2:]
        ended = text.endswith(b"\n")
        text = text[:-1] if ended else text
        if is_bug:
            self.note_bug(text.partition(b"\n")[0].decode("utf-8", "replace"))
        if is_cont and self._open is not None and len(self._open) + len(text) < RECORD_MAX:
            self._open += text
        else:
            self.flush()
            self._open = text
            self.level = LOGLEVEL_DEFAULT if level is None else level
        if ended:
            self.flush()
        return len(text)

    def note_bug(self, line: str) -> None:
        """Remember the first line of a report; of very many the first ones."""
        if len(self.bugs) < BUGS_MAX:
            self.bugs.append(line)

    def flush(self) -> None:
        """Log the record that no newline has ended."""
        if self._open is not None:
            record, self._open = self._open, None
            for line in record.split(b"\n"):
                self._log(line.decode("utf-8", "replace"))

    def say(self, line: str) -> None:
        """A line of the kernel's own, behind whatever was open."""
        self.flush()
        self._log(line)
