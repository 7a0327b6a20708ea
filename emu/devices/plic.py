"""Platform-level interrupt controller: from the devices' lines to the hart's MEIP and SEIP.

A source goes round this circle; one bit of each set in a Python integer says where it is:

    line high ---> pending ---> claimed ---> completed: line still high? pending again
                   (IP bit)     (the gateway forwards nothing)

A request that has become pending stays so when its line falls; the handler then finds
nothing to do. A claim does not look at the threshold; only the interrupt to the hart does.

Source: RISC-V Platform-Level Interrupt Controller specification 1.0; the map and the
number of priorities are QEMU virt's (hw/riscv/virt.c, VIRT_PLIC_*).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emu import board
from emu.devices import saved

_PENDING, _ENABLE, _CONTEXT = 0x1000, 0x2000, 0x20_0000
_ENABLE_STRIDE, _CONTEXT_STRIDE = 0x80, 0x1000
_THRESHOLD, _CLAIM = 0, 4
_CAUSES = (11, 9)  # by context: M's external interrupt, S's
_PRIORITY_MASK = 7  # VIRT_PLIC_NUM_PRIORITIES
_SOURCES = board.PLIC_SOURCES
_ALL = (1 << _SOURCES) - 2  # source 0 does not exist


class Plic:
    """``set_pending(number, level)`` is the hart's: 11 from context 0, 9 from context 1."""

    name = "plic"
    outside: tuple[str, ...] = ()

    def __init__(self, base: int, set_pending: Callable[[int, bool], None]) -> None:
        self.base = base
        self.size = board.PLIC.size
        self._set_pending = set_pending
        self._lines = self._pending = self._claimed = 0
        self._priority = [0] * _SOURCES
        self._enable = [0, 0]
        self._threshold = [0, 0]
        self._shown = [False, False]  # what the hart was told
        # Derived: the sources that a context may claim, and those that interrupt it.
        self._claimable = [0, 0]
        self._urgent = [0, 0]

    def set_line(self, source: int, level: bool) -> None:
        """The line of device ``source`` (1 and up) rises or falls. With the machine's lock."""
        if not 0 < source < _SOURCES:
            raise ValueError(f"the PLIC has no source {source}")
        bit = 1 << source
        if not level:
            self._lines &= ~bit
            return
        self._lines |= bit
        if not (self._pending | self._claimed) & bit:
            self._pending |= bit
            self._update()

    def _update(self) -> None:
        pending = self._pending
        for context in (0, 1):
            level = pending & self._urgent[context] != 0
            if level != self._shown[context]:
                self._shown[context] = level
                self._set_pending(_CAUSES[context], level)

    def _derive(self) -> None:
        """After a change of priority, threshold or enables."""
        for context in (0, 1):
            threshold, enabled = self._threshold[context], self._enable[context]
            claimable = urgent = 0
            while enabled:
                bit = enabled & -enabled
                enabled ^= bit
                priority = self._priority[bit.bit_length() - 1]
                if priority:
                    claimable |= bit
                    if priority > threshold:
                        urgent |= bit
            self._claimable[context] = claimable
            self._urgent[context] = urgent

    def _claim(self, context: int) -> int:
        """Take the pending source of the highest priority, of those the lowest number."""
        candidates = self._pending & self._claimable[context]
        if not candidates:
            return 0
        best = best_priority = 0
        while candidates:
            source = (candidates & -candidates).bit_length() - 1
            candidates &= candidates - 1
            if self._priority[source] > best_priority:
                best, best_priority = source, self._priority[source]
        self._pending ^= 1 << best
        self._claimed |= 1 << best
        self._update()
        return best

    def _complete(self, context: int, source: int) -> None:
        # Spec: ignored unless the source is enabled for this context.
        if source >= _SOURCES or not self._claimed & self._enable[context] & 1 << source:
            return
        self._claimed ^= 1 << source
        if self._lines >> source & 1:
            self._pending |= 1 << source
            self._update()

    def read(self, offset: int, size: int) -> int:
        if size != 4 or offset & 3:
            return 0
        if offset >= _CONTEXT:
            context, register = divmod(offset - _CONTEXT, _CONTEXT_STRIDE)
            if context > 1:
                return 0
            if register == _CLAIM:
                return self._claim(context)
            return self._threshold[context] if register == _THRESHOLD else 0
        if offset < 4 * _SOURCES:
            return self._priority[offset >> 2]
        if _PENDING <= offset < _ENABLE:
            return self._pending >> 8 * (offset - _PENDING) & 0xFFFF_FFFF
        if _ENABLE <= offset < _ENABLE + 2 * _ENABLE_STRIDE:
            context, byte = divmod(offset - _ENABLE, _ENABLE_STRIDE)
            return self._enable[context] >> 8 * byte & 0xFFFF_FFFF
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        if size != 4 or offset & 3:
            return
        if offset >= _CONTEXT:
            context, register = divmod(offset - _CONTEXT, _CONTEXT_STRIDE)
            if context > 1:
                return
            if register == _CLAIM:
                self._complete(context, value)
                return
            if register != _THRESHOLD:
                return
            self._threshold[context] = value & _PRIORITY_MASK
        elif 0 < offset < 4 * _SOURCES:
            self._priority[offset >> 2] = value & _PRIORITY_MASK
        elif _ENABLE <= offset < _ENABLE + 2 * _ENABLE_STRIDE:
            context, byte = divmod(offset - _ENABLE, _ENABLE_STRIDE)
            mask = 0xFFFF_FFFF << 8 * byte
            enabled = self._enable[context] & ~mask | value << 8 * byte & mask
            self._enable[context] = enabled & _ALL
        else:
            return
        self._derive()
        self._update()

    def state(self) -> dict[str, Any]:
        return {
            "lines": self._lines,
            "pending": self._pending,
            "claimed": self._claimed,
            "priority": list(self._priority),
            "enable": list(self._enable),
            "threshold": list(self._threshold),
            "shown": [int(level) for level in self._shown],
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._lines = saved.number(state, "lines", _SOURCES) & _ALL
        self._pending = saved.number(state, "pending", _SOURCES) & _ALL
        self._claimed = saved.number(state, "claimed", _SOURCES) & _ALL
        self._priority = saved.numbers(state, "priority", _SOURCES, 3)
        self._enable = [bits & _ALL for bits in saved.numbers(state, "enable", 2, _SOURCES)]
        self._threshold = saved.numbers(state, "threshold", 2, 3)
        self._shown = [level == 1 for level in saved.numbers(state, "shown", 2, 1)]
        self._derive()
