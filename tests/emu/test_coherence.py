"""No stale code, whoever wrote it; and nothing that runs twice: thousands of rounds each.

The guests below change the immediate of one `addi a0, zero, imm` and call it again, through
every way that a byte of code can change. s1 counts the rounds, s2 the calls that ran what
stood there before.
"""

from __future__ import annotations

import itertools
import random
import threading
import time

import pytest
from asm import Batch
from harness import CODE, RAM, A, Bench, D, R, V, W, X

from emu.engine.calls import EngineError
from emu.engine.layout import move_hook
from emu.engine.layout_proof import proven_layout
from emu.hart import Hart
from emu.spec import words
from emu.stop import StopReason

ROUNDS = 3000
FUNCTION = RAM + 0x4_0000  # PA of the code that changes
VA_CODE, VA_DATA = 0x10_0000, 0x20_0000
ADDI_A0, RET, ECALL = 0x0000_0513, 0x0000_8067, 0x0000_0073
MTI = 7

batch = Batch()

# a1: where to write the instruction; a2: where to call it; a3: rounds.
REWRITE = batch(
    """
    li s1, 0
    li s2, 0
    1: andi t0, s1, 2047
    slli t1, t0, 20
    li t2, 0x513
    or t1, t1, t2
    sw t1, (a1)
    fence.i
    jalr a2
    beq a0, t0, 2f
    addi s2, s2, 1
    2: addi s1, s1, 1
    bltu s1, a3, 1b
    wfi
    """
)


def put_function(bench: Bench, pa: int = FUNCTION) -> None:
    bench.ram.write32(pa, ADDI_A0)
    bench.ram.write32(pa + 4, RET)


def alias(bench: Bench) -> None:
    """The function's frame twice: to execute at VA_CODE, to write at VA_DATA."""
    tables = bench.translate()
    tables.map(VA_CODE, FUNCTION, V | R | X | A | D)
    tables.map(VA_DATA, FUNCTION, V | R | W | A | D)


def rewrite(bench: Bench, write: int, call: int, priv: int) -> int:
    put_function(bench)
    stop = bench.run(REWRITE, priv=priv, a1=write, a2=call, a3=ROUNDS)
    assert stop.reason is StopReason.WFI
    assert bench.reg("s1") == ROUNDS
    return bench.reg("s2")


def test_a_store_through_another_mapping_is_seen(bench: Bench) -> None:
    alias(bench)
    assert rewrite(bench, VA_DATA, VA_CODE, priv=1) == 0


TO_S = batch(
    """
    csrw mepc, a4
    li t0, 0x1800
    csrc mstatus, t0
    li t0, 0x800
    csrs mstatus, t0
    mret
    """
)


