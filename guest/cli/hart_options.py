"""`--hart`, `--walk`, `--no-pmp`, `--extension`: of every command with a hart, see
`emu.hart.options`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from emu.hart import HartOptions
from emu.spec.extensions import MMU_EXTENSIONS, Extensions


def hart_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a hart; it gets them as ``hart``, a `HartOptions`."""

    @click.option(
        "--hart",
        "access",
        type=click.Choice(["auto", "direct", "public", "inside"]),
        default="auto",
        help="Way to the hart's state: QEMU's own (direct; inside is the older word), Unicorn's "
        "public interface, or the best there is.",
    )
    @click.option(
        "--walk",
        type=click.Choice(["spec", "engine"]),
        default="spec",
        help="Who walks the page tables: ours, to the letter of the specification, or the "
        "engine's own, for who compares.",
    )
    @click.option(
        "--no-pmp",
        is_flag=True,
        help="A hart without physical memory protection, as QEMU's `-cpu rv64,pmp=false`: for "
        "kernels that set up none.",
    )
    @click.option(
        "--extension",
        "extensions",
        type=click.Choice(MMU_EXTENSIONS),
        multiple=True,
        help="Give the MMU an extension (again for more): svade, svadu, svnapot, svpbmt.",
    )
    @functools.wraps(command)
    def with_options(
        *args: Any, access: str, walk: str, no_pmp: bool, extensions: tuple[str, ...], **kw: Any
    ) -> Any:
        if {"svade", "svadu"} <= set(extensions):
            raise click.UsageError("--extension svade and svadu: A and D bits follow one of them")
        if (no_pmp or extensions) and (walk == "engine" or access == "public"):
            raise click.UsageError(
                "--no-pmp and --extension are of the walk that is ours: not with --walk engine "
                "or --hart public"
            )
        have = Extensions(pmp=not no_pmp, **dict.fromkeys(extensions, True))
        return command(*args, hart=HartOptions(access, walk, have), **kw)

    return with_options
