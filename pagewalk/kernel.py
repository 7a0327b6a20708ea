"""The kernel machine: firmware and kernel in Python, programs and modules on the hart."""

from __future__ import annotations

from emu.hart import HartOptions
from emu.stop import Stop, StopReason
from guest.boot import kernel_machine, machines
from guest.boot.find import RUN, find
from guest.image.elf import Elf
from guest.kernel.module import Module
from mm.check import Report, check
from mm.gfp import GFP_KERNEL
from mm.kernel import SLAB_KINDS
from mm.kernel import Kernel as MemoryManager
from mm.page import Page
from pagewalk import arguments
from pagewalk.base import Guest
from pagewalk.console import Console

_INSMOD = "guest:insmod"  # the program in whose address space modules are loaded, as on Linux


class Kernel(Guest):
    """A machine whose kernel is Python's, booted: Linux's memory manager in its RAM.

    ``mm`` is the memory manager, with Linux's functions by their names. ``paging``: "sv39",
    "sv48" or "sv57". ``slab``: "slub", "slab" or "slob". ``append``: the kernel's command line,
    as for `pagewalk run --append`. ``ram``: bytes, or "64M". ``hart``: as for `Machine`.

    Raises TypeError and ValueError with the argument's name, and UsageError.
    """

    def __init__(
        self,
        *,
        ram: int | str = "64M",
        paging: str = "sv39",
        slab: str = "slub",
        append: str = "",
        hart: str | HartOptions = "auto",
    ) -> None:
        self._console = Console()
        self.log: list[str] = []
        """What the kernel and its modules have printed (`printk`), a line each."""
        if slab not in SLAB_KINDS:
            raise ValueError(f"slab: {slab!r} is none of {', '.join(SLAB_KINDS)}")
        options = kernel_machine.KernelOptions(
            arguments.ram_size("ram", ram),
            arguments.paging("paging", paging),
            slab,
            append,
            HartOptions.of(hart),
        )
        log = self.log.append
        streams = kernel_machine.Streams(self._console.write, log=log, boot_log=log)
        self.system = kernel_machine.boot(options, streams)
        super().__init__(self.system.machine, self.system.symbols)
        self._modules: dict[str, Module] = {}

    def __repr__(self) -> str:
        free = sum(zone.nr_free_pages for zone in self.mm.zones)
        return f"<Kernel {self.mm.mode.name}, {free} pages free: {self._where()}>"

    @property
    def mm(self) -> MemoryManager:
        """The memory manager: ``mm.alloc_pages``, ``mm.vmalloc``, ``mm.kmem_cache_create`` ..."""
        return self.system.kernel

    @property
    def output(self) -> str:
        """What programs have written."""
        return self._console.data.decode(errors="replace")

    def kmalloc(self, size: int, flags: int = GFP_KERNEL) -> int:
        """``size`` bytes; the VA, 0 when there is no memory (`mm.kmalloc`)."""
        return self.mm.kmalloc(arguments.integer("size", size), flags) or 0

    def kfree(self, va: int) -> None:
        """Give back what `kmalloc` gave. Raises MmError for what it did not give."""
        self.mm.kfree(arguments.integer("va", va))

    def virt_to_page(self, va: int) -> Page:
        """The `struct page` of the frame that a VA of the direct map is in, as it is in RAM.

        Raises MmError for another VA.
        """
        return self.mm.page(self.mm.space.virt_to_pfn(arguments.integer("va", va)))

    def check(self) -> Report:
        """Every structure of the memory manager in RAM, checked. Raises CheckError (an MmError)."""
        return check(self.mm)

    # programs and modules

    def run_program(self, program: str, *words: str) -> Stop:
        """Run a U-mode program (an ELF, a C file, a shipped guest) to its end.

        It stays loaded, to be looked at, until the next one is. Raises UsageError, ElfError.
        """
        self.system.load_program(_load(program), words)
        return self._run()

    def insmod(self, module: str, *parameters: str) -> Stop:
        """Load a kernel module (a C file, an ELF, a shipped guest) and run its init.

        The Stop's ``value`` is what init returned: 0, or a negative errno, and the module is not
        loaded. Raises UsageError, ElfError; ValueError when it is loaded already.
        """
        elf = _load(module)
        if elf.name in self._modules:
            raise ValueError(f"module: {elf.name} is loaded already")
        if self.system.process is None:
            self.system.load_program(_load(_INSMOD))
        with self._interruptible():
            loaded, stop = self.system.load_module(elf, parameters)
        if loaded in self.system.modules:
            self._modules[elf.name] = loaded
        return stop

    def rmmod(self, name: str) -> Stop:
        """Run a module's exit and give its memory back. Raises KeyError when it is not loaded."""
        if name not in self._modules:
            raise KeyError(f"there is no module {name!r} loaded")
        with self._interruptible():
            stop = self.system.unload_module(self._modules[name])
        if stop.reason is StopReason.EXIT:
            del self._modules[name]
        return stop


def _load(name: str) -> Elf:
    """A guest of the kernel machine, by what it is called."""
    return machines.load(find(name, RUN, machines.KERNEL), machines.KERNEL)
