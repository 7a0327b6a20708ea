"""Compiling `engine.c` for this host with ziglang, when the package is built.

``python -m emu.engine.build`` does it in a checkout. The library lies beside the source, in
``built``. It needs no Python and no libc, so one file serves every Python of a platform.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

from emu.spec import csr, words

HERE = Path(__file__).resolve().parent
LIBRARY = HERE / "built" / "engine.so"

_FLAGS = [
    *("-std=gnu17", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"),
    *("-shared", "-fPIC", "-nostdlib", "-fvisibility=hidden", "-fno-sanitize=all", "-s"),
]
_WORDS = ("PRIV", "MSTATUS", "SATP", "MEPC", "SEPC")
_FIELDS = ("MSTATUS_FS", "MSTATUS_XS", "MSTATUS_MPRV", "MSTATUS_SD", "SSTATUS_MASK")
_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
# By `sys.platform`: zig's target, and the tag of a wheel that holds the library.
_SYSTEMS = {
    "linux": ("{machine}-linux-gnu.2.17", "manylinux_2_17_{machine}"),
    "darwin": ("{machine}-macos", "macosx_11_0_{machine}"),
}


class BuildError(Exception):
    """The compiler refused; the text is what it said."""


def _target() -> tuple[str, str] | None:
    """zig's name for this host and the wheel's; None where Unicorn exports nothing to use."""
    machine = _MACHINES.get(platform.machine().lower())
    names = _SYSTEMS.get(sys.platform)
    if machine is None or names is None:
        return None
    wheel = "arm64" if (machine, sys.platform) == ("aarch64", "darwin") else machine
    return names[0].format(machine=machine), names[1].format(machine=wheel)


def wheel_platform() -> str:
    """The platform tag of a wheel that is built here."""
    target = _target()
    return "any" if target is None else target[1]


def _definitions() -> list[str]:
    numbers = {f"WORD_{name}": getattr(words, name) for name in _WORDS}
    numbers |= {name: getattr(csr, name) for name in _FIELDS}
    return [f"-D{name}={value:#x}ul" for name, value in numbers.items()]


def build() -> bool:
    """Compile the library; False where there is none to be had. Raises BuildError."""
    target = _target()
    if target is None:
        return False
    LIBRARY.parent.mkdir(exist_ok=True)
    scratch = LIBRARY.with_suffix(".new")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", target[0], *_FLAGS]
    command += [*_definitions(), "-o", str(scratch), str(HERE / "engine.c")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError((done.stderr or done.stdout).strip())
    scratch.replace(LIBRARY)  # in one step: a process that has it open keeps the old one
    return True


if __name__ == "__main__":
    build()
