"""The tiny kernel: what its file holds, and what it does under QEMU and on our machine."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import Result
from progress import stopped_when_stuck

from emu.board.virt import VirtBoard
from emu.spec.csr import Priv
from emu.stop import Stop, StopReason
from firmware.enter import enter_supervisor
from firmware.sbi import EXT_DBCN, Sbi
from guest import build
from guest.image import elf as elf_file
from guest.image.elf import Elf
from guest.image.shipped import shipped

SOURCES = Path(build.HERE) / "supervisor" / "tiny"
PAGE = 4096
USER_BASE = 0x10_0000_0000
USER_STACK_TOP = USER_BASE + 0x10_0000
KERNEL_BASE = 0x8020_0000
RAM_SIZE = 16 << 20
QEMU = shutil.which("qemu-system-riscv64")
GDB = shutil.which("gdb-multiarch")
LINES_MAX = 500  # of the kernel: with more it is not read in one sitting


WHERE = ("real", "deterministic", "qemu")


# The machines


@dataclass
class Run:
    """What the kernel printed, and how it ended (no Stop under QEMU)."""

    text: str
    stop: Stop | None = None

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


def property_of(name_offset: int, value: bytes) -> bytes:
    return struct.pack(">III", 3, len(value), name_offset) + value + bytes(-len(value) % 4)


def device_tree(bootargs: str, timebase: int) -> bytes:
    """/{ NOP; cpus { timebase-frequency }; chosen { stdout-path, bootargs } }, DTSpec chapter 5."""
    strings = b"timebase-frequency\0bootargs\0stdout-path\0"
    tree = b"".join(
        (
            struct.pack(">III", 1, 0, 4),  # BEGIN_NODE "", NOP
            struct.pack(">I", 1) + b"cpus\0\0\0\0" + property_of(0, struct.pack(">I", timebase)),
            struct.pack(">II", 2, 1) + b"chosen\0\0" + property_of(28, b"/soc/uart\0"),
            property_of(19, bootargs.encode() + b"\0"),
            struct.pack(">III", 2, 2, 9),  # END_NODE twice, END
        )
    )
    at = 40 + 16  # behind the header and an empty reservation map
    size = at + len(tree) + len(strings)
    header = (0xD00DFEED, size, at, at + len(tree), 40, 17, 16, 0, len(strings), len(tree))
    return struct.pack(">10I", *header) + bytes(16) + tree + strings


class Board:
    """Our board with the kernel loaded and entered as an SBI firmware enters it."""

    def __init__(self, elf: Elf, where: str = "deterministic", fdt: bytes = b"") -> None:
        self.output = bytearray()
        self.machine = VirtBoard(RAM_SIZE, self.print, deterministic=where == "deterministic")
        hart, ram = self.machine.hart, self.machine.ram
        for segment in elf.loaded(ram.base, ram.end):
            ram.write(segment.pa, segment.data)
        fdt_pa = ram.end - PAGE if fdt else 0
        ram.write(fdt_pa or ram.base, fdt)
        self.sbi = Sbi(
            hart, ram, self.print, clock=self.machine.clock, code_changed=hart.code_changed
        )
        hart.handlers[Priv.M.value] = self.sbi.handle
        enter_supervisor(hart, elf.entry, dtb_pa=fdt_pa)
        self.stop_at: bytes | None = None

    def print(self, data: bytes) -> None:
        self.output += data
        if self.stop_at is not None and self.stop_at in self.output:
            self.machine.hart.end(Stop(StopReason.INTERRUPTED))

    def run(self) -> Run:
        # A kernel that does not end by itself fails the test, and does not hang it.
        with stopped_when_stuck(self.machine.hart, cpu_max=200):
            stop = self.machine.run()
        return Run(self.output.decode(), stop)


@pytest.fixture
def boards() -> Iterator[Callable[..., Board]]:
    """boards(elf, where, fdt) -> a Board, which is closed at the end."""
    made: list[Board] = []

    def make(*arguments: object) -> Board:
        made.append(Board(*arguments))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for board in made:
        board.machine.close()


def run_qemu(elf: Elf, bootargs: str) -> Run:
    if QEMU is None:
        pytest.skip("qemu-system-riscv64 is not installed")
    command = [QEMU, "-machine", "virt", "-kernel", elf.path, "-append", bootargs, "-nographic"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if "tiny:" not in done.stdout and done.returncode:
        pytest.skip(f"QEMU has no firmware of its own: {done.stderr.strip()}")
    text = done.stdout.replace("\r", "")
    return Run(text[text.index("tiny:") :])


@pytest.fixture
def boot(boards: Callable[..., Board]) -> Callable[..., Run]:
    """boot(elf, where, bootargs) -> the whole run, ended by the kernel itself."""

    def call(elf: Elf, where: str = "deterministic", bootargs: str = "") -> Run:
        if where == "qemu":
            return run_qemu(elf, bootargs)
        run = boards(elf, where, device_tree(bootargs, 10_000_000)).run()
        assert run.stop is not None and run.stop.reason is StopReason.EXIT, run.stop
        return run

    return call


# The kernel, and changed copies of it


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Elf:
    """The kernel, compiled from the sources as they are now."""
    folder = tmp_path_factory.mktemp("tiny")
    build.build_folder(build.SUPERVISOR, SOURCES, folder / "tiny.elf", folder)
    return elf_file.load(folder / "tiny.elf")


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Elf]:
    """changed({file: [(old, new), ...] or the whole text}) -> the ELF of such a kernel."""
    made: dict[str, Elf] = {}

    def make(changes: dict[str, list[tuple[str, str]] | str]) -> Elf:
        if repr(changes) not in made:
            made[repr(changes)] = compile_changed(changes)
        return made[repr(changes)]

    def compile_changed(changes: dict[str, list[tuple[str, str]] | str]) -> Elf:
        folder = tmp_path_factory.mktemp("changed")
        copy = folder / "copy"
        shutil.copytree(SOURCES, copy)
        for name, change in changes.items():
            text = change if isinstance(change, str) else (copy / name).read_text()
            for old, new in change if not isinstance(change, str) else ():
                assert text.count(old) == 1, (name, old)
                text = text.replace(old, new)
            (copy / name).write_text(text)
        build.build_folder(build.SUPERVISOR, copy, folder / "changed.elf", folder)
        return elf_file.load(folder / "changed.elf")

    return make


def extent(elf: Elf, name: str) -> range:
    [(va, size)] = [(va, size) for va, size, found in elf.symbols if found == name]
    return range(va, va + size)


def program(body: str) -> str:
    """user.c with another program: its call() and print(), then ``body``."""
    text = (SOURCES / "user.c").read_text()
    head, mark, _ = text.partition("/* Says whether")
    assert mark
    return head + body


# What is in the file


def test_segments(tiny: Elf) -> None:
    assert tiny.entry == KERNEL_BASE == tiny.start
    flags = [(s.readable, s.writable, s.executable) for s in tiny.segments]
    assert not any(writable and executable for _, writable, executable in flags)
    assert all(readable for readable, _, _ in flags)
    kernel = [s for s in tiny.segments if s.va < USER_BASE]
    user = [s for s in tiny.segments if s.va >= USER_BASE]
    assert len(kernel) == len(user) == 3  # text, rodata, data
    assert all(s.pa == s.va for s in kernel)
    assert [(s.writable, s.executable) for s in user] == [(0, 1), (0, 0), (1, 0)]
    assert user[0].va == USER_BASE
    offsets = {s.va - s.pa for s in user}
    assert len(offsets) == 1  # one image, page for page
    used = sorted((s.pa, s.pa + s.memory_size) for s in tiny.segments)
    for before, after in pairwise(used):
        # A page has one kind of contents, or the tables could not tell them apart.
        assert (before[1] - 1) // PAGE < after[0] // PAGE


def test_symbols(tiny: Elf) -> None:
    for name in ("_start", "kernel_main", "trap_entry", "trap", "resume", "schedule", "tasks"):
        assert KERNEL_BASE <= (tiny.symbol(name) or 0) < KERNEL_BASE + (1 << 20), name
    assert tiny.symbol("user_start") == USER_BASE
    assert len(extent(tiny, "pool")) == 64 * PAGE and extent(tiny, "pool").start % PAGE == 0
    # The guard page of the kernel's stack.
    start, end = tiny.symbol("bss_start"), tiny.symbol("data_end")
    assert start is not None and end is not None and start == end + PAGE


def test_debug_information(tiny: Elf) -> None:
    from elftools.elf.elffile import ELFFile

    with open(tiny.path, "rb") as file:
        information = ELFFile(file).get_dwarf_info()
        units = {}
        for unit in information.iter_CUs():
            top = unit.get_top_DIE()
            program = information.line_program_for_CU(unit)
            rows = [e.state for e in program.get_entries() if e.state is not None]
            units[top.get_full_path()] = len({row.line for row in rows})
            functions = [d for d in top.iter_children() if d.tag == "DW_TAG_subprogram"]
            if top.get_full_path().endswith(".c"):
                assert any("DW_AT_frame_base" in d.attributes for d in functions)
    names = {Path(name).name: lines for name, lines in units.items()}
    assert set(names) == {p.name for p in SOURCES.iterdir() if p.suffix in (".c", ".S")}
    assert min(names.values()) > 5
    assert not any(Path(name).is_absolute() for name in units)


def test_it_is_short() -> None:
    total = 0
    for path in sorted(SOURCES.iterdir()):
        text = path.read_text()
        comment = r"#.*" if path.suffix == ".S" else r"/\*.*?\*/"
        assert re.match(comment, text, re.DOTALL), f"{path.name} does not say what it is"
        assert max(map(len, text.splitlines())) <= 100, path.name
        code = re.sub(comment, "", text, flags=0 if path.suffix == ".S" else re.DOTALL)
        if path.suffix in (".c", ".S", ".h") and path.name != "user.c":
            total += sum(1 for line in code.splitlines() if line.strip())
    assert 0 < total <= LINES_MAX


# The build


def test_two_places_build_the_same_file(tiny: Elf, changed: Callable[..., Elf]) -> None:
    assert Path(changed({}).path).read_bytes() == Path(tiny.path).read_bytes()


def test_it_is_shipped(tiny: Elf) -> None:
    assert shipped()["tiny"].read_bytes() == Path(tiny.path).read_bytes()


def test_build_from_the_command_line(tiny: Elf, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "guest.build"]
    output = tmp_path / "out.elf"
    done = subprocess.run([*command, SOURCES, output], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert output.read_bytes() == Path(tiny.path).read_bytes()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no C or assembly file in it"),
        ({"a.c": ""}, "0 linker scripts (*.ld), one is needed"),
        ({"a.c": "", "a.ld": "", "b.ld": ""}, "2 linker scripts (*.ld), one is needed"),
        ({"a.c": "int a = ;", "a.ld": ""}, "expected expression"),
        (None, "no such folder"),
    ],
)
def test_folders_that_are_no_guest(
    files: dict[str, str] | None,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "folder"
    if files is not None:
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    assert build.main([str(folder), str(tmp_path / "out.elf")]) == 2
    assert message in capsys.readouterr().err


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["one"]) == 2
    assert capsys.readouterr().err == "usage: python -m guest.build [FOLDER OUTPUT]\n"


# What it does

PROGRESS = re.compile(r"task (\d): round (\d), count at (0x[0-9a-f]+) is (\d+)")
TASK = re.compile(r"tiny: task (\d+): (\d+) runs, (\d+) times preempted, (exited|killed)")
KILLED = re.compile(
    r"tiny: task (\d+) killed: (.*), scause (\d+), stval (0x[0-9a-f]+), sepc (0x[0-9a-f]+)"
)


def summary(run: Run) -> dict[int, tuple[int, str]]:
    """Checks the kernel's last lines; (times preempted, how it ended) by task."""
    first = re.match(r"tiny: hart 0, Sv39, time at 10000000 Hz, (\d+) pages free\n", run.text)
    totals = re.search(r"^tiny: (\d+) ticks, (\d+) switches$", run.text, re.MULTILINE)
    assert first is not None and totals is not None, run.text
    assert run.lines[-1] == f"tiny: {first[1]} pages free"  # all that tasks took came back
    ticks, switches = map(int, totals.groups())
    tasks = [m for line in run.lines if (m := TASK.fullmatch(line))]
    assert sum(int(m[2]) for m in tasks) == switches
    assert all(int(m[3]) <= int(m[2]) for m in tasks)
    assert sum(int(m[3]) for m in tasks) <= ticks
    return {int(m[1]): (int(m[3]), m[4]) for m in tasks}


