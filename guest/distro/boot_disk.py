"""A disk from which U-Boot boots Linux: one partition with ext2, kernel and initramfs in /boot.

U-Boot finds /boot/extlinux/extlinux.conf by itself and boots what it says; it looks for it
in partitions only, so the disk has a table (an MBR) though it has nothing to divide.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

from guest import scratch
from guest.distro.fetch import Guests
from guest.distro.initramfs import make_initramfs

_EXTLINUX = """\
default linux
label linux
    kernel /boot/linux
    initrd /boot/initramfs.cpio
    append console=ttyS0
"""
_SECTOR = 512  # bytes
_FIRST_SECTOR = 2048  # where every tool lets a first partition begin: 1 MiB
_SPARE = 8 << 20  # bytes, beside the files


class DiskError(Exception):
    """The disk cannot be made; the text is one line that says why."""


def find_mke2fs() -> str | None:
    """mke2fs of e2fsprogs, which lies where a user's PATH may not lead."""
    return shutil.which("mke2fs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def make_boot_disk(guests: Guests, path: Path) -> None:
    """Write the disk, a raw image, to ``path``. Raises DiskError, OSError."""
    mke2fs = find_mke2fs()
    if mke2fs is None:
        raise DiskError("a disk needs mke2fs: install e2fsprogs")
    with scratch.folder("pagewalk-disk-") as work:
        root = work / "root"
        boot = root / "boot"
        (boot / "extlinux").mkdir(parents=True)
        shutil.copyfile(guests.kernel, boot / "linux")
        (boot / "initramfs.cpio").write_bytes(make_initramfs(guests))
        (boot / "extlinux" / "extlinux.conf").write_text(_EXTLINUX)
        used = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
        size_mib = (used + _SPARE + (1 << 20) - 1) >> 20
        image = work / "disk"
        # ext2: what U-Boot reads in every version, whatever mke2fs makes of ext4 by now.
        command = [mke2fs, "-q", "-F", "-t", "ext2", "-b", "4096", "-m", "0", "-d", str(root)]
        command += [str(image), f"{size_mib}M"]
        # Its configuration file can add features that U-Boot does not know.
        environ = os.environ | {"MKE2FS_CONFIG": os.devnull, "LC_ALL": "C"}
        made_it = subprocess.run(
            command, capture_output=True, text=True, env=environ, pass_fds=scratch.holders()
        )
        if made_it.returncode or not image.is_file():
            told = (made_it.stderr or made_it.stdout).strip().splitlines()
            raise DiskError(f"mke2fs: {told[-1] if told else 'failed without a word'}")
        try:
            with open(path, "wb") as disk, open(image, "rb") as partition:
                disk.write(partition_table(image.stat().st_size // _SECTOR))
                disk.seek(_FIRST_SECTOR * _SECTOR)
                shutil.copyfileobj(partition, disk, 1 << 20)
        except OSError as e:
            raise DiskError(f"{path}: {e.strerror or e}") from None


def partition_table(sectors: int) -> bytes:
    """The first sector of a disk with one bootable Linux partition of ``sectors``.

    At 446 four entries of 16 bytes: 0x80 for bootable, first sector in the old geometry (0xff:
    look at the new numbers), type 0x83, last sector, first sector and count; at 510 55 aa.
    """
    beyond = b"\xff\xff\xff"
    entry = struct.pack("<B3sB3sII", 0x80, beyond, 0x83, beyond, _FIRST_SECTOR, sectors)
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"
