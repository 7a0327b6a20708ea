"""Fast stores where nothing is translated: the PMP, MPRV and holes are obeyed as without them.

Each case runs on a hart as it is and on one that keeps code coherent, which makes its stores
fast: both must trap alike, and as the privileged spec has it.
"""

from __future__ import annotations

import pytest
from asm import Batch
from harness import A, Bench, D, R, V, W

from emu.hart import Hart

PAGE = 0x8080_0000  # PA, in a region of its own of the PMP
ELSEWHERE = 0x8081_0000
NAPOT = 3 << 3
PMP_R, PMP_W, PMP_X = 1, 2, 4
LOCK = 0x80
LOAD, STORE = 5, 7  # access faults
OKAY = 0

batch = Batch()

# pmpcfg0 = a1; entry 0 is the page at PAGE, entry 1 all there is; then priv a2 (0, 1, 3).
SETUP = """
    li t0, 0x80800000 >> 2 | 0x1ff
    csrw pmpaddr0, t0
    li t0, -1
    srli t0, t0, 10
    csrw pmpaddr1, t0
    csrw pmpcfg0, a1
    li t0, 0x1800
    csrc mstatus, t0
    slli t0, a2, 11
    csrs mstatus, t0
    la t0, 1f
    csrw mepc, t0
    mret
    1:
"""
# An ecall is the end without a fault.
ACCESSES = {
    "load": batch(SETUP + "ld t1, (a0)\n ecall"),
    "store": batch(SETUP + "sd t1, (a0)\n ecall"),
    "load, store": batch(SETUP + "ld t1, (a0)\n ld t1, 8(a0)\n sd t1, (a0)\n ecall"),
    "amo": batch(SETUP + "amoadd.d t1, t1, (a0)\n ecall"),
    "elsewhere first": batch(SETUP + "sd t1, (a3)\n ld t1, (a3)\n sd t1, (a0)\n ecall"),
}


@pytest.fixture(params=[False, True], ids=["plain", "fast"])
def hart_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bench:
    if not request.param:
        monkeypatch.setattr(Hart, "keep_code_coherent", lambda hart: None)
    return Bench("inside")


def ends(bench: Bench, what: str, perms: int, priv: int) -> tuple[int, int]:
    """The cause (OKAY for the ecall) and mtval of the trap."""
    config = NAPOT | perms | (NAPOT | PMP_R | PMP_W | PMP_X) << 8
    snippet = ACCESSES[what]
    cause, _, tval = bench.trapped(snippet, a0=PAGE, a1=config, a2=priv, a3=ELSEWHERE)
    return (OKAY, 0) if cause == 8 + priv else (cause, tval)


@pytest.mark.parametrize("priv", [0, 1])
@pytest.mark.parametrize(
    ("what", "cause"),
    [("load", LOAD), ("store", STORE), ("load, store", LOAD), ("amo", STORE)],
)
def test_a_page_that_the_pmp_denies(hart_of: Bench, what: str, cause: int, priv: int) -> None:
    assert ends(hart_of, what, 0, priv) == (cause, PAGE)


@pytest.mark.parametrize("what", ACCESSES)
@pytest.mark.parametrize("priv", [0, 1, 3])
def test_a_page_that_the_pmp_allows(hart_of: Bench, what: str, priv: int) -> None:
    assert ends(hart_of, what, PMP_R | PMP_W, priv) == (OKAY, 0)


@pytest.mark.parametrize("priv", [0, 1])
def test_a_page_that_may_only_be_read(hart_of: Bench, priv: int) -> None:
    assert ends(hart_of, "load", PMP_R, priv) == (OKAY, 0)
    assert ends(hart_of, "store", PMP_R, priv) == (STORE, PAGE)
    assert ends(hart_of, "elsewhere first", PMP_R, priv) == (STORE, PAGE)


@pytest.mark.parametrize("what", ["load", "store", "elsewhere first"])
def test_a_locked_page_is_denied_to_m_mode(hart_of: Bench, what: str) -> None:
    assert ends(hart_of, what, 0, 3) == (OKAY, 0)
    cause = LOAD if what == "load" else STORE
    assert ends(hart_of, what, LOCK, 3) == (cause, PAGE)


UNDER_MPRV = batch(
    """
    sd t1, (a0)
    li t0, 0x20800
    csrs mstatus, t0
    sd t2, (a0)
    csrc mstatus, t0
    sd t3, 8(a0)
    wfi
    """
)


def test_m_mode_stores_where_mprv_says(hart_of: Bench) -> None:
    """Without it to the PA, with it through S's tables, and back."""
    hart_of.translate().map(PAGE, ELSEWHERE, V | R | W | A | D)
    hart_of.run(UNDER_MPRV, a0=PAGE, t1=1, t2=2, t3=3)
    ram = hart_of.ram
    assert [ram.read64(pa) for pa in (PAGE, PAGE + 8, ELSEWHERE, ELSEWHERE + 8)] == [1, 3, 2, 0]


AROUND_S = batch("sd t1, (a0)\n csrw satp, a1\n sd t2, (a0)\n csrw satp, zero\n sd t3, 8(a0)\n wfi")


def test_s_mode_stores_where_satp_says(hart_of: Bench) -> None:
    satp = hart_of.translate()
    satp.map(PAGE, ELSEWHERE, V | R | W | A | D)
    hart_of.hart.set_satp(0)
    hart_of.run(AROUND_S, priv=1, a0=PAGE, a1=satp.satp, t1=1, t2=2, t3=3)
    ram = hart_of.ram
    assert [ram.read64(pa) for pa in (PAGE, PAGE + 8, ELSEWHERE, ELSEWHERE + 8)] == [1, 3, 2, 0]


@pytest.mark.parametrize("priv", [1, 3])
@pytest.mark.parametrize("address", [0x4000_0000, 0x8100_0000, 1 << 56, 0xFFFF_FFFF_FFFF_F000])
def test_holes(hart_of: Bench, priv: int, address: int) -> None:
    for what, cause in (("load", LOAD), ("store", STORE)):
        snippet = ACCESSES[what]
        config = NAPOT | (NAPOT | PMP_R | PMP_W | PMP_X) << 8
        trapped = hart_of.trapped(snippet, a0=address, a1=config, a2=priv)
        assert (trapped[0], trapped[2]) == (cause, address)
