"""virtio's registers and split queues, with a device that answers what it is sent; the rng."""

from __future__ import annotations

import random
import struct

import pytest
from device_bench import (
    ACKNOWLEDGE,
    AVAIL,
    BASE,
    BUFFERS,
    CONFIG,
    CONFIG_GENERATION,
    DEVICE_FEATURES,
    DEVICE_FEATURES_SEL,
    DEVICE_ID,
    DRIVER,
    FEATURES_OK,
    INDIRECT,
    INTERRUPT_ACK,
    INTERRUPT_STATUS,
    MAGIC,
    NEEDS_RESET,
    NEXT,
    QUEUE_DESC,
    QUEUE_NOTIFY,
    QUEUE_NUM,
    QUEUE_NUM_MAX,
    QUEUE_READY,
    QUEUE_SEL,
    STATUS,
    TABLE,
    USED,
    VENDOR_ID,
    VERSION,
    WRITE,
    Driver,
    Wire,
)  # fmt: skip

from emu.board.devices.virtio_mmio import Virtio
from emu.board.devices.virtio_rng import VirtioRng
from emu.board.devices.virtqueue import Chain, VirtqueueError, take
from emu.ram import Ram

RAM_SIZE = 1 << 20


class Echo(Virtio):
    """Writes what it reads, in capitals."""

    device_id = 42
    queue_sizes = (16, 4)

    def serve(self, queue: int, chain: Chain) -> int:
        data = b"".join(self.ram.read(pa, size) for pa, size in chain.readable).upper()
        done = 0
        for pa, size in chain.writable:
            piece = data[done : done + size]
            self.ram.write(pa, piece)
            self.written(pa, len(piece))
            done += len(piece)
        return done


class Bench(Driver):
    def __init__(self, start: bool = True, size: int = 8) -> None:
        self.wire = Wire()
        self.irq = self.wire.changes
        self.writes: list[tuple[int, int]] = []
        ram = Ram(RAM_SIZE)
        device = Echo(
            0x1000_1000, ram, self.wire, lambda pa, n: self.writes.append((pa, n)),
            features=1 << 7, config=bytes(range(10, 20)),
        )  # fmt: skip
        super().__init__(ram, device, size)
        if start:
            self.start()

    def broken(self, why: str) -> None:
        """The device asks for a reset, by an interrupt; and after it works again."""
        assert self(STATUS) & NEEDS_RESET
        assert self(INTERRUPT_STATUS) & 2 and self.irq[-1] is True
        assert why in self.device.error
        used = self.used_index()
        self(QUEUE_NOTIFY, 0)
        assert self.used_index() == used
        self(STATUS, self(STATUS) & ~NEEDS_RESET)  # only a reset takes it away
        assert self(STATUS) & NEEDS_RESET
        self.ram.fill(TABLE, 0x3000)
        self.offered = 0
        self(STATUS, 0)
        assert (self(STATUS), self(INTERRUPT_STATUS), self.irq[-1]) == (0, 0, False)
        self.start()
        self.echo(b"again")

    def echo(self, text: bytes) -> None:
        self.ram.write(BUFFERS, text)
        used = self.submit((BUFFERS, len(text), 0), (BUFFERS + 256, len(text), WRITE))
        assert used == (0, len(text))
        assert self.ram.read(BUFFERS + 256, len(text)) == text.upper()


def test_identity() -> None:
    bench = Bench(start=False)
    assert bench(MAGIC).to_bytes(4, "little") == b"virt"
    assert (bench(VERSION), bench(DEVICE_ID)) == (2, 42)
    assert bench(VENDOR_ID).to_bytes(4, "little") == b"QEMU"  # xv6 checks it
    assert bench.features() == 1 << 32 | 1 << 28 | 1 << 7
    bench(DEVICE_FEATURES_SEL, 2)
    assert bench(DEVICE_FEATURES) == 0
    assert (bench(CONFIG), bench(CONFIG + 8)) == (0x0D0C0B0A, 0x1312)
    assert bench.device.read(CONFIG + 1, 1) == 11 and bench.device.read(CONFIG + 2, 2) == 0x0D0C
    assert bench(CONFIG + 0x800) == 0 and bench(CONFIG_GENERATION) == 0
    bench(CONFIG, 0xFFFF_FFFF)
    assert bench(CONFIG) == 0x0D0C0B0A
    assert bench(0xB0) == bench(0xB4) == 0xFFFF_FFFF  # a shared memory region of length -1
    assert bench.device.read(MAGIC, 1) == 0


