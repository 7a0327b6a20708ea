"""`--trace`, `--trace-file`, `--trace-format`, `--trace-limit`: options of what runs guests.

    @trace_options
    def run(..., trace: TraceRequest, ...):
        with trace:
            ...                      # machine and symbols are made; before the first run:
            trace.attach(machine, symbols)
            ...

The file is opened on the way in, so that a wrong name is told before anything runs, and
closed on the way out, whatever ends the run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from emu.board.machine import Machine
from emu.board.memory_map import TIMEBASE_HZ
from emu.debug.symbols import Symbols
from emu.debug.trace.names import FORMATS, KINDS, format_of, parse_kinds

if TYPE_CHECKING:  # imported by those who trace
    from emu.debug.trace.tracer import Tracer
    from emu.debug.trace.writers import Writer

_NS_PER_TICK = 1_000_000_000 // TIMEBASE_HZ


class KindsParameter(click.ParamType[tuple[str, ...]]):
    """Kinds of traces, separated by commas."""

    name = "KINDS"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return parse_kinds(value)
        except ValueError as e:
            self.fail(str(e))


def _say(line: str) -> None:
    click.echo(line, err=True)


class TraceRequest:
    """The trace that the user asked for, or none; a context manager, see the head of the file.

    ``path``: None for lines of text on standard error. ``say`` gets those, and what there
    is to tell of the trace itself. Raises click.UsageError for options that do not fit.
    """

    def __init__(
        self,
        kinds: tuple[str, ...] = (),
        path: str | None = None,
        file_format: str | None = None,
        limit: int | None = None,
        say: Callable[[str], None] = _say,
    ) -> None:
        self.kinds = kinds
        self._path = path
        self._format = file_format
        self._limit = limit
        self._say = say
        self._writer: Writer | None = None
        self._tracer: Tracer | None = None
        if not kinds:
            given = {"--trace-file": path, "--trace-format": file_format, "--trace-limit": limit}
            for option, value in given.items():
                if value is not None:
                    raise click.UsageError(f"{option} needs --trace {'|'.join(KINDS)}")
        if path is None and file_format not in (None, "text"):
            raise click.UsageError(f"--trace-format {file_format} needs --trace-file")

    def __enter__(self) -> TraceRequest:
        if not self.kinds:
            return self
        from emu.debug.trace.writers import LineWriter, open_writer

        if self._path is None:
            self._writer = LineWriter(self._say)
            return self
        try:
            self._writer = open_writer(self._path, self._format)
        except OSError as e:
            raise click.UsageError(f"--trace-file {self._path}: {e.strerror or e}") from None
        large = format_of(self._path, self._format) != "text"
        if "insn" in self.kinds and large and self._limit is None:
            self._say(
                "pagewalk: a trace of instructions in this format grows by some 150 bytes for "
                "each: --trace-limit bounds it"
            )
        return self

    def attach(self, machine: Machine, symbols: Symbols) -> None:
        """Begin to trace ``machine``, if that was asked for; before it first runs.

        A deterministic machine is traced in its own time, and two runs give the same file.
        """
        if self._writer is None:
            return
        from emu.board.instruction_clock import InstructionClock
        from emu.debug.trace.tracer import attach

        clock = machine.clock
        now = (lambda: clock.now() * _NS_PER_TICK) if isinstance(clock, InstructionClock) else None
        self._tracer = attach(
            machine, self.kinds, self._writer, symbols, limit=self._limit, now=now
        )
        for line in self._tracer.missing:
            self._say(f"pagewalk: {line}")

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        tracer, self._tracer = self._tracer, None
        writer, self._writer = self._writer, None
        if tracer is not None:
            tracer.close()
            if tracer.ended:
                self._say(f"pagewalk: {tracer.ended}")
        elif writer is not None:
            writer.close(0)


def trace_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the four options; it gets them as ``trace``, a `TraceRequest`."""

    @click.option(
        "--trace",
        "trace",
        type=KindsParameter(),
        default=(),
        help=f"Trace {', '.join(KINDS)}, or several of them with commas: traps, pages first "
        "touched, instructions, device accesses. Lines on standard error, or a file.",
    )
    @click.option(
        "--trace-file",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="Write the trace there: .jsonl for JSON lines, .json or .perfetto for the "
        "Perfetto UI, else text.",
    )
    @click.option("--trace-format", type=click.Choice(FORMATS), help="Whatever FILE is called.")
    @click.option(
        "--trace-limit",
        type=click.IntRange(min=1),
        metavar="N",
        help="End the trace, not the run, after N events.",
    )
    @functools.wraps(command)
    def with_request(
        *args: Any,
        trace: tuple[str, ...],
        trace_file: str | None,
        trace_format: str | None,
        trace_limit: int | None,
        **kw: Any,
    ) -> Any:
        request = TraceRequest(trace, trace_file, trace_format, trace_limit)
        return command(*args, trace=request, **kw)

    return with_request
