"""The proof that each field of a `Layout` is where it says, by using it.

On an engine that is thrown away. Nothing is written to a place before it was read and held what it
should: a layout that is wrong is refused with the name of the field, and breaks nothing.
"""

from __future__ import annotations

import ctypes as C
import threading
from dataclasses import dataclass

import unicorn.riscv_const as rc
import unicorn.unicorn_const as ucc

from emu.engine import calls, layout_search, scratch_engine
from emu.engine.calls import EngineError, address, library
from emu.engine.layout import (
    INTERRUPT_HARD,
    Allocation,
    Layout,
    functions,
    may_be_no_exit_request,
    move_hook,
    raise_interrupt,
    restored_pc,
)
from emu.engine.scratch_engine import Scratch
from emu.engine.state_words import check_words, words_at
from emu.spec import words as W

_MSIP = 1 << 3  # in mip and mie; and mstatus.MIE
_CAUSE_MSI = 1 << 63 | 3
_MPRV_AS_S = 1 << 17 | 1 << 11  # mstatus.MPRV, with MPP = S
_SV39 = 8 << 60
_LOAD_PAGE_FAULT = 13
_RAISED_AT, _ROUNDS = 20, 1000  # of a loop: in which round it is interrupted

_LBU_T0_A0, _ADDI_T1, _WFI = (
    scratch_engine.LBU_T0_A0,
    scratch_engine.ADDI_T1_T1_1,
    scratch_engine.WFI,
)
_LR_D_T0_A0 = 2 << 27 | 10 << 15 | 3 << 12 | 5 << 7 | 0x2F
_SB_T1_A0 = 6 << 20 | 10 << 15 | 0x23
_BNE_T1_T2_BACK_8 = 0xFE73_1CE3

_FILL = C.CFUNCTYPE(
    C.c_bool, C.c_void_p, C.c_uint64, C.c_int, C.c_int, C.c_int, C.c_bool, C.c_size_t
)
_EXEC_INTERRUPT = C.CFUNCTYPE(C.c_bool, C.c_void_p, C.c_int)
_MAPPING = C.CFUNCTYPE(C.c_void_p, C.c_void_p, C.c_uint64)


@dataclass
class _Proof:
    """An engine, its parts as the layout has them, and its words."""

    engine: Scratch
    layout: Layout
    cpu: Allocation
    env: int
    words: memoryview

    def run(self, *code: int, **registers: int) -> int:
        """As `Scratch.run`, with these registers of t0, t1, t2, a0."""
        for name, value in {"t1": 0, **registers}.items():
            self.words[W.GPR + {"t0": 5, "t1": 6, "t2": 7, "a0": 10}[name]] = value
        return self.engine.run(*code)

    @property
    def t1(self) -> int:
        return int(self.words[W.GPR + 6])


