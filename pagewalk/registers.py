"""Registers by name: ``machine.reg.a0``, ``machine.csr.mcause``."""

from __future__ import annotations

from emu.hart import Hart, csr_access
from emu.spec import words
from emu.spec.csr import PRIV_NAMES
from pagewalk import arguments

_PLACES = {
    **{name: words.GPR + i for i, name in enumerate(words.ABI_NAMES)},
    **{f"x{i}": words.GPR + i for i in range(32)},
    **{name: words.FPR + i for i, name in enumerate(words.FPR_ABI_NAMES)},
    **{f"f{i}": words.FPR + i for i in range(32)},
    "fp": words.GPR + 8,
}


class Registers:
    """The integer and floating-point registers by their ABI names, or as x0 and f0 on.

    Each is its 64 bits, unsigned; a negative number may be written. A name that is none raises
    AttributeError, a value that does not fit ValueError, one that is no int TypeError.
    """

    __slots__ = ("_hart",)
    _hart: Hart

    def __init__(self, hart: Hart) -> None:
        object.__setattr__(self, "_hart", hart)

    def __getattr__(self, name: str) -> int:
        return int(self._hart.words[_place(name)])

    def __setattr__(self, name: str, value: int) -> None:
        place = _place(name)
        bits = arguments.register_value(name, value)
        if place != words.GPR:  # x0 stays zero
            self._hart.words[place] = bits

    def __dir__(self) -> list[str]:
        return list(_PLACES)

    def __repr__(self) -> str:
        w = self._hart.words
        cells = [f"{name:<4} {w[i]:#018x}" for i, name in enumerate(words.ABI_NAMES)]
        rows = ["  ".join(cells[row : row + 4]) for row in range(0, 32, 4)]
        return "\n".join(rows)


def _place(name: str) -> int:
    if name not in _PLACES:
        raise AttributeError(f"reg.{name}: there is no register of that name")
    return _PLACES[name]


class Csrs:
    """The CSRs by name (``csr.mstatus``) or by number (``csr[0x300]``), whatever the privilege.

    They read and are written as by M-mode code: WARL fields keep what the hart has. A name that
    is none raises AttributeError, a CSR that the hart does not have HartError, a value that it
    refuses ValueError.
    """

    __slots__ = ("_hart",)
    _hart: Hart

    def __init__(self, hart: Hart) -> None:
        object.__setattr__(self, "_hart", hart)

    def __getattr__(self, name: str) -> int:
        return self._hart.read_csr(_number(name))

    def __setattr__(self, name: str, value: int) -> None:
        number = _number(name)
        csr_access.write_csr(self._hart, number, arguments.register_value(name, value))

    def __getitem__(self, number: int) -> int:
        return self._hart.read_csr(arguments.integer("number", number, 12))

    def __setitem__(self, number: int, value: int) -> None:
        number = arguments.integer("number", number, 12)
        csr_access.write_csr(self._hart, number, arguments.register_value("value", value))

    def __dir__(self) -> list[str]:
        return list(csr_access.NUMBERS)

    def __repr__(self) -> str:
        shown = ("mstatus", "mepc", "mcause", "mtval", "sepc", "scause", "stval", "satp")
        told = " ".join(f"{name}={getattr(self, name):#x}" for name in shown)
        return f"<Csrs of a hart in {PRIV_NAMES[self._hart.priv]}-mode: {told}>"


def _number(name: str) -> int:
    if name not in csr_access.NUMBERS:
        raise AttributeError(f"csr.{name}: there is no CSR of that name; by number: csr[0x...]")
    return csr_access.NUMBERS[name]
