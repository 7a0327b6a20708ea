"""What the engine does by itself and a trace must see all the same.

  CodeHooks       callbacks at instructions, which can be taken away again
  ReturnWatch     each `sret` and `mret`, at the price of a callback for each
  InterruptWatch  each interrupt that the engine delivers itself (`Hart.present`)
  AccessPc        the instruction that accesses a device: pc stands still inside of a block

The last two reach into the engine as `emu.inside` does. The function that InterruptWatch
replaces must be the one that the library exports; what AccessPc finds must be a place in
translated code, or it is not used.
"""

from __future__ import annotations

import ctypes as C
from collections.abc import Callable
from typing import Any

import unicorn.unicorn_const as ucc

from emu import csr as CSR
from emu import inside, insn, words
from emu.csr import Priv
from emu.hart import Hart
from emu.paging import PAGE_SIZE
from emu.trap import Trap
from emu.walk import Access, Refusal

_SRET, _MRET = 0x1020_0073, 0x3020_0073
_ENGINE_TSR = 1 << 30  # where the engine keeps mstatus.TSR, see emu.csr_repairs
_PAGES_KEPT = 1 << 14

# Offsets in bytes into CPUState and what follows it, of unicorn 2.1.4's wheel.
_CPU_MEM_IO_PC = 0x8178
_CPU_EXEC_INTERRUPT = 0x93E8  # CPUClass.cpu_exec_interrupt; the class is part of the CPU

_EXEC_INTERRUPT = C.CFUNCTYPE(C.c_bool, C.c_void_p, C.c_int)


class _Block(C.Structure):
    """Unicorn's uc_tb: a translated block's address (VA), instructions and bytes."""

    _fields_ = [("pc", C.c_uint64), ("icount", C.c_uint16), ("size", C.c_uint16)]


class CodeHooks:
    """Hooks on ``hart`` that are removed together."""

    def __init__(self, hart: Hart) -> None:
        self._hart = hart
        self._handles: list[int] = []
        self.removed = False

    def add(self, kind: int, callback: Any, first: int = 1, last: int = 0) -> None:
        """Bind a raw callback to ``[first, last]`` (VA); everywhere when first > last.

        Code that is translated already does not call it: see `apply`.
        """
        self._hart.callbacks.append(callback)
        self._handles.append(inside.hook(self._hart.uc, kind, callback, first, last))

    def code(self, see: Callable[[int], None], first: int = 1, last: int = 0) -> None:
        """``see(va)`` before each instruction in ``[first, last]``, the state up to date."""
        hart = self._hart
        load = hart.access.load

        def code(_uc: int, va: int, _size: int, _data: int) -> None:
            try:
                load()
                see(va)
            except BaseException as e:  # nothing may pass through the engine's C frames
                hart.fail(e)

        self.add(ucc.UC_HOOK_CODE, inside.CODE_CB(code), first, last)

    def apply(self) -> None:
        """Let code that is translated already obey. Not while the engine runs it."""
        self._hart.access.flush_code()

    def remove(self) -> None:
        """Take all of them away, for good. Not while the engine runs."""
        self.removed = True
        while self._handles:
            inside._lib.uc_hook_del(self._hart.uc._uch, C.c_size_t(self._handles.pop()))
        self.apply()


