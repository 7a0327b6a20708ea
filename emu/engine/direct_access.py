"""The hart's state in place: QEMU's own ``CPURISCVState``, and QEMU's own functions.

Not a public interface: it is tied to unicorn 2.1.4 and verified before each use.
"""

from __future__ import annotations

import ctypes as C
import mmap
import os
import weakref
from collections.abc import Callable
from typing import Any

import unicorn.riscv_const as rc
from unicorn import __version__ as unicorn_version  # type: ignore[attr-defined]
from unicorn.unicorn_py3.unicorn import Uc

from emu.engine import native
from emu.engine.access import CsrIllegal, CsrOperate, CsrRead, CsrWrite
from emu.engine.calls import EngineError, address, library
from emu.engine.state_words import check_words, words_at
from emu.spec import words as W

UNICORN_VERSION = "2.1.4"

# Offsets in bytes, of this one version's Linux x86-64 wheel.
_UC_CPU = 0x1B8  # uc_struct.cpu: the CPUState
_UC_CONTEXT_SIZE = 2016  # uc_struct.cpu_context_size ...
_M64 = (1 << 64) - 1
_CONTEXT_SIZE = 0x5F8  # ... and what it must read
_UC_MEMORY_MAPPING = 0x120  # uc_struct.memory_mapping: the region of a PA, or NULL
_UC_NO_EXIT_REQUEST = 2034
_UC_INIT_DONE = 2035
_CPU_ENV = 0x128  # CPUState.env_ptr
_CPU_INTERRUPT_REQUEST = 28
_CPU_MEM_IO_PC = 0x8178  # the place in translated code from which a device was reached
_CPU_TLB_FILL = 0x93A0  # CPUClass.tlb_fill
_CPU_EXEC_INTERRUPT = 0x93E8  # CPUClass.cpu_exec_interrupt; the class is part of the CPU
_CPU_ICOUNT_HIGH = 36098
_HOOK_BEGIN, _HOOK_CALLBACK = 24, 40  # struct hook: begin and end, callback
# CPURISCVState.pmp_state: 16 entries of 16 bytes, each the address register and a byte of
# configuration.
_ENV_PMP, _PMP_ENTRY, _PMP_ENTRIES, _PMP_CONFIG = 1008, 16, 16, 8
_PMPCFG0, _PMPADDR0 = 0x3A0, 0x3B0
_CPU_INTERRUPT_HARD = 2

_EXEC_INTERRUPT = 0x93E8  # CPUClass.cpu_exec_interrupt; the class is part of the CPU
_CPU_ICOUNT_HIGH = 36098
_HOOK_BEGIN, _HOOK_CALLBACK = 24, 40  # struct hook: begin and end, callback
# CPURISCVState.pmp_state: 16 entries of 16 bytes, each the address register and a byte of
# configuration.
_ENV_PMP, _PMP_ENTRY, _PMP_ENTRIES, _PMP_CONFIG = 1008, 16, 16, 8
_PMPCFG0, _PMPADDR0 = 0x3A0, 0x3B0
_CPU_INTERRUPT_HARD = 2

_EXEC_INTERRUPT_FN = C.CFUNCTYPE(C.c_bool, C.c_void_p, C.c_int)
_MEMORY_MAPPING = C.CFUNCTYPE(C.c_void_p, C.c_void_p, C.c_uint64)

_CSR_PREDICATE = C.CFUNCTYPE(C.c_int, C.c_void_p, C.c_int)
_CSR_READ = C.CFUNCTYPE(C.c_int, C.c_void_p, C.c_int, C.POINTER(C.c_uint64))
_CSR_WRITE = C.CFUNCTYPE(C.c_int, C.c_void_p, C.c_int, C.c_uint64)
_CSR_OP = C.CFUNCTYPE(C.c_int, C.c_void_p, C.c_int, C.POINTER(C.c_uint64), C.c_uint64, C.c_uint64)


class _CsrOps(C.Structure):
    """QEMU's riscv_csr_operations."""

    _fields_ = [
        ("predicate", C.c_void_p),
        ("read", C.c_void_p),
        ("write", C.c_void_p),
        ("op", C.c_void_p),
    ]


