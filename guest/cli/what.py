"""`pagewalk what`: what an address is, in the kernel machine or in a snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from guest.boot.kernel_machine import KernelOptions
from guest.boot.outcome import UsageError
from guest.cli import kernel_guest
from guest.cli.kernel_options import kernel_options
from guest.cli.kit import json_option, print_json
from guest.cli.load_options import load_option, refuse_beside_load, symbols_option
from guest.cli.then import keep_option, parse_address, what_is, with_views
from mm.what import What

_HEX = {
    "pa", "pte", "pte_pa", "page", "page_of", "slab", "object", "area", "vma", "vma_end",
    "entry_va", "table_va", "head", "pfn", "gfp", "va",
}  # fmt: skip


@click.command("what")
@click.argument("address")
@click.argument("program", required=False)
@click.argument("arguments", nargs=-1)
@load_option
@symbols_option
@kernel_options
@keep_option
@json_option
@click.option("--page-owner", is_flag=True, help="Record who allocates each page.")
@click.pass_context
def what(
    ctx: click.Context,
    /,
    address: str,
    program: str | None,
    arguments: tuple[str, ...],
    load: Path | None,
    symbols: Path | None,
    kernel: KernelOptions,
    keep: bool,
    as_json: bool,
    page_owner: bool,
) -> None:
    """Say what ADDRESS (hexadecimal; virtual or physical) is.

    For a virtual address: its area, the PTE that maps it, and the frame behind it. For
    any frame: zone, block, free or allocated as what (slab object, page table, page of a
    vmalloc area ...), and every place that maps it. After boot, or after PROGRAM has run;
    an address of user space is PROGRAM's. With --load: in the tables that a snapshot's hart
    stands in, of whatever guest: what maps the address, and who else maps the frame.

    \b
    pagewalk what ffffffd600400000
    pagewalk what 80400000
    pagewalk what 10000 hello
    pagewalk what ffffffff80002000 --load linux.snap
    """
    wanted = parse_address(address)
    if load is not None:
        from guest.boot import look

        refuse_beside_load(ctx)
        found = look.what(look.load_snapshot(load, symbols), wanted)
    elif symbols is not None:
        raise UsageError("--symbols names what is in a snapshot: give --load FILE too")
    else:
        asked = with_views(kernel, ["page_owner"] if page_owner else [])
        system = kernel_guest.state(program, arguments, asked, keep, quiet=True)
        found = what_is(system, wanted)
    _show(found, as_json)


def _show(found: What, as_json: bool) -> None:
    if as_json:
        facts = {k: _json_value(k, v) for k, v in found.facts.items()}
        print_json(
            {"address": hex(found.address), "kind": found.kind, **facts, "text": found.lines}
        )
    else:
        click.echo(str(found))


def _json_value(name: str, value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return hex(value) if name in _HEX else value
    if isinstance(value, tuple):
        return [hex(v) for v in value]
    if isinstance(value, list):
        return [{k: _json_value(k, v) for k, v in row.items()} for row in value]
    return value


def register(main: click.Group) -> None:
    """Add the command to ``main``."""
    main.add_command(what)
