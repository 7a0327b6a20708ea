"""`pagewalk tables`: what the page tables of a guest, or of a snapshot, map."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import click

from guest.boot import look
from guest.cli.table_options import TablesRequest, table_options


@click.command()
@click.option("--tree", is_flag=True, help="The tables themselves, level by level.")
@table_options
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
def tables(
    tree: bool,
    request: TablesRequest,
    as_json: bool,
) -> None:
    """Show what is mapped: merged ranges in the columns of QEMU's `info mem`, or the tree.

    Without PROGRAM: the kernel's tables after boot. With a program: its address space as
    it is loaded, the kernel's half included; a bare or firmware guest is run first. With
    --load: the tables of a snapshot; those of a Linux kernel come with its names for the
    parts of the address space.

    \b
    pagewalk tables hello
    pagewalk boot linux --timeout 10 --save linux.snap
    pagewalk tables --load linux.snap
    """
    from emu.spec import tables as page_tables

    it = request.tables()
    if tree and as_json:
        entries = page_tables.entries(it.ram, it.mode, it.root)
        page_tables.runs(it.ram, it.mode, it.root)  # refuses before anything is shown
        _print_list(
            {"level": e.level, "index": e.index, "va": hex(e.va), "pte": hex(e.pte)}
            for e in entries
        )
    elif tree:
        _print_lines(page_tables.tree_lines(it.ram, it.mode, it.root))
    elif as_json:
        _print_list(_range_json(it, r) for r in it.ranges())
    else:
        _print_lines(_range_lines(it))


def _range_json(tables: look.Tables, it: Any) -> dict[str, Any]:
    told = {"va": hex(it.va), "pa": hex(it.pa), "size": it.size, "attr": it.attributes}
    if tables.regions:
        told["region"] = tables.region(it.va)
    if name := tables.symbols.name(it.va):
        told["symbol"] = name
    return told


def _range_lines(tables: look.Tables) -> Iterator[str]:
    """As `info mem`; a named part begins with a line as Linux's own dump has it."""
    from emu.spec import tables as page_tables

    ranges = tables.ranges()
    yield from page_tables.INFO_MEM_HEAD
    before = ""
    for it in ranges:
        region = tables.region(it.va)
        if region != before:
            yield f"---[ {region or 'no known part'} ]---"
            before = region
        name = tables.symbols.name(it.va)
        yield page_tables.info_mem_line(it) + (f" {name}" if name else "")


def _print_lines(lines: Iterable[str]) -> None:
    """Line by line: a tree of many pages never is in memory as text."""
    for line in lines:
        click.echo(line)


def _print_list(items: Iterable[dict[str, Any]]) -> None:
    """One JSON list, an item a line."""
    separator = "["
    for item in items:
        click.echo(f"{separator}\n  {json.dumps(item)}", nl=False)
        separator = ","
    click.echo("[]" if separator == "[" else "\n]")


def register(main: click.Group) -> None:
    """Add the command to ``main``."""
    main.add_command(tables)
