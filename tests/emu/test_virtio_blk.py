"""The virtio block device, by requests that a driver would put into its queue."""

from __future__ import annotations

import json
import os
import random
import struct
from pathlib import Path

import pytest
from device_bench import (
    BASE,
    BUFFERS,
    CONFIG,
    DEVICE_ID,
    INTERRUPT_STATUS,
    NEEDS_RESET,
    QUEUE_NOTIFY,
    QUEUE_NUM_MAX,
    STATUS,
    WRITE,
    Driver,
)  # fmt: skip

from emu.board.devices.disk_image import DiskImage
from emu.board.devices.virtio_blk import VirtioBlk
from emu.ram import Ram

IN, OUT, FLUSH, GET_ID, DISCARD = 0, 1, 4, 8, 11
OK, IOERR, UNSUPP = 0, 1, 2
SECTORS = 21  # not whole pages
HEADER, STATUS_BYTE, DATA = BUFFERS, BUFFERS + 0x100, BUFFERS + 0x1000


class Bench(Driver):
    def __init__(self, path: Path, mode: str = "cow") -> None:
        self.writes: list[tuple[int, int]] = []
        self.disk = DiskImage(path, mode)
        ram = Ram(1 << 20)
        device = VirtioBlk(
            0x1000_1000, ram, self.disk, written=lambda pa, n: self.writes.append((pa, n))
        )
        super().__init__(ram, device)
        self.start()

    def request(self, kind: int, sector: int, *data: tuple[int, int, int]) -> tuple[int, int]:
        """One request with the usual cut; its status and the length in the used ring."""
        self.ram.write(HEADER, struct.pack("<IIQ", kind, 0, sector))
        self.ram.write8(STATUS_BYTE, 0xEE)
        _, written = self.submit((HEADER, 16, 0), *data, (STATUS_BYTE, 1, WRITE))
        return self.ram.read8(STATUS_BYTE), written

    def read(self, sector: int, count: int) -> bytes:
        size = 512 * count
        assert self.request(IN, sector, (DATA, size, WRITE)) == (OK, size + 1)
        return self.ram.read(DATA, size)

    def write(self, sector: int, data: bytes) -> int:
        self.ram.write(DATA, data)
        status, written = self.request(OUT, sector, (DATA, len(data), 0))
        assert written == 1
        return status


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(9).randbytes(SECTORS * 512))
    return path


def test_identity(image: Path) -> None:
    bench = Bench(image)
    assert bench(DEVICE_ID) == 2 and bench(QUEUE_NUM_MAX) == 256
    # capacity, size_max, seg_max, geometry, blk_size
    config = [bench(CONFIG + 4 * i) for i in range(7)]
    assert config == [SECTORS, 0, 0, 254, 0, 512, 0]
    common = 1 << 32 | 1 << 28 | 1 << 9 | 1 << 6 | 1 << 2
    assert bench.features() == common
    assert Bench(image, "ro").features() == common | 1 << 5


def test_read(image: Path) -> None:
    bench = Bench(image)
    content = image.read_bytes()
    assert bench.read(0, 1) == content[:512]
    assert bench.read(3, 12) == content[3 * 512 : 15 * 512]
    assert bench.read(0, SECTORS) == content
    assert (DATA, SECTORS * 512) in bench.writes and (STATUS_BYTE, 1) in bench.writes
    assert bench(INTERRUPT_STATUS) == 1


def test_copy_on_write_leaves_the_file_alone(image: Path) -> None:
    before = image.read_bytes()
    bench = Bench(image)
    model = bytearray(before)
    rng = random.Random(5)
    for _ in range(300):
        sector = rng.randrange(SECTORS)
        count = rng.randint(1, SECTORS - sector)
        if rng.randrange(3):
            data = rng.randbytes(512 * count)
            assert bench.write(sector, data) == OK
            model[512 * sector : 512 * (sector + count)] = data
        else:
            assert bench.read(sector, count) == model[512 * sector : 512 * (sector + count)]
    assert bench.read(0, SECTORS) == model
    assert bench.request(FLUSH, 0) == (OK, 1)
    assert image.read_bytes() == before and model != before


