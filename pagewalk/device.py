"""A device of your own: registers in physical memory, and an interrupt line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from emu.board.devices import saved
from emu.spec.paging import PAGE_SIZE
from pagewalk import arguments


class Device(saved.Restorable):
    """Registers at ``base`` (PA), ``size`` bytes of them; both in whole pages.

    Override `read` and `write`; offsets are from ``base``, in bytes, and sizes 1, 2 or 4 (an
    8-byte access comes as two of 4, the lower first). ``fields`` names the attributes that are the
    device's state, each a number of 64 bits: they begin as 0, and a snapshot keeps them. `irq`
    raises and lowers the line that `Machine.attach` gave it.

        class Counter(Device):
            fields = ("count",)

            def read(self, offset, size):
                self.count += 1
                return self.count
    """

    name = "device"
    fields: ClassVar[tuple[str, ...]] = ()
    outside: tuple[str, ...] = ()

    def __init__(self, base: int, size: int = PAGE_SIZE) -> None:
        self.base = arguments.integer("base", base, 56, PAGE_SIZE)
        self.size = arguments.integer("size", size, 56, PAGE_SIZE)
        if not size:
            raise ValueError("size: a device without registers cannot be reached")
        self.irq: Callable[[bool], None] = _no_line
        for field in self.fields:
            setattr(self, field, 0)

    def __repr__(self) -> str:
        state = "".join(f" {name}={value:#x}" for name, value in self.state().items())
        return f"<{type(self).__name__} {self.base:#x}-{self.base + self.size:#x}{state}>"

    def read(self, offset: int, size: int) -> int:
        """The value of ``size`` bytes at ``offset``: 0, where there is no register."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Store ``size`` bytes at ``offset``: ignored, where there is no register."""

    def state(self) -> dict[str, Any]:
        """What a snapshot keeps: ``fields``."""
        return {name: getattr(self, name) for name in self.fields}

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        """See `emu.board.devices.Device`."""
        saved.fields(state, *self.fields)
        values = {name: saved.number(state, name, 64) for name in self.fields}

        def apply() -> None:
            for name, value in values.items():
                setattr(self, name, value)

        return apply


def _no_line(level: bool) -> None:
    raise ValueError("irq: the device has no interrupt line: attach(device, irq=NUMBER)")
