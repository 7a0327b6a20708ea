"""Where a trace goes: lines of text, JSON lines, or a file for Perfetto (`perfetto.py`).

A file is written in whole records, so it can be read whenever the run is killed: at worst
the kernel has cut the last one short. A writer raises OSError when its file takes no more;
`emu.debug.trace.tracer` ends the trace there, and the guest runs on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Protocol

from emu.debug.trace.events import Event
from emu.debug.trace.names import format_of
from emu.debug.trace.perfetto import PerfettoWriter
from emu.debug.trace.record_file import RecordFile
from emu.spec.csr import PRIV_NAMES


class Writer(Protocol):
    """Takes the events of one trace. Every method may raise OSError."""

    name: str  # for messages: the file
    wants_returns: bool  # whether the ends of traps are worth their price

    def start(self, level: int) -> None:
        """The trace begins, at time 0, with the hart at ``level``."""

    def write(self, event: Event) -> None:
        """Take one event; times never go back."""

    def flush(self) -> None:
        """What has been taken can be read by others."""

    def close(self, time: int) -> None:
        """The trace ends, at ``time`` (ns). The writer is not used again."""


class LineWriter:
    """Lines of text, each given to ``emit`` at once."""

    name = "trace"
    wants_returns = False

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit

    def start(self, level: int) -> None:
        pass

    def write(self, event: Event) -> None:
        line = event.text()
        if line is not None:
            self._emit(line)

    def flush(self) -> None:
        pass

    def close(self, time: int) -> None:
        pass


class TextWriter:
    """A file of lines of text. Raises OSError when it cannot be opened."""

    wants_returns = False

    def __init__(self, path: str) -> None:
        self.name = path
        self._file = RecordFile(path)
        self.flush = self._file.flush

    def start(self, level: int) -> None:
        pass

    def write(self, event: Event) -> None:
        line = event.text()
        if line is not None:
            self._file.write(line + "\n")

    def close(self, time: int) -> None:
        self._file.close()


class JsonWriter:
    """A file of JSON lines: ``kind``, ``time_ns``, ``level``, and the event's own fields.

    Raises OSError when it cannot be opened.
    """

    wants_returns = True

    def __init__(self, path: str) -> None:
        self.name = path
        self._file = RecordFile(path)
        self.flush = self._file.flush

    def start(self, level: int) -> None:
        pass

    def write(self, event: Event) -> None:
        head = {"kind": event.kind, "time_ns": event.time, "level": PRIV_NAMES[event.level]}
        self._file.write(json.dumps(head | event.fields()) + "\n")

    def close(self, time: int) -> None:
        self._file.close()


def open_writer(path: str, asked: str | None = None) -> Writer:
    """A writer to the file ``path``, which is made or emptied; see `format_of`.

    Raises OSError when it cannot be opened, ValueError for a format that there is not.
    """
    found = format_of(path, asked)
    if found == "perfetto":
        return PerfettoWriter(path)
    return JsonWriter(path) if found == "json" else TextWriter(path)