def test_a_part_of_a_page_is_written(image: Path) -> None:
    content = bytearray(image.read_bytes())
    bench = Bench(image)
    bench.write(1, b"A" * 512)
    content[512:1024] = b"A" * 512
    bench.write(20, b"B" * 512)  # the last page is short
    content[20 * 512 :] = b"B" * 512
    assert bench.read(0, SECTORS) == content


def test_requests_in_odd_pieces(image: Path) -> None:
    """The cut into buffers says nothing (section 2.7.4.2)."""
    bench = Bench(image)
    content = image.read_bytes()
    bench.ram.write(HEADER, struct.pack("<IIQ", IN, 0, 2))
    _, written = bench.submit(
        (HEADER, 5, 0), (HEADER + 5, 11, 0), (DATA, 100, WRITE), (DATA + 200, 413, WRITE)
    )
    assert written == 513
    assert bench.ram.read(DATA, 100) + bench.ram.read(DATA + 200, 412) == content[1024:1536]
    assert bench.ram.read8(DATA + 612) == OK
    # A write whose data follows the header in one buffer.
    bench.ram.write(HEADER, struct.pack("<IIQ", OUT, 0, 2) + b"w" * 512)
    assert bench.submit((HEADER, 528, 0), (DATA, 1, WRITE)) == (0, 1)
    assert bench.ram.read8(DATA) == OK and bench.read(2, 1) == b"w" * 512


def test_get_id(image: Path) -> None:
    bench = Bench(image)
    assert bench.request(GET_ID, 0, (DATA, 20, WRITE)) == (OK, 21)
    assert bench.ram.read(DATA, 20) == b"pagewalk".ljust(20, b"\0")
    assert bench.request(GET_ID, 0, (DATA, 19, WRITE)) == (IOERR, 0)


def test_errors_are_statuses(image: Path) -> None:
    bench = Bench(image)
    data = (DATA, 512, WRITE)
    assert bench.request(DISCARD, 0, data) == (UNSUPP, 0)
    assert bench.request(0xFFFF_FFFF, 0) == (UNSUPP, 1)
    for sector in (SECTORS, SECTORS - 1 + (1 << 55), (1 << 64) - 1):
        assert bench.request(IN, sector, data) == (IOERR, 0)
        assert bench.request(OUT, sector, (DATA, 512, 0)) == (IOERR, 1)
    assert bench.request(IN, SECTORS - 1, (DATA, 1024, WRITE)) == (IOERR, 0)
    assert bench.request(IN, 0, (DATA, 511, WRITE)) == (IOERR, 0)
    assert bench.request(OUT, 0, (DATA, 513, 0)) == (IOERR, 1)
    assert bench.request(IN, 0) == (OK, 1)
    assert not bench(STATUS) & NEEDS_RESET
    assert bench.read(0, SECTORS) == image.read_bytes()


def test_read_only(image: Path) -> None:
    bench = Bench(image, "ro")
    assert bench.write(0, b"x" * 512) == IOERR
    assert bench.read(0, SECTORS) == image.read_bytes()


def test_a_request_without_header_or_status_needs_a_reset(image: Path) -> None:
    for buffers in (
        [(HEADER, 15, 0), (STATUS_BYTE, 1, WRITE)], [(HEADER, 16, 0)], [(DATA, 513, WRITE)]
    ):  # fmt: skip
        bench = Bench(image)
        bench.chain(*buffers)
        bench.offer(0)
        bench(QUEUE_NOTIFY, 0)
        assert bench(STATUS) & NEEDS_RESET and bench.used_index() == 0
        assert bench(INTERRUPT_STATUS) == 2 and bench.device.error


