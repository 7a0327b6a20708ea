"""Random page tables: roots and tables in RAM, in devices' registers, in holes, beyond all."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from asm import assemble
from hostile_kit import (
    ANY,
    CLINT,
    FINISHER,
    HOLE,
    PLIC,
    RAM,
    RAM_SIZE,
    SAY_ALL_DONE,
    SCRATCH,
    UART,
    VIRTIO,
    Cli,
    Host,
)


@pytest.fixture
def host(tmp_path: Path, pagewalk: Cli) -> Host:
    return Host(tmp_path, pagewalk)


# M-mode. s0: items of (satp, VA, whether to fetch there). The VA is accessed by MPRV as S-mode
# would, or S-mode is entered there until a trap or the timer brings the hart back.
WALK_GUEST = f"""
    la t0, handler
    csrw mtvec, t0
    la s0, items
    call registers
    li t0, 0x80
    csrw mie, t0
1:  bgeu s0, s1, 9f
    ld t0, 0(s0)
    csrw satp, t0
    ld a0, 8(s0)
    ld a1, 16(s0)
    addi s0, s0, 24
    csrw medeleg, zero
    bnez a1, 3f
    li t0, 0x20800
    csrs mstatus, t0
.option push
.option norvc
    ld a2, 0(a0)
    sd a2, 0(a0)
    lbu a2, 0(a0)
    amoor.w a2, zero, (a0)
    lr.d a2, (a0)
    sfence.vma
    ld a2, 0(a0)
.option pop
    li t0, 0x20000
    csrc mstatus, t0
    j 1b
3:  ld t0, 0(s2)
    addi t0, t0, 2000
    sd t0, 0(s3)
    li t0, 0x1800
    csrc mstatus, t0
    li t0, 0x800
    csrs mstatus, t0
    csrw mepc, a0
    csrw mscratch, s0
    la t0, handler_of_s
    csrw mtvec, t0
    mret
.balign 4
handler_of_s:
    la t0, handler
    csrw mtvec, t0
    csrr s0, mscratch
    call registers
    li t0, -1
    sd t0, 0(s3)
    j 1b
registers:
    ld s1, count
    li t0, 24
    mul s1, s1, t0
    la t0, items
    add s1, s1, t0
    li s2, 0x200bff8
    li s3, 0x2004000
    ret
.balign 4
handler:
    csrr t0, mepc
    addi t0, t0, 4
    csrw mepc, t0
    li t0, 0x1800
    csrs mstatus, t0
    mret
9:  {SAY_ALL_DONE}
count: .dword 0
items:
"""
TABLE_PAGES = 64  # at SCRATCH, filled with PTEs at random


def random_pte(rng: random.Random) -> int:
    kind = rng.randrange(10)
    target = rng.choice((
        *[SCRATCH + 4096 * rng.randrange(TABLE_PAGES)] * 6, SCRATCH + (1 << 20), UART, CLINT,
        VIRTIO[7], PLIC + 0x20_0000, 0x1000, 0, HOLE, RAM + RAM_SIZE, RAM + RAM_SIZE - 4096,
        1 << 55, (1 << 56) - 4096,
    ))  # fmt: skip
    pte = target >> 12 << 10
    if kind < 4:
        pte |= 1  # a pointer
    elif kind < 8:
        permissions = rng.choice((0x2, 0x6, 0x8, 0xA, 0xE, 0x4, 0xC))
        pte |= 1 | permissions | rng.choice((0, 0x10, 0xC0, 0xD0))
    else:
        pte |= rng.getrandbits(10)
    if rng.randrange(12) == 0:
        pte |= rng.getrandbits(10) << 54
    return pte


def random_walk(rng: random.Random, roots: list[int]) -> tuple[int, int]:
    """satp and VA."""
    mode = rng.choice((8, 8, 8, 9, 9, 10, 0, 1, 7, 11, 15))
    satp = mode << 60 | rng.getrandbits(16) << 44 | rng.choice(roots) >> 12
    va = rng.choice((
        rng.getrandbits(39), rng.getrandbits(48), rng.getrandbits(64), rng.getrandbits(30),
        rng.getrandbits(38) | -1 << 38, rng.getrandbits(12) | 0xFFF << 12,
    ))  # fmt: skip
    if rng.randrange(4):
        va &= ~7
    return satp, va & (1 << 64) - 1


def walk_guest(rng: random.Random, count: int, fetches: bool) -> bytes:
    roots = [SCRATCH + 4096 * i for i in range(TABLE_PAGES)] * 2
    roots += [UART, CLINT, 0x200B000, PLIC, VIRTIO[7], FINISHER, 0x1000, 0, HOLE, RAM + RAM_SIZE]
    roots += [(1 << 56) - 4096]
    items = (struct.pack("<QQQ", *random_walk(rng, roots), fetches) for _ in range(count))
    guest = assemble(WALK_GUEST, RAM)[:-8] + struct.pack("<Q", count) + b"".join(items)
    assert len(guest) <= SCRATCH - RAM
    tables = struct.pack(
        f"<{512 * TABLE_PAGES}Q", *(random_pte(rng) for _ in range(512 * TABLE_PAGES))
    )
    guest = guest.ljust(SCRATCH - RAM, b"\0") + tables
    # What leaves may map, for fetches: anything.
    return guest.ljust(SCRATCH - RAM + (1 << 20), b"\0") + rng.randbytes(1 << 16)


@pytest.mark.parametrize("more", ["", "--deterministic", "--hart public"])
def test_random_page_tables(host: Host, more: str) -> None:
    guest = walk_guest(random.Random(more), 4000, fetches=False)
    host.run_apart(guest, *more.split(), bios=True).check_all_done()


@pytest.mark.parametrize("seed", range(8))
def test_fetches_through_random_page_tables(host: Host, seed: int) -> None:
    """What is executed there may do anything, also end the machine."""
    more = ((), ("--deterministic",), ("--hart", "public"))[seed % 3]
    guest = walk_guest(random.Random(seed), 300, fetches=True)
    host.run(guest, "--timeout", "3", *more, bios=True).check(*ANY)
