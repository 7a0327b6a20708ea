"""A register that native code answers: the guest sees what the device would have said."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing

import pytest
from asm import Batch
from harness import CODE, DATA, RAM

from emu.board.devices import Device
from emu.board.machine import Machine
from emu.engine import native
from emu.spec import words
from emu.stop import StopReason

UART = 0x1000_0000
RBR, IIR, LCR, MCR, LSR = 0, 2, 3, 4, 5
READY, OVERRUN, EMPTY = 1, 2, 0x60

batch = Batch()
# a1 reads of the register at a0; the last value in t0.
LOOK = batch("1: lbu t0, (a0)\n addi a1, a1, -1\n bnez a1, 1b\n wfi")
# Bytes at a1: an offset and a value to write, or 0x80 | an offset to read; what was read
# goes to a2; ends at 0xff.
DO = batch(
    """
    2: lbu t0, (a1)
    lbu t1, 1(a1)
    addi a1, a1, 2
    li t2, 0xff
    beq t0, t2, 4f
    andi t2, t0, 0x80
    andi t0, t0, 7
    add t0, t0, a0
    bnez t2, 3f
    sb t1, (t0)
    j 2b
    3: lbu t3, (t0)
    sb t3, (a2)
    addi a2, a2, 1
    j 2b
    4: wfi
    """
)


class Console:
    """A machine, whose UART counts how often it is asked."""

    def __init__(self, access: str, **options: object) -> None:
        self.machine = Machine(16 << 20, access=access, **options)  # type: ignore[arg-type]
        self.uart = self.machine.uart

    def look(self, count: int, offset: int = LSR) -> int:
        self._run(LOOK.code, a0=UART + offset, a1=count)
        return self.machine.hart.words[5]

    def do(self, actions: list[tuple[int, int]]) -> bytes:
        ram = self.machine.ram
        ram.write(DATA, b"".join(bytes(action) for action in [*actions, (0xFF, 0)]))
        reads = sum(offset >> 7 for offset, _ in actions)
        self._run(DO.code, a0=UART, a1=DATA, a2=RAM + 0x8_0000)
        return ram.read(RAM + 0x8_0000, reads)

    def _run(self, code: bytes, **registers: int) -> None:
        hart = self.machine.hart
        self.machine.ram.write(CODE, code)
        hart.access.flush_code()
        hart.words[words.PC] = CODE
        for name, value in registers.items():
            hart.words[words.ABI_NAMES.index(name)] = value
        assert self.machine.run().reason is StopReason.WFI


@pytest.fixture(params=["inside", "public", "without native code"])
def console(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
    access = request.param
    if access == "without native code":
        monkeypatch.setattr(native, "available", lambda: False)
        access = "public"
    made = Console(access)
    with closing(made.machine):
        yield made


def test_what_waits_is_seen(console: Console) -> None:
    assert console.look(3) == EMPTY
    console.uart.receive(b"ab")
    assert console.look(3) == EMPTY | READY
    assert console.look(1, RBR) == ord("a")
    assert console.look(3) == EMPTY | READY
    assert console.look(1, RBR) == ord("b")
    assert console.look(3) == EMPTY


def test_an_overrun_is_told_once(console: Console) -> None:
    loopback = [(MCR, 0x10), (RBR, 1), (RBR, 2)]
    told = console.do([*loopback, (0x80 | LSR, 0), (0x80 | LSR, 0), (0x80 | RBR, 0)])
    assert told == bytes((EMPTY | READY | OVERRUN, EMPTY | READY, 2))


def test_who_looks_again_and_again_waits_for_input(console: Console) -> None:
    console.look(63)
    assert not console.uart.is_heard
    console.look(1)
    assert console.uart.is_heard
    console.do([(RBR, ord("x"))])
    assert not console.uart.is_heard
    console.look(40)
    console.look(40)
    assert console.uart.is_heard


def test_a_listener_sees_every_read(console: Console) -> None:
    seen: list[int] = []

    def listen(_device: Device, _write: bool, offset: int, _s: int, value: int, _b: int) -> None:
        seen.append(value)
        assert offset == LSR

    console.look(5)
    console.machine.device_listener = listen
    console.look(5)
    assert seen == [EMPTY] * 5
    console.machine.device_listener = None
    console.look(5)
    assert len(seen) == 5


@pytest.mark.skipif(not native.available(), reason="no native code on this host")
def test_python_is_not_called() -> None:
    made = Console("inside")
    with closing(made.machine):
        made.uart.read = None  # type: ignore[assignment, method-assign]
        assert made.look(10_000) == EMPTY
        assert made.uart.polled.reads == 10_000


@pytest.mark.parametrize("access", ["inside", "public"])
def test_where_input_is_polled_each_look_asks(access: str) -> None:
    waiting = [b"", b"", b"x"]
    made = Console(access, poll_input=lambda: waiting.pop(0) if waiting else b"")
    with closing(made.machine):
        assert made.look(2) == EMPTY
        assert made.look(1) == EMPTY | READY
        assert made.look(1, RBR) == ord("x")


@pytest.mark.parametrize("seed", range(20))
def test_random_drivers_see_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With native code and without, whatever they do to the other registers."""
    rng = random.Random(seed)
    actions: list[tuple[int, int]] = []
    for _ in range(400):
        if rng.randrange(3):
            actions.append((0x80 | rng.choice((LSR, LSR, LSR, RBR, IIR, 5, 6)), 0))
        else:
            offset = rng.choice((RBR, RBR, 1, IIR, LCR, MCR))
            value = rng.choice((0, 1, 3, 0x10, rng.getrandbits(8)))
            if offset == LCR:
                value &= 0x83 if rng.randrange(8) == 0 else 0x03
            actions.append((offset, value))
    typed = rng.randbytes(100)
    told = []
    for is_native in (True, False):
        with monkeypatch.context() as patch:
            if not is_native:
                patch.setattr(native, "available", lambda: False)
            made = Console("inside" if is_native else "public")
        with closing(made.machine):
            made.uart.receive(typed)
            told.append((made.do(actions), made.uart.state(), made.uart.is_heard))
    assert told[0] == told[1]
    assert len({byte for byte in told[0][0]}) > 3
