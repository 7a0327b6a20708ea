"""The finisher and HTIF, without a hart; and symbols."""

from __future__ import annotations

import pytest

from emu.board.devices.finisher import Finisher
from emu.board.devices.htif import Htif
from emu.debug.symbols import Symbols
from emu.ram import Ram
from emu.stop import Stop, StopReason


@pytest.mark.parametrize(
    ("value", "code"),
    [(0x5555, 0), (0x1_5555, 0), (0x7777, 0), (0x2A_3333, 42), (0x3333, 1), (0xFFFF_3333, 0xFFFF)],
)
def test_finisher(value: int, code: int) -> None:
    ends: list[Stop] = []
    finisher = Finisher(0x10_0000, ends.append)
    finisher.write(0, 4, value)
    (stop,) = ends
    is_reset = value & 0xFFFF == 0x7777
    reason = StopReason.RESET if is_reset else StopReason.EXIT
    assert (stop.reason, stop.code, stop.trap) == (reason, code, None)
    assert ("reset" in stop.detail) == is_reset


def test_finisher_ignores_the_rest() -> None:
    ends: list[Stop] = []
    finisher = Finisher(0x10_0000, ends.append)
    for offset, value in ((4, 0x5555), (0, 0), (0, 0x5554), (0, 0x1234)):
        finisher.write(offset, 4, value)
    assert ends == [] and finisher.read(0, 4) == 0
    assert (finisher.base, finisher.size) == (0x10_0000, 0x1000)


TOHOST, FROMHOST, CALL, TEXT = 0x8000_1000, 0x8000_1040, 0x8000_1080, 0x8000_1100


class Host:
    def __init__(self, fromhost: int | None = FROMHOST) -> None:
        self.ram = Ram(0x4000)
        self.output = bytearray()
        self.htif = Htif(self.ram, TOHOST, fromhost, self.output.extend)

    def poll(self, value: int) -> Stop | None:
        self.ram.write64(TOHOST, value)
        return self.htif.poll()

    def call(self, *arguments: int) -> int:
        """A system call through the eight words; its result, signed."""
        for i, argument in enumerate(arguments):
            self.ram.write64(CALL + 8 * i, argument)
        assert self.poll(CALL) is None
        assert self.ram.read64(TOHOST) == 0
        result = self.ram.read64(CALL)
        return result - (1 << 64) if result >> 63 else result


def test_htif_exit() -> None:
    host = Host()
    assert host.poll(0) is None
    for value, code in ((1, 0), (3, 1), (2 * 1337 + 1, 1337)):
        stop = host.poll(value)
        assert stop is not None and (stop.reason, stop.code) == (StopReason.EXIT, code)
    assert stop is not None and stop.detail == "tohost: test 1337 failed"


def test_htif_putchar() -> None:
    host = Host()
    for byte in b"ok":
        assert host.poll(1 << 56 | 1 << 48 | byte) is None
        assert host.ram.read64(TOHOST) == 0
    assert host.output == b"ok"
    assert host.ram.read64(FROMHOST) == 0
    host.poll(1 << 56 | 0 << 48 | 65)  # getchar: there is nobody
    host.poll(2 << 56 | 1 << 48 | 65)  # no such device
    assert host.output == b"ok" and host.ram.read64(TOHOST) == 0


def test_htif_system_calls() -> None:
    host = Host()
    host.ram.write(TEXT, b"hello, host")
    assert host.call(64, 1, TEXT, 5) == 5
    assert (host.output, host.ram.read64(FROMHOST)) == (b"hello", 1)
    assert host.call(64, 1, 0x1000, 5) == -14  # EFAULT
    assert host.call(63, 0, TEXT, 5) == -38  # ENOSYS
    assert host.output == b"hello"
    for i, word in enumerate((93, 7)):
        host.ram.write64(CALL + 8 * i, word)
    stop = host.poll(CALL)
    assert stop is not None and (stop.reason, stop.code) == (StopReason.EXIT, 7)


@pytest.mark.parametrize("pa", [0x1000, 0x8000_3FF0, 0x8000_1084, 0x8000_4000])
def test_htif_survives_a_pointer_to_nowhere(pa: int) -> None:
    host = Host(fromhost=None)
    host.ram.write64(TOHOST, pa)
    assert host.htif.poll() is None
    assert host.ram.read64(TOHOST) == 0 and host.output == b""


def test_symbols() -> None:
    symbols = Symbols([(0x1000, 0x20, "main"), (0x1020, 0x10, "helper"), (0x5000, 0, "label")])
    assert [symbols.name(va) for va in (0xFFF, 0x1000, 0x1004, 0x101F, 0x1020, 0x102F)] == [
        None, "main", "main+0x4", "main+0x1f", "helper", "helper+0xf"
    ]  # fmt: skip
    assert symbols.name(0x1030) is None and symbols.start(0x1030) is None
    assert (symbols.start(0x1004), symbols.start(0x0)) == (0x1000, None)
    assert (symbols.address("helper"), symbols.address("nobody")) == (0x1020, None)
    assert symbols.name(0x5000 + 0x100) == "label+0x100"
    assert symbols.name(0x5000 + 0x10000) is None
    assert Symbols().name(0x1000) is None


def test_symbols_come_and_go() -> None:
    symbols = Symbols([(0x1000, 0x20, "kernel")])
    symbols.add([(0x0, 0x10, "init"), (0x10, 8, "exit")], bias=0x8000)
    assert (symbols.address("init"), symbols.name(0x8012)) == (0x8000, "exit+0x2")
    symbols.remove_range(0x8000, 0x9000)
    assert symbols.address("init") is None and symbols.name(0x8012) is None
    assert symbols.name(0x1000) == "kernel"