def test_it_is_seen_where_the_run_began_in_another_mode(bench: Bench) -> None:
    """The page is looked up as the hart is, not as it was at the last stop."""
    alias(bench)
    put_function(bench)
    bench.load(REWRITE, CODE + 0x3000)
    stop = bench.run(TO_S, a1=VA_DATA, a2=VA_CODE, a3=ROUNDS, a4=CODE + 0x3000)
    assert stop.reason is StopReason.WFI
    assert (bench.reg("s1"), bench.reg("s2")) == (ROUNDS, 0)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that are made from now on do not keep code coherent."""
    monkeypatch.setattr(Hart, "keep_code_coherent", lambda hart: None)


@pytest.mark.parametrize("access", ["inside", "public"])
def test_without_coherence_it_is_not(without: None, access: str) -> None:
    """The hazard is real: this is what the test above would miss if it could not fail."""
    bench = Bench(access)
    alias(bench)
    assert rewrite(bench, VA_DATA, VA_CODE, priv=1) > ROUNDS * 0.9


def test_a_store_through_the_same_mapping_is_seen(bench: Bench) -> None:
    bench.translate().map(VA_CODE, FUNCTION)
    assert rewrite(bench, VA_CODE, VA_CODE, priv=1) == 0


def test_a_store_without_translation_is_seen(bench: Bench) -> None:
    assert rewrite(bench, FUNCTION, FUNCTION, priv=3) == 0


# As REWRITE; before each store a load of every page from a4 up to a5, so that the engine's TLB
# (256 entries, and more when it is well used) has lost what it knew of the code's page.
REWRITE_AND_SWEEP = batch(
    """
    li s1, 0
    li s2, 0
    11: andi t0, s1, 2047
    slli t1, t0, 20
    li t2, 0x513
    or t1, t1, t2
    mv t3, a4
    12: ld zero, (t3)
    add t3, t3, a6
    bltu t3, a5, 12b
    sw t1, (a1)
    fence.i
    jalr a2
    beq a0, t0, 13f
    addi s2, s2, 1
    13: addi s1, s1, 1
    bltu s1, a3, 11b
    wfi
    """
)


def rewrite_and_sweep(bench: Bench, priv: int) -> int:
    put_function(bench)
    stop = bench.run(
        REWRITE_AND_SWEEP, priv=priv, a1=FUNCTION, a2=FUNCTION, a3=ROUNDS // 10,
        a4=RAM + 0x10_0000, a5=bench.ram.end, a6=4096,
    )  # fmt: skip
    assert stop.reason is StopReason.WFI
    assert bench.reg("s1") == ROUNDS // 10
    return bench.reg("s2")


@pytest.mark.parametrize("priv", [1, 3])
def test_a_store_without_translation_is_seen_behind_other_pages(bench: Bench, priv: int) -> None:
    assert rewrite_and_sweep(bench, priv) == 0


# M-mode makes a1 the code of S-mode, which is entered at a2 with translation on, a3 times. In
# between nothing is written that would flush the TLB, such as mstatus.MPP.
REWRITE_FOR_S = batch(
    """
    .balign 4
    for_s_main:
    li s1, 0
    li s2, 0
    li t3, 0x1800
    csrc mstatus, t3
    li t3, 0x800
    csrs mstatus, t3
    14: andi t0, s1, 2047
    slli t1, t0, 20
    li t2, 0x513
    or t1, t1, t2
    sw t1, (a1)
    fence.i
    csrw mepc, a2
    mret
    .balign 4
    for_s_vector:
    beq a0, t0, 15f
    addi s2, s2, 1
    15: addi s1, s1, 1
    bltu s1, a3, 14b
    wfi
    """
)


def rewrite_for_s(bench: Bench) -> int:
    bench.ram.write32(FUNCTION, ADDI_A0)
    bench.ram.write32(FUNCTION + 4, ECALL)
    bench.translate().map(VA_CODE, FUNCTION, V | R | X | A | D)
    bench.w[words.MTVEC] = CODE + REWRITE_FOR_S.offset("for_s_vector")
    main = CODE + REWRITE_FOR_S.offset("for_s_main")
    bench.load(REWRITE_FOR_S)
    stop = bench.run(pc=main, a1=FUNCTION, a2=VA_CODE, a3=ROUNDS)
    assert stop.reason is StopReason.WFI
    assert bench.reg("s1") == ROUNDS
    return bench.reg("s2")


def test_m_mode_writes_the_code_of_s_mode(bench: Bench) -> None:
    """The page is executed through a translation only, and written without one."""
    assert rewrite_for_s(bench) == 0


def test_fast_bare_stores_need_coherence(without: None) -> None:
    """What the test above would find if the two did not go together."""
    inside = Bench("inside")
    inside.hart.access.speed_bare_stores()
    assert rewrite_for_s(inside) > ROUNDS * 0.9


# M-mode writes code at a1 and calls it at a2 while MPRV would translate its loads and stores.
NEW_CODE_UNDER_MPRV = batch(
    """
    li t0, 0x513
    sw t0, (a1)
    li t0, 0x8067
    sw t0, 4(a1)
    li t3, 0x20800
    csrs mstatus, t3
    jalr a2
    csrc mstatus, t3
    li t0, 0x00700513
    sw t0, (a1)
    jalr a2
    wfi
    """
)


def test_code_is_found_by_its_own_address_under_mprv(bench: Bench) -> None:
    """Loads of M-mode are translated then, its fetches are not."""
    tables = bench.translate()
    tables.map(FUNCTION, RAM + 0x80_0000)
    bench.run(NEW_CODE_UNDER_MPRV, a1=FUNCTION, a2=FUNCTION)
    assert bench.reg("a0") == 7
    assert bench.hart.coherence is not None and bench.hart.coherence.holds_code(FUNCTION, 4)
    assert not bench.hart.coherence.holds_code(RAM + 0x80_0000, 4)


# Frame after frame becomes the page at a2: written through a1 + i * 4096 (not executable),
# then mapped by the PTE at a4, whose frames begin at PFN a5 << 10 (PTE form).
REUSE = batch(
    """
    li s1, 0
    li s2, 0
    li s4, 0
    3: slli t3, s4, 12
    add t3, t3, a1
    andi t0, s1, 2047
    slli t1, t0, 20
    li t2, 0x513
    or t1, t1, t2
    sw t1, (t3)
    slli t4, s4, 10
    add t4, t4, a5
    sd t4, (a4)
    sfence.vma
    fence.i
    jalr a2
    beq a0, t0, 4f
    addi s2, s2, 1
    4: addi s4, s4, 1
    andi s4, s4, 7
    addi s1, s1, 1
    bltu s1, a3, 3b
    wfi
    """
)


def test_frames_that_are_used_again_for_other_code(bench: Bench) -> None:
    tables = bench.translate()
    for i in range(8):
        put_function(bench, FUNCTION + 4096 * i)
        tables.map(VA_DATA + 4096 * i, FUNCTION + 4096 * i, V | R | W | A | D)
    leaf = V | R | X | A | D
    slot = tables.map(VA_CODE, FUNCTION, leaf)
    tables.map(0x30_0000, slot & -4096, V | R | W | A | D)
    stop = bench.run(
        REUSE, priv=1, a1=VA_DATA, a2=VA_CODE, a3=ROUNDS,
        a4=0x30_0000 | slot & 4095, a5=FUNCTION >> 12 << 10 | leaf,
    )  # fmt: skip
    assert stop.reason is StopReason.WFI
    assert (bench.reg("s1"), bench.reg("s2")) == (ROUNDS, 0)


# The device writes the code: a store of the immediate to a1 (a register) asks it to.
DMA = batch(
    """
    li s1, 0
    li s2, 0
    5: andi t0, s1, 255
    sb t0, (a1)
    fence.i
    jalr a2
    beq a0, t0, 6f
    addi s2, s2, 1
    6: addi s1, s1, 1
    bltu s1, a3, 5b
    wfi
    """
)


def test_a_device_writes_code(inside: Bench) -> None:
    """As virtio does when Linux reads a program's page from a disk."""
    hart, ram = inside.hart, inside.ram

    def write(data: bytes) -> None:
        ram.write32(FUNCTION, ADDI_A0 | data[0] << 20)
        hart.code_changed(FUNCTION, 4)

    inside.machine.uart._output = write
    put_function(inside)
    inside.run(DMA, a1=0x1000_0000, a2=FUNCTION, a3=ROUNDS)
    assert (inside.reg("s1"), inside.reg("s2")) == (ROUNDS, 0)


