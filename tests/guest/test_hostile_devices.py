"""Random accesses to every device, and queues that no driver should set up."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from pathlib import Path

import pytest
from asm import assemble, symbols
from hostile_kit import (
    CLINT,
    FINISHER,
    PLIC,
    RAM,
    RAM_SIZE,
    RTC,
    SAY_ALL_DONE,
    SCRATCH,
    SCRATCH_SIZE,
    START,
    UART,
    VIRTIO,
    Cli,
    Host,
    random_value,
)

DEVICES = {
    "finisher": (FINISHER, 0x1000),
    "rtc": (RTC, 0x1000),
    "clint": (CLINT, 0x1_0000),
    "plic": (PLIC, 0x60_0000),
    "uart": (UART, 0x1000),
    **{f"virtio{i}": (base, 0x1000) for i, base in enumerate(VIRTIO)},
}


@pytest.fixture
def host(tmp_path: Path, pagewalk: Cli) -> Host:
    return Host(tmp_path, pagewalk)


# A table of accesses, and a guest that makes them one after the other.

# s0: the entry (address, value, number of the operation), s1: the last. Now and then all
# interrupts are enabled; each that is taken is masked until then. A fault is skipped.
TABLE_GUEST = """
    la t0, handler
    csrw {x}tvec, t0
    la s0, table
    ld s1, count
    slli t0, s1, 4
    slli t1, s1, 3
    add t0, t0, t1
    add s1, s0, t0
1:  bgeu s0, s1, 9f
    andi t0, s0, 0x7f8
    bnez t0, 2f
    li t0, -1
    csrw {x}ie, t0
    csrsi {x}status, {ie}
2:  ld a0, 0(s0)
    ld a1, 8(s0)
    ld a2, 16(s0)
    addi s0, s0, 24
    la t0, operations
    slli a2, a2, 3
    add t0, t0, a2
    jr t0
.balign 8
.option push
.option norvc
operations:
    sb a1, 0(a0)
    j 1b
    sh a1, 0(a0)
    j 1b
    sw a1, 0(a0)
    j 1b
    sd a1, 0(a0)
    j 1b
    lbu a1, 0(a0)
    j 1b
    lh a1, 0(a0)
    j 1b
    lw a1, 0(a0)
    j 1b
    ld a1, 0(a0)
    j 1b
    amoswap.w a2, a1, (a0)
    j 1b
    amoadd.d a2, a1, (a0)
    j 1b
    lr.w a2, (a0)
    j 1b
    sc.d a2, a1, (a0)
    j 1b
    fence.i
    j 1b
.option pop
9:  csrw {x}ie, zero
    {say_all_done}
.balign 4
handler:
    csrr t3, {x}cause
    bltz t3, 6f
    csrr t3, {x}epc
    addi t3, t3, 4
    csrw {x}epc, t3
    {x}ret
6:  andi t3, t3, 63
    li t4, 1
    sll t4, t4, t3
    csrc {x}ie, t4
    {x}ret
.balign 8
count: .dword 0
table:
"""
OPERATIONS = 13
SW, SD, SH, LW = 2, 3, 1, 6  # some of them
Access = tuple[int, int, int]  # address, value, operation


def table_guest(accesses: Iterable[Access], mode: str) -> bytes:
    base = RAM if mode == "m" else START
    ie = 8 if mode == "m" else 2  # xstatus.xIE
    text = TABLE_GUEST.format(x=mode, ie=ie, say_all_done=SAY_ALL_DONE)
    code = assemble(text, base)
    entries = [struct.pack("<QQQ", *(n & (1 << 64) - 1 for n in a)) for a in accesses]
    assert len(code) - 8 == symbols(text, base)["count"] - base
    guest = code[:-8] + struct.pack("<Q", len(entries)) + b"".join(entries)
    assert base + len(guest) <= SCRATCH
    return guest


def offset(rng: random.Random, size: int) -> int:
    """Anywhere, and more often where registers are."""
    if rng.randrange(4) == 0:
        return rng.randrange(size)
    start = rng.choice((0, 0, 0x40, 0x80, 0x100, 0x1000, 0x2000, 0x4000, 0xBFF8, 0x20_0000,
                        0x20_1000))  # fmt: skip
    step = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 0xC, 0x10, 0x30, 0x38, 0x70))
    return min(start + step, size - 1)


def ends_it(address: int) -> bool:
    """Whether a store there may reach the finisher's register."""
    return FINISHER - 8 < address < FINISHER + 4


def random_accesses(rng: random.Random, count: int) -> list[Access]:
    accesses: list[Access] = []
    while len(accesses) < count:
        base, size = DEVICES[rng.choice(list(DEVICES))]
        if rng.randrange(30) == 0:  # between the devices, and all over the address space
            base, size = rng.choice(((0, RAM), (RAM + RAM_SIZE, 1 << 40), (0, 1 << 64)))
            address = base + rng.randrange(size)
            if RAM <= address < RAM + RAM_SIZE:
                continue
        else:
            address = base + offset(rng, size)
        stored = random_value(rng)
        if not ends_it(address):
            accesses.append((address, stored, rng.randrange(OPERATIONS)))
    return accesses


