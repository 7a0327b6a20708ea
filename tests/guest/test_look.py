"""`walk`, `tables` and `what` with --load: a machine of somebody else's, as a snapshot has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from emu.board.devices.disk_image import DiskImage
from emu.board.virt import VirtBoard
from emu.debug.snapshot import file as snapshot_file
from emu.debug.snapshot import snapshot
from emu.debug.snapshot import view as snapshot_view
from emu.spec import tables, words
from emu.spec.paging import MODES, SV39, satp_root
from emu.spec.trap import Trap
from emu.stop import Stop, StopReason
from guest.boot.boot import BootOptions, prepare
from guest.image.shipped import shipped

Cli = Callable[..., Result]
V, R, W, X, U, G, A, D = (1 << i for i in range(8))
KERNEL_DATA = V | R | W | G | A | D
KERNEL_TEXT = V | R | X | G | A
ROOT = 0x8010_0000
TEXT = 0x8020_0000  # the PA of the Image
# Where each part of Linux's address space begins: Documentation/arch/riscv/vm-layout.rst.
VMALLOC = {"sv39": 0xFFFFFFC600000000, "sv48": 0xFFFF8F8000000000, "sv57": 0xFF20000000000000}
DIRECT = {"sv39": 0xFFFFFFD600000000, "sv48": 0xFFFFAF8000000000, "sv57": 0xFF60000000000000}
FIXMAP = {"sv39": 0xFFFFFFC4FEA00000, "sv48": 0xFFFF8D7FFEA00000, "sv57": 0xFF1BFFFFFEA00000}
MODULES = 0xFFFFFFFF00000000
KERNEL = 0xFFFFFFFF80000000


class Machine:
    """A board that has not run, with page tables written by hand."""

    def __init__(self, mode: str, disk: Path | None = None) -> None:
        self.mode = MODES[mode]
        disks = [] if disk is None else [DiskImage(disk, "ro")]
        self.board = VirtBoard(16 << 20, lambda data: None, disks, deterministic=True)
        self.ram = self.board.ram
        self._free = ROOT + 4096
        hart = self.board.hart
        hart.words[words.PRIV] = 1
        hart.words[words.PC] = KERNEL
        hart.set_satp({"sv39": 8, "sv48": 9, "sv57": 10}[mode] << 60 | 7 << 44 | ROOT >> 12)

    def map(self, va: int, pa: int, flags: int, level: int = 0) -> int:
        """Map a page; the PA of its PTE."""
        table = ROOT
        for i in range(self.mode.levels - 1, level, -1):
            slot = table + (va >> 12 + 9 * i & 511) * 8
            if not self.ram.read64(slot):
                self.ram.write64(slot, self._free >> 12 << 10 | V)
                self._free += 4096
            table = self.ram.read64(slot) >> 10 << 12
        slot = table + (va >> 12 + 9 * level & 511) * 8
        self.ram.write64(slot, pa >> 12 << 10 | flags)
        return slot

    def save(self, path: Path) -> Path:
        with closing(self.board):
            snapshot.save(self.board, path)
        return path


def like_linux(mode: str, disk: Path | None = None) -> Machine:
    """The outline of a Linux kernel, with one process."""
    it = Machine(mode, disk)
    it.ram.write(TEXT + 0x38, b"RSC\x05")  # Documentation/arch/riscv/boot-image-header.rst
    it.map(0x10000, 0x80400000, V | R | X | U | A)
    it.map(0x11000, 0x80402000, V | R | W | U | A | D)
    it.map(FIXMAP[mode] + 0x20_0000, 0x80E00000, KERNEL_DATA, 1)
    it.map(VMALLOC[mode], 0x80404000, KERNEL_DATA)
    it.map(VMALLOC[mode] + 0x1000, 0x80405000, KERNEL_DATA)
    it.map(VMALLOC[mode] + 0x5000, 0x10000000, KERNEL_DATA)  # the UART
    it.map(DIRECT[mode], 0x80000000, KERNEL_DATA, 1)
    it.map(DIRECT[mode] + 0x400000, 0x80400000, KERNEL_DATA, 1)
    it.map(MODULES + 0x3000, 0x80406000, KERNEL_TEXT)
    it.map(KERNEL, TEXT, KERNEL_TEXT, 1)
    it.map(KERNEL + 0x20_0000, TEXT + 0x20_0000, KERNEL_DATA, 1)
    return it


@pytest.fixture
def symbols(tmp_path: Path) -> Path:
    path = tmp_path / "kallsyms"
    path.write_text(f"{KERNEL:016x} T _start\n{KERNEL + 0x2000:016x} T _text\n")
    return path


@pytest.mark.parametrize("mode", MODES)
def test_tables_of_linux_have_its_names(pagewalk: Cli, tmp_path: Path, mode: str) -> None:
    path = like_linux(mode).save(tmp_path / "x")
    result = pagewalk("tables", "--load", path)
    assert result.exit_code == 0
    assert (
        result.stdout
        == f"""\
