"""The PLIC by its registers; the offsets are the PLIC specification's."""

from __future__ import annotations

import random

import pytest

from emu.devices.plic import Plic

M, S = 0, 1  # contexts
MEI, SEI = 11, 9


class Bench:
    def __init__(self) -> None:
        self.level = {MEI: False, SEI: False}
        self.changes: list[tuple[int, bool]] = []
        self.plic = Plic(0xC00_0000, self.told)

    def told(self, number: int, level: bool) -> None:
        assert self.level[number] != level  # only changes are told
        self.level[number] = level
        self.changes.append((number, level))

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
    bench.plic.set_line(10, False)
    bench.plic.set_line(10, True)  # the gateway is closed until completion
    assert bench.pending() == set() and bench.claim(S) == 0
    bench.complete(S, 10)
    assert bench.pending() == {10} and bench.level[SEI]
    assert bench.claim(S) == 10
    bench.plic.set_line(10, False)
    bench.complete(S, 10)
    assert bench.pending() == set() and not bench.level[SEI]


def test_a_request_stays_when_its_line_falls() -> None:
    """Spec, section 'Interrupt Gateways': it has been forwarded already."""
    bench = Bench()
    bench.priority(3, 7)
    bench.enable(M, 3)
    bench.plic.set_line(3, True)
    bench.plic.set_line(3, False)
    assert bench.level[MEI] and bench.claim(M) == 3
    bench.complete(M, 3)
    assert bench.claim(M) == 0


def test_highest_priority_first_then_lowest_number() -> None:
    bench = Bench()
    for source, priority in ((1, 2), (2, 5), (40, 5), (64, 7), (95, 7), (7, 0)):
        bench.priority(source, priority)
        bench.plic.set_line(source, True)
    bench.enable(M, 1, 2, 7, 40, 64, 95)
    assert [bench.claim(M) for _ in range(6)] == [64, 95, 2, 40, 1, 0]
    assert bench.pending() == {7}  # priority 0 never interrupts


def test_threshold_masks_the_interrupt_not_the_claim() -> None:
    bench = Bench()
    bench.priority(4, 3)
    bench.enable(S, 4)
    bench.threshold(S, 3)
    bench.plic.set_line(4, True)
    assert bench.changes == []
    bench.threshold(S, 2)
    assert bench.level[SEI]
    bench.threshold(S, 7)
    assert not bench.level[SEI]
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


def test_completion_of_what_is_not_enabled_is_ignored() -> None:
    bench = Bench()
    bench.priority(9, 1)
    bench.enable(S, 9)
    bench.plic.set_line(9, True)
    assert bench.claim(S) == 9
    bench.complete(M, 9)  # another context, where it is not enabled
    for nothing in (0, 8, 96, 1023, 0xFFFF_FFFF):
        bench.complete(S, nothing)
    bench.enable(S)
    bench.complete(S, 9)
    bench.enable(S, 9)
    assert bench.claim(S) == 0
    bench.complete(S, 9)
    assert bench.claim(S) == 9


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


def test_against_a_model_of_the_text() -> None:
    """Random operations, beside a model with one small record a source."""
    rng = random.Random(4)
    bench = Bench()
    sources = (1, 2, 31, 32, 63, 64, 95)
    line = dict.fromkeys(range(96), False)
    place = dict.fromkeys(range(96), "idle")
    priority = dict.fromkeys(range(96), 0)
    enabled: dict[int, set[int]] = {M: set(), S: set()}
    threshold = {M: 0, S: 0}
    for _ in range(20_000):
        what = rng.randrange(6)
        source, context = rng.choice(sources), rng.choice((M, S))
        if what == 0:
            line[source] = not line[source]
            bench.plic.set_line(source, line[source])
            if line[source] and place[source] == "idle":
                place[source] = "pending"
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
            ready = [s for s in enabled[context] if place[s] == "pending" and priority[s]]
            best = min(ready, key=lambda s: (-priority[s], s), default=0)
            assert bench.claim(context) == best
            if best:
                place[best] = "claimed"
        else:
            bench.complete(context, source)
            if place[source] == "claimed" and source in enabled[context]:
                place[source] = "pending" if line[source] else "idle"
        assert bench.pending() == {s for s in sources if place[s] == "pending"}
        for context, number in ((M, MEI), (S, SEI)):
            assert bench.level[number] == any(
                place[s] == "pending" and priority[s] > threshold[context] for s in enabled[context]
            )


def test_state_round_trip_in_the_middle() -> None:
    bench = Bench()
    for source in (2, 50, 95):
        bench.priority(source, source % 7 + 1)
        bench.plic.set_line(source, True)
    bench.enable(M, 2)
    bench.enable(S, 50, 95)
    bench.threshold(S, 1)
    first = bench.claim(S)
    copy = Bench()
    copy.plic.restore(bench.plic.state())
    assert copy.changes == [] and copy.plic.state() == bench.plic.state()
    copy.level.update(bench.level)  # what a snapshot of the hart holds
    for each in (bench, copy):
        each.changes.clear()
        each.complete(S, first)
        each.plic.set_line(2, False)
        assert [each.claim(S) for _ in range(3)] == [95, 50, 0]
        assert each.claim(M) == 2
    assert bench.changes == copy.changes and copy.plic.state() == bench.plic.state()
    for wrong in (
        {"pending": 1 << 96}, {"priority": [0] * 95}, {"priority": [8] * 96}, {"shown": [2, 0]}
    ):  # fmt: skip
        with pytest.raises(ValueError, match="saved"):
            copy.plic.restore(copy.plic.state() | wrong)
    with pytest.raises(KeyError):
        copy.plic.restore({})
