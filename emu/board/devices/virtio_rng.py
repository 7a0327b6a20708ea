"""virtio entropy device (virtio 1.2, section 5.4): random bytes on request.

The generator is given from outside: `random.SystemRandom()` for real entropy, a seeded
`random.Random` where two runs must be the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from emu.board.devices import saved
from emu.board.devices.virtio_mmio import Virtio
from emu.board.devices.virtqueue import Chain
from emu.ram import Ram

_QUEUE_SIZE = 64
# Of one request; a driver that wants more asks again (a device may give fewer bytes).
_REQUEST_SIZE_MAX = 1 << 16  # bytes


class VirtioRng(Virtio):
    """Random bytes from ``generator``."""

    name = "virtio-rng"
    device_id = 4
    queue_sizes = (_QUEUE_SIZE,)

    def __init__(
        self,
        base: int,
        ram: Ram,
        generator: random.Random,
        on_irq: Callable[[bool], None] = lambda level: None,
        written: Callable[[int, int], None] = lambda pa, size: None,
        legacy: bool = False,
    ) -> None:
        super().__init__(base, ram, on_irq, written, legacy=legacy)
        self._generator = generator

    def serve(self, queue: int, chain: Chain) -> int:
        done = 0
        for pa, extent in chain.writable:
            size = min(extent, _REQUEST_SIZE_MAX - done)
            if size == 0:
                break
            self.ram.write(pa, self._generator.randbytes(size))
            self.written(pa, size)
            done += size
        return done

    FIELDS = (*Virtio.FIELDS, "generator")

    def state(self) -> dict[str, Any]:
        generator = None
        if not isinstance(self._generator, random.SystemRandom):
            version, words, _ = self._generator.getstate()  # the last is `gauss`'s alone
            generator = [version, list(words)]
        return super().state() | {"generator": generator}

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        registers = super().prepare(state)
        if isinstance(self._generator, random.SystemRandom):
            return registers  # real entropy has no state
        if state["generator"] is None:
            raise ValueError("saved with real entropy, which cannot be repeated")
        generator = self._saved_generator(state["generator"])

        def apply() -> None:
            registers()
            self._generator.setstate(generator)

        return apply

    def _saved_generator(self, old: Any) -> tuple[int, tuple[int, ...], None]:
        version, words, _ = self._generator.getstate()
        if not isinstance(old, list) or len(old) != 2 or old[0] != version:
            raise ValueError("saved generator: not of this version of Python")
        state = saved.numbers({"generator": old[1]}, "generator", len(words), 32)
        if not 0 < state[-1] < len(words):  # how many of the others have been used
            raise ValueError(f"saved generator: {state[-1]} of {len(words) - 1} used")
        return version, tuple(state), None
