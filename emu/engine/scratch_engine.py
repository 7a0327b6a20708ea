"""An engine to look at and to be thrown away: who searches it may leave it in any state."""

from __future__ import annotations

import ctypes as C
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import unicorn.riscv_const as rc
import unicorn.unicorn_const as ucc
from unicorn.unicorn_py3.unicorn import Uc, UcError

from emu.engine import calls
from emu.engine.calls import EngineError, address, library
from emu.engine.layout import Allocation

RAM, RAM_SIZE = 0x8000_0000, 2 << 12  # PA, bytes
DEVICE = 0x1000_0000  # PA
OUR_CSR = 0x800  # the first that the spec leaves to each implementation, for U-mode
CPU_MAX = 1 << 16  # bytes before the state in a CPU
_TCG_BUFFER_SIZE = 1 << 20  # bytes
PMP_ENTRIES = 16
_PMPCFG0, _PMPADDR0 = 0x3A0, 0x3B0
_M64 = (1 << 64) - 1

_CSR_PREDICATE = C.CFUNCTYPE(C.c_int, C.c_void_p, C.c_int)
_CSR_READ = C.CFUNCTYPE(C.c_int, C.c_void_p, C.c_int, C.POINTER(C.c_uint64))

WFI = 0x1050_0073
_CSRR_A0_OUR_CSR = OUR_CSR << 20 | 2 << 12 | 10 << 7 | 0x73
ADDI_T1_T1_1 = 0x0013_0313
LBU_T0_A0 = 10 << 15 | 4 << 12 | 5 << 7 | 0x03


class CsrOps(C.Structure):
    """QEMU's riscv_csr_operations."""

    _fields_ = [
        ("predicate", C.c_void_p),
        ("read", C.c_void_p),
        ("write", C.c_void_p),
        ("op", C.c_void_p),
    ]


class Scratch:
    """An engine with two pages of RAM and a device, to look at and to be thrown away.

    ``on_read`` is called at each read of the device, which gives 0.
    """

    def __init__(self) -> None:
        self.uc = Uc(ucc.UC_ARCH_RISCV, ucc.UC_MODE_RISCV64)
        self.uc.ctl_set_tcg_buffer_size(_TCG_BUFFER_SIZE)
        self.uc.ctl_exits_enabled(True)
        self.ram = mmap.mmap(-1, RAM_SIZE)
        at = C.addressof(C.c_uint8.from_buffer(self.ram))
        self.uc.mem_map_ptr(RAM, RAM_SIZE, ucc.UC_PROT_ALL, at)
        self.on_read: Callable[[], None] = lambda: None
        self._error: BaseException | None = None
        device = calls.MMIO_READ_CB(self._read), calls.MMIO_WRITE_CB(lambda *_: None)
        calls.mmio_map(self.uc, DEVICE, 1 << 12, *device)
        self._device: tuple[object, ...] = device  # the engine has their addresses
        self.handle = Allocation(self.uc._uch.value or 0)

    def forget(self) -> None:
        """Never run again: the last who knows it takes it along."""
        self.on_read = lambda: None
        self._device = ()

    def _read(self, _uc: int, _offset: int, _size: int, _data: int) -> int:
        try:
            self.on_read()
        except BaseException as e:  # nothing may pass through the engine's C frames
            self._error = e
            calls.emu_stop(self.uc)
        return 0

    def run(self, *code: int) -> int:
        """Execute these instructions in M-mode, to a `wfi`; a uc_err."""
        self.ram[: 4 * len(code)] = b"".join(bits.to_bytes(4, "little") for bits in code)
        self.uc.ctl_flush_tb()
        status = calls.emu_start(self.uc, RAM)
        if self._error is not None:
            raise self._error
        return status

    def env(self) -> int:
        """The address of the engine's CPURISCVState, as it tells a CSR of ours."""
        seen: list[int] = []

        def read(env: int, _number: int, result: object) -> int:
            seen.append(env)
            return 0

        kept = _CSR_PREDICATE(lambda env, number: 0), _CSR_READ(read)
        before, ours = CsrOps(), CsrOps(address(kept[0]), address(kept[1]), None, None)
        number = C.c_int(OUR_CSR)
        library.riscv_get_csr_ops_riscv64(number, C.byref(before))
        library.riscv_set_csr_ops_riscv64(number, C.byref(ours))
        try:
            status = self.run(_CSRR_A0_OUR_CSR, WFI)
        finally:
            library.riscv_set_csr_ops_riscv64(number, C.byref(before))
        if status or len(seen) != 1:
            raise EngineError(f"a CSR of ours was read {len(seen)} times, uc_err {status}")
        return seen[0]

    def cpu_at(self, pointer: int, env: int) -> Allocation:
        """The CPU at ``pointer``. Raises EngineError when it does not hold ``env``."""
        if pointer % 8 or not env - CPU_MAX <= pointer < env:
            raise EngineError(f"uc_struct.cpu: no CPU is at {pointer:#x}")
        cpu = Allocation(pointer)
        if env - pointer >= cpu.size:
            raise EngineError(f"uc_struct.cpu: the CPU at {pointer:#x} does not hold its state")
        return cpu


@contextmanager
def scratch() -> Iterator[Scratch]:
    """A new engine; its memory is given back at the end."""
    try:
        engine = Scratch()
    except UcError as e:
        raise EngineError(f"no engine to look at: {e}") from e
    try:
        yield engine
    finally:
        engine.forget()


def pmp_csr(env: int, number: int, value: int) -> None:
    """Write one of the PMP's CSRs."""
    old = C.c_uint64()
    library.riscv_csrrw_debug_riscv64(
        C.c_void_p(env), C.c_int(number), C.byref(old), C.c_uint64(value), C.c_uint64(_M64)
    )


# An address register's value for each entry, and a configuration (all OFF) for those of pmpcfg0:
# the engine does not find the place of pmpcfg2's.
PMP_ADDRESSES = [0x5A_1234_0000 + 3 * i for i in range(PMP_ENTRIES)]
PMP_CONFIGS = [1, 3, 4, 5, 7, 1, 3, 4]


@contextmanager
def pmp_written(env: int) -> Iterator[None]:
    """With PMP_ADDRESSES and PMP_CONFIGS in the PMP."""
    for i, value in enumerate(PMP_ADDRESSES):
        pmp_csr(env, _PMPADDR0 + i, value)
    pmp_csr(env, _PMPCFG0, int.from_bytes(bytes(PMP_CONFIGS), "little"))
    try:
        yield
    finally:
        pmp_csr(env, _PMPCFG0, 0)
        for i in range(PMP_ENTRIES):
            pmp_csr(env, _PMPADDR0 + i, 0)


def puts_stops_off(engine: Scratch, offset: int) -> bool:
    """Whether a stop from a device waits for the block's end while this bool is true.

    Else it comes behind the access, and what follows in the block is not executed.
    """
    engine.on_read = lambda: calls.emu_stop(engine.uc)
    flag = C.c_uint8.from_address(engine.handle.at + offset)
    found = []
    for value in (0, 1):
        engine.uc.reg_write_batch([(rc.UC_RISCV_REG_A0, DEVICE), (rc.UC_RISCV_REG_T1, 0)])
        flag.value = value
        engine.run(LBU_T0_A0, ADDI_T1_T1_1, WFI)
        flag.value = 0
        found.append(engine.uc.reg_read(rc.UC_RISCV_REG_T1))
    engine.on_read = lambda: None
    return found == [0, 1]
