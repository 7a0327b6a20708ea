"""How guests end, in JSON: each kind of end, of each command, against docs/outcome.schema.json."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from asm import assemble
from click.testing import Result
from guest_kit import compiled
from jsonschema import Draft202012Validator

from guest import build

Cli = Callable[..., Result]

DOCS = Path(__file__).resolve().parents[2] / "docs"
START = 0x8020_0000

FINISHER = "li t0, 0x100000\nli t1, {}\nsw t1, 0(t0)\n1: j 1b\n"
SYSCALL = """#include <pagewalk/user.h>
int main(void)
{
    register long a7 __asm__("a7") = 18;  /* lookup_dcookie */
    __asm__ volatile("ecall" : : "r"(a7) : "a0", "memory");
    return 3;
}
"""
BUG = """#include <linux/module.h>
#include <linux/slab.h>
static int __init start(void)
{
    void *object = kmalloc(64, GFP_KERNEL);
    kfree(object);
    kfree(object);
    return 0;
}
module_init(start);
"""


@cache
def validator() -> Draft202012Validator:
    schema = json.loads((DOCS / "outcome.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.fixture
def told(pagewalk: Cli) -> Callable[..., dict[str, Any]]:
    """told("run", "hello") -> its JSON, which is valid and says the exit status."""

    def call(*arguments: object) -> dict[str, Any]:
        result = pagewalk(*arguments, "--json")
        assert result.stderr == "", result.stderr
        story: dict[str, Any] = json.loads(result.stdout)
        validator().validate(story)
        assert story["exit"] == result.exit_code
        return story

    return call


def kernel(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "kernel"
    path.write_bytes(assemble(text, START))
    return path


@pytest.mark.parametrize(
    ("arguments", "machine", "ends"),
    [
        (("run",), "kernel", (0, "exit")),
        (("run", "hello"), "kernel", (0, "exit")),
        (("run", "hello_module"), "kernel", (0, "exit")),
        (("run", "hello_module", "nonsense=1"), "kernel", (0, "exit")),
        (("run", "fault", "null"), "kernel", (139, "fault")),
        (("run", "fault_module", "null"), "kernel", (139, "fault")),
        (("run", "hello", "--then", "check", "--then", "proc meminfo"), "kernel", (0, "exit")),
        (("run", "hello", "--hart", "public"), "kernel", (0, "exit")),
        (("run", "uart_hello"), "bare", (0, "exit")),
        (("run", "sbi_hello"), "firmware", (0, "exit")),
        (("boot", "uart_hello", "--bios", "none"), "bare", (0, "exit")),
        (("boot", "tiny", "--deterministic"), "firmware", (0, "exit")),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_guests_that_come_with_pagewalk(
    told: Callable[..., dict[str, Any]], arguments: tuple[str, ...], machine: str, ends: Any
) -> None:
    story = told(*arguments)
    assert (story["machine"], (story["exit"], story["reason"])) == (machine, ends)
    assert story["program"] == (arguments[1] if len(arguments) > 1 else None)
    assert (story["fault"] is not None) == (ends[1] == "fault")
    assert ("then" in story) == ("--then" in arguments)


# What ends a guest on the board: the same words of both commands.
ENDS = {
    "finisher": (FINISHER.format("0x2a3333"), 42, "exit"),
    "reset": (FINISHER.format("0x7777"), 0, "reset"),
    "fault": ("csrw {tvec}, zero\n.word 0xffffffff", 132, "fault"),
    "wfi": ("csrw {ie}, zero\n1: wfi\nj 1b\n", 124, "wfi"),
    "timeout": ("1: j 1b\n", 124, "interrupted"),
}


@pytest.mark.parametrize("what", ENDS)
def test_run_and_boot_tell_the_same(
    told: Callable[..., dict[str, Any]], tmp_path: Path, what: str
) -> None:
    text, status, reason = ENDS[what]
    path = compiled(build.BARE, f'.section .text.start, "ax"\n.globl _start\n_start:\n{text}'
                    .format(tvec="mtvec", ie="mie"), ".S")  # fmt: skip
    ways = [
        ("run", path, "--timeout", "0.5"),
        ("boot", path, "--bios", "none", "--no-reboot", "--ram", "64M", "--timeout", "0.5"),
        # The same in S-mode.
        ("boot", kernel(tmp_path, text.format(tvec="stvec", ie="sie")), "--no-reboot",
         "--timeout", "0.5"),
    ]  # fmt: skip
    stories = [told(*way) for way in ways]
    for story, level, machine in zip(stories, "MMS", ["bare", "bare", "firmware"], strict=True):
        assert (story["exit"], story["reason"], story["machine"]) == (status, reason, machine)
        assert story["where"].endswith(f"in {level}-mode")
        if reason == "fault":
            assert (story["fault"]["from"], story["fault"]["to"]) == (level, level)
            assert story["explanation"].splitlines() == story["fault"]["explanation"]
    assert stories[0] == stories[1]


def test_bugs_and_missing_calls(told: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    story = told("run", compiled(build.PROGRAM, SYSCALL))
    assert story["exit"] == 3 and story["missing_syscalls"][0]["number"] == 18
    source = tmp_path / "bug.c"
    source.write_text(BUG)
    story = told("run", source, "--append", "slub_debug=F", "--then", "check")
    assert story["exit"] == 1 and len(story["bugs"]) == 1


def test_a_module_that_is_refused(told: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    source = tmp_path / "refused.c"
    source.write_text(
        "#include <linux/module.h>\nstatic int __init start(void) { return -22; }\n"
        "module_init(start);\n"
    )
    story = told("run", source)
    assert (story["exit"], story["notes"]) == (22, ["the module was refused: init failed (-22)"])


def test_a_snapshot_that_goes_on(
    pagewalk: Cli, told: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    saved = tmp_path / "a.snap"
    path = kernel(tmp_path, "1: j 1b")
    assert pagewalk("boot", path, "--timeout", "0.2", "--save", saved).exit_code == 124
    story = told("boot", "--load", saved, "--timeout", "0.2")
    assert (story["program"], story["machine"], story["exit"]) == (str(saved), "firmware", 124)


def _damaged(story: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """``story`` with one thing wrong: a key less, one more, a value of another type."""
    for key in story:
        yield {k: v for k, v in story.items() if k != key}
        yield story | {key: 3.5}
    yield story | {"more": 1}
    for key in story["fault"]:
        less = copy.deepcopy(story)
        del less["fault"][key]
        yield less
        yield story | {"fault": story["fault"] | {key: 3.5}}
    yield story | {"fault": repr(story["fault"])}
    yield story | {"machine": "boot"}
    yield story | {"exit": 256}


def test_the_schema_refuses_what_is_no_outcome(told: Callable[..., dict[str, Any]]) -> None:
    story = told("run", "fault", "null")
    found = [bad for bad in _damaged(story) if validator().is_valid(bad)]
    assert not found


def test_the_document_has_every_key() -> None:
    schema = json.loads((DOCS / "outcome.schema.json").read_text())
    text = (DOCS / "outcome.md").read_text()
    assert [key for key in schema["properties"] if f"`{key}`" not in text] == []
    assert set(schema["required"]) == set(schema["properties"]) - {"then"}
