"""Everything that reaches into Unicorn, in one file.

The hart's state is used as an array of 64-bit words (`emu.spec.words`). There are two ways to
it, with one interface:

``InsideAccess``  the words are QEMU's own ``CPURISCVState``, in place, and QEMU's exported
                  functions repair what Unicorn's interface cannot reach. Not a public
                  interface: it is tied to unicorn 2.1.4 and verified before each use.
``PublicAccess``  the words are a ``uc_context``, saved before and restored after each
                  trap. Same behaviour, slower; what cannot be had is listed in ``missing``.

`open_access` tries the first and falls back to the second.
"""

from __future__ import annotations

import ctypes as C
import mmap
import os
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import unicorn.riscv_const as rc
import unicorn.unicorn_const as ucc
from unicorn import __version__ as unicorn_version  # type: ignore[attr-defined]
from unicorn.unicorn_py3.unicorn import Uc, UcError, uclib

from emu.engine import native
from emu.engine.quick_register import QuickRegister
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
_CONTEXT_WORDS = 40  # uc_context: where the same words stand
_CPU_INTERRUPT_HARD = 2

# CSRs that are in no word, and that the public interface knows as registers.
_CSR_REGISTERS = {
    0x003: rc.UC_RISCV_REG_FCSR,
    0x106: rc.UC_RISCV_REG_SCOUNTEREN,
    0x140: rc.UC_RISCV_REG_SSCRATCH,
    0x306: rc.UC_RISCV_REG_MCOUNTEREN,
    0x340: rc.UC_RISCV_REG_MSCRATCH,
}

_lib = uclib

# Raw callback types: the binding's own wrappers cost twice as much (see bench/).
INTR_CB = C.CFUNCTYPE(None, C.c_void_p, C.c_uint32, C.c_void_p)
INSN_INVALID_CB = C.CFUNCTYPE(C.c_bool, C.c_void_p, C.c_void_p)
MEM_CB = C.CFUNCTYPE(C.c_bool, C.c_void_p, C.c_int, C.c_uint64, C.c_int, C.c_int64, C.c_void_p)
CODE_CB = C.CFUNCTYPE(None, C.c_void_p, C.c_uint64, C.c_uint32, C.c_void_p)
BLOCK_CB = C.CFUNCTYPE(None, C.c_void_p, C.c_uint64, C.c_uint32, C.c_void_p)
EDGE_CB = C.CFUNCTYPE(None, C.c_void_p, C.c_void_p, C.c_void_p, C.c_void_p)
_EXEC_INTERRUPT = C.CFUNCTYPE(C.c_bool, C.c_void_p, C.c_int)
MMIO_READ_CB = C.CFUNCTYPE(C.c_uint64, C.c_void_p, C.c_uint64, C.c_uint, C.c_void_p)
MMIO_WRITE_CB = C.CFUNCTYPE(None, C.c_void_p, C.c_uint64, C.c_uint, C.c_uint64, C.c_void_p)

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


class Block(C.Structure):
    """Unicorn's uc_tb, as UC_HOOK_EDGE_GENERATED gives it: VA, instructions, bytes."""

    _fields_ = [("pc", C.c_uint64), ("icount", C.c_uint16), ("size", C.c_uint16)]


class InsideError(Exception):
    """Unicorn's insides are not what this file knows; the text says what differs."""


def hook(
    uc: Uc, kind: int, callback: Any, first: int = 1, last: int = 0, data: int | None = None
) -> int:
    """Add a raw ctypes callback; ``first > last`` means everywhere. Returns Unicorn's handle.

    ``data`` is the callback's last argument.

    The caller keeps ``callback`` alive as long as the engine lives. Raises UcError.
    """
    handle = C.c_size_t()
    # uc_hook_add is variadic for some kinds, so every argument is given its C type here.
    status = _lib.uc_hook_add(
        uc._uch,
        C.byref(handle),
        C.c_int(kind),
        C.cast(callback, C.c_void_p),
        C.c_void_p(data),
        C.c_uint64(first),
        C.c_uint64(last),
    )
    if status:
        raise UcError(status)
    return handle.value


