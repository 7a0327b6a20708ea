"""A trace for the Perfetto UI, in the Chrome JSON trace event format.

Perfetto's own format is protobuf: a third of the size, but it cannot be read with `jq` or
checked by eye, and the UI opens both. Of JSON's two forms this is the array: its closing
bracket may be missing, and so may the end of its last record, so what a killed run leaves
is a good trace (Perfetto's json_trace_tokenizer.cc takes it at any moment).

Tracks (threads of one process):

  U, S, M    time spent at the level, a slice from each entry to the next trap or return,
             named after the trap that began it, or else after the level. A slice is written
             only when both its ends were seen.
  traps      an instant for each trap
  mmu, insn  an instant for each event, where these are traced
  NAME       a track for each device: a slice for each access whose beginning is known, an
             instant for the others

All records of a track stand in the order of time. Times are microseconds, in eighths: these
are exact in a double, and a reader that multiplies by 1,000 and drops the rest finds one
slice's end exactly at the next one's beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from json.encoder import encode_basestring_ascii as quote
from typing import Any

from emu.debug.trace.events import (
    DeviceEvent,
    Event,
    InsnEvent,
    NoteEvent,
    PageEvent,
    ReturnEvent,
    SatpEvent,
    TrapEvent,
    named,
)
from emu.debug.trace.record_file import RecordFile
from emu.spec.csr import PRIV_NAMES

_PID = 1
_LEVEL_TID = {0: 1, 1: 2, 2: 3, 3: 3}
_LEVEL_NAME = {level: quote(name) for level, name in PRIV_NAMES.items()}
_TRAPS_TID = 4
_FIRST_FREE_TID = 5
_NS_PER_EIGHTH = 125


def _us(ns: int) -> float:
    return ns // _NS_PER_EIGHTH / 8


class PerfettoWriter:
    """A JSON array of trace events in the file ``path``.

    Raises OSError when it cannot be opened.
    """

    wants_returns = True

    def __init__(self, path: str) -> None:
        self.name = path
        self._file = RecordFile(path)
        self.flush = self._file.flush
        self._file.write("[")
        self._tids: dict[str, int] = {}
        # Where the hart is, since when, and what began that.
        self._level: int | None = None
        self._since, self._why = 0.0, ""
        self._names: dict[str, str] = {}  # a cause's JSON
        self._writers: dict[type[Event], Callable[[Any], None]] = {
            TrapEvent: self._trap,
            ReturnEvent: self._return,
            DeviceEvent: self._device,
            PageEvent: self._page,
            SatpEvent: self._satp,
            InsnEvent: self._insn,
            NoteEvent: self._note,
        }

    def start(self, level: int) -> None:
        self._file.write(
            f'\n{{"ph":"M","pid":{_PID},"tid":1,"name":"process_name","args":{{"name":"hart 0"}}}}'
        )
        for number in (0, 1, 3):
            self._name_track(_LEVEL_TID[number], PRIV_NAMES[number])
        self._name_track(_TRAPS_TID, "traps")
        self._level, self._why = level, _LEVEL_NAME[level]

    def write(self, event: Event) -> None:
        self._writers[type(event)](event)

    def close(self, time: int) -> None:
        try:
            cut = ',"args":{"until":"end of trace"}'
            last = "" if self._level is None else self._left(self._level, _us(time), cut)
            self._file.write(f"{last}\n]\n")
        finally:
            self._file.close()

    # One record is written for what happens at one time: traps are many.

    def _trap(self, event: TrapEvent) -> None:
        at = _us(event.time)
        name = self._names.get(event.cause)
        if name is None:
            name = self._names[event.cause] = quote(event.cause)
        a7 = "" if event.a7 is None else f',"a7":"{event.a7:#x}"'
        symbol = f" <{event.name}>" if event.name else ""
        self._file.write(
            f"{self._left(event.level, at)},\n"
            f'{{"ph":"i","s":"t","pid":{_PID},"tid":{_TRAPS_TID},"ts":{at},"name":{name},'
            f'"args":{{"epc":{quote(f"{event.epc:#x}{symbol}")},"tval":"{event.tval:#x}",'
            f'"levels":"{PRIV_NAMES[event.level]}->{PRIV_NAMES[event.target]}"{a7}}}}}'
        )
        self._level, self._since, self._why = event.target, at, name

    def _return(self, event: ReturnEvent) -> None:
        at = _us(event.time)
        left = self._left(event.level, at)
        if left:
            self._file.write(left)
        self._level, self._since, self._why = event.target, at, _LEVEL_NAME[event.target]

    def _left(self, level: int, at: float, more: str = "") -> str:
        """The slice that ends when the hart leaves ``level``; "" when it was not seen to come."""
        if level != self._level:
            return ""
        return (
            f',\n{{"ph":"X","pid":{_PID},"tid":{_LEVEL_TID[level]},"ts":{self._since},'
            f'"dur":{at - self._since},"name":{self._why}{more}}}'
        )

    def _page(self, event: PageEvent) -> None:
        args = f'"way":{quote(event.way)},"outcome":{quote(event.outcome)}'
        name = f"{PRIV_NAMES[event.level]} {event.access} {event.va:#x}"
        self._instant(self._track("mmu"), event.time, quote(name), args)

    def _satp(self, event: SatpEvent) -> None:
        self._instant(self._track("mmu"), event.time, f'"satp {event.satp:#x}"', "")

    def _insn(self, event: InsnEvent) -> None:
        args = f'"level":"{PRIV_NAMES[event.level]}"'
        self._instant(self._track("insn"), event.time, quote(event.listing()), args)

    def _note(self, event: NoteEvent) -> None:
        self._instant(_TRAPS_TID, event.time, quote(event.note), "")

    def _device(self, event: DeviceEvent) -> None:
        tid = self._track(event.device)
        name = f'"{event.verb} {event.offset:#x}"'
        args = f'"value":"{event.value:#x}","size":{event.size}'
        if event.pc is not None:
            args += f',"pc":{quote(named(event.pc, event.name))}'
        if event.began is None:
            self._instant(tid, event.time, name, args)
        else:
            self._slice(tid, event.began, event.time, name, f',"args":{{{args}}}')

    def _track(self, name: str) -> int:
        tid = self._tids.get(name)
        if tid is None:
            tid = self._tids[name] = _FIRST_FREE_TID + len(self._tids)
            self._name_track(tid, name)
        return tid

    def _name_track(self, tid: int, name: str) -> None:
        head = f'{{"ph":"M","pid":{_PID},"tid":{tid},"name":'
        self._file.write(f',\n{head}"thread_name","args":{{"name":{quote(name)}}}}}')
        self._file.write(f',\n{head}"thread_sort_index","args":{{"sort_index":{tid}}}}}')

    def _instant(self, tid: int, time: int, name: str, args: str) -> None:
        """``name``: a JSON string; ``args``: the members of a JSON object."""
        self._file.write(
            f',\n{{"ph":"i","s":"t","pid":{_PID},"tid":{tid},"ts":{_us(time)},"name":{name},'
            f'"args":{{{args}}}}}'
        )

    def _slice(self, tid: int, began: int, ended: int, name: str, args: str) -> None:
        start = _us(began)
        self._file.write(
            f',\n{{"ph":"X","pid":{_PID},"tid":{tid},"ts":{start},"dur":{_us(ended) - start},'
            f'"name":{name}{args}}}'
        )
