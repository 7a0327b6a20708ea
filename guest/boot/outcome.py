"""How a guest ended, in the words, the exit status and the JSON that the user gets.

`docs/outcome.md` tells of all three, `docs/outcome.schema.json` of the JSON.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from emu.debug.symbols import Symbols
from emu.hart import Hart
from emu.spec.csr import PRIV_NAMES
from emu.stop import ORDERLY, Stop, StopReason
from guest.ending import TIMEOUT, Ending

EXIT_INTERRUPTED = 130  # as a shell reports SIGINT
EXIT_BUG = 1  # a bug was reported, or a check failed; nothing else went wrong
EXIT_WFI = EXIT_TIMEOUT = 124  # as timeout(1) has it
_SIGNALLED = 128  # and the signal's number: as a shell has it
# A fault's exit status is that of the signal that Linux would send.
_SIGNAL_OF_CAUSE = {0: 7, 2: 4, 3: 5, 4: 7, 6: 7}
_SIGSEGV = 11
ESCAPE = "Ctrl-A x"  # what ends a guest, as `Ending.by` has it


class UsageError(Exception):
    """The user asked for what cannot be; the text is one line."""


@dataclass
class Outcome:
    """How a guest ended: its exit status, and for a fault the whole explanation.

    ``program``: as the user named it, None for the demo. ``machine``: one of
    `guest.boot.machines.MACHINES`.
    """

    program: str | None
    machine: str
    stop: Stop
    status: int
    where: str  # pc, level and symbol at the end
    explanation: str = ""
    notes: list[str] = field(default_factory=list)
    missing_syscalls: list[dict[str, object]] = field(default_factory=list)  # of a program
    bugs: list[str] = field(default_factory=list)  # the first line of each report

    @property
    def lines(self) -> list[str]:
        """What the user is told of it, beside the exit status."""
        return [*self.notes, *filter(None, [self.explanation])]

    def as_json(
        self,
        console: bytes | bytearray,
        console_lost: int = 0,
        log: Sequence[str] = (),
        then: Sequence[dict[str, Any]] = (),
    ) -> dict[str, Any]:
        """The object that ``--json`` prints.

        ``console``: the last bytes that the guest has printed, and ``console_lost`` how many
        came before them; ``log``: the kernel's lines; ``then``: what --then commands showed.
        """
        told: dict[str, Any] = {
            "program": self.program,
            "machine": self.machine,
            "exit": self.status,
            "reason": self.stop.reason.value,
            "detail": self.stop.detail,
            "where": self.where,
            "console": bytes(console).decode("utf-8", "replace"),
            "console_lost": console_lost,
            "log": list(log),
            "fault": self._fault(),
            "explanation": self.explanation,
            "notes": self.notes,
            "missing_syscalls": self.missing_syscalls,
            "bugs": self.bugs,
        }
        return told | ({"then": list(then)} if then else {})

    def _fault(self) -> dict[str, Any] | None:
        trap = self.stop.trap
        if trap is None:
            return None
        return {
            "cause": trap.xcause,
            "text": trap.text,
            "epc": hex(trap.epc),
            "tval": hex(trap.tval),
            "from": PRIV_NAMES[trap.priv],
            "to": PRIV_NAMES[trap.target],
            "explanation": self.explanation.splitlines(),
        }


def place(hart: Hart, symbols: Symbols | None) -> str:
    """Where ``hart`` stands: pc, its symbol if ``symbols`` has one, and the privilege."""
    name = symbols.name(hart.pc) if symbols is not None else None
    return f"{hart.pc:#x}{f' <{name}>' if name else ''} in {PRIV_NAMES[hart.priv]}-mode"


def describe(
    program: str | None,
    machine: str,
    hart: Hart,
    stop: Stop,
    symbols: Symbols,
    ending: Ending | None = None,
) -> Outcome:
    """What a Stop means for the user. ``ending``: of the run, if it could be ended."""
    # At an orderly end the symbols are not needed, and reading them takes its time.
    where = place(hart, None if stop.reason in ORDERLY else symbols)
    outcome = Outcome(program, machine, stop, stop.code, where)
    if stop.reason is StopReason.FAULT:
        cause = stop.trap.cause if stop.trap and not stop.trap.interrupt else -1
        outcome.status = _SIGNALLED + _SIGNAL_OF_CAUSE.get(cause, _SIGSEGV)
        if stop.trap:
            from emu.debug.explain import explain  # the disassembler and more, for this alone

            outcome.explanation = explain(hart, stop.trap, symbols)
        if stop.detail:
            outcome.notes.append(stop.detail)
    elif stop.reason is StopReason.INTERRUPTED:
        outcome.status, note = _interrupted(ending, where)
        outcome.notes.append(note)
    elif stop.reason is StopReason.WFI:
        outcome.status = EXIT_WFI
        outcome.notes.append(
            f"the hart waits (wfi) for an interrupt that nothing can raise, before {where}"
        )
    for text in hart.access.missing[:1] if hart.access.name == "public" else ():
        outcome.notes.append(f"hart on the public interface: {text}")
    return outcome


def _interrupted(ending: Ending | None, where: str) -> tuple[int, str]:
    """The exit status of a run that was ended from outside, and who ended it."""
    by = None if ending is None else ending.by
    if ending is not None and by == TIMEOUT:
        return EXIT_TIMEOUT, f"{ending.seconds:g} s are over, at {where}"
    if by == ESCAPE:
        return 0, f"ended by {by} at {where}"
    if by is None or by == signal.SIGINT.name:
        return EXIT_INTERRUPTED, f"interrupted at {where}"
    return _SIGNALLED + signal.Signals[by], f"ended by {by} at {where}"
