"""MPRV: M-mode's loads and stores are translated as MPP's are, its fetches are not.

Section 3.1.6.3. The engine has one entry in its TLB for a page's fetches and its data; whoever
came first would decide for both.
"""

from __future__ import annotations

import pytest
from asm import Batch
from harness import A, Bench, D, R, V, W, X

from emu.spec import words
from emu.stop import StopReason

batch = Batch()
MPRV = 1 << 17
PHYSICAL, OTHER = 0x8000_5000, 0x8000_6000  # the page that runs, and what its VA maps to
MARK = 0x1112_1314_1516_1718

# Runs at PHYSICAL: loads the word behind the code, with MPRV set around it.
LOAD = batch(
    """
    li   t0, 1 << 17
    csrs mstatus, t0
    ld   a1, 0x100(a0)
    ld   a2, 0x100(a0)
    csrc mstatus, t0
    ld   a3, 0x100(a0)
    wfi
    """
)
# The load first, by code elsewhere; then a call of a function in the page, with MPRV still set.
CALL = batch(
    """
    li   t0, 1 << 17
    csrs mstatus, t0
    ld   a1, 0x100(a0)
    jalr a0
    ld   a2, 0x100(a0)
    csrc mstatus, t0
    wfi
    """
)
STORE = batch(
    """
    li   t0, 1 << 17
    csrs mstatus, t0
    sd   a4, 0x108(a0)
    ld   a1, 0x108(a0)
    sd   a4, 0x110(a0)
    csrc mstatus, t0
    ld   a3, 0x108(a0)
    wfi
    """
)
RIGHT, WRONG = batch("li a5, 1\nret"), batch("li a5, 2\nret")


@pytest.fixture(params=[R, R | W, R | X, R | W | X], ids=["r", "rw", "rx", "rwx"])
def bench(request: pytest.FixtureRequest, inside: Bench) -> Bench:
    """MPP is S; VA PHYSICAL maps to OTHER, with these permissions."""
    tables = inside.translate()
    tables.map(PHYSICAL, OTHER, V | A | D | request.param)
    inside.w[words.MSTATUS] = 0xA_0000_0000 | 1 << 11
    inside.ram.write64(PHYSICAL + 0x100, 0x5A5A)
    inside.ram.write64(OTHER + 0x100, MARK)
    return inside


def test_a_load_from_the_page_that_runs(bench: Bench) -> None:
    bench.load(LOAD, PHYSICAL)
    assert bench.run(pc=PHYSICAL, a0=PHYSICAL).reason is StopReason.WFI
    assert [bench.reg(f"a{i}") for i in (1, 2, 3)] == [MARK, MARK, 0x5A5A]


def test_a_fetch_from_the_page_that_was_loaded_from(bench: Bench) -> None:
    bench.load(RIGHT, PHYSICAL)
    bench.load(WRONG, OTHER)
    for _ in range(3):
        assert bench.run(CALL, a0=PHYSICAL, a5=0).reason is StopReason.WFI
        assert [bench.reg(f"a{i}") for i in (1, 2, 5)] == [MARK, MARK, 1]


def test_a_store_goes_where_it_is_mapped_or_faults(bench: Bench, request: object) -> None:
    bench.load(STORE, PHYSICAL)
    bench.ram.write64(PHYSICAL + 0x108, 7)
    assert bench.run(pc=PHYSICAL, a0=PHYSICAL, a4=MARK).reason is StopReason.WFI
    if bench.w[words.MCAUSE]:
        assert bench.w[words.MCAUSE] == 15
        assert bench.ram.read64(OTHER + 0x108) == 0
    else:
        assert (bench.reg("a1"), bench.reg("a3")) == (MARK, 7)
        assert bench.ram.read64(OTHER + 0x110) == MARK
    assert bench.ram.read64(PHYSICAL + 0x108) == 7
