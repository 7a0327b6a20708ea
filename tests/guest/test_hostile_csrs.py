"""Random writes to every CSR, in M-mode."""

from __future__ import annotations

import random
import struct

import pytest
from asm import assemble
from hostile_kit import ANY, RAM, SAY_ALL_DONE, START, Host

# M-mode. The writes stand behind it, and behind them the values, which s0 goes through. What
# is harmless goes on at s4; all that may be written over is found again in s2 and s3.
CSR_GUEST = f"""
    la s2, handler
    csrw mtvec, s2
    csrr s3, mstatus
    la s4, end
    la s0, values_at
    ld t0, 0(s0)
    add s0, s0, t0
    j writes
end:
    {SAY_ALL_DONE}
.balign 4
handler:
    csrr t0, mcause
    bltz t0, 4f
    csrr t0, mepc
    addi t0, t0, 4
    csrw mepc, t0
4:  csrw mie, zero
    csrw mstatus, s3
    li t0, 0x1800
    csrs mstatus, t0
    mret
.balign 8
values_at: .dword 0
writes:
"""
NAMED_CSRS = [
    0x001, 0x002, 0x003, 0x100, 0x104, 0x105, 0x106, 0x10A, 0x140, 0x141, 0x142, 0x143, 0x144,
    0x180, 0x300, 0x301, 0x302, 0x303, 0x304, 0x305, 0x306, 0x30A, 0x320, 0x323, 0x340, 0x341,
    0x342, 0x343, 0x344, *range(0x3A0, 0x3A4), *range(0x3B0, 0x3C0), 0x600, 0x680, 0x7A0, 0x7A1,
    0x7A2, 0x7A3, 0x7B0, 0xB00, 0xB02, 0xB03, 0xC00, 0xC01, 0xC02, 0xF11, 0xF12, 0xF13, 0xF14,
]  # fmt: skip
MSTATUS, MISA, MIE, MTVEC = 0x300, 0x301, 0x304, 0x305
PMP_CONFIGS = range(0x3A0, 0x3A4)
A1, A2, S0, S2, S3, S4 = 11, 12, 8, 18, 19, 20


def csr_instruction(kind: int, csr: int, rd: int, rs1: int) -> int:
    """``kind``: 1 csrrw, 2 csrrs, 3 csrrc, and with 4 more their immediate forms."""
    return csr << 20 | rs1 << 15 | kind << 12 | rd << 7 | 0x73


def csr_guest(rng: random.Random, count: int, is_wild: bool) -> bytes:
    """Code that writes ``count`` CSRs; unless wild it puts back after each what it stands on."""
    words = []
    values = []
    for _ in range(count):
        csr = rng.choice(NAMED_CSRS) if rng.random() < 0.9 else rng.randrange(4096)
        stored = rng.choice((
            0, 1, 2, 3, (1 << 64) - 1, rng.getrandbits(64), rng.getrandbits(12),
            1 << rng.randrange(64), rng.randrange(16) << 60 | rng.getrandbits(44), RAM, START,
        ))  # fmt: skip
        kind = rng.choice((1, 1, 2, 3))
        if is_wild:
            kind += 4 * (rng.randrange(8) == 0)
        elif csr in PMP_CONFIGS:
            stored &= 0x7F7F_7F7F_7F7F_7F7F  # a lock would hold for M-mode itself
        elif csr == MISA:
            # Without C our own code would be misaligned.
            stored = stored & ~4 if kind == 3 else stored | 4
        words += [
            S0 << 15 | 3 << 12 | A1 << 7 | 0x03,  # ld a1, 0(s0)
            8 << 20 | S0 << 15 | S0 << 7 | 0x13,  # addi s0, s0, 8
            csr_instruction(kind, csr, A2, A1),
        ]
        if not is_wild:
            words.append(csr_instruction(1, MTVEC, 0, S2))
            words.append(csr_instruction(1, MSTATUS, 0, S3))
            words.append(csr_instruction(1, MIE, 0, 0))
        values.append(stored)
    words.append(S4 << 15 | 0x67)  # jr s4
    words += [0x13] * (len(words) % 2)  # the values are aligned
    code = assemble(CSR_GUEST, RAM)
    return (
        code[:-8]
        + struct.pack("<Q", 8 + 4 * len(words))
        + struct.pack(f"<{len(words)}I", *words)
        + struct.pack(f"<{count}Q", *values)
    )


@pytest.mark.parametrize(("access", "count"), [("inside", 20_000), ("public", 5000)])
def test_random_csr_writes(host: Host, access: str, count: int) -> None:
    """Any value to any CSR: nothing but the guest's own memory map is harmed."""
    code = csr_guest(random.Random(access), count, is_wild=False)
    ended = host.run_apart(code, "--hart", access, bios=True)
    ended.check(0)
    assert ended.out == b"<all done>"


@pytest.mark.parametrize("seed", range(8))
def test_csr_writes_that_put_nothing_back(host: Host, seed: int) -> None:
    """Vectors, PMP locks and MPRV among them: the guest may end as it has earned."""
    more = ((), ("--deterministic",), ("--hart", "public"))[seed % 3]
    code = csr_guest(random.Random(seed), 300, is_wild=True)
    host.run(code, "--timeout", "0.3", *more, bios=True).check(*ANY)
