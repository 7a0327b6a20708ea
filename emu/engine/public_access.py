"""The hart's state by public functions only: a ``uc_context``, saved and restored."""

from __future__ import annotations

import ctypes as C
import mmap
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import unicorn.riscv_const as rc
import unicorn.unicorn_const as ucc
from unicorn.unicorn_py3.unicorn import Uc, UcError

from emu.engine.access import CsrRead, CsrWrite
from emu.engine.calls import library
from emu.engine.mmu import Mmu
from emu.engine.state_words import check_words, context_words, words_at
from emu.spec import words as W

# CSRs that are in no word, and that the public interface knows as registers.
_CSR_REGISTERS = {
    0x003: rc.UC_RISCV_REG_FCSR,
    0x106: rc.UC_RISCV_REG_SCOUNTEREN,
    0x140: rc.UC_RISCV_REG_SSCRATCH,
    0x306: rc.UC_RISCV_REG_MCOUNTEREN,
    0x340: rc.UC_RISCV_REG_MSCRATCH,
}


class PublicAccess:
    """The hart's state as a ``uc_context``: public functions only."""

    name = "public"
    in_place = False
    by_host = True  # no override is ever called by an instruction
    missing: tuple[str, ...] = (
        "satp writes that change only the root or the mode do not flush the TLB",
        "sstatus.UXL reads 0, mstatus.TW and TSR are at bits 29 and 30, SD does not follow FS",
        "a write of sie changes what mideleg does not delegate, and mideleg, medeleg, mie and "
        "mstatus hold bits of the hypervisor extension",
        "with MPRV set, an M-mode load and a fetch may use each other's translation",
        "mepc and sepc read as they were written, bit 0 too",
        "mcycle and minstret are read-only",
        "mcounteren and scounteren do not gate time and stimecmp",
        "mip as the guest reads it does not show what devices have pending",
        "a snapshot does not hold the PMP registers, mcycle and minstret",
        "a stop from outside can make an AMO or a device access run twice",
    )

    def __init__(self, uc: Uc) -> None:
        self._uc = uc
        # Around each load and store, and called at its end: for what the guest writes and nobody
        # sees.
        self.lock: AbstractContextManager[object] = nullcontext()
        self.on_load: Callable[[], None] = lambda: None
        self.on_store: Callable[[], None] = lambda: None
        self._context = C.c_void_p()
        status = library.uc_context_alloc(uc._uch, C.byref(self._context))
        if status or not self._context.value:
            raise UcError(status)
        self.words = words_at(self._context.value + context_words(uc))
        check_words(uc, self.words, self.load)

    def load(self) -> None:
        with self.lock:
            library.uc_context_save(self._uc._uch, self._context)
            self.on_load()

    def store(self) -> None:
        with self.lock:
            library.uc_context_restore(self._uc._uch, self._context)
            self.on_store()

    def flush_tlb(self) -> None:
        self._uc.ctl(ucc.UC_CTL_TLB_FLUSH, ucc.UC_CTL_IO_WRITE)

    def flush_code(self) -> None:
        self._uc.ctl_flush_tb()

    def obey_count(self, on: bool) -> None:
        self.flush_code()

    def deny_memory(self, on: bool) -> None:
        pass  # here the engine stops behind the access itself

    def present_interrupts(self, mip: int) -> None:
        """Let the guest read these bits of ``mip``; `emu.hart` delivers them."""
        self.words[W.MIP] = mip

    def override_csr(self, csr: int, read: CsrRead | None, write: CsrWrite | None) -> None:
        pass  # `missing` says what follows from that

    def physical(self, va: int) -> int | None:
        return None

    def drop_code(self, offset: int, size: int) -> None:
        self.flush_code()

    def walk_by(self, mmu: Mmu) -> None:
        pass  # the engine's own walk goes on; `missing` says what follows

    def speed_bare_stores(self) -> None:
        pass

    def new_block_hook(
        self, base: int, seen: mmap.mmap, chunk_shift: int, unseen: Any
    ) -> tuple[Any, int | None]:
        return unseen, None

    def reset_pmp(self) -> None:
        pass  # out of reach

    def csr(self, csr: int, value: int | None = None) -> int | None:
        register = _CSR_REGISTERS.get(csr)
        if register is None:
            return None
        w = self.words
        before = w[W.PRIV], w[W.MSTATUS]
        # At a lower privilege, or of an FPU that is off, the engine silently gives nothing.
        w[W.PRIV], w[W.MSTATUS] = 3, w[W.MSTATUS] | 3 << 13
        self.store()
        old = int(self._uc.reg_read(register))
        if value is not None:
            self._uc.reg_write(register, value)
        self.load()
        w[W.PRIV], w[W.MSTATUS] = before
        self.store()
        return old
