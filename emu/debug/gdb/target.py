"""The hart's registers as gdb numbers and names them, and the target description.

Source: the gdb manual, appendix "Target Descriptions", "RISC-V Features". A register's
number is its place in `Registers`, which is the order in which the XML names them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emu.hart import Hart, HartError
from emu.hart import csr_access as CSR
from emu.spec import words
from emu.spec.csr import Priv

_POINTERS = {"ra": "code_ptr", "sp": "data_ptr", "gp": "data_ptr", "tp": "data_ptr"}
_M64 = (1 << 64) - 1
CORE_COUNT = 33  # x0 to x31 and pc: what a `g` packet holds

_DOUBLE = (
    '<union id="riscv_double"><field name="float" type="ieee_single"/>'
    '<field name="double" type="ieee_double"/></union>'
)


@dataclass(frozen=True, slots=True)
class _Register:
    """``size`` in bytes; ``read`` gives None for what cannot be reached."""

    name: str
    size: int
    type: str
    read: Callable[[], int | None]
    write: Callable[[int], None]
    saved: bool = True  # gdb saves and restores it around a call of a guest's function


class Registers:
    """The registers of ``hart``, by gdb's numbers."""

    def __init__(self, hart: Hart) -> None:
        self._hart = hart
        cpu = [self._word(name, words.GPR + i) for i, name in enumerate(words.ABI_NAMES)]
        cpu.append(_Register("pc", 8, "code_ptr", lambda: hart.pc, self._write_pc))
        fpu = [
            self._word(name, words.FPR + i, "riscv_double")
            for i, name in enumerate(words.FPR_ABI_NAMES)
        ]
        fpu += [self._csr(name, number, 4) for number, name in CSR.FP_CSRS.items()]
        csrs = sorted(CSR.NAMES.items())
        csr = [self._csr(name, number) for number, name in csrs if self._has(number)]
        virtual = [_Register("priv", 8, "int", lambda: int(hart.priv), self._write_priv, False)]
        self._features = (("cpu", cpu), ("fpu", fpu), ("csr", csr), ("virtual", virtual))
        self._all = [register for _, group in self._features for register in group]
        self.numbers = {register.name: n for n, register in enumerate(self._all)}

    def size(self, number: int) -> int:
        """Bytes of a register. Raises IndexError where there is none of this number."""
        return self._all[number].size

    def read(self, number: int) -> bytes | None:
        """A register's bytes, None when it is out of reach. Raises IndexError."""
        register = self._all[number]
        value = register.read()
        return None if value is None else (value & _M64).to_bytes(8, "little")[: register.size]

    def write(self, number: int, data: bytes) -> None:
        """Raises IndexError, and ValueError for a wrong size or a value that is refused."""
        register = self._all[number]
        if len(data) != register.size:
            raise ValueError(f"{register.name} has {register.size} bytes, not {len(data)}")
        register.write(int.from_bytes(data, "little"))

    def xml(self) -> str:
        """The target description."""
        parts = [
            '<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd">'
            '<target version="1.0"><architecture>riscv:rv64</architecture>'
        ]
        for feature, group in self._features:
            parts.append(f'<feature name="org.gnu.gdb.riscv.{feature}">')
            if feature == "fpu":
                parts.append(_DOUBLE)
            parts += (
                f'<reg name="{r.name}" bitsize="{r.size * 8}" type="{r.type}" '
                f'regnum="{self.numbers[r.name]}"{"" if r.saved else " save-restore=" + _NO}/>'
                for r in group
            )
            parts.append("</feature>")
        return "".join((*parts, "</target>"))

    # kinds of registers

    def _word(self, name: str, index: int, type: str = "") -> _Register:
        w = self._hart.words

        def write(value: int) -> None:
            if index != words.GPR:  # x0 stays zero
                w[index] = value

        return _Register(name, 8, type or _POINTERS.get(name, "int"), lambda: w[index], write)

    def _csr(self, name: str, number: int, size: int = 8) -> _Register:
        def read() -> int | None:
            try:
                return self._hart.read_csr(number)
            except HartError:
                return None

        def write(value: int) -> None:
            CSR.write_csr(self._hart, number, value)

        return _Register(name, size, f"uint{size * 8}", read, write, False)

    def _has(self, number: int) -> bool:
        try:
            self._hart.read_csr(number)
        except HartError:
            return False
        return True

    def _write_pc(self, value: int) -> None:
        self._hart.words[words.PC] = value & ~1

    def _write_priv(self, value: int) -> None:
        if value not in (Priv.U, Priv.S, Priv.M):
            raise ValueError(f"there is no privilege level {value}")
        self._hart.words[words.PRIV] = value
        CSR.state_changed(self._hart)


_NO = '"no"'
