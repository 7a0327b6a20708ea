"""The rules of the house hold, but for what is listed here; and each rule finds what it is for.

A list says where a rule does not hold yet. It may only become shorter: an entry that is not needed
any more fails the test, too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable

import house
import pytest

LISTED: dict[Callable[[house.Files], list[str]], set[str]] = {
    house.circles: set(),
    house.wrong_ways: set(),
    house.private_imports: set(),
    house.missing_citations: set(),
    house.long_files: {
        "emu/hart/hart.py",
        # Tests: to be cut where they are touched.
        "tests/emu/test_gdb.py",
        "tests/emu/test_snapshot.py",
        "tests/guest/test_boot_cli.py",
        "tests/guest/test_fast_path.py",
        "tests/guest/test_guest_cli.py",
        "tests/guest/test_guest_system.py",
        "tests/guest/test_modules.py",
        "tests/guest/test_programs.py",
        "tests/guest/test_terminal.py",
        "tests/guest/test_tiny_kernel.py",
    },
    house.long_functions: {
        "emu/hart/hart.py: __init__",
        "emu/hart/hart.py: _run",
        # The spec's algorithm in the spec's order, which is read beside it.
        "emu/spec/walk.py: walk",
        # Options of a command, most of the lines.
        "guest/cli/compare.py: register",
        "tests/emu/test_devicetree.py: test_the_whole_tree",
    },
}


@pytest.mark.parametrize("rule", LISTED, ids=lambda rule: rule.__name__)
def test_the_house_keeps(rule: Callable[[house.Files], list[str]]) -> None:
    found, listed = set(rule(house.repository())), LISTED[rule]
    assert not found - listed, "breaks the rule"
    assert not listed - found, "keeps the rule by now: take it off the list"


# Private names: ruff's SLF001, which pyproject.toml switches off for the folders that have some.


def switched_off() -> list[str]:
    settings = tomllib.loads((house.ROOT / "pyproject.toml").read_text())
    ignores: dict[str, list[str]] = settings["tool"]["ruff"]["lint"]["per-file-ignores"]
    return [path for path, rules in ignores.items() if "SLF001" in rules]


def private_names(path: str, text: str | None = None) -> list[str]:
    """The lines of the files at ``path``, or of ``text``, that use another's private name."""
    command = [sys.executable, "-m", "ruff", "check", "--select=SLF001", "--exit-zero"]
    command += ["--config=lint.per-file-ignores={}", "--output-format=json"]
    command += ["-" if text is not None else path]
    done = subprocess.run(
        command, cwd=house.ROOT, input=text, capture_output=True, text=True, check=True
    )
    return [f"{item['filename']}:{item['location']['row']}" for item in json.loads(done.stdout)]


@pytest.mark.parametrize("path", switched_off())
def test_a_folder_where_private_names_are_let_pass_has_some(path: str) -> None:
    assert private_names(path.removesuffix("/**")), "none: take it off pyproject's list"


