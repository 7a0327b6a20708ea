"""The Python of README.md and docs/: each block is run as it stands, in a folder of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from progress import stopped_when_stuck

from guest import build
from guest.distro.fetch import FetchError, guests
from pagewalk.base import Guest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- needs: (?P<needs>\w+) -->\n)?^```python\n(?P<code>.*?)^```$", re.M | re.S
)
LINES_MAX = 10  # of an example, without imports, empty lines and the class of a device


def blocks() -> Iterator[tuple[str, str, str]]:
    """``(where, what it needs, code)``; the code has the line numbers of its document."""
    for document in DOCUMENTS:
        text = document.read_text()
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start("code"))
            where = f"{document.relative_to(ROOT)}:{line + 1}"
            yield where, match["needs"] or "", "\n" * line + match["code"]


BLOCKS = list(blocks())


def why_not(needs: str, code: str) -> str:
    if needs == "fetch":
        try:
            guests(fetch=False)
        except FetchError as e:
            return str(e)
    elif needs:
        raise AssertionError(f"needs: {needs} is not known here")
    return "" if "assemble" not in code or build.have_compiler() else "ziglang is not installed"


@pytest.mark.parametrize(("where", "needs", "code"), BLOCKS, ids=[where for where, *_ in BLOCKS])
def test_the_python_of(
    where: str, needs: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why := why_not(needs, code):
        pytest.skip(why)
    monkeypatch.chdir(tmp_path)
    run = Guest._run

    def watched(guest: Guest, *args: object, **kw: object) -> object:
        with stopped_when_stuck(guest.hart, cpu_max=100):
            return run(guest, *args, **kw)  # type: ignore[arg-type]

    monkeypatch.setattr(Guest, "_run", watched)
    exec(compile(code, where, "exec"), {"__name__": "example"})


def test_each_thing_has_an_example_and_it_is_short() -> None:
    found = [code for where, _, code in BLOCKS if where.startswith("docs/python.md")]
    assert len(found) == 7
    for code in found:
        lines = [
            line
            for line in code.splitlines()
            if line.strip() and not line.startswith(("from", "class")) and "def " not in line
        ]
        assert len(lines) <= LINES_MAX, code
        assert "assert" in code
