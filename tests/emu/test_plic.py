"""The PLIC by its registers; the offsets are the PLIC specification's."""

from __future__ import annotations

import random

import pytest

from emu.board.devices.plic import Plic

M, S = 0, 1  # contexts
MEI, SEI = 11, 9


class Bench:
    def __init__(self) -> None:
        self.level = {MEI: False, SEI: False}
        self.changes: list[tuple[int, bool]] = []
        self.plic = Plic(0xC00_0000, [self.told])

    def told(self, number: int, level: bool) -> None:
        if self.level[number] != level:
            self.changes.append((number, level))
        self.level[number] = level

    def priority(self, source: int, value: int) -> None:
        self.plic.write(4 * source, 4, value)

    def enable(self, context: int, *sources: int) -> None:
        bits = sum(1 << source for source in sources)
        for word in range(3):
            self.plic.write(0x2000 + 0x80 * context + 4 * word, 4, bits >> 32 * word & 0xFFFF_FFFF)

    def threshold(self, context: int, value: int) -> None:
        self.plic.write(0x20_0000 + 0x1000 * context, 4, value)

    def claim(self, context: int) -> int:
        return self.plic.read(0x20_0004 + 0x1000 * context, 4)

    def complete(self, context: int, source: int) -> None:
        self.plic.write(0x20_0004 + 0x1000 * context, 4, source)

    def pending(self) -> set[int]:
        words = [self.plic.read(0x1000 + 4 * word, 4) for word in range(3)]
        return {
            32 * i + bit for i, word in enumerate(words) for bit in range(32) if word >> bit & 1
        }


def test_after_reset() -> None:
    bench = Bench()
    assert (bench.plic.base, bench.plic.size) == (0xC00_0000, 0x60_0000)
    bench.plic.set_line(5, True)
    assert bench.pending() == {5}
    assert (bench.claim(M), bench.claim(S), bench.changes) == (0, 0, [])


def test_one_source_round_the_circle() -> None:
    bench = Bench()
    bench.priority(10, 1)
    bench.enable(S, 10)
    bench.plic.set_line(10, True)
    assert bench.changes == [(SEI, True)]
    assert bench.claim(S) == 10
    assert bench.level[SEI] is False and bench.pending() == set()
    assert bench.claim(S) == 0
    bench.complete(S, 10)  # its line has been high all the time: nobody looks at it
    assert bench.pending() == set() and not bench.level[SEI] and bench.claim(S) == 0
    bench.plic.set_line(10, True)  # it is said again: a new request
    assert bench.level[SEI] and bench.claim(S) == 10


def test_a_raise_while_claimed_waits_for_the_completion() -> None:
    bench = Bench()
    bench.priority(10, 1)
    bench.enable(S, 10)
    bench.plic.set_line(10, True)
    assert bench.claim(S) == 10
    bench.plic.set_line(10, True)
    assert bench.pending() == {10} and not bench.level[SEI] and bench.claim(S) == 0
    bench.complete(S, 10)
    assert bench.level[SEI] and bench.claim(S) == 10
    bench.complete(S, 10)
    assert not bench.level[SEI] and bench.pending() == set()


def test_a_request_is_gone_with_its_line() -> None:
    """As in QEMU 7.2: the spec's gateway has forwarded it for good, its later versions too."""
    bench = Bench()
    bench.priority(3, 7)
    bench.enable(M, 3)
    bench.plic.set_line(3, True)
    assert bench.level[MEI]
    bench.plic.set_line(3, False)
    assert not bench.level[MEI] and bench.pending() == set() and bench.claim(M) == 0
    # Also one that came while the source was claimed.
    bench.plic.set_line(3, True)
    assert bench.claim(M) == 3
    bench.plic.set_line(3, True)
    bench.plic.set_line(3, False)
    bench.complete(M, 3)
    assert not bench.level[MEI] and bench.claim(M) == 0


def test_the_hart_is_told_at_every_update() -> None:
    """Whoever forgot what it was told, hears it again; so the PLIC remembers none of it."""
    bench = Bench()
    bench.priority(10, 1)
    bench.enable(S, 10)
    bench.plic.set_line(10, True)
    for action in (
        lambda: bench.plic.set_line(10, True),
        lambda: bench.priority(10, 1),
        lambda: bench.threshold(S, 0),
        lambda: bench.enable(S, 10),
        lambda: bench.complete(S, 11),
        lambda: bench.claim(M),
    ):
        bench.level[SEI] = False
        action()
        assert bench.level[SEI]


def test_highest_priority_first_then_lowest_number() -> None:
    bench = Bench()
    for source, priority in ((1, 2), (2, 5), (40, 5), (64, 7), (95, 7), (7, 0)):
        bench.priority(source, priority)
        bench.plic.set_line(source, True)
    bench.enable(M, 1, 2, 7, 40, 64, 95)
    assert [bench.claim(M) for _ in range(6)] == [64, 95, 2, 40, 1, 0]
    assert bench.pending() == {7}  # priority 0 never interrupts


def test_threshold_masks_the_interrupt_and_the_claim() -> None:
    """The claim too, as in QEMU; the spec has it apart from the threshold."""
    bench = Bench()
    bench.priority(4, 3)
    bench.enable(S, 4)
    bench.threshold(S, 3)
    bench.plic.set_line(4, True)
    assert bench.changes == [] and bench.claim(S) == 0
    bench.threshold(S, 2)
    assert bench.level[SEI]
    bench.threshold(S, 7)
    assert not bench.level[SEI] and bench.claim(S) == 0 and bench.pending() == {4}
    bench.threshold(S, 0)
    assert bench.claim(S) == 4


