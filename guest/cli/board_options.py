"""The options of `pagewalk boot` that say what is booted, and how the board is run.

@board_options
@session_options
def boot(..., board: BootOptions, session: SessionOptions, ...):
    booted = prepare(replace(board, kernel=path))
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from emu.board.memory_map import VIRTIO
from emu.hart import HartOptions
from guest.boot.boot import BIOS_PYTHON, BootOptions, Disk
from guest.boot.outcome import UsageError
from guest.boot.session import SessionOptions
from guest.cli.hart_options import hart_options
from guest.cli.kit import SizeParameter, timeout_option

RAM_SIZE_DEFAULT = 256 << 20  # bytes


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


# In the order of the help.
_OF_BOARD = (
    click.option(
        "--bios",
        default=BIOS_PYTHON,
        show_default=True,
        metavar="FILE|python|none|opensbi",
        help="M-mode firmware (gets fw_dynamic info in a2); python: the SBI answered by "
        "pagewalk; none: KERNEL begins in M-mode; opensbi: the fetched one.",
    ),
    click.option(
        "--initrd", type=click.Path(path_type=Path), metavar="FILE", help="Initial RAM disk."
    ),
    click.option(
        "--disk",
        "disks",
        type=DiskParameter(),
        metavar=DiskParameter.name,
        multiple=True,
        help="A raw image as virtio block device: cow (default) keeps writes in memory, ro "
        "refuses them; the file is never written. bus=N puts it into slot N, QEMU's "
        "virtio-mmio-bus.N (0 is at 0x10001000), else the last free one is taken. May be repeated.",
    ),
    click.option(
        "--virtio-legacy",
        is_flag=True,
        help="virtio devices of version 1, QEMU's default, which many small kernels want; "
        "else of version 2.",
    ),
    click.option(
        "--append",
        metavar="TEXT",
        help="The kernel's command line. Default for linux: console=ttyS0.",
    ),
    click.option(
        "--dtb",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Your device tree, extended with --append, --initrd and the RAM there is.",
    ),
    click.option(
        "--ram",
        "ram_size",
        type=SizeParameter(),
        default=RAM_SIZE_DEFAULT,
        show_default="256M",
        help="RAM.",
    ),
    click.option(
        "--deterministic",
        is_flag=True,
        help="Time is the guest's own progress: two runs are the same to the bit.",
    ),
    click.option(
        "--seed", type=int, default=0, show_default=True, help="Randomness with --deterministic."
    ),
    click.option(
        "--symbols",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="System.map, nm output or a guest's /proc/kallsyms: names for traces and faults.",
    ),
)


def board_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command what the board is made of; it gets that as ``board``, a `BootOptions`.

    The kernel is not in it yet, and ``bios`` is the word that was typed.
    """

    @hart_options
    @functools.wraps(command)
    def with_options(
        *args: Any,
        bios: str,
        initrd: Path | None,
        disks: tuple[Disk, ...],
        virtio_legacy: bool,
        append: str | None,
        dtb: Path | None,
        ram_size: int,
        deterministic: bool,
        seed: int,
        symbols: Path | None,
        hart: HartOptions,
        **kw: Any,
    ) -> Any:
        board = BootOptions(
            bios=bios,
            initrd=initrd,
            disks=disks,
            virtio_legacy=virtio_legacy,
            append=append,
            dtb=dtb,
            ram_size=ram_size,
            deterministic=deterministic,
            seed=seed,
            symbols=symbols,
            hart=hart,
        )
        return command(*args, board=board, **kw)

    return functools.reduce(lambda made, option: option(made), reversed(_OF_BOARD), with_options)


def session_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command how the board is run; it gets that as ``session``, a `SessionOptions`."""

    @timeout_option
    @click.option(
        "--no-reboot",
        is_flag=True,
        help="A reset that the guest asks for ends the machine; else it begins anew, with the "
        "images read again.",
    )
    @click.option(
        "--gdb",
        "gdb_port",
        type=click.IntRange(0, 65535),
        metavar="PORT",
        help="Wait for gdb (target remote :PORT) before the first instruction; 0 picks a port.",
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
    @functools.wraps(command)
    def with_options(
        *args: Any,
        timeout: float | None,
        no_reboot: bool,
        gdb_port: int | None,
        save: Path | None,
        core: Path | None,
        **kw: Any,
    ) -> Any:
        session = SessionOptions(timeout, not no_reboot, gdb_port, save, core)
        return command(*args, session=session, **kw)

    return with_options
