"""The distribution's gdb on a guest of ours: an S-mode kernel that runs on page tables."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from progress import wait_until

from emu.board.machine import Machine
from emu.debug.gdb.server import GdbServer
from emu.hart import HartOptions
from emu.stop import Stop, StopReason
from guest import build
from guest.boot.boot import BootOptions, prepare
from guest.image import elf as elf_file

GDB = shutil.which("gdb-multiarch")
pytestmark = pytest.mark.skipif(
    GDB is None or not build.have_compiler(),
    reason="needs gdb-multiarch and the extra `compile`",
)

# The kernel's memory is mapped where it is, and once more from ALIAS on.
ALIAS = 0xFFFF_FFC0_0000_0000
RAM = 0x8000_0000
SOURCE = """\
#include <pagewalk/sbi.h>

struct job {
    int id;
    long cost;
};

static struct job jobs[3] = {{1, 10}, {2, 20}, {3, 30}};
long total;
volatile int spinning;
static unsigned long root[512] __attribute__((aligned(4096)));

static long charge(struct job *job)
{
    long before = total;
    total += job->cost; /* charges */
    return total - before;
}

static void translate(void)
{
    root[2] = root[256] = 0x80000000ul >> 12 << 10 | 0xcf;
    unsigned long satp = 8ul << 60 | (unsigned long)root >> 12;
    __asm__ volatile("sfence.vma; csrw satp, %0; sfence.vma" ::"r"(satp) : "memory");
}

int main(void)
{
    translate();
    for (int round = 0; round < 3; round++)
        charge(&jobs[round]); /* calls */
    while (spinning)
        ; /* spins */
    printf("total %ld\\n", total);
    return total != 60;
}
"""


def line_of(text: str) -> int:
    return next(n for n, line in enumerate(SOURCE.splitlines(), 1) if text in line)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's ELF, with its source beside it."""
    folder = tmp_path_factory.mktemp("gdb")
    source = folder / "kernel.c"
    source.write_text(SOURCE)
    # Unoptimised: each line is somewhere, each variable has a place.
    kind = dataclasses.replace(build.SUPERVISOR, compile=(*build.SUPERVISOR.compile, "-O0"))
    build.build(kind, [source], folder / "kernel.elf", folder)
    return folder / "kernel.elf"


