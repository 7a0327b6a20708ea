"""The hart: its run loop, its interrupts, its traps."""

from emu.hart.hart import Handler, Hart, HartError

__all__ = ["Handler", "Hart", "HartError"]
