"""`pagewalk boot`: firmware, boot loaders and kernels on the board, see `guest.boot.boot`."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path

import click

from guest.boot.boot import BootOptions, prepare, resume
from guest.boot.named import named
from guest.boot.outcome import UsageError
from guest.boot.session import Session, SessionOptions
from guest.cli.board_options import board_options, session_options
from guest.cli.board_output import Console
from guest.cli.kit import json_option, refuse_idle
from guest.cli.trace_options import TraceRequest, trace_options

# What makes a machine, or puts something into it, beside a snapshot that is one; and what is
# of the run, where none is to come.
_OF_NEW_MACHINE = (
    "kernel", "bios", "initrd", "append", "dtb", "dump_dtb", "ram_size", "deterministic", "seed",
)  # fmt: skip
_OF_RUN = (
    "timeout", "no_reboot", "symbols", "gdb_port", "save", "core", "trace", "access",
)  # fmt: skip


@click.command()
@click.argument("kernel", required=False)
@board_options
@session_options
@click.option(
    "--dump-dtb",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the device tree that the guest is given, and end.",
)
@click.option(
    "--load",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Go on from a snapshot: no KERNEL, but the same --disk options.",
)
@trace_options
@json_option
@click.pass_context
def boot(
    ctx: click.Context,
    /,
    kernel: str | None,
    board: BootOptions,
    session: SessionOptions,
    dump_dtb: Path | None,
    load: Path | None,
    trace: TraceRequest,
    as_json: bool,
) -> None:
    """Boot KERNEL on the whole board: QEMU's `virt` with one hart.

    KERNEL is an ELF, a RISC-V Image (gzip too), a raw binary, a C file, the name of a
    supervisor guest (tiny), or linux or u-boot after `pagewalk fetch`.

    \b
    pagewalk boot tiny                              our own small kernel
    pagewalk fetch && pagewalk boot linux           Linux to a shell
    pagewalk boot linux --bios opensbi              with OpenSBI in M-mode
    pagewalk boot Image --initrd root.cpio --append "console=ttyS0"
    pagewalk boot u-boot --bios opensbi --disk disk.img
    pagewalk boot kernel --bios none --disk fs.img,bus=0 --virtio-legacy
    pagewalk boot tiny --gdb 1234                   wait for gdb

    On a terminal every key goes to the guest, Ctrl-C too; Ctrl-A x ends the machine and
    Ctrl-A h lists more. The exit status is the guest's (finisher, SBI), 128 + signal for
    a fault that nobody handles, 130 for an interrupted run, 124 when the time is up or
    nothing can wake the hart, 2 for bad input.
    """
    _refuse_idle(ctx)
    for option, path in (("--save", session.save), ("--core", session.core)):
        if path is not None:
            _check_writable(option, path)
    console = Console(as_json)
    options = named(replace(board, output=console.write), kernel, str(board.bios))
    booted = prepare(options) if load is None else resume(options, load)
    with contextlib.closing(booted.board):
        if dump_dtb is not None:
            _write_file("--dump-dtb", dump_dtb, booted.dtb)
            return
        # A person would type blind.
        how = replace(session, with_input=not as_json or not os.isatty(0))
        with trace:
            program = kernel or str(load or board.bios)
            outcome = Session(booted, how, console.output).run(program, trace.attach)
    console.show(outcome, with_detail=True)
    ctx.exit(outcome.status)


def _check_writable(option: str, path: Path) -> None:
    """Before the run that the file is to be made of. Raises UsageError."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{option} {path}: not a regular file")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise UsageError(f"{option} {path}: no such folder: {folder}")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{option} {path}: nothing can be written to {folder}")


def _write_file(option: str, path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as e:
        raise UsageError(f"{option} {path}: {e.strerror or e}") from None


def _refuse_idle(ctx: click.Context) -> None:
    """Raise UsageError for an option that would do nothing beside the others."""
    given = ctx.params
    if given["load"] is not None:
        # Its own RAM may be named: who does so means it, see `guest.boot.boot.resume`.
        own = _has_ram(given["load"], given["ram_size"])
        names = [name for name in _OF_NEW_MACHINE if not (own and name == "ram_size")]
        refuse_idle(ctx, names, "--load goes on from a snapshot, which has its own")
    if given["dump_dtb"] is not None:
        refuse_idle(ctx, _OF_RUN, "--dump-dtb ends before the machine runs")
    if not given["deterministic"]:
        refuse_idle(ctx, ["seed"], "without --deterministic, randomness is the host's")


def _has_ram(path: Path, size: int) -> bool:
    """Whether the snapshot at ``path`` is of a machine with ``size`` bytes of RAM."""
    from emu.debug.snapshot import snapshot

    try:
        return snapshot.ram_size_of(path) == size
    except snapshot.SnapshotError:  # told when it is loaded
        return False


def register(main: click.Group) -> None:
    """Add the command to ``main``."""
    main.add_command(boot)
