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

from emu.devices.disk_image import SECTOR_SIZE, DiskImage
from emu.devices.virtio_mmio import Virtio
from emu.devices.virtqueue import Chain, Segment, VirtqueueError, take
from emu.ram import Ram

_F_SEG_MAX, _F_RO, _F_BLK_SIZE, _F_FLUSH = 1 << 2, 1 << 5, 1 << 6, 1 << 9
_IN, _OUT, _FLUSH, _GET_ID = 0, 1, 4, 8
_OK, _IOERR, _UNSUPP = 0, 1, 2
_HEADER_SIZE, _ID_SIZE = 16, 20  # bytes
_QUEUE_SIZE = 256


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
    ) -> None:
        # capacity (sectors), size_max, seg_max, geometry, blk_size: the head of
        # struct virtio_blk_config. The header and the status take two descriptors.
        seg_max = _QUEUE_SIZE - 2
        config = struct.pack("<QIIII", disk.size // SECTOR_SIZE, 0, seg_max, 0, SECTOR_SIZE)
        features = _F_SEG_MAX | _F_BLK_SIZE | _F_FLUSH | (_F_RO if disk.is_readonly else 0)
        super().__init__(base, ram, on_irq, written, features, config)
        self.disk = disk
        self._serial = serial[:_ID_SIZE].ljust(_ID_SIZE, b"\0")
        self._bytes = ram.u64.cast("B")

    def _view(self, segment: Segment) -> memoryview:
        start = segment[0] - self.ram.base
        return self._bytes[start : start + segment[1]]

    def serve(self, queue: int, chain: Chain) -> int:
        header, sent = take(chain.readable, _HEADER_SIZE)
        if not chain.writable:
            raise VirtqueueError("a block request without a byte for its status")
        kind, _, sector = struct.unpack("<IIQ", b"".join(self._view(s) for s in header))
        pa, extent = chain.writable[-1]
        wanted = chain.writable[:-1]
        if extent > 1:
            wanted.append((pa, extent - 1))
        status_pa = pa + extent - 1
        status, written = self._do(kind, sector * SECTOR_SIZE, sent, wanted)
        self.ram.write8(status_pa, status)
        self.written(status_pa, 1)
        # `written` bytes stand at the front: the status counts if nothing lies before it.
        return written + 1 if written == sum(size for _, size in wanted) else written

    def _do(
        self, kind: int, position: int, sent: list[Segment], wanted: list[Segment]
    ) -> tuple[int, int]:
        """The status of a request, and how many bytes of ``wanted`` were written."""
        if kind == _IN:
            return self._transfer(lambda: self._read(position, wanted), wanted)
        if kind == _OUT:
            return self._transfer(lambda: self._write(position, sent), sent)
        if kind == _FLUSH:
            return _OK, 0  # what was written stands in memory, and nowhere else
        if kind == _GET_ID:
            return self._get_id(wanted)
        return _UNSUPP, 0

    def _transfer(self, action: Callable[[], int], segments: list[Segment]) -> tuple[int, int]:
        if sum(size for _, size in segments) % SECTOR_SIZE:
            return _IOERR, 0
        try:
            return _OK, action()
        except OSError:
            return _IOERR, 0

    def _read(self, position: int, wanted: list[Segment]) -> int:
        try:
            self.disk.read([self._view(segment) for segment in wanted], position)
        finally:  # a read that failed may have got somewhere
            for pa, size in wanted:
                self.written(pa, size)
        return sum(size for _, size in wanted)

    def _write(self, position: int, sent: list[Segment]) -> int:
        for segment in sent:
            self.disk.write(self._view(segment), position)
            position += segment[1]
        return 0

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

    def state(self) -> dict[str, Any]:
        return super().state() | {"disk": self.disk.state()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.disk.restore(state["disk"])
