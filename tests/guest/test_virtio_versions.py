"""virtio of version 1 and of version 2: the same guest drives either, here and on QEMU."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import Result
from guest_kit import compiled
from register_kit import VIRTIO, WAYS, Step, check, read, run_ours, run_qemu, write

from emu.board.devices.disk_image import DiskImage
from emu.board.virt import VirtBoard
from emu.debug.snapshot import snapshot
from guest import build

Cli = Callable[..., Result]
pytestmark = pytest.mark.skipif(not build.have_compiler(), reason="needs ziglang")

# Interrupt source 1, InterruptStatus 1, status 0 (a sector behind the end: 1, an I/O error).
SEEN = """\
version 0000000{version}
device 00000002
version 1 feature 0000000{modern}
status 0000000b
{ready}
sectors 00000008
read 00010100
contents
wrote 00010100
read 00010100
last 000000ff
read 00010101
status 00000000
"""
LEGACY = SEEN.format(version=1, modern=0, ready="page 00000000") + "page 00000000\n"
MODERN = SEEN.format(version=2, modern=1, ready="ready 00000001")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(b"contents".ljust(8 * 512, b"."))
    return path


def guest() -> Path:
    return compiled(build.BARE, Path(__file__).with_name("virtio_guest.c").read_text())


def qemu_disk(path: Path, legacy: bool) -> Sequence[str]:
    """QEMU's options for a disk in slot 0; version 1 is what it does by itself."""
    drive = ["-drive", f"file={path},if=none,format=raw,id=d"]
    drive += ["-device", "virtio-blk-device,drive=d,bus=virtio-mmio-bus.0"]
    return drive if legacy else [*drive, "-global", "virtio-mmio.force-legacy=false"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("legacy", "seen"), [(True, LEGACY), (False, MODERN)])
def test_a_disk_of_either_version(
    legacy: bool, seen: str, way: str, disk: Path, tmp_path: Path
) -> None:
    if way == "qemu":
        text = run_qemu(guest(), tmp_path, {}, *qemu_disk(disk, legacy))
    else:
        disks = [DiskImage(disk, "cow")]
        text = run_ours(way, guest(), {}, disks, slots=[0], virtio_legacy=legacy)
    assert text.replace("\r", "") == seen


@pytest.mark.parametrize("way", ["inside", "qemu"])
def test_a_driver_of_version_1_may_forget_driver_ok(way: str, disk: Path, tmp_path: Path) -> None:
    source = Path(__file__).with_name("virtio_guest.c").read_text()
    path = compiled(build.BARE, source.replace("REGISTER(0x70) = 15;", ""))
    if way == "qemu":
        text = run_qemu(path, tmp_path, {}, *qemu_disk(disk, legacy=True))
    else:
        text = run_ours(way, path, {}, [DiskImage(disk, "cow")], slots=[0], virtio_legacy=True)
    assert text.replace("\r", "") == LEGACY


def slot(offset: int, expected: int | None, size: int = 4, number: int = 0) -> Step:
    return read(VIRTIO[number] + offset, expected, size)


def to_slot(offset: int, value: int) -> Step:
    return write(VIRTIO[0] + offset, value)


@pytest.mark.parametrize("way", ["inside", "qemu"])
def test_registers_of_version_1(way: str, disk: Path, tmp_path: Path) -> None:
    """In an empty slot too; FEATURES_OK is a bit like others, and features are masked."""
    steps = [
        *(slot(0, 0x7472_6976, number=n) for n in range(8)),
        *(slot(4, 1, number=n) for n in range(8)),
        slot(12, 0x554D_4551), slot(8, 2), slot(8, 0, number=1),
        to_slot(0x14, 1), slot(0x10, 0), to_slot(0x14, 0),
        to_slot(0x70, 3), to_slot(0x20, 0xFFFF_FFFF), to_slot(0x24, 1), to_slot(0x20, 1),
        to_slot(0x24, 0), to_slot(0x70, 0xB), slot(0x70, 0xB), to_slot(0x70, 0x8B),
        slot(0x70, 0x8B), to_slot(0x30, 1), slot(0x34, 0), to_slot(0x30, 0), slot(0x44, 0),
        to_slot(0x28, 4096), slot(0x40, 0), to_slot(0x38, 8), to_slot(0x3C, 4096),
        to_slot(0x40, 0x8_0123), slot(0x40, 0x8_0123), to_slot(0x44, 1), slot(0x44, 0),
        to_slot(0x28, 1024), slot(0x40, 0x8_0123 << 2), to_slot(0x40, 0), slot(0x40, 0),
        to_slot(0x40, 0x20_0000), to_slot(0x70, 0), slot(0x40, 0), slot(0x70, 0),
        to_slot(0x40, 0x20_0100), to_slot(0x28, 0x8000_0000), slot(0x40, 1),
        to_slot(0x28, 0), slot(0x40, 0x8004_0000),
        slot(0x100, 8), slot(0x100, 8, 1), slot(0x101, 0, 2), slot(0x104, 0), slot(0xFC, 0),
        slot(0xB0, 0xFFFF_FFFF), slot(0xB4, 0xFFFF_FFFF), slot(0x70, 0, 1), slot(0, 0, 2),
    ]  # fmt: skip
    disks = [DiskImage(disk)]
    qemu = qemu_disk(disk, legacy=True)
    check(way, steps, tmp_path, disks=disks, qemu=qemu, slots=[0], virtio_legacy=True)


