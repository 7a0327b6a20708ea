"""The whole board: QEMU's `virt` with one hart, for software that was written for it.

`Machine` with every device of `emu.board.memory_map`, the interrupt controllers between the devices
and the hart, and translated code that stays coherent with what guests store.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial

from emu.board import memory_map as board
from emu.board.devices.clint import Clint
from emu.board.devices.disk_image import DiskImage
from emu.board.devices.plic import Plic
from emu.board.devices.rtc import Rtc
from emu.board.devices.unclaimed import Unclaimed
from emu.board.devices.virtio_blk import VirtioBlk
from emu.board.devices.virtio_mmio import Virtio
from emu.board.devices.virtio_rng import VirtioRng
from emu.board.machine import Machine
from emu.hart import HartOptions

# The time at which deterministic runs begin: 2000-01-01, in ns since 1970.
_EPOCH_NS = 946_684_800 * 1_000_000_000


def slot_at(pa: int) -> int:
    """The virtio slot whose registers begin at ``pa``."""
    return [place.base for place in board.VIRTIO].index(pa)


def slots_of(wanted: Sequence[int | None]) -> list[int]:
    """The virtio slot of each disk: the one that it asks for, else the last that is free.

    Slot N is QEMU's ``virtio-mmio-bus.N``. QEMU too gives its devices the last slots first, and
    so Linux names them as there. Raises ValueError for a slot that is not there, for one that
    two disks ask for, and for so many disks that no slot is left for the rng.
    """
    count = len(board.VIRTIO)
    if len(wanted) > count - 1:
        raise ValueError(f"{len(wanted)} disks: the board has room for {count - 1}")
    taken: set[int] = set()
    for slot in wanted:
        if slot is None:
            continue
        if not 0 <= slot < count:
            raise ValueError(f"bus={slot}: the virtio slots are 0 to {count - 1}")
        if slot in taken:
            raise ValueError(f"bus={slot}: two disks ask for this slot")
        taken.add(slot)
    free = [slot for slot in range(count) if slot not in taken]
    return [free.pop() if slot is None else slot for slot in wanted]


class VirtBoard(Machine):
    """The board with ``ram_size`` bytes of RAM and ``disks``, in the virtio slots of `slots_of`.

    ``slots``: what each disk asks for, by default nothing. The rng takes the last slot that is
    left. ``virtio_legacy``: virtio devices of version 1, as QEMU has them unless it is told.

    ``output`` gets the UART's bytes. In a ``deterministic`` machine time is the guest's own
    progress and randomness comes from ``seed``; else they are the host's. Raises ValueError
    for an impossible RAM size and as `slots_of` does.
    """

    def __init__(
        self,
        ram_size: int,
        output: Callable[[bytes], None],
        disks: Sequence[DiskImage] = (),
        deterministic: bool = False,
        seed: int = 0,
        access: str | HartOptions = "auto",
        slots: Sequence[int | None] | None = None,
        virtio_legacy: bool = False,
    ) -> None:
        found = slots_of([None] * len(disks) if slots is None else slots)
        super().__init__(ram_size, output, access, deterministic=deterministic)
        ram = self.ram
        # A generator whose state a snapshot can keep, from the host's randomness.
        self.random = random.Random(
            seed if deterministic else random.SystemRandom().getrandbits(256)
        )
        wires = [each.set_pending for each in self.harts]
        self.plic = Plic(board.PLIC.base, wires)
        self.clint = Clint(board.CLINT.base, self.clock, wires)
        epoch = _EPOCH_NS if deterministic else time.time_ns()
        self.rtc = Rtc(board.RTC.base, self.clock, epoch, self._line(board.RTC))
        self.uart.on_irq = self._line(board.UART)
        for device in (self.clint, self.plic, self.rtc):
            self.attach(device)
        for place in (board.PCIE, board.PCIE_PORTS):
            self.attach(Unclaimed(place.node, place.base, place.size))
        self.disks = list(disks)
        free = list(board.VIRTIO)
        changed = self.code_changed
        for disk, number in zip(disks, found, strict=True):
            place = board.VIRTIO[number]
            free.remove(place)
            line = self._line(place)
            self.attach(VirtioBlk(place.base, ram, disk, line, changed, legacy=virtio_legacy))
        place = free.pop()
        line = self._line(place)
        self.attach(VirtioRng(place.base, ram, self.random, line, changed, virtio_legacy))
        for place in free:
            self.attach(Virtio(place.base, ram, legacy=virtio_legacy))
        self._at_first = [(device, device.state()) for device in self.devices]

    def _line(self, place: board.Place) -> Callable[[bool], None]:
        """The wire from the device at ``place`` to the PLIC."""
        return self.line(place.irq)

    def line(self, irq: int) -> Callable[[bool], None]:
        """The wire to source ``irq`` of the PLIC."""
        return partial(self.plic.set_line, irq)

    def reset(self) -> None:
        """As the board's reset line does: the devices as they began, the hart in its reset.

        What is outside of the devices stays (disks, what has been typed), and so does RAM;
        the clock goes on. Call it while the hart does not run; then put code where the hart
        begins.
        """
        with self.lock:
            for device, first in self._at_first:
                now = device.state() if device.outside else {}
                device.restore(first | {name: now[name] for name in device.outside})
            for hart in self.harts:
                hart.reset(board.ROM.base)

    def close(self) -> None:
        """Let go of the engine, the clock and the disks' files."""
        super().close()
        for disk in self.disks:
            disk.close()
