"""A machine whose M is Python's SBI, to call directly or from S-mode guest code.

Numbers are the specifications', written out: the tests take none from the code under test.
"""

from __future__ import annotations

from harness import CODE, Bench

from emu.board.clock import Clock
from emu.spec import words
from emu.spec.trap import Trap
from emu.stop import Stop
from firmware.sbi import Sbi

BASE, TIME, IPI, RFENCE, HSM = 0x10, 0x54494D45, 0x735049, 0x52464E43, 0x48534D
SRST, DBCN, PMU = 0x53525354, 0x4442434E, 0x504D55
SUCCESS, NOT_SUPPORTED, INVALID_PARAM, INVALID_ADDRESS, ALREADY_AVAILABLE = 0, -2, -3, -5, -6
ALL = NEVER = (1 << 64) - 1
SSIP, STIP, SEIP = 1 << 1, 1 << 5, 1 << 9
FIRMWARE = 0x09000000  # an extension of the test's own, "firmware-specific"


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


class FakeClock(Clock):
    """A clock that the test moves."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0

    def now(self) -> int:
        return self._now

    def set_now(self, ticks: int) -> None:
        with self.lock:
            self._now = ticks
            self.ring_due()

    def alarms_changed(self) -> None:
        self.ring_due()


class Supervisor:
    """``call`` asks the SBI directly, ``run`` runs S-mode code over it."""

    def __init__(self, bench: Bench, clock: Clock | None = None, hartid: int = 0) -> None:
        self.bench = bench
        bench.hart.hartid = hartid
        self.hart, self.ram, self.w = bench.hart, bench.ram, bench.w
        self.clock = clock or FakeClock()
        bench.hart.read_time = self.clock.now
        self.typed = bytearray()
        self.changed: list[tuple[int, int]] = []
        self.sbi = Sbi(
            bench.hart,
            bench.ram,
            bench.output.extend,
            lambda: self.typed.pop(0) if self.typed else None,
            self.clock,
            lambda pa, size: self.changed.append((pa, size)),
        )
        self.hart.handlers[3] = self.sbi.handle
        self.w[words.MEDELEG], self.w[words.MIDELEG] = 0xB109, 0x222  # as OpenSBI 1.x has it
        self.w[words.PRIV] = 1

    def trap(
        self, cause: int = 9, tval: int = 0, priv: int = 1, interrupt: bool = False
    ) -> Stop | None:
        """The SBI's answer to a trap at CODE."""
        self.w[words.PC], self.w[words.PRIV] = CODE, priv
        return self.sbi.handle(Trap(cause, CODE, tval, priv, 3, interrupt))

    def ecall(self, extension: int, function: int, *arguments: int) -> Stop | None:
        for i, value in enumerate(arguments):
            self.w[words.A0 + i] = value & ALL
        self.w[words.A6], self.w[words.A7] = function & ALL, extension & ALL
        return self.trap()

    def call(self, extension: int, function: int, *arguments: int) -> tuple[int, int]:
        """``(error, value)`` of a call that returns; nothing else may have changed."""
        self.w[words.A0], self.w[words.A1] = 0x5A5A, 0xA5A5
        before = None
        for i, value in enumerate(arguments):
            self.w[words.A0 + i] = value & ALL
        self.w[words.A6], self.w[words.A7] = function & ALL, extension & ALL
        before = list(self.w[:32])
        assert self.trap() is None
        after = list(self.w[:32])
        assert before[:10] + before[12:] == after[:10] + after[12:]
        assert (self.hart.pc, self.hart.priv) == (CODE + 4, 1)
        return signed(after[10]), after[11]

    def run(self, *args: object, **kw: object) -> Stop:
        return self.bench.run(*args, priv=1, **kw)  # type: ignore[arg-type]

    def reg(self, name: str) -> int:
        return self.bench.reg(name)
