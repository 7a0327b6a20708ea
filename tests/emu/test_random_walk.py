"""Randomised page tables: the engine's own walk against the reference walk, access by access.

Loads and stores are made by M-mode code through MPRV, fetches by a hart that is put at the
VA in S or U. Each reaches a physical address, which shows by what is read, stored or executed
there, or traps. Both must be what the reference walk says, except for the deviations of
the engine, which are named in `DEVIATIONS`: there it must do exactly what that table says. The
walk that runs by default has none: `test_exact_walk.py`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from asm import Batch
from harness import HOLE, RAM, TABLES, A, Bench, D, G, R, Tables, U, V, W, X

from emu.hart import HartOptions
from emu.spec import words
from emu.spec.paging import SV39, SV48, SV57
from emu.spec.trap import Trap
from emu.spec.walk import Access, Refusal, Rule, Translation, WalkConfig, walk

MODES = {3: SV39, 4: SV48, 5: SV57}
M64 = (1 << 64) - 1
RAM_END = RAM + (16 << 20)
# Not a VA that is drawn, see test_deviation_mprv_and_the_page_of_the_code.
CODE = RAM + 0x5000
DATA_PAGES = RAM + (8 << 20)
TABLE_PAGES = 64
TABLES_END = TABLES + TABLE_PAGES * 4096
MPRV, SUM, MXR, UXL_SXL = 1 << 17, 1 << 18, 1 << 19, 0xA_0000_0000
RESERVED_LOW = 0xFF << 54  # bits 54-61
RESERVED_HIGH = 3 << 62

DEVIATIONS = {
    "POINTER_HAS_AD_U": "non-leaf PTE with A, D or U set: accepted",
    "RESERVED_BITS 62-63": "bits 62, 63: ignored",
    "RESERVED_BITS 54-61, leaf": "bits 54-61 become PA bits 56-63: an access fault there",
    "RESERVED_BITS 54-61, pointer": "bits 54-61 become PA bits 56-63: no table, a page fault",
}

batch = Batch()
LOAD = batch("ld a1, (a0); wfi")
STORE = batch("sd a1, (a0); wfi")
# Indices per level from which trees are grown and VAs are drawn. 2 at level 2 is where a
# 512 GiB page at PA 0 shows RAM; 256 and 511 at the root are in the upper half.
INDICES = (0, 1, 2, 7, 511)
ROOT_INDICES = (0, 1, 2, 256, 511)


class Trees:
    """Random tables of one mode, in RAM between TABLES and TABLES_END."""

    def __init__(self, bench: Bench, levels: int, rng: random.Random) -> None:
        self.bench, self.levels, self.rng = bench, levels, rng
        self.ram = bench.ram
        self.tables = Tables(self.ram, levels)
        self.grow()

    def grow(self) -> None:
        self.ram.fill(TABLES, TABLES_END - TABLES)
        self.tables = Tables(self.ram, self.levels)
        self.left = TABLE_PAGES - 1
        self.fill(self.tables.root, self.levels - 1, ROOT_INDICES)

    def fill(self, table: int, level: int, indices: tuple[int, ...]) -> None:
        for index in indices:
            self.ram.write64(table + 8 * index, self.entry(level))

    def entry(self, level: int) -> int:
        rng = self.rng
        kind = rng.random()
        if kind < 0.04:
            return 0
        if kind < 0.07:
            return rng.getrandbits(64)
        if kind < 0.10:  # reserved bits in an entry that is otherwise good
            return self.entry(level) | 1 << rng.randrange(54, 64)
        if level and kind < 0.7 and self.left:
            self.left -= 1
            table = self.tables.table()
            self.fill(table, level - 1, INDICES)
            flags = V
            if rng.random() < 0.1:
                flags |= rng.choice((A, D, U, G, A | D | U))
            return table >> 12 << 10 | flags
        if kind < 0.79:  # a pointer to nowhere, or one at level 0
            return rng.choice((HOLE, RAM_END, DATA_PAGES, 1 << 55)) >> 12 << 10 | V
        flags = V | rng.choice((R, R | W, R | X, R | W | X, X, R | W | X, R | W | X))
        flags |= A | D if rng.random() < 0.7 else rng.choice((0, A, D))
        flags |= U if rng.random() < 0.5 else 0
        if rng.random() < 0.15:
            flags = rng.getrandbits(10)
        return self.leaf_pa(level) >> 12 << 10 | flags

    def leaf_pa(self, level: int) -> int:
        rng = self.rng
        if level == 0:
            place = rng.random()
            if place < 0.1:
                return rng.choice((HOLE, RAM_END, RAM - 4096, (1 << 56) - 4096))
            return DATA_PAGES + 4096 * rng.randrange(2048)
        span = 4096 << 9 * level
        pa = {1: RAM + span * rng.randrange(8), 2: RAM}.get(level, 0)
        if rng.random() < 0.1:
            pa += 4096 << rng.randrange(9 * level)
        return pa

    def va(self) -> int:
        rng = self.rng
        va, table = 0, self.tables.root
        for level in range(self.levels - 1, -1, -1):
            indices = ROOT_INDICES if level == self.levels - 1 else INDICES
            index = rng.choice(indices)
            if TABLES <= table < TABLES_END:
                valid = [i for i in indices if self.ram.read64(table + 8 * i) & V]
                if valid and rng.random() < 0.8:  # mostly where there is something
                    index = rng.choice(valid)
                table = self.ram.read64(table + 8 * index) >> 10 << 12 & (1 << 56) - 1
            va |= index << 12 + 9 * level
        va |= rng.randrange(512) * 8
        bits = 12 + 9 * self.levels
        if va >> bits - 1:
            va |= M64 << bits & M64
        if rng.random() < 0.03:
            va ^= 1 << rng.randrange(bits - 1, 64)
        return va


class Outcome:
    """What is to happen: a PA reached, or a cause; and the PTEs afterwards."""

    def __init__(self) -> None:
        self.pa: int | None = None
        self.cause = 0
        self.deviations: list[str] = []
        self.rule: Rule | None = None
        self.set_bits: tuple[int, int] | None = None  # pte_pa, bits


def predict(trees: Trees, va: int, access: Access, config: WalkConfig) -> Outcome:
    """The reference walk; where it refuses by a rule that the hart does not know, that PTE is
    mended for the time of the prediction and the walk is done again."""
    ram, mode, root = trees.ram, MODES[trees.levels], trees.tables.root
    out = Outcome()
    mended: list[tuple[int, int]] = []
    high = False  # the leaf's PA has bits above 56
    try:
        while True:
            result = walk(ram, mode, root, va, access, config)
            if isinstance(result, Translation):
                out.set_bits = (result.steps[-1].pte_pa, result.set_bits)
                if high or not ram.contains(result.pa, 8):
                    out.cause = access.access_fault
                else:
                    out.pa = result.pa
                return out
            out.rule = out.rule or result.rule
            out.cause = result.cause
            if result.rule is Rule.POINTER_HAS_AD_U:
                name, keep = "POINTER_HAS_AD_U", ~(A | D | U)
            elif result.rule is Rule.RESERVED_BITS:
                pte = result.steps[-1].pte
                name, keep = "RESERVED_BITS 62-63", ~RESERVED_HIGH
                if pte & RESERVED_LOW and pte & (R | X):
                    name, keep, high = "RESERVED_BITS 54-61, leaf", (1 << 54) - 1, True
                elif pte & RESERVED_LOW:
                    out.deviations.append("RESERVED_BITS 54-61, pointer")
                    out.cause = access.page_fault
                    return out
            else:
                if out.deviations:
                    out.cause = access.page_fault
                return out
            out.deviations.append(name)
            assert result.pte_pa is not None
            pte = ram.read64(result.pte_pa)
            mended.append((result.pte_pa, pte))
            ram.write64(result.pte_pa, pte & keep)
    finally:
        for pte_pa, pte in reversed(mended):
            ram.write64(pte_pa, pte)


class Comparison:
    """One access after the other; counts what was seen."""

    def __init__(self, bench: Bench, levels: int, seed: int) -> None:
        self.bench = bench
        self.rng = random.Random(seed)
        self.trees = Trees(bench, levels, self.rng)
        self.seen: Counter[str] = Counter()
        self.traps: list[Trap] = bench.hold_m()
        ram = bench.ram
        words_ = ram.array(DATA_PAGES, (RAM_END - DATA_PAGES) // 8)
        words_[:] = range(DATA_PAGES, RAM_END, 8)  # each word holds its PA
        bench.load(LOAD, CODE)
        bench.load(STORE, CODE + 0x100)

    def one(self) -> None:
        rng, bench, trees = self.rng, self.bench, self.trees
        va = trees.va()
        access = rng.choice(list(Access))
        config = WalkConfig(user=rng.random() < 0.5, sum=rng.random() < 0.5, mxr=rng.random() < 0.5)
        expected = predict(trees, va, access, config)
        pa = expected.pa
        if pa is not None and access is not Access.READ and not DATA_PAGES <= pa < RAM_END:
            return  # would overwrite code or tables
        status = UXL_SXL | (SUM if config.sum else 0) | (MXR if config.mxr else 0)
        tables = bench.ram.array(TABLES, (TABLES_END - TABLES) // 8).copy()
        reached = self.perform(access, va, status, config.user, pa)

        what = f"{access.verb} of {va:#x} {config} expected {vars(expected)}"
        if pa is not None:
            assert reached, f"{what}, got {self.traps}"
            self.seen["translated"] += 1
        else:
            assert not reached, what
            (trap,) = self.traps
            assert (trap.cause, trap.tval) == (expected.cause, va), f"{what}, got {trap}"
            assert trap.epc == (va if access is Access.EXECUTE else self.pc), what
            self.seen[expected.rule.name if expected.rule else "hole"] += 1
        self.seen.update(expected.deviations)
        # A and D are set by the walker where the reference says so, and nothing else changes.
        if expected.set_bits is not None:
            pte_pa, bits = expected.set_bits
            tables[(pte_pa - TABLES) // 8] |= bits
            self.seen["A or D set by the walker"] += bits != 0
        now = bench.ram.array(TABLES, len(tables))
        assert (tables == now).all(), what

    def perform(self, access: Access, va: int, status: int, user: bool, pa: int | None) -> bool:
        """Make the access; whether it reached ``pa`` (and not, whether it trapped)."""
        bench, w = self.bench, self.bench.w
        ram = bench.ram
        self.traps.clear()
        w[words.SATP] = self.trees.tables.satp
        bench.hart.access.store()
        bench.hart.access.flush_tlb()
        if access is Access.EXECUTE:
            token = self.rng.randrange(1, 2048)
            before = None
            if pa is not None:  # addi a7, zero, token; ecall
                before = ram.read64(pa)
                ram.write64(pa, 0x73 << 32 | token << 20 | 17 << 7 | 0x13)
                bench.hart.access.flush_code()
            w[words.MSTATUS] = status
            bench.run(pc=va, priv=0 if user else 1, a7=0)
            (trap,) = self.traps
            if before is not None:
                assert pa is not None
                ram.write64(pa, before)
                bench.hart.access.flush_code()
            return (trap.cause, trap.epc, bench.reg("a7")) == (8 + (not user), va + 4 & M64, token)
        w[words.MSTATUS] = status | MPRV | (0 if user else 1) << 11
        if access is Access.READ:
            self.pc = CODE
            bench.run(pc=CODE, a0=va, a1=0x5A5A)
            return not self.traps and pa is not None and bench.reg("a1") == ram.read64(pa)
        self.pc = CODE + 0x100
        token = self.rng.getrandbits(64)
        bench.run(pc=self.pc, a0=va, a1=token)
        if pa is None:
            return not self.traps
        reached = not self.traps and ram.read64(pa) == token
        ram.write64(pa, pa)
        return reached


# Not those of extensions that the engine lacks, nor of the PMP.
_NOT_HERE = {
    *("NOT_ACCESSED", "NOT_DIRTY", "PBMT_RESERVED", "NAPOT_RESERVED", "TABLE_NOT_READABLE"),
    *("TABLE_NOT_WRITABLE", "NOT_MEMORY", "PMP_DENIES"),
}
EVERY_RULE = {rule.name for rule in Rule} - _NOT_HERE


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_the_engine_and_the_reference_walk_agree(levels: int) -> None:
    bench = Bench(HartOptions("inside", walk="engine"))
    it = Comparison(bench, levels, seed=20240411 + levels)
    for _ in range(200):
        it.trees.grow()
        for _ in range(40):
            it.one()
    assert it.seen.total() > 6000
    assert it.seen["translated"] > 150
    # Nothing was left out: each rule, each deviation, holes and A/D were met.
    wanted = {*EVERY_RULE, *DEVIATIONS, "hole", "A or D set by the walker"}
    assert wanted <= {name for name, count in it.seen.items() if count}, it.seen
    bench.machine.close()


def test_the_same_on_the_public_way() -> None:
    bench = Bench("public")
    it = Comparison(bench, 4, seed=7)
    for _ in range(12):
        it.trees.grow()
        for _ in range(40):
            it.one()
    assert it.seen["translated"] > 30
    bench.machine.close()


# Each deviation once, by hand: so that one that disappears is noticed by its name.

PAGE = 0x4000_0000
FLAGS = V | R | W | X | A | D


@pytest.fixture(params=["inside", "public"])
def engine(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The engine's own walk, on both ways."""
    it = Bench(HartOptions(request.param, walk="engine"))
    yield it
    it.machine.close()


