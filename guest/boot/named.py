"""What to boot, by the names that the user gave: kernel, firmware, and what those need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from guest.boot.boot import BIOS_NONE, BIOS_PYTHON, BootOptions
from guest.boot.find import BOOT, fetched_guests, find
from guest.boot.machines import FIRMWARE
from guest.boot.outcome import UsageError
from guest.boot.terminal import say

OPENSBI = "opensbi"


def named(options: BootOptions, kernel: str | None, bios: str = BIOS_PYTHON) -> BootOptions:
    """``options`` with the files of what is named.

    ``kernel``: a file, C or assembly (a file or a folder), a guest that comes with pagewalk, or
    a fetched one, which gets its initramfs and command line too; ``bios``: a file, "opensbi",
    or one of BIOS_PYTHON and BIOS_NONE. Raises UsageError.
    """
    if kernel is not None:
        found = find(kernel, BOOT, FIRMWARE, in_m_mode=bios == BIOS_NONE, say=say)
        options = replace(options, kernel=found.path, kernel_data=found.compiled)
    options = replace(options, bios=_find_bios(bios))
    return _with_initramfs(options) if kernel == "linux" else options


def _find_bios(name: str) -> str | Path:
    if name in (BIOS_PYTHON, BIOS_NONE):
        return name
    if Path(name).exists():
        return Path(name)
    if name == OPENSBI:
        return Path(fetched_guests().opensbi_dynamic)
    from difflib import get_close_matches  # for this alone

    near = get_close_matches(name.lower(), (BIOS_PYTHON, BIOS_NONE, OPENSBI), 1)
    raise UsageError(
        f"--bios {name}: No such file or directory" + (f"; did you mean {near[0]}?" if near else "")
    )


def _with_initramfs(options: BootOptions) -> BootOptions:
    """What the fetched kernel needs and the user has not said."""
    from guest.distro.initramfs import make_initramfs

    if options.initrd is None:
        options = replace(options, initrd_data=make_initramfs(fetched_guests()))
    if options.append is None and options.dtb is None:
        options = replace(options, append="console=ttyS0")
    return options
