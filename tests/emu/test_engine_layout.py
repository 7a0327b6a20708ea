"""Unicorn's fields are found and proven at the start; what is not proven is not used."""

from __future__ import annotations

import ctypes as C
import mmap
import subprocess
import sys
from contextlib import closing
from dataclasses import fields, replace

import pytest

from emu.board.machine import Machine
from emu.engine import layout, layout_proof, layout_search
from emu.engine.calls import EngineError, library
from emu.engine.layout import Allocation, Layout, is_readable
from emu.engine.public_access import PublicAccess
from emu.hart import Hart
from emu.ram import Ram
from emu.stop import StopReason

RAM = 0x8000_0000
# addi a0, a0, 1; wfi
CODE = (0x0015_0513).to_bytes(4, "little") + (0x1050_0073).to_bytes(4, "little")
# What each field is called where it is refused.
NAMES = {
    "uc_cpu": "uc_struct.cpu",
    "uc_memory_mapping": "memory_mapping",
    "uc_no_exit_request": "no_exit_request",
    "cpu_env": "env_ptr",
    "cpu_interrupt_request": "interrupt_request",
    "cpu_icount_high": "icount_decr",
    "cpu_mem_io_pc": "mem_io_pc",
    "cpu_tlb_fill": "tlb_fill",
    "cpu_exec_interrupt": "exec_interrupt",
    "env_pmp": "pmp_state",
    "pmp_config": "pmp_state",
    "pmp_entry": "pmp_state",
    "hook_begin": "struct hook",
    "hook_callback": "struct hook",
}


@pytest.fixture(scope="module")
def found() -> Layout:
    return layout_search.find()


@pytest.fixture
def unproven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout_proof, "_known", None)


def test_it_is_found_and_proven_again_and_again(found: Layout) -> None:
    for _ in range(5):
        assert layout_search.find() == found
        layout_proof.prove(found)
    assert layout_proof.proven_layout() == found


def test_every_field_has_a_name_here() -> None:
    assert list(NAMES) == [field.name for field in fields(Layout)]


@pytest.mark.parametrize("by", [8, -8])
@pytest.mark.parametrize("field", NAMES)
def test_a_field_that_is_a_word_away_is_refused(
    found: Layout, field: str, by: int, monkeypatch: pytest.MonkeyPatch, unproven: None
) -> None:
    """And the machine runs on the public way, and says why."""
    moved = replace(found, **{field: getattr(found, field) + by})
    monkeypatch.setattr(layout_search, "find", lambda: moved)
    with pytest.raises(EngineError, match=NAMES[field]):
        Hart(Ram(1 << 20), "inside")
    with closing(Machine(1 << 20, access="auto")) as machine:
        access = machine.hart.access
        assert access.name == "public"
        assert NAMES[field] in access.missing[0]
        assert access.missing[0].endswith("running on the public interface")
        assert access.missing[1:] == PublicAccess.missing
        machine.ram.write(RAM, CODE)
        assert machine.run().reason is StopReason.WFI
        assert machine.hart.words[10] == 1


def test_a_field_far_away_is_not_read(found: Layout) -> None:
    for field in fields(Layout):
        with pytest.raises(EngineError):
            layout_proof.prove(replace(found, **{field.name: 1 << 50}))


def test_a_library_without_the_functions(monkeypatch: pytest.MonkeyPatch, unproven: None) -> None:
    """As the Windows wheel: `functions` is the first that asks for one."""

    class Without:
        def __getattr__(self, name: str) -> object:
            if name.endswith("_riscv64"):
                raise AttributeError(name)
            return getattr(library, name)

    monkeypatch.setattr(layout, "library", Without())
    with closing(Machine(1 << 20, access="auto")) as machine:
        assert machine.hart.access.missing[0].startswith("libunicorn does not export")


def test_a_failure_is_remembered(monkeypatch: pytest.MonkeyPatch, unproven: None) -> None:
    asked = []

    def find() -> Layout:
        asked.append(1)
        raise EngineError("nothing is where it was")

    monkeypatch.setattr(layout_search, "find", find)
    for _ in range(3):
        with pytest.raises(EngineError, match="nothing is where it was"):
            Hart(Ram(1 << 20), "inside")
    assert len(asked) == 1


WITHOUT_PROC = """
import builtins, io, os
def refuse(path, *rest, **more):
    assert not str(path).startswith("/proc"), path
    return real(path, *rest, **more)
real, os.open = os.open, refuse
from emu.hart import Hart
from emu.ram import Ram
assert Hart(Ram(1 << 20), "direct").access.name == "direct"
"""


def test_proc_is_not_needed() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_PROC], check=True)


def test_an_allocation_is_not_read_beyond_its_end() -> None:
    malloc, free = C.CDLL(None).malloc, C.CDLL(None).free
    malloc.restype, free.argtypes = C.c_void_p, [C.c_void_p]
    at = malloc(C.c_size_t(100))
    block = layout.Allocation(at)
    assert 100 <= block.size < 200
    block.read(block.size - 8, 8)
    for offset in (-1, block.size - 7, block.size, 1 << 60):
        with pytest.raises(EngineError, match="nothing readable"):
            block.read(offset, 8)
    free(at)


@pytest.mark.parametrize("header", [0, 0x21, 0x0101_0101_0101_0101, (1 << 64) - 1, 0x4000_0001, 24])
def test_what_is_no_allocation_is_refused(header: int) -> None:
    """The C library, asked about such an address, would read wherever the header points to."""
    words = (C.c_uint64 * 4096)(*[header] * 4096)
    begin = C.addressof(words)
    for at in (begin + 0x100, begin + 0x108, begin + 0x1000, 16, 1 << 47, (1 << 64) - 16):
        if header == 0x21 and at % 16 == 0 and begin <= at < begin + 0x8000:
            continue  # that does look like an allocation, of 24 bytes
        with pytest.raises(EngineError):
            Allocation(at)


def test_memory_that_cannot_be_read() -> None:
    hole = mmap.mmap(-1, 3 * mmap.PAGESIZE)
    at = C.addressof(C.c_char.from_buffer(hole))
    assert is_readable(at, mmap.PAGESIZE)
    libc = C.CDLL(None)
    assert libc.mprotect(C.c_void_p(at + mmap.PAGESIZE), C.c_size_t(mmap.PAGESIZE), 0) == 0
    assert not is_readable(at + mmap.PAGESIZE, 8)
    assert not is_readable(at + mmap.PAGESIZE - 4, 8)
    assert is_readable(at + 2 * mmap.PAGESIZE, 8)
    assert libc.mprotect(C.c_void_p(at + mmap.PAGESIZE), C.c_size_t(mmap.PAGESIZE), 3) == 0
