"""The rows of the table: what is measured, against what, and the most that it may be."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import unicorn
import unicorn.unicorn_const as ucc

import mm
from bench import board
from bench import operations as op
from bench.guests import compile_to, compiled
from bench.measure import Ratio, Unmeasurable, output_of, ratio, timed
from emu.engine import calls
from emu.engine.open_access import open_access
from emu.ram import RAM_BASE, Ram
from emu.spec import words
from emu.spec.paging import PTE_A, PTE_D, PTE_G, PTE_R, PTE_V, PTE_W
from guest import build, scratch
from guest.boot.boot import BIOS_NONE, BootOptions, prepare
from guest.kernel.system import System
from mm.pgtable import PAGE_WRITE

_GIB = 1 << 30


@dataclass(frozen=True)
class Row:
    """One line: ``limit`` is the largest ratio allowed, None where it is only reported."""

    what: str
    against: str
    limit: float | None
    measure: Callable[[], tuple[Ratio, str] | str]  # text: in place of the numbers


def _process(*command: str) -> float:
    run = partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
    return timed(run)


def run_hello() -> tuple[Ratio, str]:
    ours = partial(_process, sys.executable, "-m", "pagewalk", "run", "hello")
    other = partial(_process, sys.executable, "-c", "import unicorn, capstone, numpy")
    return ratio(ours, other, 15), ""


def _boot(size: int) -> float:
    system = System(ram_size=size)
    try:
        return timed(system.boot)
    finally:
        system.machine.close()


def boot_size() -> tuple[Ratio, str]:
    found = ratio(partial(_boot, 64 * _GIB), partial(_boot, 64 << 20), 15)
    script = (
        "import resource; from guest.kernel.system import System; s = System(ram_size=64 << 30);"
        "s.boot(); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    resident = int(done.stdout) * 1024 / 1e6
    return found, f"{resident:.0f} MB resident (at most 200)"


_CALLS = 200_000  # as in call_loop.c


def kernel_call() -> tuple[Ratio, str]:
    """A module's loop of calls, against the same machine code on an engine of its own."""
    system = System()
    system.boot()
    module, stop = system.load_module(compiled("call_loop", build.MODULE, ".ko"))
    assert stop.value == 0 and module.exit is not None
    exit_function = module.exit

    def ours() -> float:
        return timed(lambda: system.call(exit_function))

    # The other: `ecall; addi; bnez` in M-mode, and a callback that does nothing.
    code = b"".join(
        word.to_bytes(4, "little")
        for word in (0x00000073, 0xFFF50513, 0xFE051CE3, 0x10500073)  # ... wfi
    )
    ram = Ram(1 << 20)
    ram.write(RAM_BASE, code)
    engine = unicorn.Uc(ucc.UC_ARCH_RISCV, ucc.UC_MODE_RISCV64)
    engine.ctl_exits_enabled(True)
    engine.mem_map_ptr(ram.base, ram.size, ucc.UC_PROT_ALL, ram.host_address)
    callback = calls.INTR_CB(lambda uc, number, data: None)
    calls.hook(engine, ucc.UC_HOOK_INTR, callback)
    access = open_access(engine)

    def other() -> float:
        access.load()
        access.words[words.A0] = _CALLS
        access.store()
        return timed(lambda: calls.emu_start(engine, RAM_BASE))

    found = ratio(ours, other, 9)
    return found, f"{found.ours / _CALLS * 1e6:.2f} us a call"


