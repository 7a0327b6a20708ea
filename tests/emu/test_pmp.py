"""Physical memory protection on the hart, rule by rule, from the text of section 3.7.

All numbers are the spec's, written out. S-mode accesses are made by M-mode through MPRV, fetches by
a jump. The page tables are never on here, but for the tests that say so.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from asm import Batch
from harness import CODE, DATA, RAM, A, Bench, D, R, Tables, V, W, words

from emu.hart import HartOptions
from emu.spec.extensions import Extensions
from emu.spec.pmp import Matching, Pmp, legal_cfg

OFF, TOR, NA4, NAPOT = (mode << 3 for mode in range(4))
PMP_R, PMP_W, PMP_X, LOCKED = 1, 2, 4, 0x80
RWX = 7
ALL_MEMORY = (1 << 54) - 1  # as pmpaddr with NAPOT
MPRV, MPP_S = 1 << 17, 1 << 11
UXL_SXL = 0xA_0000_0000
LOAD_FAULT, STORE_FAULT, FETCH_FAULT = 5, 7, 1

batch = Batch()
LOADS = {1: batch("lbu a1, (a0); wfi"), 2: batch("lhu a1, (a0); wfi")}
LOADS |= {4: batch("lwu a1, (a0); wfi"), 8: batch("ld a1, (a0); wfi")}
STORES = {1: batch("sb a1, (a0); wfi"), 2: batch("sh a1, (a0); wfi")}
STORES |= {4: batch("sw a1, (a0); wfi"), 8: batch("sd a1, (a0); wfi")}
AMO = batch("amoadd.w a2, a1, (a0); wfi")
LR = batch("lr.w a2, (a0); wfi")
SC = batch("lr.w a2, (a3); sc.w a2, a1, (a0); wfi")
CALL = batch(".option norvc; ecall; .option rvc")
FAR_CODE = RAM + 0x20_0000  # where code lies that no entry of a test is about


class Protected:
    """A machine whose PMP is ``entries``: pairs of (pmpaddr, pmpcfg)."""

    def __init__(self) -> None:
        self.bench = Bench(HartOptions("inside"))
        self.hart = self.bench.hart
        self.traps = self.bench.hold_m()

    def set(self, *entries: tuple[int, int]) -> None:
        csr = self.hart.access.csr
        self.hart.mmu.reset()
        config = 0
        for i, (address, cfg) in enumerate(entries):
            csr(0x3B0 + i, address)
            config |= cfg << 8 * i
        csr(0x3A0, config & (1 << 64) - 1)
        csr(0x3A2, config >> 64)

    def data(self, snippet: object, va: int, as_s: bool = True, a3: int = 0) -> int | None:
        """The cause of the access's trap, None: it did not trap."""
        self.traps.clear()
        self.bench.w[words.MSTATUS] = UXL_SXL | (MPRV | MPP_S if as_s else 0)
        self.hart.access.flush_tlb()
        self.bench.load(snippet, FAR_CODE)  # type: ignore[arg-type]
        self.bench.run(pc=FAR_CODE, priv=3, a0=va, a1=1, a3=a3)
        if not self.traps:
            return None
        assert self.traps[0].tval == va, hex(self.traps[0].tval)
        return self.traps[0].cause

    def fetch(self, pc: int, priv: int = 1) -> tuple[int, int]:
        """Jump there: ``(cause, tval)`` of the trap."""
        self.traps.clear()
        self.bench.w[words.MSTATUS] = UXL_SXL
        self.bench.run(pc=pc, priv=priv)
        return self.traps[0].cause, self.traps[0].tval


@pytest.fixture
def it() -> Iterator[Protected]:
    made = Protected()
    yield made
    made.bench.machine.close()


def test_no_entry_matches(it: Protected) -> None:
    """S and U are denied, M is not (section 3.7.1.3)."""
    it.set()
    assert it.data(LOADS[8], DATA) == LOAD_FAULT
    assert it.data(STORES[8], DATA) == STORE_FAULT
    assert it.data(LOADS[8], DATA, as_s=False) is None
    for priv in (0, 1):
        assert it.fetch(CODE, priv) == (FETCH_FAULT, CODE)


