"""Random accesses to every device, and queues that no driver should set up."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable

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
    START,
    UART,
    VIRTIO,
    Host,
    random_value,
)

from emu.board.devices.virtio_blk import VirtioBlk
from emu.board.devices.virtio_mmio import Virtio
from emu.board.devices.virtio_rng import VirtioRng
from emu.board.devices.virtqueue import Chain

Serve = Callable[[Virtio, int, Chain], int]
DEVICES = {
    "finisher": (FINISHER, 0x1000),
    "rtc": (RTC, 0x1000),
    "clint": (CLINT, 0x1_0000),
    "plic": (PLIC, 0x60_0000),
    "uart": (UART, 0x1000),
    **{f"virtio{i}": (base, 0x1000) for i, base in enumerate(VIRTIO)},
}


# A table of accesses, and a guest that makes them one after the other.

# s0: the entry (address, value, number of the operation), s1: the last. Every 16 entries all
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
    andi t0, s0, 0x78
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
    start = rng.choice((0, 0, 0x40, 0x80, 0x100, 0x1000, 0x2000, 0x2080, 0x4000, 0xBFF8,
                        0x20_0000, 0x20_1000))  # fmt: skip
    step = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 0xC, 0x10, 0x30, 0x38, 0x70))
    return min(start + step, size - 1)


def ends_it(address: int) -> bool:
    """Whether a store there may reach the finisher's register."""
    return FINISHER - 8 < address < FINISHER + 4


# Every device's interrupt comes through, to M and to S.
PLIC_OPEN: list[Access] = [
    *((PLIC + 4 * source, 1, SW) for source in range(1, 12)),
    *((PLIC + register, -1, SW) for register in (0x2000, 0x2080)),
    *((PLIC + register, 0, SW) for register in (0x20_0000, 0x20_1000)),
]


def random_accesses(rng: random.Random, count: int) -> list[Access]:
    accesses: list[Access] = []
    while len(accesses) < count:
        if rng.randrange(500) == 0:
            accesses += PLIC_OPEN
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


class Driver:
    """Drives the virtio device at ``base`` nearly as it should; ``steps`` are its accesses.

    Its rings and buffers are 64 KiB at ``at``.
    """

    def __init__(self, rng: random.Random, base: int, at: int) -> None:
        self._rng = rng
        self._base = base
        self._at = at
        self.steps: list[Access] = []

    def _nearly(self, right: int, *wrong: int) -> int:
        return self._rng.choice(wrong) if self._rng.randrange(25) == 0 else right

    def _place(self, right: int) -> int:
        """An address that may be another; none of them is in the guest's own code."""
        return self._nearly(
            right, right + 1, self._at, self._at + self._rng.randrange(0x1_0000), RAM - 8,
            RAM + RAM_SIZE - 8, RAM + RAM_SIZE, 0, UART, VIRTIO[7], self._rng.getrandbits(64),
        )  # fmt: skip

    def _registers(self, *writes: tuple[int, int]) -> None:
        self.steps += [(self._base + offset, n & 0xFFFF_FFFF, SW) for offset, n in writes]

    def set_up(self) -> None:
        rng = self._rng
        self._size = self._nearly(rng.choice((1, 2, 8, 16, 64)), 0, 3, 512, 0xFFFF_FFFF)
        self._table, self._driver, self._device = (
            self._place(self._at + n) for n in (0, 0x2000, 0x4000)
        )
        self._free = self._heads = 0  # descriptors in use, heads offered
        self._registers((0x70, self._nearly(0, 4)), (0x70, 1), (0x70, 3))
        self._registers((0x24, 1), (0x20, self._nearly(1, 0, -1)), (0x70, self._nearly(11, 0, 15)))
        self._registers((0x30, self._nearly(0, 1, -1)), (0x38, self._size))
        for offset, area in ((0x80, self._table), (0x90, self._driver), (0xA0, self._device)):
            self._registers((offset, area), (offset + 4, area >> 32))
        self._registers((0x44, 1), (0x70, self._nearly(15, 11, 0x8F, 0x4F)))
        self.steps += [(self._driver + 2, 0, SH), (self._driver, rng.randrange(2), SH)]

    def _parts(self) -> list[tuple[int, int, bool]]:
        """One request, in its parts: address, size, whether the device writes there."""
        rng, buffers = self._rng, self._at + 0x8000
        kind = rng.choice((0, 0, 1, 1, 4, 8, 8, 11, -1))
        sector = rng.choice((0, 1, 60, 63, self._nearly(2, 64, 1 << 55, -1)))
        self.steps += [(buffers, kind, SW), (buffers + 8, sector, SD)]
        parts = [(buffers, self._nearly(16, 0, 8, 15, 17), False)]
        for i in range(rng.choice((0, 1, 1, 2, 5))):
            size = rng.choice((512, 512, 1024, self._nearly(20, 1, 0, 4097, 0x8000, 0xFFFF_FFFF)))
            parts.append((self._place(buffers + 0x1000 * (i + 1)), size, kind != 1))
        return [*parts, (self._place(buffers + 0x100), self._nearly(1, 0, 2, 513), True)]

    def _describe(self, table: int, first: int, parts: list[tuple[int, int, bool]]) -> None:
        for i, (pa, size, is_written) in enumerate(parts, first):
            is_last = i == first + len(parts) - 1
            flags = self._nearly(2 * is_written | (not is_last), 0, 1, 2, 3, 4, 5, 0xFFFF)
            following = 0 if is_last else self._nearly(i + 1, 0, i, 0xFFFF)
            self.steps.append((table + 16 * i, pa, SD))
            self.steps.append((table + 16 * i + 8, size | flags << 32 | following << 48, SD))

    def request(self) -> None:
        """Offer one, if the table has room for it."""
        parts = self._parts()
        is_indirect = self._rng.randrange(4) == 0
        head, self._free = self._free, self._free + (1 if is_indirect else len(parts))
        if self._free > min(self._size, 256):
            return
        if is_indirect:
            table = self._at + 0x6000
            self._describe(table, 0, parts)
            size = self._nearly(16 * len(parts), 0, 15, 16, 1 << 16, 0xFFFF_FFF0)
            self.steps.append((self._table + 16 * head, table, SD))
            self.steps.append((self._table + 16 * head + 8, size | self._nearly(4, 5, 6) << 32, SD))
        else:
            self._describe(self._table, head, parts)
        slot = self._driver + 4 + 2 * (self._heads % self._size)
        self.steps.append((slot, self._nearly(head, 0, self._size, 0xFFFF), SH))
        self._heads += 1
        heads = self._nearly(self._heads, self._heads + 1, self._heads + self._size + 1, -1)
        self.steps.append((self._driver + 2, heads, SH))
        if self._rng.randrange(2):
            self._registers((0x50, self._nearly(0, 1, -1)))

    def end(self) -> None:
        """Tell of all requests that were not told of, and see what has come of them."""
        self._registers((0x50, 0))
        self.steps += [(self._base + 0x60, 0, LW), (self._base + 0x64, self._nearly(3, 0, -1), SW)]


