"""Compiling guest code with ziglang (clang and lld for RISC-V in one wheel).

What we ship is compiled when the package is built and lies in ``guest/built``; a user's C
file is compiled when it is run, which needs the extra ``compile``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILT = HERE / "built"
INCLUDE = HERE / "include"
RUNTIME = HERE / "runtime"
FIRMWARE = HERE.parent / "firmware"

SOURCE_SUFFIXES = (".c", ".S", ".s")

_TARGET = ["--target=riscv64-freestanding-none", "-mabi=lp64d"]
_CPU = "-mcpu=generic_rv64+m+a+f+d+c+zicsr+zifencei"
_C_FLAGS = [
    *("-std=gnu17", "-O2", "-g", "-Wall", "-Wextra", "-Wno-unused-parameter"),
    *("-ffreestanding", "-fno-builtin", "-fno-stack-protector", "-fno-sanitize=all"),
    *("-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fomit-frame-pointer"),
    *("-msmall-data-limit=0", "-mno-relax"),
]


class BuildError(Exception):
    """The compiler or linker refused; the text is what it said."""


@dataclass(frozen=True)
class Kind:
    """How one kind of guest is made: runtime sources, linker script or flags."""

    name: str
    runtime: tuple[str, ...]
    compile: tuple[str, ...]
    link: tuple[str, ...]


PROGRAM = Kind(
    "program",
    ("user_start.S", "user.c", "format.c", "memory.c"),
    ("-mcmodel=medany", "-fno-pic"),
    ("-T", str(RUNTIME / "program.ld")),
)
# Linked position-independent: the loader applies relative relocations, and nothing else.
MODULE = Kind(
    "module",
    ("module.c", "format.c", "memory.c"),
    ("-mcmodel=medany", "-fPIC", "-fvisibility=hidden"),
    (
        *("-pie", "--no-dynamic-linker", "-e", "init_module", "-T"),
        str(RUNTIME / "module.ld"),
    ),
)
BARE = Kind(
    "bare",
    ("bare_start.S", "memory.c"),
    ("-mcmodel=medany", "-fno-pic"),
    ("--defsym", "BASE=0x80000000", "-T", str(RUNTIME / "bare.ld")),
)
# An S-mode kernel over the SBI, entered by firmware.
SUPERVISOR = Kind(
    "supervisor",
    ("supervisor_start.S", "supervisor.c", "format.c", "memory.c"),
    ("-mcmodel=medany", "-fno-pic"),
    ("--defsym", "BASE=0x80200000", "-T", str(RUNTIME / "bare.ld")),
)
# The machines by their `--machine` names, for the sources that do not say what they are.
KIND_OF_MACHINE = {"bare": BARE, "firmware": SUPERVISOR}
# Folders of sources that are shipped compiled: kind, folder, suffix of the ELF.
SHIPPED = (
    (PROGRAM, "programs", ".elf"),
    (MODULE, "modules", ".ko"),
    (BARE, "bare", ".elf"),
    (SUPERVISOR, "supervisor", ".elf"),
)


def have_compiler() -> bool:
    """Whether ziglang is installed."""
    return importlib.util.find_spec("ziglang") is not None


def _zig(*args: str) -> None:
    if not have_compiler():
        raise BuildError(
            "compiling needs ziglang, which is not installed: pip install 'pagewalk[compile]'"
        )
    command = [sys.executable, "-m", "ziglang", *args]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError((done.stderr or done.stdout).strip())


def compile_object(source: Path, output: Path, flags: tuple[str, ...] = ()) -> None:
    """Compile one C or assembly file. Raises BuildError."""
    language = _C_FLAGS if source.suffix == ".c" else ["-mno-relax"]
    # A path relative to nothing of this machine: builds in two places are the same.
    prefix = f"-ffile-prefix-map={source.parent}=."
    includes = [f"-I{INCLUDE}", f"-I{BUILT / 'include'}", f"-I{RUNTIME}"]
    name = str(source)
    _zig(
        *("cc", *_TARGET, _CPU, *language, *flags, prefix, *includes),
        *("-c", "-o", str(output), f"./{name}" if name.startswith("-") else name),
    )


def link(objects: list[Path], output: Path, flags: tuple[str, ...]) -> None:
    """Link objects into an ELF whose segments start on 4 KiB pages. Raises BuildError."""
    common = ("-m", "elf64lriscv", "-z", "max-page-size=4096", "-z", "noexecstack")
    _zig("ld.lld", *common, *flags, "-o", str(output), *map(str, objects))


def build(kind: Kind, sources: list[Path], output: Path, scratch: Path) -> None:
    """Make one guest of ``kind``, with objects in ``scratch``, where those of the runtime
    are used again. Raises BuildError."""
    output.parent.mkdir(parents=True, exist_ok=True)
    objects = []
    runtime = [] if _has_own_start(kind, sources) else [RUNTIME / name for name in kind.runtime]
    for source in (*sources, *runtime):
        shared = source.parent == RUNTIME
        folder = scratch / (f"{kind.name}-runtime" if shared else f"{kind.name}-{output.stem}")
        folder.mkdir(parents=True, exist_ok=True)
        made = folder / (source.name + ".o")
        if not (shared and made.exists()):
            compile_object(source, made, kind.compile)
        objects.append(made)
    link(objects, output, kind.link)


def _has_own_start(kind: Kind, sources: list[Path]) -> bool:
    """Whether a program brings its own `_start`, as assembly does."""
    return kind is not MODULE and any(source.suffix in (".S", ".s") for source in sources)


def kind_of_source(text: str) -> Kind:
    """What a C file is: a module when it says `module_init`, else a U-mode program."""
    return MODULE if "module_init" in text else PROGRAM


def compile_user_file(source: Path, folder: Path, machine: str | None = None) -> Path:
    """Compile a user's C or assembly file into ``folder`` for a machine; the ELF's path.

    Raises BuildError with the compiler's message.
    """
    text = source.read_text(errors="replace")
    kind = KIND_OF_MACHINE.get(machine or "") or kind_of_source(text)
    output = folder / (source.stem + (".ko" if kind is MODULE else ".elf"))
    build(kind, [source], output, folder)
    return output


def _build_code(name: str, source: Path, base: int, scratch: Path) -> None:
    """A few instructions as a flat binary: firmware and reset code."""
    made = scratch / f"{name}.o"
    compile_object(source, made)
    script = ("--defsym", f"BASE={base:#x}", "-T", str(FIRMWARE / "rom.ld"))
    link([made], BUILT / f"{name}.bin", ("--oformat", "binary", *script))


def write_headers() -> None:
    """The generated headers."""
    from guest.abi import c_header as abi_header
    from mm.header import c_header as mm_header

    folder = BUILT / "include" / "pagewalk"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "abi.h").write_text(abi_header())
    (folder / "mm_types.h").write_text(mm_header())


def build_all() -> None:
    """Everything that the package ships. Raises BuildError."""
    with tempfile.TemporaryDirectory(prefix="pagewalk-build-") as name:
        scratch = Path(name)
        # zig's cache would go to the home directory, which a build must not touch.
        os.environ.setdefault("ZIG_GLOBAL_CACHE_DIR", str(scratch / "cache"))
        os.environ.setdefault("ZIG_LOCAL_CACHE_DIR", str(scratch / "cache"))
        shutil.rmtree(BUILT, ignore_errors=True)
        write_headers()
        _build_code("reset", FIRMWARE / "reset.S", 0x1000, scratch)
        _build_code("start", FIRMWARE / "start.S", 0x8000_0000, scratch)
        head = scratch / "head.o"
        compile_object(RUNTIME / "head.S", head)
        link([head], BUILT / "head.elf", ("-T", str(RUNTIME / "head.ld")))
        for kind, folder, suffix in SHIPPED:
            for source in sorted((HERE / folder).iterdir()):
                if source.suffix in SOURCE_SUFFIXES:
                    output = BUILT / folder / (source.stem + suffix)
                    build(kind, [source], output, scratch)


if __name__ == "__main__":
    build_all()
