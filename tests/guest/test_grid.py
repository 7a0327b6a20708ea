"""Every shipped guest, view and command under every allocator, paging mode and way to the hart.

What is asked of each: it ends as it should, nothing raises, and memory is sound afterwards.
The whole product takes its time and is marked slow; a plane through it is run always.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from click.testing import Result

from emu.spec.paging import MODES
from guest.cli.kernel_options import SLABS
from guest.cli.then import VIEWS
from guest.image.shipped import shipped
from guest.kernel.cmdline import ALLOCATORS

Cli = Callable[..., Result]

# These are told what to do by an argument, and say so without one: the status is theirs.
WITHOUT_ARGUMENT = {"fault": 2, "fault_module": 22}
# On machines that have no kernel in Python.
ON_BARE_RAM = {
    name for name, path in shipped().items() if path.parent.name in ("bare", "supervisor")
}
ON_THE_BOARD = {"small"}  # of `pagewalk boot`: see test_small_kernel
ON_THE_KERNEL = [name for name in shipped() if name not in ON_BARE_RAM]
PARAMETERS = (
    "slub_debug=FZPU", "slab_nomerge", "slab_freelist_hardened", "page_owner=on",
    "page_poison=on", "kmemleak=on", "min_free_kbytes=2048", "highmem_start=32M", "dma=16M",
    "movablecore=16M",
)  # fmt: skip
# With what they do about memory they do something that slub_debug calls a bug.
MISTAKES = ("overflow", "use_after_free")
WAYS = ("inside", "public")
LOOKS = (
    "check", "check touch", "check buddy --json", "what ffffffd600456000", "what 80400000 hello",
    "what ffffffd600456000 --page-owner", "tables", "tables hello --tree",
    "tables buddy --json", "walk 10000 hello", "walk ffffffd600200000",
    "walk ffffffff00000000 buddy --for execute",
)  # fmt: skip


# Each allocator with one mode, each mode with one allocator.
PLANE = [(slab, "sv39") for slab in SLABS] + [("slub", paging) for paging in list(MODES)[1:]]


def runs(result: Result, status: int, name: str) -> None:
    assert result.exit_code == status, (name, result.output)
    assert result.output.strip(), f"{name} says nothing"


@pytest.mark.parametrize(("slab", "paging"), PLANE)
def test_every_guest(pagewalk: Cli, slab: str, paging: str) -> None:
    for name in ON_THE_KERNEL:
        result = pagewalk("run", name, "--slab", slab, "--paging", paging, "--then", "check")
        runs(result, WITHOUT_ARGUMENT.get(name, 0), name)
        assert "mm.check: clean: " in result.stdout, name


@pytest.mark.parametrize(("slab", "paging"), PLANE)
def test_the_demo(pagewalk: Cli, slab: str, paging: str) -> None:
    result = pagewalk("run", "--slab", slab, "--paging", paging, "--then", "check")
    runs(result, 0, "the demo")
    assert result.stdout.count("mm.check: clean: ") == 2
    assert "] slab: " in result.stdout


@pytest.mark.parametrize("access", WAYS)
@pytest.mark.parametrize("name", sorted(ON_BARE_RAM - ON_THE_BOARD))
def test_guests_without_the_kernel(pagewalk: Cli, name: str, access: str) -> None:
    runs(pagewalk("run", name, "--hart", access), 0, name)


@pytest.mark.slow
@pytest.mark.parametrize("slab", SLABS)
def test_every_view_and_look(pagewalk: Cli, slab: str) -> None:
    for name in VIEWS:
        result = pagewalk("proc", name, *(["hello"] if name == "maps" else []), "--slab", slab)
        has_none = name == "slabinfo" and slab == "slob"  # nor has Linux
        runs(result, 2 if has_none else 0, name)
    for command in LOOKS:
        runs(pagewalk(*command.split(), "--slab", slab), 0, command)


@pytest.mark.parametrize("slab", SLABS)
def test_compare(pagewalk: Cli, slab: str) -> None:
    runs(pagewalk("compare", "fifo", "--slab", slab), 0, "fifo")


@pytest.mark.slow
@pytest.mark.parametrize("access", WAYS)
@pytest.mark.parametrize(("slab", "paging"), list(product(SLABS, MODES)))
def test_the_whole_grid(pagewalk: Cli, slab: str, paging: str, access: str) -> None:
    options = ("--slab", slab, "--paging", paging, "--hart", access, "--then", "check")
    for name in ON_THE_KERNEL:
        result = pagewalk("run", name, *options)
        runs(result, WITHOUT_ARGUMENT.get(name, 0), name)
        assert "mm.check: clean: " in result.stdout, name
    runs(pagewalk("run", *options), 0, "the demo")


@pytest.mark.slow
@pytest.mark.parametrize("parameter", PARAMETERS)
@pytest.mark.parametrize("slab", SLABS)
def test_every_kernel_parameter(pagewalk: Cli, slab: str, parameter: str) -> None:
    if slab not in ALLOCATORS.get(parameter.partition("=")[0], SLABS):
        result = pagewalk("run", "--slab", slab, "--append", parameter)
        assert result.exit_code == 2 and "has nothing of the kind" in result.stderr
        return
    for name in ("", *ON_THE_KERNEL):
        if name in MISTAKES:
            continue
        arguments = [name] if name else []
        options = ("--slab", slab, "--append", parameter, "--then", "check")
        result = pagewalk("run", *arguments, *options)
        runs(result, WITHOUT_ARGUMENT.get(name, 0), name)


@pytest.mark.slow
@pytest.mark.parametrize("parameter", ["failslab=1,100,0,-1", "fail_page_alloc=1,100,0,-1"])
@pytest.mark.parametrize("slab", SLABS)
def test_a_kernel_without_memory(pagewalk: Cli, slab: str, parameter: str) -> None:
    """Nothing raises: a guest ends with a status of its own, or is refused in one line."""
    for name in ON_THE_KERNEL:
        result = pagewalk("run", name, "--slab", slab, "--append", parameter)
        assert result.exit_code < 128, (name, result.output)
        if result.exit_code == 2 and name != "fault":
            assert len(result.stderr.splitlines()) == 1, (name, result.output)
    result = pagewalk("run", "--slab", slab, "--append", parameter)
    assert result.exit_code in (1, 2), result.output
