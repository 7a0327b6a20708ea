"""Traces: what the hart does, an event at a time.

  trap  every trap: cause, where, from which level to which; the returns, for writers
        that want them
  mmu   every page that is used for the first time under a satp: VA, access, PTEs, PA
  insn  every instruction, disassembled
  dev   every access to a device's registers

A trace of traps or devices costs microseconds an event. `insn` and `mmu` call Python for
each instruction: about a million times slower than a run without them is to be expected.

When its writer fails or its limit is reached a trace ends, and the guest runs on without it:
`Tracer.ended` says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import TracebackType

from emu.board.devices import Device
from emu.board.machine import Machine
from emu.debug.symbols import Symbols
from emu.debug.trace.engine_watch import CodeHooks, InterruptWatch, ReturnWatch
from emu.debug.trace.events import (
    DeviceEvent,
    Event,
    InsnEvent,
    NoteEvent,
    PageEvent,
    ReturnEvent,
    SatpEvent,
    TrapEvent,
)
from emu.debug.trace.names import parse_kinds
from emu.debug.trace.writers import LineWriter, Writer
from emu.engine.calls import EngineError
from emu.engine.direct_access import DirectAccess
from emu.hart import Handler, Hart
from emu.spec import insn, words
from emu.spec.paging import PAGE_SHIFT, pte_attributes
from emu.spec.trap import Trap
from emu.spec.walk import Access, Refusal
from emu.stop import Stop

_STORES = frozenset((0x23, 0x27))  # major opcodes
_MASK64 = (1 << 64) - 1
_FLUSH_NS = 250_000_000  # what is traced can be read by others so soon, while events come


def attach(
    target: Machine | Hart,
    kinds: str | Iterable[str],
    writer: Writer | Callable[[str], None],
    symbols: Symbols | None = None,
    *,
    limit: int | None = None,
    now: Callable[[], int] | None = None,
) -> Tracer:
    """Trace ``kinds`` of `KINDS` (also as ``trap,dev``); call it while the hart does not run.

    ``writer``: see `emu.debug.trace.writers`; a plain function gets each line of text.
    ``limit``: the trace ends behind so many events (returns are not counted). ``now``:
    ns, from any beginning; without it the host's clock.

    Attach it after the handlers of `Hart.handlers` are set: of a handler that comes later
    the traps are seen, but not the returns.

    Raises ValueError for another kind, and for `dev` without a Machine; OSError from the
    writer.
    """
    wanted = parse_kinds(kinds if isinstance(kinds, str) else ",".join(kinds))
    machine = target if isinstance(target, Machine) else None
    hart = target.hart if isinstance(target, Machine) else target
    if "dev" in wanted and machine is None:
        raise ValueError("a trace of devices (dev) needs the machine, not a hart alone")
    if limit is not None and limit < 1:
        raise ValueError(f"a trace of {limit} events is none")
    chosen = LineWriter(writer) if callable(writer) else writer
    tracer = Tracer(hart, chosen, symbols or Symbols(), limit, now)
    tracer.begin(wanted, machine)
    return tracer


class Tracer:
    """A trace under way. `close` ends it; as a context manager it closes itself.

    ``events``: how many there have been; ``ended``: empty, or the line that says why it
    ended by itself; ``missing``: what this hart cannot show, a line each.
    """

    def __init__(
        self,
        hart: Hart,
        writer: Writer,
        symbols: Symbols,
        limit: int | None,
        now: Callable[[], int] | None,
    ) -> None:
        self.events = 0
        self.ended = ""
        self.missing: tuple[str, ...] = ()
        self._hart = hart
        self._writer = writer
        self._symbols = symbols
        self._limit = limit
        self._is_host_time = now is None
        self._clock = now or time.perf_counter_ns
        self._start = self._clock()
        self._flushed = 0
        self._hooks = CodeHooks(hart)
        self._hooked = False
        self._detach: list[Callable[[], None]] = []
        self._is_open = True

    def begin(self, kinds: tuple[str, ...], machine: Machine | None) -> None:
        """Watch for what is of these kinds; once."""
        hart = self._hart
        self._writer.start(hart.words[words.PRIV])
        per_instruction = []
        if "mmu" in kinds:
            per_instruction.append(_MmuTrace(hart, self._now, self._emit).instruction)
        if "insn" in kinds:
            per_instruction.append(self._instruction)
        for see in per_instruction:
            self._hooks.code(see)
        if "trap" in kinds:
            self._attach_traps()
        if "dev" in kinds and machine is not None:
            self._attach_devices(machine)
        self._hooked = bool(per_instruction) or ("trap" in kinds and self._writer.wants_returns)
        if self._hooked:
            self._hooks.apply()

    # each kind

    def _attach_traps(self) -> None:
        hart, before, see = self._hart, self._hart.trap_listener, self._trap

        def listener(trap: Trap) -> None:
            if before is not None:
                before(trap)
            see(trap)

        def detach() -> None:
            if hart.trap_listener is listener:
                hart.trap_listener = before

        hart.trap_listener = listener
        self._detach.append(detach)
        if hart.access.in_place:  # else `Hart` delivers every interrupt, and tells of it
            try:
                self._detach.append(InterruptWatch(hart, see).close)
            except EngineError as e:
                self.missing = (f"interrupts that guest code takes are not traced: {e}",)
        if self._writer.wants_returns:
            ReturnWatch(hart, self._hooks, self._return)
            for level in list(hart.handlers):
                self._watch_handler(level)

    def _watch_handler(self, level: int) -> None:
        """See when Python's handler of the traps to ``level`` has ended."""
        handlers, handler, w = self._hart.handlers, self._hart.handlers[level], self._hart.words
        if handler is None:
            return
        known: Handler = handler

        def watched(trap: Trap) -> Stop | None:
            stop = known(trap)
            if stop is None:
                self._return(level, w[words.PRIV], w[words.PC])
            return stop

        def detach() -> None:
            if handlers[level] is watched:
                handlers[level] = known

        handlers[level] = watched
        self._detach.append(detach)

    def _attach_devices(self, machine: Machine) -> None:
        before, w, load = machine.device_listener, self._hart.words, self._hart.access.load
        access, label = self._hart.access, _Labels(machine)
        access_pc = access.access_pc if isinstance(access, DirectAccess) else lambda: None

        # A machine that measures gives the time before the access too, by perf_counter_ns:
        # of use where the trace goes by that.
        def listener(
            device: Device, is_write: bool, offset: int, size: int, value: int, *began: int
        ) -> None:
            if before is not None:
                before(device, is_write, offset, size, value, *began)
            load()
            ended = self._now()
            pc = access_pc()
            name = None if pc is None else self._symbols.name(pc)
            since = max(0, began[0] - self._start) if began and self._is_host_time else None
            priv, known_as = w[words.PRIV], label(device)
            self._emit(
                DeviceEvent(ended, priv, known_as, is_write, offset, size, value, pc, name, since)
            )

        def detach() -> None:
            if machine.device_listener is listener:
                machine.device_listener = before

        machine.device_listener = listener
        self._detach.append(detach)

    def _trap(self, trap: Trap) -> None:
        if self._is_open:
            name = self._symbols.name(trap.epc)
            time = self._clock() - self._start
            self._emit(TrapEvent.of(time, trap, name, self._hart.words[words.A7]))

    def _return(self, level: int, target: int, pc: int) -> None:
        if self._is_open:
            self._put(ReturnEvent(self._clock() - self._start, level, target, pc))

    def _instruction(self, va: int) -> None:
        hart = self._hart
        if self._is_open:
            bits, name = hart.fetch(va), self._symbols.name(va)
            self._emit(InsnEvent(self._now(), hart.words[words.PRIV], va, bits, name))

    # the writer

    def _now(self) -> int:
        return self._clock() - self._start

    def _emit(self, event: Event) -> None:
        """Write an event that counts."""
        if not self._is_open:
            return
        if self._limit is not None and self.events >= self._limit:
            note = f"trace ended after {self.events} events"
            self._put(NoteEvent(event.time, event.level, note))
            self._end(note)
            return
        self.events += 1
        self._put(event)

    def _put(self, event: Event) -> None:
        if not self._is_open:
            return
        try:
            self._writer.write(event)
            if event.time - self._flushed > _FLUSH_NS:
                self._flushed = event.time
                self._writer.flush()
        except OSError as e:
            self._end(self._failure(e))

    def _failure(self, error: OSError) -> str:
        # Events that waited in memory are lost with it, so their number would not be true.
        return f"{self._writer.name}: {error.strerror or error}: the trace ends here"

    def _end(self, why: str) -> None:
        """End the trace by itself, maybe in the midst of a callback of the engine."""
        self.ended = self.ended or why
        self._finish()
        if self._hooked:
            # Only then does the guest run as fast again as it would without a trace.
            self._hart.call_soon(self._unhook)

    def _finish(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        for detach in reversed(self._detach):
            detach()
        self._detach.clear()
        try:
            self._writer.close(self._now())
        except OSError as e:
            self.ended = self.ended or self._failure(e)

    def _unhook(self) -> None:
        if self._hooked:
            self._hooked = False
            self._hooks.remove()

    def close(self) -> None:
        """Write what waits, close the file and let go of the hart, which must not run."""
        self._finish()
        self._unhook()

    def __enter__(self) -> Tracer:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()


class _Labels:
    """A device's name; ``name@base`` when the machine has several of that name."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._found: dict[int, str] = {}

    def __call__(self, device: Device) -> str:
        label = self._found.get(device.base)
        if label is None:
            same = sum(other.name == device.name for other in self._machine.devices)
            label = device.name if same < 2 else f"{device.name}@{device.base:x}"
            self._found[device.base] = label
        return label


class _MmuTrace:
    """Which pages have been shown since satp last changed."""

    def __init__(self, hart: Hart, now: Callable[[], int], emit: Callable[[Event], None]) -> None:
        self._hart = hart
        self._now = now
        self._emit = emit
        self._satp = -1
        self._seen: set[tuple[int, Access, int]] = set()

    def instruction(self, va: int) -> None:
        """Look at the pages of the instruction at ``va``, which is about to run."""
        hart = self._hart
        if hart.satp != self._satp:
            self._satp = hart.satp
            self._seen.clear()
            self._emit(SatpEvent(self._now(), hart.words[words.PRIV], self._satp))
        self._page(va, Access.EXECUTE)
        bits = hart.fetch(va)
        if bits is None:
            return
        gpr = [hart.words[i] for i in range(32)]
        address = insn.effective_address(bits, gpr)
        if address is not None:
            self._page(address & _MASK64, self._data_access(bits))

    @staticmethod
    def _data_access(bits: int) -> Access:
        if bits & 3 == 3:
            store = bits & 0x7F in _STORES or insn.is_store_or_amo(bits)
        else:
            store = bits >> 15 & 1 == 1  # RVC: funct3 5 to 7 are the stores
        return Access.WRITE if store else Access.READ

    def _page(self, va: int, access: Access) -> None:
        hart = self._hart
        level = hart.words[words.PRIV]
        key = (va >> PAGE_SHIFT, access, level)
        if key in self._seen:
            return
        self._seen.add(key)
        result = hart.walk(va, access)
        pa: int | None = va
        way = ""
        if result is None:
            outcome = "physical, not translated"
        elif isinstance(result, Refusal):
            pa, outcome = None, f"refused, {result.rule.value}"
        else:
            way = " ".join(f"L{s.level}[{s.index:#x}]" for s in result.steps)
            pa, outcome = result.pa, f"PA {result.pa:#x} {pte_attributes(result.pte)}"
        self._emit(PageEvent(self._now(), level, access.verb, va, pa, way, outcome))
