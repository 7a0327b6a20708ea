"""The file that the user has named: a path, sources to compile, or a guest by its name.

A name without a slash is a file in the current folder, else a guest that comes with pagewalk,
or one that `pagewalk fetch` has brought. `run` and `boot` find it here alike; what each has no
use for, `guest.image.names` tells from the file's first bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from guest.boot.outcome import UsageError
from guest.image import names
from guest.image.elf import ElfError

if TYPE_CHECKING:  # imported by those who ask for what was fetched
    from guest.distro.fetch import Guests

RUN, BOOT = "run", "boot"  # the commands
_NOUN = {RUN: "program", BOOT: "kernel"}
_LIBC_HEADER = re.compile(
    r"'(assert|ctype|errno|math|stdio|stdlib|string|time|unistd)\.h' file not"
)
_NO_LIBC = """
there is no C library here: include <pagewalk/user.h>, or build a static program and run that:
python -m ziglang cc --target=riscv64-linux-musl -static prog.c -o prog"""
_NO_MAIN = "\na program has a main, a kernel module says module_init"


@dataclass(frozen=True)
class Found:
    """``name``: as it was typed; ``path``: the file; ``compiled``: the ELF made of it, None for
    a file that is used as it is."""

    name: str
    path: Path
    compiled: bytes | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """What messages call it: sources by what was typed, a file by its path."""
        return str(self.path) if self.compiled is None else self.name


def find(
    name: str,
    command: str,
    machine: str | None = None,
    in_m_mode: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Found:
    """What ``name`` means to ``command``: RUN or BOOT.

    ``machine``: the one asked for, which sources are compiled for; ``in_m_mode``: whether the
    guest begins there. ``say`` is told, a line, where a folder might have been meant.
    Raises UsageError.
    """
    if not name:
        raise UsageError(f"the {_NOUN[command]}'s name is empty")
    path = Path(name)
    known = names.shipped_guest(name)
    fetched = command == BOOT and name in names.FETCHED
    if path.is_file() or (path.exists() and not fetched and known is None):
        try:
            return _of_path(path, name, command, machine)
        except (UsageError, ElfError) as e:
            raise UsageError(f"{e}{names.hides(name, command)}") from None
    if command == BOOT and path.exists():  # a changed copy of the tiny kernel may have its name
        say(f"{name}: the one that comes with pagewalk; for the folder give ./{name}")
    if fetched:
        guests = fetched_guests()
        return Found(name, Path(guests.kernel if name == "linux" else guests.uboot))
    if known is None:
        raise UsageError(_no_such(name, command))
    if command == BOOT and (why := names.shipped_not_to_boot(known, name, in_m_mode)):
        raise UsageError(why)
    return Found(name, known)


def fetched_guests() -> Guests:
    """What `pagewalk fetch` has brought. Raises UsageError when it has not."""
    from guest.distro.fetch import FetchError, guests

    try:
        return guests(fetch=False)
    except FetchError as e:
        raise UsageError(str(e)) from None


def _of_path(path: Path, name: str, command: str, machine: str | None) -> Found:
    from guest import build

    is_source = path.suffix in build.SOURCE_SUFFIXES and path.is_file()
    if is_source or (command == BOOT and path.is_dir()):
        try:
            return Found(name, path, build.compiled(path, machine))
        except build.BuildError as e:
            raise UsageError(_build_error(str(e), path, name, command)) from None
        except OSError as e:
            raise UsageError(f"{name}: {e.strerror or e}") from None
    not_to = names.not_to_boot if command == BOOT else names.not_to_run
    if why := not_to(path, name):
        raise UsageError(why)
    return Found(name, path)


def _build_error(text: str, path: Path, name: str, command: str) -> str:
    """A compiler's messages behind the file's name, and what else a program might be."""
    hint = ""
    if command == RUN:
        hint = _NO_LIBC if _LIBC_HEADER.search(text) else ""
        hint += _NO_MAIN if "undefined symbol: main\n" in text else ""
    text = text.removeprefix(f"{path}: ")
    return (text if text.startswith(f"{name}:") else f"{name}: {text}") + hint


def _no_such(name: str, command: str) -> str:
    near = names.near(name, command)
    if command == BOOT:
        return (
            f"{name}: no such file{near}; by name there are "
            f"{', '.join(names.FETCHED)} (pagewalk fetch) and the guests of pagewalk list"
        )
    if name in names.FETCHED:
        return f"{name}: a kernel of pagewalk fetch, for the whole board: pagewalk boot {name}"
    if "/" in name or Path(name).suffix:
        return f"{name}: no such file{near}"
    what = "no guest" if name.startswith(names.PREFIX) else "no such file, and no guest"
    return f"{name}: {what} of that name{near} (pagewalk list)"