class ReturnWatch:
    """``returned(level, target, pc)`` at each `sret` and `mret` that is not illegal.

    The engine tells of each block that it translates; one that ends in such an instruction
    makes it a hook of its own. Code between them runs as fast as ever.
    """

    def __init__(
        self, hart: Hart, hooks: CodeHooks, returned: Callable[[int, int, int], None]
    ) -> None:
        self._hart = hart
        self._hooks = hooks
        self._returned = returned
        self._hooked: set[int] = set()  # VAs
        self._found: dict[int, int] = {}  # VAs that wait for their hook, and what stands there
        self._pages: dict[tuple[int, int, int], int | None] = {}
        hooks.add(ucc.UC_HOOK_EDGE_GENERATED, inside.EDGE_CB(self._on_block))

    def _on_block(self, _uc: int, block: int, _previous: int, _data: int) -> None:
        try:
            hart = self._hart
            hart.access.load()
            if hart.words[words.PRIV] == Priv.U:
                return
            found = _Block.from_address(block)
            last = found.pc + found.size - 4
            if found.size < 4 or last in self._hooked:
                return
            bits = self._read(last)
            if bits in (_SRET, _MRET):
                self._found[last] = bits
                hart.call_soon(self._hook)  # the block at hand has not run yet
        except BaseException as e:  # nothing may pass through the engine's C frames
            self._hart.fail(e)

    def _hook(self) -> None:
        if self._hooks.removed:  # this task has waited for the next run
            return
        for va, bits in self._found.items():
            self._hooked.add(va)
            self._hooks.code(self._seer(va, bits), va, va)
        self._found.clear()
        self._hooks.apply()

    def _read(self, va: int) -> int:
        """The instruction at ``va``, 0 where there is no RAM behind it."""
        low = self._half(va)
        # A block's last four bytes can also be two short instructions.
        return low | self._half(va + 2) << 16 if insn.length(low) == 4 else 0

    def _half(self, va: int) -> int:
        pa = self._physical(va)
        return 0 if pa is None else self._hart.ram.read16(pa)

    def _physical(self, va: int) -> int | None:
        """The PA in RAM that the hart fetches from at ``va``."""
        hart = self._hart
        # The reference walk is too slow for each block.
        key = (va & -PAGE_SIZE, hart.satp, hart.words[words.PRIV])
        if key not in self._pages:
            if len(self._pages) >= _PAGES_KEPT:
                self._pages.clear()
            result = hart.walk(key[0], Access.EXECUTE)
            pa = None
            if not isinstance(result, Refusal):
                pa = key[0] if result is None else result.pa
            self._pages[key] = pa if pa is not None and hart.ram.contains(pa, PAGE_SIZE) else None
        page = self._pages[key]
        return None if page is None else page + va % PAGE_SIZE

    def _seer(self, va: int, bits: int) -> Callable[[int], None]:
        """What looks at the instruction ``bits`` at ``va`` each time it is about to run."""
        w, returned, ram = self._hart.words, self._returned, self._hart.ram
        low, high = self._physical(va), self._physical(va + 2)
        assert low is not None and high is not None
        is_mret = bits == _MRET
        # A closure over what never changes: this is half of what a trap costs.
        priv_word, status_word, read16 = words.PRIV, words.MSTATUS, ram.read16

        def see(_va: int) -> None:
            level, status = w[priv_word], w[status_word]
            if is_mret:
                least, target = 3, (status & CSR.MSTATUS_MPP) >> CSR.MSTATUS_MPP_SHIFT
            else:
                least, target = 3 if status & _ENGINE_TSR else 1, status >> 8 & 1  # SPP
            # Illegal at a lower level; and another instruction may stand there by now.
            if level >= least and read16(low) == bits & 0xFFFF and read16(high) == bits >> 16:
                returned(level, target, va)

        return see


class InterruptWatch:
    """``taken(trap)`` after each interrupt that the engine has delivered by itself.

    Takes the place of the function that QEMU's main loop asks whether an interrupt is to be
    taken now, and asks the original. Raises InsideError where that cannot be done.
    """

    def __init__(self, hart: Hart, taken: Callable[[Trap], None]) -> None:
        access, w = hart.access, hart.words
        if not isinstance(access, inside.InsideAccess):
            raise inside.InsideError("the hart is on the public interface")
        try:
            known = inside._lib.riscv_cpu_exec_interrupt_riscv64
        except AttributeError as e:
            raise inside.InsideError(f"libunicorn does not export {e}") from e
        place = access._cpu + _CPU_EXEC_INTERRUPT
        self._original = inside._peek(place, 8)
        if self._original != C.cast(known, C.c_void_p).value:
            # Either the layout differs, or another watch is there already: both are refused.
            raise inside.InsideError("CPUClass.cpu_exec_interrupt is not where it should be")
        self._slot = C.c_uint64.from_address(place)
        original = _EXEC_INTERRUPT(self._original)

        def exec_interrupt(cpu: int, request: int) -> bool:
            priv = w[words.PRIV]
            took: bool = original(cpu, request)
            if took:
                try:
                    to_m = w[words.PRIV] == Priv.M
                    xcause = w[words.MCAUSE if to_m else words.SCAUSE]
                    epc = w[words.MEPC if to_m else words.SEPC]
                    taken(Trap(xcause & (1 << 63) - 1, epc, 0, priv, w[words.PRIV], True))
                except BaseException as e:  # nothing may pass through the engine's C frames
                    hart.fail(e)
            return took

        callback = _EXEC_INTERRUPT(exec_interrupt)
        hart.callbacks.append(callback)
        self._slot.value = C.cast(callback, C.c_void_p).value or 0

    def close(self) -> None:
        """Give the engine its own function back; safe from callbacks too."""
        self._slot.value = self._original


class AccessPc:
    """Called by a device's callback: the VA of the instruction at work, None when unknown.

    Within a block the engine keeps pc in no register. It keeps the place in its translated
    code from which it left for a device, and finds the instruction from that, as it does
    for exceptions. None on the public way, and where that place is not in translated code.
    """

    def __init__(self, hart: Hart) -> None:
        self._words = hart.words
        self._cpu: int | None = None
        access = hart.access
        if isinstance(access, inside.InsideAccess) and hasattr(
            inside._lib, "cpu_restore_state_riscv64"
        ):
            prototype = C.CFUNCTYPE(C.c_bool, C.c_void_p, C.c_size_t, C.c_bool)
            self._restore = prototype(("cpu_restore_state_riscv64", inside._lib))
            self._cpu = access._cpu
            self._place = C.c_uint64.from_address(self._cpu + _CPU_MEM_IO_PC)

    def __call__(self) -> int | None:
        if self._cpu is None:
            return None
        w = self._words
        kept = w[words.PC]
        found = self._restore(self._cpu, self._place.value, False)
        pc, w[words.PC] = w[words.PC], kept
        return pc if found else None
