"""docs/tour.md says where something new goes: here it is put there, and works.

Each task is done in a copy of the rooms, in the files that its row names and in no others.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from guest import build

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("emu", "mm", "guest", "firmware", "pagewalk")
TOUR = (ROOT / "docs" / "tour.md").read_text()


@dataclass(frozen=True)
class Task:
    """``new``: files with their text; ``edits``: file -> (a text that is there, what it becomes).

    ``script`` is run in the copy, and must print "it works".
    """

    row: str
    script: str
    new: dict[str, str] = field(default_factory=dict)
    edits: dict[str, list[tuple[str, str]]] = field(default_factory=dict)


DEVICE = """
from emu.board.devices import saved

class Scratchpad(saved.Restorable):
    name, base, size, outside, word = "scratchpad", 0x5000_0000, 4096, (), 0

    def read(self, offset, size):
        return self.word

    def write(self, offset, size, value):
        self.word = value

    def state(self):
        return {"word": self.word}

    def prepare(self, state):
        word = saved.number(state, "word", 32)
        return lambda: setattr(self, "word", word)
"""
# sw a1, (a0); lw a2, (a0)
USES_DEVICE = """
from pagewalk import Machine
with Machine(ram="16M") as m:
    m.write(0x8000_0000, bytes.fromhex("2320b500" "03260500"))
    m.reg.a0, m.reg.a1 = 0x5000_0000, 0x1234
    m.step(2)
    assert m.reg.a2 == 0x1234
    m.save("pad.snap")
print("it works")
"""

RULE = '''

def _clock(kernel: Kernel) -> Iterator[Rule]:
    """The next ASID is an even one."""
    info = kernel.vmcoreinfo
    yield "asid_next", info.asid_next, info.asid_next & ~1
'''
# The first address space has ASID 1, and then the next is 2.
BREAKS_RULE = """
from pagewalk import Kernel, MmError
with Kernel(ram="32M") as kernel:
    try:
        kernel.check()
    except MmError as e:
        assert "asid_next is 0x1, it should be 0x0" in str(e), e
    else:
        raise AssertionError("the rule was not asked")
    kernel.run_program("hello")
    kernel.check()
print("it works")
"""

SYSTEM_CALL = '''
def getcpu(process: Process, cpu: int, node: int, *_: int) -> int:
    """There is one, and its number is 0."""
    for pointer in filter(None, (cpu, node)):
        process.kernel.copy_to_user(process.mm, pointer, bytes(4))
    return 0


TABLE: dict[int, SystemCall] = {
    Sys.GETCPU.value: getcpu,
'''
# getcpu(sp, NULL) over a word of ones, then exit(the result | the word).
CALLS_IT = """
from pathlib import Path
from pagewalk import Kernel
Path("cpu.S").write_text('''
.globl _start
_start: li t0, -1; sd t0, (sp); mv a0, sp; li a1, 0; li a7, 168; ecall
        lw t0, (sp); or a0, a0, t0; li a7, 93; ecall
''')
with Kernel(ram="32M") as kernel:
    stop = kernel.run_program("cpu.S")
    assert (stop.reason.value, stop.code) == ("exit", 0), stop
    kernel.check()
print("it works")
"""

# csrr a0, 0x7c0; csrw 0x7c0, a1; csrr a2, 0x7c0
READS_CSR = """
from pagewalk import Machine
for hart in ("auto", "public"):
    with Machine(ram="16M", hart=hart) as m:
        m.write(0x8000_0000, bytes.fromhex("7325007c" "7390057c" "7326007c"))
        m.reg.a1 = 7
        m.step(3)
        assert (m.reg.a0, m.reg.a2, m.csr.mlucky) == (42, 7, 7), (hart, m.reg)
print("it works")
"""
CSR = """
    lucky = {"is": 42}
    hart.added_csrs.add(
        CSR.MLUCKY, lambda: lucky["is"], lambda value: lucky.update({"is": value})
    )
"""

ALLOCATOR = '''
from mm.slab.slob import Slob

class Best(Slob):
    """SLOB under another name."""

    KIND = "best"
'''
ALLOCATES = """
from pagewalk import Kernel
with Kernel(ram="32M", slab="best") as kernel:
    assert kernel.mm.slab.KIND == "best"
    va = kernel.kmalloc(100)
    kernel.check()
    kernel.kfree(va)
    kernel.check()
