"""What every room's tests share: a watchdog, which sees hangs by what makes no progress."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for progress.py, watchdog.py, asm.py

from watchdog import watchdog

# Both are limits in seconds. A test that suppresses another check has to name this one again.
settings.register_profile("pagewalk", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pagewalk")

# Whoever is ended by the watchdog says where its threads are, and leaves no core behind.
os.environ["PYTHONFAULTHANDLER"] = "1"
resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    watchdog().begins(item.nodeid, item.get_closest_marker("slow") is not None)
    try:
        return (yield)
    finally:
        watchdog().over()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    if said := watchdog().said():
        report.outcome, report.longrepr = "failed", said
    return report


def pytest_enter_pdb() -> None:
    watchdog().over()
