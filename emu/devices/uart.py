"""16550A UART (NS16550 datasheet, table 2), as at 0x10000000 on QEMU's virt board.

Bytes written are given to ``output`` at once; bytes for the guest wait in a 16-byte FIFO
and, behind it, in a queue on the host's side, so that nothing typed is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

_RBR_THR, _IER, _IIR_FCR, _LCR, _MCR, _LSR, _MSR, _SCR = range(8)
_IER_RX, _IER_THRE = 1, 2
_IIR_NONE, _IIR_THRE, _IIR_RX, _IIR_FIFOS = 1, 2, 4, 0xC0
_LCR_DLAB = 0x80
_LSR_DATA_READY, _LSR_THR_EMPTY, _LSR_IDLE = 1, 0x20, 0x40
_FCR_ENABLE, _FCR_CLEAR_RX = 1, 2
_MCR_LOOPBACK = 0x10


class Uart:
    """One UART; ``on_irq(level)`` is called when its interrupt line changes.

    ``poll`` is asked for bytes that have arrived whenever the guest looks and none wait.
    """

    name = "uart"

    def __init__(
        self,
        base: int,
        output: Callable[[bytes], None],
        on_irq: Callable[[bool], None] = lambda level: None,
        poll: Callable[[], bytes] = lambda: b"",
    ) -> None:
        self.base = base
        self.size = 0x100
        self._output = output
        self._on_irq = on_irq
        self._poll = poll
        self._received: deque[int] = deque()
        self._ier = self._lcr = self._mcr = self._scr = self._fcr = 0
        self._divisor = 0
        # An edge, not a level: a level would interrupt for ever a driver that has
        # nothing to send and does not mask it.
        self._thre_pending = False
        self._line = False

    def receive(self, data: bytes) -> None:
        """Bytes arrive from the other end of the line."""
        self._received.extend(data)
        self._update()

    def _update(self) -> None:
        line = self._cause() != _IIR_NONE
        if line != self._line:
            self._line = line
            self._on_irq(line)

    def _cause(self) -> int:
        if self._ier & _IER_RX and self._received:
            return _IIR_RX
        if self._ier & _IER_THRE and self._thre_pending:
            return _IIR_THRE
        return _IIR_NONE

    def read(self, offset: int, size: int) -> int:
        if self._lcr & _LCR_DLAB and offset in (_RBR_THR, _IER):
            return self._divisor >> (8 * offset) & 0xFF
        if not self._received and offset in (_RBR_THR, _IIR_FCR, _LSR):
            self._received.extend(self._poll())
        value = 0
        if offset == _RBR_THR:
            value = self._received.popleft() if self._received else 0
        elif offset == _IER:
            value = self._ier
        elif offset == _IIR_FCR:
            value = self._cause()
            if value == _IIR_THRE:
                self._thre_pending = False
            value |= _IIR_FIFOS if self._fcr & _FCR_ENABLE else 0
        elif offset == _LCR:
            value = self._lcr
        elif offset == _MCR:
            value = self._mcr
        elif offset == _LSR:
            value = _LSR_THR_EMPTY | _LSR_IDLE
            value |= _LSR_DATA_READY if self._received else 0
        elif offset == _MSR:
            value = 0xB0  # carrier, data set ready, clear to send
        elif offset == _SCR:
            value = self._scr
        self._update()
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        value &= 0xFF
        if self._lcr & _LCR_DLAB and offset in (_RBR_THR, _IER):
            keep = 0xFF00 if offset == _RBR_THR else 0xFF
            self._divisor = self._divisor & keep | value << (8 * offset)
        elif offset == _RBR_THR:
            if self._mcr & _MCR_LOOPBACK:
                self._received.append(value)
            else:
                self._output(bytes((value,)))
            self._thre_pending = True
        elif offset == _IER:
            if value & _IER_THRE and not self._ier & _IER_THRE:
                self._thre_pending = True
            self._ier = value & 0xF
        elif offset == _IIR_FCR:
            self._fcr = value
            if value & _FCR_CLEAR_RX:
                self._received.clear()
        elif offset == _LCR:
            self._lcr = value
        elif offset == _MCR:
            self._mcr = value & 0x1F
        elif offset == _SCR:
            self._scr = value
        self._update()