def test_empty_slot() -> None:
    driver = Driver(Ram(RAM_SIZE), Virtio(0x1000_2000, Ram(4096)))
    assert (driver(MAGIC), driver(VERSION), driver(DEVICE_ID)) == (0x74726976, 2, 0)
    driver.negotiate(1 << 32)
    driver(STATUS, 0xF)
    driver(QUEUE_NOTIFY, 0)
    named = (MAGIC, VERSION, VENDOR_ID)
    assert all(driver(offset) == 0 for offset in range(0, 0x200, 4) if offset not in named)


def test_queue_sizes() -> None:
    bench = Bench(start=False)
    sizes = []
    for queue in (0, 1, 2, 0xFFFF_FFFF):
        bench(QUEUE_SEL, queue)
        sizes.append((bench(QUEUE_NUM_MAX), bench(QUEUE_READY)))
    assert sizes == [(16, 0), (4, 0), (0, 0), (0, 0)]
    bench(QUEUE_NUM, 4)
    bench(QUEUE_READY, 1)  # no queue is selected
    assert bench(QUEUE_READY) == 0 and not bench(STATUS) & NEEDS_RESET


def test_features_are_refused_and_frozen() -> None:
    bench = Bench(start=False)
    assert bench.negotiate(1 << 32 | 1 << 3) == ACKNOWLEDGE | DRIVER  # bit 3 was not offered
    assert bench.negotiate(1 << 32 | 1 << 7) == ACKNOWLEDGE | DRIVER | FEATURES_OK
    assert bench.device.state()["driver_features"] == 1 << 32 | 1 << 7
    bench(0x24, 0)
    bench(0x20, 0xFFFF_FFFF)  # too late
    assert bench.device.state()["driver_features"] == 1 << 32 | 1 << 7
    assert bench.negotiate(0) & FEATURES_OK  # without VERSION_1, as xv6 has it
    bench(STATUS, 0)
    assert bench.device.state()["driver_features"] == 0


def test_one_request() -> None:
    bench = Bench()
    bench.echo(b"hello")
    assert bench.irq == [True] and bench(INTERRUPT_STATUS) == 1
    # Each piece of RAM that was written: the buffer, the used element, the used index.
    assert bench.writes == [(BUFFERS + 256, 5), (USED + 4, 8), (USED + 2, 2)]
    bench.echo(b"more")
    assert bench.irq == [True]  # a level
    bench(INTERRUPT_ACK, 2)
    assert bench.irq == [True]
    bench(INTERRUPT_ACK, 1)
    assert bench.irq == [True, False] and bench(INTERRUPT_STATUS) == 0


def test_many_requests_in_one_notification_and_the_rings_wrap() -> None:
    bench = Bench()
    rng = random.Random(1)
    for round in range(9000):  # running numbers pass 65,536
        before = bench.used_index()
        heads = rng.sample(range(8), 8)
        for head in heads:
            bench.ram.write(BUFFERS + 16 * head, b"%08x" % (round * 8 + head))
            bench.descriptor(head, BUFFERS + 16 * head, head + 1, 0)
            bench.offer(head)
        bench(QUEUE_NOTIFY, 0)
        assert bench.used_index() == (before + 8) & 0xFFFF
        assert [bench.used(before + i) for i in range(8)] == [(head, 0) for head in heads]
    assert bench.used_index() == 9000 * 8 & 0xFFFF == bench.offered


def test_segments_in_order() -> None:
    bench = Bench()
    bench.ram.write(BUFFERS, b"abcdefgh")
    used = bench.submit(
        (BUFFERS + 4, 3, 0), (BUFFERS, 0, 0), (BUFFERS, 2, 0), (BUFFERS + 100, 1, WRITE),
        (BUFFERS + 200, 50, WRITE), first=3,
    )  # fmt: skip
    assert used == (3, 5)
    assert bench.ram.read(BUFFERS + 100, 1) + bench.ram.read(BUFFERS + 200, 4) == b"EFGAB"


