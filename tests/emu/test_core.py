"""ELF cores: read back by pyelftools and by gdb, which know the format better than we do."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from asm import Batch, _zig
from elftools.elf.elffile import ELFFile
from harness import DATA, HOLE, RAM, RWX, SATP_MODE, A, Bench, D, R, Tables, U, V, W

from emu.debug import core
from emu.debug.core import CoreError
from emu.spec import words
from emu.stop import StopReason

RAM_SIZE = 16 << 20  # the bench's
PAGE = 4096
KERNEL_VA = 0xFFFF_FFC0_0000_0000  # the lowest VA of Sv39's upper half
PF_X, PF_W, PF_R = 1, 2, 4

batch = Batch()
FLOATS = batch(
    """
    li t0, 0x6000
    csrs mstatus, t0
    li t1, 0x3ff8000000000000
    fmv.d.x f10, t1
    csrwi fcsr, 0x11
    li a0, 0x1234
    wfi
    """
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "machine.core"


def loads(path: Path) -> list[tuple[int, int, int, int]]:
    """``(vaddr, paddr, size, flags)`` of each PT_LOAD, checked for what all must have."""
    found = []
    with open(path, "rb") as file:
        elf = ELFFile(file)
        assert (elf["e_type"], elf["e_machine"]) == ("ET_CORE", "EM_RISCV")
        assert elf.elfclass == 64 and elf.little_endian
        for segment in elf.iter_segments("PT_LOAD"):
            assert segment["p_filesz"] == segment["p_memsz"]
            assert segment["p_offset"] % PAGE == segment["p_vaddr"] % PAGE == 0
            assert segment["p_offset"] + segment["p_filesz"] <= path.stat().st_size
            found.append(tuple(segment[f"p_{k}"] for k in ("vaddr", "paddr", "memsz", "flags")))
    return found


def read(path: Path, va: int, size: int) -> bytes:
    """What the core has at ``va``."""
    with open(path, "rb") as file:
        for segment in ELFFile(file).iter_segments("PT_LOAD"):
            if segment["p_vaddr"] <= va < segment["p_vaddr"] + segment["p_memsz"]:
                file.seek(segment["p_offset"] + va - segment["p_vaddr"])
                return file.read(size)
    raise AssertionError(f"{va:#x} is in no range")


def notes(path: Path) -> dict[str, bytes]:
    with open(path, "rb") as file:
        segments = list(ELFFile(file).iter_segments("PT_NOTE"))
        assert len(segments) == 1
        # pyelftools decodes only x86's prstatus: the descriptors are read here.
        raw, found, at = segments[0].data(), {}, 0
        while at < len(raw):
            name_size, size, kind = struct.unpack_from("<III", raw, at)
            assert raw[at + 12 : at + 12 + name_size] == b"CORE\0"
            at += 12 + (name_size + 3 & ~3)
            found[{1: "NT_PRSTATUS", 2: "NT_FPREGSET"}[kind]] = raw[at : at + size]
            at += size + 3 & ~3
    return found


def test_registers(bench: Bench, path: Path) -> None:
    bench.run(FLOATS)
    for i in range(1, 32):
        bench.w[words.GPR + i] = 0x1111_1111_1111_1111 * (i % 16) ^ i
    core.write(bench.machine, path)
    found = notes(path)
    status, floats = found["NT_PRSTATUS"], found["NT_FPREGSET"]
    # struct elf_prstatus of a 64-bit Linux: 112 bytes, 32 registers, an int, padding
    assert len(status) == 376
    regs = struct.unpack_from("<32Q", status, 112)
    assert regs[0] == bench.hart.pc
    assert regs[1:] == tuple(0x1111_1111_1111_1111 * (i % 16) ^ i for i in range(1, 32))
    assert len(floats) == 33 * 8
    assert struct.unpack_from("<d", floats, 8 * 10)[0] == 1.5
    assert struct.unpack_from("<I", floats, 8 * 32)[0] == 0x11


def test_without_translation_it_is_all_of_ram(bench: Bench, path: Path) -> None:
    bench.ram.write(DATA, b"physical")
    bench.ram.write(RAM + RAM_SIZE - 8, b"the last")
    core.write(bench.machine, path)
    assert loads(path) == [(RAM, RAM, RAM_SIZE, PF_R | PF_W | PF_X)]
    assert read(path, DATA, 9) == b"physical\0"
    assert read(path, RAM + RAM_SIZE - 8, 8) == b"the last"
    assert path.stat().st_size == PAGE + RAM_SIZE
    # Holes cost nothing: the two pages, the vectors and the headers.
    assert path.stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_ranges_of_the_page_tables(bench: Bench, path: Path, levels: int) -> None:
    tables = Tables(bench.ram, levels)
    top = (1 << 64) - (1 << (11 + 9 * levels))  # the lowest VA of the upper half
    tables.map(0x1000, DATA)
    tables.map(0x2000, DATA + PAGE)  # merged with the one before
    tables.map(0x3000, DATA)  # the same frame again
    tables.map(0x4000, DATA + PAGE, V | R | A)  # other permissions: its own range
    tables.map(0x5000, DATA + 2 * PAGE, V | R | A | D)  # A, D and U do not matter
    tables.map(0x6000, DATA + 3 * PAGE, V | R | U)
    tables.map(top, RAM + 0x20_0000, V | R | W, level=1)
    bench.hart.set_satp(tables.satp)
    bench.w[words.PRIV] = 1
    for i in range(4):
        bench.ram.write(DATA + PAGE * i, b"frame %d" % i)
    bench.ram.write(RAM + 0x20_0000 + 0x1F_FFF0, b"end of 2 MiB")
    core.write(bench.machine, path)
    assert loads(path) == [
        (0x1000, DATA, 0x2000, 7),
        (0x3000, DATA, 0x1000, 7),
        (0x4000, DATA + PAGE, 0x3000, PF_R),
        (top, RAM + 0x20_0000, 0x20_0000, PF_R | PF_W),
    ]
    frames = [read(path, 0x1000 * i, 7) for i in range(1, 7)]
    assert frames == [b"frame %d" % i for i in (0, 1, 0, 1, 2, 3)]
    assert read(path, top + 0x1F_FFF0, 12) == b"end of 2 MiB"
    # Four frames and 2 MiB, the frames that are mapped twice only once.
    assert path.stat().st_size == PAGE + 4 * PAGE + 0x20_0000


def test_what_the_hart_would_not_use_is_left_out(bench: Bench, path: Path) -> None:
    tables = bench.translate()
    before = core.mappings(bench.machine, True)
    tables.map(0x1000, DATA, V | W)  # reserved
    tables.map(0x2000, DATA, RWX | 1 << 54)  # reserved
    tables.map(0x3000, DATA, RWX | 1 << 61)  # PBMT, which the hart has not
    tables.map(0x4000, DATA, RWX & ~V)
    tables.map(0x20_0000, DATA, RWX, level=1)  # a misaligned superpage
    tables.map(0x40_0000, 0x1000_0000, RWX, level=1)  # devices
    tables.map(0x60_0000, HOLE, RWX, level=1)
    assert core.mappings(bench.machine, True) == before
    assert before == [core.Mapping(RAM, RAM, 0x8000, 7)]


def test_superpages_cannot_make_it_larger_than_ram(bench: Bench, path: Path) -> None:
    """256 TiB of VA, all of it 512 GiB superpages of the first bytes of the PA space."""
    root = RAM + 0x10_0000
    bench.ram.array(root, 512)[:] = RWX  # PA 0: RAM is 16 MiB of it
    bench.hart.set_satp(SATP_MODE[4] << 60 | root >> 12)
    bench.w[words.PRIV] = 1
    core.write(bench.machine, path)
    found = loads(path)
    assert len(found) == 512
    assert {(pa, size) for _, pa, size, _ in found} == {(RAM, RAM_SIZE)}
    assert found[1][0] == (512 << 30) + RAM and found[-1][0] == (1 << 64) - (512 << 30) + RAM
    assert path.stat().st_size <= RAM_SIZE + 16 * PAGE
    assert path.stat().st_blocks * 512 < 1 << 20


@pytest.mark.slow
def test_endless_and_shredded_tables_are_refused(
    bench: Bench, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emu.spec.tables.ENTRIES_MAX", 1 << 18)  # 4 M take a while
    root = RAM + 0x10_0000
    bench.w[words.PRIV] = 1
    bench.hart.set_satp(SATP_MODE[4] << 60 | root >> 12)
    bench.ram.array(root, 512)[:] = root >> 12 << 10 | V  # each entry is the table itself
    with pytest.raises(CoreError, match="PTEs below PA 0x80100000"):
        core.write(bench.machine, path)
    # At the last level every second page of the same frame: nothing to merge.
    leaves = root + PAGE
    bench.ram.array(root, 512)[:] = leaves >> 12 << 10 | V
    bench.ram.array(leaves, 512)[:] = (leaves + PAGE) >> 12 << 10 | V
    bench.ram.array(leaves + PAGE, 512)[:] = (leaves + 2 * PAGE) >> 12 << 10 | V
    bench.ram.array(leaves + 2 * PAGE, 512)[:] = DATA >> 12 << 10 | RWX
    with pytest.raises(CoreError, match="more than 65534 ranges"):
        core.write(bench.machine, path)
    assert list(path.parent.iterdir()) == []
    core.write(bench.machine, path, translated=False)
    assert len(loads(path)) == 1


def test_translated_by_wish(bench: Bench, path: Path) -> None:
    bench.ram.write(DATA, b"x")
    with pytest.raises(CoreError, match="Bare"):
        core.write(bench.machine, path, translated=True)
    tables = Tables(bench.ram, 3)
    tables.map(0x7000, DATA)
    bench.hart.set_satp(tables.satp)
    core.write(bench.machine, path)  # in M-mode
    assert [va for va, *_ in loads(path)] == [RAM]
    core.write(bench.machine, path, translated=True)
    assert [va for va, *_ in loads(path)] == [0x7000]
    # Tables that map nothing.
    bench.hart.set_satp(Tables(bench.ram, 3, RAM + 0x30_0000).satp)
    core.write(bench.machine, path, translated=True)
    assert loads(path) == []


def test_paths_that_cannot_be(bench: Bench, tmp_path: Path) -> None:
    for bad in (tmp_path / "none" / "x", tmp_path, Path("/dev/null")):
        with pytest.raises(CoreError) as caught:
            core.write(bench.machine, bad)
        assert "\n" not in str(caught.value) and str(bad) in str(caught.value)


# gdb

GDB = shutil.which("gdb-multiarch") or shutil.which("riscv64-linux-gnu-gdb")
needs_gdb = pytest.mark.skipif(GDB is None, reason="no gdb for RISC-V (Debian: gdb-multiarch)")

LINKED_AT = 0x40_0000
PROGRAM = """
    volatile long table[4] = {11, 22, 33, 44};
    __attribute__((noinline)) long inner(long n) {
        table[n] = n * 1000;
        __asm__ volatile(".globl here\\nhere: wfi");
        return table[n] + 1;
    }
    __attribute__((noinline)) long middle(long n) { return inner(n + 1) + 5; }
    __attribute__((noinline)) long outer(long n) { return middle(n) + 7; }
    void start(void) { for (;;) outer(1); }
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    (folder / "p.c").write_text(PROGRAM)
    _zig(
        *("cc", "--target=riscv64-freestanding-none", "-mcpu=generic_rv64+m+a+f+d+c"),
        *("-mabi=lp64d", "-mcmodel=medany", "-g", "-O1", "-fno-sanitize=all", "-c"),
        *("-fno-optimize-sibling-calls", "-fno-omit-frame-pointer", "-o", "p.o", "p.c"),
        cwd=str(folder),
    )
    _zig(
        *("ld.lld", "-m", "elf64lriscv", "--no-relax", "-e", "start", f"-Ttext={LINKED_AT:#x}"),
        *("-o", "p.elf", "p.o"),
        cwd=str(folder),
    )
    return folder / "p.elf"


