"""Traces in files: text, JSON lines, Perfetto; files that fail, and runs that are killed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import CODE, S_VECTOR, Bench
from progress import wait_until
from test_trace import BUSY, CALLS, PORTS, SYMBOLS, UART, calls, delegate

from emu.debug.symbols import Symbols
from emu.debug.trace import tracer as trace
from emu.debug.trace.writers import RecordFile, format_of, open_writer
from emu.spec import words
from emu.stop import StopReason

SIE = 1 << 1


def perfetto(path: Path, whole: bool = True) -> list[dict[str, Any]]:
    """The records of a Perfetto file, checked for what the format asks of every file.

    That of a run that was cut off may end in the midst of a record, as the reader of
    Perfetto's own allows: it takes the array's elements one by one.
    """
    text = path.read_text()
    if not whole and not text.endswith("\n]\n"):
        if not text.endswith("}"):
            text, lost = text.rsplit(",\n", 1)
            assert len(lost) < 400
        text += "]"
    records = json.loads(text)
    named: dict[int, str] = {}
    clock: dict[int, float] = defaultdict(float)
    for record in records:
        assert record["pid"] == 1
        assert record["ph"] in ("M", "i", "X")
        if record["ph"] == "M":
            if record["name"] == "thread_name":
                assert record["tid"] not in named
                named[record["tid"]] = record["args"]["name"]
            continue
        tid = record["tid"]
        assert tid in named, "a track has its name before its first event"
        assert record["ts"] * 8 == int(record["ts"] * 8), "whole eighths of a microsecond"
        # A slice begins where the one before has ended, or later: none overlap.
        assert record["ts"] >= clock[tid], record
        clock[tid] = record["ts"] + record.get("dur", 0)
        assert record.get("dur", 0) >= 0
        assert (record["ph"] == "X") == ("dur" in record)
        assert record["ph"] == "X" or record["s"] == "t"
        record["track"] = named[tid]
    assert sum(r["ph"] == "M" and r["name"] == "process_name" for r in records) == 1
    assert len(set(named.values())) == len(named)
    return [r for r in records if r["ph"] != "M"]


# what stands in them


def test_a_file_of_text(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    calls(bench, open_writer(str(path)), "trap,dev", limit=2)
    assert path.read_text() == (
        "trap U->S environment call from U-mode epc=0x80000004 <main+0x4> tval=0x0\n"
        "trap U->S environment call from U-mode epc=0x8000000c <main+0xc> tval=0x0\n"
        "trace ended after 2 events\n"
    )


def test_json_lines(inside: Bench, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    clock = itertools.count(0, 10)
    calls(inside, open_writer(str(path)), now=lambda: next(clock))
    call = {"to": "S", "cause": "environment call from U-mode", "xcause": "0x8", "tval": "0x0"}
    sret = hex(S_VECTOR + 36)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"kind": "trap", "time_ns": 10, "level": "U"}
        | call
        | {"epc": "0x80000004", "symbol": "main+0x4", "a7": "0x40"},
        {"kind": "return", "time_ns": 20, "level": "S", "to": "U", "pc": sret},
        {"kind": "trap", "time_ns": 30, "level": "U"}
        | call
        | {"epc": "0x8000000c", "symbol": "main+0xc", "a7": "0x5d"},
        {"kind": "return", "time_ns": 40, "level": "S", "to": "U", "pc": sret},
    ]


def test_every_kind_as_json(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    writer = open_writer(str(path), "json")
    calls(bench, writer, ["insn", "mmu", "trap", "dev"], limit=30)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    kinds = Counter(line["kind"] for line in lines)
    assert kinds["trap"] == 2 and kinds["dev"] == 1 and kinds["insn"] > 20
    assert [line["satp"] for line in lines if "satp" in line] == ["0x0"]
    assert lines[-1]["kind"] in ("insn", "note", "dev")
    pages = {line["va"] for line in lines if line["kind"] == "mmu" and "va" in line}
    assert {hex(CODE), hex(S_VECTOR)} <= pages


def test_perfetto_by_hand(inside: Bench, tmp_path: Path) -> None:
    """One microsecond from each event to the next: the whole picture is known."""
    path = tmp_path / "trace.json"
    clock = itertools.count(7_000, 1_000)
    calls(inside, open_writer(str(path)), now=lambda: next(clock))
    call = "environment call from U-mode"
    shown = [
        (r["ph"], r["track"], r["ts"], r.get("dur"), r["name"], r.get("args"))
        for r in perfetto(path)
    ]
    first = {"epc": "0x80000004 <main+0x4>", "tval": "0x0", "levels": "U->S", "a7": "0x40"}
    second = {"epc": "0x8000000c <main+0xc>", "tval": "0x0", "levels": "U->S", "a7": "0x5d"}
    assert shown == [
        ("X", "U", 0, 1, "U", None),
        ("i", "traps", 1, None, call, first),
        ("X", "S", 1, 1, call, None),
        ("X", "U", 2, 1, "U", None),
        ("i", "traps", 3, None, call, second),
        ("X", "S", 3, 1, call, None),
        ("X", "U", 4, 1, "U", {"until": "end of trace"}),
    ]


def test_perfetto_of_a_busy_guest(inside: Bench, tmp_path: Path) -> None:
    path = tmp_path / "trace.perfetto"
    rounds = 300
    delegate(inside)
    inside.w[words.MIDELEG] = inside.w[words.MIE] = 2
    inside.w[words.MSTATUS] |= SIE
    inside.start(BUSY, priv=1, a0=rounds)
    with trace.attach(inside.machine, "trap,dev", open_writer(str(path)), SYMBOLS):
        assert inside.machine.run().reason is StopReason.EXIT
    records = perfetto(path)
    assert inside.reg("s2") == inside.reg("s3") == rounds
    # An access to a device is a slice where the machine has measured it.
    names = Counter((r["track"], r["ph"], r["name"]) for r in records if r["track"] != "finisher")
    interrupt, call = "supervisor software interrupt", "environment call from S-mode"
    assert names == {
        ("traps", "i", interrupt): rounds,
        ("traps", "i", call): rounds,
        ("S", "X", interrupt): rounds,
        ("S", "X", call): rounds,
        ("S", "X", "S"): 2 * rounds + 1,
    }
    assert [r["name"] for r in records if r["track"] == "finisher"] == ["write 0x0"]
    # The hart was in S all the time: its slices leave no gap.
    slices = [r for r in records if r["track"] == "S"]
    for one, next_one in itertools.pairwise(slices):
        assert one["ts"] + one["dur"] == next_one["ts"]
    assert slices[0]["ts"] == 0


def test_a_level_that_was_not_seen_to_be_entered_has_no_slice(bench: Bench, tmp_path: Path) -> None:
    """The host puts the hart into U behind the trace's back."""
    path = tmp_path / "trace.json"
    delegate(bench)
    bench.start(CALLS, priv=3)
    with trace.attach(bench.machine, "trap", open_writer(str(path))):
        bench.w[words.PRIV] = 0
        bench.machine.run()
    first = perfetto(path)[0]
    assert (first["ph"], first["track"], first["args"]["levels"]) == ("i", "traps", "U->S")


