"""The search for each field of a `Layout`, in an engine that is thrown away.

A CSR that is ours is read by an instruction: the engine calls with the address of its
`CPURISCVState`. All else is looked for in memory that is known to be allocated: in `uc_struct`
(the engine's handle), in the CPU that it points to and that holds that state, and in a `struct
hook`, each as large as the C library says that its allocation is. Something is done through the
public interface, and the field is what has changed, or what has the value that was given.
"""

from __future__ import annotations

import unicorn.riscv_const as rc
import unicorn.unicorn_const as ucc
from unicorn.unicorn_py3.unicorn import Uc

from emu.engine import calls
from emu.engine.calls import EngineError, address, library
from emu.engine.layout import Allocation, Layout, functions, may_be_no_exit_request, restored_pc
from emu.engine.scratch_engine import (
    ADDI_T1_T1_1,
    CPU_MAX,
    DEVICE,
    LBU_T0_A0,
    PMP_ADDRESSES,
    PMP_CONFIGS,
    RAM,
    WFI,
    Scratch,
    pmp_written,
    puts_stops_off,
    scratch,
)
from emu.engine.state_words import context_words

HOOK_FIRST, HOOK_LAST = 0x1234_5000, 0x1234_5FFF
inert = calls.MEM_CB(lambda *_: False)


def _one(name: str, found: list[int]) -> int:
    if not found:
        raise EngineError(f"{name} was not found")
    return found[0]


def find() -> Layout:
    """Search for every field. Raises EngineError with the name of what is not there."""
    known = functions()
    with scratch() as engine:
        env = engine.env()
        uc_cpu, cpu = _find_cpu(engine, env)
        tlb_fill = _find_tlb_fill(engine, cpu, known["tlb_fill"])
        begin, callback = _find_hook(engine.uc)
        icount_high, mem_io_pc = _find_in_device_read(engine, cpu, env)
        pmp = _find_pmp(cpu, env)
        return Layout(
            uc_cpu=uc_cpu,
            uc_memory_mapping=_one(
                "uc_struct.memory_mapping", engine.handle.find(known["memory_mapping"])
            ),
            uc_no_exit_request=_find_no_exit_request(engine),
            cpu_env=_one("CPUState.env_ptr", cpu.find(env)),
            cpu_interrupt_request=_find_interrupt_request(engine.uc, cpu, env),
            cpu_icount_high=icount_high,
            cpu_mem_io_pc=mem_io_pc,
            cpu_tlb_fill=tlb_fill,
            cpu_exec_interrupt=_one(
                "CPUClass.cpu_exec_interrupt", cpu.find(known["exec_interrupt"])
            ),
            env_pmp=pmp[0],
            pmp_config=pmp[1],
            pmp_entry=pmp[2],
            hook_begin=begin,
            hook_callback=callback,
        )


def _find_cpu(engine: Scratch, env: int) -> tuple[int, Allocation]:
    words = memoryview(engine.handle.bytes()[: engine.handle.size & -8]).cast("Q")
    for i, word in enumerate(words):
        if env - CPU_MAX <= word < env:
            try:
                return 8 * i, engine.cpu_at(word, env)
            except EngineError:
                pass
    raise EngineError("uc_struct.cpu was not found")


def _find_tlb_fill(engine: Scratch, cpu: Allocation, function: int) -> int:
    """Of the words with this value, the one that the other way to fill a TLB changes."""
    before = cpu.find(function)
    engine.uc.ctl_set_tlb_mode(ucc.UC_TLB_VIRTUAL)
    after = cpu.find(function)
    engine.uc.ctl_set_tlb_mode(ucc.UC_TLB_CPU)
    return _one("CPUClass.tlb_fill", [offset for offset in before if offset not in after])


def _find_no_exit_request(engine: Scratch) -> int:
    """Of the bools behind uc_struct.cpu_context_size, the one that puts a stop off."""
    handle = engine.handle
    state = library.uc_context_size(engine.uc._uch) - context_words(engine.uc)
    for at in handle.find(state):
        for offset in range(at + 8, at + 64):
            if may_be_no_exit_request(handle, offset) and puts_stops_off(engine, offset):
                return offset
    raise EngineError("uc_struct.no_exit_request was not found")


