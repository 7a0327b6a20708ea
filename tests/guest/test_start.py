"""The process of the command line: what it prints is there, and its status, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HELLO = b"Hello from M-mode\n"
COMMAND = [sys.executable, "-m", "pagewalk"]


def started(code: str) -> subprocess.CompletedProcess[bytes]:
    """`pagewalk list` by `start`, behind ``code``."""
    script = f"import sys\nfrom guest.cli.start import leave, start\n{code}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)


@pytest.mark.parametrize(
    ("words", "status", "output"),
    [
        (["run", "uart_hello"], 0, HELLO),
        (["run", "fault", "write"], 139, b""),
        (["run", "gone.elf"], 2, b""),
        (["gone"], 2, b""),
        (["run", "--help"], 0, None),
        (["--version"], 0, None),
    ],
)
def test_the_status_and_the_output(words: list[str], status: int, output: bytes | None) -> None:
    done = subprocess.run([*COMMAND, *words], capture_output=True, check=False)
    assert done.returncode == status and b"Traceback" not in done.stderr, done
    assert done.stdout == output if output is not None else done.stdout
    assert bool(done.stderr) is (status != 0)


def test_all_of_a_long_output_comes() -> None:
    done = started("print('x' * 1_000_000)\nleave(3)")
    assert (done.returncode, len(done.stdout)) == (3, 1_000_001)


def test_what_is_to_be_done_at_the_end_is_done() -> None:
    done = started(
        "import atexit\natexit.register(print, 'done')\nsys.argv = ['pagewalk', 'list']\nstart()"
    )
    assert done.returncode == 0 and done.stdout.endswith(b"\ndone\n")


def test_an_exit_with_a_text_says_it() -> None:
    done = started("import guest.cli.main as m\nm.main = lambda prog_name: sys.exit('so')\nstart()")
    assert (done.returncode, done.stderr) == (1, b"so\n")


def test_an_error_of_ours_is_shown() -> None:
    done = started("import guest.cli.main as m\nm.main = lambda prog_name: 1 / 0\nstart()")
    assert done.returncode == 1 and b"ZeroDivisionError" in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_output_that_cannot_be_written_is_told() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, "list"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2 and b"No space left" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_reader_that_has_gone_is_not_told() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run([*COMMAND, "list"], stdout=theirs, stderr=subprocess.PIPE, check=False)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, b"")
