"""U-mode processes: an ELF in an address space of its own, with a stack as Linux lays it out.

TASK_SIZE  ---------------------------------------------
           stack, STACK_SIZE, grows down; below it nothing is mapped
           mmap area, filled downwards
           ...
           the program's segments, each with its own permissions
0          ---------------------------------------------
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence

from emu.spec.paging import PAGE_SIZE
from guest.image.elf import Elf, ElfError, Segment
from guest.kernel.descriptors import STANDARD
from guest.kernel.syscall_names import name_of
from mm.errors import OutOfMemory
from mm.kernel import Kernel
from mm.pgtable import MmStruct
from mm.vma import STACK_GUARD_GAP, VM_EXEC, VM_GROWSDOWN, VM_READ, VM_WRITE

STACK_SIZE = 256 << 10  # bytes
PIE_BASE = 0x5555_5000  # where a position-independent program goes
_ARGUMENTS_SIZE_MAX = STACK_SIZE // 4  # bytes, as Linux has it

# The auxiliary vector (Linux include/uapi/linux/auxvec.h)
AT_NULL, AT_PHDR, AT_PHENT, AT_PHNUM, AT_PAGESZ = 0, 3, 4, 5, 6
AT_BASE, AT_FLAGS, AT_ENTRY = 7, 8, 9
AT_UID, AT_EUID, AT_GID, AT_EGID, AT_HWCAP, AT_CLKTCK = 11, 12, 13, 14, 16, 17
AT_SECURE, AT_RANDOM, AT_HWCAP2, AT_EXECFN = 23, 25, 26, 31
_CLOCKS_PER_SECOND = 100  # USER_HZ
_PHENT_SIZE = 56
_HWCAP = sum(1 << ord(letter) - ord("a") for letter in "imafdc")
_RANDOM_SIZE = 16


class Process:
    """A loaded program. ``entry`` and ``sp`` are VAs; ``mm`` is its address space.

    ``now`` gives the nanoseconds since the machine was made, in steps of ``clock_tick``;
    ``warn`` takes a line for the user. ``missing``: how often it made each system call (by
    number) that does not exist. ``killed_by``: the signal that ended it, in words.
    Raises ElfError when the ELF does not fit into user space or into free RAM; nothing
    stays allocated then.
    """

    def __init__(
        self,
        kernel: Kernel,
        elf: Elf,
        arguments: Sequence[str] = (),
        environment: Sequence[str] = (),
        output: Callable[[bytes], None] = lambda data: None,
        read_input: Callable[[int], bytes] = lambda size: b"",
        pid: int = 1,
        now: Callable[[], int] = lambda: 0,
        clock_tick: int = 1,
        warn: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.kernel = kernel
        self.elf = elf
        self.output = output
        self.input = read_input
        self.pid = pid
        self.now = now
        self.clock_tick = clock_tick
        self.cpu_time_start = time.process_time_ns()
        self._warn = warn
        self.missing: Counter[int] = Counter()
        self.descriptors = dict(STANDARD)
        self.actions: dict[int, bytes] = {}  # struct sigaction of each signal that has one
        self.blocked = self.pending = 0  # signals, as sigset_t
        self.killed_by = ""
        self.random = random.Random(0)  # the same in every run
        self.stack_size = STACK_SIZE
        self.name = elf.name
        self.comm = os.fsencode(self.name)[:15]
        try:
            self.mm: MmStruct = kernel.mm_alloc()
        except OutOfMemory as e:
            raise ElfError(f"{elf.path}: no room for another process: {e}") from None
        try:
            self.bias = self._load(elf)
            self.entry = elf.entry + self.bias
            self.stack_top = self.mm.task_size
            self.mm.start_brk = self.mm.brk = _page_up(elf.end) + self.bias
            self._map_stack()
            self.sp = self._fill_stack(arguments, environment)
        except OutOfMemory as e:
            kernel.mmdrop(self.mm)
            raise ElfError(f"{elf.path}: does not fit into free RAM: {e}") from None
        except BaseException:
            kernel.mmdrop(self.mm)
            raise

    def close(self) -> None:
        """End the process: its address space and everything in it."""
        self.kernel.mmdrop(self.mm)

    def misses(self, number: int) -> None:
        """Take note that it made a system call that does not exist."""
        self.missing[number] += 1
        if self.missing[number] == 1:
            self._warn(
                f"{self.name}: system call {number} ({name_of(number)}) is missing here: "
                "it got -ENOSYS"
            )

    def missing_syscalls(self) -> list[dict[str, object]]:
        """``missing`` as it is told: name, number and count of each."""
        return [
            {"name": name_of(number), "number": number, "count": count}
            for number, count in sorted(self.missing.items())
        ]

    def unmapped_area(self, size: int) -> int | None:
        """The highest VA below the stack with ``size`` free bytes (Linux: top-down mmap)."""
        high = self.stack_top - STACK_SIZE - STACK_GUARD_GAP
        for vma in reversed(self.kernel.address_spaces.vmas(self.mm)):
            if vma.vm_start >= high:
                continue
            if high - vma.vm_end >= size:
                break
            high = vma.vm_start
        return high - size if high - size >= PAGE_SIZE else None

    # loading

    def _load(self, elf: Elf) -> int:
        """Map the segments; the bias that was added to their VAs."""
        bias = 0
        if elf.is_position_independent:
            if elf.entry == 0:
                raise ElfError(
                    f"{elf.path}: no entry point: a shared library, or firmware for boot?"
                )
            align = elf.alignment
            bias = -(-PIE_BASE // align) * align - elf.start // align * align
        limit = self.mm.task_size - STACK_SIZE - STACK_GUARD_GAP
        for segment in elf.segments:
            if segment.end + bias > limit or segment.va + bias < PAGE_SIZE:
                raise ElfError(
                    f"{elf.path}: segment at {segment.va:#x}-{segment.end:#x} is outside of "
                    f"user space ({PAGE_SIZE:#x}-{limit:#x})"
                )
        ranges = _page_ranges(elf)
        for start, end, _ in ranges:
            # Writable while it is filled; then as the segment says.
            size = end - start
            self.kernel.mmap_region(self.mm, start + bias, size, VM_READ | VM_WRITE, self.name)
        for segment in elf.segments:
            self.kernel.copy_to_user(self.mm, segment.va + bias, segment.data)
        for offset, addend in elf.relative_relocations:
            value = (addend + bias) & (1 << 64) - 1
            self.kernel.copy_to_user(self.mm, offset + bias, value.to_bytes(8, "little"))
        for start, end, flags in ranges:
            try:
                self.kernel.mprotect(self.mm, start + bias, end - start, flags)
            except ValueError as e:
                raise ElfError(f"{elf.path}: pages {start:#x}-{end:#x}: {e}") from None
        return bias

    def _map_stack(self) -> None:
        start = self.stack_top - STACK_SIZE
        flags = VM_READ | VM_WRITE | VM_GROWSDOWN
        self.kernel.mmap_region(self.mm, start, STACK_SIZE, flags, "[stack]")

    def _fill_stack(self, arguments: Sequence[str], environment: Sequence[str]) -> int:
        """argc, argv, envp and auxv, as the RISC-V psABI and Linux's create_elf_tables."""
        at = self.stack_top - 16

        def push(data: bytes) -> int:
            nonlocal at
            at -= len(data)
            if self.stack_top - at > _ARGUMENTS_SIZE_MAX:
                raise ElfError(f"{self.elf.path}: argument list too long")
            self.kernel.copy_to_user(self.mm, at, data)
            return at

        name = push(os.fsencode(self.name) + b"\0")
        argv = [push(os.fsencode(text) + b"\0") for text in (self.name, *arguments)]
        envp = [push(os.fsencode(text) + b"\0") for text in environment]
        # The same bytes in every run: what a program does must not depend on luck.
        random_bytes = push(bytes(range(1, _RANDOM_SIZE + 1)))
        auxv = {
            AT_HWCAP: _HWCAP,
            AT_PAGESZ: PAGE_SIZE,
            AT_CLKTCK: _CLOCKS_PER_SECOND,
            AT_PHENT: _PHENT_SIZE,
            AT_PHNUM: self.elf.header_count,
            AT_BASE: 0,  # no interpreter
            AT_FLAGS: 0,
            AT_ENTRY: self.entry,
            AT_UID: 0,
            AT_EUID: 0,
            AT_GID: 0,
            AT_EGID: 0,
            AT_SECURE: 0,
            AT_RANDOM: random_bytes,
            AT_HWCAP2: 0,
            AT_EXECFN: name,
        }
        if self.elf.header_va:
            auxv[AT_PHDR] = self.elf.header_va + self.bias
        words = [len(argv), *argv, 0, *envp, 0]
        words += [word for pair in auxv.items() for word in pair]
        words += [AT_NULL, 0]
        at -= (at - 8 * len(words)) % 16
        return push(b"".join(word.to_bytes(8, "little") for word in words))


def _page_up(va: int) -> int:
    return -(-va // PAGE_SIZE) * PAGE_SIZE


def _flags(segment: Segment) -> int:
    flags = VM_READ if segment.readable else 0
    flags |= VM_WRITE if segment.writable else 0
    return flags | (VM_EXEC if segment.executable else 0)


def _page_ranges(elf: Elf) -> list[tuple[int, int, int]]:
    """``(start, end, vm_flags)`` of whole pages; a page of two segments has both's flags."""
    pages: list[tuple[int, int, int]] = []
    for segment in elf.segments:
        start = segment.va // PAGE_SIZE * PAGE_SIZE
        end = _page_up(segment.end)
        flags = _flags(segment)
        if pages and start < pages[-1][1]:
            low, high, before = pages.pop()
            if low < high - PAGE_SIZE:
                pages.append((low, high - PAGE_SIZE, before))
            pages.append((high - PAGE_SIZE, high, before | flags))
            start = high
        if start < end:
            pages.append((start, end, flags))
    return pages
