"""virtio over MMIO: the registers between a driver and a device, without the device.

A concrete device extends `Virtio`: it names its ``device_id``, the largest size of each of
its queues, its features and configuration space, and serves one request at a time. `Virtio`
itself is an empty slot (device ID 0), which drivers pass over.

A driver that breaks a rule finds DEVICE_NEEDS_RESET in the status and, when it was running,
a configuration interrupt; the device then does nothing until it is reset.

The registers are those of version 2, or, where the board was asked for it, of version 1: see
`emu.board.devices.virtio_legacy` for what differs.

Source: virtio 1.2, sections 2.1 (status), 2.2 (features), 4.2 (MMIO, version 2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emu.board.devices import saved, virtio_legacy
from emu.board.devices.virtio_legacy import LegacyPlace
from emu.board.devices.virtqueue import HEADER_SIZE_MAX, Chain, Virtqueue, VirtqueueError
from emu.ram import Ram

_MAGIC, _VERSION, _DEVICE_ID, _VENDOR_ID = 0x0, 0x4, 0x8, 0xC
_DEVICE_FEATURES, _DEVICE_FEATURES_SEL = 0x10, 0x14
_DRIVER_FEATURES, _DRIVER_FEATURES_SEL = 0x20, 0x24
_QUEUE_SEL, _QUEUE_NUM_MAX, _QUEUE_NUM, _QUEUE_READY = 0x30, 0x34, 0x38, 0x44
_QUEUE_NOTIFY, _INTERRUPT_STATUS, _INTERRUPT_ACK, _STATUS = 0x50, 0x60, 0x64, 0x70
_SHM_LENGTHS = (0xB0, 0xB4)
_CONFIG = 0x100
# Low and high halves of the three areas: the area, and how far the half is shifted.
_QUEUE_AREAS = {
    0x80: (0, 0), 0x84: (0, 32), 0x90: (1, 0), 0x94: (1, 32), 0xA0: (2, 0), 0xA4: (2, 32)
}  # fmt: skip

_MAGIC_VALUE = 0x7472_6976  # "virt"
_VENDOR = 0x554D_4551  # "QEMU": drivers written for its board look for it
_DRIVER_OK, _FEATURES_OK, _NEEDS_RESET = 4, 8, 0x40
_USED_BUFFER, _CONFIG_CHANGE = 1, 2  # bits of InterruptStatus

_ERROR_SIZE_MAX = 200  # characters

_F_INDIRECT_DESC, _F_VERSION_1 = 1 << 28, 1 << 32
_VERSION_MODERN = 2


class _Queue:
    """What a driver has written about one queue; ``ring`` once it is ready."""

    __slots__ = ("areas", "legacy", "ring", "size", "size_max")

    def __init__(self, size_max: int) -> None:
        self.size_max = size_max
        self.size = 0
        self.areas = [0, 0, 0]
        self.legacy = LegacyPlace()
        self.ring: Virtqueue | None = None


class Virtio(saved.Restorable):
    """One slot. ``written(pa, size)`` is called for each piece of RAM that the device wrote.

    ``on_irq(level)`` is told of the interrupt line at each update of it. ``error`` says in one
    line why the device needs a reset, for people. ``legacy``: a device of version 1.

    What the driver made of that stands in ``version_was_read``, ``was_driven`` (it has written
    something) and ``driven_as_other`` (something that only the other version has).
    """

    name = "virtio"
    outside: tuple[str, ...] = ()
    device_id = 0
    queue_sizes: tuple[int, ...] = ()  # the largest size of each queue, powers of 2

    @property
    def bytes_max(self) -> int:
        """The headers of the requests in the works."""
        return HEADER_SIZE_MAX * len(self.queue_sizes)

    def __init__(
        self,
        base: int,
        ram: Ram,
        on_irq: Callable[[bool], None] = lambda level: None,
        written: Callable[[int, int], None] = lambda pa, size: None,
        features: int = 0,
        config: bytes = b"",
        legacy: bool = False,
    ) -> None:
        self.base = base
        self.size = 0x1000
        self.ram = ram
        self.written = written
        self._on_irq = on_irq
        self.stop_wanted: Callable[[], bool] = lambda: False
        self._features = features | _F_INDIRECT_DESC | (0 if legacy else _F_VERSION_1)
        self._config = config
        self._is_legacy = legacy
        self._legacy_page_shift = 0
        self.version_was_read = self.was_driven = self.driven_as_other = False
        self._reset_registers()

    def serve(self, queue: int, chain: Chain) -> int | None:
        """Do one request; the number of bytes written, from the first writable one on.

        One that takes longer than a moment is done in pieces: None, when there is more to do
        and this is to be called again. All that a device keeps of it stands in ``chain``.
        Raises VirtqueueError for a request whose answer has no place.
        """
        raise NotImplementedError

    def _reset_registers(self) -> None:
        self.error = ""
        self._status = self._isr = 0
        self._device_features_sel = self._driver_features_sel = self._queue_sel = 0
        self._driver_features = 0
        self._queues = [_Queue(size) for size in self.queue_sizes]

    def _set_isr(self, isr: int) -> None:
        """InterruptStatus, and the line: said each time, as a driver that never acknowledges
        waits for the next one all the same (see `emu.board.devices.plic`)."""
        self._isr = isr
        self._on_irq(bool(isr))

    def _fail(self, error: VirtqueueError) -> None:
        self.error = str(error)
        if self._is_legacy:
            return  # the bit came with virtio 1.0
        self._status |= _NEEDS_RESET
        if self._status & _DRIVER_OK:
            self._set_isr(self._isr | _CONFIG_CHANGE)

    def _notify(self, index: int) -> None:
        """Do all requests that stand in a queue now."""
        if index >= len(self._queues) or self.error:
            return
        if self._is_legacy:
            self._open_legacy(self._queues[index])
        elif not self._status & _DRIVER_OK:
            return
        ring = self._queues[index].ring
        if ring is None:
            return
        try:
            # Counted once: a request that writes over the ring cannot make more of them.
            ring.left = ring.waiting() + (ring.chain is not None)
        except VirtqueueError as e:
            self._fail(e)
            return
        self._work(index, ring)

    def go_on(self) -> None:
        """Do what a stop has left to do of requests, see `emu.board.devices.Interruptible`."""
        for index, queue in enumerate(self._queues):
            if queue.ring is not None and queue.ring.left:
                self._work(index, queue.ring)

    def _work(self, index: int, ring: Virtqueue) -> None:
        before = ring.done
        try:
            while ring.left and not self.stop_wanted():
                chain = ring.next()
                written = self.serve(index, chain)
                if written is not None:
                    ring.give_back(chain, written)
        except VirtqueueError as e:
            ring.drop()
            self._fail(e)
        if ring.done != before and ring.wants_interrupt():
            self._set_isr(self._isr | _USED_BUFFER)

    def read(self, offset: int, size: int) -> int:
        if offset == _INTERRUPT_STATUS:
            return self._isr
        if offset >= _CONFIG:
            start = offset - _CONFIG
            return int.from_bytes(self._config[start : start + size], "little")
        if size != 4:
            return 0
        if offset == _STATUS:
            return self._status
        if offset == _MAGIC:
            return _MAGIC_VALUE
        if offset == _VERSION:
            self.version_was_read = True
            return virtio_legacy.VERSION if self._is_legacy else _VERSION_MODERN
        if offset == _VENDOR_ID:
            return _VENDOR
        return self._read_device(offset) if self.device_id else 0

    def _read_device(self, offset: int) -> int:
        """The registers that an empty slot does not have."""
        if offset == _DEVICE_ID:
            return self.device_id
        if offset == _DEVICE_FEATURES:
            select = self._device_features_sel
            return self._features >> 32 * select & 0xFFFF_FFFF if select < 2 else 0
        if offset in _SHM_LENGTHS:
            return 0xFFFF_FFFF  # there is no shared memory
        queue = self._selected()
        if queue is not None:
            if offset == _QUEUE_NUM_MAX:
                return queue.size_max
            if offset == _QUEUE_READY and not self._is_legacy:
                return int(queue.ring is not None)
            if offset == virtio_legacy.QUEUE_PFN and self._is_legacy:
                return queue.legacy.pa >> self._legacy_page_shift & 0xFFFF_FFFF
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        if size != 4 or not self.device_id:
            return
        self.was_driven = True
        value &= 0xFFFF_FFFF
        if offset == _QUEUE_NOTIFY:
            self._notify(value)
        elif offset == _INTERRUPT_ACK:
            self._set_isr(self._isr & ~value)
        elif offset == _STATUS:
            self._write_status(value & 0xFF)
        elif offset == _DEVICE_FEATURES_SEL:
            self._device_features_sel = value
        elif offset == _DRIVER_FEATURES_SEL:
            self._driver_features_sel = value
        elif offset == _DRIVER_FEATURES:
            self._write_features(value)
        elif offset == _QUEUE_SEL:
            self._queue_sel = value
        elif offset in virtio_legacy.REGISTERS:
            self._write_legacy(offset, value)
        else:
            self._write_queue(offset, value)

    def _write_features(self, value: int) -> None:
        select = self._driver_features_sel
        if self._status & _FEATURES_OK or select > (0 if self._is_legacy else 1):
            return
        if self._is_legacy:
            self._driver_features = value & self._features
        else:
            kept = self._driver_features & ~(0xFFFF_FFFF << 32 * select)
            self._driver_features = kept | value << 32 * select

    def _selected(self) -> _Queue | None:
        return self._queues[self._queue_sel] if self._queue_sel < len(self._queues) else None

    def _write_status(self, value: int) -> None:
        if value == 0:
            self._set_isr(0)
            self._reset_registers()
            return
        # Without FEATURES_OK the driver knows that its choice was refused. Whoever takes a
        # part of what is offered may go on, also without VERSION_1 (section 6.2 allows it).
        if value & ~self._status & _FEATURES_OK and self._driver_features & ~self._features:
            value &= ~_FEATURES_OK
        self._status = value & ~_NEEDS_RESET | self._status & _NEEDS_RESET

    def _write_queue(self, offset: int, value: int) -> None:
        queue = self._selected()
        if queue is None:
            return
        if offset == _QUEUE_NUM and self._is_legacy:
            queue.size = value
            queue.ring = None
        elif self._is_legacy:
            self.driven_as_other |= offset == _QUEUE_READY
        elif offset == _QUEUE_READY:
            if not value & 1:
                queue.ring = None
            elif queue.ring is None:
                try:
                    queue.ring = self._ring(queue)
                except VirtqueueError as e:
                    self._fail(e)
        elif queue.ring is not None:
            pass  # section 4.2.2.2: a queue in use does not change
        elif offset == _QUEUE_NUM:
            queue.size = value
        elif offset in _QUEUE_AREAS:
            area, shift = _QUEUE_AREAS[offset]
            kept = queue.areas[area] & ~(0xFFFF_FFFF << shift)
            queue.areas[area] = kept | value << shift

    def _ring(self, queue: _Queue) -> Virtqueue:
        table, driver, device = queue.areas
        return Virtqueue(
            self.ram, queue.size, queue.size_max, (table, driver, device), self.written
        )

    def _write_legacy(self, offset: int, value: int) -> None:
        if not self._is_legacy:
            self.driven_as_other = True
            return
        if offset == virtio_legacy.GUEST_PAGE_SIZE:
            self._legacy_page_shift = virtio_legacy.page_shift(value)
            return
        queue = self._selected()
        if queue is None:
            return
        if offset == virtio_legacy.QUEUE_PFN:
            queue.legacy.pa = value << self._legacy_page_shift
        elif value:
            queue.legacy.align = value
        queue.ring = None  # looked for when it is used: registers are written in any order

    def _open_legacy(self, queue: _Queue) -> None:
        """The ring of a queue that has a page number."""
        if queue.ring is None and queue.legacy.pa:
            queue.size = queue.size or queue.size_max
            queue.areas = list(queue.legacy.areas(queue.size))
            try:
                queue.ring = self._ring(queue)
            except VirtqueueError as e:
                self._fail(e)

    FIELDS: tuple[str, ...] = (
        "device_id", "status", "isr", "device_features_sel", "driver_features_sel",
        "driver_features", "queue_sel", "error", "queues", "version", "legacy_page_shift",
    )  # fmt: skip

    def state(self) -> dict[str, Any]:
        return {
            "device_id": self.device_id,
            "version": virtio_legacy.VERSION if self._is_legacy else _VERSION_MODERN,
            "legacy_page_shift": self._legacy_page_shift,
            "status": self._status,
            "isr": self._isr,
            "device_features_sel": self._device_features_sel,
            "driver_features_sel": self._driver_features_sel,
            "driver_features": self._driver_features,
            "queue_sel": self._queue_sel,
            "error": self.error,
            "queues": [
                {
                    "size": queue.size,
                    "areas": list(queue.areas),
                    "ring": None if queue.ring is None else queue.ring.state(),
                    "legacy": queue.legacy.state(),
                }
                for queue in self._queues
            ],
        }

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        saved.fields(state, *self.FIELDS)
        if saved.number(state, "device_id", 32) != self.device_id:
            raise ValueError(f"saved state of virtio device {state['device_id']}")
        own = virtio_legacy.VERSION if self._is_legacy else _VERSION_MODERN
        if saved.number(state, "version", 2) != own:
            which = "version 2, without" if self._is_legacy else "version 1, with"
            raise ValueError(f"its virtio devices are of {which} --virtio-legacy")
        status, isr = saved.number(state, "status", 8), saved.number(state, "isr", 32)
        selects = [
            saved.number(state, key, 32)
            for key in ("device_features_sel", "driver_features_sel", "queue_sel")
        ]
        features = saved.number(state, "driver_features", 64)
        page_shift = saved.number(state, "legacy_page_shift", 5)
        error = saved.text(state, "error", _ERROR_SIZE_MAX)
        queues = state["queues"]
        if not isinstance(queues, list) or len(queues) != len(self.queue_sizes):
            raise ValueError("saved queues: not as many as this device has")
        made = [self._saved_queue(*pair) for pair in zip(self.queue_sizes, queues, strict=True)]

        def apply() -> None:
            self._reset_registers()
            self._status, self._isr, self.error = status, isr, error
            self._device_features_sel, self._driver_features_sel, self._queue_sel = selects
            self._driver_features, self._legacy_page_shift = features, page_shift
            self._queues = made

        return apply

    def _saved_queue(self, size_max: int, old: dict[str, Any]) -> _Queue:
        saved.fields(old, "size", "areas", "ring", "legacy")
        queue = _Queue(size_max)
        queue.size = saved.number(old, "size", 32)
        queue.areas = saved.numbers(old, "areas", 3, 64)
        queue.legacy.restore(old["legacy"])
        ring = saved.optional(old, "ring")
        if ring is not None:
            try:
                queue.ring = self._ring(queue)
            except VirtqueueError as e:
                raise ValueError(f"saved queue: {e}") from e
            queue.ring.prepare(ring)()  # it is not in use yet
        return queue