def test_only_what_the_device_wrote_is_dropped(inside: Bench) -> None:
    """Unicorn's address of a page of RAM is its offset: another page's code stays."""
    hart, ram = inside.hart, inside.ram
    put_function(inside)
    inside.run(REWRITE, a1=FUNCTION + 64, a2=FUNCTION, a3=1)
    ram.write32(FUNCTION, ADDI_A0 | 5 << 20)
    hart.access.drop_code(FUNCTION + 4096 - RAM, 4096)
    assert inside.run(pc=CODE, a1=FUNCTION + 64, a2=FUNCTION, a3=1).reason is StopReason.WFI
    assert inside.reg("a0") == 0, "code nearby was dropped too"
    hart.access.drop_code(FUNCTION - RAM, 4)
    inside.run(pc=CODE, a1=FUNCTION + 64, a2=FUNCTION, a3=1)
    assert inside.reg("a0") == 5


ONE = batch("li a0, 5; wfi")


def test_the_block_that_a_run_begins_with(bench: Bench) -> None:
    """The engine tells of new blocks, but not of that one."""
    for value in (5, 7, 9):
        bench.ram.write(CODE, ONE.code)
        bench.ram.write16(CODE, 0x4501 | value << 2)  # c.li a0, value
        bench.hart.code_changed(CODE, 2)
        bench.start()
        assert bench.machine.run().reason is StopReason.WFI
        assert bench.reg("a0") == value