def outcome(bench: Bench, mend: int, level: int) -> tuple[Rule | None, int | None]:
    """A load through a good mapping in whose PTE of ``level`` the bits ``mend`` are set:
    the reference's rule, and the hart's cause (None: it succeeded)."""
    tables = Tables(bench.ram, 3)
    tables.map(PAGE, DATA_PAGES, FLAGS)
    slot = tables.slot(PAGE, level)
    bench.ram.write64(slot, bench.ram.read64(slot) | mend)
    bench.ram.write64(DATA_PAGES, 0x77)
    traps = bench.hold_m()
    bench.w[words.MSTATUS] = UXL_SXL | MPRV | 1 << 11
    bench.hart.set_satp(tables.satp)
    bench.load(LOAD, CODE)
    bench.run(pc=CODE, a0=PAGE, a1=0)
    result = walk(bench.ram, SV39, tables.root, PAGE, Access.READ)
    assert traps or bench.reg("a1") == 0x77
    return (
        result.rule if isinstance(result, Refusal) else None,
        traps[0].cause if traps else None,
    )


@pytest.mark.parametrize("bit", [A, D, U])
@pytest.mark.parametrize("level", [1, 2])
def test_deviation_pointer_has_ad_u(engine: Bench, bit: int, level: int) -> None:
    assert outcome(engine, bit, level) == (Rule.POINTER_HAS_AD_U, None)


