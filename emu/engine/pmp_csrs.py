"""The CSRs of the PMP, kept by `emu.engine.mmu` (section 3.7.1).

The engine's own have a granularity of a page, take no NA4, and do not know pmpcfg2's entries.
"""

from __future__ import annotations

from collections.abc import Callable

from emu.engine.access import CsrIllegal, StateAccess
from emu.engine.mmu import Mmu
from emu.spec.csr import PMPADDR0, PMPCFG0
from emu.spec.pmp import PMP_ENTRIES

_PMPCFGS, _PMPADDRS = 16, 64  # the numbers that the spec has for them
_PRESENT_CFGS = range(0, PMP_ENTRIES // 4, 2)  # RV64 has the even ones alone


def install(access: StateAccess, mmu: Mmu) -> None:
    """Let the PMP's CSRs be ``mmu``'s; those that are not there are illegal."""
    for register in range(_PMPCFGS):
        if mmu.extensions.pmp and register in _PRESENT_CFGS:
            _install_cfg(access, mmu, register)
        else:
            access.override_csr(PMPCFG0 + register, _absent_read, _absent_write)
    for entry in range(_PMPADDRS):
        if mmu.extensions.pmp and entry < PMP_ENTRIES:
            _install_addr(access, mmu, entry)
        else:
            access.override_csr(PMPADDR0 + entry, _absent_read, _absent_write)


def _install_cfg(access: StateAccess, mmu: Mmu, register: int) -> None:
    def write(value: int, _perform: Callable[[int], None]) -> None:
        mmu.write_pmpcfg(register, value)
        _forget(access)

    access.override_csr(PMPCFG0 + register, lambda _original: mmu.read_pmpcfg(register), write)


def _install_addr(access: StateAccess, mmu: Mmu, entry: int) -> None:
    def write(value: int, _perform: Callable[[int], None]) -> None:
        mmu.write_pmpaddr(entry, value)
        _forget(access)

    access.override_csr(PMPADDR0 + entry, lambda _original: mmu.pmp.addr[entry], write)


def _forget(access: StateAccess) -> None:
    """Blocks of code go from one to the next in their page without asking whether they may."""
    access.flush_tlb()
    access.flush_code()


def _absent_read(_original: Callable[[], int]) -> int:
    raise CsrIllegal


def _absent_write(_value: int, _perform: Callable[[int], None]) -> None:
    raise CsrIllegal
