"""Fixtures of the memory manager's tests: small machines, booted on plain RAM."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import mm
from emu.ram import Ram
from mm.hart import Recorder

Booter = Callable[..., mm.Kernel]


@pytest.fixture
def boot() -> Booter:
    """boot(mib, **config) -> a kernel on fresh RAM, with a Recorder as its hart.

    Unless asked for, without per-CPU lists and reserves: each frame comes and goes at once,
    and the last one can be had.
    """

    def make(mib: int = 16, **config: object) -> mm.Kernel:
        config = {"pcp": False, "min_free_kbytes": 0, **config}
        hart = Recorder()
        kernel = mm.boot(Ram(mib << 20), mm.Config(**config), hart)  # type: ignore[arg-type]
        hart.take()
        return kernel

    return make


@pytest.fixture
def kernel(boot: Booter) -> mm.Kernel:
    """A 16 MiB machine under Sv39."""
    return boot()