def test_a_private_name_of_another_is_found() -> None:
    assert (
        "SLF"
        in tomllib.loads((house.ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"][
            "select"
        ]
    )
    assert private_names("", "import a\n\nprint(a.thing._inner)\n") == ["-:3"]
    assert private_names("", "import a\n\nprint(a.thing._uch)\n") == []
    assert private_names("", "class A:\n    def f(self): return self._inner\n") == []


def test_a_private_name_that_is_imported_is_found() -> None:
    files = {
        "mm/a.py": "from mm.b import C, _d as e\n",
        "mm/b.py": "from typing import _Final\nfrom . import _c\nimport mm._x\n",
        "tests/c.py": "from mm.b import _d\n",
    }
    assert house.private_imports(files) == ["mm/a.py: mm.b._d"]


# Each rule on files that break it, and on such as keep it.


def test_a_circle_is_found_wherever_its_imports_stand() -> None:
    files = {
        "emu/__init__.py": "",
        "emu/a.py": "from emu import b\n",
        "emu/b.py": "def f():\n    import emu.c\n",
        "emu/c.py": "if TYPE_CHECKING:\n    from emu.a import A\n",
        "emu/d.py": "from emu.a import A\n",
        "mm/e.py": "from mm.f import F\n",
        "mm/f.py": "from mm.e import E\n",
    }
    assert house.circles(files) == ["emu.a emu.b emu.c", "mm.e mm.f"]
    files |= {"emu/c.py": "from emu.ram import Ram\n", "mm/f.py": ""}
    assert house.circles(files) == []


def test_a_package_and_its_module_are_a_circle_too() -> None:
    files = {"emu/hart/__init__.py": "from emu.hart.hart import Hart\n"}
    files["emu/hart/hart.py"] = "from emu.hart import Stop\n"
    assert house.circles(files) == ["emu.hart emu.hart.hart"]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("emu/a.py", "import mm.b"),
        ("emu/a.py", "from guest.kernel import b"),
        ("emu/a.py", "from firmware.b import c"),
        ("mm/a.py", "from guest.b import c"),
        ("mm/a.py", "from firmware import b"),
        ("firmware/a.py", "from mm.b import c"),
        ("guest/a.py", "from pagewalk.b import c"),
        ("emu/spec/a.py", "from emu.engine.b import c"),
        ("emu/engine/a.py", "from emu.hart.b import c"),
        ("emu/hart/a.py", "def f():\n    from emu.board.b import c"),
        ("emu/board/a.py", "if TYPE_CHECKING:\n    from emu.debug import b"),
    ],
)
def test_an_import_of_what_is_above_is_found(path: str, line: str) -> None:
    rooms = ["mm", "guest", "guest/kernel", "firmware", "pagewalk"]
    places = [*rooms, "emu/engine", "emu/hart", "emu/board", "emu/debug"]
    files = {f"{place}/b.py": "" for place in places} | {path: line}
    (found,) = house.wrong_ways(files)
    assert found.startswith(f"{house.module_of(path)} imports ")
    # The same, looked at from above, is as it should be.
    down = {"emu/spec/b.py": "", "guest/a.py": "from emu.spec.b import c\nfrom mm.b import d\n"}
    assert house.wrong_ways({**down, "mm/b.py": "", "emu/debug/a.py": "import emu.spec.b"}) == []


def test_what_is_too_long_is_found() -> None:
    long = '"""Head."""\n' + "x = 1\n" * 600
    with_reason = f'"""Head.\n\n{house.REASON}it is a table.\n"""\n' + "x = 1\n" * 600
    files = {"emu/a.py": long, "emu/b.py": with_reason, "emu/c.py": "x = 1\n" * 600}
    assert house.long_files(files) == ["emu/a.py"]
    body = "    x = 1\n"
    text = f"@decorator(\n    1)\ndef f():\n{body * 59}\nclass A:\n    async def g(self):\n"
    files = {"mm/a.py": text + f"    {body}" * 60}
    assert house.long_functions(files) == ["mm/a.py: g"]


@pytest.mark.parametrize(
    ("path", "text", "missing"),
    [
        ("docs/a.md", "see `emu/board/gone.py`", "emu/board/gone.py"),
        ("docs/a.md", "a file in `emu/devices/`, one line", "emu/devices"),
        ("docs/a.md", "[the tour](gone.md#there)", "docs/gone.md"),
        ("docs/a.md", "as `emu.spec.walk.Rool` says", "emu.spec.walk.Rool"),
        ("emu/a.py", "# see emu/gone.py\n", "emu/gone.py"),
        ("emu/a.py", '"""As UNICORN.md says."""\n', "UNICORN.md"),
        ("emu/a.py", 'def f():\n    """See `emu.spec.gone`."""\n', "emu.spec.gone"),
        ("guest/a.c", "/* see emu/gone.py */", "emu/gone.py"),
        ("guest/a.c", "#include <pagewalk/gone.h>", ""),
        ("guest/a.py", "# the header pagewalk/gone.h\n", "pagewalk/gone.h"),
    ],
)
def test_a_citation_of_what_is_not_there_is_found(path: str, text: str, missing: str) -> None:
    known = {
        "README.md": "",
        "docs/tour.md": "",
        "emu/spec/walk.py": "class Rule: ...\n",
        "guest/include/pagewalk/page.h": "",
    }
    assert house.missing_citations(known | {path: text}) == [f"{path}: {missing}"] * bool(missing)
    fine = (
        "[the tour](tour.md#devices), [this](../README.md), `emu/spec/`, `emu.spec.walk.Rule`, "
        "emu/spec/walk.py. Linux: mm/slub.c; made: guest/built/head.elf, pagewalk/abi.h, "
        "pagewalk/page.h; a pattern: emu/*/x.py"
    )
    assert house.missing_citations(known | {"docs/b.md": fine}) == []
    code = 'x = "emu/gone.py"  # a string is no citation\n'
    assert house.missing_citations(known | {"emu/b.py": code}) == []
