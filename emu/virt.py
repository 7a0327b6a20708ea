"""The whole board: QEMU's `virt` with one hart, for software that was written for it.

`Machine` with every device of `emu.board`, the interrupt controllers between the devices
and the hart, and translated code that stays coherent with what guests store.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial

from emu import board
from emu.devices.clint import Clint
from emu.devices.disk_image import DiskImage
from emu.devices.plic import Plic
from emu.devices.rtc import Rtc
from emu.devices.virtio_blk import VirtioBlk
from emu.devices.virtio_mmio import Virtio
from emu.devices.virtio_rng import VirtioRng
from emu.machine import Machine

# The time at which deterministic runs begin: 2000-01-01, in ns since 1970.
_EPOCH_NS = 946_684_800 * 1_000_000_000


class VirtBoard(Machine):
    """The board with ``ram_size`` bytes of RAM; ``disks`` fill the virtio slots from the last.

    ``output`` gets the UART's bytes. In a ``deterministic`` machine time is the guest's own
    progress and randomness comes from ``seed``; else they are the host's. Raises ValueError
    for an impossible RAM size or more disks than slots.
    """

    def __init__(
        self,
        ram_size: int,
        output: Callable[[bytes], None],
        disks: Sequence[DiskImage] = (),
        deterministic: bool = False,
        seed: int = 0,
        access: str = "auto",
    ) -> None:
        if len(disks) > len(board.VIRTIO) - 1:
            raise ValueError(f"{len(disks)} disks: the board has room for {len(board.VIRTIO) - 1}")
        super().__init__(ram_size, output, access, deterministic=deterministic)
        hart, ram = self.hart, self.ram
        hart.keep_code_coherent()
        # A generator whose state a snapshot can keep, from the host's randomness.
        self.random = random.Random(seed if deterministic else secrets.randbits(256))
        self.plic = Plic(board.PLIC.base, hart.set_pending)
        self.clint = Clint(board.CLINT.base, self.clock, hart.set_pending)
        epoch = _EPOCH_NS if deterministic else time.time_ns()
        self.rtc = Rtc(board.RTC.base, self.clock, epoch, self._line(board.RTC))
        self.uart.on_irq = self._line(board.UART)
        for device in (self.clint, self.plic, self.rtc):
            self.attach(device)
        # QEMU gives its devices the last slots first, and so Linux names them as there.
        slots = list(board.VIRTIO)
        self.disks = list(disks)
        for disk in disks:
            slot = slots.pop()
            line = self._line(slot)
            self.attach(VirtioBlk(slot.base, ram, disk, line, hart.code_changed))
        slot = slots.pop()
        rng = VirtioRng(slot.base, ram, self.random, self._line(slot), hart.code_changed)
        self.attach(rng)
        for slot in slots:
            self.attach(Virtio(slot.base, ram))
        self._at_first = [(device, device.state()) for device in self.devices]

    def _line(self, place: board.Place) -> Callable[[bool], None]:
        """The wire from the device at ``place`` to the PLIC."""
        return partial(self.plic.set_line, place.irq)

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
            self.hart.reset(board.ROM.base)

    def close(self) -> None:
        """Let go of the engine, the clock and the disks' files."""
        super().close()
        for disk in self.disks:
            disk.close()