@pytest.fixture
def stopped(bench: Bench, program: Path) -> Iterator[Bench]:
    """The program at `here`, in S-mode; its pages stand in RAM in the opposite order."""
    tables = Tables(bench.ram, 3)
    top = RAM + 0x80_0000  # VA LINKED_AT is the page below
    with open(program, "rb") as file:
        elf = ELFFile(file)
        for segment in elf.iter_segments("PT_LOAD"):
            start = segment["p_vaddr"] - segment["p_vaddr"] % PAGE
            for va in range(start, segment["p_vaddr"] + segment["p_memsz"], PAGE):
                tables.map(va, top - PAGE - (va - LINKED_AT & 0xF000))
            for i, byte in enumerate(segment.data()):
                va = segment["p_vaddr"] + i
                bench.ram.write8(top - PAGE - (va - LINKED_AT & 0xF000) + va % PAGE, byte)
        entry = elf["e_entry"]
    stack = 0x7000_0000
    tables.map(stack - PAGE, RAM + 0x90_0000)
    bench.hart.set_satp(tables.satp)
    bench.hart.access.flush_code()
    stop = bench.run(pc=entry, priv=1, sp=stack - 16)
    assert stop.reason is StopReason.WFI
    yield bench


def gdb(*commands: str, program: Path | None, path: Path) -> str:
    arguments = [GDB or "", "-nx", "-batch"]
    if program is not None:
        arguments += ["-ex", f"file {program}"]
    for command in (f"core-file {path}", *commands):
        arguments += ["-ex", command]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert "rror" not in done.stderr and "annot" not in done.stderr, done.stderr
    return done.stdout


