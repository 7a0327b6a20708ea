"""Random SBI calls, and those that end the machine."""

from __future__ import annotations

import random
import struct

import pytest
from asm import assemble
from hostile_kit import HOLE, RAM, RAM_SIZE, SCRATCH, SHUTDOWN, START, UART, Host

# S-mode. s0: (a7, a6, a0 ... a5). The result of a call that is not a legacy one must be an
# error of the spec's, 0 to -13: others are counted. All interrupts are on.
SBI_GUEST = """
    la t0, handler
    csrw stvec, t0
    la s0, calls
    ld s1, count
    slli s1, s1, 6
    add s1, s1, s0
    li s2, 0
    csrsi sstatus, 2
1:  bgeu s0, s1, 9f
    li t0, -1
    csrw sie, t0
    ld a7, 0(s0)
    ld a6, 8(s0)
    ld a0, 16(s0)
    ld a1, 24(s0)
    ld a2, 32(s0)
    ld a3, 40(s0)
    ld a4, 48(s0)
    ld a5, 56(s0)
    addi s0, s0, 64
    li t1, 15
    mv t0, a7
    ecall
    bleu t0, t1, 1b
    li t1, -13
    bgtz a0, 2f
    bge a0, t1, 1b
2:  addi s2, s2, 1
    j 1b
9:  la s3, word
3:  lbu a0, 0(s3)
    beqz a0, 4f
    li a7, 1
    ecall
    addi s3, s3, 1
    j 3b
4:  {shutdown}
5:  j 5b
.balign 4
handler:
    csrr t2, scause
    bltz t2, 6f
    csrr t2, sepc
    addi t2, t2, 4
    csrw sepc, t2
    sret
6:  csrw sie, zero
    sret
.balign 8
word: .asciz "<all done>"
.balign 8
count: .dword 0
calls:
""".format(shutdown=SHUTDOWN.format(failed="s2"))
EXTENSIONS = [0x10, 0x54494D45, 0x735049, 0x52464E43, 0x48534D, 0x53525354, 0x504D55, 0x4442434E,
              0x53555350, 0x43505043, 0x4E41434C, 0x535441, *range(16)]  # fmt: skip


def sbi_call(rng: random.Random) -> tuple[int, ...] | None:
    extension = rng.choice(EXTENSIONS)
    if rng.randrange(6) == 0:
        extension = rng.choice((rng.getrandbits(64), rng.getrandbits(32), rng.randrange(0x100)))
    function = rng.choice((0, 0, 1, 2, 3, 4, 5, 6, 7, 8, -1, rng.getrandbits(64)))
    arguments = [
        rng.choice((0, 0, 1, 2, 3, -1, rng.getrandbits(64), rng.getrandbits(12), START, SCRATCH + 5,
                    RAM + RAM_SIZE - 2, RAM + RAM_SIZE, HOLE, UART, 1 << 63, 1 << 55))
        for _ in range(6)
    ]  # fmt: skip
    if extension == 8:  # legacy shutdown
        return None
    if extension == 0x48534D and function == 1:  # stop
        return None
    if extension == 0x48534D and function == 3:  # a suspended hart might not wake
        arguments[0] = rng.choice((1, 0x0FFF_FFFF, 0x1000_0000, 0x8000_0001, 0xFFFF_FFFF))
    if extension == 0x53525354 and function == 0:
        arguments[0] = rng.choice((3, 0xEFFF_FFFF, 0xF000_0000, 0xFFFF_FFFF, 1 << 31))
    if extension == 0x4442434E and function in (0, 1):
        # A page at most that is there: more would only take its time, and read or write code.
        if arguments[1] == START or rng.randrange(3) == 0:
            arguments[1] = SCRATCH + rng.randrange(4096)
        if RAM <= arguments[1] < RAM + RAM_SIZE:
            arguments[0] = rng.choice((0, 1, 100, 4096, 1 << 40, -1))
    return (extension, function, *arguments)


def sbi_guest(rng: random.Random, count: int) -> bytes:
    calls: list[tuple[int, ...]] = []
    while len(calls) < count:
        if (call := sbi_call(rng)) is not None:
            calls.append(call)
    data = b"".join(struct.pack("<8Q", *(n & (1 << 64) - 1 for n in call)) for call in calls)
    guest = assemble(SBI_GUEST, START)[:-8] + struct.pack("<Q", count) + data
    assert START + len(guest) <= SCRATCH
    return guest


@pytest.mark.parametrize(
    ("more", "count"), [("", 40_000), ("--deterministic", 10_000), ("--hart public", 10_000)]
)
def test_random_sbi_calls(host: Host, more: str, count: int) -> None:
    run = host.run if more else host.run_apart
    ended = run(sbi_guest(random.Random(more), count), *more.split())
    ended.check_all_done()
    assert b"SBI system reset: shutdown" in ended.error


@pytest.mark.parametrize(
    ("call", "status", "said"),
    [
        ("li a7, 8", 0, b"SBI shutdown"),
        ("li a7, 0x48534D\nli a6, 1", 0, b"the only hart has stopped"),
        ("li a7, 0x53525354\nli a6, 0\nli a0, 0\nli a1, 1", 1, b"SBI system reset: shutdown"),
        ("li a7, 0x53525354\nli a6, 0\nli a0, 1\nli a1, 0", 0, b"SBI system reset: cold reboot"),
        ("li a7, 0x48534D\nli a6, 3\nli a0, 0", 124, b"nothing can raise"),
        ("li a7, 0x48534D\nli a6, 3\nli a0, 0x80000000\nla a1, 1f", 124, b"nothing can raise"),
    ],
)
def test_sbi_calls_that_end_the_machine(host: Host, call: str, status: int, said: bytes) -> None:
    ended = host.run(assemble(f"{call}\necall\n1: j 1b", START), "--no-reboot")
    ended.check(status)
    assert said in ended.error
