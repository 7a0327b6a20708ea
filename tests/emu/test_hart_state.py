"""A hart saved and loaded into a fresh machine: every CSR that it has, then the same future."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import pytest
from asm import Batch
from harness import CODE, DATA, RAM, Bench
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.board.machine import Machine
from emu.hart import Hart, HartError
from emu.hart import state as hart_state
from emu.spec import words
from emu.stop import StopReason

M64 = (1 << 64) - 1
SSTATUS, SATP, MSTATUS = 0x100, 0x180, 0x300
PMPCFG0, PMPADDR0 = 0x3A0, 0x3B0

batch = Batch()

# After random CSRs: everything that depends on them, round and round, folded into s1. a0: a
# buffer, s2: the number of rounds. Translation is off in M-mode, MPRV is switched off first.
AFTER = batch(
    """
    li t0, 0x20000
    csrc mstatus, t0
    li t0, 0x6000
    csrs mstatus, t0
    frrm t0
    andi t0, t0, 3  # above are no rounding modes
    fsrm t0
    li s1, 0
    1: sc.d t1, s1, (a0)
    add s1, s1, t1
    fdiv.d f1, f2, f3
    fmadd.d f2, f1, f4, f5
    fsqrt.d f5, f2
    fmv.x.d t2, f2
    xor s1, s1, t2
    slli t3, s1, 13
    xor s1, s1, t3
    srli t3, s1, 7
    xor s1, s1, t3
    frcsr t4
    add s1, s1, t4
    csrr t5, mcycle
    add s1, s1, t5
    csrr t5, minstret
    xor s1, s1, t5
    csrr t5, mscratch
    add s1, s1, t5
    csrrw t5, sscratch, s1
    csrrw t5, mscratch, t5
    csrr t5, mip
    add s1, s1, t5
    lr.d t6, (a0)
    add s1, s1, t6
    amoadd.d t6, s1, (a0)
    addi s2, s2, -1
    bnez s2, 1b
    csrw mie, zero
    wfi
    """
)
ROUNDS = 200


def numbers(hart: Hart) -> list[int]:
    """Every CSR that this hart has: each number is tried, no list of ours is asked."""
    return [n for n in range(4096) if hart.access.csr(n) is not None]


def readings(hart: Hart, which: list[int]) -> dict[str, int]:
    return {hex(n): hart.read_csr(n) for n in which}


def csrw(number: int, register: int) -> int:
    return number << 20 | register << 15 | 1 << 12 | 0x73


def ld(register: int, offset: int, base: int) -> int:
    return offset << 20 | base << 15 | 3 << 12 | register << 7 | 3


A0, T0, MENVCFG = 10, 5, 0x30A


def setters(rng: random.Random, which: list[int]) -> tuple[bytes, bytes]:
    """Code that writes a random value to each CSR that can be written, and those values.

    Registers f0 to f31 and x1 to x31 get random values by the test itself.
    """
    code, values = bytearray(), bytearray()
    order = [n for n in which if n >> 10 != 3 and n != MSTATUS]
    rng.shuffle(order)
    for number in [*order, MSTATUS]:  # the last: no load after mstatus.MPRV
        value = rng.choice((rng.getrandbits(64), 1 << rng.randrange(64), 0, M64))
        if number == SATP:
            value = rng.choice((0, 8, 9, 10)) << 60 | value & (1 << 60) - 1
        elif number in (SSTATUS, MSTATUS):
            value = (value | 0x6000) & ~8  # no interrupt is taken (MIE), FP is on
        elif PMPCFG0 <= number < PMPCFG0 + 4:
            value &= ~0x8080_8080_8080_8080  # a locked entry binds M-mode too
        elif PMPADDR0 <= number < PMPADDR0 + 16:
            value &= 0xFFFF  # below RAM, where this code is: a partial match binds M-mode too
        code += struct.pack("<II", ld(T0, len(values), A0), csrw(number, T0))
        values += value.to_bytes(8, "little")
    return bytes(code), bytes(values)


def fill_registers(hart: Hart, rng: random.Random) -> None:
    for i in range(1, 32):
        hart.words[words.GPR + i] = rng.getrandbits(64)
    for i in range(32):
        hart.words[words.FPR + i] = struct.unpack("<Q", struct.pack("<d", rng.gauss(0, 1e9)))[0]


def same(first: Machine, second: Machine, which: list[int]) -> None:
    one, two = first.hart, second.hart
    assert readings(one, which) == readings(two, which)
    # The engine's own: mip is shown from `pending`, badaddr is written before it is read.
    engine = {words.MIP, words.BADADDR}
    for i in set(range(words.COUNT)) - engine:
        assert one.words[i] == two.words[i], i
    assert one.pending == two.pending


@pytest.mark.parametrize("seed", range(20))
def test_every_csr_and_the_same_future(seed: int) -> None:
    rng = random.Random(seed)
    machines = [Machine(1 << 20, access="inside", deterministic=True) for _ in range(2)]
    first, second = machines
    which = numbers(first.hart)
    assert {0x003, 0x106, 0x140, 0x306, 0x340, 0x3A0, 0x3BF, 0xB00, 0xB02} <= set(which)
    assert which == numbers(second.hart)
    code, values = setters(rng, which)
    after = RAM + 0x2000
    first.ram.write(CODE, code)
    first.ram.write(DATA, values)
    first.ram.write(after, AFTER.code)
    fill_registers(first.hart, rng)
    first.hart.words[words.MSTATUS] |= 0x6000  # FP is on
    first.hart.words[words.A0] = DATA
    first.hart.words[words.PC] = CODE
    assert first.run(len(code) // 4).reason is StopReason.LIMIT
    assert first.hart.pc == CODE + len(code)
    for number in (1, 3, 5, 7, 9, 11):  # as devices do
        # With menvcfg.STCE, STIP is stimecmp's wire and no device's.
        if rng.random() < 0.3 and not (number == 5 and first.hart.read_csr(MENVCFG) >> 63):
            first.hart.set_pending(number, True)
    # On into the loop, to some instruction of it: between lr and sc, with flags raised.
    first.hart.words[words.PC] = after
    first.hart.words[words.A0] = DATA + 0x1000
    first.hart.words[words.GPR + 18] = ROUNDS
    assert first.run(rng.randrange(400) + 1).reason is StopReason.LIMIT

    saved = hart_state.save(first.hart)
    saved = json.loads(json.dumps(saved))
    second.ram.write(RAM, first.ram.read(RAM, 1 << 20))
    second.clock.executed = first.clock.executed
    second.clock.set_now(first.clock.now())
    hart_state.load(second.hart, saved)
    same(first, second, which)
    assert hart_state.save(second.hart) == saved
    for machine in machines:
        for count in (50, 1000, 0):
            stop = machine.run(count)
        assert stop.reason is StopReason.WFI
    same(first, second, which)
    assert first.ram.read(RAM, 1 << 20) == second.ram.read(RAM, 1 << 20)
    for machine in machines:
        machine.close()


USER = batch(
    """
    1: lr.d t0, (a0)
    addi t0, t0, 3
    sc.d t1, t0, (a0)
    add s1, s1, t1
    addi s2, s2, 1
    j 1b
    """
)


@pytest.mark.parametrize("count", range(1, 9))
def test_in_u_mode_translated_at_any_instruction(bench: Bench, count: int) -> None:
    """Also between LR and SC, of which the reservation is state."""
    other = Bench(bench.access)
    tables = bench.translate()
    tables.map(0x4000, CODE, 0xDB)  # U, R, X, A, D
    tables.map(0x5000, DATA, 0xD7)  # U, R, W, A, D
    bench.start(USER, pc=0x4000, priv=0, a0=0x5000)
    assert bench.machine.run(count).reason is StopReason.LIMIT
    other.ram.write(RAM, bench.ram.read(RAM, bench.ram.size))
    hart_state.load(other.hart, hart_state.save(bench.hart))
    for one in (bench, other):
        assert one.hart.priv == 0
        assert one.machine.run(60).reason is StopReason.LIMIT
        assert (one.reg("s1"), one.ram.read64(DATA)) == (0, 3 * ((count + 60 + 3) // 6))
    assert without_counters(other.hart) == without_counters(bench.hart)
    other.machine.close()


def without_counters(hart: Hart) -> dict[str, Any]:
    """What does not follow the host's time."""
    state = hart_state.save(hart)
    return {name: value for name, value in state.items() if name not in ("mcycle", "minstret")}


