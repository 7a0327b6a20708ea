"""An initramfs for the Linux guest: BusyBox, kernel modules, and an /init that gives a shell.

Its format is the kernel's "new ASCII" cpio (Documentation/driver-api/early-userspace/
buffer-format.rst): for each entry a header of 110 characters, the name with its NUL, and
the data, both filled up to four bytes; at the end an entry named TRAILER!!!. The same tree
gives the same bytes: entries are sorted, all times are 0, everything belongs to root.

    python -m guest.distro.initramfs -o FILE
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from emu.debug.atomic_file import replacing
from guest.distro import fetch
from guest.distro.fetch import Guests, module_depends

PROMPT = b"guest:/# "
"""What the shell writes when it waits for a command in the root directory."""
BANNER = b"pagewalk guest: Linux"
"""How the line begins that /init writes when user space is there."""

MODULES_AT = "lib/modules"

_INIT = """\
#!/bin/busybox sh
# The first process: what user space needs, then a shell; the machine goes off after it.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mount -t tmpfs tmpfs /tmp
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root TERM="${TERM:-linux}" PS1='guest:\\w# '
echo "BANNER $(uname -r) ($(uname -m)); modules: $(modules)"
echo "'modprobe -a virtio_mmio virtio_blk' finds disks; 'exit' or Ctrl-D ends the machine"
# The console is no terminal that can be controlled: cttyhack opens the one behind it, and
# with a session of its own the shell has job control and Ctrl-C.
setsid cttyhack sh
poweroff -f
while :; do sleep 60; done # the kernel panics when its first process ends
"""


class InitramfsError(ValueError):
    """A tree that is no file system, or that the format cannot hold."""


@dataclass(frozen=True)
class Entry:
    """One file: ``mode`` with its type as in stat(2); ``data``: bytes, or a link's target.

    ``device``: major and minor number of a device node.
    """

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(mode: int = 0o755) -> Entry:
    return Entry(stat.S_IFDIR | mode)


def file(data: bytes, mode: int = 0o644) -> Entry:
    return Entry(stat.S_IFREG | mode, data)


def link(target: str) -> Entry:
    return Entry(stat.S_IFLNK | 0o777, target.encode())


def character_device(major: int, minor: int, mode: int = 0o600) -> Entry:
    return Entry(stat.S_IFCHR | mode, device=(major, minor))


def cpio(tree: Mapping[str, Entry]) -> bytes:
    """The archive of ``tree``: path without a leading slash -> entry.

    Directories come before what is in them, as the kernel wants it, for it makes none of
    itself. Raises InitramfsError for a path that lies in nothing, or is not in plain form.
    """
    archive = bytearray()
    for number, path in enumerate(sorted(tree), 1):
        parts = path.split("/")
        if not all(part not in ("", ".", "..") and "\0" not in part for part in parts):
            raise InitramfsError(f"{path!r} is no path in an initramfs")
        parent = "/".join(parts[:-1])
        if parent and not (parent in tree and stat.S_ISDIR(tree[parent].mode)):
            raise InitramfsError(f"{path}: {parent} is no directory of the initramfs")
        _append(archive, path, number, tree[path])
    _append(archive, "TRAILER!!!", 0, Entry(0))
    return bytes(archive)


def _append(archive: bytearray, path: str, number: int, entry: Entry) -> None:
    name = os.fsencode(path) + b"\0"
    if len(entry.data) >= 1 << 32:
        raise InitramfsError(f"{path}: {len(entry.data)} bytes do not fit into a cpio archive")
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        *(number, entry.mode, 0, 0, links, 0, len(entry.data)),  # ... uid, gid, nlink, mtime, size
        *(0, 0, *entry.device, len(name), 0),  # its file system's device, its own, name, checksum
    )
    archive += b"070701" + b"".join(b"%08X" % field for field in fields)
    for data in (name, entry.data):
        archive += data
        archive += bytes(-len(archive) % 4)


def tree(guests: Guests) -> dict[str, Entry]:
    """The tree for these guests. Raises OSError when one cannot be read."""
    names = [path.stem for path in guests.modules]
    init = _INIT.replace("BANNER", BANNER.decode()).replace("$(modules)", " ".join(names))
    modules = f"{MODULES_AT}/{guests.version}"
    made = {path: directory() for path in ("bin", "dev", "lib", MODULES_AT, modules)}
    made |= {path: directory() for path in ("mnt", "proc", "root", "sys")}
    made |= {
        "tmp": directory(0o1777),
        "init": file(init.encode(), 0o755),
        "bin/busybox": file(guests.busybox.read_bytes(), 0o755),
        "bin/sh": link("busybox"),
        # The kernel opens it for /init before anything can be mounted.
        "dev/console": character_device(5, 1),
        "dev/null": character_device(1, 3, 0o666),
    }
    lines = []
    for path in guests.modules:
        data = path.read_bytes()
        made[f"{modules}/{path.name}"] = file(data)
        needed = " ".join(f"{name}.ko" for name in module_depends(data))
        lines.append(f"{path.name}: {needed}".rstrip())
    made[f"{modules}/modules.dep"] = file(("\n".join(lines) + "\n").encode())  # for modprobe
    return made


def make_initramfs(guests: Guests) -> bytes:
    """The initramfs of these guests. Raises OSError when one cannot be read."""
    return cpio(tree(guests))


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is there as a whole or not at all; one with the same bytes stays."""
    if path.is_file() and path.read_bytes() == data:
        return
    if path.exists() and not path.is_file():  # /dev/stdout and the like
        path.write_bytes(data)
        return
    with replacing(path) as new:
        new.write(data)


@click.command()
@click.option(
    *("-o", "--output"),
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="Where to write it.",
)
@click.pass_context
def main(ctx: click.Context, output: Path) -> None:
    """Make an initramfs of the guests that `pagewalk fetch` got."""
    try:
        write_atomically(output, make_initramfs(fetch.guests(fetch=False)))
    except fetch.FetchError as e:
        click.echo(f"pagewalk: {e}", err=True)
        ctx.exit(2)
    except OSError as e:
        click.echo(f"pagewalk: {e.filename or output}: {e.strerror or e}", err=True)
        ctx.exit(2)


if __name__ == "__main__":
    main(prog_name="python -m guest.distro.initramfs")
