"""The cpio archive, read back by a reader of the tests' own, and by the system's cpio."""

from __future__ import annotations

import shutil
import stat
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner
from distro import find_mke2fs
from hypothesis import given
from hypothesis import strategies as st

from guest.distro import initramfs
from guest.distro.boot_disk import DiskError, make_boot_disk, partition_table
from guest.distro.fetch import Guests
from guest.distro.initramfs import (
    Entry,
    InitramfsError,
    character_device,
    cpio,
    directory,
    file,
    link,
    make_initramfs,
    write_atomically,
)


class Read(NamedTuple):
    name: str
    fields: tuple[int, ...]  # ino, mode, uid, gid, nlink, mtime, size, dev, dev, rdev, rdev, ...
    data: bytes


def read(archive: bytes) -> list[Read]:
    """buffer-format.rst, word for word: 6 + 13 * 8 characters, name, data, each to 4 bytes."""
    found, at = [], 0
    while True:
        assert at % 4 == 0
        assert archive[at : at + 6] == b"070701"
        fields = tuple(int(archive[at + 6 + 8 * i :][:8], 16) for i in range(13))
        name_end = at + 110 + fields[11]
        assert archive[name_end - 1] == 0
        name = archive[at + 110 : name_end - 1].decode()
        data_at = (name_end + 3) // 4 * 4
        data = archive[data_at : data_at + fields[6]]
        assert len(data) == fields[6]
        at = (data_at + fields[6] + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert at == len(archive)
            return found
        found.append(Read(name, fields, data))


def test_one_file_byte_by_byte() -> None:
    """Worked out by hand from buffer-format.rst."""
    zero = "00000000"
    head = f"070701{1:08X}{0o100644:08X}{zero}{zero}{1:08X}{zero}{5:08X}"
    head += f"{zero}{zero}{zero}{zero}{2:08X}{zero}"
    end = f"070701{zero}{zero}{zero}{zero}{1:08X}{zero}{zero}{zero}{zero}{zero}{zero}{11:08X}{zero}"
    expected = head.encode() + b"a\0" + b"hello" + bytes(3)
    expected += end.encode() + b"TRAILER!!!\0" + bytes(3)
    assert cpio({"a": file(b"hello")}) == expected


TREE = {
    "dev": directory(),
    "dev/console": character_device(5, 1),
    "init": file(b"#!/bin/sh\n", 0o755),
    "bin": directory(0o700),
    "bin/sh": link("busybox"),
    "bin/busybox": file(b"\x7fELF", 0o755),
}


def test_every_kind_of_entry() -> None:
    found = {entry.name: entry for entry in read(cpio(TREE))}
    assert list(found) == ["bin", "bin/busybox", "bin/sh", "dev", "dev/console", "init"]
    modes = {name: entry.fields[1] for name, entry in found.items()}
    assert modes == {
        "bin": stat.S_IFDIR | 0o700,
        "bin/busybox": stat.S_IFREG | 0o755,
        "bin/sh": stat.S_IFLNK | 0o777,
        "dev": stat.S_IFDIR | 0o755,
        "dev/console": stat.S_IFCHR | 0o600,
        "init": stat.S_IFREG | 0o755,
    }
    assert found["bin/sh"].data == b"busybox"
    assert found["dev/console"].fields[9:11] == (5, 1)
    assert found["bin"].fields[4] == 2
    numbers = [entry.fields[0] for entry in found.values()]
    assert sorted(set(numbers)) == numbers  # two with one number would be one file
    assert all(entry.fields[2:4] == (0, 0) and entry.fields[5] == 0 for entry in found.values())


def test_order_of_declaration_does_not_matter() -> None:
    assert cpio(TREE) == cpio(dict(reversed(TREE.items())))


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)


@given(
    st.dictionaries(
        NAMES.filter(lambda name: name not in (".", "..", "TRAILER!!!")),
        st.tuples(st.binary(max_size=20), st.integers(0, 0o7777)),
        max_size=6,
    )
)
def test_what_goes_in_comes_out(files: dict[str, tuple[bytes, int]]) -> None:
    tree = {"d": directory()} | {f"d/{name}": file(*rest) for name, rest in files.items()}
    got = {entry.name: (entry.data, entry.fields[1]) for entry in read(cpio(tree))}
    assert got.pop("d") == (b"", stat.S_IFDIR | 0o755)
    assert got == {f"d/{name}": (d, m | stat.S_IFREG) for name, (d, m) in files.items()}


@pytest.mark.parametrize("path", ["/init", "a//b", "", "a/", "../x", "./x", "a\0b", "no/parent"])
def test_refuses_paths(path: str) -> None:
    with pytest.raises(InitramfsError):
        cpio({"a": directory(), path: file(b"")})


def test_refuses_a_file_as_a_directory() -> None:
    with pytest.raises(InitramfsError, match="a is no directory"):
        cpio({"a": file(b""), "a/b": file(b"")})


def test_the_systems_cpio_reads_it(tmp_path: Path) -> None:
    if shutil.which("cpio") is None:
        pytest.skip("no cpio on this machine")
    listed = subprocess.run(
        ["cpio", "-itv", "--quiet"], input=cpio(TREE), capture_output=True, check=True
    )
    lines = [line.split() for line in listed.stdout.decode().splitlines()]
    kinds = {line[8]: line[0] for line in lines if not line[0].startswith("c")}
    assert kinds["bin/sh"] == "lrwxrwxrwx" and kinds["init"] == "-rwxr-xr-x"
    assert [line[0] for line in lines if "dev/console" in line] == ["crw-------"]


