"""The hart's state in place: QEMU's own ``CPURISCVState``, and QEMU's own functions.

Not a public interface: where everything is, is found and proven at the start (`emu.engine.layout`).
"""

from __future__ import annotations

import ctypes as C
import mmap
import weakref
from collections.abc import Callable
from typing import Any

from unicorn.unicorn_py3.unicorn import Uc

from emu.engine import native
from emu.engine.access import CsrIllegal, CsrOperate, CsrRead, CsrWrite
from emu.engine.calls import EngineError, address, library
from emu.engine.layout import (
    Allocation,
    functions,
    may_be_no_exit_request,
    raise_interrupt,
    restored_pc,
)
from emu.engine.layout_proof import proven_layout
from emu.engine.scratch_engine import CsrOps
from emu.engine.state_words import check_words, words_at
from emu.spec import words as W

_M64 = (1 << 64) - 1
_PMPCFG0, _PMPADDR0, _PMP_ENTRIES = 0x3A0, 0x3B0, 16

_EXEC_INTERRUPT = C.CFUNCTYPE(C.c_bool, C.c_void_p, C.c_int)
_MEMORY_MAPPING = C.CFUNCTYPE(C.c_void_p, C.c_void_p, C.c_uint64)

_CSR_PREDICATE = C.CFUNCTYPE(C.c_int, C.c_void_p, C.c_int)
_CSR_READ = C.CFUNCTYPE(C.c_int, C.c_void_p, C.c_int, C.POINTER(C.c_uint64))
_CSR_WRITE = C.CFUNCTYPE(C.c_int, C.c_void_p, C.c_int, C.c_uint64)
_CSR_OP = C.CFUNCTYPE(C.c_int, C.c_void_p, C.c_int, C.POINTER(C.c_uint64), C.c_uint64, C.c_uint64)


class DirectAccess:
    """The hart's state in place, and QEMU's own functions.

    Raises EngineError when anything is not as this file knows it.
    """

    name = "inside"
    in_place = True
    missing: tuple[str, ...] = ()

    def __init__(self, uc: Uc) -> None:
        self._uc = uc
        self._layout = where = proven_layout()
        try:
            self._tlb_flush = library.tlb_flush_riscv64
            self._drop = library.tb_invalidate_phys_range_riscv64
            self._physical = library.riscv_cpu_get_phys_page_debug_riscv64
            self._physical.restype = C.c_uint64
            self._csrrw = library.riscv_csrrw_debug_riscv64
            self._get_ops = library.riscv_get_csr_ops_riscv64
            self._set_ops = library.riscv_set_csr_ops_riscv64
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
        self._memory_mapping = C.c_uint64.from_address(handle.at + where.uc_memory_mapping)
        self._mapping = known["memory_mapping"], address(_no_mapping)
        self._cs = C.c_void_p(self._cpu)
        # With it, only the start of a block asks for exits: no AMO or device access is
        # cut in two and run twice, and loads and stores lose a helper call.
        self._no_exit_request = C.c_uint8.from_address(handle.at + where.uc_no_exit_request)
        self._no_exit_request.value = 1
        _accesses[self._env] = self
        self.on_error: Callable[[BaseException], None] = _raise
        self._watches: list[Any] = []
        self._filters: list[Any] = []
        self._reads: dict[int, CsrRead] = {}
        self._writes: dict[int, CsrWrite] = {}
        self._operations: dict[int, CsrOperate] = {}
        self.by_host = False  # the CSR access under way is not an instruction's

    def _use_native_code(self) -> None:
        if not native.available():
            return
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
        self._exec_interrupt = native.function("exec_interrupt")
        C.c_uint64.from_address(
            self._cpu + self._layout.cpu_exec_interrupt
        ).value = self._exec_interrupt

    def close(self) -> None:
        """Forget the engine; CSR overrides no longer reach this object."""
        if _accesses.get(self._env) is self:  # a later engine may have the same address
            del _accesses[self._env]

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

    def present_interrupts(self, mip: int) -> None:
        raise_interrupt(self._cpu, self._layout, mip)

    def override_csr(
        self,
        csr: int,
        read: CsrRead | None,
        write: CsrWrite | None,
        native_read: str | None = None,
        native_write: str | None = None,
        operate: CsrOperate | None = None,
    ) -> None:
        if read:
            self._reads[csr] = read
        if write:
            self._writes[csr] = write
        if operate:
            self._operations[csr] = operate
        entry = _overrides.get(csr)
        if entry is None:
            entry = _overrides[csr] = _Override(self, csr)
        if native.available():
            entry.install(self, read, write, native_read, native_write)
        else:
            entry.install(self, read, write)

    def drop_code(self, offset: int, size: int) -> None:
        # RAM is the first memory that the engine was given: its ram_addr_t begins at 0.
        self._drop(self._uc._uch, C.c_uint64(offset), C.c_uint64(offset + size))

    def physical(self, va: int) -> int | None:
        pa = self._physical(self._cs, C.c_uint64(va & -4096))
        return None if pa == _M64 else int(pa) | va & 4095

    def speed_bare_stores(self) -> None:
        if native.available():
            slot = C.c_uint64.from_address(self._cpu + self._layout.cpu_tlb_fill)
            slot.value = native.function("tlb_fill")

    def new_block_hook(
        self, base: int, seen: mmap.mmap, chunk_shift: int, unseen: Any
    ) -> tuple[Any, int | None]:
        if not native.available():
            return unseen, None
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


