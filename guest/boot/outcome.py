"""How a guest ended, in the words and the exit status that the user gets."""

from __future__ import annotations

from dataclasses import dataclass, field

from emu.debug.symbols import Symbols
from emu.hart import Hart
from emu.spec.csr import PRIV_NAMES
from emu.stop import ORDERLY, Stop, StopReason

EXIT_INTERRUPTED = 130  # as a shell reports SIGINT
EXIT_BUG = 1  # a bug was reported, or a check failed; nothing else went wrong
EXIT_WFI = EXIT_TIMEOUT = 124  # as timeout(1) has it
# A fault's exit status is 128 + the signal that Linux would send.
_SIGNAL_OF_CAUSE = {0: 7, 2: 4, 3: 5, 4: 7, 6: 7}
_SIGSEGV = 11


class UsageError(Exception):
    """The user asked for what cannot be; the text is one line."""


@dataclass
class Outcome:
    """How a guest ended: its exit status, and for a fault the whole explanation."""

    program: str
    machine: str
    stop: Stop
    status: int
    where: str  # pc, level and symbol at the end
    explanation: str = ""
    notes: list[str] = field(default_factory=list)
    missing_syscalls: list[dict[str, object]] = field(default_factory=list)  # of a program
    bugs: list[str] = field(default_factory=list)  # the first line of each report


def describe(program: str, kind: str, hart: Hart, stop: Stop, symbols: Symbols) -> Outcome:
    """What a Stop means for the user."""
    pc = hart.pc
    # At an orderly end the symbols are not needed, and reading them takes its time.
    name = None if stop.reason in ORDERLY else symbols.name(pc)
    where = f"{pc:#x}{f' <{name}>' if name else ''} in {PRIV_NAMES[hart.priv]}-mode"
    outcome = Outcome(program, kind, stop, stop.code, where)
    if stop.reason is StopReason.FAULT:
        cause = stop.trap.cause if stop.trap and not stop.trap.interrupt else -1
        outcome.status = 128 + _SIGNAL_OF_CAUSE.get(cause, _SIGSEGV)
        if stop.trap:
            from emu.debug.explain import explain  # the disassembler and more, for this alone

            outcome.explanation = explain(hart, stop.trap, symbols)
        if stop.detail:
            outcome.notes.append(stop.detail)
    elif stop.reason is StopReason.INTERRUPTED:
        outcome.status = EXIT_INTERRUPTED
        outcome.notes.append(f"interrupted at {where}")
    elif stop.reason is StopReason.WFI:
        outcome.status = EXIT_WFI
        outcome.notes.append(
            f"the hart waits (wfi) for an interrupt that nothing can raise, before {where}"
        )
    for text in hart.access.missing[:1] if hart.access.name == "public" else ():
        outcome.notes.append(f"hart on the public interface: {text}")
    return outcome
