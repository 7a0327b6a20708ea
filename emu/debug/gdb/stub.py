"""What a gdb client may ask and what the hart answers: packets in, packets out, no sockets.

Source: the gdb manual, appendix "Remote Serial Protocol"; `qqemu` packets as in QEMU's
gdbstub.c. One process with a thread for each hart, numbered from 1. Commands that gdb does not
need of a stub, and any that are not known, get the empty answer, as the protocol wants.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from emu.board.machine import Machine
from emu.debug.breakpoints import Breakpoints, Hit, Kind
from emu.debug.gdb.memory import DebugMemory
from emu.debug.gdb.monitor import Monitor
from emu.debug.gdb.packets import DATA_SIZE_MAX, escape
from emu.debug.gdb.target import CORE_COUNT, Registers
from emu.debug.symbols import Symbols
from emu.hart import Hart
from emu.spec.csr import PRIV_NAMES
from emu.spec.trap import Trap
from emu.stop import ORDERLY, Stop, StopReason

_UNREADABLE = b"E14"  # EFAULT
_INVALID = b"E22"  # EINVAL
_OUTPUT_SIZE_MAX = DATA_SIZE_MAX // 4  # bytes of text in one packet of output
_READ_SIZE_MAX = DATA_SIZE_MAX // 2 - 8

# gdb's numbers of signals (include/gdb/signals.def), which are not any host's.
_SIGINT, _SIGILL, _SIGTRAP, _SIGBUS, _SIGSEGV, _SIGSYS = 2, 4, 5, 10, 11, 12
_SIGNAL_OF_CAUSE = {
    **{2: _SIGILL, 3: _SIGTRAP},
    **dict.fromkeys((0, 4, 6), _SIGBUS),
    **dict.fromkeys((1, 5, 7, 12, 13, 15), _SIGSEGV),
    **dict.fromkeys((8, 9, 11), _SIGSYS),
}
_WATCH_NAMES = {Kind.WRITE: b"watch", Kind.READ: b"rwatch", Kind.ACCESS: b"awatch"}

# QEMU's bits of `maintenance packet Qqemu.sstep`: single steps at all, without interrupts.
_SSTEP_ENABLE, _SSTEP_NOIRQ = 1, 2


class Verb(Enum):
    """What is to be done with the guest; the answer follows when it is done."""

    CONTINUE = auto()
    STEP = auto()
    DETACH = auto()
    KILL = auto()


@dataclass(frozen=True, slots=True)
class Action:
    """A packet that moves the guest; ``reply`` goes out at once, where there is one."""

    verb: Verb
    reply: bytes | None = None


class _BadPacket(Exception):
    """The arguments are not of the packet's form."""


def _hex(text: bytes) -> int:
    if not re.fullmatch(rb"[0-9a-fA-F]{1,32}", text):
        raise _BadPacket
    return int(text, 16)


def _unhex(text: bytes) -> bytes:
    if len(text) % 2 or not re.fullmatch(rb"[0-9a-fA-F]*", text):
        raise _BadPacket
    return bytes.fromhex(text.decode())


def _split(text: bytes, separator: bytes, count: int) -> list[bytes]:
    parts = text.split(separator)
    if len(parts) != count:
        raise _BadPacket
    return parts


@dataclass(frozen=True, slots=True)
class _Thread:
    """A hart as gdb sees it."""

    hart: Hart
    registers: Registers
    memory: DebugMemory
    monitor: Monitor


