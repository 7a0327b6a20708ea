"""The debug console (SBI 2.0, chapter 12). Buffers are physical memory, and must be RAM."""

from __future__ import annotations

from collections.abc import Callable

from emu.ram import Ram
from emu.spec import words as W
from firmware.sbi.numbers import ERR_INVALID_PARAM, SUCCESS, Extension

# Bytes moved by one call; the caller learns how many, and goes on. Each one that is read takes
# two accesses to the UART, and no call takes longer than a moment.
_WRITE_SIZE_MAX, _READ_SIZE_MAX = 1 << 20, 1 << 12


class Console:
    """``output`` takes bytes, ``read_byte`` gives one or None.

    ``code_changed(pa, size)`` is told of each part of RAM that a read has written.
    """

    def __init__(
        self,
        words: W.Words,
        ram: Ram,
        output: Callable[[bytes], None],
        read_byte: Callable[[], int | None],
        code_changed: Callable[[int, int], None],
    ) -> None:
        self._words = words
        self._ram = ram
        self._output = output
        self._read_byte = read_byte
        self._code_changed = code_changed

    def extension(self) -> Extension:
        return {0: self._write, 1: self._read, 2: self._write_byte}

    def _buffer(self, size_max: int) -> tuple[int, int] | None:
        """(PA, bytes) of what one call moves; None when not all of the buffer is RAM."""
        w = self._words
        size, pa = w[W.A0], w[W.A1]
        # base_addr_hi: no physical address has bits above the 64th.
        if w[W.A2] or not self._ram.contains(pa, size):
            return None
        return pa, min(size, size_max)

    def _write(self) -> tuple[int, int]:
        buffer = self._buffer(_WRITE_SIZE_MAX)
        if buffer is None:
            return ERR_INVALID_PARAM, 0
        pa, size = buffer
        self._output(self._ram.read(pa, size))
        return SUCCESS, size

    def _read(self) -> tuple[int, int]:
        buffer = self._buffer(_READ_SIZE_MAX)
        if buffer is None:
            return ERR_INVALID_PARAM, 0
        pa, size = buffer
        data = bytearray()
        while len(data) < size and (byte := self._read_byte()) is not None:
            data.append(byte)
        if data:
            self._ram.write(pa, data)
            self._code_changed(pa, len(data))
        return SUCCESS, len(data)

    def _write_byte(self) -> tuple[int, int]:
        self._output(bytes((self._words[W.A0] & 0xFF,)))
        return SUCCESS, 0
