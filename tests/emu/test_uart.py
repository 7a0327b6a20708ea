"""The 16550A by its registers, without a hart."""

from __future__ import annotations

import json

import pytest
from device_bench import Wire

from emu.board.devices.uart import Uart

# NS16550 registers
RBR = THR = 0
IER, IIR, LCR, MCR, LSR, MSR, SCR = 1, 2, 3, 4, 5, 6, 7
FCR = IIR


class Line:
    """A UART with its output, and its interrupt line."""

    def __init__(self) -> None:
        self.output = bytearray()
        self.wire = Wire()
        self.irq = self.wire.changes
        self.uart = Uart(0x1000_0000, self.output.extend, self.wire)

    def __call__(self, offset: int, value: int | None = None) -> int:
        if value is None:
            return self.uart.read(offset, 1)
        self.uart.write(offset, 1, value)
        return 0


def test_uart_after_reset() -> None:
    line = Line()
    assert [line(i) for i in range(8)] == [0, 0, 1, 0, 8, 0x60, 0xB0, 0]
    assert (line.uart.base, line.uart.size, line.irq) == (0x1000_0000, 0x100, [])
    assert line.uart.read(0x40, 1) == 0


def test_uart_sends_at_once() -> None:
    line = Line()
    for byte in b"hi\n":
        line(THR, byte)
        assert line(LSR) == 0x60
    line.uart.write(THR, 4, 0x12345641)  # a word access: its low byte counts
    assert bytes(line.output) == b"hi\nA"


def test_uart_receives_in_order_and_loses_nothing() -> None:
    line = Line()
    sent = bytes(range(100))
    line.uart.receive(sent)
    assert line(LSR) == 0x61
    assert bytes(line(RBR) for _ in sent) == sent
    assert (line(LSR), line(RBR)) == (0x60, 0)
    assert line.irq == []  # interrupts were not enabled


def test_uart_receive_interrupt_is_a_level() -> None:
    line = Line()
    line(IER, 1)
    line.uart.receive(b"ab")
    assert (line.irq, line(IIR)) == ([True], 4)
    assert line(IIR) == 4  # reading IIR does not clear it
    line(RBR)
    assert line.irq == [True]
    line(RBR)
    assert (line.irq, line(IIR)) == ([True, False], 1)


def test_uart_transmit_interrupt_is_an_edge() -> None:
    line = Line()
    line(IER, 2)
    assert line.irq == [True]  # empty when it is enabled
    assert line(IIR) == 2
    assert line(IIR) == 1 and line.irq == [True, False]  # reading it was the acknowledgement
    line(THR, 65)
    assert line.irq == [True, False, True]
    line(IER, 0)
    assert line.irq == [True, False, True, False]
    # Receiving comes first.
    line(IER, 3)
    line.uart.receive(b"x")
    assert line(IIR) == 4
    line(RBR)
    assert line(IIR) == 2


def test_uart_fifo_bits() -> None:
    line = Line()
    line(FCR, 1)
    assert line(IIR) == 0xC1
    line.uart.receive(b"abc")
    line(FCR, 3)  # clear what was received
    assert line(LSR) == 0x60
    line(FCR, 0)
    assert line(IIR) == 1


def test_uart_divisor_latch_hides_the_data_register() -> None:
    line = Line()
    line(LCR, 0x83)
    line(THR, 0x34)
    line(IER, 0x12)
    assert (line(THR), line(IER), line.output, line.irq) == (0x34, 0x12, b"", [])
    line(LCR, 0x03)
    assert (line(LCR), line(IER), line(RBR)) == (3, 0, 0)
    line(LCR, 0x80)
    assert (line(THR), line(IER)) == (0x34, 0x12)


def test_uart_scratch_and_loopback() -> None:
    line = Line()
    line(SCR, 0x5A)
    assert line(SCR) == 0x5A
    line(MCR, 0x10)
    line(THR, 0x77)
    assert (line.output, line(LSR), line(RBR)) == (b"", 0x61, 0x77)
    line(MCR, 0xFF)
    assert line(MCR) == 0x1F
    line(IER, 0xF0)
    assert line(IER) == 0


def test_uart_trigger_level_and_character_timeout() -> None:
    """Below the trigger level what waits is a timeout (0xC), from it on received data (4)."""
    for bits, trigger in ((0x00, 1), (0x40, 4), (0x80, 8), (0xC0, 14)):
        line = Line()
        line(FCR, bits | 1)
        line(IER, 1)
        for n in range(1, 17):
            line.uart.receive(b"x")
            assert line(IIR) == (0xC4 if n >= trigger else 0xCC), (trigger, n)
            assert line.irq == [True]
        for n in range(15, 0, -1):
            line(RBR)
            assert line(IIR) == (0xC4 if n >= trigger else 0xCC), (trigger, n)
        line(RBR)
        assert (line(IIR), line.irq) == (0xC1, [True, False])