def test_indirect_table() -> None:
    bench = Bench()
    table = BUFFERS + 0x808  # its alignment is free
    bench.ram.write(BUFFERS, b"indirect")
    buffers = [(BUFFERS + i, 1, 0) for i in range(8)] + [(BUFFERS + 0x100, 8, WRITE)]
    bench.chain(*buffers, table=table)  # longer than the queue of 8
    bench.descriptor(5, table, 16 * 9, INDIRECT | WRITE)  # the WRITE flag is ignored
    bench.offer(5)
    bench(QUEUE_NOTIFY, 0)
    assert bench.used(0) == (5, 8)
    assert bench.ram.read(BUFFERS + 0x100, 8) == b"INDIRECT"


def test_indirect_table_at_the_end_of_a_chain() -> None:
    bench = Bench()
    bench.ram.write(BUFFERS, b"xy")
    table = BUFFERS + 0x800
    bench.chain((BUFFERS + 1, 1, 0), (BUFFERS + 0x100, 2, WRITE), table=table)
    bench.descriptor(0, BUFFERS, 1, NEXT, 1)
    bench.descriptor(1, table, 32, INDIRECT)
    bench.offer(0)
    bench(QUEUE_NOTIFY, 0)
    assert bench.used(0) == (0, 2) and bench.ram.read(BUFFERS + 0x100, 2) == b"XY"


def test_the_driver_may_refuse_interrupts() -> None:
    bench = Bench()
    bench.ram.write16(AVAIL, 1)  # VIRTQ_AVAIL_F_NO_INTERRUPT
    bench.echo(b"quiet")
    assert bench.irq == [] and bench(INTERRUPT_STATUS) == 0


def test_nothing_happens_before_driver_ok() -> None:
    bench = Bench(start=False)
    bench.negotiate(1 << 32)
    bench.queue()
    bench.chain((BUFFERS, 4, 0))
    bench.offer(0)
    bench(QUEUE_NOTIFY, 0)
    assert bench.used_index() == 0
    bench(STATUS, 0xF)
    bench(QUEUE_NOTIFY, 0)
    assert bench.used_index() == 1


def test_notification_of_other_queues() -> None:
    bench = Bench()
    bench.chain((BUFFERS, 4, 0))
    bench.offer(0)
    for queue in (1, 2, 0xFFFF_FFFF):  # one not ready, two that do not exist
        bench(QUEUE_NOTIFY, queue)
    assert bench.used_index() == 0 and bench(STATUS) == 0xF


def test_a_ready_queue_does_not_change_until_it_is_taken_back() -> None:
    bench = Bench()
    bench(QUEUE_DESC, 0)
    bench(QUEUE_NUM, 2)
    bench.echo(b"still")
    bench(QUEUE_READY, 0)
    assert bench(QUEUE_READY) == 0
    bench.offer(0)
    bench(QUEUE_NOTIFY, 0)
    assert bench.used_index() == 1


def end() -> int:
    return BASE + RAM_SIZE


@pytest.mark.parametrize(
    ("size", "table", "avail", "used"),
    [
        (0, TABLE, AVAIL, USED), (3, TABLE, AVAIL, USED), (32, TABLE, AVAIL, USED),
        (0xFFFF_FFFF, TABLE, AVAIL, USED), (8, TABLE + 8, AVAIL, USED),
        (8, TABLE, AVAIL + 1, USED), (8, TABLE, AVAIL, USED + 2), (8, 0, AVAIL, USED),
        (8, TABLE, BASE - 4, USED), (8, TABLE, AVAIL, end() - 16), (8, end() - 64, AVAIL, USED),
        (8, (1 << 64) - 16, AVAIL, USED), (8, TABLE, 1 << 63, USED),
    ],
)  # fmt: skip
def test_a_queue_that_cannot_be(size: int, table: int, avail: int, used: int) -> None:
    bench = Bench(start=False)
    bench.negotiate(1 << 32)
    bench.queue(size, table, avail, used)
    assert bench(QUEUE_READY) == 0 and bench(STATUS) & NEEDS_RESET
    assert bench.irq == []  # the driver was not running
    bench(STATUS, 0)
    bench.start()
    bench.echo(b"ok")


