"""What the guests' tests share: compiled snippets, and a kernel machine that is looked after."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path

from progress import stopped_when_stuck

import mm
from emu.spec.paging import SV39, PagingMode
from emu.stop import Stop, StopReason
from guest import build, scratch
from guest.image import elf as elf_file
from guest.image.elf import Elf
from guest.image.shipped import shipped
from guest.kernel.process import Process
from guest.kernel.system import System

_ROOT = Path(__file__).resolve().parents[2]


def _kept_in() -> Path:
    folder = _ROOT / ".pytest_cache"
    if not os.access(folder if folder.exists() else _ROOT, os.W_OK):
        folder = Path(tempfile.gettempdir()) / f"pagewalk-tests-{os.getuid()}"
    folder = folder / "d" / "guests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@cache
def _runtime_text() -> bytes:
    sources = [build.HERE / "build.py"]
    for folder in (build.RUNTIME, build.INCLUDE, build.BUILT / "include"):
        sources += sorted(p for p in folder.rglob("*") if p.is_file())
    return b"\0".join(p.read_bytes() for p in sources)


def compiled(kind: build.Kind, text: str, suffix: str = ".c") -> Path:
    """The ELF of one source file; kept on disk between runs of the tests."""
    key = hashlib.sha256(
        b"\0".join((_runtime_text(), repr(kind).encode(), text.encode(), suffix.encode()))
    ).hexdigest()[:24]
    made = _kept_in() / f"{key}{'.ko' if kind is build.MODULE else '.elf'}"
    if not made.exists():
        with scratch.folder("pagewalk-test-") as folder:
            source = folder / f"guest{suffix}"
            source.write_text(text)
            output = folder / f"out{made.suffix}"
            build.build(kind, [source], output, folder)
            ready = made.with_suffix(f".{os.getpid()}")
            ready.write_bytes(output.read_bytes())
            ready.replace(made)
    return made


def load(kind: build.Kind, text: str, suffix: str = ".c") -> Elf:
    return elf_file.load(compiled(kind, text, suffix))


def guest(name: str) -> Elf:
    """A guest that comes with the package."""
    return elf_file.load(shipped()[name])


class Kernel:
    """A booted kernel machine, with what it printed and logged."""

    def __init__(
        self,
        mode: PagingMode = SV39,
        ram_size: int = 16 << 20,
        access: str = "auto",
        stdin: bytes = b"",
        config: Mapping[str, object] | None = None,
    ) -> None:
        self.console = bytearray()
        self.log: list[str] = []
        self._stdin = stdin
        self.mode = mode
        self.system = System(
            ram_size, mode, self.console.extend, self.log.append, self._read, access, config
        )
        self.system.boot()
        self.hart = self.system.hart
        self.ram = self.system.machine.ram
        self.mm = self.system.kernel

    def _read(self, size: int) -> bytes:
        data, self._stdin = self._stdin[:size], self._stdin[size:]
        return data

    @property
    def text(self) -> str:
        return self.console.decode()

    def load(self, elf: Elf, *arguments: str, environment: tuple[str, ...] = ()) -> Process:
        return self.system.load_program(elf, arguments, environment)

    def run(self, elf: Elf, *arguments: str) -> Stop:
        """Load a program and run it to its end; its address space stays."""
        self.load(elf, *arguments)
        with stopped_when_stuck(self.hart):
            stop = self.system.run_program()
        assert stop.reason is not StopReason.INTERRUPTED, "it does not end"
        mm.check(self.mm)
        return stop

    def insert(self, elf: Elf, *arguments: str) -> Stop:
        """Load a module and run its init."""
        _, stop = self.system.load_module(elf, arguments)
        mm.check(self.mm)
        return stop

    def counts(self) -> dict[str, int]:
        """Every counter: the checker's, and those that the kernel keeps itself.

        What is freed lazily is freed first.
        """
        self.mm.vm_unmap_aliases()
        kept = {c.name: c.nr_objects for c in self.mm.slab.caches() if hasattr(c, "nr_objects")}
        return asdict(mm.check(self.mm)) | kept | {"nr_free": self.mm.buddy.nr_free_pages()}

    def close(self) -> None:
        mm.check(self.mm)
        self.system.machine.close()
