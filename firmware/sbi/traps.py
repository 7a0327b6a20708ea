"""Traps to M that are no calls: what firmware gives back to S-mode, or does for it."""

from __future__ import annotations

from emu import csr as CSR
from emu import trap as traps
from emu import words as W
from emu.clock import Clock
from emu.csr import Priv
from emu.hart import Hart, HartError
from emu.stop import Stop, StopReason
from emu.trap import Trap

_M64 = (1 << 64) - 1
_OPCODE_SYSTEM = 0x73
_READS = (2, 3, 6, 7)  # csrrs, csrrc and their immediate forms, with x0 or 0: they only read
_COUNTEREN_TM = 1 << 1


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


def emulate_time(hart: Hart, clock: Clock, trap: Trap) -> bool:
    """Read `time` for an illegal instruction that asked for it; False: it was another.

    (OpenSBI: sbi_emulate_csr_read.) Only a hart on the public interface comes here: the
    other one reads the clock by itself.
    """
    bits = trap.tval
    is_read = bits >> 12 & 7 in _READS and not bits >> 15 & 31
    if bits & 0x7F != _OPCODE_SYSTEM or bits >> 20 != CSR.TIME or not is_read:
        return False
    if trap.priv == Priv.U and not _counteren(hart) & _COUNTEREN_TM:
        return False
    w = hart.words
    rd = bits >> 7 & 31
    if rd:
        w[rd] = clock.now() & _M64
    w[W.PC] = trap.epc + 4
    return True


def _counteren(hart: Hart) -> int:
    try:
        return hart.read_csr(CSR.SCOUNTEREN)
    except HartError:  # out of reach: as firmware leaves it
        return _M64