# QEMU has one CSR table for all engines of the process, so an override finds its hart by the
# env pointer that it is called with.
_accesses: weakref.WeakValueDictionary[int, DirectAccess] = weakref.WeakValueDictionary()
_overrides: dict[int, _Override] = {}


class _Override:
    """What the table has for ``csr``: the original functions, ours, or native ones.

    A function that nobody overrides stays the original. CSRs that the table has as one
    read-modify-write operation (mip, sip) are Python's whole.
    """

    def __init__(self, access: DirectAccess, csr: int) -> None:
        self._csr = csr
        self._original = CsrOps()
        access._get_ops(C.c_int(csr), C.byref(self._original))
        # Kept alive here: the table has their addresses.
        self._always = _CSR_PREDICATE(lambda env, number: 0)
        self._read = _CSR_READ(self._on_read)
        self._write = _CSR_WRITE(self._on_write)
        self._operate = _CSR_OP(self._on_operation)
        self._ops = CsrOps(
            self._original.predicate or address(self._always),
            self._original.read,
            self._original.write,
            address(self._operate) if self._original.op else None,
        )

    def install(
        self,
        access: DirectAccess,
        read: CsrRead | None,
        write: CsrWrite | None,
        native_read: str | None = None,
        native_write: str | None = None,
    ) -> None:
        """Let the table call what overrides reads and writes, for this hart and all others."""
        if read:
            self._ops.read = native.function(native_read) if native_read else address(self._read)
        if write:
            self._ops.write = (
                native.function(native_write) if native_write else address(self._write)
            )
        access._set_ops(C.c_int(self._csr), C.byref(self._ops))

    def _original_rw(self, env: int, new: int, mask: int) -> int:
        """The original read-modify-write, whichever way the table had it; the old value."""
        old, original, csr = C.c_uint64(), self._original, self._csr
        status = 0
        if original.op:
            status = _CSR_OP(original.op)(env, csr, C.byref(old), new, mask)
        elif mask and original.write:
            status = _CSR_WRITE(original.write)(env, csr, new)
        elif not mask and original.read:
            status = _CSR_READ(original.read)(env, csr, C.byref(old))
        if status < 0:
            raise CsrIllegal
        return old.value

    def _get(self, target: DirectAccess | None, env: int) -> int:
        read = target._reads.get(self._csr) if target else None
        if read is None:
            if not self._original.read and not self._original.op:
                raise CsrIllegal  # absent
            return self._original_rw(env, 0, 0)
        return read(lambda: self._original_rw(env, 0, 0))

    def _set(self, target: DirectAccess | None, env: int, value: int) -> None:
        def perform(value: int) -> None:
            self._original_rw(env, value, _M64)

        write = target._writes.get(self._csr) if target else None
        if write is None:
            perform(value)
        else:
            write(value, perform)

    def _on_read(self, env: int, _csr: int, result: Any) -> int:
        return self._on_operation(env, _csr, result, 0, 0)

    def _on_write(self, env: int, _csr: int, value: int) -> int:
        return self._on_operation(env, _csr, None, value, _M64)

    def _on_operation(self, env: int, _csr: int, result: Any, new: int, mask: int) -> int:
        target = _accesses.get(env)
        operate = target._operations.get(self._csr) if target else None
        try:
            if target is None and self._original.op:
                status: int = _CSR_OP(self._original.op)(env, _csr, result, new, mask)
                return status
            if operate is not None:
                old = operate(new, mask)
                if result:
                    result[0] = old
                return 0
            if mask != _M64 or result:
                old = self._get(target, env)
                if result:
                    result[0] = old
                new = old & ~mask | new & mask
            if mask:
                self._set(target, env, new)
            return 0
        except CsrIllegal:
            return -1
        except BaseException as e:  # nothing may pass through QEMU's C frames
            if target:
                target.on_error(e)
            return -1
