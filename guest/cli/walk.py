"""`pagewalk walk`: one address through the page tables of a guest, or of a snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from guest.boot import look
from guest.cli.kit import print_json
from guest.cli.table_options import TablesRequest, table_options


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


@click.command()
@click.argument("va", type=AddressParameter())
@click.option(
    "--for", "access_kind", type=click.Choice(["read", "write", "execute"]),
    default="read", show_default=True, help="The access to translate.",
)  # fmt: skip
@click.option("--user/--supervisor", default=None, help="Privilege; default: by the VA's half.")
@click.option("--sum", "sum_bit", is_flag=True, help="With sstatus.SUM set.")
@click.option("--mxr", is_flag=True, help="With sstatus.MXR set.")
@table_options
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
@click.pass_context
def walk(
    ctx: click.Context,
    /,
    va: int,
    access_kind: str,
    user: bool | None,
    sum_bit: bool,
    mxr: bool,
    request: TablesRequest,
    as_json: bool,
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

    tables = request.tables()
    if user is None:
        has_user_space = request.load is not None or request.program is not None
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


def register(main: click.Group) -> None:
    """Add the command to ``main``."""
    main.add_command(walk)
