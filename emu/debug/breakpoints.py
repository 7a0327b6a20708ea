"""Breakpoints, watchpoints and single steps on a hart, exact to the instruction.

A *breakpoint* is a virtual address at which the engine leaves translated code: the run ends
before the instruction there executes, in every address space and at every privilege. Guest
memory is not changed, so what is mapped there, or stored there later, does not matter.

A *watchpoint* is a range of RAM: the frames that its virtual addresses have when it is set.
So it sees accesses through every other mapping of these frames, and does not move when
the tables change: set it again then. It sees the guest's loads and stores; not the page-table
walker, not the devices' DMA, not what Python writes. While one is set, every load and store of
the guest takes the engine's slow path.

An access to a watched range is first undone (`Hart.undo`) and then stepped over, so that the
run ends directly behind the instruction, whatever block it is part of.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import unicorn.unicorn_const as ucc

from emu.debug.gdb.memory import translate
from emu.engine import calls
from emu.hart import Hart
from emu.spec import insn
from emu.spec.paging import PAGE_SIZE
from emu.stop import Stop, StopReason

_ACCESS_SIZE_MAX = 8  # bytes that one load or store touches
WATCH_SIZE_MAX = 1 << 20  # bytes
_STEP_PATIENCE = 0.05  # seconds


class Kind(Enum):
    """What a point stops at; the values are the digits of gdb's Z packets."""

    SOFTWARE = 0
    HARDWARE = 1
    WRITE = 2
    READ = 3
    ACCESS = 4

    @property
    def watches(self) -> bool:
        return self not in (Kind.SOFTWARE, Kind.HARDWARE)


@dataclass(frozen=True, slots=True)
class Hit:
    """An access that a watchpoint saw: the watchpoint's kind, the VA of the access in it."""

    kind: Kind
    va: int


@dataclass
class _Watch:
    kind: Kind
    va: int
    size: int
    handles: list[int] = field(default_factory=list)
    callbacks: list[object] = field(default_factory=list)  # the engine keeps no reference


# What `_accessed` ends a run with: the access is undone, and yet to be stepped over.
_UNDONE = Stop(StopReason.BREAKPOINT, detail="an access to a watched range")


