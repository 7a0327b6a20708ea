"""The headers of modules: each compiles alone and twice, and those that are missing say so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from guest import build, missing_headers
from guest.missing_headers import MISSING

Cli = Callable[..., Result]
HEADERS = sorted(
    str(path.relative_to(folder))
    for folder in (build.INCLUDE, build.BUILT / "include")
    for path in folder.rglob("*.h")
)
# No header of modules: for programs and S-mode kernels.
OTHERS = ("pagewalk/user.h", "pagewalk/sbi.h")


def compile_all(folder: Path, sources: dict[str, str]) -> str:
    """What the compiler says about them, each compiled alone with warnings as errors."""
    for name, text in sources.items():
        (folder / f"{name}.c").write_text(text)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ziglang", "cc", "--target=riscv64-freestanding-none"),
            *("-mabi=lp64d", "-std=gnu17", "-ffreestanding", "-O0", "-Wall", "-Werror", "-c"),
            *("-Wno-unused-function", f"-I{build.INCLUDE}", f"-I{build.BUILT / 'include'}"),
            *sorted(f"{name}.c" for name in sources),
        ],
        cwd=folder,
        env=os.environ | {"ZIG_LOCAL_CACHE_DIR": str(folder / "cache")},
        capture_output=True,
        text=True,
    )
    assert bool(done.returncode) == bool(done.stderr)
    return done.stderr


@pytest.mark.slow
def test_each_header_compiles_alone_and_twice(tmp_path: Path) -> None:
    assert len(HEADERS) > 150
    sources = {
        re.sub(r"\W", "_", name): f"#include <{name}>\n" * 2
        for name in HEADERS
        if name not in OTHERS
    }
    assert compile_all(tmp_path, sources) == ""
    # And the compiler did look at each of them.
    said = compile_all(tmp_path, sources | {"zz": "#include <linux/list.h>\nsize_tt x;\n"})
    assert "zz.c:2:1: error: unknown type name 'size_tt'" in said


@pytest.mark.parametrize("name", sorted(MISSING))
def test_a_missing_header_is_named_in_one_line(name: str) -> None:
    source = f"#include <linux/module.h>\n#include <{name}>\nint init_module(void)\n..."
    said = (
        "/tmp/x/my.c:3:1: warning: nothing to do with it\n"
        "/tmp/x/my.c:4:5: error: call to undeclared function 'make_it'; ISO C99 and later do "
        "not support implicit function declarations [-Wimplicit-function-declaration]\n"
        "    4 | make_it();\n      | ^\n1 error generated."
    )
    assert build.refusal("my.c", source, said) == (
        f"line 4: call to undeclared function 'make_it': pagewalk has no {MISSING[name]} "
        f"({name}, line 2) yet; see docs/modules.md"
    )
    assert not (build.INCLUDE / name).exists()
    text = (build.BUILT / "include" / name).read_text()
    assert MISSING[name] in text and "#" not in text


WORK = """#include <linux/module.h>
#include <linux/fs.h>
#include <linux/workqueue.h>
static struct work_struct work;
static struct file_operations fops;
static void later(struct work_struct *work) {}
int init_module(void)
{
    INIT_WORK(&work, later);
    return !queue_work(system_wq, &work);
}
"""


def run(pagewalk: Cli, path: Path, text: str) -> list[str]:
    path.write_text(text)
    result = pagewalk("run", path)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return result.stderr.splitlines()


def test_what_uses_a_missing_header_gets_one_line(pagewalk: Cli, tmp_path: Path) -> None:
    path = tmp_path / "my-work.c"
    assert run(pagewalk, path, WORK) == [
        f"pagewalk: {path}: line 9: call to undeclared function 'INIT_WORK': pagewalk has no "
        "files (linux/fs.h, line 2) and no work queues (linux/workqueue.h, line 3) yet; "
        "see docs/modules.md"
    ]


def test_an_unknown_header_gets_one_line(pagewalk: Cli, tmp_path: Path) -> None:
    path = tmp_path / "other.c"
    assert run(pagewalk, path, "#include <linux/module.h>\n\n#include <linux/nothing.h>\n") == [
        f"pagewalk: {path}: line 3: linux/nothing.h: pagewalk has no such header; "
        "see docs/modules.md"
    ]


def test_an_error_that_has_nothing_to_do_with_headers_is_the_compilers(
    pagewalk: Cli, tmp_path: Path
) -> None:
    path = tmp_path / "typo.c"
    text = "#include <linux/fs.h>\n#include <linux/module.h>\nint init_module(void) { return 1 }\n"
    first, *rest = run(pagewalk, path, text)
    assert first.endswith("typo.c:3:33: error: expected ';' after return statement")
    assert any("return 1 }" in line for line in rest)


def test_a_missing_header_that_is_not_used_does_no_harm(pagewalk: Cli, tmp_path: Path) -> None:
    path = tmp_path / "fine.c"
    path.write_text(
        "".join(f"#include <{name}>\n" for name in MISSING)
        + "#include <linux/module.h>\n"
        + 'int init_module(void) { pr_info("here\\n"); return 0; }\n'
    )
    result = pagewalk("run", path)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("here\n")


@pytest.mark.parametrize(
    ("text", "is_module"),
    [
        ("#include <linux/module.h>\nint x;", True),
        (' # include "linux/module.h"', True),
        ("static int __init init_module(void)\n{", True),
        ("int init_module (void)", True),
        ("module_init(start);", True),
        ("int main(void) { return reinit_module(0); }", False),
        ('puts("#include <linux/module.h>");', False),
    ],
)
def test_what_is_a_module(text: str, is_module: bool) -> None:
    assert (build.kind_of_source(text) is build.MODULE) == is_module


def test_lines_of_missing_headers() -> None:
    text = "/* linux/fs.h */\n#include <linux/fs.h>\n\n  #  include <linux/timer.h> // why\n"
    assert missing_headers.included(text) == [(2, "linux/fs.h"), (4, "linux/timer.h")]
