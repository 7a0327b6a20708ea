"""Compiling guest code with ziglang (clang and lld for RISC-V in one wheel).

What we ship is compiled when the package is built and lies in ``guest/built``; a user's C
file is compiled when it is run, which needs the extra ``compile``.

A guest is one source file, or a folder of them with a linker script (``*.ld``): that is all
there is in it then, no runtime is added. ``python -m guest.build FOLDER OUTPUT`` makes the ELF
of such a folder, a changed copy of ``guest/supervisor/tiny`` for one.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from guest import missing_headers
from guest import scratch as scratch_folders

HERE = Path(__file__).resolve().parent
BUILT = HERE / "built"
INCLUDE = HERE / "include"
RUNTIME = HERE / "runtime"
FIRMWARE = HERE.parent / "firmware"

SOURCE_SUFFIXES = (".c", ".S", ".s")

_TARGET = ["--target=riscv64-freestanding-none", "-mabi=lp64d"]
_CPU = "-mcpu=generic_rv64+m+a+f+d+c+zicsr+zifencei"
# Of the runtime, for --gc-sections.
_SECTIONS = ("-ffunction-sections", "-fdata-sections")
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
# Linked position-independent: the loader applies relative relocations, and nothing else. Of the
# runtime a module keeps what it uses.
MODULE = Kind(
    "module",
    (
        *("module.c", "bug.c", "params.c", "kstrtox.c", "string.c", "hexdump.c", "rbtree.c"),
        *("sort.c", "memory.c"),
    ),
    ("-mcmodel=medany", "-fPIC", "-fvisibility=hidden"),
    (
        *("-pie", "--no-dynamic-linker", "--gc-sections", "-e", "init_module", "-T"),
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
# Folders of sources that are shipped compiled: kind, folder, suffix of the ELF. A folder in
# one of them is one guest.
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
    done = subprocess.run(
        command, capture_output=True, text=True, pass_fds=scratch_folders.holders()
    )
    if done.returncode:
        raise BuildError((done.stderr or done.stdout).strip())


def compile_object(source: Path, output: Path, flags: tuple[str, ...] = ()) -> None:
    """Compile one C or assembly file. Raises BuildError."""
    language = _C_FLAGS if source.suffix == ".c" else ["-mno-relax"]
    # No path of this machine in the debug information: builds in two places are the same, and
    # gdb looks for the sources in its `directory`.
    names = {str(HERE): "guest", str(BUILT): "guest/built", str(source.parent): "."}
    spec = importlib.util.find_spec("ziglang")
    if spec is not None and spec.origin is not None:
        zig = Path(spec.origin).parent  # named from here where it lies below
        names |= {str(zig): "zig", os.path.relpath(zig): "zig"}
    places = [f"-ffile-prefix-map={path}={name}" for path, name in names.items()]
    includes = [f"-I{INCLUDE}", f"-I{BUILT / 'include'}", f"-I{RUNTIME}"]
    name = str(source)
    _zig(
        *("cc", *_TARGET, _CPU, *language, *flags, "-fdebug-compilation-dir=.", *places, *includes),
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
    folder = scratch / f"{kind.name}-{output.stem}"
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        made = folder / (source.name + ".o")
        compile_object(source, made, (*kind.compile, *_names(kind, source)))
        objects.append(made)
    if not _has_own_start(kind, sources):
        objects += _runtime(kind, scratch)
    link(objects, output, kind.link)


def _names(kind: Kind, source: Path) -> tuple[str, ...]:
    """What Linux's build tells a module about itself."""
    if kind is not MODULE:
        return ()
    name = re.sub(r"\W", "_", source.stem)
    return ("-D__KERNEL__", "-DMODULE", f'-DKBUILD_MODNAME="{name}"')


@cache
def _runtime_digest() -> str:
    """Changes when anything does that a runtime is compiled from."""
    import hashlib  # for who compiles

    inputs = [Path(__file__)]
    for folder in (RUNTIME, INCLUDE, BUILT / "include"):
        inputs += sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in inputs)).hexdigest()[:16]


