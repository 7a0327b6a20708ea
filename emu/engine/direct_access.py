"""The hart's state in place: QEMU's own ``CPURISCVState``, and QEMU's own functions.

Not a public interface: where everything is, is found and proven at the start (`emu.engine.layout`).
"""

from __future__ import annotations

import ctypes as C
import mmap
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from unicorn.unicorn_py3.unicorn import Uc

from emu.engine import native
from emu.engine.access import CsrIllegal, CsrRead, CsrWrite
from emu.engine.calls import EngineError, address, library
from emu.engine.layout import (
    Allocation,
    functions,
    may_be_no_exit_request,
    restored_pc,
)
from emu.engine.layout_proof import proven_layout
from emu.engine.mmu import Mmu
from emu.engine.state_words import check_words, words_at
from emu.spec import csr as CSR
from emu.spec import words as W

_M64 = (1 << 64) - 1
_PMPCFG0, _PMPADDR0, _PMP_ENTRIES = 0x3A0, 0x3B0, 16

_EXEC_INTERRUPT = C.CFUNCTYPE(C.c_bool, C.c_void_p, C.c_int)
_MEMORY_MAPPING = C.CFUNCTYPE(C.c_void_p, C.c_void_p, C.c_uint64)

_CSR_OP = C.CFUNCTYPE(C.c_int, C.c_uint64, C.c_int, C.POINTER(C.c_uint64), C.c_uint64, C.c_uint64)
_NOTHING = C.CFUNCTYPE(None)

# What the C knows of harts stays where it is: it may look at one while that is taken away. So it
# is used again, and never freed.
_unused: list[native.Hart] = []
_harts_lock = threading.Lock()


def _add_hart(words: int, cpu: int) -> native.Hart:
    with _harts_lock:
        hart = _unused.pop() if _unused else native.Hart()
        following = hart.next
        C.memset(C.addressof(hart), 0, C.sizeof(hart))
        hart.next, hart.cpu, hart.words = following, cpu, words
        hart.stimecmp = hart.alarm_at = native.NEVER
        hart.mcounteren = hart.scounteren = 0xFFFF_FFFF  # the spec leaves open what they hold
        native.functions().add_hart(C.addressof(hart))
        return hart


def _remove_hart(hart: native.Hart) -> None:
    with _harts_lock:
        if hart.words:
            hart.words = 0
            native.functions().remove_hart(C.addressof(hart))
            _unused.append(hart)


