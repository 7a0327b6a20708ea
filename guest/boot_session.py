"""A booted board with its user: the terminal, Ctrl-A's commands, gdb, snapshots at the end."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator
from pathlib import Path

from emu.csr import PRIV_NAMES
from emu.debug import core, snapshot
from emu.debug.gdb import GdbServer
from emu.stop import Stop, StopReason
from guest import terminal
from guest.boot import Booted
from guest.interrupt import stop_on_ctrl_c
from guest.runner import UsageError


class Session:
    """Runs ``booted``; ``save_path``: where Ctrl-A s and `save` put a snapshot."""

    def __init__(self, booted: Booted, save_path: Path | None, gdb_port: int | None) -> None:
        self._booted = booted
        self._board = booted.board
        self._save_path = save_path
        self._gdb_port = gdb_port
        self._commands: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stop = booted.board.hart.stop
        self.was_ended = False  # by the user's Ctrl-A x

    def run(self, with_input: bool) -> Stop:
        """Run to the end; ``with_input``: standard input is the serial line."""
        with self._input() if with_input else stop_on_ctrl_c(self._board.hart):
            if self._gdb_port is not None:
                return self._serve_gdb(self._gdb_port)
            while True:
                stop = self._board.run()
                if stop.reason is not StopReason.INTERRUPTED or not self._obey():
                    return stop

    @contextlib.contextmanager
    def _input(self) -> Iterator[None]:
        board = self._board
        board.has_input = True

        def receive(data: bytes) -> int:
            with board.lock:
                taken = board.uart.receive(data)
            board.clock.raised()
            return taken

        def ended() -> None:
            board.has_input = False
            board.hart.wake.set()  # a hart that waits looks again whether it waits for ever

        def receive_when_heard(data: bytes) -> int:
            return receive(data) if board.uart.is_heard else 0

        with terminal.raw(0) as is_terminal:
            escapes = terminal.Escapes(self._command) if is_terminal else None
            if is_terminal:
                terminal.say("Ctrl-A x ends the machine, Ctrl-A h helps")
            # A pipe is there at once and does not wait for a prompt, as a person does.
            taken = receive if is_terminal else receive_when_heard
            with stop_on_ctrl_c(board.hart), terminal.Typing(0, taken, ended, escapes):
                yield

    def _command(self, letter: str) -> None:
        """Ctrl-A and ``letter`` was typed; called from the terminal's thread."""
        if letter in "xws":
            self._commands.put(letter)
            self._stop()
        else:
            for line in terminal.HELP:
                terminal.say(line)

    def _obey(self) -> bool:
        """Do what the user asked for while the hart stands; False: the run is over."""
        obeyed = False
        while not self._commands.empty():
            letter = self._commands.get()
            obeyed = True
            if letter == "x":
                self.was_ended = True
                return False
            if letter == "w":
                hart = self._board.hart
                name = self._booted.symbols.name(hart.pc)
                where = f"{hart.pc:#x}{f' <{name}>' if name else ''}"
                terminal.say(f"{where} in {PRIV_NAMES[hart.priv]}-mode, satp={hart.satp:#x}")
            elif self._save_path is None:
                terminal.say("no snapshot without --save FILE")
            else:
                self.save()
        return obeyed

    def save(self) -> None:
        """Write the snapshot. Raises UsageError."""
        assert self._save_path is not None
        try:
            snapshot.save(self._board, self._save_path, parts=self._booted.parts())
        except snapshot.SnapshotError as e:
            raise UsageError(str(e)) from None
        terminal.say(f"saved to {self._save_path}")

    def write_core(self, path: Path) -> None:
        """Write an ELF core. Raises UsageError."""
        try:
            core.write(self._board, path)
        except core.CoreError as e:
            raise UsageError(str(e)) from None

    def _serve_gdb(self, port: int) -> Stop:
        try:
            server = GdbServer(self._board, port, tell=terminal.say, symbols=self._booted.symbols)
        except OSError as e:
            raise UsageError(f"--gdb {port}: {e.strerror or e}") from None
        self._stop = server.stop
        stop = server.serve()
        if stop.reason is StopReason.INTERRUPTED:
            self._obey()
        return stop
