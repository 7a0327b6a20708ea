"""The kernel machine: firmware and kernel in Python, programs and modules on the hart.

Boot is what it is on hardware: reset code in ROM, the M-mode start, an S-mode head that
asks for page tables and switches translation on. Then Python holds M and S:

  M  the SBI, and the kernel's own calls as one extension of it (modules `ecall` from S)
  S  system calls and faults of programs, faults of modules
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mm
from emu.board.machine import Machine
from emu.board.memory_map import TIMEBASE_HZ
from emu.debug.symbols import Symbols
from emu.hart import HartOptions
from emu.spec import words as W
from emu.spec.csr import MSTATUS_FS, MSTATUS_FS_INITIAL, MSTATUS_SIE, Priv
from emu.spec.paging import PAGE_SIZE, SV39, PagingMode
from emu.spec.trap import PAGE_FAULTS, Trap
from emu.stop import Stop, StopReason
from firmware import images
from firmware.sbi import SUCCESS, Sbi
from guest.build import BUILT
from guest.image import elf as elf_file
from guest.image.elf import Elf, ElfError
from guest.kernel import stack, syscalls
from guest.kernel.abi import KERNEL_EXTENSION, Call
from guest.kernel.fences import Fences
from guest.kernel.kernel_calls import KernelCalls, Upcall
from guest.kernel.linux_errno import EINVAL
from guest.kernel.module import Module
from guest.kernel.params import set_all
from guest.kernel.process import Process
from guest.kernel.task import TaskStruct
from guest.kernel.vsprintf import Symbol
from mm.addrspace import KERNEL_IMAGE_OFFSET, KERNEL_LINK_ADDR
from mm.boot import Config, ImageSegment
from mm.kernel import Kernel
from mm.pgtable import MmStruct
from mm.vma import VM_GROWSDOWN

_STACK_SIZE = 16 << 10  # bytes, of the stack that modules run on
_NORMAL_PRIO = 120  # nice 0
_M64 = (1 << 64) - 1
_NS_PER_TICK = 1_000_000_000 // TIMEBASE_HZ


class BootError(Exception):
    """The machine did not come up; ``stop`` is where it ended."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(f"the kernel did not start: {stop.detail or stop.reason.value}")
        self.stop = stop


