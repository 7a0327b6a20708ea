"""The gdb stub: packets, registers, memory, breakpoints, watchpoints, steps, the server."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator

import pytest
from asm import Batch
from harness import CODE, DATA, HOLE, RAM, VECTOR, A, Bench, D, R, U, V, X
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from progress import wait_until

from emu.debug.breakpoints import Breakpoints
from emu.debug.gdb.packets import Packet, PacketReader, Sign, escape, frame, unescape
from emu.debug.gdb.server import GdbServer
from emu.debug.gdb.stub import Action, GdbStub, Verb
from emu.debug.symbols import Symbols
from emu.spec import csr as CSR
from emu.spec import insn, words
from emu.spec.trap import Trap
from emu.stop import Stop, StopReason

UART = 0x1000_0000

code = Batch()
# 100 rounds; `loop_add` is the second instruction of the round.
LOOP = code(
    """
    li a1, 100
loop_top:
    addi a0, a0, 1
loop_add:
    addi a2, a2, 2
    addi a1, a1, -1
    bnez a1, loop_top
    wfi
    """
)
SPIN = code("spin: j spin")
ONE_INSTRUCTION_LOOP = code(
    """
    li a1, 10
self:
    .option push
    .option norvc
    addi a1, a1, -1
    .option pop
    bnez a1, self
    wfi
    """
)
# Loads and stores of several sizes, all in one block.
ACCESSES = code(
    """
    addi a5, a5, 1
acc_store:
    sd a0, 0(s0)
    addi a5, a5, 1
acc_byte:
    sb a0, 3(s0)
    addi a5, a5, 1
acc_load:
    ld a1, 0(s0)
    addi a5, a5, 1
acc_near:
    sd a0, 8(s0)
    addi a5, a5, 1
acc_across:
    sd a0, -4(s0)
    addi a5, a5, 1
acc_end:
    wfi
    """
)
ATOMICS = code(
    """
    li a1, 5
amo_first:
    amoadd.d a2, a1, (s0)
    addi a5, a5, 1
amo_second:
    amoadd.w a3, a1, (s0)
    addi a5, a5, 1
amo_lr:
    lr.d a4, (s0)
    addi a4, a4, 1
amo_sc:
    sc.d a6, a4, (s0)
    addi a5, a5, 1
amo_end:
    wfi
    """
)
# What follows a watched store in its block must not happen before the stop.
EFFECTS = code(
    """
    csrw mscratch, s3
    j 1f
1:  sd a0, 0(s0)
effects_after:
    sb a0, 0(s2)
    csrrw s1, mscratch, s1
    wfi
    """
)
STORE_THEN_ECALL = code(
    """
    sd a0, 0(s0)
then_ecall:
    ecall
    wfi
    """
)
ECALLS = code(
    """
    ecall
after_ecall:
    ebreak
    ld a0, 0(s0)
    wfi
    """
)
AMO_SPIN = code("amo_spin: amoadd.d a2, a1, (s0); addi a0, a0, 1; j amo_spin")
CALL_S1 = code("jr s1")
FIVE = code("li a0, 5; wfi")
SEVEN = code("li a0, 7; wfi")
FINISH = code("li t0, 0x100000; li t1, 0x5555; sw t1, 0(t0); finished: j finished")
WAITS = code("wfi; li a0, 5; wfi; waits_end: nop")
STORE_UART = code("sb a0, 0(s0); addi a1, a1, 1; wfi")
COUNT_STORES = code(
    """
    li a1, 200
cs_top:
    sd a1, 0(s0)
    addi a2, a2, 1
    addi a1, a1, -1
    bnez a1, cs_top
    wfi
    """
)


def _random_program(seed: int) -> str:
    """Straight code of loads, stores, AMOs and arithmetic on 64 bytes at s0, with branches."""
    random_ = random.Random(seed)
    registers = ("a0", "a1", "a2", "a3", "a4", "a5")
    lines = []
    for n in range(250):
        a, b, c = random_.choices(registers, k=3)
        kind = random_.randrange(8)
        if kind < 2:
            size, step = random_.choice((("d", 8), ("w", 4), ("h", 2), ("b", 1), ("d", 1)))
            lines.append(f"s{size} {a}, {random_.randrange(0, 57, step)}(s0)")
        elif kind < 4:
            size = random_.choice(("d", "w", "wu", "h", "hu", "b", "bu"))
            lines.append(f"l{size} {a}, {random_.randrange(57)}(s0)")
        elif kind == 4:
            name = random_.choice(("amoadd", "amoxor", "amoswap", "amomaxu"))
            lines.append(f"addi s1, s0, {random_.randrange(0, 57, 8)}")
            lines.append(f"{name}.d {a}, {b}, (s1)")
        elif kind == 5:
            lines.append(f"bltu {a}, {b}, rp_{seed}_{n}; xor {a}, {a}, {c}; rp_{seed}_{n}:")
        else:
            lines.append(f"{random_.choice(('add', 'sub', 'mul', 'xor'))} {a}, {b}, {c}")
    return "\n".join((*lines, "wfi"))


RANDOM_PROGRAMS = [code(_random_program(seed)) for seed in range(6)]


def at(snippet, label: str) -> int:
    return CODE + snippet.offset(label)


# packets


def test_a_frame_has_the_manuals_checksum() -> None:
    assert frame(b"") == b"$#00"
    assert frame(b"OK") == b"$OK#9a"
    assert frame(b"g") == b"$g#67"


def test_packets_come_out_of_pieces() -> None:
    reader = PacketReader()
    stream = b"+" + frame(b"qC") + b"noise\x03" + frame(b"m0,4") + b"-"
    found = [event for byte in stream for event in reader.feed(bytes((byte,)))]
    assert found == [Sign.ACK, Packet(b"qC"), Sign.INTERRUPT, Packet(b"m0,4"), Sign.NAK]


def test_a_wrong_checksum_breaks_only_its_packet() -> None:
    reader = PacketReader()
    assert reader.feed(b"$qC#00$qC#zz" + frame(b"g")) == [
        Sign.BROKEN,
        Sign.BROKEN,
        Packet(b"g"),
    ]


def test_a_lost_end_does_not_swallow_the_next_packet() -> None:
    assert PacketReader().feed(b"$m0,4" + frame(b"g")) == [Packet(b"g")]


def test_a_packet_without_end_takes_no_memory_and_is_refused() -> None:
    reader = PacketReader()
    for _ in range(100):
        assert reader.feed(b"$" + b"x" * 100_000) == []
    assert reader.feed(b"#00" + frame(b"g")) == [Sign.BROKEN, Packet(b"g")]


@given(st.binary())
def test_escaped_data_survives(data: bytes) -> None:
    escaped = escape(data)
    assert not {*b"#$*"} & {*escaped}
    assert unescape(escaped) == data
    assert PacketReader().feed(frame(escaped)) == [Packet(data)]


@given(st.binary())
def test_any_bytes_are_read_and_a_packet_behind_them_too(noise: bytes) -> None:
    reader = PacketReader()
    reader.feed(noise)
    # Noise may have opened a packet, which a `$` ends; or be in a checksum, which it fills.
    reader.feed(b"$#00")
    assert reader.feed(frame(b"g")) == [Packet(b"g")]


# the stub without sockets


class Session:
    """A stub on a bench's machine, packets as text."""

    def __init__(self, bench: Bench, symbols: Symbols | None = None) -> None:
        self.bench = bench
        self.breakpoints = Breakpoints(bench.hart)
        self.stub = GdbStub(bench.machine, self.breakpoints, symbols)
        self.output: list[bytes] = []
        self.ask("qSupported:swbreak+;hwbreak+")

    def ask(self, packet: str | bytes) -> str:
        data = packet.encode() if isinstance(packet, str) else packet
        answer = self.stub.handle(data, self.output.append)
        if isinstance(answer, Action):
            steps = answer.verb is Verb.STEP
            stop = self.breakpoints.step() if steps else self.breakpoints.resume()
            answer = self.stub.stopped(stop, self.output.append)
        return answer.decode("latin-1")

    def monitor(self, line: str) -> str:
        self.output.clear()
        assert self.ask(f"qRcmd,{line.encode().hex()}") == "OK"
        assert all(part[:1] == b"O" for part in self.output)
        return b"".join(bytes.fromhex(part[1:].decode()) for part in self.output).decode()

    def register(self, name: str) -> int:
        number = self.stub._thread.registers.numbers[name]
        return int.from_bytes(bytes.fromhex(self.ask(f"p{number:x}")), "little")

    def set(self, name: str, value: int, size: int = 8) -> str:
        number = self.stub._thread.registers.numbers[name]
        return self.ask(f"P{number:x}={value.to_bytes(size, 'little').hex()}")


