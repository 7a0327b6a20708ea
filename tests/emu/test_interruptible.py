"""Requests that take long end at the piece in which a stop was asked for, and go on later.

What is counted is the pieces of work behind the stop: none. How long a piece may be is asserted
in bytes.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from asm import Batch
from device_bench import BUFFERS, NEEDS_RESET, QUEUE_NOTIFY, STATUS, WRITE, Driver

from emu.board.devices.disk_image import DiskImage
from emu.board.devices.virtio_blk import VirtioBlk
from emu.board.devices.virtio_rng import VirtioRng
from emu.board.virt import VirtBoard
from emu.debug.snapshot import snapshot
from emu.debug.snapshot.snapshot import SnapshotError
from emu.ram import Ram
from emu.spec import words
from emu.stop import StopReason

MIB = 1 << 20
PIECE_MAX = MIB  # bytes: a tenth of a second is enough for it on the slowest disk
IN, OUT = 0, 1
RAM_SIZE = 32 * MIB
DISK_SIZE = 8 * MIB
REQUESTS, SIZE = 3, 5 * MIB // 2  # three pieces each
PIECES = 9
HEADERS, DATA = BUFFERS, BUFFERS + 0x10_0000

batch = Batch()
# Notifies a0, and does a little afterwards, as long as no interrupt comes.
KICK = batch("sw zero, 0x50(a0); 1: addi s0, s0, 1; addi a1, a1, -1; bnez a1, 1b; wfi")


class Disk(DiskImage):
    """Tells of each piece before it is done; ``sizes`` are those that were done."""

    def __init__(self, path: Path, before: Callable[[int], None]) -> None:
        super().__init__(path, "cow")
        self.sizes: list[int] = []
        self._before = before

    def read(self, buffers: Sequence[memoryview], position: int) -> None:
        self._before(len(self.sizes))
        self.sizes.append(sum(map(len, buffers)))
        super().read(buffers, position)

    def write(self, data: memoryview, position: int) -> None:
        self._before(len(self.sizes))
        self.sizes.append(len(data))
        super().write(data, position)


class Board:
    """The board whose disk's queue has three requests; it stops itself in piece ``stop_in``.

    ``kind``: IN or OUT. ``empty``: the board alone, to load a snapshot into.
    """

    def __init__(
        self, image: Path, access: str, kind: int, stop_in: int = -1, empty: bool = False
    ) -> None:
        self.stop_in = stop_in
        self.disk = Disk(image, self._before)
        self.machine = VirtBoard(
            RAM_SIZE, lambda data: None, [self.disk], deterministic=True, access=access
        )
        self.device = next(d for d in self.machine.devices if isinstance(d, VirtioBlk))
        if empty:
            return
        ram, w = self.machine.ram, self.machine.hart.words
        ram.write(ram.base, KICK.code)
        driver = Driver(ram, self.device, 16)
        driver.start()
        for i in range(REQUESTS):
            data, status = DATA + i * 4 * MIB, HEADERS + 32 * i + 16
            ram.write(HEADERS + 32 * i, struct.pack("<IIQ", kind, 0, 7 * i))
            ram.write(data, random.Random(i).randbytes(SIZE))
            flag = WRITE if kind == IN else 0
            # In two buffers, so that a piece ends in the midst of one.
            buffers = (data, 700_000, flag), (data + 700_000, SIZE - 700_000, flag)
            driver.chain((HEADERS + 32 * i, 16, 0), *buffers, (status, 1, WRITE), first=4 * i)
            driver.offer(4 * i)
        w[words.PC], w[words.A0], w[words.A1] = ram.base, self.device.base, 500

    def _before(self, number: int) -> None:
        if number == self.stop_in:
            self.machine.hart.stop()

    def everything(self) -> tuple[str, str]:
        """Without the time: a block of code before which the hart has stopped counts twice."""
        state = snapshot._state(self.machine, {})
        for name in ("mcycle", "minstret"):
            del state["harts"][0][name]
        del state["clock"]
        ram = self.machine.ram
        digest = hashlib.sha256(ram.read(ram.base, ram.size)).hexdigest()
        return json.dumps(state, default=bytes.hex, sort_keys=True), digest

    def close(self) -> None:
        self.machine.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(9).randbytes(DISK_SIZE))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("access", ["inside", "public"])
@pytest.mark.parametrize("kind", [IN, OUT])
def test_a_stop_in_any_piece(image: Path, tmp_path: Path, kind: int, access: str) -> None:
    """Nothing is done behind it; a snapshot of then, and the machine itself, go on alike."""
    straight = Board(image, access, kind)
    assert straight.machine.run().reason is StopReason.WFI
    assert max(straight.disk.sizes) <= PIECE_MAX and sum(straight.disk.sizes) == REQUESTS * SIZE
    wanted = straight.everything()
    count = len(straight.disk.sizes)
    assert count >= PIECES
    for stop_in in range(0, count, 1 if kind == IN else 4):
        first, second = Board(image, access, kind, stop_in), Board(image, access, kind, empty=True)
        assert first.machine.run().reason is StopReason.INTERRUPTED
        # A piece of OUT is as many writes as it has buffers.
        assert stop_in < len(first.disk.sizes) <= stop_in + (1 if kind == IN else 2)
        snapshot.save(first.machine, tmp_path / "midst")
        snapshot.load(second.machine, tmp_path / "midst")
        assert second.everything() == first.everything()
        for board in (first, second):
            board.stop_in = -1
            assert board.machine.run().reason is StopReason.WFI
            assert board.everything() == wanted
        for board in (first, second):
            board.close()
    straight.close()


def test_stopped_again_and_again(image: Path) -> None:
    """Each run does one piece, and no instruction of the guest until all are done: what it has
    done is the rest of the block that notified."""
    straight, board = Board(image, "inside", IN), Board(image, "inside", IN, 0)
    straight.machine.run()
    for done in range(PIECES - 1):
        board.stop_in = done
        assert board.machine.run().reason is StopReason.INTERRUPTED
        assert len(board.disk.sizes) == done + 1
        assert board.machine.hart.words[words.ABI_NAMES.index("s0")] == 1
    board.stop_in = -1
    assert board.machine.run().reason is StopReason.WFI
    assert board.everything() == straight.everything()
    for one in (straight, board):
        one.close()


def test_step_by_step(image: Path) -> None:
    """A step goes on with what is left, too: it comes before the next instruction."""
    straight, board = Board(image, "inside", IN), Board(image, "inside", IN, 4)
    straight.machine.run()
    assert board.machine.run().reason is StopReason.INTERRUPTED
    board.stop_in = -1
    before = board.machine.hart.pc
    assert board.machine.run(1).reason is StopReason.LIMIT
    assert len(board.disk.sizes) == PIECES and board.machine.hart.pc - before in (2, 4)
    assert board.machine.run().reason is StopReason.WFI
    assert board.everything() == straight.everything()
    for one in (straight, board):
        one.close()


def test_a_disk_that_fails_in_the_midst(image: Path) -> None:
    """Cut short by somebody: the request fails (status 1), and none of the others is lost."""
    board = Board(image, "inside", IN, 1)
    assert board.machine.run().reason is StopReason.INTERRUPTED
    image.write_bytes(image.read_bytes()[: 2 * MIB])
    board.stop_in = -1
    assert board.machine.run().reason is StopReason.WFI
    ram = board.machine.ram
    assert [ram.read8(HEADERS + 32 * i + 16) for i in range(REQUESTS)] == [1, 1, 1]
    board.close()


def test_a_reset_forgets_what_was_left(image: Path) -> None:
    board = Board(image, "inside", IN, 1)
    assert board.machine.run().reason is StopReason.INTERRUPTED
    board.machine.reset()
    board.stop_in = -1
    board.machine.hart.words[words.PC] = board.machine.ram.base + 4  # behind the notification
    board.machine.hart.words[words.A1] = 1
    assert board.machine.run().reason is StopReason.WFI
    assert len(board.disk.sizes) == 2
    board.close()


def test_many_small_requests(tmp_path: Path) -> None:
    """A stop between two of them: the others stand in the queue, none is lost or done twice."""
    image = tmp_path / "small"
    image.write_bytes(bytes(1 << 16))
    ram = Ram(1 << 20)
    device = VirtioBlk(0x1000_1000, ram, DiskImage(image))
    driver = Driver(ram, device, 256)
    driver.start()
    ram.write(BUFFERS, struct.pack("<IIQ", IN, 0, 0))
    driver.chain((BUFFERS, 16, 0), (BUFFERS + 0x1000, 512, WRITE), (BUFFERS + 16, 1, WRITE))
    asked = 0

    def stop_wanted() -> bool:
        nonlocal asked
        asked += 1
        return asked % 10 == 0

    device.stop_wanted = stop_wanted
    for _ in range(200):
        driver.offer(0)
    driver(QUEUE_NOTIFY, 0)
    done = [driver.used_index()]
    while device.state()["queues"][0]["ring"]["left"]:
        device.go_on()
        done.append(driver.used_index())
    assert done == [*range(9, 200, 9), 200]


def test_a_notification_beside_what_is_left(tmp_path: Path) -> None:
    """The rest of the block that notified may notify again."""
    image = tmp_path / "large"
    image.write_bytes(bytes(3 * MIB))
    ram = Ram(8 * MIB)
    device = VirtioBlk(0x1000_1000, ram, DiskImage(image))
    driver = Driver(ram, device, 16)
    driver.start()
    ram.write(BUFFERS, struct.pack("<IIQ", IN, 0, 0))
    driver.chain((BUFFERS, 16, 0), (BUFFERS + 0x1000, 3 * MIB, WRITE), (BUFFERS + 16, 1, WRITE))
    asked = iter([False, True, True])
    device.stop_wanted = lambda: next(asked)
    driver.offer(0)
    driver(QUEUE_NOTIFY, 0)
    driver.offer(0)
    driver(QUEUE_NOTIFY, 0)
    assert driver.used_index() == 0
    device.stop_wanted = lambda: False
    device.go_on()
    assert driver.used_index() == 2


def test_random_bytes_come_in_small_requests() -> None:
    ram = Ram(4 * MIB)
    generator = random.Random(3)
    device = VirtioRng(0x1000_1000, ram, generator)
    driver = Driver(ram, device, 16)
    driver.start()
    _, written = driver.submit((BUFFERS, 2 * MIB, WRITE))
    assert 0 < written <= PIECE_MAX
    asked = iter([False, True])
    device.stop_wanted = lambda: next(asked)
    for _ in range(2):
        driver.offer(0)
    driver(QUEUE_NOTIFY, 0)
    assert driver.used_index() == 2 and device.state()["queues"][0]["ring"]["left"] == 1


def damage(state: dict[str, Any], *keys: Any, value: Any) -> dict[str, Any]:
    """A copy of ``state`` with another value at the end of ``keys``."""
    copy = json.loads(json.dumps(state, default=lambda data: {"hex": data.hex()}))
    copy = _bytes_again(copy)
    place = copy
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return copy  # type: ignore[no-any-return]


def _bytes_again(value: Any) -> Any:
    if isinstance(value, list):
        return [_bytes_again(item) for item in value]
    if isinstance(value, dict):
        if set(value) == {"hex"}:
            return bytes.fromhex(value["hex"])
        return {key: _bytes_again(item) for key, item in value.items()}
    return value


@pytest.mark.parametrize(
    ("keys", "values"),
    [
        (("left",), [-1, 17, "1", None, 0]),
        (("chain",), [[], 3, {}]),
        (("chain", "head"), [16, -1, None]),
        (("chain", "readable"), [[[0x8000_0000]], [[0, 1]], [[0x8000_0000, 0]], 5, [[0] * 3]]),
        (("chain", "writable"), [[[0x81FF_FFFF, 2]], [[0x8000_0000, 1]] * 300]),
        (("chain", "header"), ["x", bytes(17), None]),
        (("chain", "done"), [-1, 1 << 30, None]),
    ],
)
def test_what_a_snapshot_says_is_left(
    image: Path, keys: tuple[str, ...], values: list[Any]
) -> None:
    board = Board(image, "inside", IN, 1)
    board.machine.run()
    state = board.device.state()
    assert state["queues"][0]["ring"]["left"] == REQUESTS
    for value in values:
        bad = damage(state, "queues", 0, "ring", *keys, value=value)
        with pytest.raises((ValueError, KeyError)):
            board.device.restore(bad)
    board.device.restore(damage(state, "queues", 0, "ring", "chain", "header", value=b"short"))
    board.stop_in = -1
    assert board.machine.run().reason is StopReason.WFI
    assert not board.device.read(STATUS, 4) & NEEDS_RESET
    board.close()


def test_a_snapshot_of_the_midst_needs_its_disk(image: Path, tmp_path: Path) -> None:
    board = Board(image, "inside", IN, 1)
    board.machine.run()
    snapshot.save(board.machine, tmp_path / "midst")
    bare = VirtBoard(RAM_SIZE, lambda data: None, deterministic=True)
    with pytest.raises(SnapshotError, match="no device virtio-blk"):
        snapshot.load(bare, tmp_path / "midst")
    for machine in (board.machine, bare):
        machine.close()
