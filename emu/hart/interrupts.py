"""What is pending for a hart (`mip`): wires that devices drive, and bits that software writes.

The two are kept apart (privileged spec, section 3.1.9), and `mip` reads their OR:

    bit    wire, driven by                   written by software
    SSIP                                     M, and S through sip; a device may set it too
    MSIP   the CLINT
    STIP   stimecmp, where menvcfg.STCE      M, elsewhere
    MTIP   the CLINT
    SEIP   the PLIC                          M
    MEIP   the PLIC

Software that clears SEIP clears its own bit; the wire stays as the PLIC has it. So a device
needs to say once what its wire is, and whatever the guest writes, it is not forgotten.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from emu.engine import native
from emu.spec.csr import IRQ_STI, S_INTERRUPTS, WIRES

_STIP = 1 << IRQ_STI


class HartInterrupts(Protocol):
    """The wires and the bits of one hart, whoever keeps them."""

    @property
    def wires(self) -> int:
        """As the devices drive them now; a reset of the hart does not change them."""

    @property
    def written(self) -> int:
        """What software has written, in the bits of S_INTERRUPTS alone."""

    @property
    def pending(self) -> int:
        """What mip reads: always the sum of both."""

    @property
    def place(self) -> tuple[Sequence[int], int]:
        """Where ``pending`` is, for who looks at each system call: an array and an index."""

    def drive(self, number: int, level: bool) -> bool:
        """Raise or lower the wire of interrupt ``number``; whether ``pending`` has changed."""

    def set(self, number: int, level: bool) -> bool:
        """Drive the wire of interrupt ``number``, or write its bit where it has no wire.

        Whether ``pending`` has changed. Raises ValueError for a number that is none of the six.
        """

    def write(self, mask: int, value: int) -> int:
        """Software writes the bits of ``mask`` (of a write, or a set or clear of bits).

        One step for all other threads; returns what was pending before. What software cannot
        write is not changed.
        """

    def let_timer_be_wire(self, on: bool) -> None:
        """Whether STIP is stimecmp's wire (menvcfg.STCE), or a bit that M writes."""

    def reset(self) -> None:
        """As software finds it after a reset; the wires are as they are driven."""

    def become(self, wires: int, written: int) -> None:
        """Restore both, as a snapshot has kept them."""


class SharedInterrupts:
    """Kept where the C has them too, and changed by it (`emu/engine/interrupts.c`).

    So a CSR's write by the guest needs no Python. What is changed is shown to the engine at once.
    """

    def __init__(self, shared: native.Hart) -> None:
        self._shared = shared
        self._at = ctypes.addressof(shared)
        self._c = native.functions()

    @property
    def wires(self) -> int:
        return int(self._shared.wires)

    @property
    def written(self) -> int:
        return int(self._shared.written)

    @property
    def pending(self) -> int:
        return int(self._shared.pending)

    @property
    def place(self) -> tuple[Sequence[int], int]:
        return memoryview(self._shared).cast("B").cast("Q"), native.Hart.pending.offset // 8

    def drive(self, number: int, level: bool) -> bool:
        return bool(self._c.drive(self._at, 1 << number, level << number))

    def set(self, number: int, level: bool) -> bool:
        bit = 1 << number
        if not bit & (WIRES | S_INTERRUPTS):
            raise ValueError(f"there is no interrupt {number}")
        return bool(self._c.set_interrupt(self._at, bit, level))

    def write(self, mask: int, value: int) -> int:
        return int(self._c.write_pending(self._at, mask, value))

    def let_timer_be_wire(self, on: bool) -> None:
        self._c.let_timer_be_wire(self._at, on)

    def reset(self) -> None:
        self._c.reset_pending(self._at)

    def become(self, wires: int, written: int) -> None:
        self._c.become_pending(self._at, wires & (WIRES | _STIP), written & S_INTERRUPTS)


class Interrupts:
    """The wires and the bits of one hart, kept by Python.

    ``changed()`` is called, with ``lock`` held, whenever ``pending`` has become another
    value. ``lock`` is around each change and what follows from it, so of two threads that
    change something the second sees what the first has done.
    """

    def __init__(self, changed: Callable[[], None], lock: threading.RLock | None = None) -> None:
        self.lock = lock or threading.RLock()
        self._changed = changed
        # As the devices drive them now; a reset of the hart does not change them.
        self.wires = 0
        # What software has written, in the bits of S_INTERRUPTS alone.
        self.written = 0
        self._timer_is_wire = False
        self._pending = [0]  # always `_sum()`

    @property
    def pending(self) -> int:
        return self._pending[0]

    @property
    def place(self) -> tuple[Sequence[int], int]:
        return self._pending, 0

    def _sum(self) -> int:
        if self._timer_is_wire:
            return self.wires | self.written & ~_STIP
        return self.wires & ~_STIP | self.written

    def _update(self) -> bool:
        pending = self._sum()
        if pending == self.pending:
            return False
        self._pending[0] = pending
        self._changed()
        return True

    def drive(self, number: int, level: bool) -> bool:
        """Raise or lower the wire of interrupt ``number``; whether ``pending`` has changed."""
        with self.lock:
            self.wires = self.wires | 1 << number if level else self.wires & ~(1 << number)
            return self._update()

    def set(self, number: int, level: bool) -> bool:
        """Drive the wire of interrupt ``number``, or write its bit where it has no wire.

        Whether ``pending`` has changed. Raises ValueError for a number that is none of the six.
        """
        bit = 1 << number
        if not bit & (WIRES | S_INTERRUPTS):
            raise ValueError(f"there is no interrupt {number}")
        if bit & (WIRES | _STIP * self._timer_is_wire):
            return self.drive(number, level)
        with self.lock:
            self.written = self.written | bit if level else self.written & ~bit
            return self._update()

    def write(self, mask: int, value: int) -> int:
        """Software writes the bits of ``mask`` (of a write, or a set or clear of bits).

        One step for all other threads; returns what was pending before. What software cannot
        write is not changed.
        """
        with self.lock:
            before = self.pending
            mask &= S_INTERRUPTS & ~(_STIP * self._timer_is_wire)
            self.written = self.written & ~mask | value & mask
            self._update()
            return before

    def let_timer_be_wire(self, on: bool) -> None:
        """Whether STIP is stimecmp's wire (menvcfg.STCE), or a bit that M writes."""
        with self.lock:
            self._timer_is_wire = on
            self._update()

    def reset(self) -> None:
        """As software finds it after a reset; the wires are as they are driven."""
        with self.lock:
            self.written, self._timer_is_wire = 0, False
            self._update()

    def become(self, wires: int, written: int) -> None:
        """Restore both, as a snapshot has kept them."""
        with self.lock:
            self.wires, self.written = wires & (WIRES | _STIP), written & S_INTERRUPTS
            self._update()