def _find_interrupt_request(uc: Uc, cpu: Allocation, env: int) -> int:
    """The 32 bits that become 2 (CPU_INTERRUPT_HARD) with an interrupt, and 0 without it."""
    uc.reg_write(rc.UC_RISCV_REG_MIDELEG, 2)
    before = cpu.bytes()
    uc.reg_write(rc.UC_RISCV_REG_MIP, 2)
    between = cpu.bytes()
    uc.reg_write(rc.UC_RISCV_REG_MIP, 0)
    uc.reg_write(rc.UC_RISCV_REG_MIDELEG, 0)
    found = _changed(before, between, 4, (0, 2), env - cpu.at)
    after = cpu.bytes()
    return _one(
        "CPUState.interrupt_request", [at for at in found if after[at : at + 4] == bytes(4)]
    )


def _find_in_device_read(engine: Scratch, cpu: Allocation, env: int) -> tuple[int, int]:
    """icount_decr.high, which a stop sets, and mem_io_pc, from which pc can be restored."""
    stopped: list[int] = []
    restored: list[int] = []

    def on_read() -> None:
        before = cpu.bytes()
        calls.emu_stop(engine.uc)
        stopped.extend(_changed(before, cpu.bytes(), 2, (0, 0xFFFF), env - cpu.at))
        words = memoryview(before[: env - cpu.at & -8]).cast("Q")
        for i, word in enumerate(words):
            if word and restored_pc(cpu.at, env, word) == RAM + 4:
                restored.append(8 * i)

    engine.on_read = on_read
    engine.uc.reg_write(rc.UC_RISCV_REG_A0, DEVICE)
    engine.run(ADDI_T1_T1_1, LBU_T0_A0, WFI)
    engine.on_read = lambda: None
    return _one("icount_decr.high", stopped), _one("CPUState.mem_io_pc", restored)


def _changed(
    before: bytes, after: bytes, size: int, values: tuple[int, int], end: int
) -> list[int]:
    """Where below ``end`` a number of ``size`` bytes was ``values[0]`` and is ``values[1]``."""
    was, now = (value.to_bytes(size, "little") for value in values)
    pairs = zip(*(memoryview(data[: end & -8]).cast("Q") for data in (before, after)), strict=True)
    words = [8 * i for i, (one, other) in enumerate(pairs) if one != other]
    places = [at for word in words for at in range(word, word + 8, size)]
    return [at for at in places if before[at : at + size] == was and after[at : at + size] == now]


def _find_pmp(cpu: Allocation, env: int) -> tuple[int, int, int]:
    """The first entry (bytes from the state), its configuration (from there), an entry's size."""
    with pmp_written(env):
        data = cpu.bytes()
        first = _one("CPURISCVState.pmp_state", cpu.find(PMP_ADDRESSES[0]))
        size = _one("CPURISCVState.pmp_state", cpu.find(PMP_ADDRESSES[1])) - first
        for config in range(8, size):
            at = range(first + config, first + config + size * len(PMP_CONFIGS), size)
            if at[-1] < len(data) and [data[i] for i in at] == PMP_CONFIGS:
                return first - (env - cpu.at), config, size
    raise EngineError("CPURISCVState.pmp_state was not found")


def _find_hook(uc: Uc) -> tuple[int, int]:
    """A bounded hook's first address (the last is behind it), and its callback."""
    handle = calls.hook(uc, ucc.UC_HOOK_MEM_WRITE_UNMAPPED, inert, HOOK_FIRST, HOOK_LAST)
    hook = Allocation(handle)
    begin = _one("struct hook.begin", hook.find(HOOK_FIRST))
    callback = _one("struct hook.callback", hook.find(address(inert)))
    calls.unhook(uc, handle)
    return begin, callback
