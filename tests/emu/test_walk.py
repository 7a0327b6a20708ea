"""The reference walk against tables written by hand, one rule at a time."""

from __future__ import annotations

import itertools

import pytest
from harness import RAM, RWX, TABLES, A, D, G, R, Tables, U, V, W, X

from emu.ram import Ram
from emu.spec.paging import SV39, SV48, SV57, PagingMode
from emu.spec.walk import Access, Refusal, Rule, Step, Translation, WalkConfig, walk

EXECUTE, READ, WRITE = Access.EXECUTE, Access.READ, Access.WRITE
PAGE_FAULT = {EXECUTE: 12, READ: 13, WRITE: 15}
ACCESS_FAULT = {EXECUTE: 1, READ: 5, WRITE: 7}
MODES = {3: SV39, 4: SV48, 5: SV57}
LEVELS = [(levels, level) for levels in (3, 4, 5) for level in range(levels)]
# One index a level, all different, the top one below 256.
VA = 5 << 48 | 6 << 39 | 7 << 30 | 8 << 21 | 9 << 12 | 0x123
at_each_level = pytest.mark.parametrize(("levels", "level"), LEVELS)


class Walked:
    """Tables in 4 MiB of RAM, and the walk over them."""

    def __init__(self, levels: int, va: int = VA) -> None:
        self.ram = Ram(4 << 20)
        self.tables = Tables(self.ram, levels)
        self.mode: PagingMode = MODES[levels]
        self.va = va & (1 << self.mode.va_bits) - 1

    def put(self, level: int, pte: int) -> int:
        slot = self.tables.slot(self.va, level)
        self.ram.write64(slot, pte)
        return slot

    def walk(self, access: Access, va: int | None = None, **config: bool) -> Translation | Refusal:
        before = self.ram.read(TABLES, 0x8000)
        result = walk(
            self.ram, self.mode, self.tables.root, self.va if va is None else va, access,
            WalkConfig(**config),
        )  # fmt: skip
        assert self.ram.read(TABLES, 0x8000) == before  # the walk writes nothing
        return result

    def refused(
        self, rule: Rule, level: int | None, pte_pa: int | None, accesses: tuple[Access, ...],
        causes: dict[Access, int] = PAGE_FAULT, **config: bool,
    ) -> None:  # fmt: skip
        for access in accesses:
            result = self.walk(access, **config)
            assert isinstance(result, Refusal), result
            assert (result.rule, result.level, result.pte_pa) == (rule, level, pte_pa)
            assert (result.va, result.cause) == (self.va, causes[access])

    def pa(self, access: Access, **config: bool) -> int:
        result = self.walk(access, **config)
        assert isinstance(result, Translation), result
        return result.pa


ANY = (EXECUTE, READ, WRITE)


def test_there_are_these_many_rules_and_the_causes_are_the_specs() -> None:
    assert len(Rule) == 22
    assert {a: a.page_fault for a in Access} == PAGE_FAULT
    assert {a: a.access_fault for a in Access} == ACCESS_FAULT