def test_a_reservation_is_lost_with_the_memory_it_was_for(bench: Bench) -> None:
    other = Bench(bench.access)
    bench.start(USER, a0=DATA)
    bench.machine.run(2)
    other.load(USER)
    other.ram.write64(DATA, 7)  # not what LR read
    hart_state.load(other.hart, hart_state.save(bench.hart))
    other.machine.run(2)
    assert other.reg("s1") == 1 and other.ram.read64(DATA) == 7
    other.machine.close()


LOOP = batch("1: addi s1, s1, 1; j 1b")


def test_pending_interrupts_are_taken_where_they_would_have_been(bench: Bench) -> None:
    other = Bench(bench.access)
    bench.start(LOOP)
    bench.w[words.MIE] = 1 << 7
    bench.hart.set_pending(7, True)
    bench.machine.run(10)  # MIE is off
    other.load(LOOP)
    hart_state.load(other.hart, hart_state.save(bench.hart))
    assert other.hart.pending == 1 << 7
    for one in (bench, other):
        traps = one.hold_m()
        one.w[words.MSTATUS] |= 8
        assert one.machine.run().reason is StopReason.FAULT
        assert (traps[0].xcause, traps[0].epc, one.reg("s1")) == (1 << 63 | 7, CODE, 5)
    # And one that was pending in the loaded hart only is gone.
    other.hart.set_pending(3, True)
    hart_state.load(other.hart, hart_state.save(bench.hart))
    assert other.hart.pending == 1 << 7
    other.machine.close()


