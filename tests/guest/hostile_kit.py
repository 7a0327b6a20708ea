"""Guests that do what no guest should: running them, and what must hold however they end.

Most run in this process, through the command line as a user would type it. Those whose point
is the process itself, its memory, signals and pipes, run in one of their own.
"""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from click.testing import Result
from progress import ended

from guest.boot.progress import Patience

Cli = Callable[..., Result]

RAM, RAM_SIZE = 0x8000_0000, 16 << 20
START = 0x8020_0000  # where a kernel that says nothing of itself goes
# Of the process over its guest's RAM: the interpreter with its modules, the translated code.
RESIDENT_MAX = 110 << 20  # bytes

# Guests work on what lies here and keep their code below.
SCRATCH, SCRATCH_SIZE = RAM + (8 << 20), 4 << 20

HOLE = 0x4000_0000
UART, FINISHER, RTC, CLINT, PLIC = 0x1000_0000, 0x10_0000, 0x10_1000, 0x200_0000, 0xC00_0000
VIRTIO = [0x1000_1000 + 0x1000 * i for i in range(8)]

# Any end that is the guest's own: its exit, time, a fault by its cause's signal.
ANY = (*range(124), 124, 132, 133, 135, 139)
ALL_DONE = b"<all done>"

# Ends the machine by the SBI; with status 1 when register `{failed}` is not zero.
SHUTDOWN = """
    snez a1, {failed}
    li a0, 0
    li a7, 0x53525354
    li a6, 0
    ecall
"""

# Says ALL_DONE through the UART, whatever was done to it, and ends by the finisher; M-mode,
# or S-mode without translation.
SAY_ALL_DONE = """
    li t0, 0x10000000
    sb zero, 3(t0)
    sb zero, 4(t0)
    la t1, word
91: lbu t2, 0(t1)
    beqz t2, 92f
    sb t2, 0(t0)
    addi t1, t1, 1
    j 91b
92: li t0, 0x100000
    li t1, 0x5555
    sw t1, 0(t0)
93: j 93b
.balign 8
word: .asciz "<all done>"
.balign 8
"""


@dataclass
class Ended:
    """How a `pagewalk boot` ended."""

    status: int
    out: bytes
    error: bytes

    def check(self, *statuses: int) -> None:
        """Whatever the guest was, the end is one of ``statuses``, and orderly."""
        assert self.status in statuses, (self.status, self.out[-500:], self.error[-2000:])
        assert b"Traceback" not in self.error, self.error.decode()
        assert self.error.startswith(b"pagewalk: "), self.error

    def check_all_done(self) -> None:
        """The guest came to its end, and had nothing to complain of."""
        self.check(0)
        assert self.out.endswith(ALL_DONE), self.out[-500:]


class Host:
    """Runs guests that are bytes of code, on ``RAM_SIZE`` of RAM.

    ``arguments`` are more of the command line; give ``bios=True`` for code that begins in
    M-mode at the start of RAM.
    """

    def __init__(self, folder: Path, cli: Cli) -> None:
        self.folder = folder
        self._cli = cli
        self.disk = folder / "disk"
        self.disk.write_bytes(random.Random(1).randbytes(64 * 512))

    def _words(self, code: bytes, bios: bool, arguments: tuple[object, ...]) -> list[str]:
        path = self.folder / "guest"
        path.write_bytes(code)
        given = ["--bios", path] if bios else [path]
        return ["boot", *map(str, (*given, "--ram", f"{RAM_SIZE >> 20}M", *arguments))]

    def run(self, code: bytes, *arguments: object, bios: bool = False) -> Ended:
        """In this process."""
        result = self._cli(*self._words(code, bios, arguments))
        return Ended(result.exit_code, result.stdout_bytes, result.stderr_bytes)

    @contextmanager
    def start(
        self, code: bytes, *arguments: object, **options: object
    ) -> Iterator[subprocess.Popen[bytes]]:
        """In a process of its own, which is killed at the end if it has not ended."""
        words = self._words(code, bool(options.pop("bios", False)), arguments)
        options = {"stdin": subprocess.DEVNULL} | options
        command = [sys.executable, "-m", "guest.cli", *words]
        process = subprocess.Popen(command, **options)  # type: ignore[call-overload]
        with process:
            try:
                yield process
            finally:
                process.kill()

    def run_apart(
        self,
        code: bytes,
        *arguments: object,
        bios: bool = False,
        more: int = 0,
        is_kept: bool = True,
    ) -> Ended:
        """In a process of its own, which may be as large as its guest and ``more`` bytes.

        Unless ``is_kept`` nobody sees what the guest says.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
            pipes = {"stdout": out if is_kept else subprocess.DEVNULL, "stderr": error}
            with self.start(code, *arguments, bios=bios, **pipes) as process:
                largest = 0
                patience = Patience(process.pid)
                while process.poll() is None:
                    largest = max(largest, resident(process, "VmHWM"))
                    patience.pause()
            out.seek(0)
            error.seek(0)
            ended = Ended(process.returncode, out.read(), error.read())
        limit = RAM_SIZE + RESIDENT_MAX + more
        assert 0 < largest < limit, (largest >> 20, limit >> 20, ended.error[-2000:])
        return ended


def resident(process: subprocess.Popen[bytes], what: str = "VmRSS") -> int:
    """Bytes of RAM it has, VmHWM: the most it ever had. 0 when it has ended.

    The process's own account: `ru_maxrss` begins with that of the process who made it.
    """
    try:
        text = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:  # nothing is left of it
        return 0
    found = re.search(rf"{what}:\s+(\d+) kB", text)  # not there when only its status is left
    return int(found[1]) << 10 if found else 0


def end_by_signal(process: subprocess.Popen[bytes]) -> None:
    """The user's Ctrl-C, from outside: it ends at once, whatever the guest does."""
    process.send_signal(signal.SIGTERM)
    assert ended(process, cpu_max=20) == 128 + signal.SIGTERM


_VALUES = (
    0, 1, 2, 3, 4, 7, 8, 0xF, 0x10, 0x40, 0x80, 0xFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000,
    SCRATCH, SCRATCH + 0x1000, SCRATCH + 0xFFF0, 0xFFFF_FFFF, 1 << 63, (1 << 64) - 1,
)  # fmt: skip


def random_value(rng: random.Random) -> int:
    """64 bits, and more often what a register may mean something by."""
    if rng.random() < 0.6:
        return rng.choice(_VALUES)
    return rng.getrandbits(rng.choice((8, 32, 64)))
