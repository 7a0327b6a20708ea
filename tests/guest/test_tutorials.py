"""Modules as tutorials write them, in the repository's own words: each leans on other headers.

`tutorials/NAME.c` begins with a comment that says what it prints, line by line, and with which
parameters. Numbers are computed by hand. Each runs under SLUB and under another allocator.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from guest_kit import Kernel, load

import mm
from emu.stop import StopReason
from guest import build

Machines = Callable[..., Kernel]
FOLDER = Path(__file__).parent / "tutorials"
NAMES = sorted(path.stem for path in FOLDER.glob("*.c"))
OTHER = ("slab", "slob")


def expectations(text: str) -> tuple[list[str], list[str], list[str]]:
    """The parameters, and what init and exit print: patterns."""
    parameters: list[str] = []
    lines: dict[str, list[str]] = {"init": [], "exit": []}
    for kind, rest in re.findall(r"^ \* (args|init|exit): ?(.*)$", text, re.MULTILINE):
        if kind == "args":
            parameters = rest.split(" & ")
        else:
            lines[kind].append(rest)
    return parameters, lines["init"], lines["exit"]


def same(log: list[str], patterns: list[str]) -> None:
    assert len(log) == len(patterns), log
    for line, pattern in zip(log, patterns, strict=True):
        assert re.fullmatch(pattern, line), (line, pattern)


def test_there_are_enough_of_them() -> None:
    assert len(NAMES) >= 20


@pytest.mark.parametrize("name", NAMES)
def test_a_tutorial(machines: Machines, name: str) -> None:
    text = (FOLDER / f"{name}.c").read_text()
    assert build.kind_of_source(text) is build.MODULE
    parameters, init, exit_lines = expectations(text)
    elf = load(build.MODULE, text)
    for slab in ("slub", OTHER[NAMES.index(name) % 2]):
        k = machines(config={"slab": slab})
        before = k.counts()
        module, stop = k.system.load_module(elf, parameters)
        assert (stop.reason, stop.value) == (StopReason.EXIT, 0), (stop, k.log)
        mm.check(k.mm)
        same(k.log, init)
        k.log.clear()
        stop = k.system.unload_module(module)
        assert (stop.reason, stop.value) == (StopReason.EXIT, 0), stop
        same(k.log, exit_lines)
        after = k.counts()
        for kept in ("vm_areas", "objects"):  # nothing is left behind
            assert after[kept] == before[kept] or slab == "slob", kept