vaddr            paddr            size             attr
---------------- ---------------- ---------------- -------
---[ User space ]---
0000000000010000 0000000080400000 0000000000001000 r-xu-a-
0000000000011000 0000000080402000 0000000000001000 rw-u-ad
---[ Fixmap ]---
{FIXMAP[mode] + 0x200000:016x} 0000000080e00000 0000000000200000 rw--gad
---[ vmalloc() area ]---
{VMALLOC[mode]:016x} 0000000080404000 0000000000002000 rw--gad
{VMALLOC[mode] + 0x5000:016x} 0000000010000000 0000000000001000 rw--gad
---[ Linear mapping ]---
{DIRECT[mode]:016x} 0000000080000000 0000000000200000 rw--gad
{DIRECT[mode] + 0x400000:016x} 0000000080400000 0000000000200000 rw--gad
---[ Modules/BPF mapping ]---
ffffffff00003000 0000000080406000 0000000000001000 r-x-ga-
---[ Kernel mapping ]---
ffffffff80000000 0000000080200000 0000000000200000 r-x-ga-
ffffffff80200000 0000000080400000 0000000000200000 rw--gad
"""
    )


def test_tables_of_another_kernel_have_no_names(pagewalk: Cli, tmp_path: Path) -> None:
    """The same addresses do not make a Linux: the Image's header does."""
    it = like_linux("sv48")
    it.ram.write(TEXT + 0x38, bytes(4))
    result = pagewalk("tables", "--load", it.save(tmp_path / "x"))
    assert "---[" not in result.stdout
    assert len(result.stdout.splitlines()) == 2 + 10


def test_tables_in_json(pagewalk: Cli, tmp_path: Path, symbols: Path) -> None:
    path = like_linux("sv57").save(tmp_path / "x")
    found = json.loads(pagewalk("tables", "--load", path, "--symbols", symbols, "--json").stdout)
    assert len(found) == 10
    assert found[0] == {
        "va": "0x10000", "pa": "0x80400000", "size": 4096, "attr": "r-xu-a-",
        "region": "User space",
    }  # fmt: skip
    assert found[8] == {
        "va": "0xffffffff80000000", "pa": "0x80200000", "size": 2 << 20, "attr": "r-x-ga-",
        "region": "Kernel mapping", "symbol": "_start",
    }  # fmt: skip
    entries = json.loads(pagewalk("tables", "--load", path, "--tree", "--json").stdout)
    assert entries[0] == {"level": 4, "index": 0, "va": "0x0", "pte": hex(0x80101000 >> 2 | V)}
    assert sum(entry["level"] == 4 for entry in entries) == 5
    empty = Machine("sv39").save(tmp_path / "empty")
    assert json.loads(pagewalk("tables", "--load", empty, "--json").stdout) == []


def test_the_tree(pagewalk: Cli, tmp_path: Path) -> None:
    lines = pagewalk("tables", "--load", like_linux("sv39").save(tmp_path / "x"), "--tree").stdout
    assert lines.startswith(
        "sv39 root table at PA 0x80100000\n"
        "  [0x0] 0x0000000000000000 table at PA 0x80101000\n"
        "    [0x0] 0x0000000000000000 table at PA 0x80102000\n"
        "      [0x10] 0x0000000000010000 4 KiB at PA 0x80400000 r-xu-a-\n"
    )
    assert "      [0x0-0x1] 0xffffffc600000000 2 x 4 KiB at PA 0x80404000 rw--gad\n" in lines


def test_walk(pagewalk: Cli, tmp_path: Path, symbols: Path) -> None:
    it = like_linux("sv39")
    top = it.ram.read64(ROOT + 8 * 0x1FE) >> 10 << 12
    path = it.save(tmp_path / "x")
    result = pagewalk(
        "walk", "ffffffff80002010", "--load", path, "--symbols", symbols, "--for", "execute"
    )
    assert result.exit_code == 0
    assert (
        result.stdout
        == f"""\
execute in S-mode
VA 0xffffffff80002010 in sv39: vpn[2]=0x1fe vpn[1]=0x0 vpn[0]=0x2 offset=0x10
in _text+0x10, Kernel mapping
root table at PA 0x80100000, ASID 7
  level 2: PTE 0x1fe at PA 0x80100ff0 = {top >> 2 | V:#018x}: table at PA {top:#x} -------
  level 1: PTE 0x0 at PA {top:#x} = 0x000000002008006b: page at PA 0x80200000 r-x-ga-
PA 0x80202010, a 2 MiB page, r-x-ga-
"""
    )


