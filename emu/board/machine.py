"""The machine: RAM, the harts, the reset ROM and the devices, wired together.

``machine.harts`` are its harts, by hartid. There is one for now, and ``machine.hart`` is the
first: the one that boots, and all that a guest of one hart is about. Everything that the board
has for a hart it has for each of the list.

Which level is held by whom is set on ``hart.handlers``; nothing else distinguishes a bare
machine from one whose firmware or kernel is written in Python.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import unicorn.unicorn_const as ucc

from emu.board import memory_map as board
from emu.board.clock import Clock, RealClock
from emu.board.devices import Device, Interruptible
from emu.board.devices.finisher import Finisher
from emu.board.devices.htif import Htif
from emu.board.devices.uart import Uart
from emu.board.instruction_clock import InstructionClock
from emu.board.sstc import Sstc
from emu.engine import calls
from emu.engine.mmu import DEVICE_RIGHTS, ROM_RIGHTS
from emu.engine.polled_register import PolledRegister
from emu.hart import Hart, HartOptions
from emu.ram import Ram
from emu.spec.paging import PAGE_SIZE
from emu.stop import Stop

# The reset code ends in two 64-bit words that the board fills in: where to go, and what
# to give in a1 (the device tree's PA).
_ROM_PARAMETERS_SIZE = 16

# Told of each access to a device, when it is over: the device, whether it is a write, offset,
# size, value, and when it began (time.perf_counter_ns).
DeviceListener = Callable[[Device, bool, int, int, int, int], None]


class Machine:
    """``ram_size`` bytes of RAM, one hart, UART, finisher; ``output`` gets console bytes.

    ``deterministic``: time is the guest's own progress, see `emu.board.instruction_clock`.
    ``poll_input`` gives the console bytes that have arrived, or none; ``access``: the
    hart's `HartOptions`, or of them that alone. Raises ValueError for an impossible RAM size.
    """

    def __init__(
        self,
        ram_size: int = board.RAM_SIZE_DEFAULT,
        output: Callable[[bytes], None] = lambda data: None,
        access: str | HartOptions = "auto",
        poll_input: Callable[[], bytes] | None = None,
        deterministic: bool = False,
    ) -> None:
        self.output = output
        # Around each access to a device, and held by what comes from other threads: the
        # clock's alarms, the terminal's input.
        self.lock = threading.RLock()
        self._device_listener: DeviceListener | None = None
        self._polled: list[PolledRegister] = []
        self.ram = Ram(ram_size, board.DRAM_BASE)
        self.harts: list[Hart] = [Hart(self.ram, access, hartid=0)]
        for hart in self.harts:
            hart.keep_code_coherent()
        self.has_input = False  # whether something outside may wake a hart
        self.clock: Clock
        if deterministic:
            # Time is the progress of the one hart; of several, somebody has to say whose.
            self.clock = clock = InstructionClock(self.hart, self.lock)
            self.hart.read_cycles = lambda: clock.executed
        else:
            self.clock = RealClock(self.lock, self._show_again)
        for hart in self.harts:
            hart.read_time = self.clock.now
            hart.raised = self.clock.raised
            hart.idle = lambda wake: self.clock.idle(wake, self.has_input)
            hart.before_run = self._go_on
        self.sstc = [Sstc(hart, self.clock) for hart in self.harts]
        self.uart = Uart(board.UART.base, output, poll=poll_input)
        self.devices: list[Device] = []
        self._interruptible: list[Interruptible] = []
        self._callbacks: list[Any] = []
        self._rom: mmap.mmap | None = None
        self.htif: Htif | None = None
        self.attach(self.uart)
        self.attach(Finisher(board.FINISHER.base, self.end))

    @property
    def hart(self) -> Hart:
        """The first hart."""
        return self.harts[0]

    def _show_again(self) -> bool:
        """`Hart.show_again` of each hart; False when none of them has anything left to take."""
        return any([hart.show_again() for hart in self.harts])

    def code_changed(self, pa: int, size: int) -> None:
        """The host, or a device, has written RAM: `Hart.code_changed` of each hart."""
        for hart in self.harts:
            hart.code_changed(pa, size)

    def stop(self) -> None:
        """`Hart.stop` of whichever hart runs."""
        for hart in self.harts:
            hart.stop()

    def end(self, stop: Stop) -> None:
        """From a device's callback: `Hart.end` of the hart that has made the access."""
        for hart in self.harts:
            if hart.running:
                hart.end(stop)

    def _stop_wanted(self) -> bool:
        return any(hart.stop_wanted() for hart in self.harts)

    @property
    def device_listener(self) -> DeviceListener | None:
        """Told of each access to a device."""
        return self._device_listener

    @device_listener.setter
    def device_listener(self, listener: DeviceListener | None) -> None:
        self._device_listener = listener
        for register in self._polled:
            register.watch(listener is not None)

    def attach(self, device: Device) -> None:
        """Put a device's registers where it says (whole pages are taken)."""
        size = -(-device.size // PAGE_SIZE) * PAGE_SIZE
        polled = getattr(device, "polled", None)
        for hart in self.harts:
            callbacks = self._callbacks_of(device, hart)
            self._callbacks.append((callbacks, polled))
            calls.mmio_map(hart.uc, device.base, size, *callbacks, polled)
            hart.mmu.add_region(device.base, size, DEVICE_RIGHTS)
        if polled is not None:
            self._polled.append(polled)
        self.devices.append(device)
        if isinstance(device, Interruptible):
            device.stop_wanted = self._stop_wanted
            self._interruptible.append(device)

    def _callbacks_of(self, device: Device, hart: Hart) -> tuple[Any, Any]:
        """What ``hart``'s engine calls for a read and for a write of ``device``."""
        fail, lock, machine = hart.fail, self.lock, self
        device_read, device_write, extent = device.read, device.write, device.size

        def read(_uc: int, offset: int, size: int, _data: int) -> int:
            try:
                if machine._device_listener is not None:
                    return watched(False, offset, size, 0)
                with lock:
                    return device_read(offset, size) if offset < extent else 0
            except BaseException as e:  # nothing may pass through the engine's C frames
                fail(e)
                return 0

        def write(_uc: int, offset: int, size: int, value: int, _data: int) -> None:
            try:
                if machine._device_listener is not None:
                    watched(True, offset, size, value)
                elif offset < extent:
                    with lock:
                        device_write(offset, size, value)
            except BaseException as e:
                fail(e)

        def watched(is_write: bool, offset: int, size: int, value: int) -> int:
            """An access that the listener is told of; the value that was read or written."""
            listener, began = machine._device_listener, perf_counter_ns()
            if offset < extent:
                with lock:
                    if is_write:
                        device_write(offset, size, value)
                    else:
                        value = device_read(offset, size)
            if listener is not None:
                listener(device, is_write, offset, size, value, began)
            return value

        return calls.MMIO_READ_CB(read), calls.MMIO_WRITE_CB(write)

    def _go_on(self) -> None:
        """What a stop has left of requests comes before the guest's next instruction."""
        with self.lock:
            for device in self._interruptible:
                device.go_on()

    def set_rom(self, code: bytes, entry: int, device_tree: int = 0, info: bytes = b"") -> None:
        """Put the reset code into the ROM and the harts at its start.

        ``entry``: the PA that it jumps to; ``device_tree``: the PA that it passes in a1;
        ``info``: what stands behind the code, whose PA is passed in a2. Raises ValueError
        when it does not fit.
        """
        if len(code) + len(info) > board.ROM.size or len(code) < _ROM_PARAMETERS_SIZE:
            raise ValueError(f"reset code of {len(code)} bytes for a ROM of {board.ROM.size}")
        if self._rom is None:
            self._rom = mmap.mmap(-1, board.ROM.size)
            address = ctypes.addressof(ctypes.c_char.from_buffer(self._rom))
            perms = ucc.UC_PROT_READ | ucc.UC_PROT_EXEC
            for hart in self.harts:
                hart.uc.mem_map_ptr(board.ROM.base, board.ROM.size, perms, address)
                hart.mmu.add_region(board.ROM.base, board.ROM.size, ROM_RIGHTS)
        parameters = entry.to_bytes(8, "little") + device_tree.to_bytes(8, "little")
        contents = code[:-_ROM_PARAMETERS_SIZE] + parameters + info
        self._rom[: len(contents)] = contents
        for hart in self.harts:
            hart.reset(board.ROM.base)

    def set_htif(self, tohost: int, fromhost: int | None = None) -> None:
        """Watch ``tohost`` (PA, 8-byte aligned, in RAM) for what the guest writes there."""
        htif = Htif(self.ram, tohost, fromhost, self.output)
        if not self.ram.contains(tohost, 8) or tohost % 8:
            raise ValueError(f"tohost at {tohost:#x} is not an aligned word of RAM")

        for hart in self.harts:
            callback = calls.MEM_CB(_when_written(hart, htif.poll))
            self._callbacks.append(callback)
            calls.hook(hart.uc, ucc.UC_HOOK_MEM_WRITE, callback, tohost, tohost + 7)
        self.htif = htif

    def run(self, count: int = 0) -> Stop:
        """Run the one hart, see `Hart.run`."""
        return self.hart.run(count)

    def close(self) -> None:
        """Let go of the engines, and of the clock's thread."""
        self.clock.close()
        for hart in self.harts:
            hart.close()


def _when_written(hart: Hart, poll: Callable[[], Stop | None]) -> Callable[..., bool]:
    """What a hook on memory of ``hart`` calls; the hook comes before the store."""

    def written(_uc: int, _k: int, _pa: int, _size: int, _value: int, _data: int) -> bool:
        hart.call_soon(poll)
        return True

    return written