@pytest.fixture
def session(bench: Bench) -> Session:
    return Session(bench)


@pytest.fixture
def inside_session(inside: Bench) -> Session:
    return Session(inside)


# registers


def test_the_target_description_numbers_the_registers_in_its_order(session: Session) -> None:
    text, more = "", "m"
    while more == "m":
        piece = session.ask(f"qXfer:features:read:target.xml:{len(text):x},100")
        more = piece[0]
        text += piece[1:]
    assert "}" not in text, "escapes would have to be undone"
    root = ElementTree.fromstring(text)
    assert root.find("architecture").text == "riscv:rv64"
    features = {f.get("name").rpartition(".")[2]: f for f in root.findall("feature")}
    assert list(features) == ["cpu", "fpu", "csr", "virtual"]
    registers = [r for f in features.values() for r in f.findall("reg")]
    assert [int(r.get("regnum")) for r in registers] == list(range(len(registers)))
    names = [r.get("name") for r in registers]
    assert names[:3] == ["zero", "ra", "sp"] and names[32:34] == ["pc", "ft0"]
    assert names[64:68] == ["ft11", "fflags", "frm", "fcsr"]
    assert names[-1] == "priv"
    assert {"satp", "mstatus", "mepc", "scause", "mip"} <= set(names)


def test_the_core_registers_round_trip(session: Session) -> None:
    values = [0] + [0x1111_0000_0000_0000 * (i % 15) + i for i in range(1, 32)] + [CODE + 8]
    packet = b"".join(value.to_bytes(8, "little") for value in values).hex()
    assert session.ask("G" + packet) == "OK"
    assert session.ask("g") == packet
    assert [session.bench.w[i] for i in range(32)] == values[:32]
    assert session.bench.hart.pc == CODE + 8


def test_x0_stays_zero_and_pc_even(session: Session) -> None:
    assert session.set("zero", 5) == "OK"
    assert session.register("zero") == 0
    assert session.set("pc", CODE + 3) == "OK"
    assert session.register("pc") == CODE + 2


def test_floating_point_registers_are_the_harts(session: Session) -> None:
    assert session.set("fa0", 0x4008_0000_0000_0000) == "OK"
    assert session.bench.w[words.FPR + 10] == 0x4008_0000_0000_0000
    assert session.register("fa0") == 0x4008_0000_0000_0000


def test_fcsr_is_four_bytes_of_flags_and_rounding_mode(inside_session: Session) -> None:
    assert inside_session.set("fcsr", 0x61, 4) == "OK"
    assert (inside_session.register("frm"), inside_session.register("fflags")) == (3, 1)


def test_what_the_public_way_cannot_reach_is_unavailable() -> None:
    bench = Bench("public")
    session = Session(bench)
    assert session.set("fcsr", 0x61, 4) == "OK"
    assert session.register("fcsr") == 0x61
    number = session.stub._thread.registers.numbers["fflags"]
    assert session.ask(f"p{number:x}") == "xxxxxxxx"
    assert session.set("fflags", 0, 4) == "E22"
    assert "minstret" not in session.stub._thread.registers.numbers
    bench.machine.close()


def test_csrs_are_read_and_written(session: Session) -> None:
    assert session.set("mepc", CODE + 0x40) == "OK"
    assert session.bench.w[words.MEPC] == CODE + 0x40
    assert session.register("mepc") == CODE + 0x40
    assert session.register("mtvec") == VECTOR


def test_satp_is_validated(session: Session) -> None:
    session.bench.translate()
    satp = session.register("satp")
    assert satp >> 60 == 8
    assert session.set("satp", 7 << 60) == "E22"
    assert session.register("satp") == satp
    assert session.set("satp", 0) == "OK"
    assert session.bench.hart.satp == 0


def test_the_privilege_is_a_register(session: Session) -> None:
    assert session.register("priv") == 3
    assert session.set("priv", 1) == "OK"
    assert session.bench.hart.priv == CSR.Priv.S
    assert session.set("priv", 2) == "E22"
    assert session.ask("qThreadExtraInfo,1") == b"hart 0, S-mode".hex()


def test_read_only_csrs_refuse(inside_session: Session) -> None:
    assert inside_session.set("mhartid", 1) == "E22"


# memory


def test_memory_round_trips_in_hex_and_binary(session: Session) -> None:
    assert session.ask(f"M{DATA:x},3:a1b2c3") == "OK"
    assert session.bench.ram.read(DATA, 3) == b"\xa1\xb2\xc3"
    assert session.ask(b"X%x,4:#$*}" % (DATA + 3)) == "OK"  # the reader has unescaped it
    assert session.ask(f"m{DATA:x},7") == "a1b2c3" + b"#$*}".hex()


def test_reads_end_where_memory_does(session: Session) -> None:
    ram = session.bench.ram
    ram.write(ram.end - 2, b"\x12\x34")
    assert session.ask(f"m{ram.end - 2:x},10") == "1234"
    assert session.ask(f"m{ram.end:x},4") == "E14"
    assert session.ask(f"m{HOLE:x},1") == "E14"
    assert session.ask("mffffffffffffffff,4") == "E14"
    assert session.ask("m10000000000000000,4") == "E14"


def test_writes_are_whole_or_not_at_all(session: Session) -> None:
    ram = session.bench.ram
    before = ram.read(ram.end - 4, 4)
    assert session.ask(f"M{ram.end - 4:x},8:1122334455667788") == "E14"
    assert ram.read(ram.end - 4, 4) == before
    assert session.ask(f"M{DATA:x},4:11") == "E22"


