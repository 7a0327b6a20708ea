"""`pagewalk proc`: Linux's /proc of memory, after boot or after a guest."""

from __future__ import annotations

import click

from guest.boot.kernel_machine import KernelOptions
from guest.boot.outcome import UsageError
from guest.cli import kernel_guest
from guest.cli.kernel_options import kernel_options
from guest.cli.kit import json_option, print_json, refuse_idle
from guest.cli.then import VIEWS, keep_option, view, with_views


@click.command("proc")
@click.argument("name", type=click.Choice(VIEWS), metavar="NAME")
@click.argument("program", required=False)
@click.argument("arguments", nargs=-1)
@kernel_options
@keep_option
@click.option(
    "--quiet", "-q", is_flag=True, help="Do not show what the program and the kernel print."
)
@json_option
@click.pass_context
def proc(
    ctx: click.Context,
    /,
    name: str,
    program: str | None,
    arguments: tuple[str, ...],
    kernel: KernelOptions,
    keep: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Show NAME as Linux's /proc would, after boot or after PROGRAM has run.

    \b
    buddyinfo       free blocks of each order, by zone
    pagetypeinfo    the same by migratetype; pageblocks of each type
    zoneinfo        watermarks, reserves, sizes, per-CPU lists
    slabinfo        caches: objects in use, slabs (not with --slab slob)
    vmallocinfo     areas of vmalloc: who made them, how many pages
    meminfo         where memory is, in kB
    maps            the address space of PROGRAM
    page_owner      who allocated each block (switched on at boot by asking)
    kmemleak        objects that nothing points to (switched on at boot by asking)
    extfrag_index   why a request of each order would fail
    unusable_index  how much free memory each order cannot use

    What PROGRAM prints comes first; its address space is still there when the view is
    taken. A kernel module has been unloaded, unless --keep is given.

    \b
    pagewalk proc buddyinfo
    pagewalk proc slabinfo ./module.c --keep
    pagewalk proc maps hello
    """
    if as_json:
        refuse_idle(ctx, ["quiet"], "--json shows nothing else")
    if name == "maps" and program is None:
        raise UsageError("maps shows the address space of a program: give one (maps hello)")
    asked = with_views(kernel, [name])
    text = view(kernel_guest.state(program, arguments, asked, keep, quiet or as_json), name)
    if as_json:
        print_json({"name": name, "program": program, "text": text})
        return
    click.echo(text, nl=False)
    if not text:
        click.echo(f"pagewalk: {name}: nothing to show", err=True)


def register(main: click.Group) -> None:
    """Add the command to ``main``."""
    main.add_command(proc)
