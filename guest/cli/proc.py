"""`pagewalk proc`, `pagewalk what` and `pagewalk run --then`: looking into the kernel's memory.

All three look at the same thing: the memory manager's state as boot, or as a guest, left it.
A program's address space is still there; a kernel module has been unloaded, unless --keep
says not to run its module_exit. The text is `mm.proc`'s and `mm.what`'s; nothing is changed.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emu.spec.paging import MODES
from guest.boot.outcome import UsageError
from guest.boot.runner import Options
from guest.cli.kit import json_option, paging_option, print_json, ram_option, refuse_idle
from guest.cli.load_options import load_option, refuse_beside_load, symbols_option
from guest.kernel.system import System

if TYPE_CHECKING:
    from mm.what import What

SLABS = ("slub", "slab", "slob")
VIEWS = (
    "buddyinfo", "pagetypeinfo", "zoneinfo", "slabinfo", "vmallocinfo", "meminfo", "maps",
    "page_owner", "kmemleak", "extfrag_index", "unusable_index",
)  # fmt: skip
_HEX = {
    "pa", "pte", "pte_pa", "page", "page_of", "slab", "object", "area", "vma", "vma_end",
    "entry_va", "table_va", "head", "pfn", "gfp", "va",
}  # fmt: skip

slab_option = click.option(
    "--slab",
    type=click.Choice(SLABS),
    default="slub",
    show_default=True,
    help="The slab allocator of the kernel machine.",
)
append_option = click.option(
    "--append",
    default="",
    metavar="'PARAMETERS'",
    help="Kernel command line: slub_debug=FZP, page_owner=on, page_poison=on, kmemleak=on, "
    "slab_nomerge, slab_freelist_hardened, min_free_kbytes=N, highmem_start=SIZE, dma=SIZE, "
    "movablecore=SIZE, failslab=I,P,S,T, fail_page_alloc=I,P,S,T.",
)
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


def boot_config(slab: str, views: Sequence[str] = ()) -> dict[str, Any]:
    """The members of mm.Config that these options, and the views asked for, need."""
    config: dict[str, Any] = {}
    if slab != "slub":
        config["slab"] = slab
    for name in ("page_owner", "kmemleak"):
        if name in views:
            config[name] = True
    return config


def views_of(commands: Sequence[str]) -> list[str]:
    """The proc views that --then commands name: what they need must be on at boot.

    Raises UsageError for a command that is none, before anything has run.
    """
    views = []
    for command in commands:
        words = _words(command)
        if words[0] == "proc":
            views.append(words[1])
    return views


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
        _address(words[1])
        return words
    if words == ["check"]:
        return words
    raise UsageError(f"--then {command!r}: give 'proc NAME', 'what ADDRESS' or 'check'")


def _address(text: str) -> int:
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


def look(system: System, command: str) -> dict[str, Any]:
    """What a --then command shows: its ``text``, and of a check whether all is ``clean``.

    Raises UsageError.
    """
    import mm
    from mm.errors import CheckError

    words = _words(command)
    if words[0] == "proc":
        return {"command": command, "text": view(system, words[1])}
    if words[0] == "what":
        return {"command": command, "text": f"{_what(system, _address(words[1]))}\n"}
    try:
        text, clean = f"mm.check: clean: {mm.check(system.kernel)}\n", True
    except CheckError as e:
        text, clean = f"mm.check: {e}\n", False
    return {"command": command, "text": text, "clean": clean}


def show_then(system: object, commands: Sequence[str], as_json: bool) -> list[dict[str, Any]]:
    """Print what --then commands show, each under a line that names it; or return them."""
    if commands and not isinstance(system, System):
        raise UsageError("--then looks into the kernel machine; this guest ran without it")
    shown = []
    for command in commands:
        assert isinstance(system, System)
        shown.append(look(system, command))
        if not as_json:
            click.echo(f"--- {command}")
            click.echo(shown[-1]["text"], nl=False)
    return shown


def is_damaged(shown: Sequence[dict[str, Any]]) -> bool:
    """Whether a check among what --then has shown found something."""
    return not all(one.get("clean", True) for one in shown)


def _what(system: System, address: int) -> Any:
    from mm.what import what, what_user

    kernel = system.kernel
    mm = system.process.mm if system.process is not None else None
    if mm is not None and address < kernel.layout.task_size:
        in_vma = kernel.address_spaces.vma_lookup(mm, address) is not None
        if in_vma or not kernel.ram.contains(address):
            return what_user(kernel, address, mm)
    return what(kernel, address, mm)


def _state(
    program: str | None,
    arguments: Sequence[str],
    paging: str,
    ram_size: int,
    slab: str,
    append: str,
    keep: bool,
    views: Sequence[str],
    quiet: bool,
) -> System:
    """The kernel machine after boot, or after PROGRAM ran on it."""
    from guest.boot import runner
    from guest.boot.console import KernelLog, read_input, write_bytes

    ctx = click.get_current_context()

    options = Options(
        MODES[paging],
        ram_size,
        log=KernelLog(lambda line: None if quiet else click.echo(line, err=True)),
        read_input=read_input,
        output=(lambda data: None) if quiet else write_bytes,
        config=boot_config(slab, views),
        append=append,
        keep_module=keep,
        warn=lambda line: click.echo(f"pagewalk: {line}", err=True),
    )
    if program is None:
        refuse_idle(ctx, ["keep", "quiet"], "give a PROGRAM; without one nothing runs")
        return runner.boot_system(options)
    elf = runner.find(program, None)
    if runner.machine_for(elf, None) != "kernel":
        raise UsageError(f"{program}: not a guest of the kernel machine; it has no such state")
    if not elf.is_module:
        refuse_idle(ctx, ["keep"], f"for kernel modules; {program} is a program")
    outcome, system = runner.run(elf, arguments, options)
    for note in outcome.notes:
        click.echo(f"pagewalk: {note}", err=True)
    if outcome.explanation:
        click.echo(f"pagewalk: {outcome.explanation}", err=True)
    assert isinstance(system, System)
    return system


def register(main: click.Group) -> None:
    """Add `proc` and `what` to the command line."""
    quiet = click.option(
        "--quiet", "-q", is_flag=True, help="Do not show what the program and the kernel print."
    )

    @main.command("proc")
    @click.argument("name", type=click.Choice(VIEWS), metavar="NAME")
    @click.argument("program", required=False)
    @click.argument("arguments", nargs=-1)
    @paging_option
    @ram_option
    @slab_option
    @append_option
    @keep_option
    @quiet
    @json_option
    def proc_command(
        name: str,
        program: str | None,
        arguments: tuple[str, ...],
        paging: str,
        ram_size: int,
        slab: str,
        append: str,
        keep: bool,
        quiet: bool,
        as_json: bool,
    ) -> None:
        """Show NAME as Linux's /proc would, after boot or after PROGRAM has run.

        \b
        buddyinfo       free blocks of each order, by zone
        pagetypeinfo    the same by migratetype; pageblocks of each type
        zoneinfo        watermarks, reserves, sizes, per-CPU lists
        slabinfo        caches: objects in use, slabs (not with --slab slob)
        vmallocinfo     areas of vmalloc: who made them, how many pages
        meminfo         where memory is, in kB
        maps            the address space of PROGRAM
        page_owner      who allocated each block (switched on at boot by asking)
        kmemleak        objects that nothing points to (switched on at boot by asking)
        extfrag_index   why a request of each order would fail
        unusable_index  how much free memory each order cannot use

        What PROGRAM prints comes first; its address space is still there when the view is
        taken. A kernel module has been unloaded, unless --keep is given.

        \b
        pagewalk proc buddyinfo
        pagewalk proc slabinfo ./module.c --keep
        pagewalk proc maps hello
        """
        if as_json:
            refuse_idle(click.get_current_context(), ["quiet"], "--json shows nothing else")
        if name == "maps" and program is None:
            raise UsageError("maps shows the address space of a program: give one (maps hello)")
        system = _state(
            program, arguments, paging, ram_size, slab, append, keep, [name], quiet or as_json
        )
        text = view(system, name)
        if as_json:
            print_json({"name": name, "program": program, "text": text})
        else:
            click.echo(text, nl=False)
            if not text:
                click.echo(f"pagewalk: {name}: nothing to show", err=True)

    # Here, for the two share options with this file.
    @main.command("what")
    @click.argument("address")
    @click.argument("program", required=False)
    @click.argument("arguments", nargs=-1)
    @load_option
    @symbols_option
    @paging_option
    @ram_option
    @slab_option
    @append_option
    @keep_option
    @json_option
    @click.option("--page-owner", is_flag=True, help="Record who allocates each page.")
    @click.pass_context
    def what_command(
        ctx: click.Context,
        /,
        address: str,
        program: str | None,
        arguments: tuple[str, ...],
        paging: str,
        ram_size: int,
        slab: str,
        append: str,
        keep: bool,
        as_json: bool,
        page_owner: bool,
        load: Path | None,
        symbols: Path | None,
    ) -> None:
        """Say what ADDRESS (hexadecimal; virtual or physical) is.

        For a virtual address: its area, the PTE that maps it, and the frame behind it. For
        any frame: zone, block, free or allocated as what (slab object, page table, page of a
        vmalloc area ...), and every place that maps it. After boot, or after PROGRAM has run;
        an address of user space is PROGRAM's. With --load: in the tables that a snapshot's hart
        stands in, of whatever guest: what maps the address, and who else maps the frame.

        \b
        pagewalk what ffffffd600400000
        pagewalk what 80400000
        pagewalk what 10000 hello
        pagewalk what ffffffff80002000 --load linux.snap
        """
        if load is not None or symbols is not None:
            from guest.boot import look

            if load is None:
                raise UsageError("--symbols names what is in a snapshot: give --load FILE too")
            refuse_beside_load(ctx)
            show(look.what(look.load_snapshot(load, symbols), _address(address)), as_json)
            return
        views = ["page_owner"] if page_owner else []
        system = _state(program, arguments, paging, ram_size, slab, append, keep, views, True)
        show(_what(system, _address(address)), as_json)

    def show(found: What, as_json: bool) -> None:
        if as_json:
            facts = {k: _json_value(k, v) for k, v in found.facts.items()}
            print_json(
                {"address": hex(found.address), "kind": found.kind, **facts, "text": found.lines}
            )
        else:
            click.echo(str(found))


def _json_value(name: str, value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return hex(value) if name in _HEX else value
    if isinstance(value, tuple):
        return [hex(v) for v in value]
    if isinstance(value, list):
        return [{k: _json_value(k, v) for k, v in row.items()} for row in value]
    return value