def test_contexts_are_apart() -> None:
    bench = Bench()
    for source in (1, 2):
        bench.priority(source, 1)
        bench.plic.set_line(source, True)
    bench.enable(M, 1)
    bench.enable(S, 2)
    assert bench.level == {MEI: True, SEI: True}
    assert (bench.claim(S), bench.level) == (2, {MEI: True, SEI: False})
    assert bench.claim(M) == 1
    # A source that both may claim goes to the first that does.
    bench = Bench()
    bench.priority(6, 1)
    bench.enable(M, 6)
    bench.enable(S, 6)
    bench.plic.set_line(6, True)
    assert bench.level == {MEI: True, SEI: True}
    assert (bench.claim(S), bench.claim(M)) == (6, 0)
    assert bench.level == {MEI: False, SEI: False}


def test_completion_needs_no_enable() -> None:
    """As in QEMU; the spec ignores one from a context where the source is not enabled."""
    bench = Bench()
    bench.priority(9, 1)
    bench.enable(S, 9)
    for context, enabled in ((S, ()), (M, (9,))):
        bench.plic.set_line(9, True)
        assert bench.claim(S) == 9
        bench.plic.set_line(9, True)
        for nothing in (0, 8, 96, 1023, 0xFFFF_FFFF):
            bench.complete(S, nothing)
        assert not bench.level[SEI]
        bench.enable(S, *enabled)
        bench.complete(context, 9)
        bench.enable(S, 9)
        assert bench.claim(S) == 9
        bench.complete(S, 9)


def test_disabling_lowers_the_interrupt() -> None:
    bench = Bench()
    bench.priority(9, 1)
    bench.enable(S, 9)
    bench.plic.set_line(9, True)
    bench.enable(S)
    assert not bench.level[SEI] and bench.claim(S) == 0 and bench.pending() == {9}
    bench.enable(S, 9)
    bench.priority(9, 0)
    assert not bench.level[SEI]
    bench.priority(9, 2)
    assert bench.level[SEI]


def test_registers_that_are_fixed() -> None:
    bench = Bench()
    plic = bench.plic
    for offset, written, kept in (
        (0, 7, 0), (4, 0xFFFF_FFFF, 7), (4 * 95, 0x1D, 5), (4 * 96, 3, 0),
        (0x1000, 0xFF, 0), (0x2000, 0xFFFF_FFFF, 0xFFFF_FFFE), (0x2088, 0x8000_0001, 0x8000_0001),
        (0x200C, 1, 0), (0x207C, 1, 0), (0x2100, 0xFF, 0),
        (0x20_0000, 0xFF, 7), (0x20_1000, 9, 1), (0x20_2000, 1, 0), (0x20_0008, 1, 0),
    ):  # fmt: skip
        plic.write(offset, 4, written)
        assert plic.read(offset, 4) == kept, hex(offset)
    assert plic.read(4, 1) == 0 and plic.read(5, 4) == 0
    plic.write(4, 1, 1)
    assert plic.read(4, 4) == 7
    for source in (0, 96, -1):
        with pytest.raises(ValueError, match="no source"):
            plic.set_line(source, True)


def test_against_a_model() -> None:
    """Random operations, beside a model with two bits a source."""
    rng = random.Random(4)
    bench = Bench()
    sources = (1, 2, 31, 32, 63, 64, 95)
    pending = dict.fromkeys(range(96), False)
    claimed = dict.fromkeys(range(96), False)
    priority = dict.fromkeys(range(96), 0)
    enabled: dict[int, set[int]] = {M: set(), S: set()}
    threshold = {M: 0, S: 0}

    def waiting(context: int) -> list[int]:
        return [
            s for s in enabled[context]
            if pending[s] and not claimed[s] and priority[s] > threshold[context]
        ]  # fmt: skip

    for _ in range(20_000):
        what = rng.randrange(6)
        source, context = rng.choice(sources), rng.choice((M, S))
        if what == 0:
            level = rng.random() < 0.7
            bench.plic.set_line(source, level)
            pending[source] = level
        elif what == 1:
            priority[source] = rng.randrange(8)
            bench.priority(source, priority[source])
        elif what == 2:
            enabled[context] ^= {source}
            bench.enable(context, *enabled[context])
        elif what == 3:
            threshold[context] = rng.randrange(8)
            bench.threshold(context, threshold[context])
        elif what == 4:
            best = min(waiting(context), key=lambda s: (-priority[s], s), default=0)
            assert bench.claim(context) == best
            if best:
                pending[best], claimed[best] = False, True
        else:
            bench.complete(context, source)
            claimed[source] = False
        assert bench.pending() == {s for s in sources if pending[s]}
        for context, number in ((M, MEI), (S, SEI)):
            assert bench.level[number] == bool(waiting(context))


def test_state_round_trip_in_the_middle() -> None:
    bench = Bench()
    for source in (2, 50, 95):
        bench.priority(source, source % 7 + 1)
        bench.plic.set_line(source, True)
    bench.enable(M, 2)
    bench.enable(S, 50, 95)
    bench.threshold(S, 1)
    first = bench.claim(S)
    assert first == 95
    copy = Bench()
    copy.plic.restore(bench.plic.state())
    # The hart does not keep its wires: who drives them restores them.
    assert copy.level == bench.level and copy.plic.state() == bench.plic.state()
    for each in (bench, copy):
        each.changes.clear()
        each.plic.set_line(first, True)
        each.complete(S, first)
        assert [each.claim(S) for _ in range(3)] == [95, 50, 0]
        assert each.claim(M) == 2
    assert bench.changes == copy.changes and copy.plic.state() == bench.plic.state()
    for wrong in (
        {"pending": 1 << 96}, {"priority": [0] * 95}, {"priority": [8] * 96},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="saved"):
            copy.plic.restore(copy.plic.state() | wrong)
    with pytest.raises(KeyError):
        copy.plic.restore({})
