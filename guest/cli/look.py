"""`pagewalk walk` and `pagewalk tables`: page tables of a guest, or of a snapshot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from emu.hart import HartOptions
from emu.spec.paging import MODES, PagingMode
from guest.boot import look
from guest.boot.outcome import UsageError
from guest.boot.runner import MACHINES, Options
from guest.cli.hart_options import hart_options
from guest.cli.kit import paging_option, print_json, ram_option, refuse_idle
from guest.cli.load_options import load_option, refuse_beside_load, symbols_option
from guest.cli.proc import boot_config, slab_option


class AddressParameter(click.ParamType[int]):
    """A virtual address in hexadecimal (0x may be left out) of up to 64 bits."""

    name = "VA"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            address = int(value.replace("_", ""), 16)
        except ValueError:
            self.fail(f"{value!r} is no hexadecimal address")
        if not 0 <= address < 1 << 64:
            self.fail(f"{value!r} does not fit into 64 bits")
        return address


@dataclass(frozen=True)
class _Machine:
    """What the options say of the machine to make and look at."""

    program: str | None
    paging: str
    ram_size: int
    machine: str | None
    slab: str
    hart: HartOptions

    def tables(self, symbols: Path | None) -> look.Tables:
        names = look.load_symbols(symbols)
        ram, mode, satp = self._state()
        return look.Tables(ram, mode, satp, names)

    def _state(self) -> tuple[Any, PagingMode, int]:
        from emu.spec.paging import mode_of_satp
        from guest.boot import runner

        mode = MODES[self.paging]
        # What a guest prints on the way is not what was asked for.
        options = Options(
            mode,
            self.ram_size,
            self.machine,
            hart=self.hart,
            output=lambda data: None,
            config=boot_config(self.slab),
        )
        if self.program is None:
            if self.machine not in (None, "kernel"):
                raise UsageError(f"a {self.machine} machine has no tables before it runs a program")
            system = runner.boot_system(options)
            return system.machine.ram, mode, system.kernel.satp()
        elf = runner.find(self.program, self.machine)
        if runner.machine_for(elf, self.machine) == "kernel":
            system = runner.boot_system(options)
            if elf.is_module:
                system.load_module(elf)
                return system.machine.ram, mode, system.kernel.satp()
            process = system.load_program(elf)
            return system.machine.ram, mode, system.kernel.satp(process.mm)
        ctx, kind = click.get_current_context(), runner.machine_for(elf, self.machine)
        why = f"for the kernel machine; {self.program} runs on {kind}"
        refuse_idle(ctx, ["paging", "slab"], why)
        outcome, left = runner.run(elf, (), options)
        satp = left.hart.satp  # type: ignore[attr-defined]
        its_mode = mode_of_satp(satp)
        if its_mode is None:
            raise UsageError(
                f"{self.program}: translation is off (satp=0) where it ended: {outcome.where}"
            )
        return left.ram, its_mode, satp  # type: ignore[attr-defined]


def _tables(
    ctx: click.Context, load: Path | None, symbols: Path | None, machine: dict[str, Any]
) -> look.Tables:
    if load is None:
        return _Machine(**machine).tables(symbols)
    refuse_beside_load(ctx)
    return look.load_snapshot(load, symbols)


def register(main: click.Group) -> None:
    """Add `walk` and `tables` to the command line."""

    def common(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(
            (
                load_option,
                symbols_option,
                paging_option,
                ram_option,
                click.option(
                    "--machine", type=click.Choice(MACHINES),
                    help="Who holds which level: bare, firmware or kernel, see pagewalk run.",
                ),
                slab_option,
                hart_options,
                click.option(
                    "--json", "as_json", is_flag=True, help="JSON on standard output."
                ),
            )
        ):  # fmt: skip
            command = option(command)
        return command

    @main.command()
    @click.argument("va", type=AddressParameter())
    @click.argument("program", required=False)
    @click.option(
        "--for", "access_kind", type=click.Choice(["read", "write", "execute"]),
        default="read", show_default=True, help="The access to translate.",
    )  # fmt: skip
    @click.option("--user/--supervisor", default=None, help="Privilege; default: by the VA's half.")
    @click.option("--sum", "sum_bit", is_flag=True, help="With sstatus.SUM set.")
    @click.option("--mxr", is_flag=True, help="With sstatus.MXR set.")
    @common
    @click.pass_context
    def walk(
        ctx: click.Context,
        /,
        va: int,
        access_kind: str,
        user: bool | None,
        sum_bit: bool,
        mxr: bool,
        load: Path | None,
        symbols: Path | None,
        as_json: bool,
        **machine: Any,
    ) -> None:
        """Translate VA by the reference walk: each PTE on the way, or the rule that refuses.

        Without PROGRAM: in the kernel's tables after boot. With a program: in its address
        space, as it is loaded; a bare or firmware guest is run first and its last satp is
        used. With --load: in the tables of a snapshot, a Linux guest's for one. The exit
        status is 0 when the access is allowed and 1 when it is refused.

        \b
        pagewalk walk ffffffd600200000
        pagewalk boot linux --timeout 10 --save linux.snap
        pagewalk walk ffffffff80002000 --load linux.snap --for execute
        """
        from emu.spec.walk import Access, Translation, WalkConfig
        from emu.spec.walk import walk as reference_walk

        tables = _tables(ctx, load, symbols, machine)
        if user is None:
            has_user_space = load is not None or machine["program"] is not None
            user = va < 1 << (tables.mode.va_bits - 1) and has_user_space
        config = WalkConfig(user=user, sum=sum_bit, mxr=mxr)
        kind = Access[access_kind.upper()]
        result = reference_walk(tables.ram, tables.mode, tables.root, va, kind, config)
        if as_json:
            print_json(_walk_json(tables, result, kind.verb, user))
        else:
            click.echo(f"{kind.verb} in {'U' if user else 'S'}-mode")
            click.echo("\n".join(_walk_lines(tables, result)))
        ctx.exit(0 if isinstance(result, Translation) else 1)

    @main.command()
    @click.argument("program", required=False)
    @click.option("--tree", is_flag=True, help="The tables themselves, level by level.")
    @common
    @click.pass_context
    def tables(
        ctx: click.Context,
        /,
        tree: bool,
        load: Path | None,
        symbols: Path | None,
        as_json: bool,
        **machine: Any,
    ) -> None:
        """Show what is mapped: merged ranges in the columns of QEMU's `info mem`, or the tree.

        Without PROGRAM: the kernel's tables after boot. With a program: its address space as
        it is loaded, the kernel's half included; a bare or firmware guest is run first. With
        --load: the tables of a snapshot; those of a Linux kernel come with its names for the
        parts of the address space.

        \b
        pagewalk tables hello
        pagewalk boot linux --timeout 10 --save linux.snap
        pagewalk tables --load linux.snap
        """
        from emu.spec import tables as page_tables

        it = _tables(ctx, load, symbols, machine)
        if tree and as_json:
            entries = page_tables.entries(it.ram, it.mode, it.root)
            page_tables.runs(it.ram, it.mode, it.root)  # refuses before anything is shown
            _print_list(
                {"level": e.level, "index": e.index, "va": hex(e.va), "pte": hex(e.pte)}
                for e in entries
            )
        elif tree:
            _print_lines(page_tables.tree_lines(it.ram, it.mode, it.root))
        elif as_json:
            _print_list(_range_json(it, r) for r in it.ranges())
        else:
            _print_lines(_range_lines(it))


def _range_json(tables: look.Tables, it: Any) -> dict[str, Any]:
    told = {"va": hex(it.va), "pa": hex(it.pa), "size": it.size, "attr": it.attributes}
    if tables.regions:
        told["region"] = tables.region(it.va)
    if name := tables.symbols.name(it.va):
        told["symbol"] = name
    return told


def _range_lines(tables: look.Tables) -> Iterator[str]:
    """As `info mem`; a named part begins with a line as Linux's own dump has it."""
    from emu.spec import tables as page_tables

    ranges = tables.ranges()
    yield from page_tables.INFO_MEM_HEAD
    before = ""
    for it in ranges:
        region = tables.region(it.va)
        if region != before:
            yield f"---[ {region or 'no known part'} ]---"
            before = region
        name = tables.symbols.name(it.va)
        yield page_tables.info_mem_line(it) + (f" {name}" if name else "")