def unhook(uc: Uc, handle: int) -> None:
    """Take a hook away. Code that was translated with it goes on asking for hooks."""
    _lib.uc_hook_del(uc._uch, C.c_size_t(handle))


def grow_hook(handle: int, callback: Any, first: int, last: int) -> None:
    """Give a bounded hook of ours, of ``callback``, other bounds.

    The engine looks through all hooks of a kind each time: few wide ones are faster than
    many. The handle is a pointer to `struct hook`. Raises InsideError when it is not.
    """
    if _peek(handle + _HOOK_CALLBACK, 8) != _address(callback):
        raise InsideError("struct hook is not laid out as expected")
    C.c_uint64.from_address(handle + _HOOK_BEGIN).value = first
    C.c_uint64.from_address(handle + _HOOK_BEGIN + 8).value = last


def mmio_map(
    uc: Uc, pa: int, size: int, read: Any, write: Any, quick: QuickRegister | None = None
) -> None:
    """Map ``size`` bytes at ``pa`` (whole pages) to raw read and write callbacks.

    ``quick``: a register that need not be asked for by ``read``. The caller keeps all three
    alive as long as the engine lives. Raises UcError.
    """
    data = None
    if quick is not None and native.available():
        data = C.c_void_p(quick.connect(_address(read)))
        read = MMIO_READ_CB(native.function("read_register"))
    status = _lib.uc_mmio_map(uc._uch, C.c_uint64(pa), C.c_size_t(size), read, data, write, None)
    if status:
        raise UcError(status)


def emu_start(uc: Uc, pc: int, count: int = 0) -> int:
    """Run from ``pc`` (VA), ``count`` instructions or without limit; returns a uc_err."""
    return int(
        _lib.uc_emu_start(uc._uch, C.c_uint64(pc), C.c_uint64(0), C.c_uint64(0), C.c_size_t(count))
    )


def emu_stop(uc: Uc) -> None:
    """Ask the running engine to stop; safe from callbacks and from other threads."""
    _lib.uc_emu_stop(uc._uch)


try:
    _restore_state: Any = C.CFUNCTYPE(C.c_bool, C.c_void_p, C.c_size_t, C.c_bool)(
        ("cpu_restore_state_riscv64", _lib)
    )
except AttributeError:  # another build of the library: no instruction is found

    def _restore_state(*_: Any) -> bool:
        return False


class StateAccess(Protocol):
    """The two ways' common interface."""

    name: str
    words: memoryview
    missing: tuple[str, ...]
    in_place: bool  # the words are the hart's own: load and store do nothing
    by_host: bool  # the CSR access under way is not an instruction's

    def load(self) -> None:
        """Bring the words up to date with the hart."""

    def store(self) -> None:
        """Make the words the hart's state."""

    def flush_tlb(self) -> None:
        """Drop every cached translation."""

    def flush_code(self) -> None:
        """Drop every translated block: the bytes of some code have changed."""

    def physical(self, va: int) -> int | None:
        """The PA that data at ``va`` is read from by the engine's own walk, None: unknown."""

    def drop_code(self, offset: int, size: int) -> None:
        """Drop what was translated from ``size`` bytes of RAM, ``offset`` from its base."""

    def speed_bare_stores(self) -> None:
        """Let stores be fast where nothing is translated, if that can be had.

        For those who see to it that code stays coherent: a store to a page that has been
        code is no longer slow by itself.
        """

    def new_block_hook(
        self, base: int, seen: mmap.mmap, chunk_shift: int, unseen: Any
    ) -> tuple[Any, int | None]:
        """A callback for UC_HOOK_EDGE_GENERATED, and its data, that calls ``unseen``.

        ``unseen`` is an EDGE_CB; it need not be called for blocks in chunks of memory whose byte
        in ``seen`` is not 0. The first chunk is at ``base`` (PA).
        """

    def obey_count(self, on: bool) -> None:
        """Prepare for `emu_start` with a count, or without one again.

        A count is looked at in code that was translated for it, so all is dropped.
        """

    def deny_memory(self, on: bool) -> None:
        """While on, no load or store takes place: what is left of a block stays undone."""

    def present_interrupts(self, mip: int) -> None:
        """Let the hart see these bits of ``mip`` and deliver them by itself."""

    def override_csr(
        self,
        csr: int,
        read: CsrRead | None,
        write: CsrWrite | None,
        native_read: str | None = None,
        native_write: str | None = None,
        operate: CsrOperate | None = None,
    ) -> None:
        """Give this hart's CSR its own behaviour, see `CsrRead`, `CsrWrite` and `CsrOperate`.

        ``native_read`` and ``native_write`` name functions of `emu.engine.native` that do the same
        for the hart whose words they are called with. Where there are none, Python is called.
        """

    def reset_pmp(self) -> None:
        """Clear the PMP's registers, locked ones too."""

    def csr(self, csr: int, value: int | None = None) -> int | None:
        """Read, or with ``value`` write, any CSR whatever the privilege; None: out of reach."""