def test_the_rom_can_be_read_but_not_written(session: Session) -> None:
    session.bench.machine.set_rom(bytes(range(1, 33)), RAM)
    assert session.ask("m1000,4") == "01020304"
    assert session.ask("M1000,1:ff") == "E14"
    assert session.ask("m1000,1") == "01"


def test_device_registers_are_left_alone(session: Session) -> None:
    accesses = []
    session.bench.machine.device_listener = lambda *access: accesses.append(access)
    assert session.ask(f"m{UART:x},1") == "E14"
    assert session.ask(f"M{UART:x},1:41") == "E14"
    session.ask("Qqemu.PhyMemMode:1")
    assert session.ask(f"m{UART + 0x100:x},1") == "E14"  # the rest of its page
    assert accesses == [] and session.bench.output == b""


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_virtual_and_physical_addresses(session: Session, levels: int) -> None:
    bench = session.bench
    tables = bench.translate(levels)
    va = 0xFFFF_FFC0_1234_5000
    tables.map(va, DATA, V | R | A)  # read-only: a debugger writes there all the same
    bench.ram.write(DATA, b"\x01\x02\x03\x04")
    bench.start(priv=1)
    assert session.ask(f"m{va:x},4") == "01020304"
    assert session.ask(f"M{va + 1:x},1:ff") == "OK"
    assert session.ask("qqemu.PhyMemMode") == "0"
    assert session.ask("Qqemu.PhyMemMode:1") == "OK"
    assert session.ask("qqemu.PhyMemMode") == "1"
    assert session.ask(f"m{DATA:x},4") == "01ff0304"
    assert session.ask(f"m{va:x},4") == "E14"
    assert session.ask("Qqemu.PhyMemMode:0") == "OK"
    assert session.ask(f"m{va:x},4") == "01ff0304"
    assert session.ask(f"m{va + 0x1000:x},4") == "E14"
    assert session.ask(f"m{va + 0xFFE:x},4") == "0000"  # up to the page that is not mapped


def test_a_debugger_sees_every_page_whatever_the_privilege(session: Session) -> None:
    tables = session.bench.translate()
    tables.map(0x10_0000, DATA, V | R | A | U)
    tables.map(0x20_0000, DATA, V | X | A)
    session.bench.ram.write32(DATA, 0x7856_3412)
    for priv in (0, 1):
        session.bench.start(priv=priv)
        assert session.ask("m100000,4") == "12345678"
        assert session.ask("m200000,4") == "12345678"
    session.bench.start(priv=3)
    assert session.ask("m100000,4") == "E14", "M-mode's addresses are physical"


def test_code_that_gdb_writes_is_executed(session: Session) -> None:
    assert session.bench.run(FIVE).reason is StopReason.WFI
    assert session.bench.reg("a0") == 5
    assert session.ask(f"M{CODE:x},{len(SEVEN.code):x}:{SEVEN.code.hex()}") == "OK"
    session.bench.start()
    session.ask("c")
    assert session.bench.reg("a0") == 7


# breakpoints


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("translated", [False, True])
def test_a_breakpoint_in_a_loop_is_hit_each_time(
    session: Session, kind: int, translated: bool
) -> None:
    bench = session.bench
    if translated:
        bench.translate()
    bench.start(LOOP, priv=1 if translated else 3)
    where = at(LOOP, "loop_add")
    assert session.ask(f"Z{kind},{where:x},2") == "OK"
    why = ["swbreak", "hwbreak"][kind]
    for round_ in range(1, 101):
        assert session.ask("c") == f"T05thread:1;{why}:;"
        assert bench.hart.pc == where
        assert (bench.reg("a0"), bench.reg("a2")) == (round_, 2 * round_ - 2)
    assert session.ask("c").startswith("T05")  # wfi: nothing is pending
    assert bench.reg("a2") == 200
    assert b"interrupt" in bytes.fromhex(session.output[-1][1:].decode())


def test_breakpoints_are_told_from_each_other(session: Session) -> None:
    session.bench.start(LOOP)
    top, add = at(LOOP, "loop_top"), at(LOOP, "loop_add")
    session.ask(f"Z0,{top:x},2")
    session.ask(f"Z0,{add:x},2")
    seen = []
    for _ in range(6):
        session.ask("c")
        seen.append(session.bench.hart.pc)
    assert seen == [top, add] * 3
    session.ask(f"z0,{top:x},2")
    session.ask("c")
    session.ask("c")
    assert session.bench.hart.pc == add and session.bench.reg("a0") == 5
    session.ask(f"z0,{add:x},2")
    session.ask("c")
    assert session.bench.hart.pc not in (top, add)
    assert session.bench.reg("a0") == 100


def test_a_breakpoint_that_is_its_own_successor(session: Session) -> None:
    session.bench.start(SPIN)
    session.ask(f"Z0,{CODE:x},2")
    for _ in range(20):
        assert session.ask("c") == "T05thread:1;swbreak:;"
        assert session.bench.hart.pc == CODE


def test_breakpoints_in_memory_that_is_not_there_do_no_harm(session: Session) -> None:
    for va in (0, 2, HOLE, UART, RAM - 2, (1 << 64) - 2, 0xDEAD_BEEF_0000_0000, 1 << 38):
        assert session.ask(f"Z0,{va:x},2") == "OK"
    session.bench.translate()
    session.bench.start(LOOP, priv=1)
    session.ask(f"Z0,{at(LOOP, 'loop_add'):x},2")
    for _ in range(100):
        assert session.ask("c") == "T05thread:1;swbreak:;"
    session.ask("c")
    assert session.bench.reg("a0") == 100
    assert session.bench.w[words.SCAUSE] == 0, "nobody trapped"


def test_the_guests_memory_keeps_its_bytes(session: Session) -> None:
    session.bench.start(LOOP)
    before = session.bench.ram.read(CODE, len(LOOP.code))
    session.ask(f"Z0,{at(LOOP, 'loop_add'):x},2")
    session.ask("c")
    assert session.bench.ram.read(CODE, len(LOOP.code)) == before


def test_a_breakpoint_holds_when_its_page_is_remapped(session: Session) -> None:
    bench = session.bench
    tables = bench.translate()
    page, five, seven = 0x40_0000, RAM + 0x20_0000, RAM + 0x20_1000
    bench.load(FIVE, five)
    bench.load(SEVEN, seven)
    bench.load(CALL_S1)
    session.ask(f"Z0,{page:x},2")  # nothing is mapped there yet
    for pa, result in ((five, 5), (seven, 7), (five, 5)):
        slot = tables.slot(page)
        bench.ram.write64(slot, pa >> 12 << 10 | V | R | X | A | D)
        bench.hart.access.flush_tlb()
        bench.start(priv=1, s1=page, a0=0)
        assert session.ask("c") == "T05thread:1;swbreak:;"
        assert (bench.hart.pc, bench.reg("a0")) == (page, 0)
        session.ask("c")
        assert bench.reg("a0") == result


