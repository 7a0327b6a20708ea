"""Guests that only measure; compiled when they are wanted."""

from __future__ import annotations

from pathlib import Path

from bench.measure import Unmeasurable
from guest import build, scratch
from guest.image import elf as elf_file
from guest.image.elf import Elf

HERE = Path(__file__).parent


def compiled(name: str, kind: build.Kind, suffix: str) -> Elf:
    with scratch.folder() as folder:
        output = folder / f"{name}{suffix}"
        compile_to(name, kind, output)
        return elf_file.load(output)


def compile_to(name: str, kind: build.Kind, output: Path) -> None:
    """Raises Unmeasurable without a compiler."""
    if not build.have_compiler():
        raise Unmeasurable("no compiler (ziglang)")
    build.build(kind, [HERE / f"{name}.c"], output, output.parent)