@pytest.mark.parametrize("rights", [0, 1, 3, 4, 5, 7])
def test_rights(it: Protected, rights: int) -> None:
    it.set((DATA >> 2 | 0x1FF, NAPOT | rights))  # 4 KiB
    assert it.data(LOADS[8], DATA) == (None if rights & PMP_R else LOAD_FAULT)
    assert it.data(STORES[8], DATA) == (None if rights & PMP_W else STORE_FAULT)
    it.bench.load(CALL, DATA)
    assert it.fetch(DATA) == ((9, 0) if rights & PMP_X else (FETCH_FAULT, DATA))
    # M is not bound by an entry without L.
    assert it.data(LOADS[8], DATA, as_s=False) is None
    assert it.data(STORES[8], DATA, as_s=False) is None


@pytest.mark.parametrize("rights", [0, 1, 3, 5, 7])
def test_a_locked_entry_binds_m(it: Protected, rights: int) -> None:
    it.set((DATA >> 2 | 0x1FF, NAPOT | LOCKED | rights))
    assert it.data(LOADS[8], DATA, as_s=False) == (None if rights & PMP_R else LOAD_FAULT)
    assert it.data(STORES[8], DATA, as_s=False) == (None if rights & PMP_W else STORE_FAULT)
    assert it.data(LOADS[8], DATA + 0x1000, as_s=False) is None  # nothing matches there
    it.bench.load(CALL, DATA)
    assert it.fetch(DATA, 3) == ((11, 0) if rights & PMP_X else (FETCH_FAULT, DATA))


SIZES = [1, 2, 4, 8]


@pytest.mark.parametrize("size", SIZES)
def test_na4(it: Protected, size: int) -> None:
    """Four bytes, and an access that has others too fails (section 3.7.1.3)."""
    it.set((DATA + 8 >> 2, NA4 | RWX))
    for offset in range(0, 24):
        inside = offset >= 8 and offset + size <= 12
        assert it.data(LOADS[size], DATA + offset) == (None if inside else LOAD_FAULT)
        assert it.data(STORES[size], DATA + offset) == (None if inside else STORE_FAULT)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("log", [3, 4, 6])
def test_napot(it: Protected, size: int, log: int) -> None:
    """2 to the power of ``log`` bytes: log - 3 ones below a zero."""
    begin = DATA + 0x40
    it.set((begin >> 2 | (1 << log - 3) - 1, NAPOT | PMP_R))
    for offset in (0, 0x40 - size, 0x40 - 1, 0x40, 0x40 + (1 << log) - size, 0x40 + (1 << log)):
        inside = offset >= 0x40 and offset + size <= 0x40 + (1 << log)
        assert it.data(LOADS[size], DATA + offset) == (None if inside else LOAD_FAULT), offset


def test_tor(it: Protected) -> None:
    """From the address register below (whatever its entry does) to below its own."""
    it.set((DATA + 4 >> 2, OFF), (DATA + 12 >> 2, TOR | PMP_R))
    for offset, allowed in ((0, False), (4, True), (8, True), (12, False)):
        assert it.data(LOADS[4], DATA + offset) == (None if allowed else LOAD_FAULT)
    # The first entry's bottom is 0; one whose top is not above its bottom matches nothing.
    it.set((DATA + 4 >> 2, TOR | PMP_R), (DATA + 4 >> 2, TOR | RWX), (DATA >> 2, TOR | RWX))
    assert it.data(LOADS[4], DATA) is None
    assert it.data(LOADS[4], DATA + 4) == LOAD_FAULT


def test_the_lowest_entry_that_matches_decides(it: Protected) -> None:
    it.set((DATA >> 2, NA4), (DATA >> 2 | 0x1FF, NAPOT | RWX))
    assert it.data(LOADS[4], DATA) == LOAD_FAULT
    assert it.data(LOADS[4], DATA + 4) is None
    it.set((DATA >> 2 | 0x1FF, NAPOT | RWX), (DATA >> 2, NA4))
    assert it.data(LOADS[4], DATA) is None


