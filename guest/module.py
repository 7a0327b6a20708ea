"""Kernel modules: position-independent ELFs in the module area, each page W or X, never both."""

from __future__ import annotations

import os
from collections.abc import Sequence

from emu.paging import PAGE_SIZE
from guest.elf import Elf, ElfError
from mm.errors import OutOfMemory
from mm.kernel import Kernel
from mm.pgtable import PAGE_KERNEL_EXEC, PAGE_KERNEL_READ

_ARGUMENTS_SYMBOL = "module_args"


class Module:
    """A loaded module: ``base`` is the VA of its first page, ``init`` and ``exit`` VAs.

    Raises ElfError when it cannot be loaded; nothing stays allocated then.
    """

    def __init__(self, kernel: Kernel, elf: Elf, arguments: Sequence[str] = ()) -> None:
        self.kernel = kernel
        self.elf = elf
        self.name = elf.path.rsplit("/", 1)[-1].removesuffix(".ko")
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

    def _write(self, offset: int, data: bytes) -> None:
        """Store into the module at ``offset`` from its base, page by page through RAM."""
        area = self.kernel.find_vm_area(self.base)
        assert area is not None
        pfns = self.kernel.vmalloc_areas.pages_of(area)
        done = 0
        while done < len(data):
            page, inside = divmod(offset + done, PAGE_SIZE)
            part = data[done : done + PAGE_SIZE - inside]
            self.kernel.ram.write(pfns[page] * PAGE_SIZE + inside, part)
            done += len(part)