class CsrIllegal(Exception):
    """The CSR access is an illegal instruction."""


# An override's read is given the original read and returns what the guest sees.
CsrRead = Callable[[Callable[[], int]], int]
# An override's write is given the guest's value and the original write. Both may raise
# CsrIllegal, and so may the originals.
CsrWrite = Callable[[int, Callable[[int], None]], None]
# An override of a CSR that the engine reads, changes and writes as one operation: is given a
# value and the mask of the bits that are to take it, and returns what was read before.
CsrOperate = Callable[[int, int], int]


def _words_at(address: int) -> memoryview:
    return memoryview((C.c_uint64 * W.COUNT).from_address(address)).cast("B").cast("Q")


# Registers whose word is checked through the public interface: (register, word, probe).
_PROBES: list[tuple[int, int, int]] = [
    *((rc.UC_RISCV_REG_X0 + i, W.GPR + i, 0x5A5A_0000_1234_0000 + i) for i in range(1, 32)),
    *((rc.UC_RISCV_REG_F0 + i, W.FPR + i, 0x3FF0_0000_4321_0000 + i) for i in range(32)),
    (rc.UC_RISCV_REG_PC, W.PC, 0x8765_4320),
    (rc.UC_RISCV_REG_MEDELEG, W.MEDELEG, 0x101),
    (rc.UC_RISCV_REG_MIDELEG, W.MIDELEG, 0x202),
    (rc.UC_RISCV_REG_MIE, W.MIE, 0x020),
    (rc.UC_RISCV_REG_SATP, W.SATP, 8 << 60 | 0x80123),
    (rc.UC_RISCV_REG_STVAL, W.STVAL, 0x1111_2222_3333),
    (rc.UC_RISCV_REG_MTVAL, W.MTVAL, 0x2222_3333_4444),
    (rc.UC_RISCV_REG_STVEC, W.STVEC, 0x8000_1000),
    (rc.UC_RISCV_REG_SEPC, W.SEPC, 0x8000_2000),
    (rc.UC_RISCV_REG_SCAUSE, W.SCAUSE, 0xD),
    (rc.UC_RISCV_REG_MTVEC, W.MTVEC, 0x8000_3000),
    (rc.UC_RISCV_REG_MEPC, W.MEPC, 0x8000_4000),
    (rc.UC_RISCV_REG_MCAUSE, W.MCAUSE, 0xB),
]


def _check_words(uc: Uc, words: memoryview, refresh: Callable[[], None]) -> None:
    """Write registers through the API, read them in ``words``; raise InsideError.

    The engine is fresh: the probes are taken back to zero afterwards.
    """
    batch = [(register, probe) for register, _, probe in _PROBES]
    uc.reg_write_batch(batch)
    refresh()
    wrong = [word for _, word, probe in _PROBES if words[word] != probe]
    uc.reg_write_batch([(register, 0) for register, _, _ in _PROBES])
    refresh()
    if wrong or words[W.PRIV] != 3:
        raise InsideError(f"state words {wrong or [W.PRIV]} are not where they should be")


