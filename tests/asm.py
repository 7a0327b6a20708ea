"""Assembling RISC-V code for tests, with ziglang's clang and lld.

One call of zig costs about 0.1 s, so results are kept in this process and on disk, and
`Batch` assembles many snippets in one call: ::

    code = Batch()
    LOOP = code("1: addi a0, a0, 1; j 1b")     # at import: nothing is assembled yet
    ram.write(pa, LOOP.code)                   # the first use assembles the whole batch

A snippet is lifted out of the batch, so it must not name an address outside of itself;
its labels are shared by the batch: number them, or give them names of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from functools import cache, cached_property
from pathlib import Path

from guest import scratch

BASE = 0x8000_0000

_ROOT = Path(__file__).resolve().parents[1]
_COMPILE = (
    *("cc", "--target=riscv64-freestanding-none", "-mabi=lp64d"),
    *("-mcpu=generic_rv64+m+a+f+d+c+zicsr+zifencei", "-mno-relax", "-c"),
)
_LINK = ("ld.lld", "-m", "elf64lriscv", "--no-relax", "-z", "noexecstack", "-e", "0")
_VERSION = "1"  # of what is kept on disk


def _kept_in() -> Path:
    folder = _ROOT / ".pytest_cache"
    if not os.access(folder if folder.exists() else _ROOT, os.W_OK):
        folder = Path(tempfile.gettempdir()) / f"pagewalk-tests-{os.getuid()}"
    folder = folder / "d" / "asm"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _zig(*args: str, cwd: Path) -> None:
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(cwd), "ZIG_LOCAL_CACHE_DIR": str(cwd)}
    command = [sys.executable, "-m", "ziglang", *args]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        pass_fds=scratch.holders(),
    )
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}\n{done.stderr or done.stdout}")


def _build(text: str, base: int) -> tuple[bytes, dict[str, int]]:
    from elftools.elf.elffile import ELFFile

    with scratch.folder("pagewalk-asm-") as folder:
        Path(folder, "a.S").write_text(f".text\n.option norelax\n{text}\n")
        _zig(*_COMPILE, "-o", "a.o", "a.S", cwd=folder)
        _zig(*_LINK, f"-Ttext={base:#x}", "-o", "a.elf", "a.o", cwd=folder)
        with open(Path(folder, "a.elf"), "rb") as file:
            elf = ELFFile(file)
            for name in (".data", ".rodata", ".bss"):
                section = elf.get_section_by_name(name)
                assert section is None or not section["sh_size"], f"all goes to .text: {name}"
            code = elf.get_section_by_name(".text").data()
            table = elf.get_section_by_name(".symtab")
            found = {
                s.name: s["st_value"]
                for s in (table.iter_symbols() if table else ())
                if s.name and s["st_shndx"] != "SHN_UNDEF" and s.name[0] not in "$."
            }
    return code, found


@cache
def _assembled(text: str, base: int) -> tuple[bytes, dict[str, int]]:
    key = hashlib.sha256(repr((_VERSION, _COMPILE, _LINK, base, text)).encode()).hexdigest()
    file = _kept_in() / f"{key[:32]}.json"
    try:
        code, found = json.loads(file.read_text())
        return bytes.fromhex(code), found
    except (OSError, ValueError):
        pass
    built = _build(text, base)
    scratch = file.with_suffix(f".{os.getpid()}")
    scratch.write_text(json.dumps((built[0].hex(), built[1])))
    scratch.replace(file)
    return built


def assemble(text: str, base: int = BASE) -> bytes:
    """The code of ``text`` (GNU assembly, through the C preprocessor), linked at ``base``."""
    return _assembled(text, base)[0]


def symbols(text: str, base: int = BASE) -> dict[str, int]:
    """The VA of each label of ``text``, linked at ``base``."""
    return dict(_assembled(text, base)[1])


class Snippet:
    """A piece of a `Batch`: ``code`` is its bytes."""

    def __init__(self, batch: Batch, number: int) -> None:
        self._batch = batch
        self._number = number

    @property
    def code(self) -> bytes:
        code, found = self._batch.built
        start, end = found[f"snippet_{self._number}"], found[f"snippet_{self._number}_end"]
        return code[start - BASE : end - BASE]

    def offset(self, label: str) -> int:
        """Bytes from the start of the snippet to ``label``."""
        found = self._batch.built[1]
        return found[label] - found[f"snippet_{self._number}"]


class Batch:
    """Snippets that are assembled together, see the head of the file."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def __call__(self, text: str) -> Snippet:
        assert "built" not in self.__dict__, "the batch is assembled already"
        self._texts.append(text)
        return Snippet(self, len(self._texts) - 1)

    @cached_property
    def built(self) -> tuple[bytes, dict[str, int]]:
        parts = (
            f".balign 8\nsnippet_{i}:\n{text}\nsnippet_{i}_end:"
            for i, text in enumerate(self._texts)
        )
        return _assembled("\n".join(parts), BASE)
