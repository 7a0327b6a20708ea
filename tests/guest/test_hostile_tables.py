"""Random page tables: roots and tables in RAM, in devices' registers, in holes, beyond all."""

from __future__ import annotations

import random
import struct

import pytest
from asm import assemble
from hostile_kit import (
    ALL_DONE,
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
    Host,
)

# M-mode. s0: items of (satp, VA, whether to fetch there). The VA is accessed by MPRV as S-mode
# would, or S-mode is entered there until a trap or the timer brings the hart back. `through`
# counts those of which all accesses succeed, and those that executed something; at the end a
# `+` is printed for each.
WALK_GUEST = f"""
    la t0, handler
    csrw mtvec, t0
    li t0, -1
    csrw pmpaddr0, t0
    li t0, 0x1f
    csrw pmpcfg0, t0
    la s0, items
    call registers
    li t0, 0x80
    csrw mie, t0
    li t0, 0x6000    # the FPU is on
    csrs mstatus, t0
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
    li s4, 0
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
    bnez s4, 1b
    call count_it
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
    csrr t0, mcause
    li t1, 1
    beq t0, t1, 1b
    li t1, 12
    beq t0, t1, 1b
    call count_it
    j 1b
count_it:
    la t0, through
    ld t1, 0(t0)
    addi t1, t1, 1
    sd t1, 0(t0)
    ret
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
    li s4, 1
    mret
9:  li t0, 0x10000000
    li t1, '+'
    sb zero, 3(t0)
    sb zero, 4(t0)
    ld t2, through
    j 8f
7:  sb t1, 0(t0)
    addi t2, t2, -1
8:  bnez t2, 7b
    {SAY_ALL_DONE}
through: .dword 0
count: .dword 0
items:
"""
TABLE_PAGES = 64  # at SCRATCH, filled with PTEs at random
CODE, CODE_PAGES = SCRATCH + (1 << 20), 16  # and these with instructions


LEVELS = {8: 3, 9: 4, 10: 5}  # by satp's mode
V, R, W, X, U = 1, 2, 4, 8, 0x10  # bits of a PTE


def random_pte(rng: random.Random) -> int:
    kind = rng.randrange(10)
    table = SCRATCH + 4096 * rng.randrange(TABLE_PAGES)
    code = CODE + 4096 * rng.randrange(CODE_PAGES)
    target = rng.choice((
        *[code if 4 <= kind < 8 else table] * 6, table, SCRATCH, UART, CLINT, VIRTIO[7],
        PLIC + 0x20_0000, 0x1000, 0, HOLE, RAM + RAM_SIZE, RAM + RAM_SIZE - 4096, 1 << 55,
        (1 << 56) - 4096,
    ))  # fmt: skip
    pte = target >> 12 << 10
    if kind < 4:
        pte |= V  # a pointer
    elif kind < 8:
        pte |= V | rng.choice((R, R | W, X, R | X, R | W | X, W, W | X))
        pte |= rng.choice((0, U, 0xC0, U | 0xC0))  # A and D
    else:
        pte |= rng.getrandbits(10)
    if rng.randrange(12) == 0:
        pte |= rng.getrandbits(10) << 54
    return pte


