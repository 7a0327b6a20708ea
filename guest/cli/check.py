"""`pagewalk check`: every structure in RAM, by `mm.check`."""

from __future__ import annotations

import dataclasses

import click

import mm
from guest.boot import kernel_machine
from guest.boot.console import read_input, write_bytes
from guest.boot.kernel_machine import Invocation, KernelOptions, Streams
from guest.cli import kernel_guest
from guest.cli.kernel_options import kernel_options
from guest.cli.kit import json_option, print_json
from mm.errors import CheckError


@click.command()
@click.argument("program", required=False)
@click.argument("arguments", nargs=-1)
@kernel_options
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    program: str | None,
    arguments: tuple[str, ...],
    kernel: KernelOptions,
    as_json: bool,
) -> None:
    """Boot, run PROGRAM if one is given, then check every structure in RAM.

    Free lists against page flags, slabs, page tables, address spaces, W^X. The exit status
    is 0 when all is sound; else 1, with the structure, its address and the rule it breaks.
    """
    streams = Streams(output=(lambda data: None) if as_json else write_bytes, read_input=read_input)
    if program is None:
        system = kernel_machine.boot(kernel, streams)
    else:
        elf = kernel_guest.load(program, "nothing to check")
        outcome, system = kernel_machine.run(elf, kernel, Invocation(arguments), streams)
        if not as_json:
            kernel_guest.tell(outcome)
    try:
        report = mm.check(system.kernel)
    except CheckError as e:
        if as_json:
            broken = {"structure": e.structure, "address": hex(e.address), "rule": e.rule}
            print_json({"clean": False} | broken)
        else:
            click.echo(f"mm.check: {e}", err=True)
        ctx.exit(1)
    if as_json:
        print_json({"clean": True, **dataclasses.asdict(report)})
    else:
        click.echo(f"mm.check: clean: {report}")


def register(main: click.Group) -> None:
    """Add the command to ``main``."""
    main.add_command(check)
