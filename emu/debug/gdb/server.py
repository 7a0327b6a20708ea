"""A gdb server for a machine: `target remote :PORT`.

The server owns the run loop while it serves. The guest stands until a client lets it run;
it runs on when the client detaches, or is gone while it runs; and it stands again when
the next client comes. One client at a time: others are turned away.

While the guest runs, a thread sleeps in `select` on the client's socket; Python executes
nothing else there, so the guest runs as fast as without a debugger.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections import deque
from collections.abc import Callable

from emu.board.machine import Machine
from emu.debug.breakpoints import Breakpoints
from emu.debug.gdb.packets import Packet, PacketReader, Sign, frame
from emu.debug.gdb.stub import Action, GdbStub, Verb
from emu.debug.symbols import Symbols
from emu.stop import ORDERLY, Stop, StopReason

_RECEIVE_SIZE = 1 << 16  # bytes
_BACKLOG_SIZE_MAX = 1 << 16  # bytes that a client may send ahead while the guest runs
_SEND_TIMEOUT = 10.0  # seconds until a client that does not read counts as gone
_STOP_INTERVAL = 0.01  # seconds: a stop that comes before the run has begun is lost


class _Ended(Exception):
    """`GdbServer.stop` was called."""


class _Gone(Exception):
    """The client has closed the connection, or does not read any more."""


class _Watch:
    """The thread that looks at a socket while the guest runs, and stops the guest.

    ``interrupted``: Ctrl-C came; ``gone``: the client is; ``client``: a new one is there;
    ``ended``: the server is to end.
    """

    def __init__(self, server: GdbServer, interrupted: bool = False) -> None:
        self.interrupted = interrupted
        self.gone = self.ended = False
        self.client: socket.socket | None = None
        self.received = b""
        self._server = server
        self._done = threading.Event()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._main, name="gdb", daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._wake.send(b"\0")
        self._thread.join()
        self._wake.close()
        self._woken.close()

    def _main(self) -> None:
        while not (self.interrupted or self.gone or self.ended or self.client is not None):
            sockets = [self._server.listener, self._server.end_asked, self._woken]
            if self._server.client is not None:
                sockets.append(self._server.client)
            ready = select.select(sockets, [], [])[0]
            if self._woken in ready:
                return
            self.ended = self._server.end_asked in ready
            if self._server.listener in ready:
                self._accept()
            if self._server.client in ready:
                self._receive()
        while not self._done.is_set():  # until it has had its effect
            self._server.breakpoints.interrupt()
            self._done.wait(_STOP_INTERVAL)

    def _accept(self) -> None:
        came = self._server.accept()
        if came is not None and self._server.client is None:
            self.client = came
        elif came is not None:
            came.close()

    def _receive(self) -> None:
        assert self._server.client is not None
        try:
            data = self._server.client.recv(_RECEIVE_SIZE)
        except OSError:
            data = b""
        self.gone = not data
        self.interrupted = b"\x03" in data
        self.received = (self.received + data)[:_BACKLOG_SIZE_MAX]


class GdbServer:
    """Listens on 127.0.0.1, ``port`` (0: any free one, see ``port``) from now on.

    ``run`` runs the machine (default: `Machine.run`), ``symbols`` name addresses in monitor
    commands, ``tell`` is given lines for the user. Raises OSError when the port is taken.
    """

    def __init__(
        self,
        machine: Machine,
        port: int = 0,
        tell: Callable[[str], None] = lambda line: None,
        run: Callable[[int], Stop] | None = None,
        symbols: Symbols | None = None,
    ) -> None:
        self.client: socket.socket | None = None
        self._machine = machine
        self._symbols = symbols
        self._tell = tell
        self.breakpoints = Breakpoints(machine.hart, run or machine.run)
        self._stub = self._new_stub()
        self._reader = PacketReader()
        self._events: deque[Packet | Sign] = deque()  # that are not handled yet
        self._backlog = b""  # what came while the guest ran
        self._last_sent = b""
        self.listener = socket.create_server(("127.0.0.1", port))
        self.listener.setblocking(False)
        self._ask_end, self.end_asked = socket.socketpair()  # readable: the end is wanted
        self.port: int = self.listener.getsockname()[1]

    def close(self) -> None:
        """Stop listening; the client, if there is one, is disconnected."""
        self._drop_client()
        for end in (self.listener, self._ask_end, self.end_asked):
            end.close()

    def stop(self) -> None:
        """End `serve`, whatever it waits for, from a signal handler or another thread."""
        with contextlib.suppress(OSError):  # it has ended
            self._ask_end.send(b"\0")

    def serve(self) -> Stop:
        """Run the machine as the clients want, until the guest ends: why it ended.

        INTERRUPTED: a client killed it, or `stop` was called, or the hart's. Raises what
        running raises. The port is closed behind it.
        """
        try:
            return self._serve()
        except _Ended:
            return Stop(StopReason.INTERRUPTED)
        finally:
            self.close()

    def _serve(self) -> Stop:
        self._tell(f"waiting for gdb on 127.0.0.1:{self.port}")
        runs = False
        while True:
            if runs:
                stop = self._run_alone()
                if stop is not None:
                    return stop
                runs = False
            if self.client is None:
                self._wait_for(self.listener)
                self._connect(self.accept())
                continue
            try:
                ended = self._talk()
            except _Gone:
                self._forget_client()
                continue
            if isinstance(ended, Stop):
                return ended
            runs = ended

    # clients

    def accept(self) -> socket.socket | None:
        """A client that waits, None when it is gone again."""
        try:
            came, _ = self.listener.accept()
        except OSError:
            return None
        came.settimeout(_SEND_TIMEOUT)
        came.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return came

    def _connect(self, client: socket.socket | None) -> None:
        self.client = client
        self._stub = self._new_stub()
        self._reader = PacketReader()
        self._events.clear()
        self._backlog = b""

    def _new_stub(self) -> GdbStub:
        return GdbStub(self._machine, self.breakpoints, self._symbols)

    def _forget_client(self) -> None:
        """Nobody is there who would want the breakpoints."""
        self._drop_client()
        self.breakpoints.clear()
        self._tell(f"waiting for gdb on 127.0.0.1:{self.port}")

    def _drop_client(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None

    # running

    def _run_alone(self) -> Stop | None:
        """Run without a client, until one comes (None) or the guest ends."""
        with _Watch(self) as watch:
            stop = self.breakpoints.resume()
        if watch.client is None:
            return stop
        if stop.reason is not StopReason.INTERRUPTED:  # it ended at the same moment
            watch.client.close()
            return stop
        self._connect(watch.client)
        return None

    def _run_for_client(self, verb: Verb) -> bool | Stop:
        """Run, and tell the client why it ended; True: the client left and it is to go on."""
        breakpoints = self.breakpoints
        interrupted = Sign.INTERRUPT in self._events  # in one piece with the command
        with _Watch(self, interrupted) as watch:
            stop = breakpoints.step() if verb is Verb.STEP else breakpoints.resume()
        self._backlog += watch.received
        ended = stop.reason in ORDERLY
        if stop.reason is StopReason.INTERRUPTED and not watch.interrupted:
            if watch.gone:
                self._forget_client()
                return True
            ended = True  # not by the client: by the user at the terminal
        if watch.gone:
            if ended:
                return stop
            raise _Gone
        reply = self._stub.stopped(stop, self._send)
        if not ended:
            self._send(reply)
            return False
        with contextlib.suppress(_Gone):
            self._send(reply if stop.reason in ORDERLY else b"X0f")  # SIGTERM
        self._drop_client()
        return stop

    # the conversation while the guest stands

    def _talk(self) -> bool | Stop:
        """Answer packets. True: let the guest run alone; a Stop: the guest has ended."""
        while True:
            while not self._events:
                self._events.extend(self._reader.feed(self._receive()))
            event = self._events.popleft()
            if isinstance(event, Sign):
                self._sign(event)
                continue
            self._acknowledge(b"+")
            answer = self._stub.handle(event.data, self._send)
            if isinstance(answer, bytes):
                self._send(answer)
                continue
            ended = self._act(answer)
            if ended is not False:
                return ended

    def _act(self, action: Action) -> bool | Stop:
        if action.reply is not None:
            with contextlib.suppress(_Gone):
                self._send(action.reply)
        if action.verb is Verb.DETACH:
            self._forget_client()
            return True
        if action.verb is Verb.KILL:
            self._drop_client()
            return Stop(StopReason.INTERRUPTED, detail="killed by gdb")
        return self._run_for_client(action.verb)

    def _receive(self) -> bytes:
        if self._backlog:
            data, self._backlog = self._backlog, b""
            return data
        assert self.client is not None
        while True:
            ready = self._wait_for(self.client, self.listener)
            if self.listener in ready and (extra := self.accept()) is not None:
                extra.close()
            if self.client in ready:
                break
        try:
            data = self.client.recv(_RECEIVE_SIZE)
        except OSError as e:
            raise _Gone from e
        if not data:
            raise _Gone
        return data

    def _wait_for(self, *sockets: socket.socket) -> list[socket.socket]:
        """Those that are ready. Raises _Ended."""
        ready = select.select([*sockets, self.end_asked], [], [])[0]
        if self.end_asked in ready:
            raise _Ended
        return ready

    def _sign(self, sign: Sign) -> None:
        if sign is Sign.NAK:
            self._write(self._last_sent)
        elif sign is Sign.BROKEN:
            self._acknowledge(b"-")

    def _acknowledge(self, sign: bytes) -> None:
        if self._stub.wants_acks:
            self._write(sign)

    def _send(self, data: bytes) -> None:
        self._last_sent = frame(data)
        self._write(self._last_sent)

    def _write(self, data: bytes) -> None:
        if self.client is None:
            raise _Gone
        try:
            self.client.sendall(data)
        except OSError as e:
            raise _Gone from e
