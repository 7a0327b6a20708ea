"""Fixtures of the machine's tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for asm.py

from harness import Bench


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
