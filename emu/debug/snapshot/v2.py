"""Snapshots of version 2 of the format, in the words of the present one.

There was one hart, and the CLINT had its registers alone. A hart's own words have become other
ones as well, without another version:

  pending           mip in one part, where it now has two (`emu.hart.interrupts`)
  mscounteren       is gone
  menvcfg and what  were not there before the hart had Sstc
  belongs to it
"""

from __future__ import annotations

from typing import Any

from emu.hart import state as hart_state
from emu.spec import csr as CSR

VERSION = 2


def upgrade(state: dict[str, Any]) -> None:
    """Change ``state``, of version 2. Raises LookupError, TypeError, ValueError or
    AttributeError when it is none; what is wrong in it otherwise stays wrong."""
    state["harts"] = [_upgraded_hart(state.pop("hart"))]
    for device in state["devices"]:
        if device["name"] == "clint":
            device["state"] = {name: [value] for name, value in device["state"].items()}


def _upgraded_hart(hart: Any) -> Any:
    if not isinstance(hart, dict):
        return hart
    hart = {name: absent for name, (_, absent) in hart_state.ADDED.items()} | hart
    if type(hart.get("pending")) is not int:
        return hart
    pending = hart["pending"]
    written = pending & (1 << CSR.IRQ_SSI | 1 << CSR.IRQ_STI)
    gone = ("pending", "mscounteren")
    rest = {name: value for name, value in hart.items() if name not in gone}
    return rest | {"wires": pending & ~written, "written": written}
