"""The options of commands that trace, on a command of three lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from harness import CODE, S_VECTOR, Bench, let_all_memory_be_used
from test_trace import CALLS, COUNTING, SYMBOLS, delegate

from emu.board.machine import Machine
from emu.spec import words
from emu.stop import StopReason
from guest.cli.trace_options import TraceRequest, trace_options


@click.command()
@click.argument("fail", required=False)
@trace_options
def command(fail: str | None, trace: TraceRequest) -> None:
    with trace:
        if fail == "early":
            raise click.ClickException("no such guest")
        bench = Bench("auto")
        delegate(bench)
        bench.start(CALLS, priv=0)
        trace.attach(bench.machine, SYMBOLS)
        assert bench.machine.run().reason is StopReason.EXIT
        if fail == "late":
            raise click.ClickException("what was to come then")
        click.echo(f"{bench.reg('s3')} calls")


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments])


LINES = [
    "trap U->S environment call from U-mode epc=0x80000004 <main+0x4> tval=0x0",
    "trap U->S environment call from U-mode epc=0x8000000c <main+0xc> tval=0x0",
]


def events_in(perfetto: str) -> int:
    """The traps and the accesses to devices."""
    return sum(bool({"epc", "value"} & set(r.get("args", ()))) for r in json.loads(perfetto))


def test_no_trace() -> None:
    result = run()
    assert (result.exit_code, result.stdout, result.stderr) == (0, "2 calls\n", "")


def test_lines_on_standard_error() -> None:
    result = run("--trace", "trap")
    assert (result.exit_code, result.stdout) == (0, "2 calls\n")
    assert result.stderr.splitlines() == LINES


def test_several_kinds_and_a_limit() -> None:
    result = run("--trace", "dev,trap", "--trace-limit", 1)
    assert result.stdout == "2 calls\n"
    note = "trace ended after 1 events"
    assert result.stderr.splitlines() == [LINES[0], note, f"pagewalk: {note}"]


@pytest.mark.parametrize("late", [(), ("late",)])
def test_a_file_for_perfetto(tmp_path: Path, late: tuple[str, ...]) -> None:
    """Whatever ends the run, the file is whole."""
    path = tmp_path / "t.json"
    result = run(*late, "--trace", "trap,dev", "--trace-file", path)
    assert result.exit_code == len(late)
    assert "trap" not in result.stderr
    assert events_in(path.read_text()) == 3


def test_a_format_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    run("--trace", "dev", "--trace-file", path, "--trace-format", "json")
    assert json.loads(path.read_text())["device"] == "finisher"


def test_a_command_that_ends_before_its_machine_is_made(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    result = run("early", "--trace", "dev", "--trace-file", path)
    assert "no such guest" in result.stderr
    assert json.loads(path.read_text()) == []


def test_a_full_disk_is_told_in_one_line() -> None:
    result = run("--trace", "trap", "--trace-file", "/dev/full")
    assert (result.exit_code, result.stdout) == (0, "2 calls\n")
    assert result.stderr == "pagewalk: /dev/full: No space left on device: the trace ends here\n"


def test_large_traces_are_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    assert "--trace-limit bounds it" in run("--trace", "insn", "--trace-file", path).stderr
    limited = ("--trace", "insn", "--trace-file", path, "--trace-limit", 5)
    assert run(*limited).stderr == "pagewalk: trace ended after 5 events\n"
    assert run("--trace", "insn", "--trace-file", tmp_path / "t").stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trace", "x"), "'x' is not one of the kinds of trace: trap, mmu, insn, dev"),
        (("--trace", "trap,"), "'' is not one of the kinds of trace"),
        (("--trace-file", "t"), "--trace-file needs --trace trap|mmu|insn|dev"),
        (("--trace-limit", 5), "--trace-limit needs --trace"),
        (("--trace-format", "json"), "--trace-format needs --trace"),
        (("--trace", "trap", "--trace-format", "json"), "--trace-format json needs --trace-file"),
        (("--trace", "trap", "--trace-limit", 0), "0 is not in the range"),
        (("--trace", "trap", "--trace-format", "xml"), "'xml' is not one of"),
        (("--trace", "trap", "--trace-file", "/none/t"), "/none/t: No such file or directory"),
        (("--trace", "trap", "--trace-file", "."), "is a directory"),
    ],
)
def test_options_that_do_not_fit(arguments: tuple[object, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_deterministic_machine_is_traced_in_its_own_time(
    tmp_path: Path, deterministic: bool
) -> None:
    found = []
    for number in range(2):
        path = tmp_path / f"{number}.json"
        machine = Machine(16 << 20, deterministic=deterministic)
        machine.ram.write(CODE, CALLS.code)
        machine.ram.write(S_VECTOR, COUNTING.code)
        w = machine.hart.words
        w[words.STVEC], w[words.MEDELEG] = S_VECTOR, 1 << 8
        w[words.PC], w[words.PRIV] = CODE, 0
        let_all_memory_be_used(machine.hart)
        with TraceRequest(("trap", "dev"), str(path)) as request:
            request.attach(machine, SYMBOLS)
            assert machine.run().reason is StopReason.EXIT
        machine.close()
        found.append(path.read_text())
        assert events_in(found[-1]) == 3
    assert (found[0] == found[1]) == deterministic


def test_the_help_names_the_kinds() -> None:
    text = " ".join(run("--help").stdout.split())
    assert "trap, mmu, insn, dev" in text and "--trace-file FILE" in text
