"""System reset (SBI 2.0, chapter 10)."""

from __future__ import annotations

from emu.spec import words as W
from emu.stop import Stop, StopReason
from firmware.sbi.numbers import ERR_INVALID_PARAM, Extension

# By number (tables 10.1 and 10.2). The others are reserved, or specific to platforms.
_TYPES = ("shutdown", "cold reboot", "warm reboot")
_NO_REASON, _SYSTEM_FAILURE = 0, 1


def extension(words: W.Words) -> Extension:
    """Every kind of reset ends the run; a system failure is exit code 1.

    Whoever runs the machine begins it anew after a reboot, cold or warm, or does not.
    """

    def system_reset() -> tuple[int, int] | Stop:
        kind, reason = words[W.A0] & 0xFFFF_FFFF, words[W.A1] & 0xFFFF_FFFF  # uint32_t
        if kind >= len(_TYPES) or reason not in (_NO_REASON, _SYSTEM_FAILURE):
            return ERR_INVALID_PARAM, 0
        detail = f"SBI system reset: {_TYPES[kind]}"
        stop = StopReason.RESET if kind else StopReason.EXIT
        return Stop(stop, int(reason == _SYSTEM_FAILURE), detail=detail)

    return {0: system_reset}
