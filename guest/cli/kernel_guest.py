"""The kernel machine after boot, or after PROGRAM ran on it: what is looked at then."""

from __future__ import annotations

from collections.abc import Sequence

import click

from guest.boot import kernel_machine, machines
from guest.boot.console import KernelLog, read_input, write_bytes
from guest.boot.find import RUN, find
from guest.boot.kernel_machine import Invocation, KernelOptions, Streams
from guest.boot.outcome import Outcome, UsageError
from guest.cli.kit import refuse_idle
from guest.image.elf import Elf
from guest.kernel.system import System


def load(program: str, why_not: str) -> Elf:
    """A guest of the kernel machine; ``why_not``: of what use no other guest is.

    Raises UsageError, ElfError.
    """
    elf = machines.load(find(program, RUN))
    if machines.machine_for(elf, None) != machines.KERNEL:
        raise UsageError(f"{program}: not a guest of the kernel machine; {why_not}")
    return elf


def state(
    program: str | None, arguments: Sequence[str], kernel: KernelOptions, keep: bool, quiet: bool
) -> System:
    """The kernel machine after boot, or after PROGRAM ran on it. Raises UsageError."""
    ctx = click.get_current_context()
    streams = Streams(
        output=(lambda data: None) if quiet else write_bytes,
        log=KernelLog(lambda line: None if quiet else click.echo(line, err=True)),
        warn=lambda line: click.echo(f"pagewalk: {line}", err=True),
        read_input=read_input,
    )
    if program is None:
        refuse_idle(ctx, ["keep", "quiet"], "give a PROGRAM; without one nothing runs")
        return kernel_machine.boot(kernel, streams)
    elf = load(program, "it has no such state")
    if not elf.is_module:
        refuse_idle(ctx, ["keep"], f"for kernel modules; {program} is a program")
    invocation = Invocation(arguments, keep_module=keep)
    outcome, system = kernel_machine.run(elf, kernel, invocation, streams)
    tell(outcome)
    return system


def tell(outcome: Outcome) -> None:
    """What there is to say of the end of a run, on standard error."""
    for line in outcome.lines:
        click.echo(f"pagewalk: {line}", err=True)
