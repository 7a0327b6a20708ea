"""`pagewalk run`, `pagewalk check`, `pagewalk list`: guests on the machine that suits them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from emu.hart import HartOptions
from emu.spec.csr import PRIV_NAMES
from emu.spec.paging import MODES
from guest.boot.console import KernelLog, poll_input, read_input, write_bytes
from guest.boot.outcome import EXIT_BUG, Outcome, UsageError
from guest.boot.runner import MACHINES, Options
from guest.cli.hart_options import hart_options
from guest.cli.kit import (
    json_option,
    paging_option,
    print_json,
    ram_option,
    refuse_idle,
    timeout_option,
)
from guest.cli.proc import (
    append_option,
    boot_config,
    is_damaged,
    keep_option,
    show_then,
    slab_option,
    then_option,
    views_of,
)
from guest.cli.trace_options import TraceRequest, trace_options

_machine = click.option(
    "--machine",
    type=click.Choice(MACHINES),
    help="Who holds which level: bare (all the guest's), firmware (Python is the SBI), "
    "kernel (Python is firmware and kernel). Default: by the program's addresses.",
)


# Parameters that mean something to some guests alone.
_OF_GUEST = ("keep", "environment", "timeout")
_OF_KERNEL_MACHINE = ("paging", "slab", "append", "verbose", "then", "keep", "environment")


@click.command()
@click.argument("program", required=False)
@click.argument("arguments", nargs=-1)
@paging_option
@ram_option
@_machine
@trace_options
@click.option("--verbose", "-v", is_flag=True, help="Show the kernel's boot log too.")
@then_option
@keep_option
@slab_option
@append_option
@click.option(
    "--env",
    "environment",
    multiple=True,
    metavar="NAME=VALUE",
    help="Put it into a program's environment, which is empty else. May be repeated.",
)
@click.option(
    "--fail-on-bug/--no-fail-on-bug",
    default=True,
    help="Exit with 1 when the kernel reported a bug, or --then check failed. On by default.",
)
@timeout_option
@hart_options
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    program: str | None,
    arguments: tuple[str, ...],
    paging: str,
    ram_size: int,
    machine: str | None,
    trace: TraceRequest,
    verbose: bool,
    then: tuple[str, ...],
    keep: bool,
    slab: str,
    append: str,
    environment: tuple[str, ...],
    fail_on_bug: bool,
    timeout: float | None,
    hart: HartOptions,
    as_json: bool,
) -> None:
    """Run PROGRAM with ARGUMENTS; without one, the demo.

    PROGRAM is a static RV64 ELF, a kernel module, a C or assembly file (needs the extra
    `compile`), or the name of a guest that comes with pagewalk. Arguments that begin with
    a dash go behind `--`; those of a module are its parameters, NAME=VALUE.

    \b
    The exit status is the guest's: of exit(), the finisher, or HTIF (0 for pass, else the
    test's number). 128 + signal for a fault that nobody handles, 130 for Ctrl-C, 124 when
    the time is up or the hart waits for an interrupt that cannot come, 2 for bad input.
    0 becomes 1 when the kernel reported a bug (BUG, WARNING, a bad free ...) or a check after
    --then found something: see --no-fail-on-bug.
    """
    from guest.boot import runner

    if as_json:
        refuse_idle(ctx, ["verbose"], "--json has the boot log")
    if program is None:
        refuse_idle(ctx, _OF_GUEST, "give a PROGRAM; without one there is the demo")
    for pair in environment:
        if not pair.partition("=")[1]:
            raise UsageError(f"--env {pair!r}: give NAME=VALUE")
    console: list[bytes] = []
    log = KernelLog(lambda line: None if as_json else click.echo(line))
    output = console.append if as_json else write_bytes
    options = Options(
        MODES[paging],
        ram_size,
        machine,
        hart,
        output=output,
        log=log,
        trace=trace.attach,
        read_input=read_input,
        poll_input=poll_input,
        config=boot_config(slab, views_of(then)),
        append=append,
        keep_module=keep,
        environment=environment,
        timeout=timeout,
        warn=lambda line: None if as_json else click.echo(f"pagewalk: {line}", err=True),
    )
    if verbose or as_json or program is None:
        options.boot_log = log
    if program is None:
        if machine not in (None, "kernel"):
            raise UsageError(f"the demo runs on the kernel machine, not on {machine}")
        from guest.cli.demo import tell

        with trace:
            status, told = tell(options, log)
        shown = show_then(told, then, as_json)
        if not status and fail_on_bug and is_damaged(shown):
            status = EXIT_BUG
        if as_json:
            text = b"".join(console).decode("utf-8", "replace")
            story: dict[str, Any] = {"program": None, "machine": "kernel", "exit": status}
            story |= {"console": text, "log": log.lines}
            print_json(story | ({"then": shown} if then else {}))
        ctx.exit(status)

    elf = runner.find(program, machine)
    kind = runner.machine_for(elf, machine)
    if kind != "kernel":
        refuse_idle(ctx, _OF_KERNEL_MACHINE, f"for the kernel machine; {program} runs on {kind}")
    elif elf.is_module:
        refuse_idle(ctx, ["environment"], f"for programs; {program} is a kernel module")
    else:
        refuse_idle(ctx, ["keep"], f"for kernel modules; {program} is a program")
    with trace:
        outcome, left = runner.run(elf, arguments, options)
    if not as_json:
        _print_outcome(outcome)
    shown = show_then(left, then, as_json)
    if not outcome.status and fail_on_bug and (outcome.bugs or is_damaged(shown)):
        outcome.status = EXIT_BUG
        if outcome.bugs and not as_json:
            click.echo(f"pagewalk: {_bugs(outcome.bugs)} (--no-fail-on-bug: exit 0)", err=True)
    if as_json:
        ending = _outcome_json(outcome, b"".join(console), log.lines)
        print_json(ending | ({"then": shown} if then else {}))
    ctx.exit(outcome.status)


def _bugs(bugs: list[str]) -> str:
    more = f" and {len(bugs) - 1} more" if len(bugs) > 1 else ""
    return f"a bug was reported: {bugs[0]}{more}"


def _print_outcome(outcome: Outcome) -> None:
    for note in outcome.notes:
        click.echo(f"pagewalk: {note}", err=True)
    if outcome.explanation:
        click.echo(f"pagewalk: {outcome.explanation}", err=True)


def _outcome_json(outcome: Outcome, console: bytes, log: list[str]) -> dict[str, Any]:
    stop, trap = outcome.stop, outcome.stop.trap
    fault = None
    if trap is not None:
        fault = {
            "cause": trap.xcause,
            "text": trap.text,
            "epc": hex(trap.epc),
            "tval": hex(trap.tval),
            "from": PRIV_NAMES[trap.priv],
            "to": PRIV_NAMES[trap.target],
            "explanation": outcome.explanation.splitlines(),
        }
    return {
        "program": outcome.program,
        "machine": outcome.machine,
        "exit": outcome.status,
        "reason": stop.reason.value,
        "detail": stop.detail,
        "where": outcome.where,
        "console": console.decode("utf-8", "replace"),
        "log": log,
        "fault": fault,
        "notes": outcome.notes,
        "missing_syscalls": outcome.missing_syscalls,
        "bugs": outcome.bugs,
    }


@click.command()
@click.argument("program", required=False)
@click.argument("arguments", nargs=-1)
@paging_option
@ram_option
@slab_option
@append_option
@hart_options
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    program: str | None,
    arguments: tuple[str, ...],
    paging: str,
    ram_size: int,
    slab: str,
    append: str,
    hart: HartOptions,
    as_json: bool,
) -> None:
    """Boot, run PROGRAM if one is given, then check every structure in RAM.

    Free lists against page flags, slabs, page tables, address spaces, W^X. The exit status
    is 0 when all is sound; else 1, with the structure, its address and the rule it breaks.
    """
    import dataclasses

    import mm
    from guest.boot import runner
    from mm.errors import CheckError

    log = KernelLog(lambda line: None)
    options = Options(
        MODES[paging], ram_size, hart=hart, log=log, read_input=read_input, output=write_bytes,
        config=boot_config(slab),
        append=append,
    )  # fmt: skip
    if as_json:
        options.output = lambda data: None
    if program is None:
        system = runner.boot_system(options)
    else:
        elf = runner.find(program, None)
        if runner.machine_for(elf, None) != "kernel":
            raise UsageError(f"{program}: not a guest of the kernel machine; nothing to check")
        outcome, system = runner.run(elf, arguments, options)  # type: ignore[assignment]
        if not as_json:
            _print_outcome(outcome)
    try:
        report = mm.check(system.kernel)
    except CheckError as e:
        if as_json:
            broken = {"structure": e.structure, "address": hex(e.address), "rule": e.rule}
            print_json({"clean": False} | broken)
        else:
            click.echo(f"mm.check: {e}", err=True)
        ctx.exit(1)
    if as_json:
        print_json({"clean": True, **dataclasses.asdict(report)})
    else:
        click.echo(f"mm.check: clean: {report}")


@click.command("list")
@json_option
def list_guests(as_json: bool) -> None:
    """List the guests that come with pagewalk, and what each shows."""
    from guest import build
    from guest.image.shipped import shipped

    here = Path(build.__file__).parent
    rows = []
    for name, path in shipped().items():
        folder = path.parent.name
        places = (here / folder / name / "kernel.c", *sorted((here / folder).glob(f"{name}.*")))
        source = next(s for s in places if s.is_file())
        rows.append((name, folder, _first_comment(source)))
    if as_json:
        print_json([{"name": n, "kind": k, "description": d} for n, k, d in rows])
        return
    width = max(len(name) for name, _, _ in rows)
    for name, kind, description in rows:
        click.echo(f"{name:<{width}}  {kind:<10}  {description}")


def _first_comment(source: Path) -> str:
    """The comment at the top of a C or assembly file, as one line."""
    text = source.read_text()
    if text.startswith("/*"):
        return " ".join(text[2 : text.index("*/")].replace("\n *", "\n").split())
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def register(main: click.Group) -> None:
    """Add the three to the command line."""
    for command in (run, check, list_guests):
        main.add_command(command)
