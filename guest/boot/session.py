"""A booted board with its user: the terminal, Ctrl-A's commands, gdb, snapshots at the end."""

from __future__ import annotations

import contextlib
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from emu.spec import words as W
from emu.spec.csr import IRQ_MEI, IRQ_SEI, PRIV_NAMES
from emu.stop import Stop, StopReason
from guest.boot import terminal
from guest.boot.boot import Booted
from guest.boot.outcome import UsageError

if TYPE_CHECKING:  # imported by those who ask for gdb; snapshots and cores likewise
    from emu.debug.gdb.server import GdbServer

_ASK_AGAIN = 0.001  # seconds
_SAY_AGAIN = 1.0  # seconds
# Signals that end the machine in good order: the terminal is to be as it was.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_EXTERNAL = 1 << IRQ_MEI | 1 << IRQ_SEI  # bits of mie
ESCAPE, TIMEOUT = "Ctrl-A x", "timeout"


class Session:
    """Runs ``booted``; ``save_path``: where Ctrl-A s and `save` put a snapshot.

    ``output``: where the console's bytes go, if somebody must read them. ``reboot``: a guest
    that asks for a reset gets it; else that ends the run. ``ended_by``: what from outside
    ended the run: ESCAPE, TIMEOUT, or the name of a signal.
    """

    def __init__(
        self,
        booted: Booted,
        save_path: Path | None,
        gdb_port: int | None,
        output: terminal.Output | None = None,
        reboot: bool = True,
    ) -> None:
        self._booted = booted
        self._board = booted.board
        self._save_path = save_path
        self._gdb_port = gdb_port
        self._output = output
        self._reboot = reboot
        self._say_from = 0.0  # time.monotonic
        self._commands: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._runs = False  # in `_run`
        self._server: GdbServer | None = None
        self.ended_by: str | None = None

    def run(self, with_input: bool) -> Stop:
        """Run to the end; ``with_input``: standard input is the serial line."""
        output = self._output.in_main_thread() if self._output else contextlib.nullcontext()
        with output, _on_signals(self.end), self._input(with_input):
            if self._gdb_port is not None:
                return self._serve_gdb(self._gdb_port)
            while True:
                stop = self._run()
                # A stop may come when what it was for has been done already.
                if stop.reason is not StopReason.INTERRUPTED or self.ended_by:
                    return stop

    def end(self, why: str) -> None:
        """From another thread: end the run, also one that begins later."""
        if self.ended_by is None:
            self.ended_by = why
        if self._output is not None:
            self._output.give_up()
        if self._server is not None:
            self._server.stop()
        self._ask("end")

    def _ask(self, command: str) -> None:
        """From another thread: have ``command`` obeyed while the hart stands."""
        self._commands.put(command)
        # `Hart.stop` before a run, or between two, has no effect.
        while self._runs and not self._commands.empty():
            self._board.hart.stop()
            time.sleep(_ASK_AGAIN)

    def _run(self, count: int = 0) -> Stop:
        """`Hart.run`, interrupted for what the user asks for."""
        self._runs = True
        try:
            while self._obey():
                stop = self._board.run(count)
                if stop.reason is StopReason.RESET and self._reboot:
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
    def _input(self, with_input: bool) -> Iterator[None]:
        if not with_input or terminal.is_in_background(0):
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

        with terminal.raw(0) as is_terminal:
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
        return self.ended_by is None

    def _save_now(self) -> None:
        if self._save_path is None:
            terminal.say("no snapshot without --save FILE")
            return
        try:
            self.save()
        except UsageError as e:  # the machine runs on all the same
            terminal.say(str(e))

    def save(self) -> None:
        """Write the snapshot. Raises UsageError."""
        from emu.debug.snapshot import snapshot

        assert self._save_path is not None
        try:
            snapshot.save(self._board, self._save_path, parts=self._booted.parts())
        except snapshot.SnapshotError as e:
            raise UsageError(str(e)) from None
        terminal.say(f"saved to {self._save_path}")

    def write_core(self, path: Path) -> None:
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
        if self.ended_by:  # before there was a server to tell
            self._server.stop()
        return self._server.serve()


@contextlib.contextmanager
def _on_signals(tell: Callable[[str], None]) -> Iterator[None]:
    """Give each of _ENDING that comes to ``tell``, by its name, in a thread.

    Python calls handlers between its own instructions, and a run of the hart has none. So a
    thread sleeps on the descriptor that the interpreter's C handler writes to. Does nothing
    outside of the main thread, where signals cannot be handled.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def wait() -> None:
        while data := ours.recv(16):
            for number in _ENDING:
                if number in data:
                    tell(number.name)

    thread = threading.Thread(target=wait, name="signals", daemon=True)
    # What is ignored stays so: nohup, and a shell's background jobs, want it.
    caught = [n for n in _ENDING if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    old_fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    old_handlers = {n: signal.signal(n, lambda _number, _frame: None) for n in caught}
    thread.start()
    try:
        yield
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_fd)
        theirs.close()
        thread.join()
        ours.close()