def grow_hook(handle: int, callback: Any, first: int, last: int) -> None:
    """Give a bounded hook of ours, of ``callback``, other bounds.

    The engine looks through all hooks of a kind each time: few wide ones are faster than
    many. The handle is a pointer to `struct hook`. Raises EngineError when it is not.
    """
    if _peek(handle + _HOOK_CALLBACK, 8) != address(callback):
        raise EngineError("struct hook is not laid out as expected")
    C.c_uint64.from_address(handle + _HOOK_BEGIN).value = first
    C.c_uint64.from_address(handle + _HOOK_BEGIN + 8).value = last


try:
    _restore_state: Any = C.CFUNCTYPE(C.c_bool, C.c_void_p, C.c_size_t, C.c_bool)(
        ("cpu_restore_state_riscv64", library)
    )
except AttributeError:  # another build of the library: no instruction is found

    def _restore_state(*_: Any) -> bool:
        return False


class DirectAccess:
    """The hart's state in place, and QEMU's own functions.

    Raises EngineError when anything is not as this file knows it.
    """

    name = "inside"
    in_place = True
    missing: tuple[str, ...] = ()

    def __init__(self, uc: Uc) -> None:
        if unicorn_version != UNICORN_VERSION:
            raise EngineError(f"unicorn is {unicorn_version}, not {UNICORN_VERSION}")
        self._uc = uc
        try:
            self._tlb_flush = library.tlb_flush_riscv64
            self._drop = library.tb_invalidate_phys_range_riscv64
            self._physical = library.riscv_cpu_get_phys_page_debug_riscv64
            self._physical.restype = C.c_uint64
            self._update_mip = library.riscv_cpu_update_mip_riscv64
            self._csrrw = library.riscv_csrrw_debug_riscv64
            self._get_ops = library.riscv_get_csr_ops_riscv64
            self._set_ops = library.riscv_set_csr_ops_riscv64
            find_mapping = address(library.find_memory_mapping_riscv64)
            self._tlb_fill = address(library.riscv_cpu_tlb_fill_riscv64)
            self._pmp_allows = address(library.pmp_hart_has_privs_riscv64)
            self._set_page = address(library.tlb_set_page_riscv64)
        except AttributeError as e:
            raise EngineError(f"libunicorn does not export {e}") from e
        handle = uc._uch.value or 0
        self._cpu = _peek(handle + _UC_CPU, 8)
        self._env = _peek(self._cpu + _CPU_ENV, 8)
        _peek(self._env, 8 * W.COUNT)  # readable, before anything is mapped onto it
        self.words = words_at(self._env)
        check_words(uc, self.words, lambda: None)
        self._check_exit_request(handle)
        self._check_interrupt_request()
        if _peek(handle + _UC_MEMORY_MAPPING, 8) != find_mapping:
            raise EngineError("uc_struct.memory_mapping is not where it should be")
        if _peek(self._cpu + _CPU_TLB_FILL, 8) != self._tlb_fill:
            raise EngineError("CPUClass.tlb_fill is not where it should be")
        self._exec_interrupt = _peek(self._cpu + _CPU_EXEC_INTERRUPT, 8)
        if self._exec_interrupt != address(library.riscv_cpu_exec_interrupt_riscv64):
            raise EngineError("CPUClass.cpu_exec_interrupt is not where it should be")
        self._use_native_code()
        self._memory_mapping = C.c_uint64.from_address(handle + _UC_MEMORY_MAPPING)
        self._mapping = find_mapping, address(_no_mapping)
        self._cs = C.c_void_p(self._cpu)
        # With it, only the start of a block asks for exits: no AMO or device access is
        # cut in two and run twice, and loads and stores lose a helper call.
        self._no_exit_request = C.c_uint8.from_address(handle + _UC_NO_EXIT_REQUEST)
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
                words_at=_CPU_ENV,
            )
        )
        self._exec_interrupt = native.function("exec_interrupt")
        C.c_uint64.from_address(self._cpu + _CPU_EXEC_INTERRUPT).value = self._exec_interrupt

    def _check_exit_request(self, handle: int) -> None:
        found = (
            _peek(handle + _UC_CONTEXT_SIZE, 8),
            _peek(handle + _UC_NO_EXIT_REQUEST, 1),
            _peek(handle + _UC_INIT_DONE, 1),
        )
        if found != (_CONTEXT_SIZE, 0, 1):
            raise EngineError(f"uc_struct.no_exit_request: found {found} around it")

    def _check_interrupt_request(self) -> None:
        uc = self._uc
        at = self._cpu + _CPU_INTERRUPT_REQUEST
        uc.reg_write(rc.UC_RISCV_REG_MIDELEG, 2)
        uc.reg_write(rc.UC_RISCV_REG_MIP, 2)
        seen = (_peek(at, 4), self.words[W.MIP], _peek(self._cpu + _CPU_ICOUNT_HIGH, 2))
        uc.reg_write(rc.UC_RISCV_REG_MIP, 0)
        uc.reg_write(rc.UC_RISCV_REG_MIDELEG, 0)
        if seen[:2] != (_CPU_INTERRUPT_HARD, 2) or seen[2] not in (0, 0xFFFF):
            raise EngineError(f"CPUState.interrupt_request: found {seen}")
        self._interrupt_request = C.c_uint32.from_address(at)
        self._icount_high = C.c_uint16.from_address(self._cpu + _CPU_ICOUNT_HIGH)

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
        self._update_mip(self._cs, C.c_uint32(0xFFFF_FFFF), C.c_uint32(mip))
        if mip:
            # What QEMU's cpu_interrupt does: chained blocks look only at this counter.
            self._interrupt_request.value |= _CPU_INTERRUPT_HARD
            self._icount_high.value = 0xFFFF

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
            slot = C.c_uint64.from_address(self._cpu + _CPU_TLB_FILL)
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
        return C.addressof(self._icount_high)

    def access_pc(self) -> int | None:
        """From a device's callback: the VA of the instruction that accesses it.

        Within a block the engine keeps pc in no register, but the place in translated code
        from which it left, and finds the instruction from that as it does for exceptions.
        None where that place is not in translated code.
        """
        place = C.c_uint64.from_address(self._cpu + _CPU_MEM_IO_PC)
        kept = self.words[W.PC]
        found = _restore_state(self._cpu, place.value, False)
        pc, self.words[W.PC] = self.words[W.PC], kept
        return pc if found else None

    def watch_interrupts(self, taken: Callable[[int], None]) -> Callable[[], None]:
        """``taken(priv)`` behind each interrupt that the engine delivers, from level ``priv``.

        Takes the place of the function that QEMU's main loop asks whether an interrupt is
        to be taken now, and asks the original. Returns what ends the watch, safe from
        callbacks too. Raises EngineError when another watch is there already.
        """
        at = self._cpu + _CPU_EXEC_INTERRUPT
        original = _peek(at, 8)
        if original != self._exec_interrupt:
            raise EngineError("somebody watches the interrupts already")
        slot, ask, words = C.c_uint64.from_address(at), _EXEC_INTERRUPT_FN(original), self.words

        def exec_interrupt(cpu: int, request: int) -> bool:
            priv = words[W.PRIV]
            took: bool = ask(cpu, request)
            if took:
                taken(priv)
            return took

        callback = _EXEC_INTERRUPT_FN(exec_interrupt)
        slot.value = address(callback)

        def end() -> None:
            slot.value = original

        self._watches.append(callback)  # the engine may be in it when the watch ends
        return end

    def reset_pmp(self) -> None:
        configs = [self.csr(_PMPCFG0 + i) or 0 for i in range(0, _PMP_ENTRIES // 4, 2)]
        if any(configs):
            have = b"".join(config.to_bytes(8, "little") for config in configs)
            at = self._env + _ENV_PMP + _PMP_CONFIG
            places = [at + _PMP_ENTRY * i for i in range(_PMP_ENTRIES)]
            if [_peek(place, 1) for place in places] != list(have):
                raise EngineError("the PMP's registers are not where they should be")
            for place in places:  # a locked one takes no writes until then
                C.c_uint8.from_address(place).value = 0
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


def _peek(address: int, size: int) -> int:
    """Read memory of this process; EngineError where there is none (never a SIGSEGV)."""
    global _self_memory
    if _self_memory is None:
        _self_memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(_self_memory, size, address)
    except (OSError, OverflowError) as e:
        raise EngineError(f"nothing readable at {address:#x}: {e}") from e
    if len(data) != size:
        raise EngineError(f"nothing readable at {address:#x}")
    return int.from_bytes(data, "little")


_self_memory: int | None = None

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
        self._original = _CsrOps()
        access._get_ops(C.c_int(csr), C.byref(self._original))
        # Kept alive here: the table has their addresses.
        self._always = _CSR_PREDICATE(lambda env, number: 0)
        self._read = _CSR_READ(self._on_read)
        self._write = _CSR_WRITE(self._on_write)
        self._operate = _CSR_OP(self._on_operation)
        self._ops = _CsrOps(
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
