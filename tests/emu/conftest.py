"""Fixtures of the machine's tests."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for asm.py

from harness import Bench


@pytest.fixture(autouse=True)
def _watchdog() -> Iterator[None]:
    """End the process when the engine does not come back: nothing else reaches into it."""
    faulthandler.dump_traceback_later(60, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(params=["inside", "public"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A 16 MiB machine, once on each way to the hart's state."""
    made = Bench(request.param)
    yield made
    made.machine.close()


@pytest.fixture
def inside() -> Iterator[Bench]:
    """A 16 MiB machine on the inside way, for what the public one cannot do."""
    made = Bench("inside")
    yield made
    made.machine.close()
