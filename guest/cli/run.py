"""`pagewalk run`: a guest on the machine that suits it; without one, the demo."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import click

from guest.boot import machines
from guest.boot.console import Kept, KernelLog, read_input, write_bytes
from guest.boot.find import RUN, Found, find
from guest.boot.kernel_machine import Invocation, KernelOptions, Streams
from guest.boot.machines import KERNEL, MACHINES
from guest.boot.outcome import EXIT_BUG, Outcome, UsageError
from guest.cli import kernel_guest, then
from guest.cli.kernel_options import kernel_options
from guest.cli.kit import json_option, print_json, refuse_idle, timeout_option
from guest.cli.trace_options import TraceRequest, trace_options
from guest.image.elf import Elf
from guest.kernel.system import System

# Parameters that mean something to some guests alone.
_OF_GUEST = ("keep", "environment", "timeout")
_OF_KERNEL_MACHINE = ("paging", "slab", "append", "verbose", "then", "keep", "environment")


@dataclass(frozen=True)
class _Run:
    """What was asked for, beside the machine's options."""

    machine: str | None
    invocation: Invocation
    trace: TraceRequest
    verbose: bool
    then: tuple[str, ...]
    fail_on_bug: bool
    as_json: bool
    console: Kept
    log: KernelLog

    def streams(self, with_boot_log: bool) -> Streams:
        return Streams(
            output=self.console.write if self.as_json else write_bytes,
            log=self.log,
            boot_log=self.log if with_boot_log or self.verbose else lambda line: None,
            warn=self._warn,
            read_input=read_input,
        )

    def _warn(self, line: str) -> None:
        if not self.as_json:
            click.echo(f"pagewalk: {line}", err=True)


@click.command()
@click.argument("program", required=False)
@click.argument("arguments", nargs=-1)
@kernel_options
@click.option(
    "--machine",
    type=click.Choice(MACHINES),
    help="Who holds which level: bare (all the guest's), firmware (Python is the SBI), "
    "kernel (Python is firmware and kernel). Default: by the program's addresses.",
)
@trace_options
@click.option("--verbose", "-v", is_flag=True, help="Show the kernel's boot log too.")
@then.then_option
@then.keep_option
@click.option(
    "--env",
    "environment",
    multiple=True,
    metavar="NAME=VALUE",
    help="Put it into a program's environment, which is empty else. May be repeated.",
)
@click.option(
    "--fail-on-bug/--no-fail-on-bug",
    default=True,
    help="Exit with 1 when the kernel reported a bug, or --then check failed. On by default.",
)
@timeout_option
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    /,
    program: str | None,
    arguments: tuple[str, ...],
    kernel: KernelOptions,
    keep: bool,
    environment: tuple[str, ...],
    timeout: float | None,
    **rest: Any,
) -> None:
    """Run PROGRAM with ARGUMENTS; without one, the demo.

    PROGRAM is a static RV64 ELF, a kernel module, a C or assembly file (needs the extra
    `compile`), or the name of a guest that comes with pagewalk. Arguments that begin with
    a dash go behind `--`; those of a module are its parameters, NAME=VALUE. An ELF linked
    into RAM runs on the board of pagewalk boot: with --bios none, or under the SBI in Python.

    \b
    The exit status is the guest's: of exit(), the finisher, or HTIF (0 for pass, else the
    test's number). 128 + signal for a fault that nobody handles, 130 for Ctrl-C, 124 when
    the time is up or the hart waits for an interrupt that cannot come, 2 for bad input.
    0 becomes 1 when the kernel reported a bug (BUG, WARNING, a bad free ...) or a check after
    --then found something: see --no-fail-on-bug.
    """
    as_json = rest["as_json"]
    log = KernelLog(lambda line: None if as_json else click.echo(line))
    invocation = Invocation(arguments, environment, keep, timeout)
    asked = _Run(invocation=invocation, console=Kept(), log=log, **rest)
    if as_json:
        refuse_idle(ctx, ["verbose"], "--json has the boot log")
    for pair in environment:
        if not pair.partition("=")[1]:
            raise UsageError(f"--env {pair!r}: give NAME=VALUE")
    kernel = then.with_views(kernel, then.views_of(asked.then))
    if program is None:
        refuse_idle(ctx, _OF_GUEST, "give a PROGRAM; without one there is the demo")
        ctx.exit(_demo(kernel, asked))
    found = find(program, RUN, asked.machine)
    elf = machines.load(found, asked.machine)
    machine = machines.machine_for(elf, asked.machine)
    if machine != KERNEL:
        refuse_idle(ctx, _OF_KERNEL_MACHINE, f"for the kernel machine; {program} runs on {machine}")
        ctx.exit(_on_board(found, elf, machine, kernel, asked))
    if elf.is_module:
        refuse_idle(ctx, ["environment"], f"for programs; {program} is a kernel module")
    else:
        refuse_idle(ctx, ["keep"], f"for kernel modules; {program} is a program")
    ctx.exit(_on_kernel(found, elf, kernel, asked))