def _runtime(kind: Kind, scratch: Path) -> list[Path]:
    """The objects of a kind's runtime: those that the package was built with, where they are
    of the same sources; else made in ``scratch``, once."""
    folder = BUILT / "runtime" / _runtime_digest() / kind.name
    if not folder.exists():
        folder = scratch / f"{kind.name}-runtime"
        folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name in kind.runtime:
        made.append(folder / f"{name}.o")
        if not made[-1].exists():
            compile_object(RUNTIME / name, made[-1], (*kind.compile, *_SECTIONS))
    return made


def build_folder(kind: Kind, folder: Path, output: Path, scratch: Path) -> None:
    """Make one guest of all C and assembly files in ``folder``, with its own linker script.

    It is meant to be read in a debugger: compiled with -Og. Raises BuildError.
    """
    sources = sorted(p for p in folder.iterdir() if p.suffix in SOURCE_SUFFIXES)
    scripts = sorted(folder.glob("*.ld"))
    if not sources:
        raise BuildError(f"{folder}: no C or assembly file in it")
    if len(scripts) != 1:
        raise BuildError(f"{folder}: {len(scripts)} linker scripts (*.ld), one is needed")
    own = replace(kind, runtime=(), compile=(*kind.compile, "-Og"), link=("-T", str(scripts[0])))
    build(own, sources, output, scratch)


def _has_own_start(kind: Kind, sources: list[Path]) -> bool:
    """Whether a program brings its own `_start`, as assembly does."""
    return kind is not MODULE and any(source.suffix in (".S", ".s") for source in sources)


# What only a module has: Linux's header, the macro, or the function by its own name.
_IS_MODULE = re.compile(
    r"^[ \t]*#[ \t]*include[ \t]*[<\"]linux/module\.h|\bmodule_init\b"
    r"|^[ \t]*(static[ \t]+)?int\s+(__init\s+)?init_module\s*\(",
    re.MULTILINE,
)


def kind_of_source(text: str) -> Kind:
    """What a C file is: a module, else a U-mode program."""
    return MODULE if _IS_MODULE.search(text) else PROGRAM


_ERROR = re.compile(r"^(?P<file>[^:\n]+):(?P<line>\d+):\d+: (?:fatal )?error: (?P<text>.*)$", re.M)
_NO_HEADER = re.compile(
    r"'(?P<header>(?:linux|asm|net|crypto|uapi|generated)/[^']+)' file not found"
)
# What comes of a declaration that was not there; and how clang goes on about it.
_UNDECLARED = re.compile(
    r"undeclared|incomplete type|unknown type name|never completed|type specifier missing"
)
_AND_SO_ON = re.compile(r"; ISO C99 .*| \[-W[^]]*\]$")


def refusal(name: str, source: str, said: str) -> str:
    """What the compiler ``said`` about the module ``source``, the text of file ``name``.

    One line where a header of Linux is the reason that it does not compile: it is not there, or
    it is one of `missing_headers`, and the first error is what comes of it.
    """
    error = next((e for e in _ERROR.finditer(said) if Path(e["file"]).name == name), None)
    if error is None:
        return said
    unknown = _NO_HEADER.match(error["text"])
    if unknown:
        header = unknown["header"]
        return f"line {error['line']}: {header}: pagewalk has no such header; see docs/modules.md"
    missing = missing_headers.included(source)
    if not missing or not _UNDECLARED.search(error["text"]):
        return said
    what = _AND_SO_ON.sub("", error["text"])
    subjects = {missing_headers.MISSING[h]: f"{h}, line {line}" for line, h in reversed(missing)}
    absent = " and no ".join(f"{s} ({where})" for s, where in reversed(subjects.items()))
    return f"line {error['line']}: {what}: pagewalk has no {absent} yet; see docs/modules.md"


def compiled(source: Path, machine: str | None = None) -> bytes:
    """Compile a user's C or assembly file for a machine; the ELF, which is in no file.

    Raises what `compile_user_file` raises.
    """
    with scratch_folders.folder() as folder:
        return compile_user_file(source, folder, machine).read_bytes()