def test_a_page_without_code_keeps_its_fast_stores(inside: Bench) -> None:
    """Of a small guest each page of code is watched, and no other."""
    coherence = inside.hart.coherence
    assert coherence is not None
    places = (RAM + 0x8_0000, RAM + 0x8_2000, RAM + 0xA0_0000)
    for pa in places:
        put_function(inside, pa)
        inside.run(REWRITE, a1=pa + 64, a2=pa, a3=1)
        assert coherence.holds_code(pa, 4) and coherence.holds_code(pa + 4095, 1)
        assert not coherence.holds_code(pa + 4096, 4096)
        assert not coherence.holds_code(pa - 4096, 4096)


def test_code_in_many_places_is_watched_by_few_hooks(inside: Bench) -> None:
    """And all of it is, whatever was merged: a store through another mapping is seen."""
    coherence = inside.hart.coherence
    assert coherence is not None
    rng = random.Random(5)
    places = [RAM + 0x10_0000 + 4096 * page for page in rng.sample(range(0x400), 100)]
    for pa in places:
        put_function(inside, pa)
        inside.run(REWRITE, a1=pa + 64, a2=pa, a3=1)
    assert len(coherence._extents) <= 16
    assert all(coherence.holds_code(pa, 4096) for pa in places)
    extents = sorted((e.first, e.end) for e in coherence._extents)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(extents)), "they do not overlap"
    assert not coherence.holds_code(RAM + 0xF0_0000, 4096)


def test_a_hook_that_is_not_ours_is_not_touched(inside: Bench) -> None:
    coherence = inside.hart.coherence
    assert coherence is not None
    inside.run(REWRITE, a1=FUNCTION + 64, a2=FUNCTION, a3=0)
    handle = coherence._extents[0].handle
    with pytest.raises(EngineError):
        move_hook(handle, proven_layout(), inside.hart.callbacks[0], (0, 1), (0, 2))


# Reads of a register with a side effect, AMOs, and an interrupt that may come anywhere.
ONCE = batch(
    """
    .balign 4
    once_vector:
    sb zero, (a1)
    mret
    .balign 4
    once_main:
    csrsi mstatus, 8
    7: lb t0, 5(a1)
    amoadd.d zero, s3, (a2)
    lr.d t1, (a4)
    addi t1, t1, 1
    sc.d t2, t1, (a4)
    beqz t2, 9f
    addi s5, s5, 1
    9: addi s1, s1, 1
    bltu s1, a3, 7b
    csrw mie, zero
    wfi
    """
)


@pytest.mark.parametrize("seed", range(2))
def test_no_amo_and_no_register_is_accessed_twice(inside: Bench, seed: int) -> None:
    """Interrupts from a thread, thousands, at random moments: natively delivered."""
    hart, uart = inside.hart, inside.machine.uart
    rounds, chance = 20_000, random.Random(seed)
    reads = 0
    plain_read = uart.read

    def read(offset: int, size: int) -> int:
        nonlocal reads
        reads += offset == 5
        return plain_read(offset, size)

    inside.load(ONCE)
    inside.machine.devices.remove(uart)
    counting = type("Counting", (), {"name": "c", "base": 0x1000_1000, "size": 0x100})()
    counting.read = read
    counting.write = lambda offset, size, value: hart.set_pending(MTI, False)
    inside.machine.attach(counting)
    inside.w[words.MTVEC] = CODE + ONCE.offset("once_vector")
    amo, reserved = CODE + 0x4000, CODE + 0x4008
    raised, over = 0, threading.Event()

    def ticker() -> None:
        nonlocal raised
        while not over.is_set():
            if not hart.pending:
                raised += 1
                hart.set_pending(MTI, True)
            time.sleep(chance.random() * 2e-5)

    thread = threading.Thread(target=ticker)
    thread.start()
    main, runs = CODE + ONCE.offset("once_main"), 0
    while raised <= 100:
        runs += 1
        inside.w[words.MIE] = 1 << MTI
        inside.start(pc=main, a1=0x1000_1000, a2=amo, a3=rounds * runs, a4=reserved, s3=1)
        inside.machine.run()
    over.set()
    thread.join()
    rounds *= runs
    assert inside.reg("s1") == rounds
    assert reads == rounds
    assert inside.ram.read64(amo) == rounds
    # A reservation lost to an interrupt fails the sc: it must not store, and must not be lost.
    assert inside.ram.read64(reserved) + inside.reg("s5") == rounds