class PublicAccess:
    """The hart's state as a ``uc_context``: public functions only."""

    name = "public"
    in_place = False
    by_host = True  # no override is ever called by an instruction
    missing: tuple[str, ...] = (
        "satp writes that change only the root or the mode do not flush the TLB",
        "sstatus.UXL reads 0, mstatus.TW and TSR are at bits 29 and 30, SD does not follow FS",
        "a write of sie changes what mideleg does not delegate, and mideleg, medeleg, mie and "
        "mstatus hold bits of the hypervisor extension",
        "with MPRV set, an M-mode load and a fetch may use each other's translation",
        "mepc and sepc read as they were written, bit 0 too",
        "mcycle and minstret are read-only",
        "mcounteren and scounteren do not gate time and stimecmp",
        "mip as the guest reads it does not show what devices have pending",
        "a snapshot does not hold the PMP registers, mcycle and minstret",
        "a stop from outside can make an AMO or a device access run twice",
    )

    def __init__(self, uc: Uc) -> None:
        self._uc = uc
        # Around each load and store, and called at its end: for what the guest writes and nobody
        # sees.
        self.lock: AbstractContextManager[object] = nullcontext()
        self.on_load: Callable[[], None] = lambda: None
        self.on_store: Callable[[], None] = lambda: None
        self._context = C.c_void_p()
        status = _lib.uc_context_alloc(uc._uch, C.byref(self._context))
        if status or not self._context.value:
            raise UcError(status)
        self.words = _words_at(self._context.value + _CONTEXT_WORDS)
        _check_words(uc, self.words, self.load)

    def load(self) -> None:
        with self.lock:
            _lib.uc_context_save(self._uc._uch, self._context)
            self.on_load()

    def store(self) -> None:
        with self.lock:
            _lib.uc_context_restore(self._uc._uch, self._context)
            self.on_store()

    def flush_tlb(self) -> None:
        self._uc.ctl(ucc.UC_CTL_TLB_FLUSH, ucc.UC_CTL_IO_WRITE)

    def flush_code(self) -> None:
        self._uc.ctl_flush_tb()

    def obey_count(self, on: bool) -> None:
        self.flush_code()

    def deny_memory(self, on: bool) -> None:
        pass  # here the engine stops behind the access itself

    def present_interrupts(self, mip: int) -> None:
        self.words[W.MIP] = mip  # readable by the guest; `emu.hart` delivers

    def override_csr(
        self,
        csr: int,
        read: CsrRead | None,
        write: CsrWrite | None,
        native_read: str | None = None,
        native_write: str | None = None,
        operate: CsrOperate | None = None,
    ) -> None:
        pass  # `missing` says what follows from that

    def physical(self, va: int) -> int | None:
        return None

    def drop_code(self, offset: int, size: int) -> None:
        self.flush_code()

    def speed_bare_stores(self) -> None:
        pass

    def new_block_hook(
        self, base: int, seen: mmap.mmap, chunk_shift: int, unseen: Any
    ) -> tuple[Any, int | None]:
        return unseen, None

    def reset_pmp(self) -> None:
        pass  # out of reach

    def csr(self, csr: int, value: int | None = None) -> int | None:
        register = _CSR_REGISTERS.get(csr)
        if register is None:
            return None
        w = self.words
        before = w[W.PRIV], w[W.MSTATUS]
        # At a lower privilege, or of an FPU that is off, the engine silently gives nothing.
        w[W.PRIV], w[W.MSTATUS] = 3, w[W.MSTATUS] | 3 << 13
        self.store()
        old = int(self._uc.reg_read(register))
        if value is not None:
            self._uc.reg_write(register, value)
        self.load()
        w[W.PRIV], w[W.MSTATUS] = before
        self.store()
        return old


