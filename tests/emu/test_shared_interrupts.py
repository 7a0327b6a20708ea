"""What is pending, kept by the C and by Python: they agree on every order of changes.

And what the engine is shown is what the reference chooses (privileged spec, section 3.1.9).
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from harness import Bench

from emu.hart.interrupts import Interrupts
from emu.spec import trap, words

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
