"""Everything that the board has for a hart goes through the list of harts.

A machine has one; here a second hart is put beside it, on the same RAM, and each part is asked
for what it has for both. What runs them in turn is not there yet.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fdt
import pytest
from asm import assemble
from progress import wait_until

from emu.board import devicetree
from emu.board.clock import Clock
from emu.board.devices.clint import Clint
from emu.board.devices.plic import Plic
from emu.board.machine import Machine
from emu.debug import core
from emu.debug.breakpoints import Breakpoints
from emu.debug.gdb.stub import GdbStub
from emu.debug.snapshot import snapshot
from emu.hart import Hart
from emu.spec import words as W
from emu.stop import Stop, StopReason
from firmware.sbi import ERR_INVALID_PARAM, SUCCESS, Sbi

RAM = 0x8000_0000
MSI, MTI, SEI, MEI = 3, 7, 9, 11


class Wires:
    """Of two harts: what each was told last of its interrupts."""

    def __init__(self) -> None:
        self.levels: dict[tuple[int, int], bool] = {}

    def of(self, hartid: int) -> Any:
        def tell(number: int, level: bool) -> None:
            self.levels[hartid, number] = level

        return tell

    @property
    def high(self) -> set[tuple[int, int]]:
        return {wire for wire, level in self.levels.items() if level}


class StillClock(Clock):
    """Stands where it is put."""

    ticks = 0

    def now(self) -> int:
        return self.ticks

    def set_now(self, ticks: int) -> None:
        self.ticks = ticks
        self.ring_due()

    def alarms_changed(self) -> None:
        self.ring_due()


@pytest.fixture
def two() -> Iterator[Machine]:
    machine = Machine(1 << 20)
    machine.harts.append(Hart(machine.ram, hartid=1))
    yield machine
    machine.close()


def test_the_first_hart_is_the_machines(two: Machine) -> None:
    assert two.hart is two.harts[0] and [hart.hartid for hart in two.harts] == [0, 1]


def test_clint() -> None:
    """msip at 4 * hartid, mtimecmp at 0x4000 + 8 * hartid; behind the last there is nothing."""
    wires, clock = Wires(), StillClock()
    clint = Clint(0, clock, [wires.of(0), wires.of(1)])
    clint.write(4, 4, 1)
    assert wires.high == {(1, MSI)} and (clint.read(0, 4), clint.read(4, 4)) == (0, 1)
    clint.write(0x4008, 4, 100)
    clint.write(0x400C, 4, 0)
    assert clint.read(0x4008, 4) == 100 and clint.read(0x4000, 4) == 0xFFFF_FFFF
    clock.set_now(100)
    assert wires.high == {(1, MSI), (1, MTI)}
    clint.write(0x4000, 4, 50)
    clint.write(0x4004, 4, 0)
    assert wires.high == {(1, MSI), (1, MTI), (0, MTI)}
    clint.write(0xBFF8, 4, 60)  # mtime: of both
    assert wires.high == {(1, MSI), (0, MTI)}
    clint.write(8, 4, 1)
    clint.write(0x4010, 4, 5)
    assert (clint.read(8, 4), clint.read(0x4010, 4)) == (0, 0)
    again = Clint(0, clock, [wires.of(0), wires.of(1)])
    again.restore(clint.state())
    assert again.state() == clint.state()
    with pytest.raises(ValueError, match="not a list of 1"):
        Clint(0, clock, [wires.of(0)]).restore(clint.state())


def test_plic() -> None:
    """Hart n has the contexts 2n (M) and 2n + 1 (S): enables 0x80 apart, the rest 0x1000."""
    wires = Wires()
    plic = Plic(0, [wires.of(0), wires.of(1)])
    plic.write(4 * 10, 4, 1)  # the priority of source 10
    plic.write(0x2000 + 3 * 0x80, 4, 1 << 10)
    plic.set_line(10, True)
    assert wires.high == {(1, SEI)}
    plic.write(0x2000 + 2 * 0x80, 4, 1 << 10)
    assert wires.high == {(1, SEI), (1, MEI)}
    plic.write(0x20_0000 + 2 * 0x1000, 4, 7)  # threshold of M's
    assert wires.high == {(1, SEI)}
    assert plic.read(0x20_0004 + 1 * 0x1000, 4) == 0  # it is not hart 0's to claim
    assert plic.read(0x20_0004 + 3 * 0x1000, 4) == 10 and not wires.high
    plic.write(0x2000 + 4 * 0x80, 4, 1 << 10)
    assert plic.read(0x2000 + 4 * 0x80, 4) == 0
    again = Plic(0, [wires.of(0), wires.of(1)])
    again.restore(plic.state())
    assert again.state() == plic.state()


def test_device_tree() -> None:
    tree = fdt.parse_dtb(devicetree.build(RAM, 1 << 20, hart_count=3))
    cpus = [node for node in tree.get_node("/cpus").nodes if node.name.startswith("cpu@")]
    assert [(node.name, node.get_property("reg").value) for node in cpus] == [
        ("cpu@0", 0), ("cpu@1", 1), ("cpu@2", 2),
    ]  # fmt: skip
    phandles = [node.get_property("phandle").value for node in cpus]
    controllers = [node.get_subnode("interrupt-controller") for node in cpus]
    lines = [node.get_property("phandle").value for node in controllers]
    assert len({*lines, *phandles, 3, 4}) == 8  # nobody's twice: 3 and 4 are PLIC and finisher
    clint = tree.get_node("/soc/clint@2000000").get_property("interrupts-extended")
    assert list(clint.data) == [cell for line in lines for cell in (line, 3, line, 7)]
    plic = tree.get_node("/soc/plic@c000000").get_property("interrupts-extended")
    assert list(plic.data) == [cell for line in lines for cell in (line, 11, line, 9)]
    cores = tree.get_node("/cpus/cpu-map/cluster0").nodes
    assert [core.get_property("cpu").value for core in cores] == phandles


def test_sbi(two: Machine) -> None:
    """SBI 2.0, section 3.1: a mask from a base on, all ones for all; chapters 7, 8 and 9."""
    first, second = two.harts
    sbi = Sbi(first, two.ram, lambda data: None, harts=two.harts)
    flushed: list[int] = []
    for hart in two.harts:
        hart.access.flush_tlb = lambda n=hart.hartid: flushed.append(n)  # type: ignore[misc]

    def call(extension: int, function: int, *arguments: int) -> tuple[int, int]:
        for place, value in enumerate(arguments):
            first.words[W.A0 + place] = value
        result = sbi.extensions[extension][function]()
        assert isinstance(result, tuple)
        return result

    ipi, rfence, hsm = 0x735049, 0x52464E43, 0x48534D
    assert call(ipi, 0, 0b10, 0) == (SUCCESS, 0)
    assert (first.pending, second.pending) == (0, 2)
    assert call(ipi, 0, 1, 1) == (SUCCESS, 0) and first.pending == 0
    assert call(ipi, 0, 0b101, 0) == (ERR_INVALID_PARAM, 0) and first.pending == 0
    assert call(ipi, 0, 0, (1 << 64) - 1) == (SUCCESS, 0) and first.pending == 2
    assert call(rfence, 1, 0b11, 0, 0, 0) == (SUCCESS, 0) and flushed == [0, 1]
    assert [call(hsm, 2, hartid) for hartid in (0, 1)] == [(SUCCESS, 0)] * 2
    assert call(hsm, 2, 2) == (ERR_INVALID_PARAM, 0)


def test_snapshot(two: Machine, tmp_path: Path) -> None:
    path = tmp_path / "two.snap"
    for hart in two.harts:
        hart.words[W.A0] = 100 + hart.hartid
        hart.set_pending(MSI, hart.hartid == 1)
    snapshot.save(two, path)
    one = Machine(1 << 20)
    with pytest.raises(snapshot.SnapshotError, match="of 2 harts, the machine has 1"):
        snapshot.load(one, path)
    one.harts.append(Hart(one.ram, hartid=1))
    snapshot.load(one, path)
    assert [hart.words[W.A0] for hart in one.harts] == [100, 101]
    assert [hart.pending for hart in one.harts] == [0, 1 << MSI]
    one.close()


def test_core(two: Machine, tmp_path: Path) -> None:
    """An NT_PRSTATUS (type 1) for each hart: pr_pid at 32 of it, the pc at 112."""
    path = tmp_path / "core"
    for hart in two.harts:
        hart.words[W.PC] = RAM + 0x100 * hart.hartid
    core.write(two, path)
    data = path.read_bytes()
    at, size = struct.unpack_from("<Q16xQ", data, 64 + 8)  # of PT_NOTE: p_offset, p_filesz
    threads, end = [], at + size
    while at < end:
        name_size, length, kind = struct.unpack_from("<III", data, at)
        at += 12 + (name_size + 3 & ~3)
        if kind == 1:
            pid, pc = struct.unpack_from("<i76xQ", data, at + 32)
            threads.append((pid, pc))
        at += length
    assert threads == [(1, RAM), (2, RAM + 0x100)]


def test_gdb_has_a_thread_for_each(two: Machine) -> None:
    stub = GdbStub(two, Breakpoints(two.hart, two.run))

    def ask(packet: str) -> str:
        answer = stub.handle(packet.encode(), lambda text: None)
        assert isinstance(answer, bytes)
        return answer.decode()

    def pc() -> int:
        return int.from_bytes(bytes.fromhex(ask("p20")), "little")

    for hart in two.harts:
        hart.words[W.PC] = RAM + 0x100 * hart.hartid
    assert (ask("qfThreadInfo"), ask("qsThreadInfo"), ask("qC")) == ("m1,2", "l", "QC1")
    assert bytes.fromhex(ask("qThreadExtraInfo,2")).decode() == "hart 1, M-mode"
    assert pc() == RAM
    assert ask("Hg2") == "OK" and (pc(), ask("qC")) == (RAM + 0x100, "QC2")
    assert ask("P20=" + (RAM + 8).to_bytes(8, "little").hex()) == "OK"
    assert [hart.pc for hart in two.harts] == [RAM, RAM + 8]
    assert (ask("Hc1"), pc()) == ("OK", RAM + 8)  # not what registers are asked of
    assert [ask(f"T{n}") for n in (1, 2, 3)] == ["OK", "OK", "E22"] and ask("Hg3") == "E22"
    stop = stub.stopped(Stop(StopReason.BREAKPOINT), lambda text: None)
    assert stop.startswith(b"T05thread:1;") and ask("qC") == "QC1"


@pytest.mark.parametrize("hartid", [0, 1])
def test_a_stop_reaches_the_hart_that_runs(two: Machine, hartid: int) -> None:
    two.ram.write(RAM, assemble("1: j 1b"))
    hart, stops = two.harts[hartid], []
    hart.reset(RAM)
    thread = threading.Thread(target=lambda: stops.append(hart.run()))
    thread.start()
    wait_until(lambda: hart.running)
    two.stop()
    thread.join()
    assert [stop.reason for stop in stops] == [StopReason.INTERRUPTED]