FLOATS = batch("csrr t0, fcsr; fadd.d f1, f2, f3; fmv.x.d s1, f1; csrr s2, fcsr; wfi")


def test_floating_point_status(bench: Bench) -> None:
    """Rounding up, and the flags of before, on both ways to the state."""
    bench.w[words.MSTATUS] |= 0x6000
    bench.start(SET_FCSR)
    bench.machine.run(2)
    bench.w[words.FPR + 2] = 0x3FF0_0000_0000_0000  # 1.0
    bench.w[words.FPR + 3] = 0x3CA0_0000_0000_0000  # 2**-53: half of the last place
    state = hart_state.save(bench.hart)
    assert state["fcsr"] == 0x68
    other = Bench(bench.access)
    hart_state.load(other.hart, state | {"mstatus": 0xA_0000_0000})  # FS off
    assert other.w[words.MSTATUS] == 0xA_0000_0000
    other.w[words.MSTATUS] |= 0x6000
    other.run(FLOATS)
    assert (other.reg("t0"), other.reg("s2")) == (0x68, 0x69)  # and now inexact
    assert other.reg("s1") == 0x3FF0_0000_0000_0001  # rounded up
    other.machine.close()


SET_FCSR = batch("li t0, 0x68; csrw fcsr, t0")  # RUP, DZ
PRIVATE = batch(
    "csrw mscratch, a0; csrw sscratch, a1; csrw mcounteren, a2; csrw scounteren, a3; wfi"
)
READ_BACK = batch(
    "csrr s1, mscratch; csrr s2, sscratch; csrr s3, mcounteren; csrr s4, scounteren; wfi"
)


@pytest.mark.parametrize("ways", [("inside", "public"), ("public", "inside"), ("public",) * 2])
def test_from_one_way_to_the_other(ways: tuple[str, str]) -> None:
    first, second = Bench(ways[0]), Bench(ways[1])
    for one in (first, second):
        one.hart.mmu.reset()  # PMP registers cannot be had on the public way
    first.run(PRIVATE, a0=0x1234_5678_9ABC_DEF0, a1=5, a2=7, a3=2)
    first.w[words.FPR + 31] = 0xFFFF_FFFF_3F80_0000
    first.w[words.MSTATUS] |= 0x2000
    first.start(READ_BACK)
    before = bytes(first.w)
    state = hart_state.save(first.hart)
    assert bytes(first.w) == before  # reading on the public way has to change things first
    if ways[0] == "public":
        assert state["pmpcfg"] is state["pmpaddr"] is state["mcycle"] is None
        assert hart_state.missing(first.hart)
    else:
        assert hart_state.missing(first.hart) == ()
    second.load(READ_BACK)
    hart_state.load(second.hart, json.loads(json.dumps(state)))
    for one in (first, second):
        assert one.machine.run().reason is StopReason.WFI
        assert [one.reg(f"s{i}") for i in range(1, 5)] == [0x1234_5678_9ABC_DEF0, 5, 7, 2]
        assert one.w[words.FPR + 31] == 0xFFFF_FFFF_3F80_0000
        one.machine.close()


