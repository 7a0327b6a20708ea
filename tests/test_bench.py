"""`python -m bench`: a row that cannot be measured, fails or hangs takes no other with it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from bench import __main__ as bench
from bench import board, measure
from bench.measure import Failed, Ratio, Unmeasurable, once, output_of
from bench.rows import Cost, Row, Size
from guest.boot.expect import Step

_PROMPT_AND_NO_MORE = "import threading; print('# ', flush=True); threading.Event().wait()"
HANGS = [sys.executable, "-c", _PROMPT_AND_NO_MORE]


def raises(error: Exception) -> Callable[[], Any]:
    def measure() -> None:
        raise error

    return measure


def ratio(ours: float, other: float) -> Callable[[], tuple[Ratio, str]]:
    return lambda: (Ratio(ours, other, ours / other), "a note")


def run(monkeypatch: pytest.MonkeyPatch, *word: str, **rows: object) -> int:
    for name in ("ROWS", "SIZES", "COSTS"):
        monkeypatch.setattr(bench, name, rows.get(name, ()))
    monkeypatch.setattr(sys, "argv", ["bench", *word])
    return bench.main()


def test_every_row_is_printed_whatever_the_others_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(
        monkeypatch,
        ROWS=[
            Row("first", "x", 1.0, raises(Failed("pagewalk boot: step 3 of 9: waits for '# '"))),
            Row("second", "x", 1.0, raises(ZeroDivisionError("of ours\nand more"))),
            Row("third", "x", 1.0, raises(Unmeasurable("no QEMU"))),
            Row("fourth", "x", 1.0, ratio(1, 2)),
        ],
        SIZES=[Size("fifth", raises(OSError("no /proc")), 5), Size("sixth", lambda: (4, ""), 5)],
        COSTS=[Cost("seventh", raises(Failed("x hangs"))), Cost("eighth", lambda: 2e-6)],
    )
    assert status == 1
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "FAILED: pagewalk boot: step 3 of 9: waits for '# '" in lines["first"]
    assert lines["second"].endswith("FAILED: ZeroDivisionError: of ours")
    assert lines["third"].endswith("not measured: no QEMU")
    assert "0.50" in lines["fourth"] and "a note" in lines["fourth"]
    assert lines["fifth"].endswith("FAILED: OSError: no /proc")
    assert "sixth" in lines and lines["seventh"].endswith("FAILED: x hangs")
    assert "2.00 us" in lines["eighth"]


def test_the_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    good = Row("good", "x", 1.0, ratio(1, 2))
    missing = Row("missing", "x", 1.0, raises(Unmeasurable("no QEMU")))
    assert run(monkeypatch, ROWS=[good, missing]) == 0
    assert run(monkeypatch, ROWS=[Row("over", "x", 1.0, ratio(2, 1))]) == 1
    assert "OVER" in capsys.readouterr().out
    assert run(monkeypatch, COSTS=[Cost("bad", raises(Failed("why")))]) == 1
    assert run(monkeypatch, "good", ROWS=[good, Row("bad", "x", 1.0, raises(Failed("y")))]) == 0
    assert run(monkeypatch, "goood", ROWS=[good]) == 2
    assert "no row contains 'goood'" in capsys.readouterr().err


def test_what_failed_once_is_not_tried_again() -> None:
    tries = []

    @once
    def broken() -> int:
        tries.append(1)
        raise Failed("why")

    for _ in range(3):
        with pytest.raises(Failed, match="why"):
            broken()
    assert len(tries) == 1


@pytest.mark.slow
def test_a_session_that_hangs_fails_its_row(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("guest.boot.progress.STILL_LOOKS", 2)
    steps = [Step(b"# ", b"seq 1 2000 | grep -c 7\n"), Step(b"563")]
    with pytest.raises(Failed, match=r"step 2 of 2 after 'seq.*waits for '563'"):
        board._drive(HANGS, steps)
    with pytest.raises(Failed, match="step 2 of 2"), board._at(HANGS, steps):
        pass
    with pytest.raises(Failed, match="hangs"):
        output_of(HANGS)
    assert "| # " in capfd.readouterr().err


def test_one_side_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = {
        "qemu": board._Linux(2.0, 4.0),
        "ours": board._Linux(1.0, 5.0),
        "opensbi": Failed("pagewalk boot: step 30"),
    }
    monkeypatch.setattr(board, "_linux", lambda: (sides, Failed("the machine alone: step 1")))
    assert board.linux_session("ours")[0] == Ratio(5.0, 4.0, 1.25)
    with pytest.raises(Failed, match="step 30"):
        board.linux_session("opensbi")
    with pytest.raises(Failed, match="alone"):
        board.linux_prompt("ours")


def test_without_qemu_or_guests_the_rows_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("PATH", "")
    for row in bench.ROWS:
        if row.against.startswith(board.QEMU) and not row.what.startswith("board: "):
            with pytest.raises(Unmeasurable, match="not installed"):
                row.measure()
    monkeypatch.setattr("guest.build.have_compiler", lambda: False)
    with pytest.raises(Unmeasurable, match="compiler"):
        board.cost("call")


def test_what_a_process_prints() -> None:
    assert output_of([sys.executable, "-c", "print('x' * 100_000)"]) == b"x" * 100_000 + b"\n"
    with pytest.raises(Failed, match="status 3"):
        output_of([sys.executable, "-c", "raise SystemExit(3)"])
    assert measure.timed(lambda: None) >= 0