def test_a_queue_may_end_where_ram_does() -> None:
    bench = Bench(start=False)
    bench.negotiate(1 << 32)
    bench.queue(8, BASE, end() - 4 - 16, end() - 1024)
    assert bench(QUEUE_READY) == 1


def test_broken_chains() -> None:
    bench = Bench()

    bench.descriptor(0, BUFFERS, 4, NEXT, 1)
    bench.descriptor(1, BUFFERS, 4, NEXT, 0)
    bench.offer(0)
    bench(QUEUE_NOTIFY, 0)
    bench.broken("more than 16 descriptors")  # a loop

    for index in (8, 0xFFFF):
        bench.offer(index)
        bench(QUEUE_NOTIFY, 0)
        bench.broken(f"descriptor {index} in a table of 8")
        bench.descriptor(0, BUFFERS, 4, NEXT, index)
        bench.offer(0)
        bench(QUEUE_NOTIFY, 0)
        bench.broken(f"descriptor {index} in a table of 8")

    for pa, size in (
        (BASE - 1, 4), (end() - 3, 4), (end(), 1), (0, 1), ((1 << 64) - 2, 4), (BASE, 0xFFFF_FFFF)
    ):  # fmt: skip
        for flags in (0, WRITE, INDIRECT):
            bench.descriptor(0, pa, size, flags)
            bench.offer(0)
            bench(QUEUE_NOTIFY, 0)
            bench.broken("not in RAM")

    bench.chain((BUFFERS, 4, WRITE), (BUFFERS, 4, 0))
    bench.offer(0)
    bench(QUEUE_NOTIFY, 0)
    bench.broken("readable buffer after a writable one")

    bench.ram.write16(AVAIL + 2, bench.offered + 9)
    bench(QUEUE_NOTIFY, 0)
    bench.broken("9 requests offered in a queue of 8")


def test_broken_indirect_tables() -> None:
    bench = Bench()
    table = BUFFERS + 0x800
    for size, flags in ((15, INDIRECT), (24, INDIRECT), (16, INDIRECT | NEXT)):
        bench.descriptor(0, table, size, flags)
        bench.offer(0)
        bench(QUEUE_NOTIFY, 0)
        bench.broken("indirect")
    bench.descriptor(0, table, 0, INDIRECT)
    bench.offer(0)
    bench(QUEUE_NOTIFY, 0)
    bench.broken("descriptor 0 in a table of 0")

    bench.descriptor(0, table, 16, INDIRECT, table=table)  # a table in itself
    bench.descriptor(0, table, 16, INDIRECT)
    bench.offer(0)
    bench(QUEUE_NOTIFY, 0)
    bench.broken("indirect")

    bench.descriptor(0, BUFFERS, 1, NEXT, 0, table=table)  # a loop
    bench.descriptor(0, table, 16, INDIRECT)
    bench.offer(0)
    bench(QUEUE_NOTIFY, 0)
    bench.broken("more than 16 descriptors")


def test_what_was_done_before_the_broken_chain_is_given_back() -> None:
    bench = Bench()
    bench.chain((BUFFERS, 4, 0))
    bench.offer(0)
    bench.offer(77)
    bench(QUEUE_NOTIFY, 0)
    assert bench.used_index() == 1 and bench(INTERRUPT_STATUS) == 3


def test_a_device_that_writes_over_its_ring_comes_to_an_end() -> None:
    """The buffer is the driver area itself: each request offers more of them."""
    bench = Bench()
    bench.ram.write(BUFFERS, struct.pack("<HH", 0, 9))
    bench.chain((BUFFERS, 4, 0), (AVAIL, 4, WRITE))
    bench.offer(0)
    bench(QUEUE_NOTIFY, 0)
    assert bench.used_index() == 1
    bench(QUEUE_NOTIFY, 0)
    assert bench.used_index() == 9


