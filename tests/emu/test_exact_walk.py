"""The walk that runs (`emu/engine/walk.c`) against the one that is read (`emu/spec/walk.py`).

Random tables, PMP entries, extensions, privileges and sizes. Twice: by asking both what an access
would do, and by making the access on the hart, through M-mode's MPRV for loads, stores and AMOs,
and by jumping to it for fetches. What is compared is the PA or the cause, the rule, the level, the
PTE, the PMP entry, the A and D bits, and that nothing else has changed.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from asm import Batch
from harness import RAM, TABLES, A, Bench, D, U, V, words
from test_random_walk import (
    CODE,
    DATA_PAGES,
    M64,
    MPRV,
    MXR,
    RAM_END,
    SUM,
    TABLES_END,
    UXL_SXL,
    Trees,
)

from emu.hart import HartOptions
from emu.spec.extensions import Extensions
from emu.spec.trap import Trap
from emu.spec.walk import Access, Refusal, Rule, Translation

N, PBMT_SHIFT = 1 << 63, 61
EVERY_RULE = {rule.name for rule in Rule}
# Which rules can be met at all depends on the extensions.
WITHOUT = {
    "svade": {"NOT_ACCESSED", "NOT_DIRTY"},
    "svnapot": {"NAPOT_RESERVED"},
    "svpbmt": {"PBMT_RESERVED"},
    "pmp": {"PMP_DENIES", "TABLE_NOT_READABLE", "TABLE_NOT_WRITABLE"},
}
ALL = {
    "as QEMU": Extensions(),
    "no PMP": Extensions(pmp=False),
    "Svade": Extensions(svade=True),
    "Svadu, Svnapot, Svpbmt": Extensions(svadu=True, svnapot=True, svpbmt=True),
}

batch = Batch()
LOADS = {1: batch("lb a1, (a0); wfi"), 2: batch("lhu a1, (a0); wfi")}
LOADS |= {4: batch("lwu a1, (a0); wfi"), 8: batch("ld a1, (a0); wfi")}
STORES = {1: batch("sb a1, (a0); wfi"), 2: batch("sh a1, (a0); wfi")}
STORES |= {4: batch("sw a1, (a0); wfi"), 8: batch("sd a1, (a0); wfi")}
AMO = batch("amoadd.d a2, a1, (a0); wfi")


class RandomTrees(Trees):
    """Trees with the bits of Svnapot and Svpbmt in them, too."""

    def entry(self, level: int) -> int:
        rng, pte = self.rng, super().entry(level)
        if rng.random() < 0.06:
            pte |= rng.randrange(1, 4) << PBMT_SHIFT
        if rng.random() < 0.06:
            pte |= N
            if rng.random() < 0.8:  # as 64 KiB have it
                pte = pte & ~(15 << 10) | 8 << 10
        return pte


def random_pmp(bench: Bench, rng: random.Random) -> None:
    """A few entries, of every kind to match, around the tables and the data."""
    hart = bench.hart
    hart.mmu.reset()
    if not hart.options.extensions.pmp:
        return
    mmu = hart.mmu
    last = rng.randrange(0, 6)
    for entry in range(last):
        where = rng.random()
        if where < 0.35:
            pa = TABLES + rng.randrange(0, TABLES_END - TABLES, 4)
        elif where < 0.9:
            pa = DATA_PAGES + rng.randrange(0, 2048 * 4096, 4)
        else:
            pa = rng.getrandbits(56)
        # W without R is reserved: the register takes it for nothing, and so may a test.
        rights = rng.choice((0, 1, 3, 4, 5, 7, 7))
        kind = rng.randrange(4)
        size = 8 << rng.choice((0, 0, 1, 5, 8, 9, 9, 10, 13, 20))
        if kind == 3:
            mmu.write_pmpaddr(entry, (pa & -size) >> 2 | (size // 8 - 1))
        else:
            mmu.write_pmpaddr(entry, pa >> 2)
        cfg = rights | kind << 3
        mmu.write_pmpcfg(0, hart.mmu.read_pmpcfg(0) | cfg << 8 * entry)
        matched = mmu.pmp.range(entry)
        code = matched is not None and matched[0] < RAM + 0x10000 and matched[1] > RAM
        if not code and rng.random() < 0.3:  # locked: it binds M-mode's loads and stores too
            mmu.write_pmpcfg(0, hart.mmu.read_pmpcfg(0) | 0x80 << 8 * entry)
    # What is under all: mostly everything.
    mmu.write_pmpaddr(last, M64)
    rights = 7 if rng.random() < 0.9 else rng.choice((0, 1, 3, 5))
    mmu.write_pmpcfg(0, hart.mmu.read_pmpcfg(0) | (3 << 3 | rights) << 8 * last)


class Pair:
    """One machine, and accesses of all kinds to it."""

    def __init__(self, levels: int, seed: int, extensions: Extensions) -> None:
        self.rng = random.Random(seed)
        self.bench = bench = Bench(HartOptions("inside", extensions=extensions))
        self.extensions = extensions
        self.trees = RandomTrees(bench, levels, self.rng)
        self.seen: Counter[str] = Counter()
        self.traps: list[Trap] = bench.hold_m()
        array = bench.ram.array(DATA_PAGES, (RAM_END - DATA_PAGES) // 8)
        array[:] = range(DATA_PAGES, RAM_END, 8)  # each word holds its PA
        for i, snippets in enumerate((LOADS, STORES)):
            for size, snippet in snippets.items():
                bench.load(snippet, CODE + 0x100 * i + 0x10 * size)
        bench.load(AMO, CODE + 0x300)

    def close(self) -> None:
        self.bench.machine.close()

    def grow(self) -> None:
        rng, hart = self.rng, self.bench.hart
        self.trees.grow()
        random_pmp(self.bench, rng)
        adue, pbmte = rng.random() < 0.5, rng.random() < 0.7
        hart.mmu.set_menvcfg(adue << 61 | pbmte << 62)
        self.bench.w[words.SATP] = self.trees.tables.satp
        hart.access.flush_tlb()

    def draw(self) -> tuple[int, int, Access, int, int]:
        """``(va, size, access, mstatus, priv)`` of an access that crosses no page."""
        rng = self.rng
        access = rng.choice(list(Access))
        size = 4 if access is Access.EXECUTE else rng.choice((1, 2, 4, 8))
        va = self.trees.va()
        if access is not Access.EXECUTE and rng.random() < 0.5:
            va += rng.randrange(8)  # misaligned, perhaps
        if va % 4096 + size > 4096:
            va &= -8
        priv = rng.choice((0, 1))
        status = UXL_SXL | rng.choice((0, SUM)) | rng.choice((0, MXR))
        return va, size, access, status, priv

    def expect(
        self, va: int, size: int, access: Access, status: int, priv: int
    ) -> tuple[int | Refusal, Translation | None]:
        """What the reference says; and its walk, where that succeeds."""
        w, hart = self.bench.w, self.bench.hart
        if access is Access.EXECUTE:
            w[words.MSTATUS], w[words.PRIV] = status, priv
        else:
            w[words.MSTATUS], w[words.PRIV] = status | MPRV | priv << 11, 3
        walked = hart.walk(va, access)
        assert walked is not None
        return hart.predict(va, access, size), walked if isinstance(walked, Translation) else None

    def ask(self) -> None:
        """Both are asked."""
        va, size, access, status, priv = self.draw()
        expected, _ = self.expect(va, size, access, status, priv)
        out = self.bench.hart.mmu.predict(va, size, access, priv)
        what = f"{access.verb} of {size} bytes at {va:#x} by {priv}: {expected}"
        if isinstance(expected, Refusal):
            assert out.rule is expected.rule, what
            assert out.level == (-1 if expected.level is None else expected.level), what
            assert out.pmp_entry == (-1 if expected.pmp_entry is None else expected.pmp_entry), what
            if expected.pte_pa is not None:
                assert out.pte_pa == expected.pte_pa, what
            self.seen[expected.rule.name] += 1
        else:
            assert out.rule is None and out.pa == expected, what
            self.seen["translated"] += 1

    def make(self) -> None:
        """The access is made."""
        bench, rng = self.bench, self.rng
        va, size, access, status, priv = self.draw()
        expected, walked = self.expect(va, size, access, status, priv)
        pa = None if isinstance(expected, Refusal) else expected
        if access is Access.EXECUTE and pa is not None:  # two instructions are executed there
            second = self.expect(va + 4, 4, access, status, priv)[0] if va % 4096 < 4089 else None
            if second != pa + 4:
                return
        if pa is not None and not (pa >= DATA_PAGES and pa + 8 <= RAM_END):
            return  # would overwrite code or tables, or reach a device
        tables = bench.ram.array(TABLES, (TABLES_END - TABLES) // 8).copy()
        self.traps.clear()
        what = f"{access.verb} of {size} bytes at {va:#x} by {priv}: {expected}"
        if access is Access.EXECUTE:
            self._fetch(va, status, priv, pa, what)
        else:
            is_amo = access is Access.WRITE and size == 8 and va % 8 == 0 and rng.random() < 0.3
            self._data(va, size, access, status | MPRV | priv << 11, pa, what, is_amo)
        if isinstance(expected, Refusal):
            (trap,) = self.traps
            assert (trap.cause, trap.tval) == (expected.cause, va), f"{what}, got {trap}"
            self.seen[expected.rule.name] += 1
        else:
            assert walked is not None
            self.seen["translated"] += 1
            self.seen["A or D set"] += walked.set_bits != 0
            tables[(walked.steps[-1].pte_pa - TABLES) // 8] |= walked.set_bits
        assert (tables == bench.ram.array(TABLES, len(tables))).all(), f"{what}: A and D"

    def _fetch(self, va: int, status: int, priv: int, pa: int | None, what: str) -> None:
        bench, ram = self.bench, self.bench.ram
        token = self.rng.randrange(1, 2048)
        if pa is not None:  # addi a7, zero, token; ecall
            before = ram.read(pa, 8)
            ram.write(pa, (0x73 << 32 | token << 20 | 17 << 7 | 0x13).to_bytes(8, "little"))
            bench.hart.code_changed(pa, 8)
        bench.w[words.MSTATUS] = status
        bench.hart.access.flush_tlb()
        bench.run(pc=va, priv=priv, a7=0)
        if pa is not None:
            ram.write(pa, before)
            bench.hart.code_changed(pa, 8)
            (trap,) = self.traps
            assert (trap.cause, trap.epc) == (8 + priv, va + 4 & M64), f"{what}, got {trap}"
            assert bench.reg("a7") == token, what

    def _data(
        self, va: int, size: int, access: Access, status: int, pa: int | None, what: str, amo: bool
    ) -> None:
        bench, ram = self.bench, self.bench.ram
        bench.w[words.MSTATUS] = status
        bench.hart.access.flush_tlb()
        pc = CODE + (0x100 if access is Access.WRITE else 0) + 0x10 * size
        if amo:  # it needs R too: the reference is asked about both
            read = self.expect(va, size, Access.READ, status & ~(3 << 11 | MPRV), status >> 11 & 1)
            if isinstance(read[0], Refusal) and pa is not None:
                return self._data(va, size, access, status, pa, what, False)
            bench.w[words.MSTATUS] = status
            pc = CODE + 0x300
        before = ram.read(pa & -8, 16) if pa is not None and pa + 16 <= RAM_END else b""
        token = self.rng.getrandbits(64)
        bench.run(pc=pc, priv=3, a0=va, a1=token)
        if pa is None:
            assert self.traps and self.traps[0].epc == pc, what
            return None
        assert not self.traps, f"{what}, got {self.traps}"
        now = int.from_bytes(ram.read(pa, size), "little")
        mask = (1 << 8 * size) - 1
        if access is Access.READ:
            assert bench.reg("a1") & mask == now, what
        elif amo:
            assert now == bench.reg("a2") + token & mask, what
        else:
            assert now == token & mask, what
        if before and access is Access.WRITE:
            ram.write(pa & -8, before)
        return None


def every_rule(extensions: Extensions) -> set[str]:
    left_out: set[str] = set()
    for name, rules in WITHOUT.items():
        if not getattr(extensions, name) and not (name == "svade" and extensions.svadu):
            left_out |= rules
    if extensions.svade:  # nothing is ever set
        left_out.add("TABLE_NOT_WRITABLE")
    return EVERY_RULE - left_out


@pytest.mark.parametrize("levels", [3, 4, 5])
@pytest.mark.parametrize("name", ALL)
def test_both_say_the_same(levels: int, name: str) -> None:
    it = Pair(levels, levels, ALL[name])
    for _ in range(150):
        it.grow()
        for _ in range(20):
            it.ask()
    assert it.seen["translated"] > 10
    it.close()


@pytest.mark.slow
@pytest.mark.parametrize("levels", [3, 4, 5])
@pytest.mark.parametrize("name", ALL)
def test_both_say_the_same_of_forty_thousand_accesses(levels: int, name: str) -> None:
    it = Pair(levels, 1000 + levels, ALL[name])
    for _ in range(1000):
        it.grow()
        for _ in range(40):
            it.ask()
    missing = (every_rule(ALL[name]) | {"translated"}) - {n for n, c in it.seen.items() if c}
    assert not missing, it.seen
    it.close()


@pytest.mark.parametrize("levels", [3, 4, 5])
@pytest.mark.parametrize("name", ALL)
def test_the_hart_does_what_the_reference_says(levels: int, name: str) -> None:
    it = Pair(levels, 100 + levels, ALL[name])
    for _ in range(60):
        it.grow()
        for _ in range(20):
            it.make()
    assert it.seen["translated"] > 5
    it.close()


@pytest.mark.slow
@pytest.mark.parametrize("levels", [3, 4, 5])
@pytest.mark.parametrize("name", ALL)
def test_the_hart_does_what_the_reference_says_forty_thousand_times(levels: int, name: str) -> None:
    it = Pair(levels, 2000 + levels, ALL[name])
    for _ in range(1000):
        it.grow()
        for _ in range(40):
            it.make()
    missing = (every_rule(ALL[name]) | {"translated"}) - {n for n, c in it.seen.items() if c}
    assert not missing, it.seen
    it.close()


def test_a_difference_would_be_found() -> None:
    """The comparison with one bit of the reference's configuration changed."""
    it = Pair(3, 5, Extensions(svade=True))
    it.bench.hart.mmu.updates_ad = True  # the reference's half; the C is not told
    with pytest.raises(AssertionError):
        for _ in range(200):
            it.trees.grow()
            it.bench.w[words.SATP] = it.trees.tables.satp
            for _ in range(40):
                it.ask()
    it.close()


def test_the_bits_are_those_of_the_spec() -> None:
    assert (V, U, A, D, N) == (1, 16, 64, 128, 1 << 63)
    assert replace(Extensions(), pmp=False) == ALL["no PMP"]
