"""`pagewalk boot`: the command line of `guest.boot.boot`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from emu.board.memory_map import VIRTIO
from emu.stop import ORDERLY, Stop, StopReason
from guest.boot import session as boot_session
from guest.boot.boot import BIOS_PYTHON, BootOptions, Disk, prepare, resume
from guest.boot.console import write_bytes
from guest.boot.find import complete_linux, find_bios, find_kernel
from guest.boot.outcome import EXIT_WFI, Outcome, UsageError, describe
from guest.boot.terminal import Output
from guest.cli.hart_options import hart_options
from guest.cli.kit import SizeParameter, print_json, refuse_idle, timeout_option
from guest.cli.trace_options import TraceRequest, trace_options

RAM_SIZE_DEFAULT = 256 << 20  # bytes
_KEPT_SIZE = 16 << 20  # bytes of the console's text in --json


class DiskParameter(click.ParamType[Disk]):
    """FILE, then ro or cow and bus=N in either order.

    Each is taken once, from the end; what stands before is the file's name, commas and all.
    """

    name = "FILE[,ro|,cow][,bus=N]"

    def convert(self, value: Any, param: Any, ctx: Any) -> Disk:
        if isinstance(value, Disk):
            return value
        mode = slot = None
        while True:
            file, comma, word = value.rpartition(",")
            if comma and mode is None and word in ("ro", "cow"):
                mode = word
            elif comma and slot is None and word.startswith("bus="):
                slot = self._slot(word)
            else:
                return Disk(Path(value), mode or "cow", slot)
            value = file

    def _slot(self, word: str) -> int:
        slots = {f"bus={number}": number for number in range(len(VIRTIO))}
        if word not in slots:
            raise UsageError(
                f"--disk: {word}: the slots are bus=0 to bus={len(VIRTIO) - 1}, QEMU's "
                "virtio-mmio-bus.N"
            )
        return slots[word]


def register(main: click.Group) -> None:
    """Add the command to ``main``."""

    @main.command()
    @click.argument("kernel", required=False)
    @click.option(
        "--bios",
        default=BIOS_PYTHON,
        show_default=True,
        metavar="FILE|python|none|opensbi",
        help="M-mode firmware (gets fw_dynamic info in a2); python: the SBI answered by "
        "pagewalk; none: KERNEL begins in M-mode; opensbi: the fetched one.",
    )
    @click.option(
        "--initrd", type=click.Path(path_type=Path), metavar="FILE", help="Initial RAM disk."
    )
    @click.option(
        "--disk",
        "disks",
        type=DiskParameter(),
        metavar=DiskParameter.name,
        multiple=True,
        help="A raw image as virtio block device: cow (default) keeps writes in memory, ro "
        "refuses them; the file is never written. bus=N puts it into slot N, QEMU's "
        "virtio-mmio-bus.N (0 is at 0x10001000), else the last free one is taken. May be repeated.",
    )
    @click.option(
        "--virtio-legacy",
        is_flag=True,
        help="virtio devices of version 1, QEMU's default, which many small kernels want; "
        "else of version 2.",
    )
    @click.option(
        "--append",
        metavar="TEXT",
        help="The kernel's command line. Default for linux: console=ttyS0.",
    )
    @click.option(
        "--dtb",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Your device tree, extended with --append, --initrd and the RAM there is.",
    )
    @click.option(
        "--dump-dtb",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Write the device tree that the guest is given, and end.",
    )
    @click.option(
        "--ram",
        "ram_size",
        type=SizeParameter(),
        default=RAM_SIZE_DEFAULT,
        show_default="256M",
        help="RAM.",
    )
    @click.option(
        "--deterministic",
        is_flag=True,
        help="Time is the guest's own progress: two runs are the same to the bit.",
    )
    @click.option(
        "--seed", type=int, default=0, show_default=True, help="Randomness with --deterministic."
    )
    @timeout_option
    @click.option(
        "--no-reboot",
        is_flag=True,
        help="A reset that the guest asks for ends the machine; else it begins anew, with the "
        "images read again.",
    )
    @click.option(
        "--symbols",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="System.map, nm output or a guest's /proc/kallsyms: names for traces and faults.",
    )
    @click.option(
        "--gdb",
        "gdb_port",
        type=click.IntRange(0, 65535),
        metavar="PORT",
        help="Wait for gdb (target remote :PORT) before the first instruction; 0 picks a port.",
    )
    @click.option(
        "--load",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Go on from a snapshot: no KERNEL, but the same --disk options.",
    )
    @click.option(
        "--save",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Save a snapshot at the end (if the machine was stopped), and at Ctrl-A s.",
    )
    @click.option(
        "--core",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Write an ELF core for gdb at the end.",
    )
    @trace_options
    @hart_options
    @click.option(
        "--json", "as_json", is_flag=True, help="One JSON object, the console's text in it."
    )
    @click.pass_context
    def boot(ctx: click.Context, /, **given: Any) -> None:
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
        ctx.exit(_boot(**given))


def _boot(
    kernel: str | None,
    bios: str,
    disks: tuple[Disk, ...],
    no_reboot: bool,
    dump_dtb: Path | None,
    timeout: float | None,
    gdb_port: int | None,
    load: Path | None,
    save: Path | None,
    core: Path | None,
    trace: TraceRequest,
    as_json: bool,
    **plain: Any,
) -> int:
    for option, path in (("--save", save), ("--core", core)):
        if path is not None:
            _check_writable(option, path)
    console = _Kept()
    output = None if as_json else _standard_output()
    with contextlib.ExitStack() as open_things:
        path, data = (None, None) if kernel is None else find_kernel(kernel, bios)
        options = BootOptions(
            kernel=path,
            kernel_data=data,
            disks=disks,
            output=console.write if as_json else output.write if output else write_bytes,
            **plain,
        )
        options.bios = find_bios(bios)
        if kernel == "linux":
            complete_linux(options)
        booted = prepare(options) if load is None else resume(options, load)
        open_things.callback(booted.board.close)
        if dump_dtb is not None:
            try:
                dump_dtb.write_bytes(booted.dtb)
            except OSError as e:
                raise UsageError(f"--dump-dtb {dump_dtb}: {e.strerror or e}") from None
            return 0
        session = boot_session.Session(booted, save, gdb_port, output, not no_reboot)
        with trace, _time_limit(session, timeout):
            trace.attach(booted.board, booted.symbols)
            # A person would type blind.
            stop = session.run(with_input=not as_json or not os.isatty(0))
        outcome = describe(
            kernel or str(load or bios), "boot", booted.board.hart, stop, booted.symbols
        )
        if stop.reason is StopReason.INTERRUPTED and session.ended_by is not None:
            _say_who_ended_it(outcome, session.ended_by, timeout)
        outcome.notes += filter(None, [booted.virtio_note()])
        if save is not None and stop.reason in (StopReason.INTERRUPTED, StopReason.WFI):
            session.save()
        if core is not None:
            session.write_core(core)
    _show(outcome, stop, console, as_json)
    return outcome.status


class _Kept:
    """The console's last bytes, of a guest that may print without end.

    ``lost``: how many bytes have gone before ``data``.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self.lost = 0

    def write(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > 2 * _KEPT_SIZE:  # not each time: it moves what stays
            self.lost += len(self.data) - _KEPT_SIZE
            del self.data[:-_KEPT_SIZE]


def _standard_output() -> Output | None:
    try:
        return Output(sys.stdout.fileno())
    except OSError:  # somebody who calls us has put another object there
        return None


def _check_writable(option: str, path: Path) -> None:
    """Before the run that the file is to be made of. Raises UsageError."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{option} {path}: not a regular file")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise UsageError(f"{option} {path}: no such folder: {folder}")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{option} {path}: nothing can be written to {folder}")


# What makes a machine, or puts something into it, beside a snapshot that is one; and what is
# of the run, where none is to come.
_OF_NEW_MACHINE = (
    "kernel", "bios", "initrd", "append", "dtb", "dump_dtb", "ram_size", "deterministic", "seed",
)  # fmt: skip
_OF_RUN = (
    "timeout", "no_reboot", "symbols", "gdb_port", "save", "core", "trace", "access",
)  # fmt: skip


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


@contextlib.contextmanager
def _time_limit(session: boot_session.Session, seconds: float | None) -> Iterator[None]:
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, session.end, [boot_session.TIMEOUT])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _say_who_ended_it(outcome: Outcome, who: str, seconds: float | None) -> None:
    if who == boot_session.TIMEOUT:
        outcome.status = EXIT_WFI
        outcome.notes[:] = [f"{seconds:g} s are over, at {outcome.where}"]
    elif who == boot_session.ESCAPE:
        outcome.status = 0
        outcome.notes[:] = [f"ended by {who} at {outcome.where}"]
    elif who != signal.SIGINT.name:  # which `describe` has told of
        outcome.status = 128 + signal.Signals[who]
        outcome.notes[:] = [f"ended by {who} at {outcome.where}"]


def _show(outcome: Outcome, stop: Stop, console: _Kept, as_json: bool) -> None:
    if not as_json:
        if stop.detail and stop.reason in ORDERLY:
            outcome.notes.append(stop.detail)
        with contextlib.suppress(OSError):  # nobody is there: the status tells
            for text in filter(None, (*outcome.notes, outcome.explanation)):
                click.echo(f"pagewalk: {text}", err=True)
        return
    told = dataclasses.asdict(outcome)
    trap = told.pop("stop")["trap"]
    told |= {
        "exit": told.pop("status"),
        "reason": stop.reason.value,
        "detail": stop.detail,
        "console": console.data.decode("utf-8", "replace"),
        "console_lost": console.lost,
        "fault": None if trap is None else repr(trap),
    }
    print_json(told)
    sys.stdout.flush()
