"""Why a run of the hart ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from emu.spec.trap import Trap


class StopReason(Enum):
    """What ended a run."""

    EXIT = "exit"  # the guest asked to end: a finisher, HTIF, SBI or system call
    RESET = "reset"  # the guest asked for the machine to begin anew: the finisher, or SBI
    FAULT = "fault"  # a trap that nobody handles
    INTERRUPTED = "interrupted"  # the user, or another thread, stopped the hart
    WFI = "wfi"  # the hart waits for an interrupt that nothing can raise
    BREAKPOINT = "breakpoint"  # a debugger's: before the instruction at pc
    LIMIT = "limit"  # the number of instructions asked for has been executed


ORDERLY = (StopReason.EXIT, StopReason.RESET)  # by the guest's own wish


@dataclass(frozen=True, slots=True, repr=False)
class Stop:
    """The end of a run: the reason, the exit code, the unhandled trap where there is one.

    ``detail`` is one line for people; ``value`` is what a handler wanted to hand over.
    """

    reason: StopReason
    code: int = 0
    trap: Trap | None = None
    detail: str = ""
    value: Any = None

    def __repr__(self) -> str:
        code = f" {self.code}" if self.reason is StopReason.EXIT else ""
        more = [str(what) for what in (self.trap, self.detail) if what]
        more += [] if self.value is None else [f"value {self.value!r}"]
        return f"<Stop {self.reason.value}{code}{': ' if more else ''}{', '.join(more)}>"
