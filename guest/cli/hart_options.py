"""`--hart`: the options that every command with a hart takes, see `emu.hart.options`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from emu.hart import HartOptions


def hart_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a hart; it gets them as ``hart``, a `HartOptions`."""

    @click.option(
        "--hart",
        "access",
        type=click.Choice(["auto", "inside", "public"]),
        default="auto",
        help="Way to the hart's state: QEMU's own, Unicorn's public interface, or the best "
        "there is.",
    )
    @functools.wraps(command)
    def with_options(*args: Any, access: str, **kw: Any) -> Any:
        return command(*args, hart=HartOptions(access), **kw)

    return with_options