def test_perfetto_of_pages_devices_and_instructions(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    bench.start(PORTS, priv=3, a0=UART, a2=0x41)
    odd = Symbols([(CODE, 0x40, 'a "quoted" näme')])
    with trace.attach(bench.machine, "mmu,insn,dev", open_writer(str(path)), odd, limit=40):
        bench.machine.run()
    records = perfetto(path)
    by_track = defaultdict(list)
    for record in records:
        by_track[record["track"]].append(record)
    assert [r["name"] for r in by_track["uart"]][:3] == ["read 0x5", "write 0x0", "write 0x0"]
    assert by_track["uart"][1]["args"]["value"] == "0x41"
    assert by_track["mmu"][0]["name"] == "satp 0x0"
    assert by_track["mmu"][1]["name"] == "M execute 0x80000000"
    assert by_track["insn"][0]["name"].endswith('a "quoted" näme')
    if bench.is_inside:
        assert by_track["uart"][0]["args"]["pc"] == '0x80000000 <a "quoted" näme>'


def test_devices_that_were_timed_have_slices(
    inside: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trace.json"
    clock = itertools.count(0, 1000)
    monkeypatch.setattr("time.perf_counter_ns", lambda: next(clock))
    with trace.attach(inside.machine, "dev", open_writer(str(path))):
        listener: Any = inside.machine.device_listener
        listener(inside.machine.uart, True, 0, 1, 0x41, 250)
    [found] = [r for r in perfetto(path) if r["track"] == "uart"]
    assert (found["ph"], found["ts"], found["dur"]) == ("X", 0.25, 0.75)


def test_a_trace_of_nothing_is_a_file_too(inside: Bench, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    open_writer(str(path)).close(0)
    assert json.loads(path.read_text()) == []


# formats


@pytest.mark.parametrize(
    ("name", "asked", "expected"),
    [
        ("t.txt", None, "text"),
        ("t", None, "text"),
        ("t.log", None, "text"),
        ("/dev/fd/63", None, "text"),
        ("t.jsonl", None, "json"),
        ("t.ndjson", None, "json"),
        ("t.JSON", None, "perfetto"),
        ("a.txt/t.perfetto", None, "perfetto"),
        ("t.perfetto-trace", None, "perfetto"),
        ("t.json", "json", "json"),
        ("t.txt", "perfetto", "perfetto"),
    ],
)
def test_the_suffix_chooses_the_format(name: str, asked: str | None, expected: str) -> None:
    assert format_of(name, asked) == expected


def test_a_format_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="text, json, perfetto, not 'xml'"):
        open_writer("t", "xml")


# files that fail


@pytest.mark.parametrize("suffix", ["text", "json", "perfetto"])
def test_a_full_disk(bench: Bench, suffix: str) -> None:
    tracer = calls(bench, open_writer("/dev/full", suffix))
    assert tracer.ended == "/dev/full: No space left on device: the trace ends here"


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Every file ends at ``size`` bytes: what a disk does when it gets full. (Python ignores
    the signal that comes with it.)"""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json"])
def test_a_disk_that_gets_full_keeps_whole_records(
    inside: Bench, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"trace{suffix}"
    delegate(inside)
    inside.w[words.MIDELEG] = inside.w[words.MIE] = 2
    inside.w[words.MSTATUS] |= SIE
    inside.start(BUSY, priv=1, a0=2000)
    writer = open_writer(str(path))
    with file_size_limit(100_000), trace.attach(inside.hart, "trap", writer, SYMBOLS) as tracer:
        assert inside.machine.run().reason is StopReason.EXIT
    assert inside.reg("s2") == inside.reg("s3") == 2000
    assert tracer.ended == f"{path}: File too large: the trace ends here"
    text = path.read_text()
    assert 90_000 < len(text) <= 100_000
    if suffix == ".txt":
        assert all(line.startswith("trap S->S ") for line in text.splitlines())
        assert text.endswith("tval=0x0\n")
    elif suffix == ".jsonl":
        assert text.endswith("}\n")
        assert {json.loads(line)["kind"] for line in text.splitlines()} == {"trap", "return"}
    else:
        assert len(perfetto(path, whole=False)) > 100


@pytest.mark.parametrize("suffix", ["text", "perfetto"])
def test_a_pipe_whose_reader_goes_away(bench: Bench, suffix: str) -> None:
    reader, theirs = os.pipe()
    path = f"/dev/fd/{theirs}"
    writer = open_writer(path, suffix)
    os.close(reader)
    tracer = calls(bench, writer)
    os.close(theirs)
    assert tracer.ended == f"{path}: Broken pipe: the trace ends here"


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    for name in ("none/trace.json", "."):
        with pytest.raises(OSError):
            open_writer(str(tmp_path / name), "perfetto")


def test_records_that_wait_are_written_once(tmp_path: Path) -> None:
    path = tmp_path / "t"
    file = RecordFile(str(path))
    for number in range(20_000):
        file.write(f"{number}\n")
    assert 0 < path.stat().st_size < 20_000 * 6, "some are written, some wait"
    file.close()
    assert path.read_text().split() == [str(n) for n in range(20_000)]


# runs that are ended from outside

_RUN = """
import sys
sys.path[:0] = {paths!r}
from asm import Batch
from harness import Bench, S_VECTOR
from test_trace import delegate
from emu.debug.trace import tracer as trace
from emu.debug.trace.writers import open_writer
from guest.ending import Ending
bench = Bench("auto")
delegate(bench)
forever = Batch()(".option norvc; 1: ecall; j 1b; .option rvc")
bench.start(forever, priv=0)
with trace.attach(bench.machine, "trap", open_writer({path!r})), Ending(bench.hart.stop):
    print("runs", flush=True)
    stop = bench.machine.run()
print(stop.reason.value, bench.reg("s3"), flush=True)
"""


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json"])
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_run_leaves_a_file_that_can_be_read(
    tmp_path: Path, suffix: str, signal_number: signal.Signals
) -> None:
    path = tmp_path / f"trace{suffix}"
    here = Path(__file__).parent
    script = _RUN.format(paths=[str(here), str(here.parent)], path=str(path))
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "runs\n"
        wait_until(lambda: path.stat().st_size >= 200_000, child.pid)
        child.send_signal(signal_number)
        last = child.communicate()[0]
    finally:
        child.kill()
    killed = signal_number == signal.SIGKILL
    text = path.read_text()
    if killed and suffix != ".json":  # the kernel may have cut the last write short
        text = text[: text.rindex("\n") + 1]
    if suffix == ".json":
        found = sum(r["ph"] == "i" for r in perfetto(path, whole=not killed))
    elif suffix == ".jsonl":
        found = sum(json.loads(line)["kind"] == "trap" for line in text.splitlines())
    else:
        assert text.endswith("tval=0x0\n")
        found = text.count("\n")
    assert found > 500
    if not killed:
        reason, counted = last.split()
        # S counts a trap some instructions behind its beginning, where the run may end.
        assert reason == "interrupted" and found - int(counted) in (0, 1)


def test_what_is_traced_can_soon_be_read(inside: Bench, tmp_path: Path) -> None:
    """A quarter of a second later, and with the next event."""
    path = tmp_path / "t.txt"
    clock = itertools.count(0, 200_000_000)
    delegate(inside)
    inside.start(CALLS, priv=0)
    with trace.attach(inside.machine, "trap", open_writer(str(path)), now=lambda: next(clock)):
        inside.machine.run()
        assert path.read_text().count("trap ") == 2
