"""`--disk FILE,bus=N`: each disk in the virtio slot that it was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from guest_kit import compiled
from register_kit import run_qemu

from emu.board import memory_map as board
from emu.board.devices.disk_image import DiskImage
from emu.board.devices.virtio_blk import VirtioBlk
from emu.board.devices.virtio_rng import VirtioRng
from emu.board.virt import VirtBoard, slots_of
from emu.debug.snapshot import snapshot
from guest import build

Cli = Callable[..., Result]

# A character a slot: the device ID, or of a disk its size in sectors.
SLOTS = """
int main(void) {
    for (unsigned long slot = 0x10001000; slot <= 0x10008000; slot += 0x1000) {
        unsigned id = *(volatile unsigned *)(slot + 8);
        unsigned sectors = *(volatile unsigned *)(slot + 0x100);
        *(volatile unsigned char *)0x10000000 = id == 2 ? 'a' + sectors : '0' + id;
    }
    return 0;
}
"""


@pytest.fixture
def disks(tmp_path: Path) -> list[Path]:
    """Files of 1, 2, 3 ... 8 sectors: b, c, d ... i to the guest."""
    made = [tmp_path / f"disk{size}" for size in range(1, 9)]
    for size, path in enumerate(made, 1):
        path.write_bytes(bytes(512 * size))
    return made


@pytest.fixture
def slots() -> Path:
    if not build.have_compiler():
        pytest.skip("needs ziglang")
    return compiled(build.BARE, SLOTS)


CASES = [
    ((), "00000004"),
    (("",), "0000004b"),
    (("", ""), "000004cb"),
    (("bus=0",), "b0000004"),
    (("bus=7",), "0000004b"),
    (("bus=7", "bus=6"), "000004cb"),
    (("bus=6", ""), "000004bc"),
    (("", "bus=7"), "000004bc"),
    (("", "bus=0", "", "bus=6"), "c0004deb"),
    (("bus=3", "bus=1", "", "bus=7", "", "bus=0", "bus=2"), "gchb4fde"),
]


@pytest.mark.parametrize(("given", "seen"), CASES)
def test_slots(
    pagewalk: Cli, slots: Path, disks: list[Path], given: tuple[str, ...], seen: str
) -> None:
    options: list[str] = []
    for disk, word in zip(disks, given, strict=False):
        options += ["--disk", f"{disk},{word}" if word else str(disk)]
    result = pagewalk("boot", slots, "--bios", "none", *options)
    assert (result.exit_code, result.stdout) == (0, seen)


@pytest.mark.parametrize(("given", "seen"), CASES[:7])
def test_slots_on_qemu(
    slots: Path, disks: list[Path], given: tuple[str, ...], seen: str, tmp_path: Path
) -> None:
    """Except where a disk would have taken the slot that a later one asks for."""
    options: list[str] = []
    for disk, word in zip(disks, given, strict=False):
        where = word.replace("bus=", ",bus=virtio-mmio-bus.")
        options += ["-drive", f"file={disk},if=none,format=raw,id={disk.name}"]
        options += ["-device", f"virtio-blk-device,drive={disk.name}{where}"]
    options += ["-device", "virtio-rng-device"]
    assert run_qemu(slots, tmp_path, {}, *options) == seen


@pytest.mark.parametrize(
    "words", ["ro,bus=0", "bus=0,ro", "cow,bus=0", "bus=0,cow", "bus=0"], ids=str
)
def test_words_in_either_order(
    pagewalk: Cli, slots: Path, disks: list[Path], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    begin = DiskImage.__init__

    def watched(self: DiskImage, path: Path, mode: str = "ro") -> None:
        modes.append(mode)
        begin(self, path, mode)

    monkeypatch.setattr(DiskImage, "__init__", watched)
    result = pagewalk("boot", slots, "--bios", "none", "--disk", f"{disks[0]},{words}")
    assert (result.exit_code, result.stdout) == (0, "b0000004")
    assert modes == ["ro" if "ro" in words else "cow"]


def test_a_name_with_commas(pagewalk: Cli, slots: Path, tmp_path: Path) -> None:
    """Only the last words are taken, each kind once: the rest is the name."""
    for name, given in (
        ("a,b", "a,b"), ("a,b", "a,b,bus=0"), ("x,ro", "x,ro,cow,bus=0"),
        ("x,bus=1", "x,bus=1,bus=0"), ("x,bus=1,ro", "x,bus=1,ro,bus=0,cow"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(bytes(512))
        result = pagewalk("boot", slots, "--bios", "none", "--disk", tmp_path / given)
        seen = "b0000004" if "bus=0" in given else "0000004b"
        assert (result.exit_code, result.stdout) == (0, seen), given


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("{},bus=8",), "--disk: bus=8: the slots are bus=0 to bus=7, QEMU's virtio-mmio-bus.N"),
        (("{},bus=-1",), "--disk: bus=-1: the slots are"),
        (("{},bus=",), "--disk: bus=: the slots are"),
        (("{},ro,bus=virtio-mmio-bus.0",), "--disk: bus=virtio-mmio-bus.0: the slots are"),
        (("{},bus=" + "9" * 5000,), "--disk: bus=999"),
        (("{},bus=2", "{},ro,bus=2"), "bus=2: two disks ask for this slot"),
        (("{},bus=0,bus=0",), "disk {},bus=0: No such file or directory"),
        ((",bus=0",), "disk .: is a directory"),
    ],
)
def test_what_cannot_be(
    pagewalk: Cli, disks: list[Path], given: tuple[str, ...], said: str
) -> None:
    options = [word for text in given for word in ("--disk", text.format(disks[0]))]
    result = pagewalk("boot", "tiny", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert line.startswith(f"pagewalk: {said.format(disks[0])}")


def test_each_slot_has_its_own_interrupt(disks: list[Path]) -> None:
    """Slot N is at 0x10001000 + N * 0x1000 and raises source 1 + N."""
    for slot in range(8):
        machine = VirtBoard(1 << 20, lambda data: None, [DiskImage(disks[0])], slots=[slot])
        try:
            [blk] = [device for device in machine.devices if isinstance(device, VirtioBlk)]
            [rng] = [device for device in machine.devices if isinstance(device, VirtioRng)]
            assert blk.base == 0x1000_1000 + 0x1000 * slot
            assert rng.base == 0x1000_8000 - 0x1000 * (slot == 7)
            blk._on_irq(True)
            assert machine.plic.read(0x1000, 4) == 1 << 1 + slot
            bases = {device.base for device in machine.devices if device.name.startswith("virtio")}
            assert bases == {place.base for place in board.VIRTIO}
        finally:
            machine.close()


def test_slots_of_refuses() -> None:
    assert slots_of([None, 0, None]) == [7, 0, 6]
    for wanted, said in (([8], "bus=8"), ([-1], "bus=-1"), ([1, None, 1], "two disks")):
        with pytest.raises(ValueError, match=said):
            slots_of(wanted)


def test_a_snapshot_needs_its_disk_in_its_slot(disks: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    for slot, fits in ((2, True), (2, True), (None, False), (3, False)):
        machine = VirtBoard(1 << 20, lambda data: None, [DiskImage(disks[0])], slots=[slot])
        try:
            if not path.exists():
                snapshot.save(machine, path)
            elif fits:
                snapshot.load(machine, path)
            else:
                with pytest.raises(snapshot.SnapshotError, match="has no device virtio"):
                    snapshot.load(machine, path)
        finally:
            machine.close()