def random_queues(rng: random.Random, count: int) -> list[Access]:
    accesses: list[Access] = []
    for i in range(count):
        if i % 20 == 0:
            accesses += PLIC_OPEN
        base = rng.choice((VIRTIO[7], VIRTIO[7], VIRTIO[6], VIRTIO[5]))  # disk, rng, empty
        driver = Driver(rng, base, SCRATCH + i % 40 * 0x1_0000)
        driver.set_up()
        for _ in range(rng.choice((1, 2, 8))):
            driver.request()
        driver.end()
        accesses += driver.steps
    return [a for a in accesses if not ends_it(a[0]) and not RAM <= a[0] < SCRATCH]


@pytest.mark.parametrize("mode", ["m", "s"])
def test_random_queues(host: Host, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a driver does, with something wrong at random; part of it is served."""
    served: dict[str, int] = {}
    for device in (VirtioBlk, VirtioRng):

        def serve(self: Virtio, queue: int, chain: Chain, original: Serve = device.serve) -> int:
            written = original(self, queue, chain)
            served[self.name] = served.get(self.name, 0) + 1
            return written

        monkeypatch.setattr(device, "serve", serve)
    guest = table_guest(random_queues(random.Random(mode), 1500), mode)
    before = host.disk.read_bytes()
    host.run(guest, "--disk", host.disk, bios=mode == "m").check_all_done()
    assert host.disk.read_bytes() == before
    assert min(served["virtio-blk"], served["virtio-rng"]) > 150, served


def test_random_queues_take_no_memory(host: Host) -> None:
    guest = table_guest(random_queues(random.Random(0), 1500), "m")
    host.run_apart(guest, "--disk", host.disk, bios=True).check_all_done()


# M-mode. Interrupts come from what the hart itself stores: each byte that is sent raises the
# UART's, and at the end the CLINT's software interrupt ends the loop that nothing else ends.
RAISES_INTERRUPTS = """
    la t0, handler
    csrw mtvec, t0
    li s0, 0x10000000
    li s1, 'a'
    li s2, 'k'
    li s3, 0xc200004
    li s4, 0x2000000
    li t1, 1
    li t0, 0xc000028     # the UART's priority
    sw t1, 0(t0)
    li t1, 0x400
    li t0, 0xc002000     # its enable for M
    sw t1, 0(t0)
    li t1, 2             # of the UART: when a byte has been sent
    sb t1, 1(s0)
    li t0, 0x808
    csrw mie, t0
    csrsi mstatus, 8
1:  sb s1, 0(s0)
    addi s1, s1, 1
    bne s1, s2, 1b
    li t1, 1
    sw t1, 0(s4)
2:  j 2b
.balign 4
handler:
    csrr t0, mcause
    andi t0, t0, 63
    li t1, 3
    beq t0, t1, 3f
    lbu t1, 2(s0)
    lw t1, 0(s3)
    sw t1, 0(s3)
    mret
3:  li t0, 0x100000
    li t1, 0x5555
    sw t1, 0(t0)
4:  j 4b
"""


@pytest.mark.parametrize("more", ["--hart inside", "--hart public", "--deterministic"])
def test_a_store_that_raises_an_interrupt_is_done_once(host: Host, more: str) -> None:
    ended = host.run(assemble(RAISES_INTERRUPTS, RAM), *more.split(), bios=True)
    ended.check(0)
    assert ended.out == b"abcdefghij"
