"""What the commands of the command line share."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from typing import Any

import click
from click.core import ParameterSource

from emu.board.ram_size import parse_ram_size
from guest.boot.outcome import UsageError


class SizeParameter(click.ParamType[int]):
    """Bytes, with a binary unit: 65536, 64M, 2G, 2GiB."""

    name = "SIZE"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_ram_size(value)
        except ValueError as e:
            self.fail(str(e))


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


timeout_option = click.option(
    "--timeout",
    type=SecondsParameter(),
    help="End the guest after that time, with status 124.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object on standard output."
)
