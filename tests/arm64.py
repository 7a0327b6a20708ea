"""The direct way on aarch64 Linux, from a machine of another kind: ``python tests/arm64.py``.

Debian's arm64 Python and its libraries are unpacked into a folder, the aarch64 wheels that the
project needs beside them, and `qemu-aarch64 -L` runs that Python on a copy of this checkout with
the engine's C built for it: `pagewalk run hello`, and a part of the suite. Nothing is installed.

The status is 77, and a line says why, where this cannot be done: no apt, no qemu-aarch64, nothing
to be downloaded. 0 is success, 1 a failure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QEMU = "qemu-aarch64"
SKIPPED = 77
SECONDS_MAX = 900  # for each command
PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
# Of the extra `test`, what runs tests; zig is this machine's, see `_lend_zig`.
TEST_PACKAGES = ("pytest", "hypothesis", "fdt")
TESTS = (
    "tests/emu/test_engine_layout.py",
    "tests/emu/test_native.py",
    "tests/emu/test_plain_engine.py",
    "tests/emu/test_csr_repairs.py",
    "tests/emu/test_shared_interrupts.py",
    "tests/emu/test_sstc.py",
    "tests/emu/test_exact_walk.py",
    "tests/emu/test_bare_stores.py",
    "tests/emu/test_hart.py",
    "tests/emu/test_interrupts.py",
)
IS_DIRECT = """
import platform
from emu.hart import Hart
from emu.ram import Ram
hart = Hart(Ram(1 << 20))
print(platform.machine(), hart.access.name, *hart.access.missing)
assert hart.access.in_place
"""


class Skip(Exception):
    """It cannot be done here; the text says why."""


class Failed(Exception):
    """What was tried did not work."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Run on aarch64 Linux by qemu-aarch64.")
    parser.add_argument("--folder", type=Path, help="kept, and used again (default: a new one)")
    parser.add_argument("tests", nargs="*", default=TESTS, help="for pytest")
    options = parser.parse_args()
    try:
        if options.folder is not None:
            _go(options.folder.resolve(), options.tests)
        else:
            with tempfile.TemporaryDirectory(prefix="pagewalk-arm64-") as folder:
                _go(Path(folder), options.tests)
    except Skip as e:
        print(f"arm64: skipped: {e}")
        return SKIPPED
    except Failed as e:
        print(f"arm64: {e}")
        return 1
    return 0


def _go(folder: Path, tests: Sequence[str]) -> None:
    for tool in (QEMU, "apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise Skip(f"there is no {tool}")
    system, site, tree = folder / "system", folder / "site", folder / "tree"
    if not system.exists():
        _unpack_system(folder, system)
    python = next(system.glob("usr/bin/python3.*[0-9]"))
    if not site.exists():
        _unpack_wheels(site, python.name.removeprefix("python"))
        _lend_zig(site)
    _copy_checkout(tree)
    command = _command(folder / "python", system, python)
    environment = {**os.environ, "PYTHONPATH": f"{site}:{tree}", "PYTHONDONTWRITEBYTECODE": "1"}
    for name, arguments in (
        ("the direct way", ["-c", IS_DIRECT]),
        ("pagewalk run hello", ["-m", "guest.cli.main", "run", "hello"]),
        ("tests", ["-m", "pytest", "-o", "addopts=-q -rs", "-m", "not slow", *tests]),
    ):
        print(f"arm64: {name}", flush=True)
        try:
            done = subprocess.run(
                [command, *arguments], cwd=tree, env=environment, timeout=SECONDS_MAX
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{name}: no end after {SECONDS_MAX} s") from None
        if done.returncode:
            raise Failed(f"{name}: status {done.returncode}")


def _command(command: Path, system: Path, python: Path) -> Path:
    """A program that is that Python. For Python, too: what it starts may be itself."""
    start = f"PYTHONHOME='{system}/usr' exec {QEMU} -L '{system}' -0 \"$0\" '{python}' \"$@\""
    command.write_text(f"#!/bin/sh\n{start}\n")
    command.chmod(0o755)
    return command


def _try(what: str, command: Sequence[str | Path]) -> None:
    """Raises Skip with the last line that the command said."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS_MAX
    )
    if done.returncode:
        last = (done.stdout.strip().splitlines() or ["it said nothing"])[-1]
        raise Skip(f"{what}: {last}")


def _unpack_system(folder: Path, system: Path) -> None:
    """Debian's arm64 packages, by apt with a state of its own: this machine's is not touched."""
    apt = folder / "apt"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
    }
    command = ["apt-get", "-q", "-y"]
    for name, value in options.items():
        command += ["-o", f"{name}={value}"]
    _try("apt-get update for arm64", [*command, "update"])
    install = ["install", "--no-install-recommends", "--download-only", *PACKAGES]
    _try("Debian's arm64 Python", [*command, *install])
    new = system.with_suffix(".new")
    for package in sorted(apt.glob("cache/archives/*.deb")):
        _try(package.name, ["dpkg-deb", "-x", package, new])
    new.rename(system)


def _unpack_wheels(site: Path, version: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tests = [
        wanted
        for wanted in project["optional-dependencies"]["test"]
        if wanted.startswith(TEST_PACKAGES) and not wanted.startswith("pytest-")
    ]
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-compile"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", version]
    for tag in (
        "manylinux2014_aarch64",
        "manylinux_2_17_aarch64",
        "manylinux_2_27_aarch64",
        "manylinux_2_28_aarch64",
    ):
        command += ["--platform", tag]
    new = site.with_suffix(".new")
    _try("the aarch64 wheels", [*command, "--target", str(new), *project["dependencies"], *tests])
    new.rename(site)


def _lend_zig(site: Path) -> None:
    """zig makes RISC-V code, on whatever it runs: qemu gives a program of this machine's to it."""
    try:
        import ziglang
    except ImportError:
        raise Skip("ziglang is not installed") from None
    zig = Path(ziglang.__file__).parent / "zig"
    (site / "ziglang").mkdir()
    (site / "ziglang" / "__init__.py").touch()
    (site / "ziglang" / "__main__.py").write_text(
        f"import os, sys\nos.execv({str(zig)!r}, ['zig', *sys.argv[1:]])\n"
    )


def _copy_checkout(tree: Path) -> None:
    """The files of the checkout, with the engine's C for aarch64."""
    sys.path.insert(0, str(ROOT))
    from emu.engine.build import LIBRARY, build

    if tree.exists():
        shutil.rmtree(tree)
    ignore = shutil.ignore_patterns(".*", "__pycache__")
    shutil.copytree(ROOT, tree, ignore=ignore, symlinks=True)
    build("aarch64-linux", tree / LIBRARY.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
