"""Traps to M that are no calls: what firmware gives back to S-mode."""

from __future__ import annotations

from emu.hart import Hart
from emu.spec import trap as traps
from emu.spec import words as W
from emu.spec.csr import Priv
from emu.spec.trap import Trap
from emu.stop import Stop, StopReason


def redirect(hart: Hart, trap: Trap) -> Stop | None:
    """Take an exception from S or U at S, as if it had been delegated.

    (OpenSBI: sbi_trap_redirect.) Ends the run when guest code holds S and its vector
    cannot be fetched: it would trap there for ever.
    """
    w = hart.words
    record = Trap(trap.cause, trap.epc, trap.tval, trap.priv, Priv.S.value)
    w[W.PC] = trap.epc
    if hart.trap_listener is not None:
        hart.trap_listener(record)
    handler = hart.handlers[Priv.S.value]
    if handler is not None:
        return handler(record)
    w[W.PRIV] = Priv.S.value
    reachable = hart.fetch(w[W.STVEC] & ~3) is not None
    w[W.PRIV] = trap.priv
    if not reachable:
        detail = "no trap handler: its vector cannot be fetched"
        return Stop(StopReason.FAULT, trap=record, detail=detail)
    traps.enter(w, record)
    return None
