"""The whole board: QEMU's `virt` with one hart, and what is loaded on it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from emu.board import memory_map
from emu.board.virt import VirtBoard
from emu.debug.symbols import Symbols
from emu.hart import HartOptions
from emu.stop import Stop, StopReason
from guest.boot.boot import BIOS_NONE, BIOS_PYTHON, Booted, BootOptions, Disk, prepare, resume
from guest.boot.named import named
from guest.image.names import FETCHED
from pagewalk import arguments
from pagewalk.base import Guest
from pagewalk.console import Console, ConsoleError
from pagewalk.device import Device

FilePath = str | os.PathLike[str]


class Machine(Guest):
    """QEMU's `virt` with one hart; ``program`` is loaded, and the hart stands at its reset.

    ``program``: a file, or the name of a guest that comes with pagewalk (``pagewalk list``) or
    was fetched ("linux", "u-boot"); None leaves RAM empty and the hart in M-mode where RAM begins.
    ``bios``: "none" for a program that begins in M-mode, "python" for a kernel over the SBI that
    pagewalk answers, "opensbi", or a firmware file; by default "python" for "linux" and "u-boot",
    else "none". ``initrd``, ``disks`` (raw images; what the guest writes is kept in memory) and
    ``append`` (the kernel's command line) are as for `pagewalk boot`. ``ram``: bytes, or "64M".

    ``deterministic``: time is the guest's own progress, randomness comes from ``seed``, and two
    runs are the same to the bit; else both are the host's. ``hart``: the way to the engine's
    state, "auto", "direct" or "public", or all of a `HartOptions`.

    Raises TypeError and ValueError with the argument's name, and UsageError, ElfError, BuildError
    or ValueError, each one line, for a program that cannot be loaded.
    """

    def __init__(
        self,
        program: FilePath | None = None,
        *,
        bios: FilePath | None = None,
        ram: int | str = "64M",
        initrd: FilePath | None = None,
        disks: Sequence[FilePath] = (),
        append: str | None = None,
        deterministic: bool = False,
        seed: int = 0,
        hart: str | HartOptions = "auto",
    ) -> None:
        self._console = Console()
        options = BootOptions(
            disks=_disks(disks),
            append=append,
            initrd=None if initrd is None else Path(_path("initrd", initrd)),
            ram_size=arguments.ram_size("ram", ram),
            deterministic=deterministic,
            seed=arguments.integer("seed", seed),
            hart=HartOptions.of(hart),
            output=self._console.write,
        )
        name = None if program is None else _path("program", program)
        if name is None and bios is None:
            self._take(_empty(options), "empty")
            return
        default = BIOS_PYTHON if name in FETCHED else BIOS_NONE
        firmware = default if bios is None else _path("bios", bios)
        self._take(prepare(named(options, name, firmware)), name or firmware)

    def _take(self, booted: Booted, name: str) -> None:
        super().__init__(booted.board, booted.symbols)
        self._booted, self._board, self._name = booted, booted.board, name

    def __repr__(self) -> str:
        return f"<Machine {self._name}: {self._where()}>"

    # the console

    @property
    def output(self) -> str:
        """What the guest has printed so far, the last 16 MiB of it."""
        return self._console.data.decode(errors="replace")

    def send(self, text: str | bytes) -> None:
        """Type ``text`` on the serial line; a line ends with "\\n".

        A guest that has not come to read loses it, as on hardware: `expect` its prompt first.
        Raises ConsoleError when the guest has not read what was typed before; TypeError.
        """
        data = arguments.text("text", text)
        with self._board.lock:
            taken = self._board.uart.receive(data)
        if taken < len(data):
            raise ConsoleError(f"the guest took {taken} of {len(data)} bytes", self.output)

    def expect(self, text: str | bytes, timeout: float | None = None) -> str:
        """Run until the guest has printed ``text``; all it printed since the last `expect`.

        ``timeout``: seconds. Raises ConsoleError when the guest ends, waits for input, or the time
        is over before; KeyboardInterrupt for Ctrl-C; TypeError, ValueError.
        """
        wanted = arguments.text("text", text)
        if not wanted:
            raise ValueError("text: nothing is no text to wait for")
        console = self._console
        if (found := console.take(wanted)) is not None:
            return found
        console.await_text(wanted, lambda: self.hart.end(Stop(StopReason.INTERRUPTED)))
        try:
            stop = self._run(0, timeout)
        finally:
            console.await_text(b"")
        if (found := console.take(wanted)) is not None:
            return found
        raise ConsoleError(f"{text!r} has not come: {_why(stop, timeout)}", console.rest())

    # devices

    def attach(self, device: Device, irq: int | None = None) -> None:
        """Put ``device`` on the board; ``irq``: its source at the PLIC, 1 to 95.

        Raises TypeError; ValueError where something is there already.
        """
        if not isinstance(device, Device):
            raise TypeError(f"device: a Device is wanted, not {device!r:.40}")
        end = device.base + device.size
        rom = memory_map.ROM
        taken = [(d.base, d.base + d.size, d.name) for d in self._board.devices]
        taken += [(self.ram.base, self.ram.end, "RAM"), (rom.base, rom.base + rom.size, rom.node)]
        for low, high, name in taken:
            if device.base < high and low < end:
                raise ValueError(f"base: {device!r} overlaps {name}, {low:#x}-{high:#x}")
        if irq is not None and not 1 <= arguments.integer("irq", irq) < memory_map.PLIC_SOURCES:
            raise ValueError(f"irq: {irq} is no source of the PLIC, 1 to 95")
        self._board.attach(device)
        if irq is not None:
            device.irq = self._board.line(irq)

    # snapshots, and beginning anew

    def save(self, path: FilePath) -> None:
        """Write all of the machine to a snapshot; it can go on. Raises SnapshotError."""
        from emu.debug.snapshot import snapshot

        snapshot.save(self._board, _path("path", path), parts=self._booted.parts())

    def restore(self, path: FilePath) -> None:
        """Become what the machine was when `save` wrote ``path``; the console's text stays.

        Raises SnapshotError, with the machine as it was, for a file that is no snapshot, or one
        of another machine.
        """
        from emu.debug.snapshot import snapshot

        snapshot.load(self._board, _path("path", path), parts=self._booted.parts())

    @classmethod
    def load(
        cls,
        path: FilePath,
        *,
        disks: Sequence[FilePath] = (),
        hart: str | HartOptions = "auto",
    ) -> Self:
        """A machine from the snapshot at ``path``, of `save` or of `pagewalk boot --save`.

        ``disks``: those that it had. Raises SnapshotError, UsageError, ValueError.
        """
        machine = cls.__new__(cls)
        console = machine._console = Console()  # noqa: SLF001 - it is this class
        options = BootOptions(disks=_disks(disks), hart=HartOptions.of(hart), output=console.write)
        name = _path("path", path)
        machine._take(resume(options, Path(name)), name)  # noqa: SLF001
        return machine

    def reset(self) -> None:
        """Press the reset button: the devices begin anew, the program is read again.

        Raises UsageError when its file does not fit any more, or for a machine from a snapshot.
        """
        if self._booted.options.kernel is None and self._booted.options.bios == BIOS_NONE:
            self._board.reset()
            self.hart.reset(self.ram.base)
        else:
            self._booted.reset()


def _empty(options: BootOptions) -> Booted:
    """A board with nothing in RAM."""
    for name in ("initrd", "append", "disks"):
        if getattr(options, name):
            raise ValueError(f"{name}: for a program or firmware, and there is none")
    board = VirtBoard(
        options.ram_size, options.output, (), options.deterministic, options.seed, options.hart
    )
    return Booted(board, None, Symbols(), options=replace(options, bios=BIOS_NONE))


def _path(name: str, value: object) -> str:
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name}: a path is wanted, not {value!r:.40}")
    return os.fspath(value)


def _disks(value: object) -> list[Disk]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"disks: a list of paths is wanted, not {value!r:.40}")
    return [Disk(Path(_path("disks", disk))) for disk in value]


def _why(stop: Stop, timeout: float | None) -> str:
    """How a run ended, for somebody who waited for something else."""
    if stop.reason is StopReason.INTERRUPTED:
        return "it was stopped" if timeout is None else f"{timeout:g} s are over"
    if stop.reason is StopReason.WFI:
        return "the guest waits (wfi), and nothing but input can wake it"
    detail = f" {stop.trap or stop.detail}".rstrip()
    return f"the run ended with {stop.reason.value} {stop.code}{detail}"