class InsideAccess:
    """The hart's state in place, and QEMU's own functions.

    Raises InsideError when anything is not as this file knows it.
    """

    name = "inside"
    in_place = True
    missing: tuple[str, ...] = ()

    def __init__(self, uc: Uc) -> None:
        if unicorn_version != UNICORN_VERSION:
            raise InsideError(f"unicorn is {unicorn_version}, not {UNICORN_VERSION}")
        self._uc = uc
        try:
            self._tlb_flush = _lib.tlb_flush_riscv64
            self._drop = _lib.tb_invalidate_phys_range_riscv64
            self._physical = _lib.riscv_cpu_get_phys_page_debug_riscv64
            self._physical.restype = C.c_uint64
            self._update_mip = _lib.riscv_cpu_update_mip_riscv64
            self._csrrw = _lib.riscv_csrrw_debug_riscv64
            self._get_ops = _lib.riscv_get_csr_ops_riscv64
            self._set_ops = _lib.riscv_set_csr_ops_riscv64
            find_mapping = _address(_lib.find_memory_mapping_riscv64)
            self._tlb_fill = _address(_lib.riscv_cpu_tlb_fill_riscv64)
            self._pmp_allows = _address(_lib.pmp_hart_has_privs_riscv64)
            self._set_page = _address(_lib.tlb_set_page_riscv64)
        except AttributeError as e:
            raise InsideError(f"libunicorn does not export {e}") from e
        handle = uc._uch.value or 0
        self._cpu = _peek(handle + _UC_CPU, 8)
        self._env = _peek(self._cpu + _CPU_ENV, 8)
        _peek(self._env, 8 * W.COUNT)  # readable, before anything is mapped onto it
        self.words = _words_at(self._env)
        _check_words(uc, self.words, lambda: None)
        self._check_exit_request(handle)
        self._check_interrupt_request()
        if _peek(handle + _UC_MEMORY_MAPPING, 8) != find_mapping:
            raise InsideError("uc_struct.memory_mapping is not where it should be")
        if _peek(self._cpu + _CPU_TLB_FILL, 8) != self._tlb_fill:
            raise InsideError("CPUClass.tlb_fill is not where it should be")
        self._exec_interrupt = _peek(self._cpu + _CPU_EXEC_INTERRUPT, 8)
        if self._exec_interrupt != _address(_lib.riscv_cpu_exec_interrupt_riscv64):
            raise InsideError("CPUClass.cpu_exec_interrupt is not where it should be")
        self._use_native_code()
        self._memory_mapping = C.c_uint64.from_address(handle + _UC_MEMORY_MAPPING)
        self._mapping = find_mapping, _address(_no_mapping)
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
                physical_page=_address(self._physical),
                exec_interrupt=self._exec_interrupt,
                tlb_flush=_address(self._tlb_flush),
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
            raise InsideError(f"uc_struct.no_exit_request: found {found} around it")

    def _check_interrupt_request(self) -> None:
        uc = self._uc
        at = self._cpu + _CPU_INTERRUPT_REQUEST
        uc.reg_write(rc.UC_RISCV_REG_MIDELEG, 2)
        uc.reg_write(rc.UC_RISCV_REG_MIP, 2)
        seen = (_peek(at, 4), self.words[W.MIP], _peek(self._cpu + _CPU_ICOUNT_HIGH, 2))
        uc.reg_write(rc.UC_RISCV_REG_MIP, 0)
        uc.reg_write(rc.UC_RISCV_REG_MIDELEG, 0)
        if seen[:2] != (_CPU_INTERRUPT_HARD, 2) or seen[2] not in (0, 0xFFFF):
            raise InsideError(f"CPUState.interrupt_request: found {seen}")
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
            self._cpu, self._env, base, len(seen), chunk_shift, at, _address(unseen)
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
        callbacks too. Raises InsideError when another watch is there already.
        """
        at = self._cpu + _CPU_EXEC_INTERRUPT
        original = _peek(at, 8)
        if original != self._exec_interrupt:
            raise InsideError("somebody watches the interrupts already")
        slot, ask, words = C.c_uint64.from_address(at), _EXEC_INTERRUPT(original), self.words

        def exec_interrupt(cpu: int, request: int) -> bool:
            priv = words[W.PRIV]
            took: bool = ask(cpu, request)
            if took:
                taken(priv)
            return took

        callback = _EXEC_INTERRUPT(exec_interrupt)
        slot.value = _address(callback)

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
                raise InsideError("the PMP's registers are not where they should be")
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


def _address(function: Any) -> int:
    """Where a function of the library, or a callback of ours, is in this process."""
    return C.cast(function, C.c_void_p).value or 0


_no_mapping = _MEMORY_MAPPING(lambda _uc, _pa: None)


def _raise(error: BaseException) -> None:
    raise error


def _peek(address: int, size: int) -> int:
    """Read memory of this process; InsideError where there is none (never a SIGSEGV)."""
    global _self_memory
    if _self_memory is None:
        _self_memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(_self_memory, size, address)
    except (OSError, OverflowError) as e:
        raise InsideError(f"nothing readable at {address:#x}: {e}") from e
    if len(data) != size:
        raise InsideError(f"nothing readable at {address:#x}")
    return int.from_bytes(data, "little")


_self_memory: int | None = None

# QEMU has one CSR table for all engines of the process, so an override finds its hart by the
# env pointer that it is called with.
_accesses: weakref.WeakValueDictionary[int, InsideAccess] = weakref.WeakValueDictionary()
_overrides: dict[int, _Override] = {}


class _Override:
    """What the table has for ``csr``: the original functions, ours, or native ones.

    A function that nobody overrides stays the original. CSRs that the table has as one
    read-modify-write operation (mip, sip) are Python's whole.
    """

    def __init__(self, access: InsideAccess, csr: int) -> None:
        self._csr = csr
        self._original = _CsrOps()
        access._get_ops(C.c_int(csr), C.byref(self._original))
        # Kept alive here: the table has their addresses.
        self._always = _CSR_PREDICATE(lambda env, number: 0)
        self._read = _CSR_READ(self._on_read)
        self._write = _CSR_WRITE(self._on_write)
        self._operate = _CSR_OP(self._on_operation)
        self._ops = _CsrOps(
            self._original.predicate or _address(self._always),
            self._original.read,
            self._original.write,
            _address(self._operate) if self._original.op else None,
        )

    def install(
        self,
        access: InsideAccess,
        read: CsrRead | None,
        write: CsrWrite | None,
        native_read: str | None = None,
        native_write: str | None = None,
    ) -> None:
        """Let the table call what overrides reads and writes, for this hart and all others."""
        if read:
            self._ops.read = native.function(native_read) if native_read else _address(self._read)
        if write:
            self._ops.write = (
                native.function(native_write) if native_write else _address(self._write)
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

    def _get(self, target: InsideAccess | None, env: int) -> int:
        read = target._reads.get(self._csr) if target else None
        if read is None:
            if not self._original.read and not self._original.op:
                raise CsrIllegal  # absent
            return self._original_rw(env, 0, 0)
        return read(lambda: self._original_rw(env, 0, 0))

    def _set(self, target: InsideAccess | None, env: int, value: int) -> None:
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


def open_access(uc: Uc, want: str = "auto") -> InsideAccess | PublicAccess:
    """The way to the state of a fresh engine: ``want`` is "auto", "inside" or "public".

    "auto" falls back to the public way; its ``missing`` then begins with the reason.
    Raises InsideError when the way asked for is not there, ValueError for another word.
    """
    if want not in ("auto", "inside", "public"):
        raise ValueError(f"access is auto, inside or public, not {want!r}")
    uc.reg_read(rc.UC_RISCV_REG_PC)  # a new engine is set up at its first use
    if want != "public":
        try:
            return InsideAccess(uc)
        except InsideError as e:
            if want == "inside":
                raise
            access = PublicAccess(uc)
            access.missing = (f"{e}: running on the public interface", *access.missing)
            return access
    return PublicAccess(uc)
