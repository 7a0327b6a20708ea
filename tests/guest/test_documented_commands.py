"""The command lines of README.md and docs/: each is run as it stands there.

The lines of a document are run in their order, in one folder, with the files that they speak
of. Those that cannot be run here are listed with the reason.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from guest import build
from guest.image.shipped import shipped

Cli = Callable[..., Result]

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]

# What a line that is not run begins with, or has in it, and why not.
NOT_RUN = {
    "fetch": "goes to the network: tests/guest/test_fetch.py",
    "boot linux": "needs pagewalk fetch: tests/guest/test_boot_distro.py",
    "boot u-boot": "needs pagewalk fetch: tests/guest/test_boot_distro.py",
    "boot small": "its shell waits for somebody who types: tests/guest/test_small_kernel.py",
    "boot Image": "a Linux kernel of the user's: tests/guest/test_boot_distro.py",
    "--gdb": "waits for gdb: tests/guest/test_gdb_boot.py",
    "linux.snap": "of a fetched Linux: tests/guest/test_boot_distro.py",
    "run prog one two": "needs a cross compiler: tests/guest/test_programs.py",
}
# Where the status is not 0: the access is refused; the program faults; a bug is reported.
STATUS = {
    "walk 10000 hello --for write": 1,
    "run peek.c": 139,
    "run fault write": 139,
    "run overflow --append slub_debug=FZP": 1,
}
# Not of every run of the tests: the allocators' long traces.
SLOW = "compare "

_COMMAND = (r"\$ pagewalk (.*)", r"(?:.* && )?pagewalk (.*)")  # in any block; in one of sh

PROGRAM = "#include <pagewalk/user.h>\nint main(int argc, char **argv) { return argc - 3; }\n"
MODULE = (
    "#include <linux/module.h>\n#include <linux/slab.h>\n"
    "static void *object;\n"
    "static int __init start(void) { object = kmalloc(100, GFP_KERNEL);"
    ' pr_info("%p\\n", object); return 0; }\n'
    "static void __exit stop(void) { kfree(object); }\n"
    "module_init(start);\nmodule_exit(stop);\n"
)


def command_lines(document: str) -> Iterator[tuple[str, str]]:
    """(file, text) to be written and ("", line) to be run, in their order."""
    fence, here, rest = "", "", []  # of which block; the heredoc's file and its lines
    for line in (ROOT / document).read_text().splitlines():
        if line.startswith("```"):
            fence = "" if fence else (line[3:] or "text")
        elif here:
            if line == "END":
                yield here, "\n".join(rest) + "\n"
                here, rest = "", []
            else:
                rest.append(line)
        elif fence == "sh" and (match := re.fullmatch(r"cat > (\S+) <<'END'", line)):
            here = match[1]
        elif match := re.match(_COMMAND[fence == "sh"], line) if fence else None:
            yield "", match[1]


def why_not(line: str) -> str | None:
    return next((why for part, why in NOT_RUN.items() if part in f"{line} "), None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files that users are said to have."""
    (tmp_path / "prog.c").write_text(PROGRAM)
    (tmp_path / "module.c").write_text(MODULE)
    (tmp_path / "leak.c").write_text(MODULE.replace("kfree(object)", "object = 0"))
    (tmp_path / "mykernel.c").write_text((build.HERE / "supervisor" / "sbi_hello.c").read_text())
    (tmp_path / "fs.img").write_bytes(bytes(512))
    known = shipped()
    for name, guest in {"test": "uart_hello", "kernel": "uart_hello", "mine": "tiny"}.items():
        (tmp_path / f"{name}.elf").write_bytes(known[guest].read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("document", "slow"),
    [
        *((document, False) for document in DOCUMENTS),
        *(pytest.param(document, True, marks=pytest.mark.slow) for document in DOCUMENTS),
    ],
)
def test_the_command_lines_of(document: str, slow: bool, pagewalk: Cli, folder: Path) -> None:
    for file, text in command_lines(document):
        if file:
            (folder / file).write_text(text)
        elif why_not(text) is None and text.startswith(SLOW) is slow:
            words = shlex.split(text.partition(" | ")[0], comments=True)
            result = pagewalk(*words)
            status = STATUS.get(" ".join(words), 0)
            assert result.exit_code == status, (text, result.output)


def test_what_is_said_of_lines_that_are_not_run() -> None:
    """Each reason is some line's, and the test that it names is there."""
    lines = [text for document in DOCUMENTS for file, text in command_lines(document) if not file]
    assert len(lines) > 50
    for part, why in NOT_RUN.items():
        assert any(part in f"{line} " for line in lines), part
        assert (ROOT / why.rpartition(": ")[2]).exists()
    for command in STATUS:
        assert any(line.startswith(command) for line in lines), command
