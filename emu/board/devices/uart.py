"""16550A UART (NS16550 datasheet, table 2), as at 0x10000000 on QEMU's virt board.

Bytes written are given to ``output`` at once: the transmitter is always empty. Bytes for
the guest wait in the 16-byte FIFO that it sees (one byte while FIFOs are off) and, behind
it, in a queue on the host's side, so that nothing typed is lost:

    receive() -> queue (64 KiB) -> FIFO (16 or 1) -> RBR
                                    ^ THR, in loopback

The line has no speed: what waits in the FIFO below the trigger level has waited for four
characters' time already, so it is a character timeout at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emu.board.devices import saved
from emu.engine.polled_register import PolledRegister

_RBR_THR, _IER, _IIR_FCR, _LCR, _MCR, _LSR, _MSR, _SCR = range(8)
_IER_RX, _IER_THRE, _IER_LINE, _IER_MODEM = 1, 2, 4, 8
# IIR's causes, the most urgent first.
_IIR_LINE, _IIR_RX, _IIR_TIMEOUT, _IIR_THRE, _IIR_MODEM, _IIR_NONE = 6, 4, 0xC, 2, 0, 1
_IIR_FIFOS = 0xC0
_LCR_DLAB = 0x80
_LSR_DATA_READY, _LSR_OVERRUN, _LSR_THR_EMPTY, _LSR_IDLE = 1, 2, 0x20, 0x40
_FCR_ENABLE, _FCR_CLEAR_RX, _FCR_CLEAR_TX, _FCR_STAYS = 1, 2, 4, 0xC9
_MCR_OUT2, _MCR_LOOPBACK = 8, 0x10
_DIVISOR_9600 = 12  # of the PC's 1.8432 MHz; drivers take their speed from it
_MSR_CONNECTED = 0xB0  # carrier, data set ready, clear to send
_MSR_RING = 0x40
_TRIGGER_LEVELS = (1, 4, 8, 14)  # bytes, by FCR bits 7-6
_FIFO_SIZE = 16
QUEUE_SIZE_MAX = 1 << 16  # bytes
POLL_SIZE_MAX = 1 << 16  # bytes
_LOOKS_OF_ONE_WHO_WAITS = 64  # a driver that sends looks once or twice for each byte
_BYTES = [bytes((value,)) for value in range(256)]


class Uart(saved.Restorable):
    """One UART; ``on_irq(level)``, which may be set later, is told of its interrupt line,
    at the same accesses as in QEMU (hw/char/serial.c, serial_update_irq), changed or not.

    ``poll``, if there is one, is asked for bytes that have arrived, at most POLL_SIZE_MAX,
    whenever the guest looks and none wait.
    """

    name = "uart"
    outside: tuple[str, ...] = ("queue",)

    def __init__(
        self,
        base: int,
        output: Callable[[bytes], None],
        on_irq: Callable[[bool], None] = lambda level: None,
        poll: Callable[[], bytes] | None = None,
    ) -> None:
        self.base = base
        self.size = 0x100
        self._output = output
        self.on_irq = on_irq
        self._poll = poll
        self._fifo = bytearray()
        self._queue = bytearray()
        self._ier = self._lcr = self._scr = self._fcr = 0
        # As QEMU's after its reset (serial_reset), for drivers that set neither.
        self._mcr = _MCR_OUT2
        self._divisor = _DIVISOR_9600
        # An edge, not a level: a level would interrupt for ever a driver that has
        # nothing to send and does not mask it.
        self._thre_pending = False
        self._overrun = False
        self._modem_changes = 0  # MSR bits 3-0
        self.polled = PolledRegister(_LSR)  # counts looks since something was sent
        self._looks = 0  # those that came here
        self._show()

    @property
    def bytes_max(self) -> int:
        """The FIFO and the queue; what a poll gave comes on top of what was received."""
        return _FIFO_SIZE + QUEUE_SIZE_MAX + POLL_SIZE_MAX

    @property
    def is_heard(self) -> bool:
        """Whether the guest waits for input: by interrupt, or by looking again and again.

        What arrives before may be lost: a driver clears the FIFO when it opens the port.
        """
        return (
            bool(self._ier & _IER_RX) or self._looks + self.polled.reads >= _LOOKS_OF_ONE_WHO_WAITS
        )

    def receive(self, data: bytes) -> int:
        """Bytes arrive from the other end of the line; how many of them were taken.

        Less than all when the queue is full: give the rest again after the guest has read.
        """
        taken = min(len(data), max(QUEUE_SIZE_MAX - len(self._queue), 0))
        self._queue += data[:taken]
        if self._fill():
            self._update()
        return taken

    def _fill(self) -> bool:
        """Move what has arrived into the FIFO, and whether it was anything.

        In loopback the line is cut.
        """
        depth = _FIFO_SIZE if self._fcr & _FCR_ENABLE else 1
        room = depth - len(self._fifo)
        moves = bool(self._queue) and room > 0 and not self._mcr & _MCR_LOOPBACK
        if moves:
            self._fifo += self._queue[:room]
            del self._queue[:room]
        self._show()
        return moves

    def _show(self) -> None:
        """Let LSR be read without us, while that has no effect."""
        if self._poll or self._overrun:
            self.polled.show(0)
        else:
            ready = _LSR_DATA_READY if self._fifo else 0
            self.polled.show(_LSR_THR_EMPTY | _LSR_IDLE | ready)

    def _ask(self) -> None:
        """The guest looks and nothing waits: ask ``poll``."""
        data = self._poll() if self._poll else b""
        if data:
            self._queue += data
            if self._fill():
                self._update()

    def _update(self) -> None:
        self.on_irq(self._cause() != _IIR_NONE)

    def _cause(self) -> int:
        ier = self._ier
        if ier == 0:
            return _IIR_NONE
        if ier & _IER_LINE and self._overrun:
            return _IIR_LINE
        if ier & _IER_RX and self._fifo:
            if not self._fcr & _FCR_ENABLE or len(self._fifo) >= _TRIGGER_LEVELS[self._fcr >> 6]:
                return _IIR_RX
            return _IIR_TIMEOUT
        if ier & _IER_THRE and self._thre_pending:
            return _IIR_THRE
        if ier & _IER_MODEM and self._modem_changes:
            return _IIR_MODEM
        return _IIR_NONE

    def _modem_lines(self) -> int:
        """MSR bits 7-4; in loopback MCR's outputs: RTS, DTR, OUT1, OUT2."""
        mcr = self._mcr
        if not mcr & _MCR_LOOPBACK:
            return _MSR_CONNECTED
        return (mcr & 2) << 3 | (mcr & 1) << 5 | (mcr & 4) << 4 | (mcr & 8) << 4

    def read(self, offset: int, size: int) -> int:
        if offset == _LSR:
            self._looks += 1
            if not self._fifo:
                self._ask()
            value = _LSR_THR_EMPTY | _LSR_IDLE | (_LSR_DATA_READY if self._fifo else 0)
            if self._overrun:
                value |= _LSR_OVERRUN
                self._overrun = False
                self._show()
                self._update()
            return value
        if self._lcr & _LCR_DLAB and offset <= _IER:
            return self._divisor >> (8 * offset) & 0xFF
        if offset == _RBR_THR:
            return self._read_data()
        if offset == _IER:
            return self._ier
        if offset == _IIR_FCR:
            return self._read_cause()
        if offset == _LCR:
            return self._lcr
        if offset == _MCR:
            return self._mcr
        if offset == _MSR:
            value = self._modem_lines() | self._modem_changes
            if self._modem_changes:
                self._modem_changes = 0
                self._update()
            return value
        return self._scr if offset == _SCR else 0

    def _read_data(self) -> int:
        if not self._fifo:
            self._ask()
        value = self._fifo.pop(0) if self._fifo else 0
        self._fill()
        self._update()
        return value

    def _read_cause(self) -> int:
        if not self._fifo:
            self._ask()
        value = self._cause()
        if value == _IIR_THRE:
            self._thre_pending = False
            self._update()
        return value | (_IIR_FIFOS if self._fcr & _FCR_ENABLE else 0)

    def write(self, offset: int, size: int, value: int) -> None:
        value &= 0xFF
        if self._lcr & _LCR_DLAB and offset <= _IER:
            keep = 0xFF00 if offset == _RBR_THR else 0xFF
            self._divisor = self._divisor & keep | value << (8 * offset)
            return
        if offset == _RBR_THR:
            self._looks = self.polled.reads = 0
            if self._mcr & _MCR_LOOPBACK:
                self._loop(value)
            else:
                self._output(_BYTES[value])
            self._thre_pending = True
            if self._ier:
                self._update()
            return
        if offset == _IER:
            self._write_enables(value & 0xF)
        elif offset == _IIR_FCR:
            self._write_fifo_control(value)
        elif offset == _LCR:
            self._lcr = value
        elif offset == _MCR:
            self._write_modem_control(value & 0x1F)
        elif offset == _SCR:
            self._scr = value

    def _write_enables(self, value: int) -> None:
        changes = self._ier ^ value
        self._ier = value
        if changes & _IER_THRE:
            self._thre_pending = bool(value & _IER_THRE)  # the transmitter is empty
        if changes:
            self._update()

    def _loop(self, value: int) -> None:
        """A byte sent in loopback arrives. An overrun loses it, or without FIFOs the last."""
        depth = _FIFO_SIZE if self._fcr & _FCR_ENABLE else 1
        if len(self._fifo) < depth:
            self._fifo.append(value)
        else:
            self._overrun = True
            if depth == 1:
                self._fifo[0] = value
        self._show()

    def _write_fifo_control(self, value: int) -> None:
        if (value ^ self._fcr) & _FCR_ENABLE or value & _FCR_CLEAR_RX:
            # Only what the FIFO holds: the rest has not come through the line yet.
            self._fifo.clear()
        if (value ^ self._fcr) & _FCR_ENABLE or value & _FCR_CLEAR_TX:
            self._thre_pending = True  # what was in the other FIFO is gone
        self._fcr = value & _FCR_STAYS if value & _FCR_ENABLE else 0
        self._fill()
        self._update()

    def _write_modem_control(self, value: int) -> None:
        before = self._modem_lines()
        self._mcr = value
        now = self._modem_lines()
        changes = before ^ now
        if now & _MSR_RING:  # only its trailing edge is told
            changes &= ~_MSR_RING
        self._modem_changes |= changes >> 4
        if self._fill() or changes:
            self._update()

    def state(self) -> dict[str, Any]:
        return {
            "ier": self._ier,
            "lcr": self._lcr,
            "mcr": self._mcr,
            "scr": self._scr,
            "fcr": self._fcr,
            "divisor": self._divisor,
            "thre_pending": self._thre_pending,
            "overrun": self._overrun,
            "modem_changes": self._modem_changes,
            "fifo": bytes(self._fifo),
            "queue": bytes(self._queue),
        }

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        bits = {
            "ier": 4, "lcr": 8, "mcr": 5, "scr": 8, "fcr": 8, "divisor": 16, "modem_changes": 4,
        }  # fmt: skip
        saved.fields(state, *bits, "thre_pending", "overrun", "fifo", "queue")
        value = {key: saved.number(state, key, count) for key, count in bits.items()}
        if value["fcr"] & ~_FCR_STAYS:
            raise ValueError(f"saved fcr: {value['fcr']:#x} has bits that do not stay")
        thre_pending, overrun = saved.flag(state, "thre_pending"), saved.flag(state, "overrun")
        fifo = saved.data(state, "fifo", _FIFO_SIZE)
        queue = saved.data(state, "queue", self.bytes_max - _FIFO_SIZE)

        def apply() -> None:
            self._ier, self._lcr, self._mcr = value["ier"], value["lcr"], value["mcr"]
            self._scr, self._fcr, self._divisor = value["scr"], value["fcr"], value["divisor"]
            self._thre_pending, self._overrun = thre_pending, overrun
            self._modem_changes = value["modem_changes"]
            self._fifo, self._queue = bytearray(fifo), bytearray(queue)
            self._fill()  # in a state of after a reset the FIFO is empty all the same

        return apply