def page_tables() -> tuple[Ratio, str]:
    """1 GiB of 4 KiB pages; both sides write into RAM that nobody touched before."""
    va = 0x10_0000_0000

    def ours() -> float:
        ram = Ram(2 * _GIB)
        kernel = mm.boot(ram)
        space = kernel.mm_alloc()
        return timed(
            lambda: kernel.pgtable.map_range(space, va, ram.base, _GIB, PAGE_WRITE, max_level=0)
        )

    def other() -> float:
        ram = Ram(2 * _GIB)
        ptes = ram.array(ram.base, _GIB // 4096)
        first = (ram.base >> 12 << 10) | PTE_V | PTE_R | PTE_W | PTE_A | PTE_D | PTE_G
        last = first + (_GIB >> 12 << 10)

        def write() -> None:
            ptes[:] = np.arange(first, last, 1 << 10, dtype=np.uint64)

        return timed(write)

    return ratio(ours, other, 15), ""


def _ticks(output: bytes) -> list[int]:
    return [int(line) for line in output.split()]


def store_loop() -> tuple[Ratio, str]:
    if shutil.which(board.QEMU) is None:
        raise Unmeasurable(f"{board.QEMU} is not installed")
    with scratch.folder() as folder:
        path = folder / "store_loop.elf"
        compile_to("store_loop", build.BARE, path)
        output: list[bytes] = []
        booted = prepare(BootOptions(path, bios=BIOS_NONE, output=output.append))
        qemu = ["qemu-system-riscv64", "-M", "virt", "-m", "64M", "-nographic", "-bios", str(path)]
        theirs = output_of(qemu)
    with closing(booted.board) as machine:
        machine.run()
    ours, other = sorted(_ticks(b"".join(output))), sorted(_ticks(theirs))
    a, b = ours[len(ours) // 2] / 1e7, other[len(other) // 2] / 1e7
    return Ratio(a, b, a / b), "100 million stores each"


def _on_each(measure: Callable[..., tuple[Ratio, str]], *fills: Any) -> list[Callable[[], Any]]:
    return [
        partial(measure, op.page_pair, *fills[:1], 1000),
        partial(measure, op.kmalloc_pair, *fills[1:2], 1000),
        partial(measure, op.vmalloc_pair, *fills[2:], 50),
    ]


_SIZE = _on_each(op.ram_size)
_LIVE = _on_each(op.live_objects, op.PAGES, op.OBJECTS, op.AREAS)

_QEMU = board.QEMU
_QEMU_OPENSBI = "the same, OpenSBI on both sides"


_BOARD = (
    Row("Linux to the shell prompt", _QEMU, 1.0, partial(board.linux_prompt, "ours")),
    Row("Linux to the shell prompt", _QEMU_OPENSBI, 1.0, partial(board.linux_prompt, "opensbi")),
    Row("Linux, the scripted session", _QEMU, 1.3, partial(board.linux_session, "ours")),
    Row("Linux, the scripted session", _QEMU_OPENSBI, 1.3, partial(board.linux_session, "opensbi")),
    Row("OpenSBI to its banner", _QEMU, 0.5, board.opensbi_banner),
    Row("OpenSBI to its banner, process", _QEMU, 3.0, board.opensbi_process),
    Row("board: SBI call", _QEMU, 2.0, partial(board.cost, "call")),
    Row("board: device register read", _QEMU, None, partial(board.cost, "mmio")),
    Row("board: timer set and taken", _QEMU, 2.0, partial(board.cost, "timer")),
    Row("board: timer interrupt late by", _QEMU, None, partial(board.cost, "late")),
)

ROWS = (
    Row("pagewalk run hello", "import unicorn, capstone, numpy", 2.0, run_hello),
    Row("boot with 64 GiB", "boot with 64 MiB", 1.3, boot_size),
    Row("kernel call that does nothing", "empty raw callback", 6.0, kernel_call),
    Row("page table for 1 GiB of 4 KiB", "one numpy statement", 3.0, page_tables),
    Row("store loop in an RW page", "qemu-system-riscv64", None, store_loop),
    Row("guest: kmalloc+kfree", "the same by trap", 1 / 20, partial(op.fast_path, "kmalloc")),
    Row("guest: alloc_page+free_page", "the same by trap", 1 / 20, partial(op.fast_path, "page")),
    *_BOARD,
    Row("alloc_page+free, 64 GiB", "with 64 MiB", 1.5, _SIZE[0]),
    Row("kmalloc(64)+kfree, 64 GiB", "with 64 MiB", 1.5, _SIZE[1]),
    Row("vmalloc(1M)+vfree, 64 GiB", "with 64 MiB", 1.5, _SIZE[2]),
    Row("alloc_page+free, many live", "with few", 1.5, _LIVE[0]),
    Row("kmalloc(64)+kfree, many live", "with few", 1.5, _LIVE[1]),
    Row("vmalloc(1M)+vfree, many live", "with few", 1.5, _LIVE[2]),
)


@dataclass(frozen=True)
class Cost:
    """One operation: seconds, and where there is a bulk of it, one of 64 against one alone."""

    what: str
    measure: Callable[[], Ratio | float]
    limit: float | None = None


COSTS = (
    Cost("alloc_page + free_page", partial(op.bulk, op.page_bulk, op.page_pair), 0.2),
    Cost("kmalloc(64) + kfree", partial(op.single, op.kmalloc_pair, 2000)),
    Cost("map + unmap of one page", partial(op.single, op.map_pair(), 1000)),
    Cost("vmalloc(1 MiB) + vfree", partial(op.single, op.vmalloc_pair, 100)),
    Cost("mm.check of 64 MiB, 6,000 free blocks among 6,000 pages", op.check),
)


@dataclass(frozen=True)
class Size:
    """Memory, in bytes, and the most that it may be."""

    what: str
    measure: Callable[[], tuple[int, str]]
    limit: int


SIZES = (Size("Linux: resident over guest RAM", board.resident, 100_000_000),)
