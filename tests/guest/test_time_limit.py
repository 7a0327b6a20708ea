"""`pagewalk run --timeout`: whatever the guest does, it ends, with 124, and where it was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Cli = Callable[..., Result]

LOOPS = {
    "prog.c": "int main(void) { for (;;) __asm__ volatile(\"\"); }",
    "calls.c": "#include <pagewalk/user.h>\nint main(void) { for (;;) write(1, \"\", 0); }",
    "module.c": "#include <linux/module.h>\nstatic int start(void) {\n"
    "for (;;) __asm__ volatile(\"\"); return 0; }\nmodule_init(start);\n",
    "upcalls.c": "#include <linux/module.h>\nstatic void construct(void *o) {}\n"
    "static int start(void) { for (;;) { struct kmem_cache *c = kmem_cache_create(\"c\", 3000, 8,"
    " 0, construct); kmem_cache_free(c, kmem_cache_alloc(c, GFP_KERNEL));"
    " kmem_cache_destroy(c); } return 0; }\nmodule_init(start);\n",
    "exit.c": "#include <linux/module.h>\nstatic int start(void) { return 0; }\n"
    "static void end(void) { for (;;) __asm__ volatile(\"\"); }\n"
    "module_init(start);\nmodule_exit(end);\n",
    "bare.S": ".globl _start\n.section .text.start\n_start: j _start\n",
    "sleep.c": "#include <pagewalk/abi.h>\nint main(void) { static long forever[2] = {1000000};\n"
    "register long a0 __asm__(\"a0\") = (long)forever; register long a1 __asm__(\"a1\") = 0;\n"
    "register long a7 __asm__(\"a7\") = SYS_nanosleep;\n"
    "__asm__ volatile(\"ecall\" : \"+r\"(a0) : \"r\"(a1), \"r\"(a7) : \"memory\"); return 0; }\n",
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_a_guest_that_does_not_end(pagewalk: Cli, tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    source.write_text(LOOPS[name])
    machine = ("--machine", "bare") if name == "bare.S" else ()
    done = pagewalk("run", source, *machine, "--timeout", "0.3")
    assert done.exit_code == 124, done.output
    assert "pagewalk: 0.3 s are over, at 0x" in done.stderr
    story = json.loads(pagewalk("run", source, *machine, "--timeout", "0.3", "--json").stdout)
    assert (story["exit"], story["reason"]) == (124, "interrupted")


def test_a_program_that_waits_for_input(tmp_path: Path) -> None:
    """Its standard input is open and silent."""
    source = tmp_path / "read.c"
    source.write_text(
        "#include <pagewalk/abi.h>\nint main(void) { static char byte;\n"
        'register long a0 __asm__("a0") = 0; register long a1 __asm__("a1") = (long)&byte;\n'
        'register long a2 __asm__("a2") = 1; register long a7 __asm__("a7") = SYS_read;\n'
        '__asm__ volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a7) : "memory");\n'
        "return 3; }\n"
    )
    command = [sys.executable, "-m", "guest.cli", "run", str(source), "--timeout", "0.3"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        error = process.stderr.read()  # its end comes with the process's
        assert process.wait() == 124
    assert b"0.3 s are over, at 0x" in error


@pytest.mark.parametrize("name", ["upcalls.c", "sleep.c"])
def test_ctrl_c_between_two_runs_of_the_hart(tmp_path: Path, name: str) -> None:
    """A module whose constructors Python calls again and again; a call that waits."""
    source = tmp_path / name
    source.write_text(LOOPS[name])
    command = [sys.executable, "-m", "guest.cli", "run", str(source), "--trace", "trap"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stderr.readline()  # the first trap: it runs
        process.send_signal(signal.SIGINT)
        error = process.stderr.read()
        assert process.wait() == 130
    assert b"interrupted" in error


@pytest.mark.parametrize("program", ["hello", "hello_module", "uart_hello", "sbi_hello"])
def test_a_guest_that_ends_in_time(pagewalk: Cli, program: str) -> None:
    done = pagewalk("run", program, "--timeout", "100")
    assert done.exit_code == 0 and "are over" not in done.stderr


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e300", "soon", ""])
def test_what_is_no_number_of_seconds(pagewalk: Cli, seconds: str) -> None:
    done = pagewalk("run", "hello", "--timeout", seconds)
    assert done.exit_code == 2 and "no number of seconds" in done.stderr
    assert done.stderr.count("\n") == 1
