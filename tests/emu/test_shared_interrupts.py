"""What is pending, kept by the C and by Python: they agree on every order of changes.

And what the engine is shown is what the reference chooses (privileged spec, section 3.1.9).
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from asm import Batch
from harness import Bench

from emu.engine.direct_access import DirectAccess
from emu.hart.interrupts import Interrupts
from emu.spec import csr as CSR
from emu.spec import trap, words
from emu.spec.trap import Trap
from emu.stop import StopReason

batch = Batch()

BITS = (1, 3, 5, 7, 9, 11)
S_BITS = 1 << 1 | 1 << 5 | 1 << 9
ALL = sum(1 << bit for bit in BITS)


@pytest.mark.parametrize("seed", range(8))
def test_the_c_and_python_agree(inside: Bench, seed: int) -> None:
    rng = random.Random(seed)
    ours, hart = inside.hart.interrupts, inside.hart
    reference = Interrupts(lambda: None)
    w = inside.w

    def random_change() -> Callable[[], tuple[object, object]]:
        number, level = rng.choice(BITS), bool(rng.getrandbits(1))
        mask, value = rng.getrandbits(12), rng.getrandbits(12)
        return rng.choice((
            lambda: (ours.drive(number, level), reference.drive(number, level)),
            lambda: (ours.set(number, level), reference.set(number, level)),
            lambda: (ours.set(number, level), reference.set(number, level)),
            lambda: (ours.write(mask, value), reference.write(mask, value)),
            lambda: (ours.let_timer_be_wire(level), reference.let_timer_be_wire(level)),
            lambda: (ours.become(mask, value), reference.become(mask, value)),
            lambda: (ours.reset(), reference.reset()),
        ))  # fmt: skip

    for _ in range(3000):
        if rng.randrange(4) == 0:
            w[words.MIE] = rng.getrandbits(12) & ALL
            w[words.MIDELEG] = rng.getrandbits(12) & S_BITS
            hart.present()
        one, other = random_change()()
        assert one == other
        now = (ours.wires, ours.written, ours.pending)
        assert now == (reference.wires, reference.written, reference.pending)
        choice = trap.choose_interrupt(w, ours.pending)
        wanted = 0 if choice is None else 1 << choice[0]
        assert w[words.MIP] == wanted
        assert hart.lost_wakeup() is None


def test_there_are_six_interrupts(inside: Bench) -> None:
    for number in (0, 2, 4, 6, 8, 10, 12, 63):
        with pytest.raises(ValueError, match="there is no interrupt"):
            inside.hart.interrupts.set(number, True)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_shown_follows_every_csr(inside: Bench, seed: int) -> None:
    """Behind each write of mie, sie, mip, sip, mideleg and mstatus, whatever it wrote."""
    rng = random.Random(seed)
    hart, w = inside.hart, inside.w
    assert isinstance(hart.access, DirectAccess)
    shown_bits = set()
    for _ in range(2000):
        number = rng.choice((CSR.MIE, CSR.SIE, CSR.MIP, CSR.SIP, CSR.MIDELEG, CSR.MSTATUS))
        kept = CSR.MSTATUS_MPP if number == CSR.MSTATUS else 0
        hart.access.csr(number, rng.getrandbits(12) & ~kept)
        hart.set_pending(rng.choice(BITS), bool(rng.getrandbits(1)))
        hart.access.csr(number, rng.getrandbits(12) & ~kept)
        choice = trap.choose_interrupt(w, hart.pending)
        wanted = 0 if choice is None else 1 << choice[0]
        assert w[words.MIP] == wanted
        assert hart.access.look_shown() == (wanted, wanted)
        shown_bits.add(wanted)
    assert shown_bits == {0, *(1 << bit for bit in BITS)}


ENABLE = batch("csrsi sstatus, 2; 1: addi s1, s1, 1; bne s1, s2, 1b; wfi")
ROUNDS = 1_000_000


def test_an_interrupt_to_python_comes_when_the_guest_enables_it(inside: Bench) -> None:
    """Where Python holds S the engine takes none: the hart stops behind the write."""
    hart, w = inside.hart, inside.w
    taken: list[int] = []

    def handler(record: Trap) -> None:
        taken.append(inside.reg("s1"))
        hart.interrupts.write(2, 0)

    hart.handlers[1] = handler
    w[words.MIDELEG] = w[words.MIE] = 2
    hart.interrupts.write(2, 2)
    inside.load(ENABLE)
    inside.start(priv=1, s1=0, s2=ROUNDS)
    assert inside.machine.run().reason is StopReason.WFI
    assert len(taken) == 1
    assert taken[0] < 10, "it came with the write, not at the end of the loop"
    assert inside.reg("s1") == ROUNDS
