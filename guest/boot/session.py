"""A booted board with its user: the terminal, Ctrl-A's commands, gdb, snapshots at the end."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emu.board.machine import Machine
from emu.debug.symbols import Symbols
from emu.spec import words as W
from emu.spec.csr import IRQ_MEI, IRQ_SEI, PRIV_NAMES
from emu.stop import Stop, StopReason
from guest.boot import terminal
from guest.boot.boot import Booted
from guest.boot.outcome import ESCAPE, Outcome, UsageError, describe
from guest.ending import Ending

if TYPE_CHECKING:  # imported by those who ask for gdb; snapshots and cores likewise
    from emu.debug.gdb.server import GdbServer

_ASK_AGAIN = 0.001  # seconds
_SAY_AGAIN = 1.0  # seconds
_EXTERNAL = 1 << IRQ_MEI | 1 << IRQ_SEI  # bits of mie


@dataclass(frozen=True)
class SessionOptions:
    """How a board is run.

    ``timeout``: seconds, None for no limit. ``reboot``: a guest that asks for a reset gets it;
    else that ends the run. ``gdb_port``: wait there for gdb, 0 for any port. ``save``: where
    Ctrl-A s puts a snapshot, and the end one of a machine that was stopped; ``core``: where the
    end puts an ELF core. ``with_input``: standard input is the serial line; ``raw``: if that is
    a terminal, every key goes to the guest, and Ctrl-A's commands are ours.
    """

    timeout: float | None = None
    reboot: bool = True
    gdb_port: int | None = None
    save: Path | None = None
    core: Path | None = None
    with_input: bool = True
    raw: bool = True


class Session:
    """Runs ``booted``; ``output``: where the console's bytes go, if somebody must read them."""

    def __init__(
        self, booted: Booted, options: SessionOptions, output: terminal.Output | None = None
    ) -> None:
        self._booted = booted
        self._board = booted.board
        self._options = options
        self._output = output
        self._say_from = 0.0  # time.monotonic
        self._commands: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._runs = False  # in `_run`
        self._server: GdbServer | None = None
        self._ending = Ending(self._board.stop, options.timeout)
        self._ending.when_ended.append(self._give_up)

    def run(
        self,
        program: str | None,
        attach: Callable[[Machine, Symbols], None] = lambda machine, symbols: None,
    ) -> Outcome:
        """Run to the end, and leave the files that were asked for.

        ``program``: what the outcome calls the guest; ``attach`` is called before the first
        instruction. Raises UsageError, and what a device or a handler raised.
        """
        attach(self._board, self._booted.symbols)
        stop = self._run_to_its_end()
        booted, options = self._booted, self._options
        outcome = describe(
            program, booted.machine, self._board.hart, stop, booted.symbols, self._ending
        )
        outcome.notes += filter(None, [booted.virtio_note()])
        if options.save is not None and stop.reason in (StopReason.INTERRUPTED, StopReason.WFI):
            self.save()
        if options.core is not None:
            self._write_core(options.core)
        return outcome

    def _run_to_its_end(self) -> Stop:
        output = self._output.in_main_thread() if self._output else contextlib.nullcontext()
        with output, self._ending, self._input():
            if self._options.gdb_port is not None:
                return self._serve_gdb(self._options.gdb_port)
            while True:
                stop = self._run()
                # A stop may come when what it was for has been done already.
                if stop.reason is not StopReason.INTERRUPTED or self._ending.by:
                    return stop

    def end(self, why: str) -> None:
        """From another thread: end the run, also one that begins later."""
        self._ending.end(why)

    def _give_up(self) -> None:
        """The run is to end: whoever waits for somebody else waits no longer."""
        if self._output is not None:
            self._output.give_up()
        if self._server is not None:
            self._server.stop()

    def _ask(self, command: str) -> None:
        """From another thread: have ``command`` obeyed while the hart stands."""
        self._commands.put(command)
        # `Hart.stop` before a run, or between two, has no effect.
        while self._runs and not self._commands.empty():
            self._board.stop()
            time.sleep(_ASK_AGAIN)

    def _run(self, count: int = 0) -> Stop:
        """`Hart.run`, interrupted for what the user asks for."""
        self._runs = True
        try:
            while self._obey():
                stop = self._board.run(count)
                if stop.reason is StopReason.RESET and self._options.reboot:
                    self._begin_anew(stop.detail)
                    continue
                if self._commands.empty() or stop.reason is not StopReason.INTERRUPTED:
                    return stop
            return Stop(StopReason.INTERRUPTED)
        finally:
            self._runs = False

    def _begin_anew(self, why: str) -> None:
        now = time.monotonic()
        if now >= self._say_from:  # a guest that resets at once would fill the terminal
            terminal.say(f"{why}: the machine begins anew")
            self._say_from = now + _SAY_AGAIN
        self._booted.reset()

    @contextlib.contextmanager
    def _input(self) -> Iterator[None]:
        if not self._options.with_input or terminal.is_in_background(0):
            yield
            return
        board, hart = self._board, self._board.hart
        board.has_input = True

        def receive(data: bytes) -> int:
            # Whoever holds the lock may wait for the reader of the output.
            if not board.lock.acquire(timeout=_ASK_AGAIN):
                return 0
            try:
                return board.uart.receive(data)
            finally:
                board.lock.release()

        def receive_when_heard(data: bytes) -> int:
            return receive(data) if board.uart.is_heard else 0

        def ended() -> None:
            board.has_input = False
            hart.wake.set()  # a hart that waits looks again whether it waits for ever

        def idle_when_heard(wake: threading.Event) -> bool:
            wakes = board.uart.is_heard and hart.words[W.MIE] & _EXTERNAL
            return board.clock.idle(wake, board.has_input and bool(wakes))

        raw = terminal.raw(0) if self._options.raw else contextlib.nullcontext(False)
        with raw as is_terminal:
            if is_terminal:
                terminal.say("Ctrl-A x ends the machine, Ctrl-A h helps")
                typing = terminal.Typing(0, receive, ended, terminal.Escapes(self._command))
            else:
                # A pipe is there at once and does not wait for a prompt, as a person does:
                # it waits until somebody listens, and cannot wake a guest that does not.
                typing = terminal.Typing(0, receive_when_heard, ended)
                hart.idle = idle_when_heard
            with typing:
                yield

    def _command(self, letter: str) -> None:
        """Ctrl-A and ``letter`` was typed; called from the terminal's thread."""
        if letter == "x":
            self.end(ESCAPE)
        elif letter in ("w", "s"):
            self._ask(letter)
        else:
            for line in terminal.HELP:
                terminal.say(line)

    def _obey(self) -> bool:
        """Do what the user asked for while the hart stands; False: the run is over."""
        while not self._commands.empty():
            letter = self._commands.get()
            if letter == "w":
                hart = self._board.hart
                name = self._booted.symbols.name(hart.pc)
                where = f"{hart.pc:#x}{f' <{name}>' if name else ''}"
                terminal.say(f"{where} in {PRIV_NAMES[hart.priv]}-mode, satp={hart.satp:#x}")
            elif letter == "s":
                self._save_now()
        return self._ending.by is None

    def _save_now(self) -> None:
        if self._options.save is None:
            terminal.say("no snapshot without --save FILE")
            return
        try:
            self.save()
        except UsageError as e:  # the machine runs on all the same
            terminal.say(str(e))

    def save(self) -> None:
        """Write the snapshot. Raises UsageError."""
        from emu.debug.snapshot import snapshot

        assert self._options.save is not None
        try:
            snapshot.save(self._board, self._options.save, parts=self._booted.parts())
        except snapshot.SnapshotError as e:
            raise UsageError(str(e)) from None
        terminal.say(f"saved to {self._options.save}")

    def _write_core(self, path: Path) -> None:
        """Write an ELF core. Raises UsageError."""
        from emu.debug import core

        try:
            core.write(self._board, path)
        except core.CoreError as e:
            raise UsageError(str(e)) from None

    def _serve_gdb(self, port: int) -> Stop:
        from emu.debug.gdb.server import GdbServer

        try:
            self._server = GdbServer(
                self._board, port, terminal.say, self._run, self._booted.symbols
            )
        except OSError as e:
            raise UsageError(f"--gdb {port}: {e.strerror or e}") from None
        if self._ending.by:  # before there was a server to tell
            self._server.stop()
        return self._server.serve()
