"""`--load` and what goes with it: looking at the machine in a snapshot."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from guest.boot.outcome import UsageError

load_option = click.option(
    "--load",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Look at the machine in a snapshot of pagewalk boot, in the tables its hart stands in.",
)
symbols_option = click.option(
    "--symbols",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="System.map, nm output or a guest's /proc/kallsyms: names for addresses.",
)

# The parameters that say of which machine, by what users write.
_OF_MACHINE = {
    "program": "PROGRAM",
    "paging": "--paging",
    "ram_size": "--ram",
    "machine": "--machine",
    "slab": "--slab",
    "access": "--hart",
    "walk": "--walk",
    "no_pmp": "--no-pmp",
    "extensions": "--extension",
    "append": "--append",
    "keep": "--keep",
    "page_owner": "--page-owner",
}


def refuse_beside_load(ctx: click.Context) -> None:
    """Raise UsageError for what would make another machine than the snapshot's."""
    for name, written in _OF_MACHINE.items():
        is_typed = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if is_typed and ctx.params[name] is not None:
            raise UsageError(f"{written} and --load: the machine is the snapshot's")