print("it works")
"""

TASKS = [
    Task(
        "a device",
        USES_DEVICE,
        {"emu/board/devices/scratchpad.py": DEVICE},
        {
            "emu/board/virt.py": [
                (
                    "import Rtc\n",
                    "import Rtc\nfrom emu.board.devices.scratchpad import Scratchpad\n",
                ),
                ("for device in (self.clint, ", "for device in (Scratchpad(), self.clint, "),
            ]
        },
    ),
    Task(
        "a lint rule",
        BREAKS_RULE,
        edits={
            "mm/check/root.py": [
                ("*_slab_root(kernel),\n", "*_slab_root(kernel), *_clock(kernel),\n"),
                ("\n\ndef _layout(", f"{RULE}\n\ndef _layout("),
            ]
        },
    ),
    Task(
        "a system call",
        CALLS_IT,
        edits={
            "guest/kernel/abi.py": [("    GETCWD = 17\n", "    GETCWD = 17\n    GETCPU = 168\n")],
            "guest/kernel/syscalls.py": [("TABLE: dict[int, SystemCall] = {\n", SYSTEM_CALL)],
        },
    ),
    Task(
        "a CSR",
        READS_CSR,
        edits={
            "emu/spec/csr.py": [("CYCLE = 0xC00\n", "CYCLE = 0xC00\nMLUCKY = 0x7C0\n")],
            "emu/engine/csr_repairs.py": [
                ("    hart.added_csrs.add(CSR.TIME,", f"{CSR}\n    hart.added_csrs.add(CSR.TIME,")
            ],
        },
    ),
    Task(
        "a slab allocator",
        ALLOCATES,
        {"mm/slab/best.py": ALLOCATOR},
        {
            "mm/kernel.py": [
                ("import Slob\n", "import Slob\nfrom mm.slab.best import Best\n"),
                ("(Slub, Slab, Slob)\n", "(Slub, Slab, Slob, Best)\n"),
            ]
        },
    ),
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The rooms, to be changed."""
    for room in ROOMS:
        ignore = shutil.ignore_patterns("built", "__pycache__")
        shutil.copytree(ROOT / room, tmp_path / room, ignore=ignore)
    for built in ("guest/built", "emu/engine/built"):
        (tmp_path / built).symlink_to(ROOT / built)
    return tmp_path


def named_in_row(text: str) -> list[str]:
    (row,) = (line for line in TOUR.splitlines() if line.startswith(f"| {text}"))
    return [name for name in re.findall(r"`([^`]+)`", row) if "/" in name]


@pytest.mark.parametrize("task", TASKS, ids=[task.row for task in TASKS])
def test_what_is_added_where_the_tour_says_works(task: Task, copy: Path) -> None:
    named = named_in_row(task.row)
    touched = [*task.new, *task.edits]
    assert 1 <= len(touched) <= 2
    for path in touched:
        assert path in named or f"{Path(path).parent}/" in named, path
    assert all((ROOT / path).exists() for path in named)
    assert run(task.script, copy) != "it works\n"  # not yet
    for path, text in task.new.items():
        (copy / path).write_text(text)
    for path, changes in task.edits.items():
        text = (copy / path).read_text()
        for old, new in changes:
            assert text.count(old) == 1, (path, old)
            text = text.replace(old, new)
        (copy / path).write_text(text)
    assert run(task.script, copy) == "it works\n"


def run(script: str, folder: Path) -> str:
    """What a script prints, and where it fails the error."""
    if "cpu.S" in script and not build.have_compiler():
        pytest.skip("ziglang is not installed")
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


def test_every_file_of_the_table_is_there() -> None:
    for row in TOUR.splitlines():
        if row.startswith("| "):
            for name in re.findall(r"`([^`]+)`", row):
                assert "/" not in name or (ROOT / name).exists(), name


def test_the_map_of_the_rooms_shows_every_folder() -> None:
    """README's map names each folder of the rooms that holds Python, and each file that it names
    is there."""
    readme = (ROOT / "README.md").read_text()
    drawn = readme[readme.index("## The rooms") : readme.index("## Where to read on")]
    words = set(re.findall(r"[a-z_]+", drawn))
    for room in ROOMS:
        assert f"{room}/" in drawn
        if room in ("emu", "guest"):
            folders = {path.parent.name for path in (ROOT / room).glob("*/__init__.py")}
            assert folders <= words, folders - words
    rows = re.findall(r"^  \|([^|]+)\|..\|([^|]+)\|", drawn, re.M)
    named = re.findall(r"[a-z_]+(?=[,/ :]|$)", " ".join(mm.split(":")[0] for _, mm in rows))
    for name in set(named) - {"the", "whole"}:
        assert list((ROOT / "mm").glob(f"{name}*")), name