class Tables:
    """``TABLE_PAGES`` of random PTEs, and ways through them."""

    def __init__(self, rng: random.Random, allows: int) -> None:
        self._rng = rng
        self._allows = allows  # bits of the leaves that are looked for
        self.ptes = [random_pte(rng) for _ in range(512 * TABLE_PAGES)]
        self._seen: dict[tuple[int, int], list[int]] = {}

    def _useful(self, pa: int, level: int) -> list[int]:
        """Of the table at ``pa``: pointers to other tables, and leaves that map RAM."""
        first = (pa - SCRATCH) // 8
        found = []
        for i, pte in enumerate(self.ptes[first : first + 512]):
            target = pte << 2 & -4096
            if pte >> 54:
                continue  # reserved bits
            if pte & 0xF == V:
                if level and not pte & 0xD0 and 0 <= target - SCRATCH < 4096 * TABLE_PAGES:
                    found.append(i)
            elif (
                pte & (V | U | self._allows) == V | self._allows
                and not target >> 12 & (1 << 9 * level) - 1
                and RAM <= target < RAM + RAM_SIZE
            ):
                found.append(i)
        return found

    def mapped(self, satp: int) -> int:
        """A VA that ``satp`` is likely to map to RAM."""
        levels, pa, va = LEVELS[satp >> 60], satp << 12 & (1 << 56) - 1, 0
        for level in reversed(range(levels)):
            if (pa, level) not in self._seen:
                self._seen[pa, level] = self._useful(pa, level)
            index = self._rng.choice(self._seen[pa, level] or [0])
            va |= index << 12 + 9 * level
            pte = self.ptes[(pa - SCRATCH) // 8 + index]
            pa = pte << 2 & -4096
            if pte & 0xF != V or not 0 <= pa - SCRATCH < 4096 * TABLE_PAGES:
                break
        top = 12 + 9 * levels
        return va | -(va >> top - 1) << top | 8 * self._rng.randrange(512)


def random_walk(rng: random.Random, tables: Tables, guided: float) -> tuple[int, int]:
    """satp and VA; ``guided``: the part of them that is likely to reach RAM."""
    if rng.random() < guided:
        root = SCRATCH + 4096 * rng.randrange(TABLE_PAGES)
        satp = rng.choice((8, 8, 9, 10)) << 60 | rng.getrandbits(16) << 44 | root >> 12
        return satp, tables.mapped(satp) & (1 << 64) - 1
    root = rng.choice((
        *[SCRATCH + 4096 * rng.randrange(TABLE_PAGES)] * 8, UART, CLINT, 0x200_B000, PLIC,
        VIRTIO[7], FINISHER, 0x1000, 0, HOLE, RAM + RAM_SIZE, (1 << 56) - 4096,
    ))  # fmt: skip
    mode = rng.choice((8, 8, 8, 9, 9, 10, 0, 1, 7, 11, 15))
    satp = mode << 60 | rng.getrandbits(16) << 44 | root >> 12
    va = rng.choice((
        rng.getrandbits(39), rng.getrandbits(48), rng.getrandbits(64), rng.getrandbits(30),
        rng.getrandbits(38) | -1 << 38, rng.getrandbits(12) | 0xFFF << 12,
    ))  # fmt: skip
    if rng.randrange(4):
        va &= ~7
    return satp, va & (1 << 64) - 1


S_CSRS = (
    0x001, 0x002, 0x003, 0x100, 0x104, 0x105, 0x106, 0x140, 0x141, 0x142, 0x143, 0x144, 0x180,
    0x300, 0x302, 0xC00, 0xC01, 0xC02,
)  # fmt: skip
# Instructions, and which of their bits are free.
_ALL, _NO_FUNCT3, _REGISTERS = 0xFFFF_FF80, 0xFFFF_8F80, 0x01FF_FF80
FORMS = [
    *((opcode, _ALL) for opcode in (0x03, 0x13, 0x17, 0x1B, 0x23, 0x37, 0x43, 0x53, 0x63, 0x6F)),
    *((opcode | 3 << 12, _NO_FUNCT3) for opcode in (0x03, 0x07, 0x23, 0x27)),
    *((funct << 25 | opcode, _REGISTERS) for funct in (0, 1, 0x20) for opcode in (0x33, 0x3B)),
    *((funct << 27 | 0x202F, 0x07FF_9F80) for funct in (0, 1, 2, 3, 4, 8, 12, 16, 20, 24, 28)),
    (0x67, _NO_FUNCT3),
    *((csr << 20 | 0x73, 0x000F_FF80) for csr in S_CSRS),
    # ecall, ebreak, sret, mret, wfi, fence, fence.i
    *((word, 0) for word in (0x73, 0x10_0073, 0x1020_0073, 0x3020_0073, 0x1050_0073, 0xF, 0x100F)),
    (0x1200_0073, 0x01FF_8000),  # sfence.vma
    (0, (1 << 32) - 1),
]  # fmt: skip


def random_code(rng: random.Random, count: int) -> bytes:
    """Instructions of all kinds, with random operands."""
    forms = (rng.choice(FORMS) for _ in range(count))
    words = [fixed | rng.getrandbits(32) & free for fixed, free in forms]
    return struct.pack(f"<{count}I", *words)


def walk_guest(rng: random.Random, count: int, fetches: bool) -> bytes:
    tables = Tables(rng, X if fetches else R | W)
    guided = 0.9 if fetches else 0.5
    items = [struct.pack("<QQQ", *random_walk(rng, tables, guided), fetches) for _ in range(count)]
    guest = assemble(WALK_GUEST, RAM)[:-8] + struct.pack("<Q", count) + b"".join(items)
    assert len(guest) <= SCRATCH - RAM
    guest = guest.ljust(SCRATCH - RAM, b"\0") + struct.pack(f"<{len(tables.ptes)}Q", *tables.ptes)
    return guest.ljust(CODE - RAM, b"\0") + random_code(rng, CODE_PAGES * 1024)


@pytest.mark.parametrize("more", ["", "--deterministic", "--hart public"])
def test_random_page_tables(host: Host, more: str) -> None:
    guest = walk_guest(random.Random(more), 4000, fetches=False)
    ended = host.run_apart(guest, *more.split(), bios=True)
    ended.check_all_done()
    assert ended.out.count(b"+") > 500


@pytest.mark.parametrize("seed", range(8))
def test_fetches_through_random_page_tables(host: Host, seed: int) -> None:
    """What is executed there may do anything, also end the machine."""
    more = ((), ("--deterministic",), ("--hart", "public"))[seed % 3]
    guest = walk_guest(random.Random(seed), 1000, fetches=True)
    ended = host.run(guest, "--timeout", "3", *more, bios=True)
    ended.check(*ANY)
    if ended.out.endswith(ALL_DONE):
        assert ended.out.count(b"+") > 500