def _demo(kernel: KernelOptions, asked: _Run) -> int:
    if asked.machine not in (None, KERNEL):
        raise UsageError(f"the demo runs on the kernel machine, not on {asked.machine}")
    from guest.cli.demo import tell

    with asked.trace:
        outcome, system = tell(kernel, asked.streams(True), asked.trace.attach, asked.log)
    return _report(outcome, system, asked)


def _on_board(found: Found, elf: Elf, machine: str, kernel: KernelOptions, asked: _Run) -> int:
    """`pagewalk boot`'s way; but a terminal stays as it is, Ctrl-C ends, and a reset too."""
    from guest.boot import boot
    from guest.boot.session import Session, SessionOptions
    from guest.cli.board_output import Console

    if asked.invocation.arguments:
        words = " ".join(asked.invocation.arguments)
        raise UsageError(f"a {machine} guest takes no arguments: {words}")
    console = Console(asked.as_json)
    options = boot.options_of(found, elf, machine, kernel.ram_size, kernel.hart, console.write)
    with_input = not asked.as_json or not os.isatty(0)
    session = SessionOptions(
        asked.invocation.timeout, reboot=False, with_input=with_input, raw=False
    )
    booted = boot.prepare(options)
    try:
        with asked.trace:
            outcome = Session(booted, session, console.output).run(found.name, asked.trace.attach)
    finally:
        booted.board.close()
    console.show(outcome)
    return outcome.status


def _on_kernel(found: Found, elf: Elf, kernel: KernelOptions, asked: _Run) -> int:
    from guest.boot import kernel_machine

    with asked.trace:
        outcome, system = kernel_machine.run(
            elf, kernel, asked.invocation, asked.streams(asked.as_json), asked.trace.attach
        )
    outcome.program = found.name
    return _report(outcome, system, asked)


def _report(outcome: Outcome, system: System, asked: _Run) -> int:
    """Say how it ended, and show what --then asks for; the exit status."""
    if not asked.as_json:
        kernel_guest.tell(outcome)
    shown = then.show_then(system, asked.then, asked.as_json)
    if not outcome.status and asked.fail_on_bug and (outcome.bugs or then.is_damaged(shown)):
        outcome.status = EXIT_BUG
        if outcome.bugs and not asked.as_json:
            click.echo(f"pagewalk: {_bugs(outcome.bugs)} (--no-fail-on-bug: exit 0)", err=True)
    if asked.as_json:
        console = asked.console
        print_json(outcome.as_json(console.data, console.lost, asked.log.lines, shown))
    return outcome.status


def _bugs(bugs: list[str]) -> str:
    more = f" and {len(bugs) - 1} more" if len(bugs) > 1 else ""
    return f"a bug was reported: {bugs[0]}{more}"


def register(main: click.Group) -> None:
    """Add the command to ``main``."""
    main.add_command(run)
