"""stimecmp, menvcfg and senvcfg: what they hold, who may access them, when STIP rises."""

from __future__ import annotations

import pytest
from asm import Batch
from harness import Bench, let_all_memory_be_used

from emu.board.clock import Clock
from emu.board.machine import Machine
from emu.board.sstc import Sstc
from emu.debug.snapshot import v2
from emu.hart import Hart
from emu.hart.state import load, save
from emu.ram import Ram
from emu.spec import words
from emu.stop import StopReason

batch = Batch()
MENVCFG, SENVCFG, STIMECMP, MIP, MCOUNTEREN = 0x30A, 0x10A, 0x14D, 0x344, 0x306
STCE, FIOM, STIP, TM = 1 << 63, 1, 1 << 5, 2
NEVER = (1 << 64) - 1

HOLD = batch(
    """
    li   t0, -1
    csrw menvcfg, t0
    csrr s2, menvcfg
    csrw senvcfg, t0
    csrr s3, senvcfg
    csrw 0x14d, t0
    csrr s4, 0x14d
    li   t1, 0x123456789abcdef0
    csrrw s5, 0x14d, t1
    csrrs s6, 0x14d, x0
    csrrci s7, 0x14d, 16
    csrrsi s8, 0x14d, 1
    csrr s9, 0x14d
    csrw menvcfg, zero
    csrr s10, menvcfg
    wfi
    """
)


def test_what_they_hold(bench: Bench) -> None:
    """FIOM and STCE; the other fields belong to extensions that are not there."""
    assert bench.run(HOLD).reason is StopReason.WFI
    assert bench.w[words.MCAUSE] == 0
    assert [bench.reg(f"s{i}") for i in (2, 3, 4)] == [STCE | FIOM, FIOM, NEVER]
    value = 0x1234_5678_9ABC_DEF0
    assert [bench.reg(f"s{i}") for i in (5, 6, 7)] == [NEVER, value, value]
    assert (bench.reg("s8"), bench.reg("s9")) == (value - 16, value - 16 + 1)
    assert bench.reg("s10") == 0


READ, WRITE = batch("csrr a0, 0x14d; wfi"), batch("csrw 0x14d, a0; wfi")
ENVCFG = batch("csrr a0, senvcfg; wfi"), batch("csrr a0, menvcfg; wfi")


@pytest.mark.parametrize("stce", [0, STCE])
@pytest.mark.parametrize("tm", [0, TM])
@pytest.mark.parametrize("priv", [0, 1, 3])
def test_who_may_access_stimecmp(bench: Bench, priv: int, stce: int, tm: int) -> None:
    """Chapter 14: M always, S where both bits are set, U never."""
    csr = bench.hart.added_csrs.get
    csr(MENVCFG).write(stce)  # type: ignore[union-attr]
    bench.hart.access.csr(MCOUNTEREN, ~TM & 0xFFFF_FFFF | tm)
    gated = bench.is_inside and not tm
    allowed = priv == 3 or (priv == 1 and bool(stce) and not gated)
    for snippet in (READ, WRITE):
        bench.w[words.MCAUSE] = 0
        bench.run(snippet, priv=priv, a0=7)
        assert (bench.w[words.MCAUSE] != 2) == allowed
        if not allowed:
            assert bench.w[words.MTVAL] == int.from_bytes(snippet.code[:4], "little")
    assert bench.hart.read_csr(STIMECMP) == (7 if allowed else NEVER)
    for snippet, least in zip(ENVCFG, (1, 3), strict=True):
        bench.w[words.MCAUSE] = 0
        bench.run(snippet, priv=priv)
        assert (bench.w[words.MCAUSE] != 2) == (priv >= least)


MIP_BITS = batch(
    """
    li   s0, 32
    csrs mip, s0                # STCE is 0: the bit is M's to write
    csrr s2, mip
    li   t0, 1 << 63
    csrw menvcfg, t0            # now it is the wire, which is low: never is never
    csrr s3, mip
    csrs mip, s0
    csrr s4, mip
    csrw 0x14d, zero            # in the past
    csrr s5, mip
    csrc mip, s0
    csrr s6, mip
    csrr s7, sip
    li   t1, -1
    csrw 0x14d, t1
    csrr s8, mip
    csrw menvcfg, zero          # and the bit is what M had written
    csrr s9, mip
    csrc mip, s0
    csrr s10, mip
    wfi
    """
)


def test_stip_is_a_wire_or_a_bit(inside: Bench) -> None:
    inside.w[words.MIDELEG] = STIP
    assert inside.run(MIP_BITS).reason is StopReason.WFI
    found = [inside.reg(f"s{i}") for i in range(2, 11)]
    assert found == [STIP, 0, 0, STIP, STIP, STIP, 0, STIP, 0]


