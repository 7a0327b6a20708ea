"""The reset line: devices and hart as they began, and what is outside of them as it is."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest
from harness import RAM, WFI

from emu.board.devices.disk_image import DiskImage
from emu.board.virt import VirtBoard
from emu.spec import words
from emu.stop import StopReason

PMPCFG0, PMPCFG2, PMPADDR0, PMPADDR15 = 0x3A0, 0x3A2, 0x3B0, 0x3BF
FINISHER, UART = 0x10_0000, 0x1000_0000
WAYS = pytest.mark.parametrize("access", ["inside", "public"])


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(bytes(range(256)) * 64)
    return path


def board(access: str, image: Path, deterministic: bool = True) -> VirtBoard:
    disk = DiskImage(image, "cow")
    return VirtBoard(16 << 20, lambda data: None, [disk], deterministic, access=access)


def states(machine: VirtBoard) -> list[dict[str, object]]:
    return [device.state() for device in machine.devices]


@WAYS
@pytest.mark.parametrize("seed", range(3))
def test_every_device_is_as_it_began(access: str, seed: int, image: Path) -> None:
    rng = random.Random(seed)
    with closing(board(access, image)) as machine:
        machine.set_rom(WFI * 8, RAM)
        fresh = states(machine)
        for _ in range(3000):
            device = rng.choice(machine.devices)
            if device.base == FINISHER:
                continue
            offset = rng.choice((0, 4, 8, rng.randrange(0x200))) & ~3
            with machine.lock:
                device.write(offset % device.size, rng.choice((1, 4)), rng.getrandbits(32))
        machine.hart.interrupts.become(rng.getrandbits(12), rng.getrandbits(12))
        assert states(machine) != fresh
        machine.reset()
        assert states(machine) == fresh
        assert machine.hart.pending == 0
        assert (machine.hart.pc, machine.hart.priv, machine.hart.satp) == (0x1000, 3, 0)
        assert not any(machine.hart.words[1:32])
        assert machine.run().reason is StopReason.WFI  # of the ROM


@WAYS
def test_what_is_outside_of_the_devices_stays(access: str, image: Path) -> None:
    with closing(board(access, image)) as machine:
        machine.set_rom(WFI * 8, RAM)
        machine.disks[0].write(memoryview(b"new" * 100), 1000)
        machine.uart.receive(b"typed ahead, more than a FIFO takes")
        machine.ram.write64(RAM + 64, 7)
        machine.clock.set_now(12345)
        machine.reset()
        found = bytearray(6)
        machine.disks[0].read([memoryview(found)], 1000)
        assert bytes(found) == b"newnew"
        assert image.read_bytes() == bytes(range(256)) * 64
        # One byte was in the FIFO, which a reset clears.
        typed = bytes(machine.uart.read(0, 1) for _ in range(34))
        assert typed == b"yped ahead, more than a FIFO takes"
        assert machine.ram.read64(RAM + 64) == 7
        assert machine.clock.now() >= 12345


def test_locks_of_the_pmp_end(image: Path) -> None:
    """Only a reset takes them away (section 3.7.1)."""
    with closing(board("inside", image)) as machine:
        csr = machine.hart.access.csr
        for number in (PMPADDR0, PMPADDR0 + 3, PMPADDR15):
            csr(number, 0x1234_5678)
        csr(PMPCFG0, 0x98 | 0x9B << 24)
        csr(PMPCFG0, 0)
        assert csr(PMPCFG0) == 0x98 | 0x9B << 24, "it is locked"
        machine.reset()
        assert [csr(n) for n in range(PMPADDR0, PMPADDR15 + 1)] == [0] * 16
        assert (csr(PMPCFG0), csr(PMPCFG2)) == (0, 0)
        csr(PMPADDR0, 5)
        assert csr(PMPADDR0) == 5


def test_an_alarm_of_before_does_not_ring(image: Path) -> None:
    """mtimecmp and the RTC's alarm are forgotten; the interrupt that they raised, too."""
    with closing(board("inside", image)) as machine:
        machine.set_rom(WFI * 8, RAM)
        with machine.lock:
            machine.clint.write(0x4000, 4, machine.clock.now() + 100)
            machine.clint.write(0x4004, 4, 0)
            machine.clint.write(0, 4, 1)  # msip
        machine.reset()
        machine.hart.words[words.MIE] = 0x888
        assert machine.run().reason is StopReason.WFI
        assert machine.clock.next_alarm() is None
        assert machine.hart.pending == 0
