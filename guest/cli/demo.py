"""`pagewalk run` with no program: the story of a boot, told by what happens in it."""

from __future__ import annotations

from collections.abc import Callable

import mm
from emu.board import memory_map as board
from emu.debug.explain import describe_walk
from emu.spec.paging import satp_root
from emu.spec.tables import size_text
from emu.spec.walk import Access, Translation, WalkConfig, walk
from emu.stop import Stop, StopReason
from guest.boot import kernel_machine, machines
from guest.boot.find import RUN, find
from guest.boot.kernel_machine import Attach, KernelOptions, Streams
from guest.boot.machines import KERNEL
from guest.boot.outcome import Outcome, place
from guest.kernel.system import System
from mm.errors import CheckError

# Not files of that name in the current folder.
_MODULE, _PROGRAM = "guest:page_struct", "guest:hello"


def tell(
    options: KernelOptions, streams: Streams, attach: Attach, say: Callable[[str], None]
) -> tuple[Outcome, System]:
    """Boot, run the module and the program, walk one address, check; and the System then."""
    options.command_line()  # what is wrong with it is told before the story begins
    say(f"RV64GC hart in reset at {board.ROM.base:#x}, {size_text(options.ram_size)} of RAM at "
        f"{board.DRAM_BASE:#x}, {options.paging.name}")  # fmt: skip
    system = kernel_machine.boot(options, streams, attach)
    kernel = system.kernel
    _tell_boot(system, say)
    failed = 0
    module, stop = system.load_module(machines.load(find(_MODULE, RUN)))
    say(f"{module.name}: init returned {stop.value}")
    if stop.reason is not StopReason.EXIT or stop.value != 0:
        failed += 1
    else:
        system.unload_module(module)

    process = system.load_program(machines.load(find(_PROGRAM, RUN)))
    say(f"{process.name}: U-mode at {process.entry:#x}, ASID {process.mm.asid}, "
        f"satp {kernel.satp(process.mm):#018x}")  # fmt: skip
    stop = system.run_program()
    say(f"{process.name}: exit status {stop.code}")
    if stop.reason is not StopReason.EXIT or stop.code != 0:
        failed += 1

    mode, root = options.paging, satp_root(kernel.satp(process.mm))
    va = system.symbols.address("main") or process.entry
    result = walk(system.machine.ram, mode, root, va, Access.EXECUTE, WalkConfig(user=True))
    say(f"{process.name}: main, as the hart found it:")
    for line in describe_walk(mode, root, va, result, process.mm.asid):
        say(line)
    system.end_program()
    try:
        say(f"mm.check: clean: {mm.check(kernel)}")
    except CheckError as e:
        say(f"mm.check: {e}")
        failed += 1
    status = 1 if failed else 0
    stop = Stop(StopReason.EXIT, status)
    return Outcome(None, KERNEL, stop, status, place(system.hart, None)), system


def _tell_boot(system: System, say: Callable[[str], None]) -> None:
    """The proof that the hart translates: where it fetched from when it called Python."""
    kernel = system.kernel
    pc = system.hart.pc
    root = satp_root(kernel.satp())
    result = walk(system.machine.ram, system.paging, root, pc, Access.EXECUTE)
    assert isinstance(result, Translation)
    say(f"satp {kernel.satp():#018x}: the hart switched {system.paging.name} on and fetches at "
        f"{pc:#x}, which is PA {result.pa:#x}")  # fmt: skip
    sizes: dict[int, int] = {}
    layout = kernel.layout
    for va, level, _ in kernel.pgtable.leaves(root):
        if layout.page_offset <= va < layout.page_offset + layout.direct_map_size:
            sizes[level] = sizes.get(level, 0) + 1
    pages = ", ".join(
        f"{count} x {size_text(system.paging.span(level))}"
        for level, count in sorted(sizes.items(), reverse=True)
    )
    say(f"direct map at {layout.page_offset:#x}: {pages}")
    caches = [c.name for c in kernel.slab.caches()]
    sizes_of = [name for name in caches if name.startswith("kmalloc-")]
    # SLOB has none: it cuts what is asked for from the first page with room.
    of_kmalloc = f"{sizes_of[0]} to {sizes_of[-1]} among them" if sizes_of else "none for kmalloc"
    say(f"slab: {len(caches)} caches, {of_kmalloc}")