def test_a_trap_vector_can_have_a_breakpoint(session: Session) -> None:
    session.bench.start(ECALLS, s0=HOLE)
    session.ask(f"Z1,{VECTOR:x},4")
    assert session.ask("c") == "T05thread:1;hwbreak:;"
    assert session.bench.hart.pc == VECTOR
    assert session.bench.w[words.MCAUSE] == 11
    session.set("pc", at(ECALLS, "after_ecall"))
    assert session.ask("c") == "T05thread:1;hwbreak:;"
    assert session.bench.w[words.MCAUSE] == 3


def test_a_trap_that_python_handles_ends_on_a_breakpoint(session: Session) -> None:
    bench = session.bench

    def skip(trap):
        bench.w[words.PC] = trap.epc + 4
        return None

    seen = bench.hold_m(skip)
    bench.start(ECALLS)
    session.ask(f"Z0,{at(ECALLS, 'after_ecall'):x},2")
    assert session.ask("c") == "T05thread:1;swbreak:;"
    assert len(seen) == 1 and bench.hart.pc == at(ECALLS, "after_ecall")


def test_code_without_breakpoints_runs_as_it_did(session: Session) -> None:
    session.ask(f"Z0,{at(LOOP, 'loop_add'):x},2")
    session.bench.start(LOOP)
    session.ask("c")
    session.breakpoints.clear()
    assert session.bench.machine.run().reason is StopReason.WFI
    assert session.bench.reg("a0") == 100


# steps


def test_steps_are_single_instructions(session: Session) -> None:
    session.bench.start(ONE_INSTRUCTION_LOOP)
    seen = []
    for _ in range(6):
        seen.append(session.bench.hart.pc - CODE)
        assert session.ask("s") == "T05thread:1;"
    top = ONE_INSTRUCTION_LOOP.offset("self")
    assert seen == [0, top, top + 4, top, top + 4, top]


def test_a_step_goes_off_a_breakpoint_and_stops_before_the_next(session: Session) -> None:
    session.bench.start(LOOP)
    for label in ("loop_top", "loop_add"):
        session.ask(f"Z0,{at(LOOP, label):x},2")
    session.ask("c")
    assert session.bench.hart.pc == at(LOOP, "loop_top")
    session.ask("s")
    assert (session.bench.hart.pc, session.bench.reg("a0")) == (at(LOOP, "loop_add"), 1)


def test_a_step_enters_traps(session: Session) -> None:
    bench = session.bench
    bench.start(ECALLS, s0=HOLE)
    assert session.ask("s") == "T05thread:1;"
    assert (bench.hart.pc, bench.w[words.MCAUSE]) == (VECTOR, 11)
    session.set("pc", at(ECALLS, "after_ecall"))
    session.ask("s")
    assert (bench.hart.pc, bench.w[words.MCAUSE]) == (VECTOR, 3)
    session.set(
        "pc",
        at(ECALLS, "after_ecall")
        + (2 if bench.ram.read16(at(ECALLS, "after_ecall")) & 3 != 3 else 4),
    )
    session.ask("s")
    assert (bench.hart.pc, bench.w[words.MCAUSE]) == (VECTOR, 5)
    assert bench.w[words.MTVAL] == HOLE


def test_a_wfi_with_a_breakpoint_does_not_wait_when_it_is_left(session: Session) -> None:
    session.bench.start(WAITS)
    session.ask(f"Z0,{CODE:x},4")
    assert session.ask("s") == "T05thread:1;"
    assert session.bench.hart.pc == CODE + 4
    session.bench.start()
    session.ask("c")  # to the second wfi, which waits for ever
    assert (session.bench.reg("a0"), session.bench.hart.pc) == (5, at(WAITS, "waits_end"))
    assert b"nothing can raise" in bytes.fromhex(session.output[-1][1:].decode())


def test_a_step_over_an_ecall_that_python_handles(session: Session) -> None:
    bench = session.bench

    def skip(trap):
        bench.w[words.PC] = trap.epc + 4
        return None

    bench.hold_m(skip)
    bench.start(ECALLS)
    session.ask("s")
    assert bench.hart.pc == at(ECALLS, "after_ecall")


@pytest.mark.parametrize("hold", [True, False])
def test_steps_hold_interrupts_as_qemu_does(session: Session, hold: bool) -> None:
    bench = session.bench
    assert session.ask("qqemu.sstepbits") == "ENABLE=1,NOIRQ=2"
    assert session.ask("qqemu.sstep") == "0x3"
    assert session.ask("Qqemu.sstep=0x7") == "E22"
    assert session.ask(f"Qqemu.sstep={'3' if hold else '0x1'}") == "OK"
    bench.start(LOOP)
    bench.w[words.MIE] = 1 << CSR.IRQ_MTI
    bench.w[words.MSTATUS] |= CSR.MSTATUS_MIE
    bench.hart.set_pending(CSR.IRQ_MTI, True)
    session.ask(f"Z0,{VECTOR:x},4")  # whose `wfi` would not wait
    session.ask("s")
    if hold:
        assert (bench.hart.pc, bench.reg("a1")) == (at(LOOP, "loop_top"), 100)
        session.ask("c")
    assert bench.w[words.MCAUSE] == 1 << 63 | CSR.IRQ_MTI
    assert bench.w[words.MEPC] == (at(LOOP, "loop_top") if hold else CODE)


def test_a_breakpoint_is_left_before_an_interrupt_is_taken(session: Session) -> None:
    """Otherwise the handler would return to the breakpoint: a hit that was no execution."""
    bench = session.bench
    bench.start(LOOP)
    session.ask(f"Z0,{at(LOOP, 'loop_add'):x},2")
    session.ask("c")
    bench.w[words.MIE] = 1 << CSR.IRQ_MTI
    bench.w[words.MSTATUS] |= CSR.MSTATUS_MIE
    bench.hart.set_pending(CSR.IRQ_MTI, True)
    session.ask(f"Z0,{VECTOR:x},4")
    session.ask("c")
    assert bench.w[words.MCAUSE] == 1 << 63 | CSR.IRQ_MTI
    assert bench.w[words.MEPC] == at(LOOP, "loop_add") + 2


def test_a_step_over_a_device_access_does_it_once(session: Session) -> None:
    """Also when the access raises an interrupt."""
    bench = session.bench
    bench.w[words.MIE] = 1 << CSR.IRQ_MTI
    bench.w[words.MSTATUS] |= CSR.MSTATUS_MIE
    bench.machine.device_listener = lambda *_: bench.hart.set_pending(CSR.IRQ_MTI, True)
    bench.start(STORE_UART, s0=UART, a0=ord("x"))
    session.ask("s")
    assert bench.hart.pc == CODE + 4
    assert bench.output == b"x"


# watchpoints


def watch_stops(session: Session, end: int) -> list[tuple[str, int]]:
    """Continue until ``end`` is reached: the reasons, and where the run stood."""
    found = []
    session.ask(f"Z0,{end:x},2")
    while session.bench.hart.pc != end:
        answer = session.ask("c")
        assert answer.startswith("T05thread:1;")
        found.append((answer.removeprefix("T05thread:1;"), session.bench.hart.pc))
    return found[:-1]