def test_walk_of_user_space_devices_and_nothing(pagewalk: Cli, tmp_path: Path) -> None:
    path = like_linux("sv48").save(tmp_path / "x")
    result = pagewalk("walk", "11008", "--load", path, "--for", "write")
    assert result.stdout.startswith("write in U-mode\n") and "PA 0x80402008" in result.stdout
    result = pagewalk("walk", "11008", "--load", path, "--supervisor")
    assert result.exit_code == 1 and "while sstatus.SUM=0" in result.stdout
    uart = f"{VMALLOC['sv48'] + 0x5000:x}"
    result = pagewalk("walk", uart, "--load", path)
    assert result.stdout.endswith("PA 0x10000000 is serial@10000000\n")
    result = pagewalk("walk", uart, "--load", path, "--json")
    story = json.loads(result.stdout)
    assert (story["region"], story["pa"]) == ("vmalloc() area", "0x10000000")
    result = pagewalk("walk", f"{KERNEL:x}", "--load", path, "--for", "write")
    assert result.exit_code == 1 and "does not allow writing" in result.stdout


def test_what(pagewalk: Cli, tmp_path: Path, symbols: Path) -> None:
    path = like_linux("sv57").save(tmp_path / "x")

    def what(address: int) -> dict[str, Any]:
        arguments = (f"{address:x}", "--load", path, "--symbols", symbols, "--json")
        return dict(json.loads(pagewalk("what", *arguments).stdout))

    text = what(KERNEL + 0x2004)
    assert (text["kind"], text["region"], text["symbol"]) == (
        "virtual", "Kernel mapping", "_text+0x4"
    )  # fmt: skip
    assert text["pa"] == "0x80202004" and text["level"] == 1
    frame = what(0x8040_4008)  # seen by vmalloc, the direct map and the kernel's data
    assert frame["kind"] == "physical"
    assert [it["va"] for it in frame["mapped_at"]] == [
        hex(VMALLOC["sv57"]), hex(DIRECT["sv57"] + 0x404000), hex(KERNEL + 0x20_4000)
    ]  # fmt: skip
    uart = what(0x1000_0000)
    assert uart["place"] == "serial@10000000"
    assert [it["va"] for it in uart["mapped_at"]] == [hex(VMALLOC["sv57"] + 0x5000)]
    assert what(0x10000)["region"] == "User space"
    assert what(VMALLOC["sv57"] + 0x2000)["mapped"] is False
    assert what(1 << 60)["kind"] == "non-canonical"
    assert what(0x80E0_0000 + 0x1000)["mapped_at"] == [
        {"va": hex(FIXMAP["sv57"] + 0x20_1000), "attr": "rw--gad"}
    ]
    line = pagewalk("what", "80f00000", "--load", path).stdout.splitlines()[0]
    assert line == "address      0x80f00000: physical, RAM"