@pytest.mark.parametrize("mode", ["m", "s"])
def test_random_accesses_to_every_device(host: Host, mode: str) -> None:
    guest = table_guest(random_accesses(random.Random(mode), 60_000), mode)
    host.run_apart(guest, "--disk", host.disk, bios=mode == "m").check_all_done()


@pytest.mark.parametrize("more", ["--hart public", "--deterministic", "--trace dev"])
@pytest.mark.parametrize("mode", ["m", "s"])
def test_random_accesses_in_other_ways(host: Host, mode: str, more: str) -> None:
    words = more.split()
    if "--trace" in words:
        words += ["--trace-file", str(host.folder / "trace")]
    guest = table_guest(random_accesses(random.Random(mode + more), 6000), mode)
    host.run(guest, "--disk", host.disk, *words, bios=mode == "m").check_all_done()


def queue_setup(rng: random.Random, base: int, slot: int) -> list[Access]:
    """What a driver does, with something wrong at random; its rings at SCRATCH."""
    sw, sd = 2, 3
    at = SCRATCH + slot * 0x1_0000
    size = rng.choice((0, 1, 2, 3, 4, 8, 64, 256, 512, 0xFFFF_FFFF))
    table, driver, device = at, at + 0x2000, at + 0x4000

    def somewhere() -> int:
        return rng.choice(
            (at + rng.randrange(0x1_0000), at, table, driver, device, RAM - 8, RAM + RAM_SIZE - 8,
             0, UART, VIRTIO[7], rng.getrandbits(64))
        )  # fmt: skip

    if rng.randrange(3) == 0:
        table = somewhere()
    if rng.randrange(3) == 0:
        driver = somewhere()
    if rng.randrange(3) == 0:
        device = somewhere() if rng.randrange(2) else at + rng.randrange(0x1_0000)
    for area in (table, driver, device):  # the queue's own rings must not be the guest's code
        if RAM <= area < SCRATCH or SCRATCH + SCRATCH_SIZE <= area < RAM + RAM_SIZE - 0x2000:
            return []
    steps: list[Access] = [(base + 0x70, 0, sw)] if rng.randrange(4) else []
    for status in (1, 3, 11):
        steps.append((base + 0x70, status, sw))
    if rng.randrange(2):
        steps += [(base + 0x24, 1, sw), (base + 0x20, rng.choice((1, 0, -1)), sw)]
    steps += [(base + 0x30, rng.choice((0, 0, 0, 1, -1)), sw), (base + 0x38, size, sw)]
    for register, area in ((0x80, table), (0x90, driver), (0xA0, device)):
        steps += [(base + register, area & 0xFFFF_FFFF, sw), (base + register + 4, area >> 32, sw)]
    steps += [(base + 0x44, 1, sw), (base + 0x70, rng.choice((15, 15, 15, 11, 0x8F)), sw)]
    for i in range(rng.choice((1, 4, 16))):
        # Each kind of request: type, then where, and a descriptor for each part.
        header, flags = at + 0x8000 + 16 * i, rng.choice((0, 1, 1, 1, 2, 3, 3, 4, 5, 6, 7, 0xFFFF))
        steps += [
            (header, rng.choice((0, 0, 1, 4, 8, 11, -1)), sw),
            (header + 8, rng.choice((0, 1, 63, 64, 1 << 55, -1)), sd),
        ]
        buffer = rng.choice((header, at + 0x9000 + rng.randrange(0x2000), somewhere()))
        if RAM <= buffer < SCRATCH or SCRATCH + (3 << 20) <= buffer < RAM + RAM_SIZE - 64:
            buffer = header
        extent = rng.choice((0, 1, 16, 511, 512, 513, 4096, 0x8000, 0xFFFF_FFFF))
        steps += [
            (table + 16 * i, buffer, sd),
            (
                table + 16 * i + 8,
                extent | flags << 32 | rng.choice((i + 1, 0, i, 0xFFFF)) << 48,
                sd,
            ),
            (driver + 4 + 2 * i, rng.choice((i, 0, 0xFFFF)), 1),
        ]
    steps.append((driver + 2, rng.choice((1, 1, 4, 16, 17, 0xFFFF)), 1))
    steps.append((driver, rng.choice((0, 1, 0xFFFF)), 1))
    steps += [(base + 0x50, rng.choice((0, 0, 0, 1, -1)), sw)] * rng.choice((1, 2))
    steps += [(base + 0x60, 0, 6), (base + 0x64, rng.choice((1, 2, 3, -1)), sw)]
    return [s for s in steps if not ends_it(s[0]) and not RAM <= s[0] < SCRATCH]


@pytest.mark.parametrize("mode", ["m", "s"])
def test_random_queues(host: Host, mode: str) -> None:
    rng = random.Random(mode)
    accesses: list[Access] = []
    for i in range(1500):
        base = rng.choice((VIRTIO[7], VIRTIO[7], VIRTIO[6], VIRTIO[5]))  # disk, rng, empty
        accesses += queue_setup(rng, base, i % 40)
    assert len(accesses) > 30_000
    before = host.disk.read_bytes()
    guest = table_guest(accesses, mode)
    host.run_apart(guest, "--disk", host.disk, bios=mode == "m").check_all_done()
    assert host.disk.read_bytes() == before
