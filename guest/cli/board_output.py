"""The console of a guest on the board, and how its end is shown: as text, or as one JSON object."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

import click

from emu.stop import ORDERLY
from guest.boot.console import Kept, write_bytes
from guest.boot.outcome import Outcome
from guest.boot.terminal import Output
from guest.cli.kit import print_json


class Console:
    """``write`` takes the guest's bytes; ``output`` is who may wait for a reader with them."""

    def __init__(self, as_json: bool) -> None:
        self._kept = Kept() if as_json else None
        self.output = None if as_json else _standard_output()
        self.write: Callable[[bytes], None] = write_bytes
        if self._kept is not None:
            self.write = self._kept.write
        elif self.output is not None:
            self.write = self.output.write

    def show(self, outcome: Outcome, with_detail: bool = False) -> None:
        """How the guest ended; ``with_detail``: by which device, where that was its own wish."""
        if self._kept is not None:
            print_json(outcome.as_json(self._kept.data, self._kept.lost))
            sys.stdout.flush()
            return
        stop = outcome.stop
        detail = [stop.detail] if with_detail and stop.detail and stop.reason in ORDERLY else []
        with contextlib.suppress(OSError):  # nobody is there: the status tells
            for line in (*outcome.lines, *detail):
                click.echo(f"pagewalk: {line}", err=True)


def _standard_output() -> Output | None:
    try:
        return Output(sys.stdout.fileno())
    except OSError:  # somebody who calls us has put another object there
        return None
