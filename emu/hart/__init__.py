"""The hart: its run loop, its interrupts, its traps."""

from emu.hart.hart import Handler, Hart, HartError
from emu.hart.options import HartOptions

__all__ = ["Handler", "Hart", "HartError", "HartOptions"]