# the command


def test_the_option_and_the_notes(pagewalk: Cli, disk: Path) -> None:
    def boot(*arguments: object) -> Result:
        return pagewalk("boot", guest(), "--bios", "none", "--disk", f"{disk},bus=0", *arguments)

    plain = boot()
    assert (plain.exit_code, plain.stdout) == (0, MODERN) and "virtio" not in plain.stderr
    legacy = boot("--virtio-legacy")
    assert (legacy.exit_code, legacy.stdout) == (0, LEGACY) and "virtio" not in legacy.stderr


ONLY_ITS_OWN = """
int main(void) {{
    volatile unsigned *slot = (volatile unsigned *)0x10001000;
    if (slot[1] != {version} && {careful}) return 3;
    slot[0x70 / 4] = 0;
    for (int i = 0; i < 9; i++) slot[{register} / 4] = 1;
    return 4;
}}
"""


@pytest.mark.parametrize(
    ("version", "register", "options", "way"),
    [(1, 0x28, (), "with"), (1, 0x40, (), "with"), (2, 0x44, ("--virtio-legacy",), "without")],
)
@pytest.mark.parametrize("careful", [False, True])
def test_a_guest_that_wants_the_other_version(
    pagewalk: Cli, disk: Path, version: int, register: int, options: Sequence[str], way: str,
    careful: bool,
) -> None:  # fmt: skip
    """It is told of once, whether the guest drives on or looks and gives up."""
    text = ONLY_ITS_OWN.format(version=version, register=register, careful=int(careful))
    arguments = ["boot", compiled(build.BARE, text), "--bios", "none", *options]
    arguments += ["--disk", f"{disk},bus=0"]
    result = pagewalk(*arguments)
    assert result.exit_code == 3 if careful else 4
    [line] = [line for line in result.stderr.splitlines() if "virtio" in line]
    if careful:
        assert line == (
            f"pagewalk: the guest has looked at virtio's version, {3 - version}, and driven no "
            f"disk: if it wants version {version}, try it {way} --virtio-legacy"
        )
    else:
        assert line == (
            f"pagewalk: the guest drives virtio as version {version}: try it {way} --virtio-legacy"
        )
    told = json.loads(pagewalk(*arguments, "--json").stdout)
    assert [line.removeprefix("pagewalk: ")] == [n for n in told["notes"] if "virtio" in n]


@pytest.mark.parametrize("options", [(), ("--virtio-legacy",)])
def test_a_guest_that_looks_into_another_slot(
    pagewalk: Cli, disk: Path, options: Sequence[str]
) -> None:
    """Before its version the disk must be where the guest looks for it."""
    text = ONLY_ITS_OWN.format(version=9, register=0x28, careful=1)
    arguments = ["boot", compiled(build.BARE, text), "--bios", "none", *options, "--disk", disk]
    result = pagewalk(*arguments)
    assert result.exit_code == 3
    [line] = [line for line in result.stderr.splitlines() if "virtio" in line]
    assert line == (
        "pagewalk: the guest has looked for a disk in virtio's slot 0 and not where it is, in 7: "
        "try --disk FILE,bus=0"
    )
    assert "virtio" not in pagewalk(*arguments[:-2]).stderr  # nobody has given a disk


def test_a_snapshot_is_of_one_version(disk: Path, tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    for legacy, fits in ((True, None), (True, True), (False, False)):
        machine = VirtBoard(
            1 << 20, lambda data: None, [DiskImage(disk)], slots=[0], virtio_legacy=legacy
        )
        blk = next(device for device in machine.devices if device.base == VIRTIO[0])
        try:
            if fits is None:
                for offset, value in ((0x28, 4096), (0x38, 8), (0x3C, 64), (0x40, 0x8_0010)):
                    blk.write(offset, 4, value)
                snapshot.save(machine, path)
            elif fits:
                snapshot.load(machine, path)
                assert blk.read(0x40, 4) == 0x8_0010
            else:
                said = "its virtio devices are of version 1, with --virtio-legacy"
                with pytest.raises(snapshot.SnapshotError, match=said):
                    snapshot.load(machine, path)
        finally:
            machine.close()
