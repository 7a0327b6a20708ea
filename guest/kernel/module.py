"""Kernel modules: position-independent ELFs in the module area, each page W or X, never both."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from emu.spec.paging import PAGE_SIZE
from guest.image.elf import Elf, ElfError, SymbolEntry
from guest.kernel.params import PARAM_SIZE, STRINGS_SIZE, Param
from guest.kernel.vsprintf import Symbol
from mm.errors import OutOfMemory
from mm.kernel import Kernel
from mm.pgtable import PAGE_KERNEL_EXEC, PAGE_KERNEL_READ

_ARGUMENTS_SYMBOL = "module_args"
_STRINGS_SYMBOL = "module_param_strings"
_ENTRIES = ("init_module", "cleanup_module")
_NAME_SIZE_MAX = 64  # bytes of a parameter's name


class Module:
    """A loaded module: ``base`` is the VA of its first page, ``init`` and ``exit`` VAs.

    Raises ElfError when it cannot be loaded; nothing stays allocated then.
    """

    def __init__(self, kernel: Kernel, elf: Elf, arguments: Sequence[str] = ()) -> None:
        self.kernel = kernel
        self.elf = elf
        # As Linux's build names it: KBUILD_MODNAME.
        self.name = re.sub(r"\W", "_", Path(elf.path).stem)
        size = -(-elf.end // PAGE_SIZE) * PAGE_SIZE
        if elf.start != 0:
            raise ElfError(f"{elf.path}: a module is linked at 0, this one at {elf.start:#x}")
        init = elf.symbol("init_module")
        if init is None:
            raise ElfError(f"{elf.path}: no init_module (module_init is missing)")
        base = kernel.module_alloc(size)
        if base is None:
            raise ElfError(f"{elf.path}: no room for a module of {size} bytes")
        self.base = base
        self.size = size
        self._strings_used = 0
        try:
            self._load(os.fsencode(" ".join(arguments)))
        except OutOfMemory as e:
            kernel.vfree(base)
            raise ElfError(f"{elf.path}: no room for a module: {e}") from None
        except BaseException:
            kernel.vfree(base)
            raise
        self.init = init + base
        cleanup = elf.symbol("cleanup_module")
        self.exit = None if cleanup is None else cleanup + base

    @property
    def takes_words(self) -> bool:
        """Whether it reads the words of the command line itself."""
        return self.elf.symbol(_ARGUMENTS_SYMBOL) is not None

    def params(self) -> list[Param]:
        """Its parameters, as its section __param has them. Raises ElfError."""
        start, stop = (self.elf.symbol(f"__{end}___param") for end in ("start", "stop"))
        found: list[Param] = []
        if start is None or stop is None:
            return found
        for at in range(start, stop - PARAM_SIZE + 1, PARAM_SIZE):
            name, ops = self._word(at) - self.base, self._word(at + 8) - self.base
            text = self._read(name, _NAME_SIZE_MAX).split(b"\0", 1)[0].decode("ascii", "replace")
            flags, setter = self._word(ops) & 0xFFFFFFFF, self._word(ops + 8)
            found.append(Param(text, setter, self.base + at, flags))
        return found

    def put_string(self, text: bytes) -> int:
        """Keep a parameter's value as long as the module lives; its VA. Raises ElfError."""
        place = self.elf.symbol(_STRINGS_SYMBOL)
        if place is None or self._strings_used + len(text) > STRINGS_SIZE:
            raise ElfError(f"{self.elf.path}: more than {STRINGS_SIZE} bytes of parameters")
        at = place + self._strings_used
        self._write(at, text)
        self._strings_used += len(text)
        return self.base + at

    def names(self) -> list[SymbolEntry]:
        """Its symbols; functions by their own names, not as init_module and cleanup_module."""
        names = self.elf.names
        named = {va for va, _, name in names if name not in _ENTRIES}
        return [e for e in names if e[2] not in _ENTRIES or e[0] not in named]

    def symbol_at(self, va: int) -> Symbol | None:
        """The symbol before ``va``, up to the next one (Linux: find_kallsyms_symbol)."""
        offset = va - self.base
        segment = next((s for s in self.elf.segments if s.va <= offset < s.end), None)
        if segment is None:
            return None
        inside = sorted(e for e in self.names() if segment.va <= e[0] < segment.end)
        before = [e for e in inside if e[0] <= offset]
        if not before:
            return None
        start, _, name = before[-1]
        end = next((e[0] for e in inside if e[0] > offset), segment.end)
        return Symbol(name, offset - start, end - start, self.name)

    def close(self) -> None:
        """Give the module's memory back."""
        self.kernel.vfree(self.base)

    def _load(self, arguments: bytes) -> None:
        for segment in self.elf.segments:
            self._write(segment.va, segment.data)
        for offset, kind in self.elf.other_relocations[:1]:
            raise ElfError(
                f"{self.elf.path}: relocation of type {kind} at {offset:#x}: "
                "a module is linked whole, with relative ones alone"
            )
        for offset, addend in self.elf.relative_relocations:
            value = (addend + self.base) & (1 << 64) - 1
            self._write(offset, value.to_bytes(8, "little"))
        self._put_arguments(arguments)
        done = 0
        for segment in self.elf.segments:
            start = segment.va // PAGE_SIZE * PAGE_SIZE
            end = -(-segment.end // PAGE_SIZE) * PAGE_SIZE
            if segment.executable and segment.writable:
                raise ElfError(f"{self.elf.path}: a segment is writable and executable")
            if start < done:
                raise ElfError(f"{self.elf.path}: two segments share the page at {start:#x}")
            done = end
            prot = PAGE_KERNEL_EXEC if segment.executable else PAGE_KERNEL_READ
            if not segment.writable:
                self.kernel.set_memory(self.base + start, end - start, prot)

    def _put_arguments(self, arguments: bytes) -> None:
        place = self.elf.symbol(_ARGUMENTS_SYMBOL)
        size = next((s for _, s, n in self.elf.symbols if n == _ARGUMENTS_SYMBOL), 0)
        if place is None or not arguments:
            return
        if len(arguments) >= size:
            raise ElfError(f"{self.elf.path}: arguments of {len(arguments)} bytes, {size} fit")
        if not any(s.va <= place and place + size <= s.end for s in self.elf.segments):
            raise ElfError(f"{self.elf.path}: {_ARGUMENTS_SYMBOL} lies in no segment")
        self._write(place, arguments + b"\0")

    def _parts(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """``(PA, bytes)`` of the pages that hold ``size`` bytes at ``offset`` from its base."""
        if not 0 <= offset <= self.size - size:
            raise ElfError(f"{self.elf.path}: {offset:#x} is outside of the module")
        area = self.kernel.find_vm_area(self.base)
        assert area is not None
        pfns = self.kernel.vmalloc_areas.pages_of(area)
        while size:
            page, inside = divmod(offset, PAGE_SIZE)
            part = min(size, PAGE_SIZE - inside)
            yield pfns[page] * PAGE_SIZE + inside, part
            offset, size = offset + part, size - part

    def _read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset`` from its base, as far as the module goes."""
        size = min(size, max(self.size - offset, 0))
        return b"".join(self.kernel.ram.read(*part) for part in self._parts(offset, size))

    def _word(self, offset: int) -> int:
        return int.from_bytes(self._read(offset, 8), "little")

    def _write(self, offset: int, data: bytes) -> None:
        """Store into the module at ``offset`` from its base, page by page through RAM."""
        done = 0
        for pa, size in self._parts(offset, len(data)):
            self.kernel.ram.write(pa, data[done : done + size])
            done += size