def test_uart_host_queue_is_bounded_and_keeps_order() -> None:
    line = Line()
    line(FCR, 1)
    sent = bytes(i * 7 & 0xFF for i in range(100_000))
    taken = line.uart.receive(sent)
    assert taken == 65536  # all of it goes through the queue
    room = line.uart.receive(sent[taken:])
    assert room == 16  # that many moved on into the FIFO
    taken += room
    assert line.uart.receive(sent[taken:]) == 0
    got = bytearray()
    while line(LSR) & 1:
        got.append(line(RBR))
        taken += line.uart.receive(sent[taken:])
    assert bytes(got) == sent


def test_uart_fifo_clear_drops_what_the_fifo_holds() -> None:
    line = Line()
    line(FCR, 1)
    line.uart.receive(bytes(range(20)))
    line(FCR, 3)
    assert [line(RBR) for _ in range(4)] == [16, 17, 18, 19]
    assert line(LSR) == 0x60
    line.uart.receive(b"ab")
    line(FCR, 1)  # no change: nothing is lost
    assert line(RBR) == ord("a")
    line(FCR, 0)  # turning FIFOs off empties them
    assert line(LSR) == 0x60
    # The other bits count only together with bit 0.
    line(FCR, 0xC0)
    line(IER, 1)
    line.uart.receive(b"z")
    assert line(IIR) == 4


def test_uart_overrun_in_loopback() -> None:
    line = Line()
    line(FCR, 1)
    line(MCR, 0x10)
    line(IER, 4)
    for byte in range(16):
        line(THR, byte)
    assert (line(IIR), line.irq) == (0xC1, [])
    line(THR, 99)  # the seventeenth has no place
    assert (line(IIR), line.irq) == (0xC6, [True])
    assert line(LSR) == 0x63
    assert (line(LSR), line(IIR), line.irq) == (0x61, 0xC1, [True, False])
    assert [line(RBR) for _ in range(17)] == [*range(16), 0]
    # Without FIFOs the newer byte stands in the register.
    line(FCR, 0)
    line(THR, 1)
    line(THR, 2)
    assert (line(LSR), line(RBR), line(LSR)) == (0x63, 2, 0x60)


def test_uart_loopback_cuts_the_line() -> None:
    line = Line()
    line(MCR, 0x10)
    line.uart.receive(b"typed")
    assert (line(LSR), line.output) == (0x60, b"")
    line(THR, 0x55)
    assert line(RBR) == 0x55
    line(MCR, 0)
    assert bytes(line(RBR) for _ in range(5)) == b"typed"


@pytest.mark.parametrize(
    ("mcr", "lines"),
    [(0x10, 0), (0x11, 0x20), (0x12, 0x10), (0x14, 0x40), (0x18, 0x80), (0x1A, 0x90)],
)
def test_uart_loopback_modem_lines(mcr: int, lines: int) -> None:
    """DTR is DSR, RTS is CTS, OUT1 is RI, OUT2 is DCD; Linux's probe looks for 0x90."""
    line = Line()
    line(MCR, mcr)
    assert line(MSR) & 0xF0 == lines
    assert line(MSR) & 0x0F == 0  # reading cleared what had changed


def test_uart_modem_status_interrupt() -> None:
    line = Line()
    line(IER, 8)
    assert line.irq == []
    line(MCR, 0x10)  # carrier, DSR and CTS fall
    assert (line.irq, line(IIR)) == ([True], 0)
    assert line(MSR) == 0x0B
    assert (line.irq, line(IIR)) == ([True, False], 1)
    line(MCR, 0x14)  # the ring indicator rises: not told
    assert line(MSR) == 0x40
    line(MCR, 0x10)
    assert (line(IIR), line(MSR)) == (0, 0x04)


def test_uart_interrupts_in_the_order_of_the_datasheet() -> None:
    line = Line()
    line(FCR, 1)
    line(MCR, 0x10)
    for _ in range(17):
        line(THR, 0)
    line(IER, 0xF)
    assert line(IIR) == 0xC6
    line(LSR)
    assert line(IIR) == 0xC4
    for _ in range(16):
        line(RBR)
    assert line(IIR) == 0xC2
    assert line(IIR) == 0xC0
    line(MSR)
    assert (line(IIR), line.irq) == (0xC1, [True, False])


