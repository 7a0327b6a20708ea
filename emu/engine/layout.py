"""Where Unicorn's structures have the fields that `emu.engine.direct_access` uses.

They are no public interface, and each build has them elsewhere. So nothing is listed here: once
in a process `emu.engine.layout_search` looks for each of them, and `emu.engine.layout_proof`
uses each before it is believed in.
"""

from __future__ import annotations

import ctypes as C
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from emu.engine.calls import EngineError, address, library
from emu.spec import words as W

INTERRUPT_HARD = 2  # QEMU's CPU_INTERRUPT_HARD


@dataclass(frozen=True)
class Layout:
    """Offsets in bytes; the first word is the structure, the others are the field's name there."""

    uc_cpu: int  # uc_struct.cpu
    uc_memory_mapping: int  # uc_struct.memory_mapping: the function that finds a PA's region
    uc_no_exit_request: int  # a bool, and behind it init_done
    cpu_env: int  # CPUState.env_ptr
    cpu_interrupt_request: int  # u32
    cpu_icount_high: int  # u16: not 0 when the engine leaves the block that begins next
    cpu_mem_io_pc: int  # the place in translated code from which a device was reached
    cpu_tlb_fill: int  # of the CPUClass, which is part of the CPU
    cpu_exec_interrupt: int  # likewise
    env_pmp: int  # CPURISCVState.pmp_state: the first entry's address register
    pmp_config: int  # in an entry: the byte of configuration
    pmp_entry: int  # the size of an entry
    hook_begin: int  # struct hook: the first address, and behind it the last
    hook_callback: int


@cache
def _allocation_size() -> Callable[[int], int]:
    """The C library's function that says how large an allocation is; 0: it is none.

    macOS has one that may be asked about any address. glibc's reads what stands before the
    allocation, and where that says the next one is: for an address that is none it may read
    anywhere. So both are looked at first.
    """
    library = C.CDLL(None)
    for name in ("malloc_size", "malloc_usable_size"):
        function = getattr(library, name, None)
        if function is not None:
            function.restype, function.argtypes = C.c_size_t, [C.c_void_p]
            if name == "malloc_size":
                return lambda at: int(function(at))
            if hasattr(library, "gnu_get_libc_version"):
                return lambda at: int(function(at)) if _has_chunk_header(at) else 0
    raise EngineError("the C library does not say how large an allocation is")


_CHUNK_FLAGS, _CHUNK_MMAPPED = 7, 2  # of glibc's malloc_chunk.mchunk_size
_CHUNK_MAX = 1 << 26  # bytes; nothing of the engine's that is looked at is as large


def _has_chunk_header(at: int) -> bool:
    """Whether glibc's malloc could have given ``at``: 16 bytes before it stands a chunk."""
    if at % 16 or not is_readable(at - 16, 16):
        return False
    size = int.from_bytes(C.string_at(at - 8, 8), "little")
    chunk = size & ~_CHUNK_FLAGS
    if chunk % 16 or not 32 <= chunk <= _CHUNK_MAX:
        return False
    is_last_of_its_mapping = bool(size & _CHUNK_MMAPPED)
    end = at - 16 + chunk
    return is_readable(end - 8, 8) if is_last_of_its_mapping else is_readable(end, 16)


def is_readable(at: int, size: int) -> bool:
    """Whether ``size`` bytes (a page at most) can be read there.

    The system is asked to read them, by a write to a pipe: it returns EFAULT where we would end.
    """
    if not 0 < at < 1 << 64 - 1:
        return False
    reading, writing = os.pipe()
    try:
        write = C.CDLL(None).write
        write.restype = C.c_ssize_t
        return int(write(writing, C.c_void_p(at), C.c_size_t(size))) == size
    finally:
        os.close(reading)
        os.close(writing)


class Allocation:
    """An allocation of the engine's, at ``at`` (host address): what lies in it can be read.

    Raises EngineError when none is there.
    """

    def __init__(self, at: int) -> None:
        self.at = at
        self.size = _allocation_size()(at)
        if not self.size:
            raise EngineError(f"no allocation is at {at:#x}")

    def bytes(self) -> bytes:
        return C.string_at(self.at, self.size)

    def read(self, offset: int, size: int) -> int:
        """An unsigned number. Raises EngineError outside of the allocation."""
        if not 0 <= offset <= self.size - size:
            raise EngineError(f"nothing readable {offset:#x} bytes into {self.size:#x}")
        return int.from_bytes(C.string_at(self.at + offset, size), "little")

    def find(self, value: int) -> list[int]:
        """The offsets of the aligned 64-bit words that have this value."""
        data, pattern = self.bytes(), value.to_bytes(8, "little")
        found, at = [], data.find(pattern)
        while at >= 0:
            if at % 8 == 0:
                found.append(at)
            at = data.find(pattern, at + 1)
        return found


def functions() -> dict[str, int]:
    """The addresses of the engine's functions that a field points to.

    Raises EngineError where the library does not export them (on Windows).
    """
    try:
        return {
            "memory_mapping": address(library.find_memory_mapping_riscv64),
            "tlb_fill": address(library.riscv_cpu_tlb_fill_riscv64),
            "exec_interrupt": address(library.riscv_cpu_exec_interrupt_riscv64),
        }
    except AttributeError as e:
        raise EngineError(f"libunicorn does not export {e}") from e


def may_be_no_exit_request(handle: Allocation, offset: int) -> bool:
    """Whether a false bool is there, among bools, and behind it a true one: init_done."""
    bools = handle.read(offset & -8, 8).to_bytes(8, "little")
    return set(bools) <= {0, 1} and handle.read(offset, 2) == 0x100


def restored_pc(cpu: int, env: int, place: int) -> int | None:
    """The VA of the instruction whose code is around ``place``; None: it is in no code.

    Any number can be asked about. The state is as it was afterwards.
    """
    pc = C.c_uint64.from_address(env + 8 * W.PC)
    kept = pc.value
    found = library.cpu_restore_state_riscv64(C.c_void_p(cpu), C.c_size_t(place), C.c_bool(False))
    va, pc.value = pc.value, kept
    return va if found & 0xFF else None


def raise_interrupt(cpu: int, where: Layout, mip: int) -> None:
    """Show the engine ``mip``, and have it look before its next block.

    What QEMU's cpu_interrupt does: chained blocks look at that counter alone.
    """
    library.riscv_cpu_update_mip_riscv64(C.c_void_p(cpu), C.c_uint32(0xFFFF_FFFF), C.c_uint32(mip))
    if mip:
        C.c_uint32.from_address(cpu + where.cpu_interrupt_request).value |= INTERRUPT_HARD
        C.c_uint16.from_address(cpu + where.cpu_icount_high).value = 0xFFFF


def move_hook(
    handle: int,
    where: Layout,
    callback: Callable[..., bool],
    old: tuple[int, int],
    new: tuple[int, int],
) -> None:
    """Give the hook that ``handle`` points to other bounds (the first and the last PA).

    Raises EngineError when it is not laid out so, and does nothing.
    """
    hook = Allocation(handle)
    bounds = hook.read(where.hook_begin, 8), hook.read(where.hook_begin + 8, 8)
    if hook.read(where.hook_callback, 8) != address(callback) or bounds != old:
        raise EngineError("struct hook is not laid out as expected")
    C.c_uint64.from_address(handle + where.hook_begin).value = new[0]
    C.c_uint64.from_address(handle + where.hook_begin + 8).value = new[1]