def test_disks_are_not_needed(pagewalk: Cli, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    path = like_linux("sv39", disk).save(tmp_path / "x")
    disk.unlink()
    assert pagewalk("tables", "--load", path).exit_code == 0


def test_a_booted_machine(pagewalk: Cli, tmp_path: Path) -> None:
    """Our own kernel, stopped in a call of one of its tasks; it is no Linux."""
    booted = prepare(BootOptions(shipped()["tiny"], deterministic=True))
    board = booted.board
    calls: list[int] = []

    def stop_in_a_call(trap: Trap) -> None:
        if trap.priv == 0 and trap.cause == 8:
            calls.append(trap.epc)
            if len(calls) == 5:
                board.hart.end(Stop(StopReason.LIMIT))

    path = tmp_path / "x"
    with closing(board):
        board.hart.trap_listener = stop_in_a_call
        assert board.run().reason is StopReason.LIMIT
        assert booted.sbi is not None
        snapshot.save(board, path, parts={"sbi": booted.sbi})
        wanted = tables.info_mem(tables.ranges(board.ram, SV39, satp_root(board.hart.satp)))
    result = pagewalk("tables", "--load", path)
    assert result.stdout == wanted + "\n"
    assert wanted.count("\n") > 3
    arguments = ("walk", f"{calls[-1]:x}", "--load", path, "--for", "execute")
    assert pagewalk(*arguments, "--user").exit_code == 0  # its ecall
    assert pagewalk(*arguments, "--supervisor").exit_code == 1


def refused(result: Result) -> str:
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("pagewalk: ")
    return str(line)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("hello",), "PROGRAM and --load"),
        (("--paging", "sv39"), "--paging and --load"),
        (("--ram", "64M"), "--ram and --load"),
        (("--machine", "bare"), "--machine and --load"),
        (("--slab", "slob"), "--slab and --load"),
        (("--hart", "public"), "--hart and --load"),
    ],
)
def test_what_does_not_go_with_a_snapshot(
    pagewalk: Cli, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(pagewalk("tables", "--load", tmp_path / "x", *arguments))
    assert said in refused(pagewalk("walk", "0", *arguments, "--load", tmp_path / "x"))


def test_files_that_cannot_be_looked_at(pagewalk: Cli, tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert "No such file" in refused(pagewalk("tables", "--load", path))
    path.write_bytes(b"pagewalk" * 100)
    assert "version" in refused(pagewalk("tables", "--load", path))
    path.write_bytes(b"no snapshot")
    for command in (("walk", "0"), ("what", "0"), ("tables",)):
        assert "not a snapshot" in refused(pagewalk(*command, "--load", path))
    assert "regular file" in refused(pagewalk("tables", "--load", tmp_path))
    whole = like_linux("sv39").save(path).read_bytes()
    path.write_bytes(whole[:-100])
    assert "truncated" in refused(pagewalk("tables", "--load", path))
    path.write_bytes(whole[:-50] + bytes((whole[-50] ^ 1,)) + whole[-49:])
    assert "corrupt" in refused(pagewalk("tables", "--load", path))


def test_a_machine_without_translation(pagewalk: Cli, tmp_path: Path) -> None:
    it = like_linux("sv39")
    it.board.hart.set_satp(0)
    said = refused(pagewalk("tables", "--load", it.save(tmp_path / "x")))
    assert "translation is off (satp=0)" in said and f"pc {KERNEL:#x}, S-mode" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"satp": 5 << 60}, "MODE 5 is reserved"),
        ({"satp": -1}, "is no number of 64 bits"),
        ({"pc": "x"}, "is no number of 64 bits"),
        ({"priv": 2}, "no machine"),
        ({"mstatus": None}, "is no number of 64 bits"),
    ],
)
def test_states_that_are_none(
    pagewalk: Cli, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    """A file whose checksums are right, and what it says is not."""
    it = like_linux("sv39")
    path = it.save(tmp_path / "x")
    with snapshot_file.Reader(path) as reader:
        state = reader.state(lambda done, total: None, 1 << 20)
    state["harts"][0] |= change
    with path.open("wb") as file:
        snapshot_file.write(file, snapshot_view.Ram(16 << 20), state, lambda done, total: None)
    assert said in refused(pagewalk("tables", "--load", path))


def test_ram_that_the_host_has_not(pagewalk: Cli, tmp_path: Path) -> None:
    path = like_linux("sv39").save(tmp_path / "x")
    with snapshot_file.Reader(path) as reader:
        state = reader.state(lambda done, total: None, 1 << 20)
    for size in (1 << 62, 1 << 55, 4097, 0):
        state["ram"]["size"] = size
        with path.open("wb") as file:
            snapshot_file.write(file, snapshot_view.Ram(4096), state, lambda done, total: None)
        assert "no machine can be made of it" in refused(pagewalk("tables", "--load", path))


@pytest.mark.slow
def test_tables_that_point_to_themselves(pagewalk: Cli, tmp_path: Path) -> None:
    it = Machine("sv57")
    it.ram.array(ROOT, 512)[:] = ROOT >> 12 << 10 | V
    path = it.save(tmp_path / "x")
    for more in ((), ("--tree",), ("--json",), ("--tree", "--json")):
        assert "point to themselves" in refused(pagewalk("tables", "--load", path, *more))


def test_symbols_that_are_none(pagewalk: Cli, tmp_path: Path) -> None:
    path = like_linux("sv39").save(tmp_path / "x")
    bad = tmp_path / "bad"
    bad.write_text("hello\n")
    assert "not a line of symbols" in refused(
        pagewalk("walk", "0", "--load", path, "--symbols", bad)
    )
    bad.unlink()
    assert "No such file" in refused(pagewalk("tables", "--load", path, "--symbols", bad))
    assert "give --load" in refused(pagewalk("what", "0", "--symbols", bad))
