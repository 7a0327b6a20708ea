"""What the commands of the command line share."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable
from typing import Any

import click
from click.core import ParameterSource

from emu.board.memory_map import RAM_SIZE_DEFAULT
from emu.spec.paging import MODES
from guest.boot.outcome import UsageError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE_PATTERN = re.compile(r"(0x[0-9a-f]+|\d+)([kmgt]?)(i?b)?", re.IGNORECASE)


class SizeParameter(click.ParamType[int]):
    """Bytes, with a binary unit: 65536, 64M, 2G, 2GiB."""

    name = "SIZE"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE_PATTERN.fullmatch(value.strip())
        if match is None:
            self.fail(f"{value!r} is no size: give bytes, or a number with K, M, G or T")
        size = int(match[1], 0) * _UNITS[match[2].upper()]
        if size == 0:
            self.fail("a machine without RAM cannot run: give at least one page, 4K")
        if size % 4096:
            meant = f": did you mean {match[1]}M?" if not match[2] else ""
            self.fail(f"{value!r} is not a whole number of 4 KiB pages{meant}")
        if size > 1 << 50:
            self.fail(f"{value!r} is more than 1 PiB")
        return size


def refuse_idle(ctx: click.Context, names: Iterable[str], why: str) -> None:
    """Raise UsageError for the first of the parameters ``names`` that was typed: ``why``.

    An option that does nothing is somebody's mistake, who is better told.
    """
    wanted = set(names)
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if name in wanted and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            typed = parameter.opts[0] if isinstance(parameter, click.Option) else name.upper()
            raise UsageError(f"{typed}: {why}")


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


class SecondsParameter(click.ParamType[float]):
    """A number of seconds that can be waited, more than 0."""

    name = "SECONDS"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            seconds = float(value)
        except ValueError:
            self.fail(f"{value!r} is no number of seconds")
        if not 0 < seconds < threading.TIMEOUT_MAX:  # nor what is not a number
            self.fail(f"{value!r} is no number of seconds that can be waited")
        return seconds


paging_option = click.option(
    "--paging",
    type=click.Choice(list(MODES)),
    default="sv39",
    show_default=True,
    help="Translation scheme of the kernel machine.",
)
ram_option = click.option(
    "--ram",
    "ram_size",
    type=SizeParameter(),
    default=RAM_SIZE_DEFAULT,
    show_default="64M",
    help="RAM: bytes, or with K, M, G or T. Sparse: what is not touched costs nothing.",
)
timeout_option = click.option(
    "--timeout",
    type=SecondsParameter(),
    help="End the guest after that time, with status 124.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object on standard output."
)
