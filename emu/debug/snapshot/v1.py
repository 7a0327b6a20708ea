"""Snapshots of version 1 of the format, in the words of version 2.

What differs, by device:

  plic, uart, rtc   kept what they had told of their lines; now each says it again
  virtio            a queue was ready or not, and nothing of it could be left to do; there was no
                    version 1 of the devices, and the generator kept what `gauss` left over
  virtio-blk        a list of pages instead of two values of bytes

What is then of version 2 goes on as that (`emu.debug.snapshot.v2`).
"""

from __future__ import annotations

import struct
from typing import Any

from emu.board.devices.virtio_legacy import LegacyPlace

VERSION = 1
_GONE = {"plic": ("lines", "shown"), "uart": ("line",), "rtc": ("line",)}


def upgrade(state: dict[str, Any]) -> None:
    """Change ``state``, of version 1. Raises LookupError, TypeError, ValueError or
    AttributeError when it is none; what is wrong in it otherwise stays wrong."""
    for device in state["devices"]:
        name, fields = device["name"], device["state"]
        for gone in _GONE.get(name, ()):
            del fields[gone]
        if "queues" in fields:
            _upgrade_virtio(fields)


def _upgrade_virtio(fields: dict[str, Any]) -> None:
    fields["version"], fields["legacy_page_shift"] = 2, 0
    for queue in fields["queues"]:
        seen, done, is_ready = queue.pop("seen"), queue.pop("done"), queue.pop("ready")
        ring = {"seen": seen, "done": done, "left": 0, "chain": None}
        queue["ring"] = ring if is_ready else None
        queue["legacy"] = LegacyPlace().state()
    if fields.get("generator") is not None:
        version, words, _ = fields["generator"]
        fields["generator"] = [version, words]
    if "disk" in fields:
        pages = fields["disk"]["pages"]
        try:
            numbers = struct.pack(f"<{len(pages)}Q", *(page for page, _ in pages))
        except struct.error as e:
            raise ValueError(f"saved disk pages: {e}") from e
        fields["disk"]["pages"] = numbers
        fields["disk"]["content"] = b"".join(content for _, content in pages)
