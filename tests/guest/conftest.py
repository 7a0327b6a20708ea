"""Fixtures of the guests' tests."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for asm.py
sys.path.insert(0, str(Path(__file__).resolve().parent))  # for the kits

from guest_kit import Kernel
from hostile_kit import Host

from emu.spec.paging import SV39, PagingMode
from guest.cli.main import main


@pytest.fixture
def machines() -> Iterator[Callable[..., Kernel]]:
    """machines(mode, **system) -> a kernel machine that has booted; checked and closed."""
    made: list[Kernel] = []

    def make(mode: PagingMode = SV39, **options: object) -> Kernel:
        made.append(Kernel(mode, **options))
        return made[-1]

    yield make
    for kernel in made:
        kernel.close()


@pytest.fixture
def kernel(machines: Callable[..., Kernel]) -> Kernel:
    """A kernel machine under Sv39."""
    return machines()


@pytest.fixture
def pagewalk() -> Callable[..., Result]:
    """pagewalk("run", "hello") -> what the command line does, in this process."""

    def call(*arguments: object) -> Result:
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture
def host(tmp_path: Path, pagewalk: Callable[..., Result]) -> Host:
    """Runs guests that do what no guest should."""
    return Host(tmp_path, pagewalk)


# Under nohup, and in a job that a shell runs in the background, they are ignored, and each
# program that is started here would inherit that.
for _number, _usual in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)