def _walk_lines(tables: look.Tables, result: Any) -> Iterator[str]:
    from emu.debug.explain import describe_walk
    from emu.spec.paging import satp_asid
    from emu.spec.walk import Translation

    asid = satp_asid(tables.satp)
    lines = describe_walk(tables.mode, tables.root, result.va, result, asid)
    yield lines[0]
    if place := tables.place(result.va):
        yield f"in {place}"
    yield from lines[1:]
    if isinstance(result, Translation) and not tables.ram.contains(result.pa):
        place = look.at_physical(tables.ram, result.pa) or look.NOWHERE
        yield f"PA {result.pa:#x} is {place}"


def _walk_json(tables: look.Tables, result: Any, verb: str, user: bool) -> dict[str, Any]:
    from emu.spec.walk import Translation

    told: dict[str, Any] = {
        "va": hex(result.va),
        "mode": tables.mode.name,
        "access": verb,
        "privilege": "U" if user else "S",
        "steps": [
            {"level": s.level, "index": s.index, "pte_pa": hex(s.pte_pa), "pte": hex(s.pte)}
            for s in result.steps
        ],
    }
    if tables.regions:
        told["region"] = tables.region(result.va)
    if name := tables.symbols.name(result.va):
        told["symbol"] = name
    if isinstance(result, Translation):
        page = tables.mode.span(result.level)
        return told | {"pa": hex(result.pa), "level": result.level, "page": page}
    return told | {"refused": result.rule.name, "level": result.level, "cause": result.cause}


def _print_lines(lines: Iterable[str]) -> None:
    """Line by line: a tree of many pages never is in memory as text."""
    for line in lines:
        click.echo(line)


def _print_list(items: Iterable[dict[str, Any]]) -> None:
    """One JSON list, an item a line."""
    separator = "["
    for item in items:
        click.echo(f"{separator}\n  {json.dumps(item)}", nl=False)
        separator = ","
    click.echo("[]" if separator == "[" else "\n]")