def test_take() -> None:
    segments = [(100, 10), (200, 5)]
    assert take(segments, 10) == ([(100, 10)], [(200, 5)])
    assert take(segments, 12) == ([(100, 10), (200, 2)], [(202, 3)])
    assert take(segments, 4) == ([(100, 4)], [(104, 6), (200, 5)])
    assert take(segments, 15) == (segments, [])
    assert take([], 0) == ([], [])
    with pytest.raises(VirtqueueError, match="lacks 1 bytes"):
        take(segments, 16)


def test_a_driver_that_never_acknowledges_is_told_each_time() -> None:
    """xv6-riscv of 2019 does not write InterruptACK: each used buffer raises the line again."""
    bench = Bench()
    bench.wire.told.clear()
    for _ in range(3):
        bench.echo(b"x")
    assert bench.wire.told == [True] * 3
    bench(INTERRUPT_ACK, 1)
    bench(INTERRUPT_ACK, 1)
    assert bench.wire.told[3:] == [False] * 2


def test_state_round_trip_in_the_middle() -> None:
    bench = Bench()
    bench.echo(b"one")
    bench.chain((BUFFERS, 3, 0), (BUFFERS + 256, 3, WRITE))
    bench.offer(0)  # offered, not yet notified
    copy = Bench(start=False)
    copy.ram.write(BASE, bench.ram.read(BASE, RAM_SIZE))
    copy.device.restore(bench.device.state())
    assert copy.wire.told == [] and copy.device.state() == bench.device.state()
    copy(QUEUE_NOTIFY, 0)
    assert (copy.used_index(), copy.used(1), copy(INTERRUPT_STATUS)) == (2, (0, 3), 1)
    copy(INTERRUPT_ACK, 1)
    assert copy.wire.told == [True, False]
    state = bench.device.state()
    queue = state["queues"][0]
    for wrong in (
        {"device_id": 2}, {"status": 256}, {"queues": []},
        {"queues": [queue | {"areas": [0, 0, 0]}, state["queues"][1]]},
        {"queues": [queue | {"ring": queue["ring"] | {"seen": 65536}}, state["queues"][1]]},
        {"queues": [queue | {"ring": 1}, state["queues"][1]]},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="saved"):
            copy.device.restore(state | wrong)
    with pytest.raises(KeyError):
        copy.device.restore({})


class RngBench(Driver):
    def __init__(self, generator: random.Random) -> None:
        ram = Ram(RAM_SIZE)
        self.writes: list[tuple[int, int]] = []
        device = VirtioRng(
            0x1000_1000, ram, generator, written=lambda pa, n: self.writes.append((pa, n))
        )
        super().__init__(ram, device)
        self.start()

    def draw(self, size: int) -> bytes:
        assert self.submit((BUFFERS, size, WRITE)) == (0, size)
        return self.ram.read(BUFFERS, size)


def test_rng() -> None:
    bench = RngBench(random.Random(3))
    assert bench(DEVICE_ID) == 4
    expected = random.Random(3)
    assert bench.draw(64) == expected.randbytes(64)
    assert (BUFFERS, 64) in bench.writes
    assert bench.draw(7) == expected.randbytes(7)
    assert bench.submit((BUFFERS, 8, 0)) == (0, 0)  # nothing to write into
    # Of a request without measure it gives a part.
    head = [(BUFFERS, 0x8000, WRITE)] * 4
    assert bench.submit(*head) == (0, 0x1_0000)


def test_rng_state() -> None:
    bench = RngBench(random.Random(3))
    bench.draw(64)
    copy = RngBench(random.Random(4))
    copy.device.restore(bench.device.state())
    copy.ram.write(BASE, bench.ram.read(BASE, RAM_SIZE))
    copy.offered = bench.offered
    assert copy.draw(32) == bench.draw(32)
    with pytest.raises(ValueError, match="generator"):
        copy.device.restore(bench.device.state() | {"generator": [3, [1, 2], None]})
    real = RngBench(random.SystemRandom())
    assert real.draw(16) != real.draw(16)
    with pytest.raises(ValueError, match="real entropy"):
        copy.device.restore(real.device.state())
    real.device.restore(real.device.state())