@pytest.mark.parametrize("translated", [False, True])
@pytest.mark.parametrize("digit, word", [(2, "watch"), (3, "rwatch"), (4, "awatch")])
def test_watchpoints_stop_behind_the_access(
    session: Session, digit: int, word: str, translated: bool
) -> None:
    bench = session.bench
    va = DATA
    if translated:
        va = 0x50_0000
        tables = bench.translate()
        tables.map(va, DATA)
        tables.map(va - 4096, DATA - 4096)
    bench.start(ACCESSES, priv=1 if translated else 3, s0=va, a0=0x1122_3344_5566_7788)
    assert session.ask(f"Z{digit},{va:x},8") == "OK"
    stores = {"acc_store": 0, "acc_byte": 3, "acc_across": 0}
    loads = {"acc_load": 0}
    wanted = {2: stores, 3: loads, 4: {**stores, **loads}}[digit]
    order = ("acc_store", "acc_byte", "acc_load", "acc_near", "acc_across")
    expected = []
    for label in order:
        if label in wanted:
            place = at(ACCESSES, label)
            length = 4 if bench.ram.read16(place) & 3 == 3 else 2
            expected.append((f"{word}:{va + wanted[label]:x};", place + length))
    assert watch_stops(session, at(ACCESSES, "acc_end")) == expected
    assert bench.reg("a5") == 6
    assert bench.ram.read64(DATA + 8) == 0x1122_3344_5566_7788
    # The last store, at -4: its upper half in the lower half of the watched word.
    assert bench.ram.read64(DATA) == 0x1122_3344_1122_3344


def test_the_stopped_state_is_that_behind_the_access(session: Session) -> None:
    bench = session.bench
    bench.start(ACCESSES, s0=DATA, a0=7)
    session.ask(f"Z2,{DATA:x},8")
    session.ask("c")
    assert bench.ram.read64(DATA) == 7
    assert bench.reg("a5") == 1, "nothing behind the store has happened"
    session.ask("c")
    assert bench.reg("a5") == 2


def test_a_watched_range_of_one_byte(session: Session) -> None:
    bench = session.bench
    bench.start(ACCESSES, s0=DATA, a0=7)
    session.ask(f"Z2,{DATA + 3:x},1")
    stops = watch_stops(session, at(ACCESSES, "acc_end"))
    assert [why for why, _ in stops] == [f"watch:{DATA + 3:x};"] * 3


@pytest.mark.parametrize("digit", [2, 3, 4])
def test_atomics_happen_once(session: Session, digit: int) -> None:
    bench = session.bench
    bench.ram.write64(DATA, 1000)
    bench.start(ATOMICS, s0=DATA)
    session.ask(f"Z{digit},{DATA:x},8")
    stops = watch_stops(session, at(ATOMICS, "amo_end"))
    assert bench.reg("a2") == 1000 and bench.reg("a3") == 1005
    assert bench.reg("a4") == 1011
    # A stop between lr and sc may, as an interrupt may, break the reservation.
    assert bench.ram.read64(DATA) == (1011 if bench.reg("a6") == 0 else 1010)
    behind = {pc for _, pc in stops}
    assert {at(ATOMICS, "amo_first") + 4, at(ATOMICS, "amo_second") + 4} <= behind
    assert (at(ATOMICS, "amo_lr") + 4 in behind) == (digit != 2)


def test_200_watched_stores_are_200_stops(session: Session) -> None:
    bench = session.bench
    bench.start(COUNT_STORES, s0=DATA)
    session.ask(f"Z2,{DATA:x},8")
    for value in range(200, 0, -1):
        assert session.ask("c") == f"T05thread:1;watch:{DATA:x};"
        assert bench.ram.read64(DATA) == value
    session.ask("c")
    assert bench.reg("a2") == 200 and bench.wfi_is_next() is False


def test_neighbours_in_a_block_do_not_happen_early_or_twice(inside_session: Session) -> None:
    """A device store and a CSR swap behind a watched store, in the same block."""
    bench = inside_session.bench
    bench.start(EFFECTS, s0=DATA, s1=0x1234, s2=UART, s3=0x9999, a0=ord("!"))
    inside_session.ask(f"Z2,{DATA:x},8")
    assert inside_session.ask("c") == f"T05thread:1;watch:{DATA:x};"
    assert bench.hart.pc == at(EFFECTS, "effects_after")
    assert bench.output == b""
    assert inside_session.register("mscratch") == 0x9999
    inside_session.ask("c")
    assert bench.output == b"!"
    assert bench.reg("s1") == 0x9999
    assert inside_session.register("mscratch") == 0x1234


def test_a_csr_swap_behind_a_store_that_faults_is_not_made(inside_session: Session) -> None:
    bench = inside_session.bench
    assert bench.trapped(EFFECTS, s0=HOLE, s1=0x1234, s3=0x9999)[0] == 7
    assert bench.reg("s1") == 0x1234
    assert inside_session.register("mscratch") == 0x9999


def test_an_ecall_behind_a_watched_store_is_made_once(session: Session) -> None:
    bench = session.bench

    def skip(trap):
        bench.w[words.PC] = trap.epc + 4
        return None

    seen = bench.hold_m(skip)
    bench.start(STORE_THEN_ECALL, s0=DATA)
    session.ask(f"Z2,{DATA:x},8")
    assert session.ask("c") == f"T05thread:1;watch:{DATA:x};"
    assert bench.hart.pc == at(STORE_THEN_ECALL, "then_ecall") and seen == []
    session.ask("c")
    assert len(seen) == 1


def test_an_ecall_behind_a_store_that_faults_is_not_made(session: Session) -> None:
    bench = session.bench
    seen = bench.hold_m()
    assert bench.run(STORE_THEN_ECALL, s0=HOLE).reason is StopReason.FAULT
    assert [(trap.cause, trap.epc) for trap in seen] == [(7, CODE)]


def _random_start(bench: Bench, snippet) -> None:
    bench.ram.write(DATA, bytes(range(64)))
    values = {f"a{i}": 0x9E37_79B9_7F4A_7C15 * (i + 1) for i in range(6)}
    bench.start(snippet, s0=DATA, s1=0, **values)


def _random_result(bench: Bench) -> tuple[object, ...]:
    return bench.hart.pc, [bench.w[i] for i in range(32)], bench.ram.read(DATA, 64)


