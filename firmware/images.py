"""The compiled firmware, as bytes."""

from __future__ import annotations

from pathlib import Path

_BUILT = Path(__file__).resolve().parent.parent / "guest" / "built"


class NotBuilt(Exception):
    """The package's guests have not been compiled."""


def reset_code() -> bytes:
    """The ROM's contents; its last 16 bytes are filled in by `Machine.set_rom`."""
    return _read("reset.bin")


def start_code(next_pa: int) -> bytes:
    """The M-mode start, for the first bytes of RAM; it enters S-mode at ``next_pa`` (PA)."""
    return _read("start.bin")[:-8] + next_pa.to_bytes(8, "little")


def _read(name: str) -> bytes:
    try:
        return (_BUILT / name).read_bytes()
    except FileNotFoundError:
        raise NotBuilt(
            f"{name} is missing: the guests are compiled when the package is installed "
            "(pip install -e .), or by python -m guest.build"
        ) from None
