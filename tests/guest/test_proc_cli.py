"""`pagewalk proc`, `what`, `compare`, `run --then`, `--slab`: in process, by click's runner."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from guest.cli.main import main
from guest.cli.then import VIEWS
from guest.image.shipped import shipped

pytestmark = pytest.mark.skipif(not shipped(), reason="guests are not built")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def good(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def bad(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    return result.stderr


def parsed(*arguments: str) -> Any:
    return json.loads(good(*arguments))


# proc


@pytest.mark.parametrize("name", [v for v in VIEWS if v != "maps"])
def test_every_view_after_boot(name: str) -> None:
    text = good("proc", name)
    if name == "kmemleak":
        assert "unreferenced" not in text
    else:
        assert text.endswith("\n")
    assert parsed("proc", name, "--json")["text"] == text


def test_state_after_a_program() -> None:
    text = good("proc", "maps", "hello", "-q")
    assert re.search(r"^3ffffc0000-4000000000 rw-p .* \[stack\]$", text, re.M)
    assert "Hello" not in text and "Hello" in good("proc", "maps", "hello")
    rows = good("proc", "meminfo", "hello", "-q")
    (anon,) = re.findall(r"AnonPages: +(\d+) kB", rows)
    assert int(anon) > 256


def test_slab_allocators() -> None:
    assert "tunables    0    0    0" in good("proc", "slabinfo")
    assert "tunables  120   60    0" in good("proc", "slabinfo", "--slab", "slab")
    assert "SLOB has none" in bad("proc", "slabinfo", "--slab", "slob")
    for slab in ("slub", "slab", "slob"):
        assert "Hello" in good("run", "hello", "--slab", slab)
        assert "clean" in good("check", "hello", "--slab", slab)
        assert "2 MiB page" in good("walk", "ffffffd600400000", "--slab", slab)
        assert "ffffffd6" in good("tables", "--slab", slab)


def test_proc_refuses() -> None:
    assert "address space of a program" in bad("proc", "maps")
    assert "'nope' is not one of 'buddyinfo'" in bad("proc", "nope")
    assert "no such file" in bad("proc", "buddyinfo", "nothere")
    assert "not a guest of the kernel machine" in bad("proc", "buddyinfo", "uart_hello")


def test_help_teaches() -> None:
    text = good("proc", "--help")
    assert all(name in text for name in VIEWS) and "pagewalk proc slabinfo" in text
    assert "pagewalk what 80400000" in good("what", "--help")
    assert "a ID SIZE" in good("compare", "--help")
    assert "--then" in good("run", "--help")


# run --then


def test_then_shows_the_state_that_a_guest_left() -> None:
    text = good("run", "hello", "--then", "proc vmallocinfo", "--then", "check",
                "--then", "what ffffffd600400000", "--then", "proc maps")  # fmt: skip
    heads = [line for line in text.splitlines() if line.startswith("--- ")]
    assert heads == [
        "--- proc vmallocinfo", "--- check", "--- what ffffffd600400000", "--- proc maps"
    ]  # fmt: skip
    assert "mm.check: clean" in text and "[stack]" in text and "pages=4 vmalloc" in text


def test_then_keeps_the_exit_status_and_speaks_json() -> None:
    plain = run("run", "fault", "null")
    then = run("run", "fault", "null", "--then", "proc buddyinfo")
    assert plain.exit_code == then.exit_code == 139 and "--- proc buddyinfo" in then.stdout
    found = parsed("run", "hello", "--json", "--then", "proc buddyinfo")
    (row,) = found["then"]
    assert row["command"] == "proc buddyinfo" and row["text"].startswith("Node 0, zone")
    assert found["exit"] == 0 and "then" not in parsed("run", "hello", "--json")


def test_then_with_a_module_kept_or_unloaded() -> None:
    gone = good("run", "hello_module", "--then", "proc vmallocinfo")
    kept = good("run", "hello_module", "--keep", "--then", "proc vmallocinfo")
    modules = [r for r in kept.splitlines() if r.startswith("0xffffffff0")]
    assert len(modules) == 1 and "unpurged" not in modules[0]
    assert not any(r.startswith("0xffffffff0") and "unpurged" not in r for r in gone.splitlines())


def test_then_refuses_before_it_runs() -> None:
    for command, why in (
        ("proc nope", "no view nope"), ("bogus", "proc NAME"), ("what xyz", "no hexadecimal"),
        ("proc 'a", "quotation"),
    ):  # fmt: skip
        result = run("run", "hello", "--then", command)
        assert result.exit_code == 2 and why in result.stderr and "Hello" not in result.stdout
    assert "kernel machine" in bad("run", "uart_hello", "--then", "check")


# what


def test_what() -> None:
    assert "table" in good("what", "ffffffd600400000")
    assert "no RAM" in good("what", "1000")
    assert "[stack]" in good("what", "3ffffffff8", "hello")
    found = parsed("what", "10000", "hello", "--json")
    assert (found["vma_name"], found["kind"], found["state"]) == ("hello", "virtual", "allocated")
    assert found["pa"].startswith("0x8") and found["mappings"][0]["asid"] == 0
    assert "page_owner tracks" in good("what", "10000", "hello", "--page-owner")
    assert "no hexadecimal" in bad("what", "nope")
    assert "64 bits" in bad("what", "1" * 17)


# compare


def test_compare(tmp_path: Path) -> None:
    trace = tmp_path / "t.trace"
    trace.write_text("a x 100\na y 200\nf x\nf y\n")
    text = good("compare", str(trace))
    assert [line[:4] for line in text.splitlines()[3:]] == ["SLAB", "SLUB", "SLOB"]
    found = parsed("compare", str(trace), "--slab", "slob", "--json")
    (row,) = found["results"]
    assert found["operations"] == 4 and row["allocator"] == "slob" and row["asked_bytes"] == 300


def test_compare_writes_and_refuses(tmp_path: Path) -> None:
    trace = tmp_path / "fifo.trace"
    good("compare", "fifo", "--write", str(trace))
    assert trace.read_text().startswith("# pagewalk compare fifo\na skb0 232\n")
    trace.write_text("a x 100\nf z\n")
    assert "line 2: 'f z': z is not allocated" in bad("compare", str(trace))
    assert "churn, mixed, fifo, boot" in bad("compare", "nothere")
    assert "--record" in bad("compare", "fifo", "argument")
    assert "no kernel module" in bad("compare", "hello", "--record", str(trace))


def test_compare_records_a_module(tmp_path: Path) -> None:
    trace = tmp_path / "m.trace"
    text = good("compare", "page_struct", "--record", str(trace), "--slab", "slub")
    assert "SLUB" in text
    lines = trace.read_text().splitlines()
    assert any(line.startswith("a k") for line in lines)
