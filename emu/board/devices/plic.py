"""Platform-level interrupt controller: from the devices' lines to the harts' MEIP and SEIP.

A source has two bits, and the controller keeps nothing else of it:

    the device raises its line   pending = 1, also while claimed and again at every raise
    the device lowers it         pending = 0
    claim                        pending = 0, claimed = 1
    completion                   claimed = 0
    interrupt to the hart        pending and not claimed, enabled, priority above the threshold

The specification's gateway looks at the line once more when a request is completed; QEMU's
(hw/intc/sifive_plic.c, 7.2) does not, and kernels were written on that. Two kinds hang on the
specification's: a handler that never reads the UART's IIR (the THRE interrupt is a level, so
it would come back at every completion, for ever), and one that claims before its device has
been served and counts on the raise that comes in between. As on QEMU, devices raise their
line at every update of their state, so nothing that happens after the claim is forgotten.

Source: RISC-V Platform-Level Interrupt Controller specification 1.0, but for the gateway and
for the claim, which obeys the threshold as the interrupt does; the map and the number of
priorities are QEMU virt's (hw/riscv/virt.c, VIRT_PLIC_*).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from emu.board import memory_map as board
from emu.board.devices import saved

_PENDING, _ENABLE, _CONTEXT = 0x1000, 0x2000, 0x20_0000
_ENABLE_STRIDE, _CONTEXT_STRIDE = 0x80, 0x1000
_THRESHOLD, _CLAIM = 0, 4
_CAUSES = (11, 9)  # of a hart's two contexts: M's external interrupt, S's
_PRIORITY_MASK = 7  # VIRT_PLIC_NUM_PRIORITIES
_SOURCES = board.PLIC_SOURCES
_ALL = (1 << _SOURCES) - 2  # source 0 does not exist


class Plic(saved.Restorable):
    """``set_pending``: of each hart, in order of their hartids.

    Hart n has context 2n, which is M's (interrupt 11), and context 2n + 1, S's (9).
    """

    name = "plic"
    outside: tuple[str, ...] = ()

    def __init__(self, base: int, set_pending: Sequence[Callable[[int, bool], None]]) -> None:
        self.base = base
        self.size = board.PLIC.size
        self._wires = [partial(one, cause) for one in set_pending for cause in _CAUSES]
        self._contexts = contexts = len(self._wires)
        self._pending = self._claimed = 0  # a bit for each source
        self._priority = [0] * _SOURCES
        self._enable = [0] * contexts
        self._threshold = [0] * contexts
        # Derived: by context, the sources that are enabled and above its threshold.
        self._urgent = [0] * contexts

    def set_line(self, source: int, level: bool) -> None:
        """Device ``source`` (1 and up) says that its line is high or low. With the machine's lock.

        Saying again that it is high is a new request.
        """
        if not 0 < source < _SOURCES:
            raise ValueError(f"the PLIC has no source {source}")
        bit = 1 << source
        if level:
            self._pending |= bit
        elif self._pending & bit:
            self._pending ^= bit
        else:
            return  # a UART that sends says so for each byte
        self._update()

    def _update(self) -> None:
        """Tell the harts, each time: whether one has heard it before is for it to know."""
        waiting = self._pending & ~self._claimed
        for wire, urgent in zip(self._wires, self._urgent, strict=True):
            wire(waiting & urgent != 0)

    def _derive(self) -> None:
        """After a change of priority, threshold or enables."""
        for context in range(self._contexts):
            threshold, enabled = self._threshold[context], self._enable[context]
            urgent = 0
            while enabled:
                bit = enabled & -enabled
                enabled ^= bit
                if self._priority[bit.bit_length() - 1] > threshold:
                    urgent |= bit
            self._urgent[context] = urgent

    def _claim(self, context: int) -> int:
        """Take the waiting source of the highest priority, of those the lowest number."""
        candidates = self._pending & ~self._claimed & self._urgent[context]
        best = best_priority = 0
        while candidates:
            source = (candidates & -candidates).bit_length() - 1
            candidates &= candidates - 1
            if self._priority[source] > best_priority:
                best, best_priority = source, self._priority[source]
        if best:
            self._pending ^= 1 << best
            self._claimed |= 1 << best
        self._update()
        return best

    def _complete(self, source: int) -> None:
        # The spec ignores it unless the source is enabled for this context; QEMU does not ask.
        if source < _SOURCES:
            self._claimed &= ~(1 << source)
            self._update()

    def read(self, offset: int, size: int) -> int:
        if size != 4 or offset & 3:
            return 0
        if offset >= _CONTEXT:
            context, register = divmod(offset - _CONTEXT, _CONTEXT_STRIDE)
            if context >= self._contexts:
                return 0
            if register == _CLAIM:
                return self._claim(context)
            return self._threshold[context] if register == _THRESHOLD else 0
        if offset < 4 * _SOURCES:
            return self._priority[offset >> 2]
        if _PENDING <= offset < _ENABLE:
            return self._pending >> 8 * (offset - _PENDING) & 0xFFFF_FFFF
        if _ENABLE <= offset < _ENABLE + self._contexts * _ENABLE_STRIDE:
            context, byte = divmod(offset - _ENABLE, _ENABLE_STRIDE)
            return self._enable[context] >> 8 * byte & 0xFFFF_FFFF
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        if size != 4 or offset & 3:
            return
        if offset >= _CONTEXT:
            context, register = divmod(offset - _CONTEXT, _CONTEXT_STRIDE)
            if context >= self._contexts:
                return
            if register == _CLAIM:
                self._complete(value)
                return
            if register != _THRESHOLD:
                return
            self._threshold[context] = value & _PRIORITY_MASK
        elif 0 < offset < 4 * _SOURCES:
            self._priority[offset >> 2] = value & _PRIORITY_MASK
        elif _ENABLE <= offset < _ENABLE + self._contexts * _ENABLE_STRIDE:
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
            "pending": self._pending,
            "claimed": self._claimed,
            "priority": list(self._priority),
            "enable": list(self._enable),
            "threshold": list(self._threshold),
        }

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        saved.fields(state, "pending", "claimed", "priority", "enable", "threshold")
        pending, claimed = (saved.number(state, key, _SOURCES) for key in ("pending", "claimed"))
        priority = saved.numbers(state, "priority", _SOURCES, 3)
        enable = saved.numbers(state, "enable", self._contexts, _SOURCES)
        threshold = saved.numbers(state, "threshold", self._contexts, 3)
        if any(bits & ~_ALL for bits in (pending, claimed, *enable)) or priority[0]:
            raise ValueError("saved PLIC: there is no source 0")

        def apply() -> None:
            self._pending, self._claimed = pending, claimed
            self._priority, self._enable, self._threshold = priority, enable, threshold
            self._derive()
            self._update()

        return apply
