"""What a hart is made with.

Each option stands here once, is typed once (`guest.cli.hart_options`), and is read where it works.
What lies between hands the whole of them on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HartOptions:
    """``access``: the way to the engine's state: "auto", "inside" or "public", see
    `emu.engine.access`."""

    access: str = "auto"

    @classmethod
    def of(cls, given: str | HartOptions) -> HartOptions:
        """``given``, or the options of a hart of which only ``access`` is said."""
        return given if isinstance(given, HartOptions) else cls(given)