class GdbStub:
    """The state of one client's session with ``machine``."""

    def __init__(
        self, machine: Machine, breakpoints: Breakpoints, symbols: Symbols | None = None
    ) -> None:
        names = symbols or Symbols()
        self._threads = [
            _Thread(hart, Registers(hart), DebugMemory(machine, hart), Monitor(hart, names))
            for hart in machine.harts
        ]
        self._thread = self._threads[0]  # what packets about registers and memory mean
        self._breakpoints = breakpoints
        self._xml = self._thread.registers.xml().encode()
        self._features: set[bytes] = set()  # what the client says that it knows
        self._last_stop = b"S05"
        self.wants_acks = True
        breakpoints.hold_interrupts = True

    # packets

    def handle(self, data: bytes, output: Callable[[bytes], None]) -> bytes | Action:
        """Do what one packet asks: its answer, or what is to be done with the guest.

        ``output`` is given answers that come before it. Raises nothing for any packet.
        """
        name, rest = data[:1], data[1:]
        try:
            if name in (b"q", b"Q"):
                return self._query(data, output)
            if name == b"v":
                return self._verbose(data)
            command = _COMMANDS.get(name)
            return b"" if command is None else command(self, rest)
        except _BadPacket:
            return _INVALID

    def stopped(self, stop: Stop, output: Callable[[bytes], None]) -> bytes:
        """The answer to CONTINUE or STEP: why the guest stands, or that it is gone."""
        self._last_stop = self._describe(stop, output)
        return self._last_stop

    def _describe(self, stop: Stop, output: Callable[[bytes], None]) -> bytes:
        if stop.reason in ORDERLY:
            return b"W%02x" % (stop.code & 0xFF)
        if stop.reason is StopReason.INTERRUPTED:
            return self._stop_reply(_SIGINT)
        if stop.reason is StopReason.FAULT:
            trap: Trap | None = stop.trap
            text = f"{trap.text} at {trap.epc:#x}, tval {trap.tval:#x}" if trap else "fault"
            self._say(f"{text}{': ' if stop.detail else ''}{stop.detail}", output)
            cause = trap.cause if trap and not trap.interrupt else -1
            return self._stop_reply(_SIGNAL_OF_CAUSE.get(cause, _SIGTRAP))
        if stop.reason is StopReason.WFI:
            self._say("the hart waits for an interrupt that nothing can raise", output)
        return self._stop_reply(_SIGTRAP, self._why(stop))

    def _stop_reply(self, signal: int, why: bytes = b"") -> bytes:
        self._thread = self._threads[0]  # the one that runs, and so the one that has stopped
        return b"T%02xthread:%x;%s" % (signal, self._number(), why)

    # threads

    def _number(self) -> int:
        return self._threads.index(self._thread) + 1

    def _of_number(self, text: bytes) -> _Thread:
        """The thread that a packet names; 0 and -1, any and all, are the present one."""
        text = text.removeprefix(b"p1.")
        if text in (b"0", b"-1"):
            return self._thread
        number = _hex(text)
        if not 1 <= number <= len(self._threads):
            raise _BadPacket
        return self._threads[number - 1]

    def _set_thread(self, rest: bytes) -> bytes:
        """For registers and memory (g), or for going on (c), which all harts do together."""
        thread = self._of_number(rest[1:])
        if rest[:1] == b"g":
            self._thread = thread
        return b"OK"

    def _is_alive(self, rest: bytes) -> bytes:
        self._of_number(rest)
        return b"OK"

    def _current(self, _rest: bytes) -> bytes:
        return b"QC%x" % self._number()

    def _list(self, _rest: bytes) -> bytes:
        return b"m" + b",".join(b"%x" % n for n in range(1, len(self._threads) + 1))

    def _extra_info(self, rest: bytes) -> bytes:
        hart = self._of_number(rest).hart
        return f"hart {hart.hartid}, {PRIV_NAMES[hart.priv]}-mode".encode().hex().encode()

    def _why(self, stop: Stop) -> bytes:
        hit: Hit | None = self._breakpoints.hit
        if hit is not None:
            return b"%s:%x;" % (_WATCH_NAMES[hit.kind], hit.va)
        if stop.reason is StopReason.BREAKPOINT:
            kinds = self._breakpoints.at(self._thread.hart.pc)
            if Kind.SOFTWARE in kinds and b"swbreak+" in self._features:
                return b"swbreak:;"
            if Kind.HARDWARE in kinds and b"hwbreak+" in self._features:
                return b"hwbreak:;"
        return b""

    @staticmethod
    def _say(text: str, output: Callable[[bytes], None]) -> None:
        data = text.encode() if text.endswith("\n") else f"{text}\n".encode()
        for at in range(0, len(data), _OUTPUT_SIZE_MAX):
            output(b"O" + data[at : at + _OUTPUT_SIZE_MAX].hex().encode())

    # registers

    def _read_all(self, _rest: bytes) -> bytes:
        return b"".join(self._register(number) for number in range(CORE_COUNT))

    def _write_all(self, rest: bytes) -> bytes:
        data = _unhex(rest)
        if len(data) != 8 * CORE_COUNT:
            return _INVALID
        for number in range(CORE_COUNT):
            self._thread.registers.write(number, data[8 * number : 8 * number + 8])
        return b"OK"

    def _read_one(self, rest: bytes) -> bytes:
        try:
            return self._register(_hex(rest))
        except IndexError:
            return _INVALID

    def _register(self, number: int) -> bytes:
        data = self._thread.registers.read(number)
        if data is None:  # "the register's value is unavailable"
            return b"xx" * self._thread.registers.size(number)
        return data.hex().encode()

    def _write_one(self, rest: bytes) -> bytes:
        number, data = _split(rest, b"=", 2)
        try:
            self._thread.registers.write(_hex(number), _unhex(data))
        except (IndexError, ValueError):
            return _INVALID
        return b"OK"

    # memory

    def _read_memory(self, rest: bytes) -> bytes:
        address, size = map(_hex, _split(rest, b",", 2))
        data = self._thread.memory.read(address, min(size, _READ_SIZE_MAX))
        return data.hex().encode() if data or not size else _UNREADABLE

    def _write_memory(self, rest: bytes) -> bytes:
        head, data = _split(rest, b":", 2)
        return self._store(head, _unhex(data))

    def _write_binary(self, rest: bytes) -> bytes:
        head, separator, data = rest.partition(b":")
        if not separator:
            raise _BadPacket
        return self._store(head, data)

    def _store(self, head: bytes, data: bytes) -> bytes:
        address, size = map(_hex, _split(head, b",", 2))
        if size != len(data):
            return _INVALID
        return b"OK" if self._thread.memory.write(address, data) else _UNREADABLE

    # running

    def _continue(self, rest: bytes) -> bytes | Action:
        self._go_to(rest)
        return Action(Verb.CONTINUE)

    def _step(self, rest: bytes) -> bytes | Action:
        self._go_to(rest)
        return Action(Verb.STEP)

    def _with_signal(self, rest: bytes) -> tuple[bytes, bytes]:
        signal, _, address = rest.partition(b";")
        _hex(signal)  # there are no signals to give to a hart
        return signal, address

    def _continue_with_signal(self, rest: bytes) -> bytes | Action:
        return self._continue(self._with_signal(rest)[1])

    def _step_with_signal(self, rest: bytes) -> bytes | Action:
        return self._step(self._with_signal(rest)[1])

    def _go_to(self, address: bytes) -> None:
        if address:
            registers = self._thread.registers
            pc = _hex(address) & (1 << 64) - 1
            registers.write(registers.numbers["pc"], pc.to_bytes(8, "little"))

    def _verbose(self, data: bytes) -> bytes | Action:
        if data == b"vCont?":
            return b"vCont;c;C;s;S"
        if data.startswith(b"vCont;"):
            # The first action: the harts go on together, whichever thread it names.
            action, _, thread = data[6:].partition(b";")[0].partition(b":")
            if thread:
                self._of_number(thread)
            if action[:1] in (b"c", b"C"):
                return Action(Verb.CONTINUE)
            if action[:1] in (b"s", b"S"):
                return Action(Verb.STEP)
            return _INVALID
        if data.startswith(b"vKill"):
            return Action(Verb.KILL, b"OK")
        return b""

    def _insert(self, rest: bytes) -> bytes:
        point = self._point(rest)
        if point is None:
            return b""
        try:
            self._breakpoints.insert(*point)
        except ValueError:
            return _UNREADABLE
        return b"OK"

    def _remove(self, rest: bytes) -> bytes:
        point = self._point(rest)
        if point is None:
            return b""
        self._breakpoints.remove(*point)
        return b"OK"

    @staticmethod
    def _point(rest: bytes) -> tuple[Kind, int, int] | None:
        kind, address, size = _split(rest.partition(b";")[0], b",", 3)
        if kind not in (b"0", b"1", b"2", b"3", b"4"):
            return None
        va = _hex(address)
        if va >> 64:
            raise _BadPacket
        return Kind(int(kind)), va, _hex(size)

    # queries

    def _query(self, data: bytes, output: Callable[[bytes], None]) -> bytes:
        name = data[: next((i for i, byte in enumerate(data) if byte in b":=,;"), len(data))]
        rest = data[len(name) :]
        if data.startswith(b"qRcmd,"):
            line = _unhex(data[6:]).decode(errors="replace")
            self._say(self._thread.monitor.command(line), output)
            return b"OK"
        if data.startswith(b"qXfer:features:read:"):
            return self._features_read(data)
        query = _QUERIES.get(name)
        return b"" if query is None else query(self, rest[1:])  # behind `:` or `=`

    def _supported(self, rest: bytes) -> bytes:
        self._features = set(rest.split(b";"))
        return (
            b"PacketSize=%x;qXfer:features:read+;QStartNoAckMode+;vContSupported+;"
            b"swbreak+;hwbreak+" % DATA_SIZE_MAX
        )

    def _features_read(self, data: bytes) -> bytes:
        annex, window = _split(data.removeprefix(b"qXfer:features:read:"), b":", 2)
        offset, size = map(_hex, _split(window, b",", 2))
        if annex != b"target.xml":
            return b"E00"
        size = min(size, DATA_SIZE_MAX // 2 - 1)  # all of it may have to be escaped
        more = b"m" if offset + size < len(self._xml) else b"l"
        return more + escape(self._xml[offset : offset + size])

    def _no_acks(self, _rest: bytes) -> bytes:
        self.wants_acks = False
        return b"OK"

    def _physical(self, rest: bytes) -> bytes:
        for thread in self._threads:
            thread.memory.physical = bool(_hex(rest))
        return b"OK"

    def _sstep(self, _rest: bytes) -> bytes:
        return b"%#x" % (_SSTEP_ENABLE | _SSTEP_NOIRQ * self._breakpoints.hold_interrupts)

    def _set_sstep(self, rest: bytes) -> bytes:
        flags = _hex(rest.removeprefix(b"0x"))
        if flags & ~(_SSTEP_ENABLE | _SSTEP_NOIRQ):
            return _INVALID
        self._breakpoints.hold_interrupts = bool(flags & _SSTEP_NOIRQ)
        return b"OK"


Command = Callable[[GdbStub, bytes], "bytes | Action"]
_COMMANDS: dict[bytes, Command] = {
    b"?": lambda stub, _rest: stub._last_stop,
    b"g": GdbStub._read_all,
    b"G": GdbStub._write_all,
    b"p": GdbStub._read_one,
    b"P": GdbStub._write_one,
    b"m": GdbStub._read_memory,
    b"M": GdbStub._write_memory,
    b"X": GdbStub._write_binary,
    b"c": GdbStub._continue,
    b"C": GdbStub._continue_with_signal,
    b"s": GdbStub._step,
    b"S": GdbStub._step_with_signal,
    b"Z": GdbStub._insert,
    b"z": GdbStub._remove,
    b"H": GdbStub._set_thread,
    b"T": GdbStub._is_alive,
    b"D": lambda _stub, _rest: Action(Verb.DETACH, b"OK"),
    b"k": lambda _stub, _rest: Action(Verb.KILL),
}
_SSTEP_BITS = b"ENABLE=%x,NOIRQ=%x" % (_SSTEP_ENABLE, _SSTEP_NOIRQ)
_QUERIES: dict[bytes, Callable[[GdbStub, bytes], bytes]] = {
    b"qSupported": GdbStub._supported,
    b"qC": GdbStub._current,
    b"qThreadExtraInfo": GdbStub._extra_info,
    b"qfThreadInfo": GdbStub._list,
    b"qsThreadInfo": lambda _stub, _rest: b"l",
    b"qAttached": lambda _stub, _rest: b"1",  # so gdb detaches when it quits
    b"qSymbol": lambda _stub, _rest: b"OK",
    b"QStartNoAckMode": GdbStub._no_acks,
    b"qqemu.Supported": lambda _stub, _rest: b"sstepbits;sstep;PhyMemMode",
    b"qqemu.PhyMemMode": lambda stub, _rest: b"%d" % stub._thread.memory.physical,
    b"Qqemu.PhyMemMode": GdbStub._physical,
    b"qqemu.sstepbits": lambda _stub, _rest: _SSTEP_BITS,
    b"qqemu.sstep": GdbStub._sstep,
    b"Qqemu.sstep": GdbStub._set_sstep,
}
