"""What to boot, by the name that the user typed: a file, a shipped guest, a fetched one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from guest.boot.boot import BIOS_NONE, BIOS_PYTHON, BootOptions
from guest.boot.outcome import UsageError
from guest.boot.terminal import say

if TYPE_CHECKING:
    from guest.distro.fetch import Guests

OPENSBI = "opensbi"


def find_kernel(name: str, bios: str = BIOS_NONE) -> tuple[Path, bytes | None]:
    """The file for what the user typed; and the ELF, if that is C or assembly, a file or folder.

    ``bios``: the firmware, as the user named it. Raises UsageError.
    """
    from guest.image import names

    if not name:
        raise UsageError("the kernel's name is empty")
    path = Path(name)
    is_name = name in names.FETCHED or names.shipped_guest(name) is not None
    if path.is_file() or (path.exists() and not is_name):
        try:
            return path, _compiled_kernel(path, name)
        except UsageError as e:
            raise UsageError(f"{e}{names.hides(name, 'boot')}") from None
    if path.exists():  # a changed copy of the tiny kernel, for one, may have its name
        say(f"{name}: the one that comes with pagewalk; for the folder give ./{name}")
    if name in names.FETCHED:
        found = _fetched()
        return Path(found.kernel if name == "linux" else found.uboot), None
    known = names.shipped_guest(name)
    if known is not None:
        if why := names.shipped_not_to_boot(known, name, bios == BIOS_NONE):
            raise UsageError(why)
        return known, None
    raise UsageError(
        f"{name}: no such file{names.near(name, 'boot')}; by name there are "
        f"{', '.join(names.FETCHED)} (pagewalk fetch) and the guests of pagewalk list"
    )


def _compiled_kernel(path: Path, name: str) -> bytes | None:
    """The ELF of sources; None for a file that is to be booted as it is. Raises UsageError."""
    from guest import build
    from guest.image import names

    if not path.is_dir() and path.suffix not in build.SOURCE_SUFFIXES:
        if why := names.not_to_boot(path, name):
            raise UsageError(why)
        return None
    try:
        return build.compiled(path, "firmware")
    except build.BuildError as e:
        raise UsageError(f"{name}: {str(e).removeprefix(f'{path}: ')}") from None
    except OSError as e:
        raise UsageError(f"{name}: {e.strerror or e}") from None


def _fetched() -> Guests:
    from guest.distro.fetch import FetchError, guests

    try:
        return guests(fetch=False)
    except FetchError as e:
        raise UsageError(str(e)) from None


def find_bios(name: str) -> str | Path:
    """What `BootOptions.bios` is for the firmware that the user named. Raises UsageError."""
    if name in (BIOS_PYTHON, BIOS_NONE):
        return name
    if Path(name).exists():
        return Path(name)
    if name == OPENSBI:
        return Path(_fetched().opensbi_dynamic)
    from difflib import get_close_matches  # for this alone

    near = get_close_matches(name.lower(), (BIOS_PYTHON, BIOS_NONE, OPENSBI), 1)
    raise UsageError(
        f"--bios {name}: No such file or directory" + (f"; did you mean {near[0]}?" if near else "")
    )


def complete_linux(options: BootOptions) -> None:
    """What the fetched kernel needs and the user has not said."""
    from guest.distro.initramfs import make_initramfs

    if options.initrd is None:
        options.initrd_data = make_initramfs(_fetched())
    if options.append is None and options.dtb is None:
        options.append = "console=ttyS0"
