"""virtio block device: a disk image behind one request queue.

A request, whatever its cut into buffers:

    readable  type u32, reserved u32, sector u64   then, for OUT, the data
    writable  for IN and GET_ID the data           then one byte of status

Source: virtio 1.2, section 5.2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from emu.board.devices.disk_image import SECTOR_SIZE, DiskImage
from emu.board.devices.virtio_mmio import Virtio
from emu.board.devices.virtqueue import Chain, Segment, VirtqueueError, part, take
from emu.ram import Ram

_F_SEG_MAX, _F_RO, _F_BLK_SIZE, _F_FLUSH = 1 << 2, 1 << 5, 1 << 6, 1 << 9
_IN, _OUT, _FLUSH, _GET_ID = 0, 1, 4, 8
_OK, _IOERR, _UNSUPP = 0, 1, 2
_HEADER_SIZE, _ID_SIZE = 16, 20  # bytes
_QUEUE_SIZE = 256
_PIECE_SIZE = 1 << 20  # bytes moved at once: about a millisecond


def _size(segments: list[Segment]) -> int:
    return sum(size for _, size in segments)


class VirtioBlk(Virtio):
    """``disk`` as a block device; ``serial`` is what GET_ID answers (20 bytes at most)."""

    name = "virtio-blk"
    outside: tuple[str, ...] = ("disk",)
    device_id = 2
    queue_sizes = (_QUEUE_SIZE,)

    def __init__(
        self,
        base: int,
        ram: Ram,
        disk: DiskImage,
        on_irq: Callable[[bool], None] = lambda level: None,
        written: Callable[[int, int], None] = lambda pa, size: None,
        serial: bytes = b"pagewalk",
        legacy: bool = False,
    ) -> None:
        # capacity (sectors), size_max, seg_max, geometry, blk_size: the head of
        # struct virtio_blk_config. The header and the status take two descriptors.
        seg_max = _QUEUE_SIZE - 2
        config = struct.pack("<QIIII", disk.size // SECTOR_SIZE, 0, seg_max, 0, SECTOR_SIZE)
        features = _F_SEG_MAX | _F_BLK_SIZE | _F_FLUSH | (_F_RO if disk.is_readonly else 0)
        super().__init__(base, ram, on_irq, written, features, config, legacy)
        self.disk = disk
        self._serial = serial[:_ID_SIZE].ljust(_ID_SIZE, b"\0")
        self._bytes = ram.u64.cast("B")

    def _view(self, segment: Segment) -> memoryview:
        start = segment[0] - self.ram.base
        return self._bytes[start : start + segment[1]]

    def serve(self, queue: int, chain: Chain) -> int | None:
        header, sent = take(chain.readable, _HEADER_SIZE)
        if not chain.writable:
            raise VirtqueueError("a block request without a byte for its status")
        if (
            len(chain.header) != _HEADER_SIZE
        ):  # read once: a request may be told to write over itself
            chain.header = b"".join(self._view(s) for s in header)
        kind, _, sector = struct.unpack("<IIQ", chain.header)
        pa, extent = chain.writable[-1]
        wanted = chain.writable[:-1]
        if extent > 1:
            wanted.append((pa, extent - 1))
        status_pa = pa + extent - 1
        if kind == _IN:
            status = self._transfer(chain, sector * SECTOR_SIZE, wanted, self._read)
            written = _size(wanted) if status == _OK else 0
        elif kind == _OUT:
            status = self._transfer(chain, sector * SECTOR_SIZE, sent, self._write)
            written = 0
        elif kind == _FLUSH:
            status, written = _OK, 0  # what was written stands in memory, and nowhere else
        elif kind == _GET_ID:
            status, written = self._get_id(wanted)
        else:
            status, written = _UNSUPP, 0
        if status is None:
            return None
        self.ram.write8(status_pa, status)
        self.written(status_pa, 1)
        # `written` bytes stand at the front: the status counts if nothing lies before it.
        return written + 1 if written == _size(wanted) else written

    def _transfer(
        self,
        chain: Chain,
        position: int,
        segments: list[Segment],
        move: Callable[[list[Segment], int], None],
    ) -> int | None:
        """Move the next piece of ``segments``; the status, None while there is more."""
        total = _size(segments)
        if total % SECTOR_SIZE or position + total > self.disk.size:
            return _IOERR
        piece = part(segments, chain.done, _PIECE_SIZE)
        try:
            move(piece, position + chain.done)
        except OSError:
            return _IOERR
        chain.done += _size(piece)
        return _OK if chain.done >= total else None

    def _read(self, wanted: list[Segment], position: int) -> None:
        try:
            self.disk.read([self._view(segment) for segment in wanted], position)
        finally:  # a read that failed may have got somewhere
            for pa, size in wanted:
                self.written(pa, size)

    def _write(self, sent: list[Segment], position: int) -> None:
        for segment in sent:
            self.disk.write(self._view(segment), position)
            position += segment[1]

    def _get_id(self, wanted: list[Segment]) -> tuple[int, int]:
        try:
            room, _ = take(wanted, _ID_SIZE)
        except VirtqueueError:
            return _IOERR, 0
        done = 0
        for pa, size in room:
            self.ram.write(pa, self._serial[done : done + size])
            self.written(pa, size)
            done += size
        return _OK, done

    FIELDS = (*Virtio.FIELDS, "disk")

    @property
    def bytes_max(self) -> int:
        return super().bytes_max + self.disk.bytes_max

    def state(self) -> dict[str, Any]:
        return super().state() | {"disk": self.disk.state()}

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        registers = super().prepare(state)
        disk = self.disk.prepare(state["disk"])

        def apply() -> None:
            registers()
            disk()

        return apply