@pytest.mark.parametrize("seed", range(len(RANDOM_PROGRAMS)))
@pytest.mark.parametrize("digit", [2, 3, 4])
def test_random_programs_under_a_watchpoint(bench: Bench, seed: int, digit: int) -> None:
    """The watched run ends as the free one does, and stops where single steps say."""
    snippet = RANDOM_PROGRAMS[seed]
    first, size = DATA + 8 * (seed + 1) - 3, (1, 4, 8, 2, 7, 16)[seed]
    _random_start(bench, snippet)
    assert bench.machine.run().reason is StopReason.WFI
    free = _random_result(bench)

    _random_start(bench, snippet)
    expected = []
    while bench.hart.pc != free[0]:
        bits = bench.hart.fetch(bench.hart.pc)
        assert bits is not None
        va = insn.effective_address(bits, [bench.w[i] for i in range(32)])
        width, loads, stores = _access_of(bits)
        bench.machine.run(1)
        wanted = {2: stores, 3: loads, 4: loads or stores}[digit]
        if va is not None and wanted and va < first + size and first < va + width:
            expected.append(bench.hart.pc)

    session = Session(bench)
    _random_start(bench, snippet)
    assert session.ask(f"Z{digit},{first:x},{size:x}") == "OK"
    stops = []
    while "watch:" in (answer := session.ask("c")):
        assert first <= int(answer.split(":")[-1].rstrip(";"), 16) < first + size
        stops.append(bench.hart.pc)
    assert _random_result(bench) == free
    assert stops == expected and len(stops) >= 3


def _access_of(bits: int) -> tuple[int, bool, bool]:
    """Bytes, whether it loads, whether it stores (chapters 35 and 27.8 of the ISA manual)."""
    if bits & 3 == 3:
        opcode, width = bits & 0x7F, 1 << (bits >> 12 & 3)
        return width, opcode in (0x03, 0x2F), opcode in (0x23, 0x2F)
    funct3 = bits >> 13
    return (8 if funct3 & 3 == 3 else 4), funct3 < 4, funct3 >= 4


def test_a_step_reports_the_access(session: Session) -> None:
    session.bench.start(ACCESSES, pc=at(ACCESSES, "acc_store"), s0=DATA)
    session.ask(f"Z4,{DATA:x},8")
    assert session.ask("s") == f"T05thread:1;awatch:{DATA:x};"
    assert session.ask("s") == "T05thread:1;"


def test_a_watchpoint_sees_other_mappings_of_its_frame(session: Session) -> None:
    bench = session.bench
    tables = bench.translate()
    tables.map(0x50_0000, DATA)
    bench.start(ACCESSES, priv=1, s0=DATA)
    assert session.ask("Z2,500000,8") == "OK"
    assert session.ask("c") == "T05thread:1;watch:500000;"


def test_a_removed_watchpoint_is_silent(session: Session) -> None:
    session.bench.start(ACCESSES, s0=DATA)
    session.ask(f"Z2,{DATA:x},8")
    session.ask("c")
    assert session.ask(f"z2,{DATA:x},8") == "OK"
    assert watch_stops(session, at(ACCESSES, "acc_end")) == []


def test_what_cannot_be_watched_is_refused(session: Session) -> None:
    assert session.ask(f"Z2,{HOLE:x},4") == "E14"
    assert session.ask(f"Z2,{UART:x},1") == "E14"
    assert session.ask(f"Z2,{DATA:x},0") == "E14"
    assert session.ask(f"Z2,{DATA:x},ffffffffff") == "E14"
    assert session.ask("Z2,ffffffffffffffff,8") == "E14"
    assert session.ask(f"Z5,{DATA:x},8") == ""
    assert session.ask(f"Z2,{session.bench.ram.end - 8:x},10") == "E14"
    assert session.ask(f"Z2,{session.bench.ram.end - 8:x},8") == "OK"
    assert session.ask(f"Z2,{RAM:x},8") == "OK"


def test_a_watchpoint_over_two_pages_that_are_apart(session: Session) -> None:
    bench = session.bench
    tables = bench.translate()
    tables.map(0x50_0000, RAM + 0x30_0000)
    tables.map(0x50_1000, RAM + 0x20_0000)
    bench.start(priv=1)
    assert session.ask("Z2,500ffc,8") == "OK"
    for s0 in (0x50_1004, 0x50_1000):  # the second: bytes 0 to 7 behind the boundary
        bench.start(ACCESSES, pc=at(ACCESSES, "acc_store"), priv=1, s0=s0)
        session.ask(f"Z0,{at(ACCESSES, 'acc_byte'):x},2")
        answer = session.ask("c")
        assert ("watch" in answer) == (s0 == 0x50_1000)
    assert session.ask("z2,500ffc,8") == "OK"


# why it stopped


def test_a_fault_is_a_signal_and_a_line_of_text(session: Session) -> None:
    session.bench.hold_m()
    session.bench.start(ECALLS, pc=at(ECALLS, "after_ecall"))
    assert session.ask("c") == "T05thread:1;"
    assert "breakpoint at 0x" in bytes.fromhex(session.output[-1][1:].decode()).decode()
    session.bench.start(ACCESSES, s0=HOLE)
    assert session.ask("c") == "T0bthread:1;"
    text = bytes.fromhex(session.output[-1][1:].decode()).decode()
    assert text == f"store/AMO access fault at {at(ACCESSES, 'acc_store'):#x}, tval {HOLE:#x}\n"
    assert session.ask("?") == "T0bthread:1;"


def test_an_interrupt_that_nobody_takes_is_no_exception_of_its_number(session: Session) -> None:
    """Supervisor timer is 5, as a load access fault is."""
    trap = Trap(5, DATA, 0, 1, 1, True)
    stop = Stop(StopReason.FAULT, trap=trap)
    assert session.stub.stopped(stop, session.output.append) == b"T05thread:1;"


def test_a_reset_ends_it(session: Session) -> None:
    """Where nobody begins the machine anew."""
    stop = Stop(StopReason.RESET, 1)
    assert session.stub.stopped(stop, session.output.append) == b"W01"


def test_the_end_of_the_guest_is_its_exit_code(session: Session) -> None:
    assert session.stub.stopped(Stop(StopReason.EXIT, 3), session.output.append) == b"W03"


# monitor


def test_monitor_walk_describes_every_level(session: Session) -> None:
    tables = session.bench.translate()
    slot = tables.map(0x12_3000, DATA, V | R | A)
    session.bench.start(priv=1)
    lines = session.monitor("walk 123456").splitlines()
    assert lines[0] == "read by S-mode"
    assert lines[1] == "VA 0x123456 in sv39: vpn[2]=0x0 vpn[1]=0x0 vpn[0]=0x123 offset=0x456"
    assert [line.split()[:2] for line in lines[3:6]] == [["level", f"{i}:"] for i in (2, 1, 0)]
    assert f"at PA {slot:#x}" in lines[5]
    assert lines[6].startswith(f"PA {DATA + 0x456:#x}, a 4 KiB page")
    assert session.monitor("walk 0x123456 write").splitlines()[-1] == (
        "refused at level 0: the PTE does not allow writing (W=0)"
    )
    session.bench.start(priv=3)
    assert session.monitor("walk 123456").startswith("M-mode does not translate; S-mode's read")


def test_monitor_walk_knows_symbols(bench: Bench) -> None:
    session = Session(bench, Symbols([(0x12_3000, 8, "jiffies")]))
    bench.translate()
    bench.start(priv=1)
    assert "VA 0x123000 in sv39" in session.monitor("walk jiffies")