def check_counters(run: Run, tiny: Elf) -> int:
    """The two tasks that count: each did its rounds, by turns; ticks since boot."""
    progress = [m for line in run.lines if (m := PROGRESS.fullmatch(line))]
    for number in ("0", "1"):
        mine = [m for m in progress if m[1] == number]
        assert [m[2] for m in mine] == ["1", "2", "3", "4", "5"]
        counts = [int(m[4]) for m in mine]
        assert counts[0] > 0 and counts == sorted(set(counts))
        assert f"tiny: task {number} exits with 0" in run.lines  # memory and register agree
    # One address, and yet each its own count, at the same time.
    assert {int(m[3], 16) for m in progress} == {extent(tiny, "count").start}
    order = "".join(m[1] for m in progress)
    assert order.index("1") < order.rindex("0") and order.index("0") < order.rindex("1")
    ticks = re.search(r"^tiny: (\d+) ticks", run.text, re.MULTILINE)
    assert ticks is not None
    return int(ticks[1])


@pytest.mark.parametrize("where", WHERE)
def test_two_tasks(boot: Callable[..., Run], tiny: Elf, where: str) -> None:
    run = boot(tiny, where)
    # Five rounds of four ticks, at the least.
    assert check_counters(run, tiny) >= 20
    ended = summary(run)
    assert set(ended) == {0, 1}
    assert all(preempted > 0 and how == "exited" for preempted, how in ended.values())
    assert "killed" not in run.text
    if run.stop is not None:
        assert (run.stop.code, run.stop.detail) == (0, "SBI system reset: shutdown")