@pytest.mark.parametrize("bit", [62, 63])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_deviation_reserved_bits_62_and_63(engine: Bench, bit: int, level: int) -> None:
    assert outcome(engine, 1 << bit, level) == (Rule.RESERVED_BITS, None)


@pytest.mark.parametrize("bit", range(54, 62))
def test_deviation_reserved_bits_54_to_61(engine: Bench, bit: int) -> None:
    assert outcome(engine, 1 << bit, 0) == (Rule.RESERVED_BITS, 5)  # PA bit 56 and up: a hole
    assert outcome(engine, 1 << bit, 1) == (Rule.RESERVED_BITS, 13)  # no table there


def test_deviation_a_and_d_are_set(bench: Bench) -> None:
    """Svadu: allowed; under Svade the reference would refuse."""
    tables = Tables(bench.ram, 3)
    slot = tables.map(PAGE, DATA_PAGES, V | R | W)
    bench.w[words.MSTATUS] = UXL_SXL | MPRV | 1 << 11
    bench.hart.set_satp(tables.satp)
    svade = replace(WalkConfig(), svade=True)
    refused = walk(bench.ram, SV39, tables.root, PAGE, Access.WRITE, svade)
    assert isinstance(refused, Refusal) and refused.rule is Rule.NOT_ACCESSED
    bench.load(LOAD, CODE)
    bench.load(STORE, CODE + 0x100)
    bench.run(pc=CODE, a0=PAGE)
    assert bench.ram.read64(slot) & 0xFF == V | R | W | A
    bench.run(pc=CODE + 0x100, a0=PAGE)
    assert bench.ram.read64(slot) & 0xFF == V | R | W | A | D


def test_deviation_mprv_and_the_page_of_the_code(bench: Bench) -> None:
    """The engine has one TLB for M's fetches and, under MPRV, its translated loads: a load
    from the VA of the page that is being executed finds the fetch's entry and reads
    physical memory, whatever the tables say."""
    tables = Tables(bench.ram, 3)
    tables.map(CODE, DATA_PAGES, FLAGS)
    bench.ram.write64(DATA_PAGES + 0x800, 0x77)
    bench.ram.write64(CODE + 0x800, 0x88)
    bench.w[words.MSTATUS] = UXL_SXL | MPRV | 1 << 11
    bench.hart.set_satp(tables.satp)
    bench.load(LOAD, CODE)
    bench.run(pc=CODE, a0=CODE + 0x800)
    # 0x77 by the spec; inside, fetches and such loads have entries of their own.
    assert bench.reg("a1") == (0x77 if bench.is_inside else 0x88)
    bench.load(LOAD, CODE + 0x1000)
    bench.hart.access.flush_tlb()
    bench.run(pc=CODE + 0x1000, a0=CODE + 0x800)
    assert bench.reg("a1") == 0x77
