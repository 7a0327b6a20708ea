"""The board: devices reached by guest code, ROM, HTIF."""

from __future__ import annotations

import pytest
from asm import Batch
from harness import CODE, DATA, RAM, Bench

from emu.board.machine import Machine
from emu.spec import words
from emu.stop import StopReason

batch = Batch()
STORE = batch("sw a1, (a0); 1: addi s1, s1, 1; j 1b")


@pytest.mark.parametrize(
    ("value", "reason", "code"),
    [
        (0x5555, StopReason.EXIT, 0),
        (0x2A_3333, StopReason.EXIT, 42),
        (0x7777, StopReason.RESET, 0),
    ],
)
def test_finisher(bench: Bench, value: int, reason: StopReason, code: int) -> None:
    stop = bench.run(STORE, a0=0x10_0000, a1=value)
    assert (stop.reason, stop.code) == (reason, code)


ECHO = batch(
    """
    1: lbu t0, 5(a0)
    andi t1, t0, 1
    beqz t1, 2f
    lbu t2, 0(a0)
    sb t2, 0(a0)
    j 1b
    2: wfi
    """
)


def test_uart_echo(bench: Bench) -> None:
    text = b"what is typed comes back\n" * 5
    bench.machine.uart.receive(text)
    assert bench.run(ECHO, a0=0x1000_0000).reason is StopReason.WFI
    assert bytes(bench.output) == text


DWORD = batch("sd a1, 8(a0); ld a2, 16(a0); lw a3, 4(a0); lhu a4, 2(a0); lbu a5, 1(a0); wfi")


def test_a_device_sees_each_access_once(bench: Bench) -> None:
    class Probe:
        name, base, size = "probe", 0x2000_0000, 0x20
        log: list[tuple[object, ...]]

        def read(self, offset: int, size: int) -> int:
            self.log.append(("r", offset, size))
            return offset

        def write(self, offset: int, size: int, value: int) -> None:
            self.log.append(("w", offset, size, value))

    probe = Probe()
    probe.log = []
    bench.machine.attach(probe)
    bench.run(DWORD, a0=0x2000_0000, a1=0x1122_3344_5566_7788)
    assert probe.log == [
        ("w", 8, 4, 0x5566_7788), ("w", 12, 4, 0x1122_3344), ("r", 16, 4), ("r", 20, 4),
        ("r", 4, 4), ("r", 2, 2), ("r", 1, 1),
    ]  # fmt: skip
    assert bench.reg("a2") == 20 << 32 | 16
    assert [bench.reg(name) for name in ("a3", "a4", "a5")] == [4, 2, 1]
    # Behind its registers, up to the end of the page: zero, and ignored.
    probe.log.clear()
    bench.run(DWORD, a0=0x2000_0020)
    assert probe.log == [] and bench.reg("a2") == 0


TOHOST = RAM + 0x6000
FROMHOST = RAM + 0x6040
HTIF = batch(
    """
    # putchar of the two low bytes of a1, a system call in a2, then exit with a3
    li t0, 0x0101000000000000
    andi t1, a1, 255
    or t1, t1, t0
    sd t1, (a0)
    1: ld t2, (a0)
    bnez t2, 1b
    srli a1, a1, 8
    or t1, a1, t0
    sd t1, (a0)
    2: ld t2, (a0)
    bnez t2, 2b
    sd a2, (a0)
    3: ld t2, 0x40(a0)
    beqz t2, 3b
    slli a3, a3, 1
    addi a3, a3, 1
    sd a3, (a0)
    4: addi s1, s1, 1
    j 4b
    """
)


def test_htif(bench: Bench) -> None:
    bench.machine.set_htif(TOHOST, FROMHOST)
    bench.ram.write(DATA, b"hello")
    for i, word in enumerate((64, 1, DATA, 5)):
        bench.ram.write64(DATA + 0x100 + 8 * i, word)
    stop = bench.run(HTIF, a0=TOHOST, a1=0x6B6F, a2=DATA + 0x100, a3=77)
    assert (stop.reason, stop.code) == (StopReason.EXIT, 77)
    assert bytes(bench.output) == b"okhello"
    assert bench.ram.read64(DATA + 0x100) == 5
    stop = bench.run(HTIF, a0=TOHOST, a1=0x6B6F, a2=DATA + 0x100, a3=0)
    assert (stop.reason, stop.code) == (StopReason.EXIT, 0)