@pytest.mark.parametrize("as_s", [True, False])
def test_a_partial_match_fails_whatever_it_allows(it: Protected, as_s: bool) -> None:
    """Of M's accesses too, and without L."""
    it.set((DATA + 4 >> 2, NA4 | RWX), (ALL_MEMORY, NAPOT | RWX))
    assert it.data(LOADS[8], DATA, as_s) == LOAD_FAULT
    assert it.data(STORES[8], DATA, as_s) == STORE_FAULT
    assert it.data(LOADS[4], DATA, as_s) is None
    assert it.data(LOADS[4], DATA + 4, as_s) is None
    assert it.data(LOADS[2], DATA + 7, as_s) == LOAD_FAULT


def test_atomics(it: Protected) -> None:
    """An AMO needs R and W, and faults as a store; LR is a load."""
    for rights in (0, PMP_R, PMP_X):
        it.set((DATA >> 2, NA4 | rights))
        assert it.data(AMO, DATA) == STORE_FAULT
        assert it.data(LR, DATA) == (None if rights & PMP_R else LOAD_FAULT)
    it.set((DATA >> 2, NA4 | PMP_R))
    assert it.data(SC, DATA, a3=DATA) == STORE_FAULT
    it.set((DATA >> 2, NA4 | RWX))
    assert it.data(AMO, DATA) is None


def test_code_is_denied_to_the_instruction(it: Protected) -> None:
    """Of a page of code, the third instruction of four bytes; and half of one."""
    code = Batch()(".option norvc; nop; nop; nop; ecall; .option rvc")
    it.bench.load(code, DATA)
    it.set((DATA + 8 >> 2, NA4 | PMP_R), (ALL_MEMORY, NAPOT | RWX))
    assert it.fetch(DATA) == (FETCH_FAULT, DATA + 8)
    assert it.bench.hart.trap_listener is None and it.traps[0].epc == DATA + 8
    it.set((DATA + 12 >> 2, NA4 | RWX))
    assert it.fetch(DATA + 12) == (9, 0)
    half = Batch()(".option norvc; .option rvc; c.nop; c.nop; c.nop; .option norvc; ecall")
    it.bench.load(half, DATA)
    it.set((DATA + 8 >> 2, NA4), (ALL_MEMORY, NAPOT | RWX))
    assert it.fetch(DATA) == (FETCH_FAULT, DATA + 8)
    assert it.traps[0].epc == DATA + 6


def test_code_that_ran_is_denied_when_the_pmp_changes(it: Protected) -> None:
    """Its blocks go from one to the next without asking; a write of the PMP makes them ask."""
    loop = Batch()(
        """.option norvc
        csrw pmpaddr0, a0
        addi a1, a1, 1
        li t0, 10
        beq a1, t0, 2f
        j 1f
    1:  csrw pmpaddr1, a2
        nop
        ecall
    2:  csrw pmpcfg0, a4
        j 1b
        .option rvc"""
    )
    it.bench.load(loop, DATA)
    it.set((0, OFF), (0, OFF))
    target = DATA + 4 * 5  # the label 1
    for rounds in (0, 9):
        it.traps.clear()
        it.hart.mmu.reset()
        it.bench.run(
            pc=DATA, priv=3, a0=target >> 2, a1=rounds, a2=target >> 2, a4=LOCKED | NA4 | PMP_R
        )
        wanted = (11, DATA + 4 * 7) if rounds == 0 else (FETCH_FAULT, target)
        assert (it.traps[0].cause, it.traps[0].epc) == wanted