class DirectAccess:
    """The hart's state in place, and QEMU's own functions.

    Raises EngineError when anything is not as this file knows it.
    """

    name = "direct"
    in_place = True
    missing: tuple[str, ...] = ()

    def __init__(self, uc: Uc) -> None:
        self._uc = uc
        if not native.available():
            raise EngineError("the C for the engine is not built for this host")
        self._layout = where = proven_layout()
        try:
            self._tlb_flush = library.tlb_flush_riscv64
            self._drop = library.tb_invalidate_phys_range_riscv64
            self._physical = library.riscv_cpu_get_phys_page_debug_riscv64
            self._physical.restype = C.c_uint64
            self._csrrw = library.riscv_csrrw_debug_riscv64
            self._pmp_allows = address(library.pmp_hart_has_privs_riscv64)
            self._set_page = address(library.tlb_set_page_riscv64)
        except AttributeError as e:
            raise EngineError(f"libunicorn does not export {e}") from e
        handle = Allocation(uc._uch.value or 0)
        cpu = Allocation(handle.read(where.uc_cpu, 8))
        self._cpu = cpu.at
        self._env = cpu.read(where.cpu_env, 8)
        if not cpu.at < self._env <= cpu.at + cpu.size - 8 * W.COUNT:
            raise EngineError("the CPU does not hold its state")
        self.words = words_at(self._env)
        check_words(uc, self.words, lambda: None)
        known = functions()
        self._tlb_fill = known["tlb_fill"]
        self._exec_interrupt = known["exec_interrupt"]
        found = (
            handle.read(where.uc_memory_mapping, 8),
            cpu.read(where.cpu_tlb_fill, 8),
            cpu.read(where.cpu_exec_interrupt, 8),
        )
        if found != (known["memory_mapping"], self._tlb_fill, self._exec_interrupt):
            raise EngineError("the engine has other functions than a new one")
        if not may_be_no_exit_request(handle, where.uc_no_exit_request):
            raise EngineError("uc_struct.no_exit_request is not where it should be")
        self._use_native_code()
        self.shared = _add_hart(self._env, self._cpu)
        self._forget = weakref.finalize(self, _remove_hart, self.shared)
        self._memory_mapping = C.c_uint64.from_address(handle.at + where.uc_memory_mapping)
        self._mapping = known["memory_mapping"], address(_no_mapping)
        self._cs = C.c_void_p(self._cpu)
        # With it, only the start of a block asks for exits: no AMO or device access is
        # cut in two and run twice, and loads and stores lose a helper call.
        self._no_exit_request = C.c_uint8.from_address(handle.at + where.uc_no_exit_request)
        self._no_exit_request.value = 1
        self.on_error: Callable[[BaseException], None] = _raise
        self._mmu: Mmu | None = None  # what translates, in the place of the engine's own walk
        self._watches: list[Any] = []
        self._filters: list[Any] = []
        self._reads: dict[int, CsrRead] = {}
        self._writes: dict[int, CsrWrite] = {}
        self.by_host = False  # the CSR access under way is not an instruction's
        self._c = native.functions()
        self._shared_at = C.addressof(self.shared)
        self._python_csr = _CSR_OP(self._on_csr)
        self.shared.python_csr = address(self._python_csr)

    def _use_native_code(self) -> None:
        native.use_engine(
            native.Engine(
                tlb_fill=self._tlb_fill,
                pmp_allows=self._pmp_allows,
                set_page=self._set_page,
                physical_page=address(self._physical),
                exec_interrupt=self._exec_interrupt,
                tlb_flush=address(self._tlb_flush),
                words_at=self._layout.cpu_env,
            )
        )
        known = native.HartEngine(
            tlb_flush=address(self._tlb_flush),
            get_csr=address(library.riscv_get_csr_ops_riscv64),
            set_csr=address(library.riscv_set_csr_ops_riscv64),
            clock_gettime=address(C.CDLL(None).clock_gettime),
            sched_yield=address(C.CDLL(None).sched_yield),
            interrupt_request=self._layout.cpu_interrupt_request,
            icount_high=self._layout.cpu_icount_high,
        )
        native.functions().use_hart_engine(C.addressof(known))
        native.functions().install_repairs()
        self._exec_interrupt = native.function("exec_interrupt")
        slot = C.c_uint64.from_address(self._cpu + self._layout.cpu_exec_interrupt)
        slot.value = self._exec_interrupt

    def close(self) -> None:
        """Forget the engine: its CSRs are again as Unicorn has them, and so is its walk."""
        self._forget()
        if self._mmu is not None:
            C.c_uint64.from_address(self._cpu + self._layout.cpu_tlb_fill).value = self._tlb_fill
            self._mmu.close()

    def watch_interrupts_for(self, take: Callable[[], None]) -> None:
        """``take()`` when Python may take the interrupt that comes next, from any thread."""
        self._take = _NOTHING(take)
        self.shared.take = address(self._take)

    def use_clock(self, clock: native.Clock, set_alarm: Callable[[], None]) -> None:
        """`time` and `stimecmp` are the C's; ``set_alarm()`` when the clock is to look at it."""
        self._clock = clock, _NOTHING(set_alarm)
        self.shared.set_alarm = address(self._clock[1])
        self.shared.clock = C.addressof(clock)
        for csr in (CSR.TIME, CSR.STIMECMP):
            self.shared.by_python[csr // 64] &= ~(1 << csr % 64)

    def present(self, held: bool, python_levels: int) -> None:
        """Show the engine the interrupt that comes next.

        None while ``held``, and none to a level that Python holds (a bit for each).
        """
        self._c.present_as(self._shared_at, held, python_levels)

    def presenter(self) -> Callable[[], None]:
        """As `present` with what it was last told: for who presents at each system call."""
        return partial(self._c.present, self._shared_at)

    def look_shown(self) -> tuple[int, int]:
        """What of mip the engine is shown, and what comes next: looked at together."""
        both = int(self._c.look_shown(self._shared_at))
        return both & 0xFFFF_FFFF, both >> 32

    def load(self) -> None:
        pass

    def store(self) -> None:
        pass

    def flush_tlb(self) -> None:
        self._tlb_flush(self._cs)

    def flush_code(self) -> None:
        self._uc.ctl_flush_tb()

    def obey_count(self, on: bool) -> None:
        # A count ends behind any instruction, not at the start of a block only.
        self._no_exit_request.value = 0 if on else 1
        self.flush_code()

    def deny_memory(self, on: bool) -> None:
        # Each access looks its region up and, without one, is not performed.
        self._memory_mapping.value = self._mapping[on]

    def override_csr(self, csr: int, read: CsrRead | None, write: CsrWrite | None) -> None:
        if read:
            self._reads[csr] = read
        if write:
            self._writes[csr] = write
        self._c.install_csr(csr)
        self.ask_python(csr)

    def ask_python(self, csr: int) -> None:
        """What `override_csr` has for ``csr`` counts, whether the C could do it or not."""
        self.shared.by_python[csr // 64] |= 1 << csr % 64

    def _original_csr(self, csr: int, new: int, mask: int) -> int:
        old = C.c_uint64()
        if self._c.original_csr(self._env, csr, C.addressof(old), new, mask) < 0:
            raise CsrIllegal
        return old.value

    def _on_csr(self, _env: int, csr: int, result: Any, new: int, mask: int) -> int:
        """An instruction, or the host, accesses a CSR that Python has."""
        try:
            read, write = self._reads.get(csr), self._writes.get(csr)
            if mask != _M64 or result:

                def original() -> int:
                    return self._original_csr(csr, 0, 0)

                old = original() if read is None else read(original)
                if result:
                    result[0] = old
                new = old & ~mask | new & mask
            if mask and write is None:
                self._original_csr(csr, new, _M64)
            elif mask and write is not None:

                def perform(value: int) -> None:
                    self._original_csr(csr, value, _M64)

                write(new, perform)
            return 0
        except CsrIllegal:
            return -1
        except BaseException as e:  # nothing may pass through QEMU's C frames
            self.on_error(e)
            return -1

    def drop_code(self, offset: int, size: int) -> None:
        # RAM is the first memory that the engine was given: its ram_addr_t begins at 0.
        self._drop(self._uc._uch, C.c_uint64(offset), C.c_uint64(offset + size))

    def physical(self, va: int) -> int | None:
        pa = self._physical(self._cs, C.c_uint64(va & -4096))
        return None if pa == _M64 else int(pa) | va & 4095

    def walk_by(self, mmu: Mmu) -> None:
        functions = (
            library.tlb_set_page_riscv64,
            library.riscv_raise_exception_riscv64,
            library.cpu_restore_state_riscv64,
        )
        addresses = (C.c_uint64 * len(functions))(*map(address, functions))
        native.call("use_engine_functions", C.addressof(addresses))
        mmu.take_over(self._cpu, self._env)
        self._mmu = mmu
        C.c_uint64.from_address(self._cpu + self._layout.cpu_tlb_fill).value = native.function(
            "fill"
        )

    def speed_bare_stores(self) -> None:
        if self._mmu is not None:
            self._mmu.split_entries()
            return
        slot = C.c_uint64.from_address(self._cpu + self._layout.cpu_tlb_fill)
        slot.value = native.function("tlb_fill")

    def new_block_hook(
        self, base: int, seen: mmap.mmap, chunk_shift: int, unseen: Any
    ) -> tuple[Any, int | None]:
        at = C.addressof(C.c_uint8.from_buffer(seen))
        data = native.BlockFilter(
            self._cpu, self._env, base, len(seen), chunk_shift, at, address(unseen)
        )
        self._filters.append((data, seen, unseen))
        return native.function("filter_block"), C.addressof(data)

    @property
    def leaves_at(self) -> int:
        """The host address of 16 bits that are not 0 when the engine leaves the block at hand."""
        return self._cpu + self._layout.cpu_icount_high

    def access_pc(self) -> int | None:
        """From a device's callback: the VA of the instruction that accesses it.

        Within a block the engine keeps pc in no register, but the place in translated code
        from which it left, and finds the instruction from that as it does for exceptions.
        None where that place is not in translated code.
        """
        place = C.c_uint64.from_address(self._cpu + self._layout.cpu_mem_io_pc)
        return restored_pc(self._cpu, self._env, place.value)

    def watch_interrupts(self, taken: Callable[[int], None]) -> Callable[[], None]:
        """``taken(priv)`` behind each interrupt that the engine delivers, from level ``priv``.

        Takes the place of the function that QEMU's main loop asks whether an interrupt is
        to be taken now, and asks the original. Returns what ends the watch, safe from
        callbacks too. Raises EngineError when another watch is there already.
        """
        at = self._cpu + self._layout.cpu_exec_interrupt
        original = C.c_uint64.from_address(at).value
        if original != self._exec_interrupt:
            raise EngineError("somebody watches the interrupts already")
        slot, ask, words = C.c_uint64.from_address(at), _EXEC_INTERRUPT(original), self.words

        def exec_interrupt(cpu: int, request: int) -> bool:
            priv = words[W.PRIV]
            took: bool = ask(cpu, request)
            if took:
                taken(priv)
            return took

        callback = _EXEC_INTERRUPT(exec_interrupt)
        slot.value = address(callback)

        def end() -> None:
            slot.value = original

        self._watches.append(callback)  # the engine may be in it when the watch ends
        return end

    def reset_pmp(self) -> None:
        if any(self.csr(_PMPCFG0 + i) for i in range(0, _PMP_ENTRIES // 4, 2)):
            where = self._layout
            for i in range(_PMP_ENTRIES):  # a locked one takes no writes until then
                entry = self._env + where.env_pmp + where.pmp_entry * i
                C.c_uint8.from_address(entry + where.pmp_config).value = 0
        for i in range(_PMP_ENTRIES):
            self.csr(_PMPADDR0 + i, 0)
        for i in range(0, _PMP_ENTRIES // 4, 2):
            self.csr(_PMPCFG0 + i, 0)

    def csr(self, csr: int, value: int | None = None) -> int | None:
        old = C.c_uint64()
        mask = 0 if value is None else _M64
        outer, self.by_host = self.by_host, True
        status = self._csrrw(
            C.c_void_p(self._env),
            C.c_int(csr),
            C.byref(old),
            C.c_uint64(value or 0),
            C.c_uint64(mask),
        )
        self.by_host = outer
        return None if status else old.value


_no_mapping = _MEMORY_MAPPING(lambda _uc, _pa: None)


def _raise(error: BaseException) -> None:
    raise error