@needs_gdb
def test_gdb_shows_the_program(stopped: Bench, program: Path, path: Path) -> None:
    core.write(stopped.machine, path)
    text = gdb("bt", "p table", "p $a0", "x/i $pc - 4", "x/2gx $sp", program=program, path=path)
    frames = [line.split(" (")[0].split()[-1] for line in text.splitlines() if line[:1] == "#"]
    # The first once more: gdb shows where it is when it opens the core.
    assert frames == ["inner", "inner", "middle", "outer", "start"]
    assert "{11, 22, 2000, 44}" in text
    assert re.search(r"<inner\+\d+>:\twfi", text)
    assert f"{stopped.reg('sp'):#x}:" in text


@needs_gdb
def test_gdb_without_symbols(stopped: Bench, path: Path) -> None:
    """Registers, memory at VAs, code: the architecture is all in the core."""
    w = stopped.w
    w[words.GPR + 31] = 0xDEAD_BEEF_0000_1234
    w[words.FPR + 8] = 0x4004_0000_0000_0000  # 2.5
    core.write(stopped.machine, path)
    text = gdb(
        "p/x $t6", "p $fs0.double", "p/x $pc", "x/i $pc - 4", "x/gx $sp", program=None, path=path
    )
    assert "$1 = 0xdeadbeef00001234" in text
    assert "$2 = 2.5" in text
    assert f"$3 = {stopped.hart.pc:#x}" in text
    assert "\twfi" in text
    physical = RAM + 0x90_0000 - 0x7000_0000 + PAGE + stopped.reg("sp")
    assert f"{stopped.ram.read64(physical):#018x}" in text


@needs_gdb
def test_gdb_reads_zero_pages(bench: Bench, path: Path) -> None:
    bench.ram.write(DATA, b"x")
    core.write(bench.machine, path)
    text = gdb(f"x/gx {RAM + RAM_SIZE - 8:#x}", f"x/bx {DATA:#x}", program=None, path=path)
    assert f"{RAM + RAM_SIZE - 8:#x}:\t0x0000000000000000" in text
    assert f"{DATA:#x}:\t0x78" in text
