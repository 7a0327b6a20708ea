"""Snapshots from strangers: each loads, and the machine is what it says, or nothing changes.

A seeded and counted fuzz of the file of a busy board: a disk that was written, a request in the
works, random numbers that go on, an SBI in Python.
"""

from __future__ import annotations

import copy
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from device_bench import BUFFERS, QUEUE_NOTIFY, WRITE, Driver

from emu.board.devices.disk_image import DiskImage
from emu.board.devices.virtio_blk import VirtioBlk
from emu.board.virt import VirtBoard
from emu.debug.snapshot import file as snapshot_file
from emu.debug.snapshot import snapshot
from emu.debug.snapshot.snapshot import SnapshotError
from emu.spec import words
from firmware.sbi import Sbi

SIZE = 4 << 20
# Registers that keep of a value what they have bits for (WARL); in the words of hart_state.
WARL = (
    "fcsr", "mcounteren", "scounteren", "menvcfg", "senvcfg", "stimecmp", "pmpcfg", "pmpaddr",
    "mcycle", "minstret", "wires", "written",
)  # fmt: skip
LEAVES: list[Any] = [
    None, True, -1, 0, 1, 7, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1, 1 << 64,
    1 << 200, 1.5, float("nan"), float("inf"), "", "x", "x" * 5000, "two\nlines", [], [[]], [0],
    {}, {"a": {}}, {"$bytes": [0, 1]}, {"$bytes": [0, 1 << 40]}, {"$bytes": [-1, 2]},
    {"$bytes": [0, 0]}, {"$bytes": 3}, {"$bytes": [0]}, {"$bytes": [0, 1], "more": 1},
    [1] * 5000,
]  # fmt: skip


class Board:
    """One board with its SBI; ``image``: all that a load could change, to the bit."""

    def __init__(self, disk: Path, access: str) -> None:
        self.machine = VirtBoard(
            SIZE, lambda data: None, [DiskImage(disk, "cow")], deterministic=True, access=access
        )
        hart = self.machine.hart
        sbi = Sbi(hart, self.machine.ram, lambda data: None, clock=self.machine.clock)
        hart.handlers[3] = sbi.handle
        self.parts = {"sbi": sbi}

    def image(self) -> tuple[str, int]:
        ram = self.machine.ram
        state = snapshot._state(self.machine, self.parts)
        text = json.dumps(state, default=bytes.hex, sort_keys=True)
        return text, zlib.crc32(ram.read(ram.base, ram.size))

    def load(self, path: Path) -> None:
        snapshot.load(self.machine, path, parts=self.parts)

    def save(self, path: Path) -> None:
        snapshot.save(self.machine, path, parts=self.parts)

    def work(self, seed: int) -> None:
        """Something in each device, a request in the midst, and some pages of RAM."""
        rng = random.Random(seed)
        machine = self.machine
        for _ in range(20):
            machine.ram.write(machine.ram.base + rng.randrange(SIZE - 64), rng.randbytes(64))
        machine.disks[0].write(memoryview(rng.randbytes(9000)), 512 * rng.randrange(64))
        machine.uart.receive(rng.randbytes(40))
        machine.uart.write(1, 1, 5)
        machine.clint.write(0x4000, 4, rng.randrange(1 << 31))
        machine.plic.write(4, 4, 3)
        machine.plic.write(0x2000, 4, 0xFFFE)
        machine.rtc.write(8, 4, rng.randrange(1 << 31))
        machine.rtc.write(12, 4, 1 << 30)
        machine.random.random()
        device = next(d for d in machine.devices if isinstance(d, VirtioBlk))
        driver = Driver(machine.ram, device, 8)
        driver.start()
        machine.ram.write(BUFFERS, struct.pack("<IIQ", 0, 0, 0))
        data = (BUFFERS + 0x1000, 3 << 19, WRITE)
        driver.chain((BUFFERS, 16, 0), data, (BUFFERS + 0x800, 1, WRITE))
        asked = iter([False, True])
        wanted, device.stop_wanted = device.stop_wanted, lambda: next(asked)
        driver.offer(0)
        driver(QUEUE_NOTIFY, 0)
        device.stop_wanted = wanted
        w = machine.hart.words
        for i in range(1, 64):
            w[i] = rng.getrandbits(64)
        w[words.PC] = machine.ram.base + 2 * rng.randrange(1000)

    def close(self) -> None:
        self.machine.close()


