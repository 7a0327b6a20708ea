"""A hart as a dict: everything that its future depends on. Saved and put back here alone.

Registers by name, in JSON's types; the names are the keys of `save`'s result. Words of
`emu.spec.words` are kept as the engine has them (its mstatus has TW and TSR at bits 29 and 30);
the CSRs beside them as a `csrr` in M-mode reads them.

Not kept: cached translations and translated code. Whoever saves a machine that goes on has
it `forget` them too, if the two are to stay the same: a stale TLB entry is state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import unicorn.riscv_const as rc

from emu.hart.hart import Hart, HartError
from emu.spec import csr as CSR
from emu.spec import words
from emu.spec.csr import Priv
from emu.spec.paging import mode_of_satp

_M64 = (1 << 64) - 1

_WORDS = {
    "pc": words.PC, "priv": words.PRIV, "load_res": words.LOAD_RES,
    "load_val": words.LOAD_RES + 1,
    "mstatus": words.MSTATUS, "mie": words.MIE, "mideleg": words.MIDELEG,
    "medeleg": words.MEDELEG, "satp": words.SATP, "stvec": words.STVEC, "sepc": words.SEPC,
    "scause": words.SCAUSE, "stval": words.STVAL, "mtvec": words.MTVEC, "mepc": words.MEPC,
    "mcause": words.MCAUSE, "mtval": words.MTVAL,
}  # fmt: skip
# By number, and by Unicorn's name where the public interface has them.
_CSRS = {
    "fcsr": (0x003, rc.UC_RISCV_REG_FCSR),
    "sscratch": (CSR.SSCRATCH, rc.UC_RISCV_REG_SSCRATCH),
    "scounteren": (CSR.SCOUNTEREN, rc.UC_RISCV_REG_SCOUNTEREN),
    "mscratch": (CSR.MSCRATCH, rc.UC_RISCV_REG_MSCRATCH),
    "mcounteren": (CSR.MCOUNTEREN, rc.UC_RISCV_REG_MCOUNTEREN),
}
# Those of `emu.board.sstc`, and what they read as where a hart has none.
ADDED = {
    "menvcfg": (CSR.MENVCFG, 0),
    "senvcfg": (CSR.SENVCFG, 0),
    "stimecmp": (CSR.STIMECMP, _M64),
}
# mip in its two parts, see `emu.hart.interrupts`.
_MIP = ("wires", "written")
_COUNTERS = {"mcycle": CSR.MCYCLE, "minstret": CSR.MINSTRET}
# RV64 has only the even configuration registers, of eight entries each (section 3.7.1).
_PMPCFG = (CSR.PMPCFG0, CSR.PMPCFG0 + 2)
_PMPADDR = tuple(range(CSR.PMPADDR0, CSR.PMPADDR0 + 16))
_PMP_LOCKED = 0x8080_8080_8080_8080
_LISTS = {"x": 32, "f": 32, "pmpcfg": len(_PMPCFG), "pmpaddr": len(_PMPADDR)}
_BEYOND_PUBLIC = ("pmpcfg", "pmpaddr", *_COUNTERS)


def missing(hart: Hart) -> tuple[str, ...]:
    """What `save` cannot keep of this hart, a line each."""
    if hart.access.in_place:
        return ()
    return ("the PMP registers, mcycle and minstret are not in a snapshot",)


def save(hart: Hart) -> dict[str, Any]:
    """The state of ``hart``, which is not running. Raises HartError when it is.

    ``x``, ``f``, ``pmpcfg`` and ``pmpaddr`` are lists of 64-bit numbers, all else is one.
    What `missing` names is None.
    """
    if hart.running:
        raise HartError("a running hart cannot be saved")
    w = hart.words
    state: dict[str, Any] = {
        "x": [w[words.GPR + i] for i in range(32)],
        "f": [w[words.FPR + i] for i in range(32)],
        "wires": hart.interrupts.wires,
        "written": hart.interrupts.written,
    }
    state |= {name: w[word] for name, word in _WORDS.items()}
    for name, (number, absent) in ADDED.items():
        csr = hart.added_csrs.get(number)
        state[name] = csr.read() if csr else absent
    if hart.access.in_place:
        state |= {name: hart.read_csr(number) for name, (number, _) in _CSRS.items()}
        state |= {name: hart.read_csr(number) for name, number in _COUNTERS.items()}
        state["pmpcfg"] = [hart.read_csr(number) for number in _PMPCFG]
        state["pmpaddr"] = [hart.read_csr(number) for number in _PMPADDR]
    else:
        state |= _publicly(
            hart, lambda: {name: hart.uc.reg_read(reg) for name, (_, reg) in _CSRS.items()}
        )
        state |= dict.fromkeys(_BEYOND_PUBLIC)
    return state


def check(hart: Hart, state: dict[str, Any]) -> None:
    """Raise ValueError when `load` could not make ``hart`` what ``state`` says."""
    if hart.running:
        raise HartError("a running hart cannot be loaded")
    wanted = {*_LISTS, *_WORDS, *_CSRS, *_COUNTERS, *ADDED, *_MIP}
    if not isinstance(state, dict) or set(state) != wanted:
        raise ValueError("the hart's registers are not those that this version saves")
    for name, value in state.items():
        if value is None and name in _BEYOND_PUBLIC:
            continue
        numbers = value if name in _LISTS else [value]
        if not isinstance(numbers, list) or len(numbers) != _LISTS.get(name, 1):
            raise ValueError(f"saved {name}: not a list of {_LISTS.get(name, 1)}")
        for number in numbers:
            if type(number) is not int or not 0 <= number <= _M64:
                raise ValueError(f"saved {name}: {number!r} is no 64-bit number")
    if state["x"][0]:
        raise ValueError("saved x: x0 is not zero")
    if state["priv"] not in set(Priv):
        raise ValueError(f"saved priv: there is no level {state['priv']}")
    if state["pc"] & 1:
        raise ValueError(f"saved pc: no instruction begins at the odd address {state['pc']:#x}")
    mode_of_satp(state["satp"])  # ValueError: the engine would abort the host on it
    _check_pmp(hart, state)


def _check_pmp(hart: Hart, state: dict[str, Any]) -> None:
    cfg, addr = state["pmpcfg"], state["pmpaddr"]
    if cfg is None or addr is None:
        return
    if not hart.access.in_place:
        if any(cfg) or any(addr):
            raise ValueError("the saved PMP registers cannot be set on the public interface")
        return
    have = [hart.read_csr(number) for number in _PMPCFG]
    locked = any(value & _PMP_LOCKED for value in have)
    if locked and (have != cfg or [hart.read_csr(number) for number in _PMPADDR] != addr):
        raise ValueError("PMP entries of this hart are locked: load into a fresh machine")


def prepare(hart: Hart, state: dict[str, Any]) -> Callable[[], None]:
    """Check all of ``state`` and change nothing, as devices do (`emu.board.devices.Device`).

    What is returned makes ``hart`` what ``state`` says, where that is not None, and drops what
    it has cached of page tables and code; the clock must have been restored before. Raises as
    `check` does.
    """
    check(hart, state)
    return lambda: _become(hart, state)


def load(hart: Hart, state: dict[str, Any]) -> None:
    """Both at once. Raises ValueError, with nothing changed, for a state that is not a hart's or
    does not fit this one; HartError when it is running."""
    prepare(hart, state)()


def forget(hart: Hart) -> None:
    """Drop what ``hart`` has cached of page tables and code: it is no part of its state."""
    hart.access.flush_tlb()
    hart.access.flush_code()


def _become(hart: Hart, state: dict[str, Any]) -> None:
    w = hart.words
    if hart.access.in_place:
        # First those whose writes touch others: fcsr makes mstatus.FS dirty.
        for name, (number, _) in _CSRS.items():
            hart.access.csr(number, state[name])
        for name, number in _COUNTERS.items():
            if state[name] is not None:
                hart.access.csr(number, state[name])
        if state["pmpaddr"] is not None and state["pmpcfg"] is not None:
            # Addresses first: a configuration may lock them.
            for number, value in zip(_PMPADDR, state["pmpaddr"], strict=True):
                hart.access.csr(number, value)
            for number, value in zip(_PMPCFG, state["pmpcfg"], strict=True):
                hart.access.csr(number, value)
    else:
        pairs = [(reg, state[name]) for name, (_, reg) in _CSRS.items()]
        _publicly(hart, lambda: hart.uc.reg_write_batch(pairs))
    for i in range(32):
        w[words.GPR + i] = state["x"][i]
        w[words.FPR + i] = state["f"][i]
    for name, word in _WORDS.items():
        w[word] = state[name]
    hart.access.store()
    forget(hart)
    hart.interrupts.become(state["wires"], state["written"])
    for name, (number, _) in ADDED.items():  # stimecmp may be due, and raise STIP
        csr = hart.added_csrs.get(number)
        if csr:
            csr.write(state[name])
    hart.present()


def _publicly(hart: Hart, use: Callable[[], Any]) -> Any:
    """``use`` registers by Unicorn's names: it obeys the privilege and mstatus.FS.

    The words stay as they are, what ``use`` writes elsewhere stays in the engine.
    """
    w = hart.words
    priv, status = w[words.PRIV], w[words.MSTATUS]
    w[words.PRIV], w[words.MSTATUS] = Priv.M, status | CSR.MSTATUS_FS
    hart.access.store()
    try:
        result = use()
        hart.access.load()  # else the next store would take back what was written
    finally:
        w[words.PRIV], w[words.MSTATUS] = priv, status
        hart.access.store()
    return result
