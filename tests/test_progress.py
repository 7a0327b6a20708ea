"""The rule by which tests wait: who sleeps for ever is given up, who works is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from progress import ended, wait_until

from guest.boot import progress
from guest.boot.progress import HangError, Patience, look, tree

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="this machine has no /proc"
)

SLEEPS = "import threading; threading.Event().wait()"
SPINS = "while True: pass"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPINS!r}])"
WRITES = """
import os, time
while True:
    os.write(2, b'x')
    time.sleep(0.02)
"""

Start = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """start(code) -> a Python that runs it; killed afterwards, with what it has started."""
    made: list[subprocess.Popen[bytes]] = []

    def make(code: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", code]
        made.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        return made[-1]

    yield make
    for process in made:
        for pid in tree(process.pid) if process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks every 0.05 s, and gives up at the tenth that shows nothing."""
    monkeypatch.setattr(progress, "STILL_LOOKS", 10)
    monkeypatch.setattr(progress, "LOOK_EVERY", 0.05)


def goes_on(pid: int, cpu_max: float = 0.7) -> None:
    """Wait until it has used ``cpu_max`` seconds, which is the way out of an endless wait."""
    patience = Patience(pid, cpu_max)
    with pytest.raises(HangError, match="no end after"):
        while True:
            patience.pause()


def test_who_sleeps_for_ever_hangs(start: Start, impatient: None) -> None:
    process = start(SLEEPS)
    with pytest.raises(HangError, match=r"asleep(.|\n)*threading.Event(.|\n)*thread \d+ python"):
        ended(process)


@pytest.mark.parametrize("code", [SPINS, PARENT])
def test_who_works_does_not(start: Start, impatient: None, code: str) -> None:
    """But what he may use is bounded; a parent's child counts as the parent does."""
    goes_on(start(code).pid)


@pytest.mark.slow
def test_who_writes_does_not(start: Start, impatient: None) -> None:
    """Though he sleeps nearly always: what he writes is seen."""
    process = start(WRITES)
    patience = Patience(process.pid)
    first = look([process.pid]).written
    while look([process.pid]).written < first + 100:
        patience.pause()


@pytest.mark.slow
def test_who_gets_no_processor_does_not(start: Start, impatient: None) -> None:
    """He is runnable: no look is still. The other, on the same one, has the better of him."""
    processor = {min(os.sched_getaffinity(0))}
    slow, fast = start(SPINS), start(SPINS)
    os.sched_setaffinity(slow.pid, processor)
    os.sched_setaffinity(fast.pid, processor)
    os.setpriority(os.PRIO_PROCESS, slow.pid, 15)
    goes_on(slow.pid, 0.1)


def test_the_status_of_who_ends(start: Start) -> None:
    assert ended(start("raise SystemExit(3)")) == 3
    assert ended(start("import time; time.sleep(0.3)")) == 0


@pytest.mark.slow
def test_threads_of_ours_are_waited_for(impatient: None) -> None:
    done = threading.Event()
    over = threading.Event()

    def work() -> None:
        until = time.thread_time() + 1
        while time.thread_time() < until:
            pass
        done.set()
        over.wait()

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(done.is_set)
    with pytest.raises(HangError, match="asleep"):
        wait_until(lambda: not thread.is_alive())
    over.set()
    thread.join()


WATCHED = """
import subprocess, sys, threading, time
sys.path.insert(0, {here!r})
from watchdog import Watchdog
watchdog = Watchdog(10, 0.05)
watchdog.begins("this one", False)
{hangs}
while not (said := watchdog.said()):
    time.sleep(0.01)
print(said)
"""


@pytest.mark.parametrize(
    ("hangs", "status"),
    [
        (f"print(subprocess.run([sys.executable, '-c', {SLEEPS!r}]).returncode)", 0),
        ("threading.Event().wait()", -6),
    ],
)
def test_the_watchdog_ends_what_hangs_and_names_it(hangs: str, status: int) -> None:
    """The child, upon which the parent goes on and is told; or else the process itself."""
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", WATCHED.format(here=here, hangs=hangs)],
        capture_output=True, text=True, env=os.environ | {"PYTHONFAULTHANDLER": "1"},
    )  # fmt: skip
    assert done.returncode == status, done
    assert "watchdog: this one hangs, asleep, all of it" in done.stderr
    assert "Fatal Python error: Aborted" in done.stderr and "threading.py" in done.stderr
    if status == 0:
        assert done.stdout.startswith("-6\nthis one hangs, asleep")