class Fuzz:
    """The good file, in pieces, and a board that is something else."""

    def __init__(self, folder: Path, access: str) -> None:
        disk = folder / "disk"
        disk.write_bytes(random.Random(1).randbytes(2 << 20))
        self.make: Callable[[], Board] = lambda: Board(disk, access)
        first, self.board = self.make(), self.make()
        first.work(1)
        self.path, self.other = folder / "good", folder / "other"
        first.save(self.path)
        first.close()
        self.board.work(2)
        self.board.save(self.other)
        self.before = self.board.image()
        self.good = self.path.read_bytes()
        size = struct.unpack_from("<I", self.good, 12)[0]
        self.header = json.loads(self.good[20 : 20 + size])
        self.blocks = self.good[20 + size :]
        self.loaded = self.refused = 0

    def with_header(self, header: Any) -> bytes:
        text = json.dumps(header).encode()
        start = struct.pack(
            "<8sIII", b"pagewalk", snapshot_file.VERSION, len(text), zlib.crc32(text)
        )
        return start + text + self.blocks

    def attempt(self, data: bytes) -> None:
        """The property."""
        self.path.write_bytes(data)
        try:
            self.board.load(self.path)
        except SnapshotError as e:
            text = str(e)
            assert 0 < len(text) < 1000 and "\n" not in text
            assert self.board.image() == self.before
            self.refused += 1
            return
        self.loaded += 1
        with snapshot_file.Reader(self.path) as reader:
            wanted = reader.state(lambda done, total: None, 1 << 30)
        found = snapshot._state(self.board.machine, self.board.parts)
        if wanted["clock"]["executed"] is None:  # of a machine in real time: it has no such count
            found["clock"]["executed"] = None
        assert plain(found) == plain(wanted)
        try:
            self.board.load(self.other)
        except SnapshotError as e:
            assert "locked" in str(e)
            self.board.close()
            self.board = self.make()
            self.board.load(self.other)
        assert self.board.image() == self.before

    def paths(self) -> list[tuple[Any, ...]]:
        """Every field of the header, and every item of a list."""
        found: list[tuple[Any, ...]] = []

        def visit(value: Any, path: tuple[Any, ...]) -> None:
            if path:
                found.append(path)
            items: Any = ()
            if isinstance(value, dict):
                items = value.items()
            elif isinstance(value, list):
                items = enumerate(value)
            for key, item in items:
                visit(item, (*path, key))

        visit(self.header, ())
        return found


def plain(state: dict[str, Any]) -> str:
    """For comparison: without what the machine is not made of, or may keep less of."""
    kept = copy.deepcopy(state)
    del kept["missing"]
    for name in WARL:
        kept["harts"][0].pop(name, None)
    now = kept["clock"]["now"]
    kept["devices"] = [device for device in kept["devices"] if device["state"]]
    for device in kept["devices"]:
        fields = device["state"]
        if device["name"] == "uart":  # what waits is moved into the FIFO as there is room
            fields["fifo"] += fields.pop("queue")
        elif device["name"] == "virtio-blk":
            del fields["disk"]["path"]  # the file may have moved
        elif device["name"] == "clint":  # an alarm whose time has come rings at once
            [when] = fields["mtimecmp"]
            fields["mtip"] = [fields["mtip"][0] or when <= now]
        elif device["name"] == "rtc" and fields["alarm_is_set"]:
            due = fields["alarm_ns"] <= (fields["epoch_ns"] + 100 * now) % (1 << 64)
            fields["alarm_is_set"], fields["pending"] = not due, fields["pending"] or due
    timer = kept["parts"]["sbi"]["timer"]
    if timer["when"] is not None and timer["when"] <= now:
        timer["when"] = None
    return json.dumps(kept, default=bytes.hex, sort_keys=True)


@pytest.fixture(params=["inside", "public"])
def fuzz(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fuzz]:
    made = Fuzz(tmp_path, request.param)
    yield made
    made.board.close()


