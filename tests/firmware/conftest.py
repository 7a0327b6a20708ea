"""Fixtures of the firmware's tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for sbi_kit.py
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for asm.py
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "emu"))  # for harness.py

from harness import Bench
from sbi_kit import Supervisor


@pytest.fixture(params=["inside", "public"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A 16 MiB machine, once on each way to the hart's state."""
    made = Bench(request.param)
    yield made
    made.machine.close()


@pytest.fixture
def inside() -> Iterator[Bench]:
    """A 16 MiB machine on the inside way."""
    made = Bench("inside")
    yield made
    made.machine.close()


@pytest.fixture
def s_mode(bench: Bench) -> Supervisor:
    """Python's SBI under an S-mode guest, with a clock that stands still."""
    return Supervisor(bench)