def module(depends: str) -> bytes:
    """A relocatable ELF with a section .modinfo and no more (gABI, figures 4-3 and 4-8)."""
    info = b"license=GPL\0depends=" + depends.encode() + b"\0name=x\0"
    names = b"\0.modinfo\0.shstrtab\0"
    at = 64 + 3 * 64
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 1, 243, 1, 0, 0, 64, 0, 64, 0, 0, 64, 3, 2)
    sections = bytes(64)
    sections += struct.pack("<IIQQQQIIQQ", 1, 1, 2, 0, at, len(info), 0, 0, 1, 0)
    sections += struct.pack("<IIQQQQIIQQ", 10, 3, 0, 0, at + len(info), len(names), 0, 0, 1, 0)
    return header + sections + info + names


@pytest.fixture
def guests(tmp_path: Path) -> Guests:
    """A set of guests that is none, of files made here."""
    folder = tmp_path / "guests"
    (folder / "modules").mkdir(parents=True)
    for name in ("linux", "busybox"):
        (folder / name).write_bytes(name.encode() * 1000)
    modules = {"mbcache": "", "ext4": "mbcache,jbd2"}
    for name, depends in modules.items():
        (folder / "modules" / f"{name}.ko").write_bytes(module(depends))
    return Guests(
        folder,
        folder / "linux",
        *[folder / "none"] * 6,
        folder / "busybox",
        tuple(folder / "modules" / f"{name}.ko" for name in modules),
        "6.1-test",
        {},
    )


def test_the_guests_initramfs(guests: Guests) -> None:
    found = {entry.name: entry for entry in read(make_initramfs(guests))}
    assert found["bin/busybox"].data == guests.busybox.read_bytes()
    assert found["bin/sh"].data == b"busybox"
    assert found["dev/console"].fields[9:11] == (5, 1)
    assert found["dev/null"].fields[9:11] == (1, 3)
    assert found["init"].fields[1] == stat.S_IFREG | 0o755
    assert found["init"].data.startswith(b"#!/bin/busybox sh\n")
    assert {"proc", "sys", "dev", "tmp", "root"} <= found.keys()
    assert found["lib/modules/6.1-test/ext4.ko"].data == module("mbcache,jbd2")
    assert found["lib/modules/6.1-test/modules.dep"].data == (
        b"mbcache.ko:\next4.ko: mbcache.ko jbd2.ko\n"
    )
    assert make_initramfs(guests) == make_initramfs(guests)


def test_init_is_a_shell_script(guests: Guests, tmp_path: Path) -> None:
    """As far as the system's shell can tell without running it."""
    script = next(entry for entry in read(make_initramfs(guests)) if entry.name == "init")
    assert subprocess.run(["sh", "-n"], input=script.data).returncode == 0


def test_writes_whole_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.cpio"
    write_atomically(path, b"one")
    before = path.stat()
    write_atomically(path, b"one")
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("emu.debug.atomic_file.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_command_without_guests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGEWALK_GUESTS", str(tmp_path / "none"))
    result = CliRunner().invoke(initramfs.main, ["-o", str(tmp_path / "x")])
    assert result.exit_code == 2
    assert result.stderr == f"pagewalk: no guests in {tmp_path}/none: `pagewalk fetch` gets them\n"


def test_partition_table() -> None:
    table = partition_table(0x12345)
    assert len(table) == 512
    assert table[510:] == b"\x55\xaa"
    assert table[446:462] == bytes.fromhex("80ffffff 83ffffff 00080000 45230100")
    assert not any(table[:446]) and not any(table[462:510])


def test_boot_disk_holds_an_ext2(guests: Guests, tmp_path: Path) -> None:
    if find_mke2fs() is None:
        pytest.skip("no mke2fs on this machine")
    path = tmp_path / "disk"
    make_boot_disk(guests, path)
    disk = path.read_bytes()
    (sectors,) = struct.unpack_from("<I", disk, 446 + 12)
    assert len(disk) == (2048 + sectors) * 512
    superblock = disk[1 << 20 :][1024:2048]  # ext4.rst: magic at 0x38, features at 0x5C
    assert superblock[0x38:0x3A] == b"\x53\xef"
    compatible, incompatible, read_only = struct.unpack_from("<III", superblock, 0x5C)
    # FILETYPE; SPARSE_SUPER and LARGE_FILE: no extents, no journal, no checksums
    assert incompatible == 2 and read_only & ~3 == 0 and not compatible & 4
    assert make_initramfs(guests)[:200] in disk
    if debugfs := shutil.which("debugfs", path="/usr/sbin:/sbin:/usr/bin:/bin"):
        (tmp_path / "fs").write_bytes(disk[1 << 20 :])
        told = subprocess.run(
            [debugfs, "-R", "cat /boot/linux", str(tmp_path / "fs")], capture_output=True
        )
        assert told.stdout == guests.kernel.read_bytes()


def test_boot_disk_without_mke2fs(
    guests: Guests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guest.distro.boot_disk.find_mke2fs", lambda: None)
    with pytest.raises(DiskError, match="install e2fsprogs"):
        make_boot_disk(guests, tmp_path / "disk")
    monkeypatch.undo()
    if find_mke2fs() is not None:
        with pytest.raises(DiskError, match="No such file"):
            make_boot_disk(guests, tmp_path / "none" / "disk")


def test_a_file_too_long_for_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return 1 << 32

    with pytest.raises(InitramfsError, match="do not fit"):
        cpio({"a": Entry(stat.S_IFREG, Long())})
