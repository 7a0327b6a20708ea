"""Just enough decoding of loads, stores and atomics to name the address that one touches.

The hart reports an access to a hole by its physical address only, and AMO and SC faults as
loads; the trap record needs the virtual address and the right cause. Encodings: the
unprivileged ISA manual 20240411, chapter 35 (opcode map) and section 27.8 (RVC).
"""

from __future__ import annotations

from collections.abc import Sequence

_LOAD, _LOAD_FP, _STORE, _STORE_FP, _AMO = 0x03, 0x07, 0x23, 0x27, 0x2F
_LR_FUNCT5 = 0b00010
_M64 = (1 << 64) - 1


def length(bits: int) -> int:
    """Bytes of the instruction whose first 16 bits are ``bits`` (2 or 4)."""
    return 4 if bits & 3 == 3 else 2


def is_store_or_amo(bits: int) -> bool:
    """Whether a 32-bit atomic must fault as store/AMO: any AMO or SC, but not LR."""
    return bits & 0x7F == _AMO and bits >> 27 != _LR_FUNCT5


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) & 1 else value


def _field(bits: int, *places: tuple[int, int, int]) -> int:
    """Gather an immediate: each place is (lowest source bit, width, lowest target bit)."""
    return sum((bits >> src & ((1 << width) - 1)) << dst for src, width, dst in places)


def effective_address(bits: int, gpr: Sequence[int]) -> int | None:
    """The VA that a load, store or atomic with the encoding ``bits`` touches.

    ``gpr`` holds x0 to x31. None for an instruction that touches no data.
    """
    if bits & 3 == 3:
        opcode = bits & 0x7F
        base = gpr[bits >> 15 & 31]
        if opcode in (_LOAD, _LOAD_FP):
            return (base + _signed(bits >> 20 & 0xFFF, 12)) & _M64
        if opcode in (_STORE, _STORE_FP):
            offset = _signed(_field(bits, (7, 5, 0), (25, 7, 5)), 12)
            return (base + offset) & _M64
        return base if opcode == _AMO else None
    quadrant, funct3 = bits & 3, bits >> 13 & 7
    if quadrant == 0 and funct3 in (1, 2, 3, 5, 6, 7):  # c.fld c.lw c.ld c.fsd c.sw c.sd
        base = gpr[8 + (bits >> 7 & 7)]
        if funct3 in (2, 6):
            return (base + _field(bits, (6, 1, 2), (10, 3, 3), (5, 1, 6))) & _M64
        return (base + _field(bits, (10, 3, 3), (5, 2, 6))) & _M64
    if quadrant == 2:
        sp = gpr[2]
        if funct3 == 2:  # c.lwsp
            return (sp + _field(bits, (4, 3, 2), (12, 1, 5), (2, 2, 6))) & _M64
        if funct3 in (1, 3):  # c.fldsp c.ldsp
            return (sp + _field(bits, (5, 2, 3), (12, 1, 5), (2, 3, 6))) & _M64
        if funct3 == 6:  # c.swsp
            return (sp + _field(bits, (9, 4, 2), (7, 2, 6))) & _M64
        if funct3 in (5, 7):  # c.fsdsp c.sdsp
            return (sp + _field(bits, (10, 3, 3), (7, 3, 6))) & _M64
    return None
