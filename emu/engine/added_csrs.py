"""CSRs that the engine does not have, and whose values the machine keeps itself.

Inside, they are entered in the engine's own table. On the public way an access of one is an
illegal instruction to the engine, and it is done here: `AddedCsrs.execute`.

Source: privileged spec, section 2.1 (address ranges); unprivileged spec, chapter 6 (Zicsr).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emu.engine.access import CsrIllegal, StateAccess
from emu.spec import words as W

_OPCODE_SYSTEM = 0x73
_CSRRW, _CSRRS, _CSRRC = 1, 2, 3  # funct3; with bit 2 set the operand is an immediate
_READ_ONLY = 3  # bits 11-10 of a CSR's number
_M64 = (1 << 64) - 1


@dataclass(frozen=True)
class AddedCsr:
    """``check()`` raises CsrIllegal where the present level may not access it.

    The number's own limits (the lowest privilege, read-only) are looked at by who calls.
    """

    read: Callable[[], int]
    write: Callable[[int], None]
    check: Callable[[], None]


class AddedCsrs:
    """The added CSRs of one hart, whose state is in ``words``."""

    def __init__(self, access: StateAccess) -> None:
        self._access = access
        self._words = access.words
        self._csrs: dict[int, AddedCsr] = {}

    def add(
        self,
        number: int,
        read: Callable[[], int],
        write: Callable[[int], None] = lambda value: None,
        check: Callable[[], None] = lambda: None,
        in_c: bool = False,
    ) -> None:
        """Let the hart have CSR ``number``; ``in_c``: for instructions the C does it."""

        def checked_read(_original: Callable[[], int]) -> int:
            check()
            return read()

        def checked_write(value: int, _perform: Callable[[int], None]) -> None:
            check()
            write(value)

        self._csrs[number] = AddedCsr(read, write, check)
        if not in_c:
            self._access.override_csr(number, checked_read, checked_write)

    def get(self, number: int) -> AddedCsr | None:
        """CSR ``number`` as the host sees it, whatever the hart's privilege; None: not ours."""
        return self._csrs.get(number)

    def execute(self, bits: int) -> bool:
        """Do the CSR instruction ``bits`` at pc, all but moving pc on; False: it is illegal."""
        kind, number = bits >> 12 & 7, bits >> 20
        csr = self._csrs.get(number)
        if bits & 0x7F != _OPCODE_SYSTEM or not kind & 3 or csr is None:
            return False
        w = self._words
        source = bits >> 15 & 31
        writes = kind & 3 == _CSRRW or source != 0
        if number >> 8 & 3 > w[W.PRIV] or (writes and number >> 10 == _READ_ONLY):
            return False
        operand = source if kind & 4 else w[source]
        try:
            csr.check()
        except CsrIllegal:
            return False
        old = csr.read()
        if writes:
            new = {
                _CSRRW: operand,
                _CSRRS: old | operand,
                _CSRRC: old & ~operand,
            }[kind & 3]
            csr.write(new & _M64)
        if bits >> 7 & 31:
            w[bits >> 7 & 31] = old & _M64
        return True