def test_the_walk_is_s_modes(it: Protected) -> None:
    """The page table is read and written as S-mode would, whoever asked (section 3.7.1)."""
    bench, page = it.bench, 0x4000_0000
    tables = Tables(bench.ram, 3)
    leaf = tables.map(page, DATA, V | R | W)
    bench.hart.set_satp(tables.satp)
    everything = (ALL_MEMORY, NAPOT | RWX)

    it.set((leaf >> 2 | 0, NA4 | PMP_R), everything)
    assert it.data(LOADS[8], page) == LOAD_FAULT  # half of the PTE: a partial match
    for rights, cause in ((0, LOAD_FAULT), (PMP_X, LOAD_FAULT), (PMP_R, LOAD_FAULT)):
        bench.ram.write64(leaf, DATA >> 12 << 10 | V | R | W)
        it.set((leaf >> 2, NAPOT | rights), everything)
        assert it.data(LOADS[8], page) == cause  # A cannot be set
        assert bench.ram.read64(leaf) & (A | D) == 0
    bench.ram.write64(leaf, DATA >> 12 << 10 | V | R | W | A)
    assert it.data(LOADS[8], page) is None  # R alone: there is nothing to set
    assert it.data(STORES[8], page) == STORE_FAULT
    assert it.data(AMO, page) == STORE_FAULT
    assert bench.ram.read64(leaf) & (A | D) == A
    it.set((leaf >> 2, NAPOT | PMP_R | PMP_W), everything)
    assert it.data(STORES[8], page) is None
    assert bench.ram.read64(leaf) & (A | D) == A | D


def test_nothing_is_set_for_what_the_pmp_denies(it: Protected) -> None:
    bench, page = it.bench, 0x4000_0000
    tables = Tables(bench.ram, 3)
    leaf = tables.map(page, DATA, V | R | W)
    bench.hart.set_satp(tables.satp)
    it.set((DATA >> 2 | 0x1FF, NAPOT), (ALL_MEMORY, NAPOT | RWX))
    for snippet in (LOADS[8], STORES[8], AMO):
        assert it.data(snippet, page) in (LOAD_FAULT, STORE_FAULT)
    assert bench.ram.read64(leaf) & (A | D) == 0


# Registers


def test_registers() -> None:
    """WARL: 54 bits of address; of a configuration bits 5, 6 are 0, W without R allows nothing."""
    pmp = Pmp()
    pmp.write_addr(3, (1 << 64) - 1)
    assert pmp.addr[3] == (1 << 54) - 1
    assert [legal_cfg(cfg) for cfg in (0x60, 0x02, 0x06, 0x1F, 0x9A)] == [0, 0, 0, 0x1F, 0x98]
    pmp.write_cfg(0, 0x0F << 24 | 0x1F << 16)
    assert pmp.read_cfg(0) == 0x0F1F_0000
    assert pmp.matching(3) is Matching.TOR


def test_locked_registers() -> None:
    """Neither register of a locked entry is written, nor the address below a locked TOR."""
    pmp = Pmp()
    for entry in range(16):
        pmp.write_addr(entry, 100 + entry)
    pmp.write_cfg(0, (LOCKED | TOR) << 24)  # entry 3
    pmp.write_cfg(8, LOCKED | NAPOT | PMP_R)  # entry 8
    for entry in range(16):
        pmp.write_addr(entry, 7)
    pmp.write_cfg(0, (1 << 64) - 1)
    pmp.write_cfg(8, 0)
    assert [e for e in range(16) if pmp.addr[e] != 7] == [2, 3, 8]
    assert (pmp.cfg[3], pmp.cfg[8]) == (LOCKED | TOR, LOCKED | NAPOT | PMP_R)
    assert pmp.cfg[2] == 0x9F


def test_without_pmp_there_are_no_registers() -> None:
    bench = Bench(HartOptions("inside", extensions=Extensions(pmp=False)))
    traps = bench.hold_m()
    bench.run(Batch()("csrr a0, pmpaddr0"), pc=CODE)
    assert traps[0].cause == 2
    traps.clear()
    bench.load(CALL, DATA)
    bench.run(pc=DATA, priv=0)
    assert traps[0].cause == 8
    bench.machine.close()