def damage(header: dict[str, Any], path: tuple[Any, ...], rng: random.Random) -> None:
    """One field: another value, none, one more beside it, or one of another field."""
    place: Any = header
    for key in path[:-1]:
        place = place[key]
    key, how = path[-1], rng.randrange(10)
    if how == 0:
        del place[key]
    elif how == 1 and isinstance(place, dict):
        place[rng.choice(["more", "", "$bytes", "x" * 300])] = rng.choice(LEAVES)
    elif how == 2 and isinstance(place, list):
        place.append(rng.choice(LEAVES))
    elif how == 3 and type(place[key]) is int:
        place[key] ^= 1 << rng.randrange(70)
    elif how == 4:
        place[key] = [place[key]]
    elif how == 5:
        place[key] = {"nested": place[key]}
    else:
        place[key] = copy.deepcopy(rng.choice(LEAVES))


def test_the_good_one_loads(fuzz: Fuzz) -> None:
    fuzz.attempt(fuzz.good)
    fuzz.attempt(fuzz.with_header(fuzz.header))
    assert fuzz.loaded == 2


@pytest.mark.parametrize(
    ("seed", "count"), [(20, 500), pytest.param(23, 5000, marks=pytest.mark.slow)]
)
def test_fields(fuzz: Fuzz, seed: int, count: int) -> None:
    """Fields that are alone in their list or dict come as often as one of a thousand."""
    rng = random.Random(seed)
    groups: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for path in fuzz.paths():
        group = (*path[:-1], "*") if isinstance(path[-1], int) else path
        groups.setdefault(group, []).append(path)
    names = list(groups)
    assert len(names) > 150
    for n in range(count):
        header = copy.deepcopy(fuzz.header)
        group = names[n % len(names)] if n < 2 * len(names) else rng.choice(names)
        damage(header, rng.choice(groups[group]), rng)
        fuzz.attempt(fuzz.with_header(header))
    assert fuzz.refused > count // 2 and fuzz.loaded > count // 30


def test_bytes_of_the_file(fuzz: Fuzz) -> None:
    """Flipped, cut, doubled, without a checksum that was made right: none loads."""
    rng = random.Random(21)
    for _ in range(300):
        bad = bytearray(fuzz.good)
        at, size = rng.randrange(len(bad)), rng.randrange(1, 40)
        how = rng.randrange(4)
        if how == 0:
            bad[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            del bad[at:]
        elif how == 2:
            bad[at:at] = bad[at : at + size]
        else:
            bad[at : at + size] = rng.randbytes(size)
        if bad != fuzz.good:
            fuzz.attempt(bytes(bad))
    assert fuzz.loaded == 0


@pytest.mark.slow
def test_blocks_with_right_checksums(fuzz: Fuzz) -> None:
    """What is stored in a block, and its size, are a stranger's too."""
    rng = random.Random(22)
    whole, at = [], 0
    while at < len(fuzz.blocks):
        size, stored_size, _ = struct.unpack_from("<III", fuzz.blocks, at)
        whole.append((size, fuzz.blocks[at + 12 : at + 12 + stored_size]))
        at += 12 + stored_size
    start = fuzz.good[: len(fuzz.good) - len(fuzz.blocks)]
    for _ in range(200):
        blocks = list(whole)
        n, how = rng.randrange(len(blocks)), rng.randrange(7)
        size, stored = blocks[n]
        content = zlib.decompress(stored) if size else b""
        if how == 0:
            blocks[n] = (rng.choice([0, 1, size + 1, max(size - 1, 0), 1 << 20, 1 << 31]), stored)
        elif how == 1:
            blocks[n] = (size, zlib.compress(content + bytes(rng.choice([1, 4104, 1 << 22]))))
        elif how == 2:
            blocks[n] = (size, rng.randbytes(rng.randrange(100)))
        elif how == 3:
            blocks.insert(n, blocks[n])
        elif how == 4:
            del blocks[n]
        elif how == 5 and len(content) >= 8:
            index = rng.choice([0, 1, SIZE >> 12, 1 << 40, 1 << 63, (1 << 64) - 1])
            changed = struct.pack("<Q", index) + content[8:]
            blocks[n] = (size, zlib.compress(changed))
        else:
            rng.shuffle(blocks)
        data = b"".join(
            struct.pack("<III", size, len(s), zlib.crc32(s, zlib.crc32(size.to_bytes(4, "little"))))
            + s
            for size, s in blocks
        )
        fuzz.attempt(start + data)
    assert fuzz.refused > 100
