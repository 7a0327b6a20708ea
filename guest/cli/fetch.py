"""`pagewalk fetch`: gets the guests, makes the initramfs, and says what to type next."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from pathlib import Path

import click

from guest.cli.kit import json_option
from guest.distro.boot_disk import DiskError, make_boot_disk
from guest.distro.fetch import FetchError, Guests, guests
from guest.distro.initramfs import InitramfsError, make_initramfs, write_atomically

_SECONDS_BETWEEN = 5.0  # two lines of one step, where lines stay


class _Progress:
    """On standard error: a line that is rewritten on a terminal; else a line now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown_at = 0.0
        self._on_line = False

    def __call__(self, text: str, percent: float | None) -> None:
        now = time.monotonic()
        line = text if percent is None else f"{text} {percent:3.0f} %"
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            click.echo(f"\r{line[-width:]}\x1b[K", nl=False, err=True)
            self._on_line = True
        elif percent is None or now - self._shown_at > _SECONDS_BETWEEN:
            click.echo(line, err=True)
            self._shown_at = now

    def end(self) -> None:
        if self._on_line:
            click.echo("\r\x1b[K", nl=False, err=True)


def _is_there() -> bool:
    try:
        guests(fetch=False)
    except FetchError:
        return False
    return True


@click.command("fetch")
@click.option("--force", is_flag=True, help="Fetch the newest, though there is a set.")
@click.option(
    "--source",
    default="",
    metavar="'deb URI SUITE main'",
    help="A Debian archive, as a line of sources.list(5), in place of the machine's own.",
)
@click.option(
    "--initramfs",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the initramfs there too.",
)
@click.option(
    "--disk",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Make a disk there from which U-Boot boots Linux (needs mke2fs).",
)
@json_option
@click.pass_context
def fetch_command(
    ctx: click.Context,
    force: bool,
    source: str,
    initramfs: Path | None,
    disk: Path | None,
    as_json: bool,
) -> None:
    """Fetch OpenSBI, U-Boot, Linux and BusyBox for `pagewalk boot`.

    They are Debian's packages for riscv64, by way of this machine's apt: nothing of the
    system is changed, and root is not needed. They lie in $PAGEWALK_GUESTS, by default
    ~/.cache/pagewalk/guests. Done once; later runs only say where they are.
    """
    if source and not force and _is_there():
        raise click.UsageError("--source: there is a set of guests; --force fetches another")
    progress = _Progress()
    try:
        found = guests(force=force, source=source, progress=progress)
        data = make_initramfs(found)
        for path in (found.initramfs, *([initramfs] if initramfs else [])):
            write_atomically(path, data)
        if disk is not None:
            progress(f"making {disk}", None)
            make_boot_disk(found, disk)
    except (FetchError, InitramfsError, DiskError) as e:
        progress.end()
        click.echo(f"pagewalk: {e}", err=True)
        ctx.exit(2)
    except OSError as e:
        progress.end()
        click.echo(f"pagewalk: {e.filename}: {e.strerror or e}", err=True)
        ctx.exit(2)
    except KeyboardInterrupt:
        progress.end()
        click.echo("pagewalk: interrupted; what came whole is kept for the next time", err=True)
        ctx.exit(130)
    progress.end()
    _tell(found, disk, as_json)


def _tell(found: Guests, disk: Path | None, as_json: bool) -> None:
    paths = {
        "kernel": found.kernel,
        "initramfs": found.initramfs,
        "opensbi_jump": found.opensbi_jump,
        "opensbi_dynamic": found.opensbi_dynamic,
        "uboot": found.uboot,
        "uboot_elf": found.uboot_elf,
        "busybox": found.busybox,
    }
    if disk is not None:
        paths["disk"] = disk.absolute()
    if as_json:
        told = {"version": found.version, "packages": dict(found.packages)}
        told |= {name: str(path) for name, path in paths.items()}
        click.echo(json.dumps(told | {"modules": [str(path) for path in found.modules]}, indent=2))
        return
    for name, path in paths.items():
        click.echo(f"{name:16}{path}")
    click.echo(f"{'modules':16}{' '.join(path.stem for path in found.modules)}")
    click.echo(f"{'packages':16}" + ", ".join(f"{n} {v}" for n, v in found.packages.items()))
    kernel, initrd = shlex.quote(str(found.kernel)), shlex.quote(str(found.initramfs))
    click.echo(f"\nLinux {found.version} to a shell:\n  pagewalk boot {kernel} --initrd {initrd}")
    if disk is not None:
        bios, uboot = shlex.quote(str(found.opensbi_dynamic)), shlex.quote(str(found.uboot))
        command = f"pagewalk boot {uboot} --bios {bios} --disk {shlex.quote(str(disk))}"
        click.echo(f"OpenSBI, U-Boot, and Linux from the disk:\n  {command}")


def register(main: click.Group) -> None:
    """Add `fetch` to the command line."""
    main.add_command(fetch_command)