def test_pmp_that_the_public_way_cannot_set(inside: Bench) -> None:
    inside.hart.access.csr(0x3B3, 0x2000_0000)
    other = Bench("public")
    with pytest.raises(ValueError, match="PMP registers cannot be set on the public"):
        hart_state.load(other.hart, hart_state.save(inside.hart))
    other.machine.close()


def test_locked_pmp_entries(inside: Bench) -> None:
    free = hart_state.save(inside.hart)
    inside.hart.access.csr(0x3B0, 0x3FFF_FFFF)
    inside.hart.access.csr(0x3A0, 0x9F)  # locked, NAPOT, RWX
    locked = hart_state.save(inside.hart)
    assert locked["pmpcfg"] == [0x9F, 0] and locked["pmpaddr"][0] == 0x3FFF_FFFF
    with pytest.raises(ValueError, match="load into a fresh machine"):
        hart_state.load(inside.hart, free)
    hart_state.load(inside.hart, locked)
    other = Bench("inside")
    hart_state.load(other.hart, locked)
    assert hart_state.save(other.hart)["pmpcfg"] == [0x9F, 0]
    other.machine.close()


def test_a_loaded_hart_has_no_old_translations_and_no_old_code(bench: Bench) -> None:
    tables = bench.translate()
    tables.map(0x4000, DATA)
    bench.ram.write64(DATA, 1)
    bench.start(LOAD, priv=1, a0=0x4000)
    state = hart_state.save(bench.hart)
    bench.machine.run()
    assert bench.reg("s1") == 1
    tables.map(0x4000, DATA + 0x1000)
    bench.ram.write64(DATA + 0x1000, 2)
    bench.ram.write(CODE + 4, (0x0014_0413).to_bytes(4, "little"))  # addi s0, s0, 1
    hart_state.load(bench.hart, state)
    bench.machine.run()
    assert (bench.reg("s1"), bench.reg("s0")) == (2, 1)


LOAD = batch(".option norvc; ld s1, (a0); nop; wfi")


def test_a_running_hart_is_refused(bench: Bench) -> None:
    state = hart_state.save(bench.hart)
    bench.hart.running = True
    for use in (hart_state.save, lambda h: hart_state.load(h, state)):
        with pytest.raises(HartError, match="running"):
            use(bench.hart)
    bench.hart.running = False


@pytest.fixture(scope="module")
def plain() -> Any:
    machine = Machine(1 << 20)
    yield machine.hart
    machine.close()


anything = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 1 << 65), st.text(max_size=3), st.floats(),
    st.lists(st.integers(-1, 1 << 64), max_size=33),
    st.dictionaries(st.text(max_size=1), st.none()),
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_state_that_is_none_changes_nothing(plain: Hart, data: st.DataObject) -> None:
    good = hart_state.save(plain)
    name = data.draw(st.sampled_from(sorted(good)))
    if data.draw(st.booleans()) and isinstance(good[name], list):
        bad = list(good[name])
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(anything)
    else:
        bad = data.draw(anything)
    if name == "pmpcfg" and isinstance(bad, list):  # no locks: `plain` is used again
        bad = [n & ~0x8080_8080_8080_8080 if type(n) is int and n > 0 else n for n in bad]
    try:
        hart_state.load(plain, good | {name: bad})
    except ValueError as e:
        assert "\n" not in str(e) and str(e)
        assert without_counters(plain).items() <= good.items()
    else:
        numbers = bad if isinstance(bad, list) else [bad]
        optional = name in ("pmpcfg", "pmpaddr", "mcycle", "minstret")
        assert all(type(n) is int for n in numbers) or (bad is None and optional)
        hart_state.load(plain, good)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"satp": 1 << 60}, "MODE 1 is reserved"),
        ({"priv": 2}, "no level 2"),
        ({"x": [1, *[0] * 31]}, "x0"),
        ({"pc": -1}, "pc"),
        ({"pc": True}, "pc"),
        ({"extra": 0}, "not those that this version saves"),
    ],
)
def test_what_it_says(plain: Hart, change: dict[str, Any], text: str) -> None:
    state = hart_state.save(plain)
    with pytest.raises(ValueError, match=text):
        hart_state.load(plain, state | change)
    del state["mscratch"]
    with pytest.raises(ValueError, match="not those"):
        hart_state.load(plain, state)