# M lets S have stimecmp, S takes five interrupts of it, 1000 ticks apart.
TICKS = batch(
    """
    li   t0, 1 << 63
    csrw menvcfg, t0
    csrwi mcounteren, 2
    li   t0, 32
    csrw mideleg, t0
    la   t0, sstc_trap
    csrw stvec, t0
    la   t0, sstc_s
    csrw mepc, t0
    li   t0, 0x1800
    csrc mstatus, t0
    li   t0, 0x800
    csrs mstatus, t0
    mret
    sstc_s:
    rdtime s2
    addi s3, s2, 1000
    csrw 0x14d, s3
    li   t0, 32
    csrw sie, t0
    csrsi sstatus, 2
    beqz a0, sstc_spin
    sstc_wait: wfi
    j    sstc_wait
    sstc_spin: addi s5, s5, 1
    j    sstc_spin
    .balign 4
    sstc_trap:
    csrr s6, scause
    rdtime t1
    bltu t1, s3, sstc_early
    addi s4, s4, 1
    addi s3, t1, 1000
    csrw 0x14d, s3
    csrr s7, sip
    li   t0, 5
    bltu s4, t0, sstc_back
    li   t0, 0x100000
    li   t1, 0x5555
    sw   t1, (t0)
    sstc_back: sret
    sstc_early:
    li   t0, 0x100000
    li   t1, 0x13333
    sw   t1, (t0)
    j    .
    """
)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("waits", [0, 1])
@pytest.mark.parametrize("access", ["inside", "public"])
def test_s_mode_is_interrupted_by_its_own_timer(
    access: str, deterministic: bool, waits: int
) -> None:
    machine = Machine(16 << 20, access=access, deterministic=deterministic)
    machine.ram.write(machine.ram.base, TICKS.code)
    machine.hart.reset(machine.ram.base)
    let_all_memory_be_used(machine.hart)
    machine.hart.words[words.A0] = waits
    stop = machine.run()
    assert (stop.reason, stop.code) == (StopReason.EXIT, 0)
    w = machine.hart.words
    assert (w[20], w[22]) == (5, 1 << 63 | 5)  # s4: how many; s6: scause
    machine.close()


class Moving(Clock):
    """Each look at the time finds it later by one tick."""

    ticks = 0

    def now(self) -> int:
        self.ticks += 1
        return self.ticks

    def alarms_changed(self) -> None:
        self.ring_due()


@pytest.mark.parametrize("ahead", range(1, 12))
def test_a_time_that_passes_while_it_is_set(ahead: int) -> None:
    """It rings at once, and what was found a moment before does not take that back."""
    hart, clock = Hart(Ram(1 << 20)), Moving()
    sstc = Sstc(hart, clock)
    hart.added_csrs.get(MENVCFG).write(STCE)  # type: ignore[union-attr]
    sstc.set(clock.ticks + ahead)
    while clock.next_alarm() is not None:
        clock.ring_due()
    assert hart.pending == STIP
    hart.close()


def test_it_is_kept_and_reset() -> None:
    one, two = Machine(16 << 20), Machine(16 << 20)
    for number, value in ((MENVCFG, STCE | FIOM), (SENVCFG, FIOM), (STIMECMP, 5)):
        one.hart.added_csrs.get(number).write(value)  # type: ignore[union-attr]
    assert one.hart.pending == STIP
    kept = save(one.hart)
    assert (kept["menvcfg"], kept["senvcfg"], kept["stimecmp"]) == (STCE | FIOM, FIOM, 5)
    load(two.hart, kept)
    again = save(two.hart)
    assert [n for n in kept if kept[n] != again[n]] == ["mcycle", "minstret"]  # they go on
    assert two.hart.pending == STIP
    one.hart.reset(one.ram.base)
    assert one.hart.pending == 0 and one.hart.read_csr(MENVCFG) == 0
    # A snapshot of before there was Sstc, and when mip was one number.
    old = {k: v for k, v in kept.items() if k not in ("menvcfg", "senvcfg", "stimecmp")}
    del old["wires"], old["written"]
    of_then = {"hart": old | {"pending": 0x222}, "devices": []}
    v2.upgrade(of_then)
    load(two.hart, of_then["harts"][0])
    assert (two.hart.pending, two.hart.read_csr(STIMECMP)) == (0x222, NEVER)
    assert (two.hart.interrupts.wires, two.hart.interrupts.written) == (0x200, 0x22)
    for machine in (one, two):
        machine.close()


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_clock_looks_no_later_than_stimecmp(deterministic: bool) -> None:
    """The guest's writes, each of which may or may not need the clock to be set again."""
    machine = Machine(16 << 20, access="inside", deterministic=deterministic)
    hart, clock, hour = machine.hart, machine.clock, 36_000_000_000  # ticks
    hart.added_csrs.get(MENVCFG).write(STCE)  # type: ignore[union-attr]
    now = clock.now()

    def alarm_after(when: int) -> int | None:
        assert hart.access.csr(STIMECMP, when) is not None
        assert bool(hart.pending & STIP) == (when <= now)
        assert hart.access.csr(STIMECMP) == when
        return clock.next_alarm()

    assert clock.next_alarm() is None
    assert alarm_after(now + 3 * hour) == now + 3 * hour
    assert alarm_after(now + 2 * hour) == now + 2 * hour, "an earlier one is told"
    # With the host's clock the earlier alarm is enough; guests' own progress must be exact.
    kept = alarm_after(now + 3 * hour)
    assert kept == now + (3 if deterministic else 2) * hour
    # It rings, is too early, and the clock is set again.
    if kept is not None and not deterministic:
        clock.set_now(kept + 1)
        assert clock.next_alarm() == now + 3 * hour
        assert not hart.pending & STIP
        clock.set_now(now)
    assert alarm_after(NEVER) is None, "nothing keeps an idle machine waiting"
    assert alarm_after(now + hour) == now + hour
    alarm = alarm_after(now)
    assert alarm == (None if deterministic else now + hour)
    assert alarm_after(now + 2 * hour) is not None
    hart.added_csrs.get(MENVCFG).write(0)  # type: ignore[union-attr]
    assert clock.next_alarm() is None
    assert not hart.pending & STIP
    machine.close()