def compile_user_file(source: Path, folder: Path, machine: str | None = None) -> Path:
    """Compile a user's C or assembly file for a machine; the ELF, in ``folder``.

    A folder is an S-mode kernel, see `build_folder`. Raises BuildError with the compiler's
    message, OSError.
    """
    if source.is_dir():
        output = folder / (source.resolve().name + ".elf")
        build_folder(SUPERVISOR, source, output, folder)
        return output
    text = source.read_text(errors="replace")
    kind = KIND_OF_MACHINE.get(machine or "") or kind_of_source(text)
    output = folder / (source.stem + (".ko" if kind is MODULE else ".elf"))
    try:
        build(kind, [source], output, folder)
    except BuildError as e:
        raise BuildError(refusal(source.name, text, str(e)) if kind is MODULE else e) from None
    return output


def build_code(source: Path, base: int, scratch: Path) -> bytes:
    """A few instructions as flat code that runs at ``base`` (PA): firmware, reset code, what
    somebody assembles. Raises BuildError."""
    made, output = scratch / f"{source.stem}.o", scratch / f"{source.stem}.bin"
    compile_object(source, made)
    script = ("--defsym", f"BASE={base:#x}", "-T", str(FIRMWARE / "rom.ld"))
    link([made], output, ("--oformat", "binary", *script))
    return output.read_bytes()


def write_headers() -> None:
    """The generated headers."""
    from guest.kernel.abi import c_header as abi_header
    from guest.kernel.task import c_header as task_header
    from mm.header import c_header as mm_header

    folder = BUILT / "include" / "pagewalk"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "abi.h").write_text(abi_header())
    (folder / "mm_types.h").write_text(mm_header())
    (folder / "task.h").write_text(task_header())
    for name in missing_headers.MISSING:
        path = BUILT / "include" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(missing_headers.c_header(name))


def build_all() -> None:
    """Everything that the package ships. Raises BuildError."""
    with scratch_folders.folder("pagewalk-build-") as scratch:
        # zig's cache would go to the home directory, which a build must not touch.
        os.environ.setdefault("ZIG_GLOBAL_CACHE_DIR", str(scratch / "cache"))
        os.environ.setdefault("ZIG_LOCAL_CACHE_DIR", str(scratch / "cache"))
        shutil.rmtree(BUILT, ignore_errors=True)
        write_headers()
        _runtime_digest.cache_clear()
        for kind in (MODULE, PROGRAM):
            made = BUILT / "runtime" / _runtime_digest() / kind.name
            made.mkdir(parents=True)
            _runtime(kind, scratch)
        for name, base in (("reset", 0x1000), ("start", 0x8000_0000)):
            code = build_code(FIRMWARE / f"{name}.S", base, scratch)
            (BUILT / f"{name}.bin").write_bytes(code)
        head = scratch / "head.o"
        compile_object(RUNTIME / "head.S", head)
        link([head], BUILT / "head.elf", ("-T", str(RUNTIME / "head.ld")))
        for kind, folder, suffix in SHIPPED:
            for source in sorted((HERE / folder).iterdir()):
                output = BUILT / folder / (source.stem + suffix)
                if source.is_dir():
                    build_folder(kind, source, output, scratch)
                elif source.suffix in SOURCE_SUFFIXES:
                    build(kind, [source], output, scratch)


def main(arguments: list[str]) -> int:
    """No arguments: what the package ships. FOLDER OUTPUT: the S-mode kernel in FOLDER."""
    if len(arguments) not in (0, 2):
        print("usage: python -m guest.build [FOLDER OUTPUT]", file=sys.stderr)
        return 2
    try:
        if not arguments:
            build_all()
            return 0
        folder, output = map(Path, arguments)
        if not folder.is_dir():
            raise BuildError(f"{folder}: no such folder")
        with scratch_folders.folder("pagewalk-build-") as scratch:
            build_folder(SUPERVISOR, folder, output, scratch)
    except (BuildError, OSError) as e:
        print(f"guest.build: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
