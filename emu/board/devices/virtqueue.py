"""Split virtqueues: the three rings in RAM through which a driver and a device trade buffers.

    descriptor table   16 bytes each: address u64, size u32, flags u16, next u16
    driver area        flags u16, idx u16, ring u16[size]          heads that the driver offers
    device area        flags u16, idx u16, {id u32, written u32}[size]  heads that are done

All of it is the guest's, and may hold anything: each address is checked against RAM, each
chain is bounded by the queue's largest size. What a driver must not do ends in
`VirtqueueError`, never in an access outside of RAM.

Source: virtio 1.2, section 2.7.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from emu.board.devices import saved
from emu.ram import Ram

_NEXT, _WRITE, _INDIRECT = 1, 2, 4  # flags of a descriptor
_NO_INTERRUPT = 1  # flag of the driver area
_DESCRIPTOR_SIZE = 16  # bytes
_CHAIN_BYTES_MAX = 1 << 32  # section 2.7.4
HEADER_SIZE_MAX = 16  # bytes

_descriptor = struct.Struct("<QIHH").unpack_from
_u16 = struct.Struct("<H").unpack_from
_put_u16 = struct.Struct("<H").pack_into
_put_done = struct.Struct("<II").pack_into

Segment = tuple[int, int]  # PA and size in bytes, in RAM, not empty


class VirtqueueError(Exception):
    """The driver broke the rules of the queue: the device needs a reset."""


class Chain:
    """One request: ``readable`` and then ``writable`` buffers, as segments of RAM.

    ``head`` is the number by which the driver knows it. ``header`` and ``done`` are the device's,
    for a request that it does in pieces: what it has read of it, and how many bytes it has moved.
    """

    __slots__ = ("done", "head", "header", "readable", "writable")

    def __init__(self, head: int) -> None:
        self.head = head
        self.readable: list[Segment] = []
        self.writable: list[Segment] = []
        self.header = b""
        self.done = 0

    def state(self) -> dict[str, Any]:
        """All that a snapshot must keep."""
        return {
            "head": self.head,
            "readable": [list(segment) for segment in self.readable],
            "writable": [list(segment) for segment in self.writable],
            "header": self.header,
            "done": self.done,
        }


def take(segments: list[Segment], size: int) -> tuple[list[Segment], list[Segment]]:
    """Split ``segments`` after ``size`` bytes; raises VirtqueueError when they hold fewer."""
    for i, (pa, extent) in enumerate(segments):
        if size <= extent:
            rest = [(pa + size, extent - size)] if size < extent else []
            return [*segments[:i], (pa, size)], rest + segments[i + 1 :]
        size -= extent
    if size:
        raise VirtqueueError(f"the request lacks {size} bytes")
    return segments, []


def part(segments: list[Segment], start: int, size: int) -> list[Segment]:
    """The ``size`` bytes of ``segments`` from ``start`` on, or what there is of them."""
    found = []
    for pa, extent in segments:
        if start >= extent:
            start -= extent
            continue
        count = min(extent - start, size)
        found.append((pa + start, count))
        size -= count
        start = 0
        if not size:
            break
    return found


class Virtqueue:
    """One queue that the driver has made ready, of ``size`` descriptors.

    ``table``, ``driver`` and ``device`` are the PAs of the three areas; ``size_max`` is what
    the device allows; ``written(pa, size)`` is told of each piece of RAM that is written.
    ``left`` is how many of the requests that the driver has notified of are to be done yet,
    ``chain`` the one that is in the works.
    Raises VirtqueueError when an area is misaligned or not in RAM.
    """

    __slots__ = (
        "_bytes", "_device", "_driver", "_ram", "_size_max", "_table", "_written",
        "chain", "done", "left", "seen", "size",
    )  # fmt: skip

    def __init__(
        self,
        ram: Ram,
        size: int,
        size_max: int,
        areas: tuple[int, int, int],
        written: Callable[[int, int], None],
    ) -> None:
        if not 0 < size <= size_max or size & (size - 1):
            raise VirtqueueError(f"a queue of {size} descriptors")
        extents = (16 * size, 4 + 2 * size, 4 + 8 * size)
        for name, pa, extent, align in zip(
            ("descriptor table", "driver area", "device area"),
            areas, extents, (16, 2, 4), strict=True,
        ):  # fmt: skip
            if pa % align or not ram.contains(pa, extent):
                raise VirtqueueError(f"{name} at {pa:#x}: not in RAM, or not aligned")
        self.size = size
        self.seen = self.done = 0  # running numbers of heads taken and given back, 16 bits
        self.left = 0
        self.chain: Chain | None = None
        self._size_max = size_max
        self._ram = ram
        self._bytes = ram.u64.cast("B")
        self._table, self._driver, self._device = (pa - ram.base for pa in areas)
        self._written = written

    def waiting(self) -> int:
        """How many requests the driver has offered that were not taken."""
        count = (_u16(self._bytes, self._driver + 2)[0] - self.seen) & 0xFFFF
        if count > self.size:
            raise VirtqueueError(f"{count} requests offered in a queue of {self.size}")
        return int(count)

    def next(self) -> Chain:
        """The request in the works, or else the next one that was offered."""
        if self.chain is not None:
            return self.chain
        slot = self._driver + 4 + 2 * (self.seen & (self.size - 1))
        chain = Chain(_u16(self._bytes, slot)[0])
        self.seen = (self.seen + 1) & 0xFFFF
        self._walk(chain)
        self.chain = chain
        return chain

    def drop(self) -> None:
        """Forget what was to be done yet."""
        self.left, self.chain = 0, None

    def _walk(self, chain: Chain) -> None:
        base, end = self._ram.base, self._ram.end
        table, size = self._table, self.size
        index, left, total = chain.head, self._size_max, 0
        is_indirect = False
        while True:
            if index >= size:
                raise VirtqueueError(f"descriptor {index} in a table of {size}")
            pa, extent, flags, following = _descriptor(self._bytes, table + 16 * index)
            if pa < base or pa + extent > end:
                raise VirtqueueError(f"a buffer of {extent} bytes at {pa:#x}: not in RAM")
            if flags & _INDIRECT:
                size, odd = divmod(extent, _DESCRIPTOR_SIZE)
                if is_indirect or flags & _NEXT or odd:
                    raise VirtqueueError("an indirect descriptor in a chain, or of odd size")
                is_indirect, table, index = True, pa - base, 0
                continue
            if left == 0:
                raise VirtqueueError(f"a chain of more than {self._size_max} descriptors")
            left -= 1
            total += extent
            if flags & _WRITE:
                if extent:
                    chain.writable.append((pa, extent))
            elif chain.writable:
                raise VirtqueueError("a readable buffer after a writable one")
            elif extent:
                chain.readable.append((pa, extent))
            if not flags & _NEXT:
                break
            index = following
        if total > _CHAIN_BYTES_MAX:
            raise VirtqueueError(f"a chain of {total} bytes")

    def give_back(self, chain: Chain, written: int) -> None:
        """Tell the driver that ``chain`` is done and how many bytes of it were written."""
        slot = self._device + 4 + 8 * (self.done & (self.size - 1))
        _put_done(self._bytes, slot, chain.head, written)
        self.done = (self.done + 1) & 0xFFFF
        self.left, self.chain = self.left - 1, None
        _put_u16(self._bytes, self._device + 2, self.done)
        base = self._ram.base
        self._written(base + slot, 8)
        self._written(base + self._device + 2, 2)

    def wants_interrupt(self) -> bool:
        """Whether the driver wants to be told of what was given back."""
        return not _u16(self._bytes, self._driver)[0] & _NO_INTERRUPT

    def state(self) -> dict[str, Any]:
        """All that a snapshot must keep, without what the driver has said of the queue."""
        return {
            "seen": self.seen,
            "done": self.done,
            "left": self.left,
            "chain": None if self.chain is None else self.chain.state(),
        }

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        """Check what `state` described; what is returned makes the queue so.

        Raises KeyError, TypeError or ValueError as devices do.
        """
        saved.fields(state, "seen", "done", "left", "chain")
        seen, done = saved.number(state, "seen", 16), saved.number(state, "done", 16)
        left, old = saved.number(state, "left", 16), saved.optional(state, "chain")
        if left > self.size or (old is not None and not left):
            raise ValueError(f"saved left: {left} requests of a queue of {self.size}")
        chain = None if old is None else self._saved_chain(old)

        def apply() -> None:
            self.seen, self.done, self.left, self.chain = seen, done, left, chain

        return apply

    def _saved_chain(self, old: dict[str, Any]) -> Chain:
        saved.fields(old, "head", "readable", "writable", "header", "done")
        chain = Chain(saved.number(old, "head", 16))
        chain.readable, chain.writable = (
            [(pa, extent) for pa, extent in saved.pairs(old, key, self._size_max)]
            for key in ("readable", "writable")
        )
        chain.header = saved.data(old, "header", HEADER_SIZE_MAX)
        segments = chain.readable + chain.writable
        total = sum(extent for _, extent in segments)
        if len(segments) > self._size_max or total > _CHAIN_BYTES_MAX:
            raise ValueError(f"saved chain: {len(segments)} buffers of {total} bytes")
        for pa, extent in segments:
            if not extent or not self._ram.contains(pa, extent):
                raise ValueError(f"saved chain: a buffer of {extent} bytes at {pa:#x}: not in RAM")
        chain.done = saved.number(old, "done", 33)
        if chain.head >= self.size or chain.done > total:
            raise ValueError(f"saved chain: {chain.head}, {chain.done} bytes done")
        return chain
