"""Running one guest on the machine that suits it, and saying how it ended.

bare      M, S and U belong to the guest: an ELF linked into RAM, entered in M-mode
firmware  Python is the SBI firmware: an S-mode kernel, entered at its entry point
kernel    Python is firmware and kernel: U-mode programs and kernel modules
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emu.board import memory_map as board
from emu.board.machine import Machine
from emu.debug.symbols import Symbols
from emu.hart import HartOptions
from emu.spec.csr import Priv
from emu.spec.paging import PagingMode
from emu.stop import Stop, StopReason
from firmware import images
from firmware.sbi import Sbi
from guest import build
from guest.boot.interrupt import TimeLimit, stop_on_ctrl_c
from guest.boot.outcome import EXIT_TIMEOUT, Outcome, UsageError, describe
from guest.image import elf as elf_file
from guest.image import names
from guest.image.elf import Elf, ElfError
from guest.kernel import cmdline
from guest.kernel.system import System

MACHINES = ("bare", "firmware", "kernel")
_INSMOD = "guest:insmod"  # the program in whose address space modules are loaded, as on Linux
_LIBC_HEADER = re.compile(
    r"'(assert|ctype|errno|math|stdio|stdlib|string|time|unistd)\.h' file not"
)
_NO_LIBC = """
there is no C library here: include <pagewalk/user.h>, or build a static program and run that:
python -m ziglang cc --target=riscv64-linux-musl -static prog.c -o prog"""
_NO_MAIN = "\na program has a main, a kernel module says module_init"
FIRMWARE_SIZE = 2 << 20  # bytes at the start of RAM that a kernel leaves alone


@dataclass
class Options:
    """What `pagewalk run` was told. ``ram_size`` in bytes."""

    paging: PagingMode
    ram_size: int
    machine: str | None = None
    hart: HartOptions = field(default_factory=HartOptions)
    output: Callable[[bytes], None] = lambda data: None
    log: Callable[[str], None] = lambda line: None  # what modules print
    boot_log: Callable[[str], None] = lambda line: None
    trace: Callable[[Machine, Symbols], None] = lambda machine, symbols: None  # begins one
    read_input: Callable[[int], bytes] = lambda size: b""  # waits; b"" is the end
    poll_input: Callable[[], bytes] = lambda: b""  # does not wait
    config: dict[str, Any] = field(default_factory=dict)  # further members of mm.Config
    append: str = ""  # the kernel command line, see guest.kernel.cmdline
    keep_module: bool = False  # do not run module_exit
    environment: Sequence[str] = ()  # of a program: NAME=VALUE
    timeout: float | None = None  # seconds that a guest may run
    warn: Callable[[str], None] = lambda line: None  # what is told while it runs


def find(name: str, machine: str | None) -> Elf:
    """The ELF for what the user typed: a path, a C file, or a shipped guest's name.

    Raises UsageError, ElfError.
    """
    if not name:
        raise UsageError("the program's name is empty")
    path = Path(name)
    if (known := names.shipped_guest(name)) is not None:
        return _parse(elf_file.read(known), str(known), machine)
    if not path.exists():
        raise UsageError(_no_such(name))
    try:
        return _load_file(path, name, machine)
    except (UsageError, ElfError) as e:
        raise UsageError(f"{e}{names.hides(name, 'run')}") from None


def _no_such(name: str) -> str:
    if name in names.FETCHED:
        return f"{name}: a kernel of pagewalk fetch, for the whole board: pagewalk boot {name}"
    if "/" in name or Path(name).suffix:
        return f"{name}: no such file{names.near(name)}"
    what = "no guest" if name.startswith(names.PREFIX) else "no such file, and no guest"
    return f"{name}: {what} of that name{names.near(name)} (pagewalk list)"


def _load_file(path: Path, name: str, machine: str | None) -> Elf:
    """Raises UsageError, ElfError."""
    if path.suffix in build.SOURCE_SUFFIXES and path.is_file():
        try:
            return _parse(build.compiled(path, machine), name, machine)
        except build.BuildError as e:
            text = str(e)
            hint = _NO_LIBC if _LIBC_HEADER.search(text) else ""
            hint += _NO_MAIN if "undefined symbol: main\n" in text else ""
            if not text.startswith(f"{name}:"):
                text = f"{name}: {text}"
            raise UsageError(text + hint) from None
        except OSError as e:
            raise UsageError(f"{name}: {e.strerror or e}") from None
    if why := names.not_to_run(path, name):
        raise UsageError(why)
    return _parse(elf_file.read(path), name, machine)


def _parse(data: bytes, name: str, machine: str | None) -> Elf:
    elf = elf_file.parse(data, name, physical=True)
    if machine_for(elf, machine) != "kernel":
        return elf
    return elf_file.parse(data, name)  # by the rules for programs and modules


def machine_for(elf: Elf, asked: str | None) -> str:
    """The machine that runs ``elf``: the one asked for, or what its addresses say."""
    if asked:
        return asked
    if elf.is_position_independent:
        return "kernel"
    # A kernel's VAs may be anywhere; where it is loaded tells it from a program. ELF headers
    # often stand a page below that.
    needed = [s.pa + s.headers_size for s in elf.segments if s.headers_size < s.memory_size]
    start = min(needed, default=0)
    if not board.DRAM_BASE <= start < 1 << 56:
        return "kernel"
    return "firmware" if start >= board.DRAM_BASE + FIRMWARE_SIZE else "bare"


def load_physical(machine: Machine, elf: Elf, lowest: int) -> int:
    """Copy an ELF's segments to their physical addresses; the entry's PA. Raises ElfError."""
    loaded = elf.loaded(lowest, machine.ram.end)
    entry = elf.physical_entry(loaded)
    for segment in loaded:
        machine.ram.write(segment.pa, segment.data)
    return entry


def make_physical(elf: Elf, kind: str, options: Options) -> tuple[Machine, Symbols]:
    """A bare or firmware machine with ``elf`` loaded, at its reset. Raises ElfError."""
    machine = Machine(options.ram_size, options.output, options.hart, options.poll_input)
    ram = machine.ram
    if kind == "firmware":
        entry = load_physical(machine, elf, ram.base + FIRMWARE_SIZE)
        ram.write(ram.base, images.start_code(entry))
        read_byte = _byte_reader(options.poll_input)
        changed = machine.hart.code_changed
        sbi = Sbi(machine.hart, ram, options.output, read_byte, machine.clock, changed)
        machine.hart.handlers[Priv.M.value] = sbi.handle
        entry = ram.base
    else:
        entry = load_physical(machine, elf, ram.base)
        tohost = elf.symbol("tohost")
        if tohost is not None:
            machine.set_htif(tohost, elf.symbol("fromhost"))
    machine.set_rom(images.reset_code(), entry)
    symbols = Symbols()
    symbols.add_source(lambda: elf.names)
    return machine, symbols


def _byte_reader(poll: Callable[[], bytes]) -> Callable[[], int | None]:
    waiting: deque[int] = deque()

    def read() -> int | None:
        if not waiting:
            waiting.extend(poll())
        return waiting.popleft() if waiting else None

    return read


def run(elf: Elf, arguments: Sequence[str], options: Options) -> tuple[Outcome, object]:
    """Run a guest to its end; the outcome, and the Machine or System as it was left."""
    kind = machine_for(elf, options.machine)
    if kind == "kernel":
        return _run_on_kernel(elf, arguments, options)
    if arguments:
        raise UsageError(f"a {kind} guest takes no arguments: {' '.join(arguments)}")
    machine, symbols = make_physical(elf, kind, options)
    options.trace(machine, symbols)
    with stop_on_ctrl_c(machine.hart), TimeLimit(machine.hart, options.timeout) as limit:
        stop = machine.run()
    outcome = describe(elf.path, kind, machine.hart, stop, symbols)
    _say_if_over(outcome, limit)
    if limit.is_over or stop.reason in (StopReason.FAULT, StopReason.WFI):
        outcome.notes.append(
            "this machine has no timer, interrupt controller or device tree; pagewalk boot's has"
        )
    return outcome, machine


def _say_if_over(outcome: Outcome, limit: TimeLimit) -> None:
    if limit.is_over and outcome.stop.reason is StopReason.INTERRUPTED:
        outcome.status = EXIT_TIMEOUT
        outcome.notes[:] = [f"{limit.seconds:g} s are over, at {outcome.where}"]


def _run_on_kernel(elf: Elf, arguments: Sequence[str], options: Options) -> tuple[Outcome, System]:
    system = boot_system(options, arm=False)
    with stop_on_ctrl_c(system.hart), TimeLimit(system.hart, options.timeout) as limit:
        if elf.is_module:
            system.load_program(find(_INSMOD, None))
            arm_faults(system, options)  # they are the guest's to meet, not its loader's
            module, stop = system.load_module(elf, arguments)
            if stop.reason is StopReason.EXIT and stop.value == 0:
                if not options.keep_module:
                    stop = system.unload_module(module)
            elif stop.reason is StopReason.EXIT and stop.value is not None:
                error = abs(stop.value)
                why = f"{stop.detail or 'init failed'} ({stop.value})"
                stop = Stop(StopReason.EXIT, error & 0xFF or 1, detail=why)
        else:
            system.load_program(elf, arguments, options.environment)
            arm_faults(system, options)
            stop = system.run_program()
    outcome = describe(elf.path, "kernel", system.hart, stop, system.symbols)
    _say_if_over(outcome, limit)
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
    return outcome, system


def parse_append(options: Options) -> cmdline.CommandLine:
    """The kernel command line that was given. Raises CommandLineError."""
    slab = str(options.config.get("slab", "slub"))
    return cmdline.parse(options.append, options.ram_size, slab)


def boot_system(options: Options, arm: bool = True) -> System:
    """The kernel machine, booted, with the trace that was asked for.

    Without ``arm`` no fault is injected before `arm_faults` is called.
    """
    command_line = parse_append(options)
    system = System(
        options.ram_size,
        options.paging,
        options.output,
        options.log,
        options.read_input,
        options.hart,
        options.config | command_line.config,
        options.warn,
    )
    system.hash_pointers = command_line.hash_pointers
    options.trace(system.machine, system.symbols)
    with stop_on_ctrl_c(system.hart):
        system.boot()
    for line in system.kernel.log:
        options.boot_log(line)
    if arm:
        arm_faults(system, options)
    return system


def arm_faults(system: System, options: Options) -> None:
    """Begin to inject the faults that the kernel command line asks for."""
    for action in parse_append(options).after_boot:
        action(system.kernel)
