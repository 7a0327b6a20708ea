"""The kernel machine, booted and run: programs and modules, with their user's streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from emu.board.machine import Machine
from emu.board.memory_map import RAM_SIZE_DEFAULT
from emu.debug.symbols import Symbols
from emu.hart import HartOptions
from emu.spec.paging import SV39, PagingMode
from emu.stop import Stop, StopReason
from guest.boot import machines
from guest.boot.find import RUN, find
from guest.boot.machines import KERNEL
from guest.boot.outcome import Outcome, describe
from guest.ending import Ending
from guest.image.elf import Elf
from guest.kernel import cmdline
from guest.kernel.system import System

_INSMOD = "guest:insmod"  # the program in whose address space modules are loaded, as on Linux

Attach = Callable[[Machine, Symbols], None]


@dataclass(frozen=True)
class KernelOptions:
    """What the kernel machine is made of. ``ram_size`` in bytes.

    ``append``: the kernel command line, see `guest.kernel.cmdline`; ``config``: further members
    of ``mm.Config``, by name.
    """

    ram_size: int = RAM_SIZE_DEFAULT
    paging: PagingMode = SV39
    slab: str = "slub"
    append: str = ""
    hart: HartOptions = field(default_factory=HartOptions)
    config: tuple[tuple[str, Any], ...] = ()

    def command_line(self) -> cmdline.CommandLine:
        """What ``append`` asks for. Raises CommandLineError."""
        return cmdline.parse(self.append, self.ram_size, self.slab)

    def mm_config(self) -> dict[str, Any]:
        """The members of ``mm.Config`` that all of it comes to. Raises CommandLineError."""
        slab = {} if self.slab == "slub" else {"slab": self.slab}
        return slab | dict(self.config) | self.command_line().config


@dataclass(frozen=True)
class Streams:
    """Where what is printed goes, and where input comes from.

    ``output`` takes a program's bytes; ``log`` the kernel's lines, ``boot_log`` those of its
    boot, ``warn`` what the user is told while a program runs, a line at a time.
    ``read_input(size)`` waits for up to ``size`` bytes; b"" is the end.
    """

    output: Callable[[bytes], None] = lambda data: None
    log: Callable[[str], None] = lambda line: None
    boot_log: Callable[[str], None] = lambda line: None
    warn: Callable[[str], None] = lambda line: None
    read_input: Callable[[int], bytes] = lambda size: b""


@dataclass(frozen=True)
class Invocation:
    """How a guest is run. ``arguments``: a program's, or a module's parameters.

    ``environment``: of a program, NAME=VALUE; ``keep_module``: module_exit is not run;
    ``timeout``: seconds that it may run, None for no limit.
    """

    arguments: Sequence[str] = ()
    environment: Sequence[str] = ()
    keep_module: bool = False
    timeout: float | None = None


def boot(
    options: KernelOptions,
    streams: Streams = Streams(),
    attach: Attach = lambda machine, symbols: None,
    arm: bool = True,
) -> System:
    """The kernel machine, booted. ``attach`` is called before its first instruction.

    Without ``arm`` no fault is injected before `arm_faults` is called. Raises
    CommandLineError, BootError, MmError, ValueError for RAM that cannot be.
    """
    system = System(
        options.ram_size,
        options.paging,
        streams.output,
        streams.log,
        streams.read_input,
        options.hart,
        options.mm_config(),
        streams.warn,
    )
    system.hash_pointers = options.command_line().hash_pointers
    attach(system.machine, system.symbols)
    with Ending(system.machine.stop):
        system.boot()
    for line in system.kernel.log:
        streams.boot_log(line)
    if arm:
        arm_faults(system, options)
    return system


def arm_faults(system: System, options: KernelOptions) -> None:
    """Begin to inject the faults that the kernel command line asks for."""
    for action in options.command_line().after_boot:
        action(system.kernel)


def run(
    elf: Elf,
    options: KernelOptions,
    invocation: Invocation = Invocation(),
    streams: Streams = Streams(),
    attach: Attach = lambda machine, symbols: None,
) -> tuple[Outcome, System]:
    """Run a program or a module to its end; the outcome, and the System as it was left.

    Raises what `boot` does, and ElfError.
    """
    system = boot(options, streams, attach, arm=False)
    with Ending(system.machine.stop, invocation.timeout) as ending:
        if elf.is_module:
            system.load_program(machines.load(find(_INSMOD, RUN)))
            arm_faults(system, options)  # they are the guest's to meet, not its loader's
            stop = _run_module(system, elf, invocation)
        else:
            system.load_program(elf, invocation.arguments, invocation.environment)
            arm_faults(system, options)
            stop = system.run_program()
    outcome = describe(elf.path, KERNEL, system.hart, stop, system.symbols, ending)
    _add_kernels_part(outcome, system, elf)
    return outcome, system


def _run_module(system: System, elf: Elf, invocation: Invocation) -> Stop:
    module, stop = system.load_module(elf, invocation.arguments)
    if stop.reason is not StopReason.EXIT or stop.value is None:
        return stop
    if stop.value:
        why = f"{stop.detail or 'init failed'} ({stop.value})"
        return Stop(StopReason.EXIT, abs(stop.value) & 0xFF or 1, detail=why)
    return stop if invocation.keep_module else system.unload_module(module)


def _add_kernels_part(outcome: Outcome, system: System, elf: Elf) -> None:
    """What the kernel knows of the end."""
    stop = outcome.stop
    outcome.bugs = system.bugs
    if system.process is not None:
        if system.process.killed_by:
            outcome.notes.append(f"killed by {system.process.killed_by}")
        outcome.missing_syscalls = system.process.missing_syscalls()
    if elf.is_module and stop.reason is StopReason.EXIT and stop.detail:
        outcome.notes.append(f"the module was refused: {stop.detail}")
    if stop.reason is StopReason.FAULT and stop.trap is not None:
        if overflow := system.overflow(stop.trap):
            outcome.notes.insert(0, overflow)
        outcome.explanation = "\n".join((outcome.explanation, *system.fault_notes(stop.trap)))