class Target:
    """The kernel on a machine, served to gdb from a thread."""

    def __init__(self, kernel: Path, access: str) -> None:
        self.kernel = kernel
        self.output = bytearray()
        booted = prepare(
            BootOptions(
                kernel, ram_size=16 << 20, hart=HartOptions(access), output=self.output.extend
            )
        )
        self.machine: Machine = booted.board
        self.server = GdbServer(self.machine, symbols=booted.symbols)
        self._stops: list[Stop] = []
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        self._stops.append(self.server.serve())

    def command(self, *commands: str) -> list[str]:
        fixed = (
            *("set pagination off", "set confirm off", "set width 0"),
            f"directory {self.kernel.parent}",
            f"target remote 127.0.0.1:{self.server.port}",
        )
        arguments = [part for command in (*fixed, *commands) for part in ("-ex", command)]
        assert GDB is not None
        return [GDB, "-nx", "-batch", *arguments, str(self.kernel)]

    def gdb(self, *commands: str) -> str:
        """What gdb prints for the commands, after it has connected."""
        done = subprocess.run(self.command(*commands), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def total(self) -> int:
        """The guest's variable, as it is in RAM."""
        va = elf_file.load(self.kernel).symbol("total")
        assert va is not None
        return self.machine.ram.read64(va)

    def ended(self) -> Stop:
        self._thread.join()
        return self._stops[0]

    def close(self) -> None:
        while self._thread.is_alive():
            self._thread.join(0.2)
            with (
                contextlib.suppress(OSError),  # the guest may end at this moment
                socket.create_connection(("127.0.0.1", self.server.port)) as client,
            ):
                client.sendall(b"$k#6b")
                client.recv(16)
        self.machine.close()


@pytest.fixture(params=["inside", "public"])
def target(request: pytest.FixtureRequest, kernel: Path) -> Iterator[Target]:
    made = Target(kernel, request.param)
    yield made
    made.close()


def test_break_backtrace_print_next(target: Target) -> None:
    text = target.gdb(
        *("break main", "continue", "info registers priv", "break charge", "continue"),
        *("backtrace", "print *job", "next", "print before", "next", "print total"),
        *("up", "print round", "info breakpoints"),
    )
    assert f"Breakpoint 1, main () at ./kernel.c:{line_of('translate();')}" in text
    assert "[Supervisor]" in text
    assert re.search(r"Breakpoint 2, charge \(job=0x[0-9a-f]+ <jobs>\)", text)
    assert re.search(rf"#1 +0x[0-9a-f]+ in main \(\) at ./kernel.c:{line_of('calls')}", text)
    assert "$1 = {id = 1, cost = 10}" in text
    assert "$2 = 0" in text and "$3 = 10" in text and "$4 = 0" in text
    assert "breakpoint already hit 1 time" in text


def test_each_call_is_one_hit(target: Target) -> None:
    text = target.gdb(
        "break charge", "continue", "continue", "continue", "continue", "info breakpoints"
    )
    assert text.count("Breakpoint 1, charge (") == 3
    assert "exited normally" in text
    assert target.ended() == Stop(StopReason.EXIT, 0, detail=target.ended().detail)
    assert target.output == b"total 60\n"


def test_a_hardware_breakpoint_a_condition_and_finish(target: Target) -> None:
    text = target.gdb("hbreak charge if job->id == 3", "continue", "print total", "finish")
    assert "Hardware assisted breakpoint 1" in text
    assert "$1 = 30" in text
    assert "Value returned is $2 = 30" in text


def test_stepi_goes_instruction_by_instruction(target: Target) -> None:
    text = target.gdb("break charge", "continue", "x/i $pc", *["stepi", "x/i $pc"] * 4)
    shown = re.findall(r"=> (0x[0-9a-f]+)", text)
    assert len(shown) == 5
    assert all(2 <= int(b, 16) - int(a, 16) <= 4 for a, b in itertools.pairwise(shown))


def test_watch_stops_at_each_change(target: Target) -> None:
    text = target.gdb("break main", "continue", "watch total", *["continue"] * 4)
    assert "Hardware watchpoint 2: total" in text
    changes = re.findall(r"Old value = (\d+)\nNew value = (\d+)", text)
    assert changes == [("0", "10"), ("10", "30"), ("30", "60")]
    assert text.count(f"at ./kernel.c:{line_of('return total - before')}") == 3
    assert "exited normally" in text


def test_rwatch_stops_at_reads(target: Target) -> None:
    text = target.gdb("break main", "continue", "rwatch jobs[1].cost", "continue", "backtrace 1")
    assert "Hardware read watchpoint 2: jobs[1].cost" in text
    assert "Value = 20" in text
    assert "charge (job=" in text


def test_registers_csrs_and_floating_point(target: Target) -> None:
    text = target.gdb(
        *("break charge", "continue", "info registers pc sp satp stvec", "set var $t6 = 0x1234"),
        *("print/x $t6", "set var $fa0 = 2.5", "print $fa0.double", "info all-registers scause"),
        *("stepi", "print/x $t6", "print/x $x31"),
    )
    assert re.search(r"pc\s+0x[0-9a-f]+\s+0x[0-9a-f]+ <charge", text)
    assert re.search(r"satp\s+0x80{9}[0-9a-f]{6}\s", text)
    assert "$1 = 0x1234" in text and "$2 = 2.5" in text
    assert "$3 = 0x1234" in text and "$4 = 0x1234" in text


def test_virtual_and_physical_memory(target: Target) -> None:
    total = elf_file.load(target.kernel).symbol("total")
    assert total is not None
    alias = ALIAS + total - RAM
    text = target.gdb(
        *(
            "break charge",
            "continue",
            "continue",
            f"x/gd {alias:#x}",
            f"set var *(long *){alias:#x} = 5",
        ),
        *("print total", f"x/gx {alias + (1 << 30):#x}"),
        *("maintenance packet qqemu.PhyMemMode", "maintenance packet Qqemu.PhyMemMode:1"),
        *(f"x/gd {total:#x}", f"x/gx {alias:#x}", "maintenance packet Qqemu.PhyMemMode:0"),
    )
    assert re.search(rf"{alias:#x}:\s+10\n", text)
    assert "$1 = 5" in text
    assert text.count("Cannot access memory at address") == 2
    assert re.search(rf"{total:#x}( <total>)?:\s+5\n", text)


def test_monitor_commands(target: Target) -> None:
    text = target.gdb(
        "break charge", "continue", "monitor walk total", "monitor tables", "monitor help"
    )
    assert "VA 0x" in text and "in sv39" in text
    assert "a 1 GiB page, rwx--ad" in text  # V R W X A D, as the source has it
    assert f"{ALIAS:016x} {RAM:016x} {1 << 30:016x} rwx--ad" in text
    assert "walk VA" in text


def test_detach_and_attach_again(target: Target) -> None:
    text = target.gdb("set var spinning = 1", "break charge", "continue", "detach")
    assert "Breakpoint 1, charge" in text and "detached" in text
    wait_until(lambda: target.total() == 60)
    text = target.gdb("backtrace", "print total", "set var spinning = 0", "continue")
    assert "main () at ./kernel.c" in text
    assert "$1 = 60" in text and "exited normally" in text


def test_ctrl_c(target: Target) -> None:
    process = subprocess.Popen(
        target.command("set var spinning = 1", "continue", "backtrace", "set var spinning = 0",
                       "continue"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_until(lambda: target.total() == 60)  # it spins, and gdb waits
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate()
    assert "received signal SIGINT" in text
    assert "main () at ./kernel.c" in text
    assert "exited normally" in text


def test_a_call_of_a_guests_function(target: Target) -> None:
    text = target.gdb("break charge", "continue", "print charge(&jobs[2])", "delete",
                      "print charge(&jobs[2])", "print total")  # fmt: skip
    assert "The program being debugged stopped while in a function called from GDB" in text
    assert "= 30" in text
