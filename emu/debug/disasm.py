"""Disassembly, by capstone (imported when it is first needed: a run without faults does not)."""

from __future__ import annotations

from functools import cache
from typing import Any

from emu.spec import insn


@cache
def _engine() -> Any:
    import capstone

    mode = capstone.CS_MODE_RISCV64 | capstone.CS_MODE_RISCVC
    engine: Any = capstone.Cs  # its stubs are half typed
    return engine(capstone.CS_ARCH_RISCV, mode)


def listing(bits: int, va: int, name: str | None) -> str:
    """``va: bits  text  name``: one line of a listing."""
    size = insn.length(bits)
    shown = f"{bits:0{2 * size}x}"
    return f"{va:#x}: {shown:<10}{disassemble(bits, size, va):<32}{name or ''}".rstrip()


def disassemble(bits: int, size: int, va: int) -> str:
    """One instruction of ``size`` bytes (2 or 4) with the encoding ``bits`` at ``va``."""
    code = bits.to_bytes(size, "little")
    for found in _engine().disasm(code, va, 1):
        return f"{found.mnemonic} {found.op_str}".strip()
    return f".{'insn' if size == 4 else 'half'} {bits:#0{2 + 2 * size}x}"
