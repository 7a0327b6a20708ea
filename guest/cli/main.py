"""The command line: `pagewalk run`, `walk`, `tables`, `check`, `proc`, `what`, `boot` ..."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from emu.engine.calls import EngineError
from emu.stop import StopReason
from firmware.images import NotBuilt
from guest.boot.console import open_missing
from guest.boot.outcome import EXIT_INTERRUPTED, UsageError
from guest.image.elf import ElfError

# Where each command is; the module's `register` adds it to the group.
_MODULES = {
    "boot": "guest.cli.boot",
    "check": "guest.cli.check",
    "compare": "guest.cli.compare",
    "fetch": "guest.cli.fetch",
    "list": "guest.cli.list",
    "proc": "guest.cli.proc",
    "run": "guest.cli.run",
    "tables": "guest.cli.tables",
    "walk": "guest.cli.walk",
    "what": "guest.cli.what",
}

# What is the user's to mend: one line, and status 2.
_TOLD: tuple[type[Exception], ...] = (ElfError, UsageError, NotBuilt, EngineError, ValueError)


class Group(click.Group):
    """Turns what a user did wrong into one line and status 2, whatever raised it.

    A command's module is imported when the command is asked for: numpy and mm take longer
    to import than `boot`, which needs neither, takes to its first instruction.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _MODULES and cmd_name not in self.commands:
            import_module(_MODULES[cmd_name]).register(self)
        return self.commands.get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchOption:
            raise
        except click.UsageError as e:
            told = f"No such command '{args[0]}'.{_meant(args[0])}"
            raise click.UsageError(told, e.ctx) from None

    def make_context(self, *args: Any, **kw: Any) -> click.Context:
        open_missing()
        try:
            return super().make_context(*args, **kw)
        except click.UsageError as e:
            _refuse(e)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as e:
            _refuse(e, ctx)
        except _TOLD + _if_loaded("mm.errors", "MmError") as e:
            message, *rest = str(e).splitlines() or [type(e).__name__]
            click.echo(f"pagewalk: {message}", err=True)
            for line in rest:  # a compiler's own messages
                click.echo(line, err=True)
            ctx.exit(2)
        except _if_loaded("guest.kernel.system", "BootError") as e:
            click.echo(f"pagewalk: {e}", err=True)
            interrupted = e.stop.reason is StopReason.INTERRUPTED  # type: ignore[attr-defined]
            ctx.exit(EXIT_INTERRUPTED if interrupted else 2)
        except BrokenPipeError:
            # The reader of a pipe has gone: nobody is left to tell.
            _drop_output()
            ctx.exit(141)
        except OSError as e:  # of our own files and output: those of users are handled above
            _drop_output()
            click.echo(f"pagewalk: {e.strerror or e}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:  # outside of a run of the hart
            click.echo("pagewalk: interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)


def _if_loaded(module: str, name: str) -> tuple[type[Exception], ...]:
    """An exception's class, if its module has been imported: else nobody can have raised it."""
    loaded = sys.modules.get(module)
    return () if loaded is None else (getattr(loaded, name),)


def _meant(typed: str) -> str:
    """What a command that does not exist was probably meant to be."""
    from difflib import get_close_matches

    from guest.image import names

    if typed == "help":
        return " Did you mean '--help'?"
    if typed in names.FETCHED:
        return f" Did you mean 'boot {typed}'?"
    if names.shipped_guest(typed) is not None or Path(typed).is_file():
        return f" Did you mean 'run {typed}'?"
    near = get_close_matches(typed, _MODULES, 1)
    return f" Did you mean '{near[0]}'?" if near else ""


def _refuse(error: click.UsageError, group: click.Context | None = None) -> NoReturn:
    """One line for arguments that are wrong; the help, where there were none at all."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        raise error
    command = error.ctx.command_path if error.ctx else "pagewalk"
    if error.ctx is None and group is not None and group.invoked_subcommand:
        command = f"{group.command_path} {group.invoked_subcommand}"
    text = " ".join(error.format_message().split())
    takes = error.ctx.command.params if error.ctx else []
    if isinstance(error, click.NoSuchOption) and any(p.name == "arguments" for p in takes):
        text += " What is for the program goes behind --."
    click.echo(f"{command}: {text} (see {command} --help)", err=True)
    sys.exit(2)


def _drop_output() -> None:
    """What is still in the buffer of standard output can go nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pagewalk")
def main() -> None:
    """A RISC-V machine whose kernel memory manager is written in Python.

    \b
    pagewalk run                     the demo: boot, a module, a program, one walk
    pagewalk run hello               a guest that comes with pagewalk (see: list)
    pagewalk run ./prog.elf a b      your own ELF, or C file, with arguments
    pagewalk walk ffffffd600200000   translate one address, level by level
    pagewalk tables hello            everything that is mapped (--load: in a snapshot)
    pagewalk proc slabinfo           Linux's view of the caches (or buddyinfo, meminfo ...)
    pagewalk what 80400000           what an address is: frame, object, table, area
    pagewalk boot tiny               a supervisor kernel on the whole board (also: linux)
    pagewalk compare fifo            one allocation trace through SLAB, SLUB and SLOB
    """


if __name__ == "__main__":
    main()