class System:
    """A machine with the kernel in Python, not yet booted.

    ``output`` takes what programs write; ``log`` a line of the kernel log at a time.
    ``config`` are further members of ``mm.Config``, by name.
    ``read_input`` gives up to n bytes for a program that reads; ``warn`` takes what the user
    is to be told while a program runs, a line at a time. Raises ValueError for a RAM
    size that cannot be.
    """

    def __init__(
        self,
        ram_size: int = 64 << 20,
        paging: PagingMode = SV39,
        output: Callable[[bytes], None] = lambda data: None,
        log: Callable[[str], None] = lambda line: None,
        read_input: Callable[[int], bytes] = lambda size: b"",
        access: str | HartOptions = "auto",
        config: Mapping[str, Any] | None = None,
        warn: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._config = dict(config or {})
        self.machine = Machine(ram_size, output, access)
        self.hart = self.machine.hart
        self.paging = paging
        self.output = output
        self.log = log
        self.read_input = read_input
        self.warn = warn
        self.hash_pointers = False  # whether %p hides addresses; counts until boot
        self.symbols = Symbols()
        self.kernel: Kernel
        self.process: Process | None = None
        self.modules: list[Module] = []
        self._head = elf_file.load(_head_path())
        self._stack = self._stack_top = 0
        self._return = self._head.symbol("kernel_return") or 0
        self._sbi = Sbi(self.hart, self.machine.ram, output)
        self._sbi.extensions[KERNEL_EXTENSION] = {
            Call.SETUP_VM.value: self._setup_vm,
            Call.START_KERNEL.value: self._start_kernel,
        }

    # boot

    def boot(self) -> None:
        """Reset the hart and run until the kernel stands. Raises BootError."""
        ram = self.machine.ram
        image_pa = ram.base + KERNEL_IMAGE_OFFSET
        entry = self._head.entry - KERNEL_LINK_ADDR + image_pa
        self._segments = []
        for s in self._head.segments:
            pa = s.va - KERNEL_LINK_ADDR + image_pa
            if not ram.contains(pa, s.memory_size):
                raise ValueError(f"RAM of {ram.size >> 10} KiB: the kernel needs at least 8 MiB")
            ram.write(pa, s.data)
            self._segments.append(ImageSegment(pa, s.va, s.memory_size, "rx"))
        ram.write(ram.base, images.start_code(entry))
        self.machine.set_rom(images.reset_code(), ram.base)
        self.hart.handlers[Priv.M.value] = self._sbi.handle
        self.symbols.add_source(lambda: self._head.symbols)
        stop = self.machine.run()
        if stop.value != "booted":
            raise BootError(stop)

    def _setup_vm(self) -> tuple[int, int]:
        """The head asks for page tables: build the memory manager, return satp."""
        config = Config(paging=self.paging, image=tuple(self._segments), **self._config)
        self.kernel = mm.boot(self.machine.ram, config, Fences(self.hart))
        return SUCCESS, self.kernel.satp()

    def _start_kernel(self) -> Stop:
        """The head runs on the kernel's tables: from here on Python holds S."""
        self.hart.handlers[Priv.S.value] = self._supervisor_trap
        lowest = self.kernel.vmalloc(_STACK_SIZE)
        if lowest is None:
            return Stop(StopReason.FAULT, detail="no memory for the kernel stack")
        self._stack = lowest
        self._stack_top = lowest + _STACK_SIZE - TaskStruct.SIZE
        # From here on the calls are those of modules; the head's are gone.
        self._calls = KernelCalls(
            self.kernel, self.hart, self.log, self._construct, self._symbol_at, self.hash_pointers
        )
        self._sbi.extensions[KERNEL_EXTENSION] = self._calls.table()
        return Stop(StopReason.EXIT, value="booted")

    # programs

    def load_program(
        self, elf: Elf, arguments: Sequence[str] = (), environment: Sequence[str] = ()
    ) -> Process:
        """Load a program, not yet running, in place of the one before. Raises ElfError."""
        self.end_program()
        self.process = Process(
            self.kernel,
            elf,
            arguments,
            environment,
            self.output,
            self.read_input,
            now=lambda: self.machine.clock.now() * _NS_PER_TICK,
            clock_tick=_NS_PER_TICK,
            warn=self.warn,
        )
        self.symbols.add_source(lambda: elf.names, self.process.bias)
        self.kernel.set_current(self.process.pid, self.process.name[:15])
        w = self.hart.words
        for i in range(1, 32):
            w[i] = 0
        for i in range(W.FPR, W.FPR + 32):
            w[i] = 0
        w[W.SP] = self.process.sp
        self._enter(Priv.U, self.process.entry, self.process.mm)
        return self.process

    def run_program(self) -> Stop:
        """Run the loaded program to its end."""
        assert self.process is not None
        return self.machine.run()

    def end_program(self) -> None:
        """Take the program's address space down."""
        if self.process is not None:
            self.hart.set_satp(self.kernel.satp())
            process, self.process = self.process, None
            self.kernel.set_current(0, "swapper")
            self.symbols.remove_range(0, process.mm.task_size)
            process.close()

    def _enter(self, priv: Priv, pc: int, space: MmStruct) -> None:
        w = self.hart.words
        w[W.PC] = pc
        w[W.PRIV] = priv.value
        # Kernel code runs with interrupts on, as a task of Linux does; a program cannot see it.
        sie = MSTATUS_SIE if priv is Priv.S else 0
        w[W.MSTATUS] = w[W.MSTATUS] & ~(MSTATUS_FS | MSTATUS_SIE) | MSTATUS_FS_INITIAL | sie
        self.hart.set_satp(self.kernel.satp(space))

    # modules

    @property
    def bugs(self) -> list[str]:
        """The first line of each bug that was reported."""
        self._calls.flush_messages()
        return self._calls.printk.bugs

    def load_module(self, elf: Elf, arguments: Sequence[str] = ()) -> tuple[Module, Stop]:
        """Load a module and run its init function.

        Returns the module and how init ended: EXIT with its result as ``value`` (None when
        it ended the machine), or a fault. A module whose init fails is unloaded, as Linux
        does. Raises ElfError.
        """
        module = Module(self.kernel, elf, arguments)
        self.symbols.add_source(module.names, module.base)
        self.modules.append(module)
        try:
            error = self._set_params(module, arguments)
        except ElfError:
            self._forget(module)
            raise
        if isinstance(error, Stop):
            return module, error
        if error:
            self._forget(module)
            return module, Stop(StopReason.EXIT, value=error, detail="bad parameters")
        stop = self.call(module.init)
        if stop.reason is StopReason.EXIT:
            self._check_balance(module)
        if stop.reason is StopReason.EXIT and stop.value not in (0, None):
            self._forget(module)
        return module, stop

    def _set_params(self, module: Module, words: Sequence[str]) -> int | Stop:
        """Give a module its parameters: 0, the error that refuses it, or what ended a setter."""
        ended: list[Stop] = []

        def call(setter: int, value: int, param: int) -> int:
            stop = self.call(setter, value, param)
            if stop.reason is not StopReason.EXIT or stop.value is None:
                ended.append(stop)
                return -EINVAL
            result: int = stop.value
            return result

        say, takes_words = self._calls.printk.say, module.takes_words
        error = set_all(
            module.name, module.params(), words, module.put_string, call, say, takes_words
        )
        return ended[0] if ended else error

    def _check_balance(self, module: Module) -> None:
        """What init left locked or off is put right, and said (Linux: do_one_initcall)."""
        info = self._task().thread_info
        left = "preemption imbalance " if info.preempt_count else ""
        left += "disabled interrupts " if info.hardirqs_disabled else ""
        info.clear()
        if left:
            name = self._symbol_at(module.init)
            self._calls.report(f"WARNING: initcall {name} returned with {left}")

    def unload_module(self, module: Module) -> Stop:
        """Run a module's exit function, which has no result, and give its memory back."""
        stop = Stop(StopReason.EXIT, value=0)
        if module.exit is not None:
            stop = self.call(module.exit)
        if stop.reason is StopReason.EXIT:
            self._forget(module)
            if stop.value is not None:
                stop = replace(stop, value=0)
        return stop

    def _forget(self, module: Module) -> None:
        self.modules.remove(module)
        self.symbols.remove_range(module.base, module.base + module.size)
        module.close()

    def _task(self) -> TaskStruct:
        area = self.kernel.find_vm_area(self._stack)
        assert area is not None
        last = self.kernel.vmalloc_areas.pages_of(area)[_STACK_SIZE // PAGE_SIZE - 1]
        return TaskStruct(self.kernel.ram, (last + 1) * PAGE_SIZE - TaskStruct.SIZE)

    def _set_task(self) -> None:
        """Fill in the task that `current` points at: that of the loaded program, or init."""
        task, info = self._task(), self.kernel.vmcoreinfo.page_alloc
        task.clear()
        task.pid, task.tgid = info.current_pid, info.current_tgid
        task.comm = info.current_comm
        task.stack, task.group_leader = self._stack, self._stack_top
        task.prio = task.static_prio = task.normal_prio = _NORMAL_PRIO
        task.mm = task.active_mm = self.kernel.va(self.process.mm.pa) if self.process else 0

    def _symbol_at(self, va: int) -> Symbol | None:
        """What is at a kernel address, for %pS."""
        found = (module.symbol_at(va) for module in self.modules)
        return next((symbol for symbol in found if symbol is not None), None)

    def call(self, va: int, *arguments: int) -> Stop:
        """Call a function at ``va`` (VA) in S-mode with up to eight arguments.

        It runs in the address space of the loaded program, if there is one, as a module's
        code does in Linux. EXIT with its signed result as ``value``, or what else ended it.
        """
        w = self.hart.words
        for i, argument in enumerate(arguments):
            w[W.A0 + i] = argument & _M64
        w[W.SP] = w[W.TP] = self._stack_top
        w[W.RA] = self._return
        self._set_task()
        self._enter(Priv.S, va, self.process.mm if self.process else self.kernel.init_mm)
        stop = self._run()
        self._calls.printk.flush()
        return stop

    def _run(self) -> Stop:
        """Run S-mode code, and the functions of its own that a kernel call needs run."""
        stop = self.machine.run()
        while isinstance(stop.value, Upcall):
            stop = self._serve(stop.value) or self.machine.run()
        return stop

    def _serve(self, upcall: Upcall) -> Stop | None:
        """Run the functions of ``upcall`` on the stack of the call that waits for them.

        None when all returned and the call can go on; else what ended one of them.
        """
        w = self.hart.words
        state = bytes(w)
        for function, argument in upcall.functions:
            w.cast("B")[:] = state
            w[W.A0], w[W.RA], w[W.PC] = argument, self._return, function
            stop = self._run()
            if stop.reason is not StopReason.EXIT or stop.value is None:
                return stop
        w.cast("B")[:] = state
        w[W.A0], w[W.A1] = SUCCESS, upcall.value
        return None

    def _construct(self, function: int, argument: int) -> None:
        """Run a module's constructor for an object of a slab that Python has asked for."""
        w = self.hart.words
        state = bytes(w)
        stop = self.call(function, argument)
        w.cast("B")[:] = state
        self.hart.set_satp(w[W.SATP])
        if stop.reason is not StopReason.EXIT:
            self.log(f"constructor at {function:#x} of the object at {argument:#x}: {stop.trap}")

    # traps to S

    def _supervisor_trap(self, trap: Trap) -> Stop | None:
        # A module can enter U-mode too, but it is no process.
        if trap.cause == 8 and not trap.interrupt and self.process is not None:
            return self._system_call(trap)
        return Stop(StopReason.FAULT, trap=trap)

    def _system_call(self, trap: Trap) -> Stop | None:
        w = self.hart.words
        w[W.PC] = trap.epc + 4
        assert self.process is not None
        arguments = (w[10], w[11], w[12], w[13], w[14], w[15])
        result = syscalls.call(self.process, w[W.A7], arguments)
        if isinstance(result, Stop):
            return result
        w[W.A0] = result & _M64
        return None

    def overflow(self, trap: Trap) -> str | None:
        """The stack that a fault has left, in one line; None when it is another fault."""
        if trap.cause not in PAGE_FAULTS:
            return None
        sp, va = self.hart.words[W.SP], trap.tval
        if trap.priv == Priv.S.value:
            low, high = self._stack, self._stack + _STACK_SIZE
            if stack.has_overflowed(low, high, sp, va):
                return stack.kernel_overflow(low, high, sp)
        elif self.process is not None:
            vma = self.kernel.address_spaces.find_vma(self.process.mm, va)
            if vma is None or not vma.vm_flags & VM_GROWSDOWN:
                return None
            if stack.has_overflowed(vma.vm_start, vma.vm_end, sp, va):
                return stack.user_overflow(vma.vm_start, vma.vm_end, va)
        return None

    def fault_notes(self, trap: Trap) -> list[str]:
        """What the kernel knows about a fault: Linux's first line, and the mapping around."""
        if trap.cause not in PAGE_FAULTS:
            return []
        lines = []
        va = trap.tval
        if trap.priv == Priv.S.value:
            what = "kernel paging request"
            if va < PAGE_SIZE:
                what = "kernel NULL pointer dereference"
            lines.append(f"Unable to handle {what} at virtual address {va:016x}")
        if self.process is not None and va < self.process.mm.task_size:
            lines.append(self._around_user(va))
        elif va >= self.kernel.layout.task_size:
            area = self.kernel.find_vm_area(va)
            if area is not None:
                lines.append(f"vm_struct {area.addr:#x}-{area.addr + area.size:#x} holds it")
        return lines

    def _around_user(self, va: int) -> str:
        assert self.process is not None
        spaces = self.kernel.address_spaces
        vma = spaces.vma_lookup(self.process.mm, va)
        if vma is not None:
            flags = "".join(c if vma.vm_flags >> i & 1 else "-" for i, c in enumerate("rwx"))
            return f"vm_area_struct {vma.vm_start:#x}-{vma.vm_end:#x} {flags} {vma.name}".rstrip()
        after = spaces.find_vma(self.process.mm, va)
        text = f"no vm_area_struct holds {va:#x}"
        if after is not None:
            text += f"; the next one above is {after.vm_start:#x}-{after.vm_end:#x} {after.name}"
        return text


def _head_path() -> Path:
    path = BUILT / "head.elf"
    if not path.exists():
        images.reset_code()  # raises NotBuilt with what to do
    return path