def test_monitor_tables_and_tree(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    assert session.monitor("tables") == "no translation: satp is Bare\n"
    assert "satp is Bare" in session.monitor("walk 0")
    tables = session.bench.translate()
    lines = session.monitor("tables").splitlines()
    assert lines[-1].split() == [f"{RAM:016x}", f"{RAM:016x}", "0000000000008000", "rwx--ad"]
    assert session.monitor("tree").startswith(f"sv39 root table at PA {tables.root:#x}\n")
    monkeypatch.setattr("emu.spec.tables.ENTRIES_MAX", 1000)
    # A root that points to itself has no end of PTEs.
    session.bench.ram.array(tables.root, 512)[:] = tables.root >> 12 << 10 | V
    assert session.monitor("tables").startswith("more than 1000 PTEs")


def test_monitor_answers_anything_else_with_help(session: Session) -> None:
    for line in ("", "help", "nonsense", "walk", "walk x y z", "walk zz", "walk 0 fly", "é\0"):
        assert session.monitor(line)
    assert "walk VA" in session.monitor("nonsense") and "walk VA" in session.monitor("help")
    assert f"pc {session.bench.hart.pc:#018x}" in session.monitor("registers")


# queries


def test_queries_of_the_protocol(session: Session) -> None:
    supported = session.ask("qSupported:multiprocess+;swbreak+").split(";")
    assert {"QStartNoAckMode+", "qXfer:features:read+", "swbreak+", "hwbreak+"} <= set(supported)
    answers = {
        "?": "S05", "qC": "QC1", "qfThreadInfo": "m1", "qsThreadInfo": "l", "qAttached": "1",
        "Hg0": "OK", "Hc-1": "OK", "T1": "OK", "vCont?": "vCont;c;C;s;S",
        "vMustReplyEmpty": "", "qTStatus": "", "qL1160000000000000000": "", "!": "", "": "",
        "qqemu.Supported": "sstepbits;sstep;PhyMemMode", "qSymbol::": "OK",
        "qXfer:features:read:other.xml:0,10": "E00", "Qqemu.PhyMemMode": "E22",
        "m": "E22", "mzz,4": "E22", "m-1,4": "E22", "M0,4": "E22", "p": "E22", "pffff": "E22",
        "P": "E22", "P0": "E22", "P1=zz": "E22", "P1=00": "E22", "G00": "E22", "X0,4": "E22",
        "Z": "E22", "Z0": "E22", "Z0,0": "E22", "Zx,0,0": "", "Z0,zz,2": "E22", "czz": "E22",
        "vCont;x": "E22", "vCont;s:7": "E22", "qRcmd,zz": "E22", "Sxx": "E22",
        "qXfer:features:read:target.xml:zz": "E22", "qXfer:features:read:target.xml": "E22",
    }  # fmt: skip
    for packet, answer in answers.items():
        assert session.ask(packet) == answer, packet


def test_running_by_vcont_and_with_signals(session: Session) -> None:
    session.bench.start(LOOP)
    for packet in ("vCont;s:1", "vCont;s:p1.1;c", "S05", f"s{CODE + 4:x}", "vCont;S05:1"):
        assert session.ask(packet) == "T05thread:1;", packet
    session.ask(f"Z0,{at(LOOP, 'loop_add'):x},2")
    for packet in ("vCont;c", "C05", "vCont;C05:-1", f"c{at(LOOP, 'loop_top'):x}"):
        assert session.ask(packet) == "T05thread:1;swbreak:;", packet


_packet = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda head, rest: head + rest,
        st.sampled_from(
            [b"m", b"M", b"X", b"p", b"P", b"G", b"Z0,", b"Z2,", b"z0,", b"z3,", b"vCont;",
             b"qXfer:features:read:target.xml:", b"qRcmd,", b"Qqemu.sstep=", b"qqemu.", b"H",
             b"Qqemu.PhyMemMode:", b"qSupported:", b"qThreadExtraInfo,", b"T", b"v", b"?"]
        ),
        st.one_of(
            st.binary(max_size=24),
            st.from_regex(rb"[0-9a-f]{0,18}([,:=;][0-9a-f]{0,18}){0,3}", fullmatch=True),
        ),
    ),
)  # fmt: skip


@given(st.lists(_packet, max_size=30))
@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
def test_no_packet_upsets_the_stub(inside: Bench, packets: list[bytes]) -> None:
    session = Session(inside)
    for packet in packets:
        answer = session.stub.handle(packet, session.output.append)
        assert isinstance(answer, bytes | Action)
    session.breakpoints.clear()
    inside.w[words.SATP] = 0
    inside.hart.access.flush_tlb()
    session.ask("Qqemu.PhyMemMode:0")
    assert session.ask(f"M{DATA:x},1:5a") == "OK"
    assert session.ask(f"m{DATA:x},1") == "5a"


# the server


class Client:
    """A gdb of a few lines."""

    def __init__(self, port: int, acks: bool = False) -> None:
        self.reader = PacketReader()
        self.events: list[Packet | Sign] = []
        while True:
            self.socket = socket.create_connection(("127.0.0.1", port))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                if not acks:
                    assert self.ask("QStartNoAckMode") == "OK"
                    self.socket.sendall(b"+")
                return
            except (EOFError, ConnectionError):  # the one before is not quite gone
                self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def event(self) -> Packet | Sign:
        while not self.events:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self.events = self.reader.feed(data)
        return self.events.pop(0)

    def answer(self) -> str:
        while True:
            event = self.event()
            if isinstance(event, Packet) and not (event.data[:1] == b"O" and event.data != b"OK"):
                return event.data.decode()

    def ask(self, packet: str) -> str:
        self.send(frame(packet.encode()))
        return self.answer()

    def close(self) -> None:
        self.socket.close()


class Served:
    """A server in a thread; the end of the guest as it returned it."""

    def __init__(self, bench: Bench, run: Callable[[int], Stop] | None = None) -> None:
        self.lines: list[str] = []
        self.server = GdbServer(bench.machine, tell=self.lines.append, run=run)
        self.bench = bench
        self.clients: list[Client] = []
        self.stop: Stop | None = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._main, daemon=True)
        self.thread.start()

    def _main(self) -> None:
        try:
            self.stop = self.server.serve()
        except BaseException as e:
            self.error = e

    def client(self, acks: bool = False) -> Client:
        client = Client(self.server.port, acks)
        self.clients.append(client)
        return client

    def ended(self) -> Stop:
        wait_until(lambda: not self.thread.is_alive())
        if self.error is not None:
            raise self.error
        assert self.stop is not None
        return self.stop

    def close(self) -> None:
        for client in self.clients:
            client.close()
        if self.thread.is_alive():
            client = self.client()
            client.send(frame(b"k"))
            wait_until(lambda: not self.thread.is_alive())
            client.close()
        self.server.close()


@pytest.fixture
def served(bench: Bench) -> Iterator[Served]:
    made = Served(bench)
    yield made
    made.close()


def test_the_server_says_where_it_waits(served: Served) -> None:
    served.client().close()
    assert served.lines[0] == f"waiting for gdb on 127.0.0.1:{served.server.port}"