@pytest.mark.parametrize("pa", [RAM - 8, RAM + 4, RAM + (16 << 20), 0x1000])
def test_tohost_must_be_an_aligned_word_of_ram(bench: Bench, pa: int) -> None:
    with pytest.raises(ValueError, match="tohost"):
        bench.machine.set_htif(pa)


ROM = batch(
    """
    csrr a0, mhartid
    la t1, rom_words
    ld a1, 8(t1)
    ld t0, (t1)
    jr t0
    .balign 8
    rom_words: .dword 0, 0
    """
)
AT_ENTRY = batch("li s1, 3; wfi")


def test_rom_runs_and_passes_the_device_tree(bench: Bench) -> None:
    bench.machine.set_rom(ROM.code, RAM, 0x8020_0000)
    assert bench.hart.pc == 0x1000
    bench.load(AT_ENTRY)
    bench.w[words.A0] = 5
    stop = bench.machine.run()
    assert stop.reason is StopReason.WFI
    assert (bench.reg("s1"), bench.reg("a0"), bench.reg("a1")) == (3, 0, 0x8020_0000)
    assert bench.hart.pc == CODE + 6


def test_impossible_machines_and_roms() -> None:
    for size in (0, 4097, -4096, 1 << 60):
        with pytest.raises(ValueError):
            Machine(size)
    machine = Machine(4096)
    for code in (b"", bytes(15), bytes(0xF001)):
        with pytest.raises(ValueError, match="reset code"):
            machine.set_rom(code, RAM)
    machine.close()


@pytest.mark.parametrize("access", ["inside", "public"])
def test_a_machine_of_256_gib(access: str) -> None:
    machine = Machine(256 << 30, access=access)
    machine.ram.write(RAM, FAR.code)
    machine.hart.words[words.A0] = RAM + (256 << 30) - 8
    assert machine.run().reason is StopReason.WFI
    assert machine.ram.read64(RAM + (256 << 30) - 8) == RAM + (256 << 30) - 8
    machine.close()


FAR = batch("sd a0, (a0); wfi")
EVERYTHING = batch("lr.d t0, (a0); sc.d t1, a1, (a0); ld t2, (a0); sc.d t3, a1, (a0); wfi")


def test_lr_and_sc(bench: Bench) -> None:
    bench.ram.write64(DATA, 5)
    bench.run(EVERYTHING, a0=DATA, a1=9)
    assert [bench.reg(f"t{i}") for i in range(3)] == [5, 0, 9]
    assert bench.reg("t3") != 0  # there is no reservation any more


LR_TRAP = batch("lr.d t0, (a0); ecall; sc.d t1, a1, (a0); wfi")


def test_a_trap_to_the_guest_gives_up_the_reservation(bench: Bench) -> None:
    bench.load(BACK, CODE + 0x1000)
    bench.ram.write64(DATA, 5)
    bench.run(LR_TRAP, priv=1, a0=DATA, a1=9)
    assert bench.reg("t1") != 0
    assert bench.ram.read64(DATA) == 5


BACK = batch("csrr t6, mepc; addi t6, t6, 4; csrw mepc, t6; mret")
TOP = batch("jr a0")


def test_an_ecall_in_the_last_bytes_of_the_address_space(bench: Bench) -> None:
    tables = bench.translate()
    tables.map((1 << 64) - 4096, DATA)
    bench.ram.write32(DATA + 4092, 0x73)
    assert bench.trapped(TOP, priv=1, a0=-4) == (9, (1 << 64) - 4, 0)
    traps = bench.hold_m()
    bench.run(TOP, priv=1, a0=-4)
    assert (traps[0].epc, bench.hart.pc) == ((1 << 64) - 4,) * 2