def test_an_image_truncated_under_the_machine(image: Path) -> None:
    """A mapped file would end the process here."""
    bench = Bench(image)
    bench.write(0, b"k" * 4096)
    os.truncate(image, 8192)
    assert bench.read(0, 8) == b"k" * 4096
    assert bench.request(IN, 16, (DATA, 512, WRITE)) == (IOERR, 0)
    assert bench.write(17, b"x" * 512) == IOERR
    bench.disk.state()


def test_images_that_are_none(tmp_path: Path, image: Path) -> None:
    empty, odd, fifo = tmp_path / "empty", tmp_path / "odd", tmp_path / "fifo"
    empty.touch()
    odd.write_bytes(bytes(513))
    os.mkfifo(fifo)
    for path, why in (
        (tmp_path / "nothing", "No such file or directory"),
        (tmp_path, "is a directory"),
        (empty, "is empty"),
        (odd, "513 bytes are not whole sectors of 512"),
        (fifo, "is not a regular file"),
        (image / "below", "Not a directory"),
        (Path("/dev/zero"), "is not a regular file"),
    ):
        for mode in ("ro", "cow"):
            with pytest.raises(ValueError) as error:
                DiskImage(path, mode)
            assert str(error.value) == f"disk {path}: {why}"
    with pytest.raises(ValueError, match="null"):
        DiskImage("a\0b")
    with pytest.raises(ValueError, match="disk mode 'rw': ro or cow"):
        DiskImage(image, "rw")


def test_state_keeps_what_differs_from_the_file(image: Path) -> None:
    bench = Bench(image)
    content = image.read_bytes()
    bench.write(0, b"1" * 512)
    bench.write(8, content[8 * 512 : 16 * 512])  # page 1, as it was
    bench.write(20, b"2" * 512)
    state = bench.device.state()
    disk = state["disk"]
    assert (disk["path"], disk["size"]) == (str(image), SECTORS * 512)
    assert disk["pages"] == struct.pack("<2Q", 0, 2)
    assert len(disk["content"]) == 4096 + 5 * 512
    assert len(disk["pages"] + disk["content"]) <= bench.disk.bytes_max
    assert json.dumps(state, default=bytes.hex)  # JSON's types and bytes

    moved = image.with_name("moved.img")
    moved.write_bytes(content)
    copy = Bench(moved)
    copy.write(3, b"not kept" * 64)
    copy.ram.write(BASE, bench.ram.read(BASE, bench.ram.size))
    copy.device.restore(state)
    copy.offered = bench.offered
    assert copy.read(0, SECTORS) == bench.read(0, SECTORS)
    assert copy.device.state() | {"disk": 0} == bench.device.state() | {"disk": 0}


def test_state_that_does_not_fit(image: Path) -> None:
    bench = Bench(image)
    bench.write(0, b"1" * 512)
    state = bench.device.state()
    with pytest.raises(ValueError, match="read-only, saved with changes"):
        Bench(image, "ro").device.restore(state)
    small = image.with_name("small.img")
    small.write_bytes(bytes(512))
    with pytest.raises(ValueError, match="512 bytes, saved with 10752"):
        Bench(small).device.restore(state)
    for numbers, content in (
        ([0], b"x"), ([3], b""), ([99], bytes(4096)), ([0, 0], bytes(8192)),
        ([1, 0], bytes(8192)), ([0, 1, 2], bytes(12288)), ([1 << 63], bytes(4096)),
    ):  # fmt: skip
        wrong = {"pages": struct.pack(f"<{len(numbers)}Q", *numbers), "content": content}
        with pytest.raises(ValueError, match="saved"):
            bench.disk.restore(state["disk"] | wrong)
    for key, value in (("pages", b"7 bytes"), ("pages", []), ("content", "text"), ("path", 7)):
        with pytest.raises(ValueError, match="saved"):
            bench.disk.restore(state["disk"] | {key: value})
    with pytest.raises(KeyError):
        bench.disk.restore({})
    assert bench.read(0, 1) == b"1" * 512  # what was refused changed nothing