def test_acknowledgements_and_repeated_packets(served: Served) -> None:
    client = served.client(acks=True)
    client.send(frame(b"qC"))
    assert [client.event(), client.event()] == [Sign.ACK, Packet(b"QC1")]
    client.send(b"-")  # not understood: once more
    assert client.event() == Packet(b"QC1")
    client.send(b"+$qC#00")
    assert client.event() is Sign.NAK
    assert client.ask("QStartNoAckMode") == "OK"
    client.send(b"+" + frame(b"qC"))
    assert client.event() == Packet(b"QC1")


def test_ctrl_c_stops_a_spinning_guest(served: Served) -> None:
    served.bench.start(SPIN)
    client = served.client()
    for _ in range(20):
        client.send(frame(b"c"))
        time.sleep(random.random() * 0.004)
        client.send(b"\x03")
        assert client.answer() == "T02thread:1;"
        assert client.ask("p20") == CODE.to_bytes(8, "little").hex()
    client.send(frame(b"c") + b"\x03")  # in one piece
    assert client.answer() == "T02thread:1;"


@pytest.mark.slow
def test_ctrl_c_never_doubles_an_amo(inside: Bench) -> None:
    served = Served(inside)
    inside.start(AMO_SPIN, s0=DATA, a1=1)
    client = served.client()
    rounds = 0
    while rounds < 300 or inside.ram.read64(DATA) <= 10_000:
        rounds += 1
        client.send(frame(b"c") + b"\x03" * random.randrange(2))
        time.sleep(random.random() * 0.0005)
        client.send(b"\x03")
        while client.answer() != "T02thread:1;":
            pass
        counted, done = inside.reg("a0"), inside.ram.read64(DATA)
        assert counted == done - (inside.hart.pc != at(AMO_SPIN, "amo_spin"))
        assert client.ask("qC") == "QC1"
    served.close()


def test_ctrl_c_of_a_standing_guest_is_ignored(served: Served) -> None:
    client = served.client()
    client.send(b"\x03")
    assert client.ask("qC") == "QC1"


def test_breakpoints_over_the_wire(served: Served) -> None:
    served.bench.start(LOOP)
    client = served.client()
    client.ask("qSupported:swbreak+")
    where = at(LOOP, "loop_add")
    assert client.ask(f"Z0,{where:x},2") == "OK"
    for _ in range(100):
        assert client.ask("vCont;c") == "T05thread:1;swbreak:;"
    assert client.ask("vCont;c") == "T05thread:1;"


def test_detach_lets_the_guest_go_on(served: Served) -> None:
    served.bench.start(SPIN)
    client = served.client()
    assert client.ask(f"Z0,{CODE:x},2") == "OK"
    assert client.ask("c") == "T05thread:1;"
    assert client.ask("D") == "OK"
    client.close()
    wait_until(lambda: served.bench.hart.running)
    assert served.stop is None
    client = served.client()  # a client that comes stops it
    assert not served.bench.hart.running
    assert client.ask("g")[-16:] == CODE.to_bytes(8, "little").hex()


def test_a_client_that_vanishes_while_the_guest_stands(served: Served) -> None:
    served.bench.start(SPIN)
    for i in range(5):
        client = served.client()
        assert client.ask(f"P1={i.to_bytes(8, 'little').hex()}") == "OK"
        client.send(b"$m800")  # half a packet
        client.close()
    assert served.client().ask("p1") == (4).to_bytes(8, "little").hex()
    assert not served.bench.hart.running


def test_a_client_that_vanishes_while_the_guest_runs(served: Served) -> None:
    served.bench.start(SPIN)
    client = served.client()
    client.ask(f"Z0,{CODE + 0x100:x},2")
    client.send(frame(b"c"))
    wait_until(lambda: served.bench.hart.running)
    client.close()
    wait_until(lambda: served.bench.hart.breakpoints == frozenset())
    wait_until(lambda: served.bench.hart.running)
    assert served.client().ask("qC") == "QC1"


def test_a_second_client_is_turned_away(served: Served) -> None:
    served.bench.start(SPIN)
    first = served.client()
    second = served.client(acks=True)
    with pytest.raises((EOFError, ConnectionError)):
        second.send(frame(b"qC"))
        second.event()
        second.event()
    assert first.ask("qC") == "QC1"
    first.send(frame(b"c"))
    wait_until(lambda: served.bench.hart.running)
    third = served.client(acks=True)
    with pytest.raises((EOFError, ConnectionError)):
        third.event()
    first.send(b"\x03")
    assert first.answer() == "T02thread:1;"


def test_kill_ends_the_run(served: Served) -> None:
    client = served.client()
    assert client.ask("vKill;1") == "OK"
    stop = served.ended()
    assert (stop.reason, stop.detail) == (StopReason.INTERRUPTED, "killed by gdb")


def test_the_guests_end_is_told_and_returned(served: Served) -> None:
    served.bench.start(FINISH)
    client = served.client()
    assert client.ask("c") == "W00"
    assert served.ended().reason is StopReason.EXIT


def test_a_stop_from_elsewhere_ends_the_service(served: Served) -> None:
    served.bench.start(SPIN)
    client = served.client()
    client.send(frame(b"c"))
    wait_until(lambda: served.bench.hart.running)
    served.bench.hart.stop()
    assert client.answer() == "X0f"
    assert served.ended().reason is StopReason.INTERRUPTED


@pytest.mark.parametrize("state", ["waiting", "standing", "running", "alone"])
def test_the_server_can_be_stopped_in_every_state(served: Served, state: str) -> None:
    served.bench.start(SPIN)
    if state != "waiting":
        client = served.client()
        if state == "running":
            client.send(frame(b"c"))
        elif state == "alone":
            client.ask("D")
        if state in ("running", "alone"):
            wait_until(lambda: served.bench.hart.running)
    served.server.stop()
    assert served.ended().reason is StopReason.INTERRUPTED
    served.server.stop()  # too late, and no matter


def test_what_the_run_raises_is_raised(bench: Bench) -> None:
    def run(_count: int) -> Stop:
        raise RuntimeError("a device broke")

    served = Served(bench, run)
    client = served.client()
    client.send(frame(b"c"))
    with pytest.raises(RuntimeError, match="a device broke"):
        served.ended()
    served.close()


def test_a_taken_port_is_an_oserror(served: Served) -> None:
    with pytest.raises(OSError, match="in use"):
        GdbServer(served.bench.machine, served.server.port)


@given(st.lists(st.one_of(st.binary(max_size=200), _packet.map(frame)), max_size=8))
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_no_bytes_kill_the_server(served: Served, pieces: list[bytes]) -> None:
    # A guest that never ends by itself: it spins, or traps to where it spins.
    served.bench.load(SPIN)
    served.bench.load(SPIN, VECTOR)
    served.bench.hart.reset(CODE)
    served.bench.w[words.MTVEC] = VECTOR
    client = served.client(acks=True)
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            if b"k" not in unescape(piece) and b"vKill" not in piece:
                client.send(piece)
    client.close()
    client = served.client()
    assert client.ask("qC") == "QC1", (served.stop, served.error)
    client.close()
    served.clients.clear()