class Breakpoints:
    """The points on ``hart``, and running it with them.

    ``run(count)`` runs the machine; ``hit`` is what a watchpoint saw in the last run or step;
    ``hold_interrupts``: a step takes no interrupt (QEMU's SSTEP_NOIRQ).
    """

    def __init__(self, hart: Hart, run: Callable[[int], Stop] | None = None) -> None:
        self._hart = hart
        self._run = run or hart.run
        self._points: dict[int, set[Kind]] = {}
        self._watches: dict[tuple[Kind, int, int], _Watch] = {}
        self._stepping = False
        self._step_lock = threading.Lock()
        self.hold_interrupts = True
        self.hit: Hit | None = None

    # setting

    def insert(self, kind: Kind, va: int, size: int) -> None:
        """Set a point; one that is set already stays. ``size`` (bytes) is a watchpoint's.

        Raises ValueError where nothing can be watched.
        """
        if not kind.watches:
            self._points.setdefault(va, set()).add(kind)
        elif (kind, va, size) not in self._watches:
            self._watches[kind, va, size] = self._watch(kind, va, size)

    def remove(self, kind: Kind, va: int, size: int) -> None:
        """Take a point away; one that is not set is ignored."""
        if not kind.watches:
            kinds = self._points.get(va, set())
            kinds.discard(kind)
            if not kinds:
                self._points.pop(va, None)
        elif watch := self._watches.pop((kind, va, size), None):
            self._unwatch(watch)

    def clear(self) -> None:
        """Take all away, also from the engine."""
        self._points.clear()
        while self._watches:
            self._unwatch(self._watches.popitem()[1])
        self._hart.set_breakpoints(())

    def at(self, va: int) -> set[Kind]:
        """The kinds of the breakpoints at ``va``."""
        return self._points.get(va, set())

    def _watch(self, kind: Kind, va: int, size: int) -> _Watch:
        if not 0 < size <= WATCH_SIZE_MAX or va + size > 1 << 64:
            raise ValueError(f"a watchpoint has 1 to {WATCH_SIZE_MAX} bytes, not {size}")
        # A hook is told where an access begins, which may be before the range.
        start = max(va - _ACCESS_SIZE_MAX + 1, 0)
        pieces = []
        while start < va + size:
            end = min(va + size, (start | PAGE_SIZE - 1) + 1)
            pa = translate(self._hart, start)
            if pa is not None and self._hart.ram.contains(pa, end - start):
                pieces.append((start, pa, end - start))
            elif end > va:
                raise ValueError(f"nothing to watch at {start:#x}: not mapped, or not RAM")
            start = end
        watch = _Watch(kind, va, size)
        for piece in pieces:
            self._hook(watch, *piece)
        self._hart.access.flush_code()  # code that is translated already calls no hook
        return watch

    def _hook(self, watch: _Watch, piece_va: int, piece_pa: int, piece_size: int) -> None:
        hart = self._hart

        def accessed(_uc: int, kind: int, pa: int, size: int, _value: int, _data: int) -> bool:
            try:
                va = piece_va + pa - piece_pa
                if va < watch.va + watch.size and watch.va < va + size:
                    self._accessed(watch, max(va, watch.va), kind == ucc.UC_MEM_WRITE)
            except BaseException as e:  # nothing may pass through the engine's C frames
                hart.fail(e)
            return True

        callback = calls.MEM_CB(accessed)
        watch.callbacks.append(callback)
        kinds = ucc.UC_HOOK_MEM_READ | ucc.UC_HOOK_MEM_WRITE
        end = piece_pa + piece_size - 1
        watch.handles.append(calls.hook(hart.uc, kinds, callback, piece_pa, end))
        hart.callbacks.append(callback)

    def _unwatch(self, watch: _Watch) -> None:
        for handle in watch.handles:
            calls.unhook(self._hart.uc, handle)
        self._hart.access.flush_code()

    # running

    def _accessed(self, watch: _Watch, va: int, is_write: bool) -> None:
        """From a hook, before the access."""
        wanted = watch.kind is Kind.ACCESS or (watch.kind is Kind.WRITE) == is_write
        if self._stepping:
            if wanted and self.hit is None:
                self.hit = Hit(watch.kind, va)
        elif wanted or self._is_atomic():
            self._hart.undo(lambda: _UNDONE)

    def _is_atomic(self) -> bool:
        """Whether the load that is under way is half of an instruction that stores too.

        At the store it would be too late: an AMO that is done twice is another AMO.
        """
        self._hart.access.load()
        bits = self._hart.fetch(self._hart.pc)
        return bits is not None and insn.is_store_or_amo(bits)

    def step(self) -> Stop:
        """Execute one instruction, whatever breakpoint stands at it.

        LIMIT when it was done; otherwise what it ended the run with.
        """
        return self._step(self.hold_interrupts)

    def _step(self, hold_interrupts: bool) -> Stop:
        hart = self._hart
        self.hit = None
        hart.set_breakpoints(())
        with self._step_lock:
            hart.interrupts_held = hold_interrupts
            self._stepping = True
            try:
                return self._run(1)
            finally:
                self._stepping = False
                hart.interrupts_held = False

    def interrupt(self) -> None:
        """From another thread: stop the hart. To be repeated until the run has ended: a
        stop that comes before the engine runs is lost."""
        # In a step the engine looks for a stop within the instruction, and an AMO that it
        # leaves there is done again. So a step is waited for, unless it is a long `wfi`.
        finished = self._step_lock.acquire(timeout=_STEP_PATIENCE)
        self._hart.stop()
        if finished:
            self._step_lock.release()

    def resume(self) -> Stop:
        """Run to the next point, or to what else ends the run; first off the point at pc.

        BREAKPOINT with ``hit`` behind an access, without it before an instruction.
        """
        self.hit = None
        if self._hart.pc in self._points:
            stop = self._step(True)
            if stop.reason is not StopReason.LIMIT:
                return stop
        while self.hit is None:
            self._hart.set_breakpoints(self._points)
            stop = self._run(0)
            if stop is not _UNDONE:
                return stop
            # An interrupt in front of the access would make it another instruction.
            stop = self._step(True)
            if stop.reason is not StopReason.LIMIT:
                return stop
        return Stop(StopReason.BREAKPOINT)
