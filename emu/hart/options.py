"""What a hart is made with.

Each option stands here once, is typed once (`guest.cli.hart_options`), and is read where it works.
What lies between hands the whole of them on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from emu.spec.extensions import Extensions


@dataclass(frozen=True)
class HartOptions:
    """``access``: the way to the engine's state: "auto", "direct" or "public", see
    `emu.engine.access`. ``walk``: who translates: "spec" (`emu/engine/walk.c`), or "engine", the
    engine's own walk, for who compares. ``extensions``: what its MMU has."""

    access: str = "auto"
    walk: str = "spec"
    extensions: Extensions = field(default_factory=Extensions)

    @classmethod
    def of(cls, given: str | HartOptions) -> HartOptions:
        """``given``, or the options of a hart of which only ``access`` is said."""
        return given if isinstance(given, HartOptions) else cls(given)