def test_uart_raises_its_line_again_where_qemu_does() -> None:
    """What each access tells the other end, from serial.c: PLICs that forget rely on it."""
    line = Line()
    for (offset, value), told in (
        ((IER, 2), [True]),  # THRI comes on, the transmitter is empty
        ((IER, 2), []),  # nothing changed
        ((THR, 65), [True]),  # again for each byte, IIR unread
        ((THR, 66), [True]),
        ((LCR, 3), []),
        ((SCR, 1), []),
        ((MCR, 0), []),
        ((LSR, None), []),
        ((MSR, None), []),
        ((RBR, None), [True]),  # also when there was nothing to read
        ((IIR, None), [False]),
        ((IIR, None), []),
        ((FCR, 7), [True]),  # clearing the transmitter's FIFO empties it
        ((FCR, 1), [True]),
        ((IIR, None), [False]),
        ((FCR, 1), [False]),
        ((IER, 0), [False]),
        ((IER, 3), [True]),
        ((IER, 1), [False]),
    ):
        line.wire.told.clear()
        line(offset, value)
        assert line.wire.told == told, (offset, value)
    line.wire.told.clear()
    line.uart.receive(b"abc")
    assert line.wire.told == [True]
    line.uart.receive(bytes(20))  # there is room for 13 in the FIFO
    assert line.wire.told == [True, True]
    line.uart.receive(b"x")  # and none for this one
    assert line.wire.told == [True, True]
    for _ in range(24):
        line(RBR)
    assert line.wire.told[2:] == [True] * 23 + [False]


def test_uart_thre_is_forgotten_with_its_enable() -> None:
    """Turning THRI off drops what was pending; only its rising edge asks again."""
    line = Line()
    line(IER, 2)
    line(IER, 1)
    line(IER, 3)
    assert line(IIR) == 2
    line(IER, 1)
    assert line(IIR) == 1


def test_uart_linux_tests_of_the_transmit_interrupt() -> None:
    """serial8250_do_startup: enabling THRI must raise it, twice, with the transmitter idle."""
    line = Line()
    line(FCR, 1)
    for _ in range(2):
        line(IER, 2)
        assert line(IIR) & 0xF == 2
        line(IER, 0)
        assert line(IIR) & 0xF == 1
    assert line.irq == [True, False, True, False]
    line(IER, 2)
    line(IIR)
    line(IER, 3)  # it was enabled already: no edge
    assert line(IIR) & 0xF == 1


def test_uart_poll_is_asked_when_nothing_waits() -> None:
    waiting = [b"abc", b"", b"d"]
    uart = Uart(0, lambda data: None, poll=lambda: waiting.pop(0) if waiting else b"")
    assert uart.read(LSR, 1) == 0x61
    assert bytes(uart.read(RBR, 1) for _ in range(3)) == b"abc"
    assert len(waiting) == 2
    assert uart.read(LSR, 1) == 0x60
    assert uart.read(RBR, 1) == ord("d")
    assert uart.read(RBR, 1) == 0


def test_uart_state_round_trip_in_the_middle() -> None:
    line = Line()
    line(LCR, 0x83)
    line(THR, 0x34)
    line(LCR, 0x03)
    line(FCR, 0x81)
    line(SCR, 0x99)
    line(IER, 0xF)
    line(MCR, 0x18)
    for byte in range(17):
        line(THR, byte)
    line.uart.receive(bytes(range(100, 130)))
    state = line.uart.state()
    numbers = {key: value for key, value in state.items() if not isinstance(value, bytes)}
    assert json.loads(json.dumps(numbers)) == numbers

    copy = Line()
    copy.uart.restore(state)
    assert copy.wire.told == []  # the other end knows already
    assert copy.uart.state() == state
    for each in (line, copy):
        each.output.clear()
        each.wire.told.clear()
    for offset, value in (
        (LSR, None), (IIR, None), (MSR, None), (MCR, 0), *[(RBR, None)] * 60, (IIR, None),
        (IIR, None), (SCR, None), (LCR, 0x80), (THR, None), (LCR, 0), (THR, 65), (IER, 0),
    ):  # fmt: skip
        assert line(offset, value) == copy(offset, value), (offset, value)
        assert (line.output, line.wire.told) == (copy.output, copy.wire.told)
    assert line.uart.state() == copy.uart.state()


@pytest.mark.parametrize(
    "change",
    [{"ier": 16}, {"fifo": bytes(17)}, {"fcr": 2}, {"queue": "text"}, {"lcr": None}],
)
def test_uart_refuses_a_state_that_is_not_its_own(change: dict[str, object]) -> None:
    state = Line().uart.state()
    with pytest.raises(ValueError, match="saved"):
        Line().uart.restore(state | change)
    del state[next(iter(change))]
    with pytest.raises(KeyError):
        Line().uart.restore(state)


def test_it_is_known_whether_anybody_listens() -> None:
    """Interrupts enabled, or a loop that looks at LSR; a driver that sends looks too."""
    uart = Uart(0, lambda data: None)
    for _ in range(100):
        uart.read(5, 1)
        uart.write(0, 1, ord("x"))
    assert not uart.is_heard
    for _ in range(64):
        uart.read(5, 1)
    assert uart.is_heard
    uart.write(0, 1, ord("x"))
    assert not uart.is_heard
    uart.write(1, 1, 1)
    assert uart.is_heard