@at_each_level
def test_a_leaf_at_each_level_translates(levels: int, level: int) -> None:
    it = Walked(levels)
    span = 4096 << 9 * level
    slot = it.put(level, 3 * span >> 12 << 10 | RWX)
    for access in ANY:
        for offset in {0, 1, span // 2 + 8, span - 1}:
            va = it.va // span * span + offset
            result = it.walk(access, va)
            assert isinstance(result, Translation)
            assert (result.va, result.pa) == (va, 3 * span + offset)
            assert (result.level, result.set_bits) == (level, 0)
            assert len(result.steps) == levels - level
            root, leaf = result.steps[0], result.steps[-1]
            top = va >> 12 + 9 * (levels - 1) & 511
            assert root == Step(levels - 1, top, TABLES + 8 * top, it.ram.read64(root.pte_pa))
            assert leaf == Step(level, va // span & 511, slot, 3 * span >> 12 << 10 | RWX)
            assert result.pte == leaf.pte
    # The neighbours are not mapped.
    for va in (it.va // span * span - 1, (it.va // span + 1) * span):
        result = it.walk(READ, va)
        assert isinstance(result, Refusal) and result.rule is Rule.NOT_VALID


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_the_upper_half(levels: int) -> None:
    bits = 12 + 9 * levels
    top = (1 << 64) - 0x1000
    it = Walked(levels, top & (1 << bits) - 1)
    it.put(0, 0x1234 << 10 | RWX)
    result = it.walk(READ, top + 0x678)
    assert isinstance(result, Translation) and result.pa == 0x1234678
    assert [step.index for step in result.steps] == [511] * levels
    lowest_high = (1 << 64) - (1 << bits - 1)
    result = it.walk(READ, lowest_high)
    assert isinstance(result, Refusal) and result.rule is Rule.NOT_VALID
    assert result.steps[0].index == 256


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_non_canonical(levels: int) -> None:
    it = Walked(levels)
    it.put(levels - 1, RWX)
    bits = 12 + 9 * levels
    half = 1 << bits - 1
    for va in (half, 1 << bits, 1 << 63, (1 << 64) - half - 1, it.va | 1 << 62):
        for access in ANY:
            result = it.walk(access, va)
            assert isinstance(result, Refusal)
            assert (result.rule, result.level, result.pte_pa) == (Rule.NON_CANONICAL, None, None)
            assert (result.cause, result.va, result.steps) == (PAGE_FAULT[access], va, ())


@at_each_level
def test_table_not_ram(levels: int, level: int) -> None:
    """An access fault, of the kind of the original access."""
    for ppn in (0x40000, 0x80400, 0x7FFFF, (1 << 44) - 1):
        it = Walked(levels)
        if level == levels - 1:
            it.tables.root = ppn << 12
        else:
            it.put(level + 1, ppn << 10 | V)
        index = it.va >> 12 + 9 * level & 511
        it.refused(
            Rule.TABLE_NOT_RAM, level, (ppn << 12) + 8 * index, ANY, ACCESS_FAULT
        )  # fmt: skip


@at_each_level
def test_not_valid(levels: int, level: int) -> None:
    for pte in (0, 0x80000 << 10 | RWX & ~V, (1 << 64) - 2):
        it = Walked(levels)
        it.refused(Rule.NOT_VALID, level, it.put(level, pte), ANY)


@at_each_level
def test_write_without_read(levels: int, level: int) -> None:
    for flags in (V | W, V | W | X, V | W | X | A | D | U):
        it = Walked(levels)
        it.refused(Rule.WRITE_WITHOUT_READ, level, it.put(level, flags), ANY)
        it.refused(Rule.WRITE_WITHOUT_READ, level, it.put(level, flags), ANY, user=True)


@at_each_level
def test_reserved_bits(levels: int, level: int) -> None:
    for bit in range(54, 64):
        it = Walked(levels)
        it.refused(Rule.RESERVED_BITS, level, it.put(level, 1 << bit | RWX), ANY)
        # In a pointer too.
        it.refused(Rule.RESERVED_BITS, level, it.put(level, 1 << bit | 0x80000 << 10 | V), ANY)


def test_bits_8_and_9_belong_to_software() -> None:
    it = Walked(3)
    it.put(0, 0x80000 << 10 | RWX | 3 << 8)
    assert it.pa(READ) == 0x8000_0123
    it.ram.write64(it.tables.slot(it.va, 1), it.ram.read64(it.tables.slot(it.va, 1)) | 3 << 8)
    assert it.pa(READ) == 0x8000_0123


@at_each_level
def test_pointer_has_ad_u(levels: int, level: int) -> None:
    for bit in (A, D, U, A | D | U):
        it = Walked(levels)
        # At level 0 too: the encoding is reserved before the missing level counts.
        it.refused(Rule.POINTER_HAS_AD_U, level, it.put(level, 0x80200 << 10 | V | bit), ANY)


def test_a_pointer_may_be_global() -> None:
    it = Walked(3)
    it.put(0, 0x80000 << 10 | RWX)
    for level in (2, 1):
        slot = it.tables.slot(it.va, level)
        it.ram.write64(slot, it.ram.read64(slot) | G)
    assert it.pa(READ) == 0x8000_0123


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_no_leaf(levels: int) -> None:
    for pte in (0x80200 << 10 | V, V | G):
        it = Walked(levels)
        it.refused(Rule.NO_LEAF, 0, it.put(0, pte), ANY)


@pytest.mark.parametrize(("levels", "level"), [(n, i) for n, i in LEVELS if i])
def test_misaligned_superpage(levels: int, level: int) -> None:
    for bit in range(9 * level):
        it = Walked(levels)
        it.refused(Rule.MISALIGNED_SUPERPAGE, level, it.put(level, 1 << bit + 10 | RWX), ANY)
    it = Walked(levels)
    it.put(level, 1 << 9 * level + 10 | RWX)
    assert it.pa(READ) == (1 << 12 + 9 * level) + it.va % (1 << 12 + 9 * level)


# Section 12.3.1: U, SUM and MXR, spelled out. A page is (R, W, X) out of r-x, rw-, --x, ...
PERMISSIONS = ("r--", "rw-", "--x", "r-x", "rwx")


def allowed_by_hand(page: str, user_page: bool, access: str, user: bool, sum_: bool, mxr: bool):
    """The paragraphs of section 12.3.1 and 12.1.1, without regard to the walk's order."""
    if user and not user_page:
        return False
    if not user and user_page and (access == "x" or not sum_):
        return False
    if access == "r":
        return "r" in page or (mxr and "x" in page)
    return access in page


def test_the_whole_permission_matrix() -> None:
    letters = {"r": READ, "w": WRITE, "x": EXECUTE}
    bits = {"r": R, "w": W, "x": X, "-": 0}
    outcomes = {True: 0, False: 0}
    for page, user_page in itertools.product(PERMISSIONS, (False, True)):
        it = Walked(3)
        flags = V | A | D | (U if user_page else 0) | sum(bits[c] for c in page)
        it.put(0, 0x80000 << 10 | flags)
        for access, user, sum_, mxr in itertools.product("rwx", *[(False, True)] * 3):
            result = it.walk(letters[access], user=user, sum=sum_, mxr=mxr)
            wanted = allowed_by_hand(page, user_page, access, user, sum_, mxr)
            assert isinstance(result, Translation) == wanted, (page, user_page, access, user)
            outcomes[wanted] += 1
            if isinstance(result, Refusal):
                assert (result.cause, result.level) == (PAGE_FAULT[letters[access]], 0)
    assert outcomes[True] > 50 and outcomes[False] > 50


@at_each_level
def test_user_page_not_user(levels: int, level: int) -> None:
    it = Walked(levels)
    slot = it.put(level, RWX)
    for sum_, mxr in itertools.product((False, True), repeat=2):
        it.refused(Rule.USER_PAGE_NOT_USER, level, slot, ANY, user=True, sum=sum_, mxr=mxr)


@at_each_level
def test_user_page_no_sum(levels: int, level: int) -> None:
    it = Walked(levels)
    slot = it.put(level, RWX | U)
    it.refused(Rule.USER_PAGE_NO_SUM, level, slot, (READ, WRITE))
    it.refused(Rule.USER_PAGE_NO_SUM, level, slot, (READ, WRITE), mxr=True)
    assert it.pa(WRITE, sum=True) == it.va % (4096 << 9 * level)


@at_each_level
def test_user_page_execute(levels: int, level: int) -> None:
    it = Walked(levels)
    slot = it.put(level, RWX | U)
    it.refused(Rule.USER_PAGE_EXECUTE, level, slot, (EXECUTE,))
    it.refused(Rule.USER_PAGE_EXECUTE, level, slot, (EXECUTE,), sum=True)
    assert it.pa(EXECUTE, user=True) == it.va % (4096 << 9 * level)


@at_each_level
def test_not_readable(levels: int, level: int) -> None:
    it = Walked(levels)
    slot = it.put(level, V | X | A | D)
    it.refused(Rule.NOT_READABLE, level, slot, (READ,))
    assert it.pa(READ, mxr=True) == it.va % (4096 << 9 * level)


@at_each_level
def test_not_writable(levels: int, level: int) -> None:
    it = Walked(levels)
    slot = it.put(level, V | R | X | A | D)
    it.refused(Rule.NOT_WRITABLE, level, slot, (WRITE,), mxr=True)


@at_each_level
def test_not_executable(levels: int, level: int) -> None:
    it = Walked(levels)
    slot = it.put(level, V | R | W | A | D)
    it.refused(Rule.NOT_EXECUTABLE, level, slot, (EXECUTE,), mxr=True)


@at_each_level
def test_accessed_and_dirty_under_svade(levels: int, level: int) -> None:
    clean = V | R | W | X
    it = Walked(levels)
    slot = it.put(level, clean | D)
    it.refused(Rule.NOT_ACCESSED, level, slot, ANY, svade=True)
    slot = it.put(level, clean)
    it.refused(Rule.NOT_ACCESSED, level, slot, ANY, svade=True)
    slot = it.put(level, clean | A)
    it.refused(Rule.NOT_DIRTY, level, slot, (WRITE,), svade=True)
    for access in (READ, EXECUTE):
        assert it.pa(access, svade=True) == it.va % (4096 << 9 * level)


@at_each_level
@pytest.mark.parametrize(
    ("have", "access", "set_bits"),
    [
        (0, READ, A), (0, EXECUTE, A), (0, WRITE, A | D), (A, READ, 0), (A, EXECUTE, 0),
        (A, WRITE, D), (D, READ, A), (D, WRITE, A), (A | D, WRITE, 0),
    ],
)  # fmt: skip
def test_without_svade_the_bits_to_set_are_told(
    levels: int, level: int, have: int, access: Access, set_bits: int
) -> None:
    it = Walked(levels)
    it.put(level, V | R | W | X | have)
    result = it.walk(access)
    assert isinstance(result, Translation)
    assert result.set_bits == set_bits
    assert result.pte == V | R | W | X | have


ORDER = [
    # Each PTE breaks two rules; the first that the spec's steps reach is the one named.
    (V | W | 1 << 54, READ, {}, Rule.WRITE_WITHOUT_READ),
    (1 << 63 | A | V, READ, {}, Rule.RESERVED_BITS),
    (1 << 54 | W, READ, {}, Rule.NOT_VALID),
    (V | R | U | 1 << 10, READ, {}, Rule.MISALIGNED_SUPERPAGE),
    (V | X | U, READ, {}, Rule.USER_PAGE_NO_SUM),
    (V | R, WRITE, {"svade": True}, Rule.NOT_WRITABLE),
    (V | R, EXECUTE, {"user": True}, Rule.USER_PAGE_NOT_USER),
]


@pytest.mark.parametrize(("pte", "access", "config", "rule"), ORDER)
def test_the_rules_are_applied_in_the_specs_order(
    pte: int, access: Access, config: dict[str, bool], rule: Rule
) -> None:
    it = Walked(3)
    it.refused(rule, 1, it.put(1, pte), (access,), **config)


def test_the_ppn_is_44_bits_wide() -> None:
    it = Walked(3)
    it.put(0, (1 << 44) - 1 << 10 | RWX)
    assert it.pa(READ) == (1 << 56) - 4096 + 0x123


def test_a_table_may_be_the_last_page_of_ram() -> None:
    it = Walked(3)
    last = RAM + (4 << 20) - 4096
    it.put(1, last >> 12 << 10 | V)
    it.ram.write64(last + 9 * 8, 0x80000 << 10 | RWX)
    assert it.pa(READ) == 0x8000_0123


def test_a_table_that_points_to_itself_ends() -> None:
    it = Walked(5)
    top = it.va >> 48
    it.ram.write64(TABLES + 8 * top, TABLES >> 12 << 10 | V)
    va = sum(top << 12 + 9 * i for i in range(5))
    result = it.walk(READ, va)
    assert isinstance(result, Refusal) and (result.rule, result.level) == (Rule.NO_LEAF, 0)
