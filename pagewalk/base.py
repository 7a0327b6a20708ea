"""What a machine and a kernel have in common: a hart, RAM, and running."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Self

from emu.board.machine import Machine as Board
from emu.debug.symbols import Symbols
from emu.hart import Hart
from emu.ram import Ram
from emu.spec import words
from emu.spec.csr import Priv
from emu.spec.trap import Trap
from emu.spec.walk import Access, Refusal, Translation
from emu.stop import Stop
from guest.ending import Ending
from pagewalk import arguments
from pagewalk.registers import Csrs, Registers

# Runs of fewer instructions end before somebody who types Ctrl-C has waited.
_SHORT = 10_000


class Guest:
    """A hart with its RAM. Use it in a ``with``, or `close` it: it holds the engine."""

    def __init__(self, board: Board, symbols: Symbols) -> None:
        self.board = board
        """The machine of `emu.board.machine`, for what this interface does not have."""
        self.symbols = symbols

    # state

    @property
    def hart(self) -> Hart:
        """The hart of `emu.hart`, for what this interface does not have."""
        return self.board.hart

    @property
    def ram(self) -> Ram:
        """RAM as it is, by PA. What is written here the hart is not told of: see `write`."""
        return self.board.ram

    @property
    def reg(self) -> Registers:
        """The registers by name: ``reg.a0``, ``reg.fa0``."""
        return Registers(self.hart)

    @property
    def csr(self) -> Csrs:
        """The CSRs by name: ``csr.mcause``."""
        return Csrs(self.hart)

    @property
    def pc(self) -> int:
        """VA of the next instruction."""
        return self.hart.pc

    @pc.setter
    def pc(self, va: int) -> None:
        self.hart.words[words.PC] = arguments.integer("pc", va, align=2)

    @property
    def priv(self) -> Priv:
        """The privilege level; "U", "S" and "M" may be written."""
        return self.hart.priv

    @priv.setter
    def priv(self, level: str | Priv) -> None:
        from emu.hart.csr_access import state_changed

        self.hart.words[words.PRIV] = arguments.priv("priv", level)
        state_changed(self.hart)

    # memory

    def read(self, pa: int, size: int) -> bytes:
        """``size`` bytes of RAM at ``pa`` (PA). Raises RamError, TypeError, ValueError."""
        return self.ram.read(arguments.integer("pa", pa), arguments.integer("size", size, 63))

    def write(self, pa: int, data: bytes) -> None:
        """Put ``data`` into RAM at ``pa`` (PA), code and page tables too: the hart looks anew.

        Raises RamError, TypeError, ValueError.
        """
        pa, data = arguments.integer("pa", pa), arguments.data("data", data)
        self.ram.write(pa, data)
        self.hart.code_changed(pa, len(data))
        self.hart.access.flush_tlb()

    def read64(self, pa: int) -> int:
        """The 64-bit word at ``pa`` (PA, a multiple of 8). Raises as `read`."""
        return self.ram.read64(arguments.integer("pa", pa, align=8))

    def write64(self, pa: int, value: int) -> None:
        """Write the 64-bit word at ``pa`` (PA, a multiple of 8), see `write`."""
        pa = arguments.integer("pa", pa, align=8)
        self.write(pa, arguments.register_value("value", value).to_bytes(8, "little"))

    def predict(self, va: int, access: str | Access) -> Translation | Refusal | None:
        """What the reference walk says of an access ("read", "write", "execute") to ``va`` now.

        A Translation with its ``pa``, a Refusal with its ``rule`` and ``cause``; None where the
        hart does not translate. It changes nothing. Raises TypeError, ValueError.
        """
        va = arguments.integer("va", va)
        return self.hart.walk(va, arguments.access("access", access))

    def symbol(self, name: str) -> int:
        """The VA of a symbol. Raises KeyError."""
        va = self.symbols.address(name)
        if va is None:
            raise KeyError(f"there is no symbol {name!r}")
        return va

    # running

    def step(self, count: int = 1) -> Stop:
        """Execute ``count`` instructions; one that traps counts, too.

        The Stop says LIMIT, or what ended the run before.
        """
        return self.run(count=arguments.count("count", count))

    def run(
        self,
        until: int | str | None = None,
        *,
        count: int | None = None,
        timeout: float | None = None,
    ) -> Stop:
        """Run to the end: of the guest, or before the instruction at ``until`` (VA or symbol),
        or after ``count`` instructions, or when ``timeout`` seconds are over.

        The Stop says which. Ctrl-C raises KeyboardInterrupt, with the machine as it stands.
        Raises TypeError, ValueError, KeyError for a symbol that is not there, HartError, and what
        a device of yours raises.
        """
        if isinstance(until, str):
            until = self.symbol(until)
        with self._breakpoint(until):
            return self._run(0 if count is None else arguments.count("count", count), timeout)

    def _run(self, count: int = 0, timeout: float | None = None) -> Stop:
        if 0 < count <= _SHORT and timeout is None:
            return self.board.run(count)
        with self._interruptible(timeout):
            return self.board.run(count)

    @contextlib.contextmanager
    def _interruptible(self, timeout: float | None = None) -> Iterator[None]:
        """What runs the hart, until ``timeout`` seconds are over; Ctrl-C is Python's again."""
        if timeout is not None:
            timeout = arguments.seconds("timeout", timeout)
        with Ending(self.board.stop, timeout, [signal.SIGINT]) as ending:
            yield
        if ending.by == signal.SIGINT.name:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def _breakpoint(self, va: int | None) -> Iterator[None]:
        if va is None:
            yield
            return
        before = self.hart.breakpoints
        self.hart.set_breakpoints({*before, arguments.integer("until", va, align=2)})
        try:
            yield
        finally:
            self.hart.set_breakpoints(before)

    def explain(self, stop: Stop | Trap) -> str:
        """Why the guest faulted: registers, code, each PTE on the way, the rule that refused.

        Raises ValueError for a Stop that no trap has caused.
        """
        from emu.debug.explain import explain

        trap = stop.trap if isinstance(stop, Stop) else stop
        if trap is None:
            raise ValueError(f"stop: {stop} has no trap to explain")
        return explain(self.hart, trap, self.symbols)

    # its end

    def close(self) -> None:
        """Let go of the engine; the object is of no more use."""
        self.board.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _where(self) -> str:
        name = self.symbols.name(self.pc)
        at = f"{self.pc:#x}{f' <{name}>' if name else ''} in {self.priv.name}-mode"
        return f"{at}, {self.ram.size >> 20} MiB of RAM at {self.ram.base:#x}"
