"""The legacy extensions (SBI 2.0, chapter 5): one function each, the result in a0 alone."""

from __future__ import annotations

from collections.abc import Callable

from emu.hart import Hart
from emu.spec import words as W
from emu.spec.csr import IRQ_SSI
from emu.spec.paging import PAGE_SIZE
from emu.spec.trap import Cause, Trap
from emu.spec.walk import Access, Refusal
from emu.stop import Stop, StopReason
from firmware.sbi.harts import Harts
from firmware.sbi.numbers import SUCCESS
from firmware.sbi.timer import Timer
from firmware.sbi.traps import redirect

LAST = 0xF  # the extensions up to this one are legacy's, 9 to 15 reserved
_M64 = (1 << 64) - 1
_MASK_SIZE = 8  # bytes: an unsigned long for each 64 harts, and there is one hart


class _Fault(Exception):
    """Memory of the caller that cannot be read: the cause, and the VA that refused."""

    def __init__(self, cause: int, va: int) -> None:
        super().__init__(f"{Cause(cause).name} at {va:#x}")
        self.cause = cause
        self.va = va


class Legacy:
    """``call`` answers one; ``numbers`` are those that are offered."""

    def __init__(
        self,
        hart: Hart,
        harts: Harts,
        timer: Timer | None,
        output: Callable[[bytes], None],
        read_byte: Callable[[], int | None],
    ) -> None:
        self._hart = hart
        self._output = output
        self._read_byte = read_byte
        w = hart.words

        def fence_vma() -> int:
            return harts.sfence_vma(*self._hart_list(), w[W.A1], w[W.A2])

        self._functions: dict[int, Callable[[], int | Stop]] = {
            1: self._putchar,
            2: self._getchar,
            3: self._clear_ipi,
            4: lambda: harts.send_ipi(*self._hart_list()),
            5: lambda: harts.fence_i(*self._hart_list()),
            6: fence_vma,
            7: fence_vma,
            8: lambda: Stop(StopReason.EXIT, 0, detail="SBI shutdown"),
        }
        if timer is not None:
            self._functions[0] = lambda: self._set_timer(timer)
        self.numbers = frozenset(self._functions)

    def call(self, trap: Trap) -> Stop | None:
        """Answer the call in a7, one of ``numbers``.

        "The page and access faults taken by the SBI implementation while accessing memory
        on behalf of the supervisor are redirected back to the supervisor with sepc CSR
        pointing to the faulting ECALL instruction."
        """
        w = self._hart.words
        try:
            result = self._functions[w[W.A7]]()
        except _Fault as fault:
            return redirect(self._hart, Trap(fault.cause, trap.epc, fault.va, trap.priv, 1))
        if isinstance(result, Stop):
            return result
        w[W.A0] = result & _M64
        return None

    def _set_timer(self, timer: Timer) -> int:
        timer.set(self._hart.words[W.A0])
        return SUCCESS

    def _putchar(self) -> int:
        self._output(bytes((self._hart.words[W.A0] & 0xFF,)))
        return SUCCESS

    def _getchar(self) -> int:
        byte = self._read_byte()
        return -1 if byte is None else byte

    def _clear_ipi(self) -> int:
        """Whether one was pending."""
        return self._hart.interrupts.write(1 << IRQ_SSI, 0) >> IRQ_SSI & 1

    def _hart_list(self) -> tuple[int, int]:
        """``(hart_mask, hart_mask_base)`` of the mask whose VA is in a0. Raises _Fault.

        No mask at all is every hart: OpenSBI and its callers have it so.
        """
        va = self._hart.words[W.A0]
        if not va:
            return 0, _M64
        return int.from_bytes(self._load(va, _MASK_SIZE), "little"), 0

    def _load(self, va: int, size: int) -> bytes:
        """What the caller, who stands where the hart stands, would load. Raises _Fault."""
        hart = self._hart
        inside = min(size, PAGE_SIZE - va % PAGE_SIZE)
        found = hart.walk(va, Access.READ)
        if isinstance(found, Refusal):
            raise _Fault(found.cause, va)
        pa = va if found is None else found.pa
        if not hart.ram.contains(pa, inside):
            raise _Fault(Cause.LOAD_ACCESS_FAULT, va)
        data = hart.ram.read(pa, inside)
        if inside < size:
            data += self._load((va + inside) & _M64, size - inside)
        return data
