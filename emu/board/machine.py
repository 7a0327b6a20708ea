"""The machine: RAM, the hart, the reset ROM and the devices, wired together.

Which level is held by whom is set on ``machine.hart.handlers``; nothing else distinguishes
a bare machine from one whose firmware or kernel is written in Python.
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
from emu.engine.quick_register import QuickRegister
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
        self._quick: list[QuickRegister] = []
        self.ram = Ram(ram_size, board.DRAM_BASE)
        self.hart = Hart(self.ram, access)
        self.hart.keep_code_coherent()
        self.has_input = False  # whether something outside may wake the hart
        self.clock: Clock
        if deterministic:
            self.clock = clock = InstructionClock(self.hart, self.lock)
            self.hart.read_cycles = lambda: clock.executed
        else:
            self.clock = RealClock(self.lock, self.hart.remind)
        self.hart.read_time = self.clock.now
        self.hart.raised = self.clock.raised
        self.sstc = Sstc(self.hart, self.clock)
        self.hart.idle = lambda wake: self.clock.idle(wake, self.has_input)
        self.uart = Uart(board.UART.base, output, poll=poll_input)
        self.devices: list[Device] = []
        self._interruptible: list[Interruptible] = []
        self.hart.before_run = self._go_on
        self._callbacks: list[Any] = []
        self._rom: mmap.mmap | None = None
        self.htif: Htif | None = None
        self.attach(self.uart)
        self.attach(Finisher(board.FINISHER.base, self.hart.end))

    @property
    def device_listener(self) -> DeviceListener | None:
        """Told of each access to a device."""
        return self._device_listener

    @device_listener.setter
    def device_listener(self, listener: DeviceListener | None) -> None:
        self._device_listener = listener
        for register in self._quick:
            register.watch(listener is not None)

    def attach(self, device: Device) -> None:
        """Put a device's registers where it says (whole pages are taken)."""
        fail, lock, machine = self.hart.fail, self.lock, self
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

        callbacks = calls.MMIO_READ_CB(read), calls.MMIO_WRITE_CB(write)
        quick = getattr(device, "quick", None)
        self._callbacks.append((callbacks, quick))
        size = -(-device.size // PAGE_SIZE) * PAGE_SIZE
        calls.mmio_map(self.hart.uc, device.base, size, *callbacks, quick)
        self.hart.mmu.add_region(device.base, size, DEVICE_RIGHTS)
        if quick is not None:
            self._quick.append(quick)
        self.devices.append(device)
        if isinstance(device, Interruptible):
            device.stop_wanted = self.hart.stop_wanted
            self._interruptible.append(device)

    def _go_on(self) -> None:
        """What a stop has left of requests comes before the guest's next instruction."""
        with self.lock:
            for device in self._interruptible:
                device.go_on()

    def set_rom(self, code: bytes, entry: int, device_tree: int = 0, info: bytes = b"") -> None:
        """Put the reset code into the ROM and the hart at its start.

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
            self.hart.uc.mem_map_ptr(board.ROM.base, board.ROM.size, perms, address)
            self.hart.mmu.add_region(board.ROM.base, board.ROM.size, ROM_RIGHTS)
        parameters = entry.to_bytes(8, "little") + device_tree.to_bytes(8, "little")
        contents = code[:-_ROM_PARAMETERS_SIZE] + parameters + info
        self._rom[: len(contents)] = contents
        self.hart.reset(board.ROM.base)

    def set_htif(self, tohost: int, fromhost: int | None = None) -> None:
        """Watch ``tohost`` (PA, 8-byte aligned, in RAM) for what the guest writes there."""
        htif = Htif(self.ram, tohost, fromhost, self.output)
        if not self.ram.contains(tohost, 8) or tohost % 8:
            raise ValueError(f"tohost at {tohost:#x} is not an aligned word of RAM")

        poll = htif.poll

        def written(_uc: int, _k: int, _pa: int, _size: int, _value: int, _data: int) -> bool:
            self.hart.call_soon(poll)  # the hook comes before the store
            return True

        callback = calls.MEM_CB(written)
        self._callbacks.append(callback)
        calls.hook(self.hart.uc, ucc.UC_HOOK_MEM_WRITE, callback, tohost, tohost + 7)
        self.htif = htif

    def run(self, count: int = 0) -> Stop:
        """Run the hart, see `Hart.run`."""
        return self.hart.run(count)

    def close(self) -> None:
        """Let go of the engine, and of the clock's thread."""
        self.clock.close()
        self.hart.close()
