"""The hart's state as an array of words, and the proof that each word is where it should be."""

from __future__ import annotations

import ctypes as C
from collections.abc import Callable

import unicorn.riscv_const as rc
from unicorn.unicorn_py3.unicorn import Uc

from emu.engine.calls import EngineError, library
from emu.spec import words as W


def words_at(address: int) -> memoryview:
    return memoryview((C.c_uint64 * W.COUNT).from_address(address)).cast("B").cast("Q")


# Registers whose word is checked through the public interface: (register, word, probe).
_PROBES: list[tuple[int, int, int]] = [
    *((rc.UC_RISCV_REG_X0 + i, W.GPR + i, 0x5A5A_0000_1234_0000 + i) for i in range(1, 32)),
    *((rc.UC_RISCV_REG_F0 + i, W.FPR + i, 0x3FF0_0000_4321_0000 + i) for i in range(32)),
    (rc.UC_RISCV_REG_PC, W.PC, 0x8765_4320),
    (rc.UC_RISCV_REG_MEDELEG, W.MEDELEG, 0x101),
    (rc.UC_RISCV_REG_MIDELEG, W.MIDELEG, 0x202),
    (rc.UC_RISCV_REG_MIE, W.MIE, 0x020),
    (rc.UC_RISCV_REG_SATP, W.SATP, 8 << 60 | 0x80123),
    (rc.UC_RISCV_REG_STVAL, W.STVAL, 0x1111_2222_3333),
    (rc.UC_RISCV_REG_MTVAL, W.MTVAL, 0x2222_3333_4444),
    (rc.UC_RISCV_REG_STVEC, W.STVEC, 0x8000_1000),
    (rc.UC_RISCV_REG_SEPC, W.SEPC, 0x8000_2000),
    (rc.UC_RISCV_REG_SCAUSE, W.SCAUSE, 0xD),
    (rc.UC_RISCV_REG_MTVEC, W.MTVEC, 0x8000_3000),
    (rc.UC_RISCV_REG_MEPC, W.MEPC, 0x8000_4000),
    (rc.UC_RISCV_REG_MCAUSE, W.MCAUSE, 0xB),
]


def check_words(uc: Uc, words: memoryview, refresh: Callable[[], None]) -> None:
    """Write registers through the API, read them in ``words``; raise EngineError.

    The engine is fresh: the probes are taken back to zero afterwards.
    """
    batch = [(register, probe) for register, _, probe in _PROBES]
    uc.reg_write_batch(batch)
    refresh()
    wrong = [word for _, word, probe in _PROBES if words[word] != probe]
    uc.reg_write_batch([(register, 0) for register, _, _ in _PROBES])
    refresh()
    if wrong or words[W.PRIV] != 3:
        raise EngineError(f"state words {wrong or [W.PRIV]} are not where they should be")


def context_words(uc: Uc) -> int:
    """Where in a ``uc_context`` the words are (bytes); the engine is fresh.

    Raises EngineError when they are not found.
    """
    probes = [(register, probe) for register, word, probe in _PROBES if word < W.FPR]
    pattern = b"".join(probe.to_bytes(8, "little") for _, probe in probes)
    context = C.c_void_p()
    if library.uc_context_alloc(uc._uch, C.byref(context)) or not context.value:
        raise EngineError("no context can be had")
    uc.reg_write_batch(probes)
    library.uc_context_save(uc._uch, context)
    data = C.string_at(context.value, library.uc_context_size(uc._uch))
    library.uc_context_free(context)
    uc.reg_write_batch([(register, 0) for register, _ in probes])
    found = data.find(pattern)  # from x1 on
    if found < 8 * (W.GPR + 1) or len(data) < found + 8 * (W.COUNT - 1):
        raise EngineError("the registers are not found in a context")
    return found - 8 * (W.GPR + 1)