@pytest.mark.parametrize("where", WHERE)
def test_a_bad_task_dies_alone(boot: Callable[..., Run], tiny: Elf, where: str) -> None:
    run = boot(tiny, where, "quiet bad")
    check_counters(run, tiny)
    ended = summary(run)
    assert [ended[n][1] for n in (0, 1, 2)] == ["exited", "exited", "killed"]
    [killed] = [m for line in run.lines if (m := KILLED.fullmatch(line))]
    assert killed.groups()[:4] == ("2", "store page fault", "15", "0x80200000")
    assert int(killed[5], 16) in extent(tiny, "bad")


def test_pagewalk_boot(pagewalk: Callable[..., Result], tiny: Elf) -> None:
    result = pagewalk("boot", "tiny", "--deterministic", "--append", "bad", "--json")
    story = json.loads(result.stdout)
    assert (result.exit_code, story["exit"], story["reason"]) == (0, 0, "exit")
    run = Run(story["console"])
    check_counters(run, tiny)
    assert [how for _, how in summary(run).values()] == ["exited", "exited", "killed"]


def test_the_deterministic_clock_repeats_it(boot: Callable[..., Run], tiny: Elf) -> None:
    assert boot(tiny, bootargs="bad") == boot(tiny, bootargs="bad")


def test_page_tables(boards: Callable[..., Board], tiny: Elf) -> None:
    """W^X, U, who shares what: of both tasks' tables, in the middle of a run."""
    board = boards(tiny)
    board.stop_at = b"task 1: round 1"
    run = board.run()
    assert run.stop is not None and run.stop.reason is StopReason.INTERRUPTED
    ram = board.machine.ram

    def leaves(table: int, level: int = 2, va: int = 0) -> Iterator[tuple[int, int]]:
        for i in range(512):
            pte = ram.read64(table + 8 * i)
            at = va + (i << 12 + 9 * level)
            if pte & 0xF == 1:
                assert level > 0 and pte >> 54 == 0 and not pte & 0xF0  # A, D, U, G: reserved
                yield from leaves(pte >> 10 << 12, level - 1, at)
            elif pte & 1:
                assert level == 0
                yield at, pte

    tasks = extent(tiny, "tasks")
    roots = [ram.read64(tasks.start + len(tasks) // 3 * n + 32 * 8) for n in (0, 1)]
    assert len(set(roots)) == 2
    assert board.machine.hart.satp == 8 << 60 | roots[1] >> 12  # Sv39, ASID 0, task 1
    spaces = [dict(leaves(root)) for root in roots]
    kernel = [{va: pte for va, pte in space.items() if va < USER_BASE} for space in spaces]
    user = [{va: pte for va, pte in space.items() if va >= USER_BASE} for space in spaces]
    assert kernel[0] == kernel[1]
    v, r, w, x, u = 1, 2, 4, 8, 16
    permissions = {va: pte & 0x1F for va, pte in kernel[0].items()}
    assert all(pte >> 10 << 12 == va for va, pte in kernel[0].items())
    for name, flags in (
        *(("kernel_main", v | r | x), ("trap_entry", v | r | x), ("exceptions", v | r)),
        *(("tasks", v | r | w), ("pool", v | r | w), ("current", v | r | w)),
    ):
        va = tiny.symbol(name)
        assert va is not None and permissions[va // PAGE * PAGE] == flags, name
    guard = tiny.symbol("data_end")
    assert guard is not None and guard not in permissions and guard + PAGE in permissions
    for space in user:
        assert {va: pte & 0x1F for va, pte in space.items()} == {
            USER_BASE: v | r | x | u,
            USER_BASE + PAGE: v | r | u,
            USER_BASE + 2 * PAGE: v | r | w | u,
            USER_STACK_TOP - PAGE: v | r | w | u,
        }
    for va in user[0]:  # what can be written is not shared
        assert (user[0][va] == user[1][va]) == (not user[0][va] & w)


# The program is another: what the kernel owes to any

# x1 to x30 hold (task + 1) << 32 plus their own number, while x31 counts down.
_ASSEMBLY = f"""
    .macro each operation
    .irp n,{",".join(map(str, range(2, 31)))}
    \\operation \\n
    .endr
    .endm
    .macro put n
    addi x\\n, x1, \\n - 1
    .endm
    .macro check n
    addi x31, x1, \\n - 1
    bne x31, x\\n, 2f
    .endm
    addi x1, a0, 1
    slli x1, x1, 32
    addi x1, x1, 1
    each put
    li x31, 30000000
1:  addi x31, x31, -1
    bnez x31, 1b
    each check
    addi x1, x1, -1
    srli a0, x1, 32
    addi a0, a0, 99
    j 3f
2:  sub a0, x31, x1                     # the register that is wrong
    addi a0, a0, 1
3:  li a7, 93
    ecall
"""
REGISTERS = f"""
__attribute__((section(".text.start"), naked, used)) void user_start(void)
{{
    __asm__({json.dumps(_ASSEMBLY)});
}}
"""


@pytest.mark.parametrize("where", WHERE)
def test_every_register_survives(
    boot: Callable[..., Run], changed: Callable[..., Elf], where: str
) -> None:
    run = boot(changed({"user.c": REGISTERS}), where)
    assert "tiny: task 0 exits with 100" in run.lines
    assert "tiny: task 1 exits with 101" in run.lines
    assert all(preempted > 0 for preempted, _ in summary(run).values())


CALLS = r"""
static char pages[2 * PAGE_SIZE] __attribute__((aligned(4096)));

__attribute__((section(".text.start"), noreturn, used)) void user_start(long number)
{
    long across = (long)pages + PAGE_SIZE - 3, top = USER_STACK_TOP - 4;
    for (int i = 0; number == 0 && i < 7; i++)
        ((char *)across)[i] = "across\n"[i];
    for (int i = 0; i < 4; i++)
        ((volatile char *)top)[i] = "top\n"[i];
    if (number == 0) {
        print("across: %ld\n", call(SYS_write, 1, across, 7));
        print("top: %ld\n", call(SYS_write, 1, top, 8));
        print("nothing: %ld\n", call(SYS_write, 1, 0, 0));
        print("null: %ld\n", call(SYS_write, 1, 0, 4));
        print("kernel: %ld\n", call(SYS_write, 1, 0x80200000, 4));
        print("other half: %ld\n", call(SYS_write, 1, across | 1l << 63, 4));
        print("bit 38: %ld\n", call(SYS_write, 1, across | 1l << 38, 4));
        print("bit 39: %ld\n", call(SYS_write, 1, across | 1l << 39, 4));
        print("wraps: %ld\n", call(SYS_write, 1, -1, 4));
        print("stderr: %ld\n", call(SYS_write, 2, across, 4));
        print("no call: %ld\n", call(1000, 0, 0, 0));
        print("call -1: %ld\n", call(-1, 0, 0, 0));
        print("yield: %ld\n", call(SYS_sched_yield, 0, 0, 0));
        print("%s%s\n", pages[0] ? "not " : "", "empty");
    }
    call(SYS_exit, -number, 0, 0);
    __builtin_unreachable();
}
"""


@pytest.mark.parametrize("where", WHERE)
def test_system_calls(boot: Callable[..., Run], changed: Callable[..., Elf], where: str) -> None:
    run = boot(changed({"user.c": program(CALLS)}), where)
    # Task 1 ends at the latest while task 0 yields.
    lines = [line for line in run.lines if line != "tiny: task 1 exits with -1"]
    assert len(lines) == len(run.lines) - 1
    assert lines[1:-4] == [
        *("across", "across: 7", "top", "top: 4", "nothing: 0", "null: -14", "kernel: -14"),
        *("other half: -14", "bit 38: -14", "bit 39: -14", "wraps: -14", "stderr: -9"),
        *("no call: -38", "call -1: -38", "yield: 0", "empty", "tiny: task 0 exits with 0"),
    ]
    summary(run)


FAULTS = r"""
static const int constant = 1;

__attribute__((section(".text.start"), noreturn, used)) void user_start(long number)
{
    volatile int here = 0x8067; /* ret: where data is executed, it goes on below */
    void (*stack)(void) = (void (*)(void))&here, (*kernel)(void) = (void (*)(void))0x80200000;
    switch (number) {
    case 0: *(volatile int *)USER_BASE = 1; break;
    case 1: *(volatile int *)&constant = 1; break;
    case 2: *(volatile int *)0; break;
    case 3: stack(); break;
    case 4: __asm__ volatile("csrr t0, sstatus"); break;
    case 5: __asm__ volatile("fmv.d.x f0, zero"); break;
    case 6: ((volatile char *)&here)[-4096] = 1; break;
    case 7: *(volatile int *)0x80200000; break;
    case 8: kernel(); break;
    case 9: __asm__ volatile("ebreak"); break;
    case 10: __asm__ volatile("sret"); break;
    }
    call(SYS_exit, 1, 0, 0);
    __builtin_unreachable();
}
"""
# scause (privileged specification, table of its values) and stval; None: not looked at.
CAUSES: list[tuple[int, int | None]] = [
    (15, USER_BASE), (15, None), (13, 0), (12, None), (2, None), (2, None), (15, None),
    (13, KERNEL_BASE), (12, KERNEL_BASE), (3, None), (2, None),
]  # fmt: skip


@pytest.mark.parametrize("where", WHERE)
def test_faults(boot: Callable[..., Run], changed: Callable[..., Elf], where: str) -> None:
    number = len(CAUSES)
    more = [("#define TASKS 3 ", f"#define TASKS {number + 1}")]
    run = boot(changed({"user.c": program(FAULTS), "tiny.h": more}), where)
    killed = {int(m[1]): m for line in run.lines if (m := KILLED.fullmatch(line))}
    assert sorted(killed) == list(range(number))
    for task, (cause, stval) in enumerate(CAUSES):
        found = killed[task]
        assert int(found[3]) == cause, found[0]
        assert stval is None or int(found[4], 16) == stval, found[0]
    assert all(how == "killed" for _, how in summary(run).values())
    page = range(USER_STACK_TOP - PAGE, USER_STACK_TOP)
    assert int(killed[3][4], 16) == int(killed[3][5], 16) and int(killed[3][4], 16) in page
    assert page.start - PAGE <= int(killed[6][4], 16) < page.start


# The kernel itself fails

PANICS = {
    "no page": ({"tiny.h": [("#define TASKS 3 ", "#define TASKS 20")]}, "out of pages"),
    "text": (
        {"kernel.c": [("    timer_start(hz);", "    *(volatile int *)kernel_main = 1;")]},
        "store page fault, scause 15, stval 0x8020",
    ),
    "user page": (
        {"kernel.c": [("    timer_start(hz);", "    schedule(); *(volatile int *)USER_BASE;")]},
        "load page fault, scause 13, stval 0x1000000000,",
    ),
    "device tree": (
        {"kernel.c": [("    timer_start(hz);", "    return (void)*(volatile int *)fdt;")]},
        "load page fault, scause 13, stval 0x80fff000,",
    ),
    "stack": (
        {
            "kernel.c": [
                ("    timer_start(hz);", "    deep(hz);"),
                (
                    "/* From start.S",
                    "static unsigned long deep(volatile unsigned long n)\n"
                    "{ return n + deep(n + 1) * n; }\n/* From start.S",
                ),
            ]
        },
        "store page fault, scause 15, stval 0x80",
    ),
}


@pytest.mark.parametrize("name", PANICS)
def test_panics(boot: Callable[..., Run], changed: Callable[..., Elf], name: str) -> None:
    changes, message = PANICS[name]
    elf = changed(changes)
    run = boot(elf)
    assert run.lines[-1].startswith(f"tiny: panic: {message}"), run.text
    assert run.text.count("panic") == 1
    assert run.stop is not None and run.stop.code == 1
    if name == "stack":
        guard = elf.symbol("data_end")
        found = re.search(r"stval (0x[0-9a-f]+)", run.text)
        assert guard is not None and found is not None
        assert guard <= int(found[1], 16) < guard + PAGE


def test_firmware_without_a_timer_or_debug_console(boards: Callable[..., Board], tiny: Elf) -> None:
    board = boards(tiny)
    del board.sbi.extensions[EXT_DBCN]  # the legacy console is left
    check_counters(board.run(), tiny)
    board = boards(tiny)
    del board.sbi.extensions[0x54494D45]
    run = board.run()
    assert run.lines[-1] == "tiny: panic: the firmware has no timer"
    assert run.stop is not None and run.stop.code == 1


# The device tree


def test_timebase_of_the_device_tree(boards: Callable[..., Board], tiny: Elf) -> None:
    board = boards(tiny, "deterministic", device_tree("", 0x01234567))
    assert board.run().lines[0].startswith("tiny: hart 0, Sv39, time at 19088743 Hz, ")


@pytest.mark.parametrize(
    "fdt", [b"", bytes(64), device_tree("bad", 5)[:-1].replace(b"\xd0", b"\xd1", 1)]
)
def test_no_device_tree(boards: Callable[..., Board], tiny: Elf, fdt: bytes) -> None:
    run = boards(tiny, "deterministic", fdt).run()
    assert set(summary(run)) == {0, 1}  # which also looks for the default, 10 MHz


# A debugger


@pytest.mark.skipif(QEMU is None or GDB is None, reason="needs qemu-system-riscv64, gdb-multiarch")
def test_gdb_at_source_level(tiny: Elf, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(
        "set pagination off\nset confirm off\n"
        f"target remote | exec {QEMU} -machine virt -kernel {tiny.path} -display none "
        "-serial null -monitor none -S -gdb stdio\n"
        "hbreak user_start\ncontinue\nbacktrace\nprint number\ndelete\n"
        "break vm_destroy\ncontinue\nbacktrace\nfinish\nprint current->number\nlist schedule\n"
        "kill\n"
    )
    done = subprocess.run(
        [str(GDB), "-q", "-nx", "-batch", "-d", str(SOURCES), "-x", str(script), tiny.path],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    text = done.stdout
    assert "user_start (number=0) at ./user.c" in text, text + done.stderr
    assert re.search(r"#1 .* in task_end \(state=2\) at ./task.c:\d+", text)
    assert re.search(r"#2 .* in system_call \(task=.* <tasks>\) at ./trap.c:\d+", text)
    assert re.search(r"#4 .* in trap_entry \(\) at ./entry.S:\d+", text)
    assert "$2 = 0" in text
    assert "struct frame *schedule(void)" in text  # the source was found
