"""The distribution's guests for tests that boot them, and QEMU to compare with.

    def test_linux() -> None:
        guests = guests_or_skip()

They are fetched once, into the user's own cache, by the first test that wants them; a
machine that cannot get them skips such tests, and says why.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest
from watchdog import watchdog

from guest.distro.boot_disk import find_mke2fs, make_boot_disk
from guest.distro.fetch import FetchError, Guests, guests
from guest.distro.initramfs import make_initramfs, write_atomically

QEMU = "qemu-system-riscv64"
RAM_SIZE = 256 << 20  # bytes


def guests_or_skip() -> Guests:
    """The guests, with their initramfs made; skips the test where they cannot be had."""
    found = _guests()
    if isinstance(found, str):
        pytest.skip(f"no guests: {found}")
    return found


@cache
def _guests() -> Guests | str:
    # Of several workers of pytest-xdist one fetches, for guests() has a lock; where that
    # fails, the others are not to try again, each after the other.
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    told = Path(tempfile.gettempdir()) / f"pagewalk-no-guests-{run}"
    if run and told.exists():
        return told.read_text()
    try:
        with watchdog().looks_away():  # while others fetch, or the network is slow
            found = guests()
        write_atomically(found.initramfs, make_initramfs(found))
    except (FetchError, OSError) as e:
        if run:
            told.write_text(str(e))
        return str(e)
    return found


def boot_disk_or_skip(path: Path) -> Path:
    """A disk at ``path`` from which U-Boot boots Linux; skips the test without mke2fs."""
    found = guests_or_skip()
    if find_mke2fs() is None:
        pytest.skip("no mke2fs on this machine")
    make_boot_disk(found, path)
    return path


def pattern_disk(path: Path, size_mib: int = 4, seed: int = 1) -> bytes:
    """Write a raw disk of bytes that look random and are always the same; the bytes."""
    data = random.Random(seed).randbytes(size_mib << 20)
    path.write_bytes(data)
    return data


def qemu_or_skip(
    kernel: Path, *, initrd: Path | None = None, disk: Path | None = None
) -> list[str]:
    """QEMU's command line for the board, with RAM_SIZE bytes; skips the test without QEMU."""
    if shutil.which(QEMU) is None:
        pytest.skip(f"no {QEMU} on this machine")
    command = [QEMU, "-machine", "virt", "-m", str(RAM_SIZE >> 20), "-nographic"]
    command += ["-kernel", str(kernel)]
    if initrd is not None:
        command += ["-initrd", str(initrd)]
    if disk is not None:
        command += ["-drive", f"file={disk},if=none,format=raw,id=d"]
        command += ["-device", "virtio-blk-device,drive=d"]
        command += ["-global", "virtio-mmio.force-legacy=false"]
    return command
