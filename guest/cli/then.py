"""`--then`, and what it shows: Linux's views of memory, what an address is, `mm.check`.

All look at the memory manager's state as boot, or as a guest, left it. A program's address
space is still there; a kernel module has been unloaded, unless --keep says not to run its
module_exit. The text is `mm.proc`'s and `mm.what`'s; nothing is changed.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from guest.boot.kernel_machine import KernelOptions
from guest.boot.outcome import UsageError
from guest.kernel.system import System

if TYPE_CHECKING:  # imported by those who ask what an address is
    from mm.what import What

VIEWS = (
    "buddyinfo", "pagetypeinfo", "zoneinfo", "slabinfo", "vmallocinfo", "meminfo", "maps",
    "page_owner", "kmemleak", "extfrag_index", "unusable_index",
)  # fmt: skip
_RECORDED = ("page_owner", "kmemleak")  # views of what is written down from boot on

then_option = click.option(
    "--then",
    "then",
    multiple=True,
    metavar="'COMMAND'",
    help="After the run, look at the state it left: 'proc slabinfo', 'what ffffffd600400000', "
    "'check'. May be given more than once.",
)
keep_option = click.option(
    "--keep", is_flag=True, help="Leave a kernel module loaded: module_exit is not run."
)


def with_views(kernel: KernelOptions, views: Sequence[str]) -> KernelOptions:
    """``kernel`` with what the views that are asked for need from boot on."""
    wanted = tuple((name, True) for name in _RECORDED if name in views)
    return replace(kernel, config=kernel.config + wanted)


def views_of(commands: Sequence[str]) -> list[str]:
    """The proc views that --then commands name.

    Raises UsageError for a command that is none, before anything has run.
    """
    words = [_words(command) for command in commands]
    return [rest[0] for name, *rest in words if name == "proc"]


def _words(command: str) -> list[str]:
    """A --then command, split and checked. Raises UsageError."""
    try:
        words = shlex.split(command)
    except ValueError as e:
        raise UsageError(f"--then {command!r}: {e}") from None
    if words[:1] == ["proc"] and len(words) == 2:
        if words[1] not in VIEWS:
            raise UsageError(f"--then {command!r}: no view {words[1]} ({', '.join(VIEWS)})")
        return words
    if words[:1] == ["what"] and len(words) == 2:
        parse_address(words[1])
        return words
    if words == ["check"]:
        return words
    raise UsageError(f"--then {command!r}: give 'proc NAME', 'what ADDRESS' or 'check'")


def parse_address(text: str) -> int:
    """A hexadecimal address of up to 64 bits. Raises UsageError."""
    try:
        address = int(text.replace("_", ""), 16)
    except ValueError:
        raise UsageError(f"{text!r} is no hexadecimal address") from None
    if not 0 <= address < 1 << 64:
        raise UsageError(f"{text!r} does not fit into 64 bits")
    return address


def view(system: System, name: str) -> str:
    """The text of one view. Raises UsageError when this kernel, or this state, has none."""
    from mm import proc
    from mm.errors import MmError

    try:
        if name != "maps":
            return proc.FILES[name](system.kernel)
        if system.process is None:
            raise UsageError("maps: no program is loaded; maps shows a program's address space")
        return proc.maps(system.kernel, system.process.mm)
    except MmError as e:
        raise UsageError(str(e)) from None


def what_is(system: System, address: int) -> What:
    """What ``address`` is: to the loaded program where it is in user space, else to the kernel."""
    from mm.what import what, what_user

    kernel = system.kernel
    mm = system.process.mm if system.process is not None else None
    if mm is not None and address < kernel.layout.task_size:
        in_vma = kernel.address_spaces.vma_lookup(mm, address) is not None
        if in_vma or not kernel.ram.contains(address):
            return what_user(kernel, address, mm)
    return what(kernel, address, mm)


def _look(system: System, command: str) -> dict[str, Any]:
    """What a --then command shows: its ``text``, and of a check whether all is ``clean``.

    Raises UsageError.
    """
    import mm
    from mm.errors import CheckError

    words = _words(command)
    if words[0] == "proc":
        return {"command": command, "text": view(system, words[1])}
    if words[0] == "what":
        return {"command": command, "text": f"{what_is(system, parse_address(words[1]))}\n"}
    try:
        text, clean = f"mm.check: clean: {mm.check(system.kernel)}\n", True
    except CheckError as e:
        text, clean = f"mm.check: {e}\n", False
    return {"command": command, "text": text, "clean": clean}


def show_then(system: System, commands: Sequence[str], as_json: bool) -> list[dict[str, Any]]:
    """Print what --then commands show, each under a line that names it; or return them."""
    shown = []
    for command in commands:
        shown.append(_look(system, command))
        if not as_json:
            click.echo(f"--- {command}")
            click.echo(shown[-1]["text"], nl=False)
    return shown


def is_damaged(shown: Sequence[dict[str, Any]]) -> bool:
    """Whether a check among what --then has shown found something."""
    return not all(one.get("clean", True) for one in shown)