def _expect(name: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise EngineError(f"{name} is not where it should be: found {found}, not {wanted}")


def prove(found: Layout) -> None:
    """Raises EngineError with the name of the first field that is not there."""
    known = functions()
    with scratch_engine.scratch() as engine:
        env = engine.env()
        cpu = engine.cpu_at(engine.handle.read(found.uc_cpu, 8), env)
        _expect("CPUState.env_ptr", cpu.read(found.cpu_env, 8), env)
        for name, part, offset in (
            ("memory_mapping", engine.handle, found.uc_memory_mapping),
            ("tlb_fill", cpu, found.cpu_tlb_fill),
            ("exec_interrupt", cpu, found.cpu_exec_interrupt),
        ):
            _expect(name, part.read(offset, 8), known[name])
        words = words_at(env)
        check_words(engine.uc, words, lambda: None)
        if not may_be_no_exit_request(engine.handle, found.uc_no_exit_request):
            raise EngineError("uc_struct.no_exit_request is not where it should be")
        proof = _Proof(engine, found, cpu, env, words)
        for prove_one in (
            _prove_stop, _prove_request, _prove_device_read, _prove_interrupt, _prove_fill,
            _prove_denial, _prove_fault, _prove_pmp, _prove_hook,
        ):  # fmt: skip
            prove_one(proof)


def _prove_stop(proof: _Proof) -> None:
    if not scratch_engine.puts_stops_off(proof.engine, proof.layout.uc_no_exit_request):
        raise EngineError("uc_struct.no_exit_request does not put a stop off")
    # As the hart has it from now on.
    C.c_uint8.from_address(proof.engine.handle.at + proof.layout.uc_no_exit_request).value = 1


def _prove_request(proof: _Proof) -> None:
    """An interrupt through the public interface, and taken back."""
    uc, found = proof.engine.uc, []
    uc.reg_write(rc.UC_RISCV_REG_MIDELEG, 2)
    for mip in (2, 0):
        uc.reg_write(rc.UC_RISCV_REG_MIP, mip)
        request = proof.cpu.read(proof.layout.cpu_interrupt_request, 4)
        found.append((request, proof.words[W.MIP]))
    uc.reg_write(rc.UC_RISCV_REG_MIDELEG, 0)
    _expect("CPUState.interrupt_request", found, [(INTERRUPT_HARD, 2), (0, 0)])


def _prove_device_read(proof: _Proof) -> None:
    cpu, where = proof.cpu, proof.layout
    stops: list[tuple[int, int]] = []
    places: list[int | None] = []

    def on_read() -> None:
        before = cpu.read(where.cpu_icount_high, 2)
        calls.emu_stop(proof.engine.uc)
        place = cpu.read(where.cpu_mem_io_pc, 8)
        stops.append((before, cpu.read(where.cpu_icount_high, 2)))
        places.append(restored_pc(cpu.at, proof.env, place))

    proof.engine.on_read = on_read
    proof.run(_ADDI_T1, _LBU_T0_A0, _WFI, a0=scratch_engine.DEVICE)
    _expect("icount_decr.high", stops, [(0, 0xFFFF)])
    _expect("CPUState.mem_io_pc", places, [scratch_engine.RAM + 4])


def _prove_interrupt(proof: _Proof) -> None:
    """It is taken in a loop of chained blocks, by the function that the class has for it."""
    cpu, where, words = proof.cpu, proof.layout, proof.words
    slot = C.c_uint64.from_address(cpu.at + where.cpu_exec_interrupt)
    original = _EXEC_INTERRUPT(slot.value)
    asked: list[int] = []

    def exec_interrupt(at: int, request: int) -> bool:
        asked.append(request)
        return bool(original(at, request))

    def on_read() -> None:
        if proof.t1 == _RAISED_AT:
            raise_interrupt(cpu.at, where, _MSIP)

    ours, before = _EXEC_INTERRUPT(exec_interrupt), slot.value
    words[W.MTVEC], words[W.MIE], words[W.MSTATUS] = scratch_engine.RAM + 16, _MSIP, _MSIP
    proof.engine.on_read = on_read
    slot.value = address(ours)
    try:
        code = (_LBU_T0_A0, _ADDI_T1, _BNE_T1_T2_BACK_8, _WFI, _WFI)
        proof.run(*code, a0=scratch_engine.DEVICE, t2=_ROUNDS)
    finally:
        slot.value = before
        library.riscv_cpu_update_mip_riscv64(C.c_void_p(cpu.at), C.c_uint32(_MSIP), C.c_uint32(0))
    taken = (words[W.MCAUSE], words[W.MEPC], proof.t1)
    _expect(
        "icount_decr.high or CPUState.interrupt_request",
        taken,
        (_CAUSE_MSI, scratch_engine.RAM, _RAISED_AT + 1),
    )
    if not asked:
        raise EngineError("CPUClass.cpu_exec_interrupt is not what the engine calls")
    words[W.MIE] = words[W.MSTATUS] = 0


def _prove_fill(proof: _Proof) -> None:
    """The engine asks the class's tlb_fill for each page that it does not know."""
    slot = C.c_uint64.from_address(proof.cpu.at + proof.layout.cpu_tlb_fill)
    original, before, filled = _FILL(slot.value), slot.value, []

    def fill(cpu: int, va: int, size: int, access: int, mode: int, probe: bool, place: int) -> bool:
        filled.append(va & -4096)
        return bool(original(cpu, va, size, access, mode, probe, place))

    ours = _FILL(fill)
    data = scratch_engine.RAM + 4096
    library.tlb_flush_riscv64(C.c_void_p(proof.cpu.at))
    slot.value = address(ours)
    try:
        proof.run(_LBU_T0_A0, _WFI, a0=data)
    finally:
        slot.value = before
    if data not in filled:
        raise EngineError("CPUClass.tlb_fill is not what the engine calls")


def _prove_denial(proof: _Proof) -> None:
    """Where no memory is found, a store does not take place."""
    slot = C.c_uint64.from_address(proof.engine.handle.at + proof.layout.uc_memory_mapping)
    nothing, before = _MAPPING(lambda _uc, _pa: None), slot.value
    data = 4096  # of the RAM
    found = []
    for function in (address(nothing), before):
        proof.engine.ram[data] = 0
        library.tlb_flush_riscv64(C.c_void_p(proof.cpu.at))
        slot.value = function
        try:
            proof.run(_ADDI_T1, _SB_T1_A0, _WFI, a0=scratch_engine.RAM + data)
        finally:
            slot.value = before
        found.append(proof.engine.ram[data])
    proof.engine.ram[data] = 0
    _expect("uc_struct.memory_mapping", found, [0, 1])


def _prove_fault(proof: _Proof) -> None:
    """The address of a load that faults; the reservation of an LR."""
    words, va, numbers = proof.words, 0x12_3456_7890, []

    def on_intr(_uc: int, number: int, _data: int) -> None:
        numbers.append(number)
        calls.emu_stop(proof.engine.uc)

    data = scratch_engine.RAM + 4096
    proof.run(_LR_D_T0_A0, _WFI, a0=data)
    _expect("CPURISCVState.load_res", words[W.LOAD_RES], data)
    callback = calls.INTR_CB(on_intr)
    handle = calls.hook(proof.engine.uc, ucc.UC_HOOK_INTR, callback)
    words[W.SATP], words[W.MSTATUS] = _SV39 | data >> 12, _MPRV_AS_S  # an empty table
    library.tlb_flush_riscv64(C.c_void_p(proof.cpu.at))
    proof.run(_LBU_T0_A0, _WFI, a0=va)
    words[W.SATP] = words[W.MSTATUS] = 0
    calls.unhook(proof.engine.uc, handle)
    _expect("CPURISCVState.badaddr", (numbers, words[W.BADADDR]), ([_LOAD_PAGE_FAULT], va))


def _prove_pmp(proof: _Proof) -> None:
    where, first = proof.layout, proof.env - proof.cpu.at + proof.layout.env_pmp
    read = proof.cpu.read
    with scratch_engine.pmp_written(proof.env):
        entries = [first + where.pmp_entry * i for i in range(scratch_engine.PMP_ENTRIES)]
        addresses = [read(at, 8) for at in entries]
        configs = [
            read(at + where.pmp_config, 1) for at in entries[: len(scratch_engine.PMP_CONFIGS)]
        ]
    _expect("pmp_state.addr_reg", addresses, scratch_engine.PMP_ADDRESSES)
    wanted = scratch_engine.PMP_CONFIGS
    _expect("pmp_state.cfg_reg", configs[: len(wanted)], wanted)


def _prove_hook(proof: _Proof) -> None:
    """A bounded hook that is given other bounds is called in those."""
    called: list[int] = []

    def accessed(_uc: int, _kind: int, pa: int, *_: int) -> bool:
        called.append(pa)
        return False

    callback = calls.MEM_CB(accessed)
    kind = ucc.UC_HOOK_MEM_WRITE_UNMAPPED
    first, last = layout_search.HOOK_FIRST, layout_search.HOOK_LAST
    handle = calls.hook(proof.engine.uc, kind, callback, first, last)
    elsewhere = 0x4000_0000
    move_hook(handle, proof.layout, callback, (first, last), (elsewhere, elsewhere + 4095))
    proof.run(_SB_T1_A0, _WFI, a0=elsewhere + 8)
    calls.unhook(proof.engine.uc, handle)
    _expect("struct hook.begin", called, [elsewhere + 8])


_known: Layout | str | None = None
_lock = threading.Lock()


def proven_layout() -> Layout:
    """The layout of this process's library, found and proven at the first call.

    Raises EngineError, each time, with what is not there.
    """
    global _known
    with _lock:
        if _known is None:
            try:
                found = layout_search.find()
                prove(found)
                _known = found
            except EngineError as e:
                _known = str(e)
    if isinstance(_known, str):
        raise EngineError(_known)
    return _known
